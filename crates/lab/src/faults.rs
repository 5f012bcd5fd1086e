//! What is impaired in a lab: links by rules and relays, machines and processes by their supervisor.

pub(crate) mod link;
mod relay;
mod shape;
mod standing;

pub(crate) use link::Link;
pub use shape::{QUEUE, Shape};
pub(crate) use standing::Links;
pub use standing::{Fault, Impaired, Way};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Which way of a link, seen from what is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sides {
    /// What comes to it.
    In,
    /// What comes from it.
    Out,
    /// Both ways.
    Both,
}

impl Sides {
    fn contains(self, side: usize) -> bool {
        match self {
            Self::In => side == IN,
            Self::Out => side == OUT,
            Self::Both => true,
        }
    }
}

/// The place in a pair of what comes to a machine.
const IN: usize = 0;
/// The place in a pair of what comes from a machine.
const OUT: usize = 1;

/// What is done to a link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// Nothing passes any more; the cable stays where it is.
    Cut(Sides),
    /// What passes arrives late, or not faster than so; replaces what was slow before.
    Slow {
        /// Which way.
        sides: Sides,
        /// How much later, milliseconds each way.
        delay_ms: f64,
        /// By how much more or less at most, milliseconds.
        jitter_ms: f64,
        /// Mbit/s at most.
        rate_mbit: Option<f64>,
    },
    /// Some of what passes is lost; replaces what was lost before.
    Lose {
        /// Which way.
        sides: Sides,
        /// Of a hundred packets.
        percent: f64,
    },
}

impl Trouble {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// A sentence that names what is wrong and what was expected.
    pub fn check(&self) -> Result<()> {
        let within = |what: &str, number: f64, least: f64, most: f64| {
            ensure!(
                (least..=most).contains(&number),
                "{what} of {number}: expected {least} to {most}"
            );
            Ok(())
        };
        match *self {
            Self::Cut(_) => Ok(()),
            Self::Slow {
                delay_ms,
                jitter_ms,
                rate_mbit,
                ..
            } => {
                ensure!(
                    delay_ms > 0.0 || jitter_ms > 0.0 || rate_mbit.is_some(),
                    "how slow? expected a delay, a jitter or a rate"
                );
                within("a delay in ms", delay_ms, 0.0, 60_000.0)?;
                ensure!(
                    (0.0..=delay_ms).contains(&jitter_ms),
                    "a jitter of {jitter_ms} ms around a delay of {delay_ms} ms: expected 0 to the delay, as nothing arrives \
                     before it was sent"
                );
                rate_mbit.map_or(Ok(()), |rate| {
                    within("a rate in Mbit/s", rate, 0.01, 100_000.0)
                })
            }
            Self::Lose { percent, .. } => within("a loss in percent", percent, 0.0, 100.0),
        }
    }

    /// What becomes of the two ways of a link.
    fn apply(&self, ways: &mut [Way; 2]) {
        for (side, way) in ways.iter_mut().enumerate() {
            match *self {
                Self::Cut(sides) if sides.contains(side) => way.cut = true,
                Self::Slow {
                    sides,
                    delay_ms,
                    jitter_ms,
                    rate_mbit,
                } if sides.contains(side) => {
                    way.shape = Shape {
                        delay_ms,
                        jitter_ms,
                        rate_mbit,
                        ..way.shape
                    };
                }
                Self::Lose { sides, percent } if sides.contains(side) => {
                    way.shape.loss_percent = percent;
                }
                Self::Cut(_) | Self::Slow { .. } | Self::Lose { .. } => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Trouble = Trouble::Slow {
        sides: Sides::Out,
        delay_ms: 40.0,
        jitter_ms: 5.0,
        rate_mbit: Some(10.0),
    };

    #[test]
    fn troubles_of_one_link_add_up_each_its_own_way() {
        let mut ways = <[Way; 2]>::default();
        SLOW.apply(&mut ways);
        Trouble::Lose {
            sides: Sides::Both,
            percent: 20.0,
        }
        .apply(&mut ways);
        Trouble::Cut(Sides::In).apply(&mut ways);
        assert!(ways[IN].cut && !ways[OUT].cut);
        assert_eq!(
            ways.map(|way| way.to_string()),
            [
                "cut, 20 % lost",
                "40 ms late (5 more or less), at most 10 Mbit/s, 20 % lost"
            ]
        );
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_what_was_expected() {
        let error = |trouble: Trouble| trouble.check().unwrap_err().to_string();
        assert!(SLOW.check().is_ok());
        let slow = |delay_ms, jitter_ms, rate_mbit| Trouble::Slow {
            sides: Sides::Both,
            delay_ms,
            jitter_ms,
            rate_mbit,
        };
        assert!(error(slow(0.0, 0.0, None)).contains("expected a delay, a jitter or a rate"));
        assert!(error(slow(1.0, 2.0, None)).contains("expected 0 to the delay"));
        assert!(error(slow(-1.0, 0.0, Some(1.0))).contains("a delay in ms of -1"));
        assert!(error(slow(f64::NAN, 0.0, Some(1.0))).contains("expected 0 to 60000"));
        assert!(error(slow(0.0, 0.0, Some(0.0))).contains("a rate in Mbit/s of 0"));
        let lose = Trouble::Lose {
            sides: Sides::In,
            percent: 101.0,
        };
        assert_eq!(error(lose), "a loss in percent of 101: expected 0 to 100");
    }
}
