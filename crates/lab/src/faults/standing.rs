//! What is impaired now.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::link::Link;
use super::relay::Relay;
use super::{IN, OUT, Shape, Trouble};
use crate::clock;
use crate::netns;
use crate::process::Role;

/// One way of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// Nothing passes.
    pub cut: bool,
    /// What becomes of what passes.
    #[serde(flatten)]
    pub shape: Shape,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = &self.shape;
        let mut texts = Vec::new();
        if self.cut {
            texts.push("cut".to_owned());
        }
        if shape.delay_ms > 0.0 {
            let mut text = format!("{} ms late", shape.delay_ms);
            if shape.jitter_ms > 0.0 {
                write!(text, " ({} more or less)", shape.jitter_ms)?;
            }
            texts.push(text);
        }
        if let Some(rate) = shape.rate_mbit {
            texts.push(format!("at most {rate} Mbit/s"));
        }
        if shape.loss_percent > 0.0 {
            texts.push(format!("{} % lost", shape.loss_percent));
        }
        f.write_str(&texts.join(", "))
    }
}

/// What is wrong with something.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// A node without power: no processes, no links.
    Off,
    /// A process that was killed.
    Killed,
    /// A process that stands still.
    Stopped,
    /// A node's wall clock.
    Clock {
        /// By how many seconds it goes before the machine's; behind it, if negative.
        ahead_s: i64,
    },
    /// A link.
    Link {
        /// What comes to it.
        to_it: Way,
        /// What comes from it.
        from_it: Way,
    },
}

/// Something that is impaired on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Impaired {
    /// A node, a pod, an API server's machine, or a cluster's WAN.
    pub what: String,
    /// The process, where it is not the whole machine or the link.
    pub process: Option<Role>,
    /// What is wrong.
    #[serde(flatten)]
    pub fault: Fault,
}

impl fmt::Display for Impaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(process) = self.process {
            write!(f, " {process}")?;
        }
        match &self.fault {
            Fault::Off => f.write_str(": off"),
            Fault::Killed => f.write_str(": killed"),
            Fault::Stopped => f.write_str(": stopped"),
            Fault::Clock { ahead_s } => write!(f, ": {}", clock::text(*ahead_s)),
            Fault::Link { to_it, from_it } if to_it == from_it => {
                write!(f, ": both ways {to_it}")
            }
            Fault::Link { to_it, from_it } => {
                let texts = [("to it", to_it), ("from it", from_it)]
                    .into_iter()
                    .filter(|(_, way)| **way != Way::default())
                    .map(|(side, way)| format!("{side} {way}"));
                write!(f, ": {}", texts.collect::<Vec<_>>().join("; "))
            }
        }
    }
}

#[derive(Debug)]
struct Standing {
    link: Link,
    ways: [Way; 2],
    /// The name of the relay's port, whether it is there or not.
    port: String,
    relay: Option<Relay>,
}

/// The links that are impaired.
#[derive(Debug, Default)]
pub(crate) struct Links {
    standing: BTreeMap<String, Standing>,
    /// How many there were.
    ports: u32,
}

impl Links {
    /// Impairs a link.
    pub(crate) fn change(&mut self, link: Link, trouble: &Trouble) -> Result<()> {
        let (what, at) = (link.what.clone(), link.at.clone());
        let ports = &mut self.ports;
        let standing = self.standing.entry(what.clone()).or_insert_with(|| {
            *ports += 1;
            Standing {
                link,
                ways: Default::default(),
                port: format!("relay{ports}"),
                relay: None,
            }
        });
        trouble.apply(&mut standing.ways);
        // A cut holds for the port and for the relay's: whichever is there, nothing slips through.
        self.filter(&at)?;
        self.attach(&what)
    }

    /// Mends a link, if it is impaired.
    pub(crate) fn heal(&mut self, what: &str) -> Result<()> {
        let Some(standing) = self.standing.remove(what) else {
            return Ok(());
        };
        let ended = standing.relay.map_or(Ok(()), Relay::end);
        self.filter(&standing.link.at).and(ended)
    }

    /// Mends all of them.
    pub(crate) fn heal_all(&mut self) -> Result<()> {
        let names: Vec<String> = self.standing.keys().cloned().collect();
        let healed: Vec<Result<()>> = names.iter().map(|name| self.heal(name)).collect();
        healed.into_iter().collect()
    }

    /// Takes away what is at a port that is about to go.
    pub(crate) fn detach(&mut self, what: &str) -> Result<()> {
        let standing = self.standing.get_mut(what);
        standing
            .and_then(|standing| standing.relay.take())
            .map_or(Ok(()), Relay::end)
    }

    /// Sees to it that a relay is there as long as it has something to do; after [`Links::detach`], at a port that is new.
    pub(crate) fn attach(&mut self, what: &str) -> Result<()> {
        self.standing.get_mut(what).map_or(Ok(()), relay)
    }

    pub(crate) fn impaired(&self) -> impl Iterator<Item = Impaired> {
        self.standing.values().map(|standing| Impaired {
            what: standing.link.what.clone(),
            process: None,
            fault: Fault::Link {
                to_it: standing.ways[IN],
                from_it: standing.ways[OUT],
            },
        })
    }

    /// The rules at the bridges of a place, all in one transaction.
    fn filter(&self, at: &str) -> Result<()> {
        let mut rules = String::new();
        for standing in self.standing.values().filter(|it| it.link.at == at) {
            let (port, relay) = (&standing.link.port, &standing.port);
            for (side, word) in [(IN, "oifname"), (OUT, "iifname")] {
                if standing.ways[side].cut {
                    // Writing to a string does not fail.
                    let _ = writeln!(rules, "    {word} {{ \"{port}\", \"{relay}\" }} drop");
                }
            }
        }
        let table = "table bridge lab-faults";
        let mut script = format!("{table} {{}}\ndelete {table}\n");
        // What has nothing to drop would still be asked about each frame.
        if !rules.is_empty() {
            let hook = "type filter hook forward priority -200; policy accept;";
            let _ = writeln!(
                script,
                "{table} {{\n  chain forward {{\n    {hook}\n{rules}  }}\n}}"
            );
        }
        netns::nft(at, &script)
    }
}

fn relay(standing: &mut Standing) -> Result<()> {
    let shapes = standing.ways.map(|way| way.shape);
    let plain = shapes.iter().all(Shape::is_plain);
    match standing.relay.take() {
        Some(relay) if plain => relay.end(),
        Some(relay) => {
            relay.set(shapes);
            standing.relay = Some(relay);
            Ok(())
        }
        None if plain || !standing.link.is_there()? => Ok(()),
        None => {
            standing.relay = Some(Relay::new(&standing.link, &standing.port, shapes)?);
            Ok(())
        }
    }
}
