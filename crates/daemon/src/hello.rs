//! The direct watch between gateways and nodes: its settings, sockets, and the secret that they share.

mod secret;
mod socket;

use std::time::Duration;

pub use secret::{Finding, remove_secret, secrets};
pub use socket::Sockets;
use strait_core::hello::{Refusal, Timing};

use crate::settings::Noted;
use crate::{Metrics, Setting, Settings};

/// The settings that [`HelloSettings::read`] reads; they must be in the process's table.
pub static HELLO: [Setting; 3] = [
    Setting::new(
        "STRAIT_HELLO_PORT",
        "UDP port on which the gateways of a cluster, and its nodes, hear from each other; the same for all",
        "a port, 1 to 65535",
    )
    .default("4801"),
    Setting::new(
        "STRAIT_HELLO_INTERVAL_MS",
        "Milliseconds between two signs of life of a gateway",
        "a whole number, 10 to 10000",
    )
    .default("100"),
    Setting::new(
        "STRAIT_HELLO_MULTIPLIER",
        "After so many intervals of silence a gateway counts as gone",
        "a whole number, 2 to 50",
    )
    .default("3"),
];

/// How gateways and nodes hear from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloSettings {
    /// Where gateways listen.
    pub port: u16,
    /// How often they speak.
    pub timing: Timing,
}

impl HelloSettings {
    /// Reads the settings of [`HELLO`].
    ///
    /// # Errors
    /// [`Noted`] if any of them is wrong; all are read first.
    pub fn read(s: &mut Settings) -> Result<Self, Noted> {
        let port = s.port("STRAIT_HELLO_PORT");
        let interval = s.parse("STRAIT_HELLO_INTERVAL_MS", |text| {
            match text.parse::<u64>() {
                Ok(ms @ 10..=10_000) => Ok(Duration::from_millis(ms)),
                Ok(_) => Err("is out of range".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        let multiplier = s.parse("STRAIT_HELLO_MULTIPLIER", |text| match text.parse::<u8>() {
            Ok(times @ 2..=50) => Ok(times),
            Ok(_) => Err("is out of range".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        let (interval, multiplier) = (interval?, multiplier?);
        Ok(Self {
            port: port?,
            timing: Timing {
                interval,
                multiplier,
            },
        })
    }
}

/// A number that nobody can guess.
#[must_use]
pub fn random() -> u64 {
    crate::natt::random()
}

/// Counts datagrams that were dropped, as the mesh counts them, in the metrics.
#[derive(Debug)]
pub struct Dropped {
    metrics: Metrics,
    told: std::collections::BTreeMap<Refusal, u64>,
}

impl Dropped {
    /// Nothing was dropped yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            told: std::collections::BTreeMap::new(),
        }
    }

    /// All that were dropped so far.
    pub fn tell(&mut self, all: &std::collections::BTreeMap<Refusal, u64>) {
        for (why, count) in all {
            let told = self.told.entry(*why).or_default();
            for _ in *told..*count {
                self.metrics.error(kind(*why));
            }
            *told = *count;
        }
    }
}

/// As the metrics name it.
const fn kind(why: Refusal) -> &'static str {
    match why {
        Refusal::NotHello => "HelloNotHello",
        Refusal::Version => "HelloVersion",
        Refusal::UnknownKey => "HelloUnknownKey",
        Refusal::WrongSeal => "HelloWrongSeal",
        Refusal::Malformed => "HelloMalformed",
        Refusal::UnknownPeer => "HelloUnknownPeer",
        Refusal::Old => "HelloOld",
        Refusal::TooFar => "HelloTooFar",
    }
}
