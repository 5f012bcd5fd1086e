//! Statistics of round-trip times.

use std::collections::VecDeque;
use std::time::Duration;

use strait_api::gateway::{LatencyRtt, go_duration};

/// How many round-trip times count where there is one a second (upstream `pinger/statistics.go`).
const MOST: usize = 1000;
/// How many count where they are further apart: of thousands of targets that nodes ping once a minute, a thousand each would in the end
/// be more than all else that a node keeps.
const FEWEST: usize = 100;

/// Statistics of round-trip times, with the resolution of 1 ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtt {
    /// The newest.
    pub last: Duration,
    /// The shortest.
    pub min: Duration,
    /// The arithmetic mean.
    pub average: Duration,
    /// The longest.
    pub max: Duration,
    /// The standard deviation of the population.
    pub std_dev: Duration,
}

impl Rtt {
    /// As Gateways and RouteAgents have it.
    #[must_use]
    pub fn text(&self) -> LatencyRtt {
        LatencyRtt {
            last: go_duration(self.last),
            min: go_duration(self.min),
            average: go_duration(self.average),
            max: go_duration(self.max),
            std_dev: go_duration(self.std_dev),
        }
    }
}

/// The last round-trip times of a target, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    times: VecDeque<u64>,
    most: usize,
}

impl Window {
    /// For pings at this interval.
    pub(super) fn new(interval: Duration) -> Self {
        let seconds = usize::try_from(interval.as_secs()).unwrap_or(usize::MAX);
        Self {
            times: VecDeque::new(),
            most: (MOST / seconds.max(1)).max(FEWEST),
        }
    }

    pub(super) fn add(&mut self, rtt: Duration) {
        if self.times.len() == self.most {
            self.times.pop_front();
        }
        self.times
            .push_back(u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX));
    }

    /// `None` while there is none.
    pub(super) fn rtt(&self) -> Option<Rtt> {
        let times = || self.times.iter();
        let (last, min, max) = (self.times.back()?, times().min()?, times().max()?);
        let count = self.times.len() as u128;
        let average = times().map(|ns| u128::from(*ns)).sum::<u128>() / count;
        // Squares of distances from a mean below 2^64, 1000 of them: less than 2^138, so saturating matters in theory only.
        let squares = times().fold(0u128, |sum, ns| {
            let distance = u128::from(*ns).abs_diff(average);
            sum.saturating_add(distance.saturating_mul(distance))
        });
        let duration = |ns: u128| Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
        Some(Rtt {
            last: Duration::from_nanos(*last),
            min: Duration::from_nanos(*min),
            average: duration(average),
            max: Duration::from_nanos(*max),
            std_dev: duration((squares / count).isqrt()),
        })
    }
}
