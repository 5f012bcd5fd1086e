//! Time as an argument.

use std::time::Duration;

/// Time since some fixed moment, for instance the start of the process; it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub Duration);

/// How long what was replaced is kept, and may still be used by whoever learns of that late: a node's old way to its gateway, and who
/// of a cluster's gateways has ended.
pub(crate) const OVERLAP: Duration = Duration::from_secs(5);

impl std::ops::Add<Duration> for Time {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}
