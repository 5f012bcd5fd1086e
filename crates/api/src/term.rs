//! The order of gateways' turns.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When a gateway's turn began: of two that both carry traffic, the one with the newer term counts.
///
/// `lease` is the Lease's `leaseTransitions` as the holder wrote it: the API server gives each number to one gateway only.
/// `ballot` counts the turns since then that began without the API server, by hand-over or by the nodes' votes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Term {
    /// The Lease's transitions.
    pub lease: u64,
    /// Turns since then.
    pub ballot: u32,
}

impl Term {
    /// The next one that needs no API server.
    #[must_use]
    pub fn next_ballot(self) -> Self {
        Self {
            lease: self.lease,
            ballot: self.ballot.saturating_add(1),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.lease, self.ballot)
    }
}

impl FromStr for Term {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "is no term; expected two numbers, such as 3.0".to_owned();
        let (lease, ballot) = text.split_once('.').ok_or_else(bad)?;
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if !digits(lease) || !digits(ballot) {
            return Err(bad());
        }
        Ok(Self {
            lease: lease.parse().map_err(|_| bad())?,
            ballot: ballot.parse().map_err(|_| bad())?,
        })
    }
}
