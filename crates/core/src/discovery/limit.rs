//! How much is answered to whom: an answer costs work, and goes where the request says that it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::Time;

/// Answers to one address at once.
const BURST: u32 = 20;
/// The time after which there is one more.
const REFILL: Duration = Duration::from_millis(200);
/// Strangers that are told apart; more than so many are not answered until the first of them have been silent for a while.
const STRANGERS: usize = 512;

/// Answers that each address may have yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Where peers are known to be: always told apart.
    known: BTreeMap<IpAddr, Bucket>,
    strangers: BTreeMap<IpAddr, Bucket>,
}

impl Limits {
    /// Peers are at these addresses.
    pub(super) fn know(&mut self, peers: &BTreeSet<IpAddr>) {
        self.known.retain(|ip, _| peers.contains(ip));
        for ip in peers {
            self.known.entry(*ip).or_default();
        }
    }

    /// Whether this address may have an answer now.
    pub(super) fn take(&mut self, from: IpAddr, now: Time) -> bool {
        if let Some(bucket) = self.known.get_mut(&from) {
            return bucket.take(now);
        }
        if !self.strangers.contains_key(&from) && self.strangers.len() >= STRANGERS {
            self.strangers.retain(|_, bucket| bucket.empty_until > now);
            if self.strangers.len() >= STRANGERS {
                return false;
            }
        }
        self.strangers.entry(from).or_default().take(now)
    }
}

/// A bucket that is full when nothing was taken for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Bucket {
    /// When it is full again.
    empty_until: Time,
}

impl Bucket {
    fn take(&mut self, now: Time) -> bool {
        let filled = self.empty_until.max(now) + REFILL;
        if filled > now + REFILL.saturating_mul(BURST) {
            return false;
        }
        self.empty_until = filled;
        true
    }
}
