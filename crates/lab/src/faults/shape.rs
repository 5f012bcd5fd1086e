//! What a bad line does to each packet, as a pure function of time and chance.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a line does to what goes one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// How much later each packet arrives, milliseconds.
    pub delay_ms: f64,
    /// By how much more or less at most, evenly spread, milliseconds. Packets keep their order.
    pub jitter_ms: f64,
    /// Mbit/s at most; a queue of [`QUEUE`] stands before it.
    pub rate_mbit: Option<f64>,
    /// How many packets of a hundred are lost.
    pub loss_percent: f64,
}

impl Shape {
    /// Whether the line does nothing to packets.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    fn delay(&self, random: f64) -> Duration {
        let ms = self.delay_ms + self.jitter_ms * (2.0 * random - 1.0);
        Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default()
    }

    /// How long `bytes` take to be sent.
    fn sending(&self, bytes: usize) -> Duration {
        #[allow(
            clippy::cast_precision_loss,
            reason = "packets are shorter than 2^52 bytes"
        )]
        let bits = bytes as f64 * 8.0;
        let time = self
            .rate_mbit
            .map(|rate| Duration::try_from_secs_f64(bits / (rate * 1e6)).unwrap_or(Duration::MAX));
        time.unwrap_or_default()
    }
}

/// How long packets wait at most before a line of limited rate; one packet always may.
pub const QUEUE: Duration = Duration::from_millis(50);

/// One way of a line. Times are counted from any one moment.
#[derive(Debug, Default)]
pub(crate) struct Line {
    shape: Shape,
    /// When the line is free to send.
    free: Duration,
    /// When the last packet arrives.
    last: Duration,
}

impl Line {
    pub(crate) fn set(&mut self, shape: Shape) {
        self.shape = shape;
        // What was sent at the old rate does not hold up the new one.
        self.free = Duration::ZERO;
    }

    /// When a packet that comes at `now` arrives; `None` if it never does. `random` gives numbers from 0 up to 1.
    pub(crate) fn arrival(
        &mut self,
        now: Duration,
        bytes: usize,
        mut random: impl FnMut() -> f64,
    ) -> Option<Duration> {
        if random() * 100.0 < self.shape.loss_percent {
            return None;
        }
        let start = self.free.max(now);
        if start - now > QUEUE {
            return None;
        }
        let sent = start.saturating_add(self.shape.sending(bytes));
        self.free = sent;
        let due = sent
            .saturating_add(self.shape.delay(random()))
            .max(self.last);
        self.last = due;
        Some(due)
    }
}

/// Random numbers from 0 up to 1: splitmix64, good enough for dice.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        #[allow(clippy::cast_precision_loss, reason = "53 bits are left")]
        let number = (z >> 11) as f64;
        number / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn line(shape: Shape) -> Line {
        let mut line = Line::default();
        line.set(shape);
        line
    }

    #[test]
    fn a_plain_line_does_nothing() {
        let mut line = line(Shape::default());
        assert!(Shape::default().is_plain());
        for now in [0, 1, 1, 7] {
            assert_eq!(line.arrival(ms(now), 1500, || 0.0), Some(ms(now)));
        }
    }

    #[test]
    fn delays_vary_within_their_bounds_and_order_is_kept() {
        let mut line = line(Shape {
            delay_ms: 40.0,
            jitter_ms: 10.0,
            ..Shape::default()
        });
        let mut dice = Dice::new(1);
        let mut last = Duration::ZERO;
        let (mut least, mut most) = (ms(1000), ms(0));
        for now in 0..10_000 {
            // Far enough apart that none has to wait for the one before.
            let now = ms(now * 25);
            let due = line.arrival(now, 100, || dice.roll()).unwrap();
            assert!(due >= last);
            last = due;
            (least, most) = (least.min(due - now), most.max(due - now));
        }
        assert!(least >= ms(30) && least < ms(31), "{least:?}");
        assert!(most <= ms(50) && most > ms(49), "{most:?}");
        let early = line.arrival(ms(250_000), 100, || 1.0).unwrap();
        assert_eq!(line.arrival(ms(250_001), 100, || 0.0).unwrap(), early);
    }

    #[test]
    fn as_many_are_lost_as_was_said() {
        let mut line = line(Shape {
            loss_percent: 20.0,
            ..Shape::default()
        });
        let mut dice = Dice::new(2);
        let lost = (0..100_000)
            .filter(|_| line.arrival(ms(0), 100, || dice.roll()).is_none())
            .count();
        assert!((19_500..20_500).contains(&lost), "{lost}");
        line.set(Shape {
            loss_percent: 100.0,
            ..Shape::default()
        });
        assert!((0..1000).all(|_| line.arrival(ms(0), 100, || dice.roll()).is_none()));
    }

    #[test]
    fn a_rate_is_kept_and_what_is_too_much_is_dropped() {
        let mut line = line(Shape {
            rate_mbit: Some(8.0),
            ..Shape::default()
        });
        // 1000 bytes take a millisecond.
        let all: Vec<_> = (0..100)
            .filter_map(|_| line.arrival(ms(0), 1000, || 0.5))
            .collect();
        let wanted: Vec<_> = (1..=51).map(ms).collect();
        assert_eq!(all, wanted);
        assert_eq!(line.arrival(ms(10), 1000, || 0.5), Some(ms(52)));
        assert_eq!(line.arrival(ms(100), 1000, || 0.5), Some(ms(101)));
    }
}
