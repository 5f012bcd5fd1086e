//! What a process says about itself: is its main loop alive, is its own path programmed, and what is not as it should be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Metrics;

/// Whether a process is ready, and its conditions. Clones share one state.
///
/// Not ready means: what this process is for does not work yet. Degraded means: it works, and somebody should look.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
    metrics: Metrics,
}

/// A copy of the state at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// Why the process is not ready; `None` once it is.
    pub not_ready: Option<String>,
    /// Message by condition, such as `VtepMismatch`; empty when all is well.
    pub degraded: BTreeMap<String, String>,
}

impl Readiness {
    /// Not ready, for `reason`, until told otherwise. Conditions are shown in `metrics` too.
    #[must_use]
    pub fn new(reason: impl Into<String>, metrics: &Metrics) -> Self {
        let state = State {
            not_ready: Some(reason.into()),
            degraded: BTreeMap::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            metrics: metrics.clone(),
        }
    }

    /// The process does what it is for.
    pub fn ready(&self) {
        if self.lock().not_ready.take().is_some() {
            tracing::info!("ready");
        }
    }

    /// The process does not do what it is for, yet or any more.
    pub fn not_ready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let mut state = self.lock();
        if state.not_ready.as_ref() != Some(&reason) {
            tracing::warn!(reason, "not ready");
            state.not_ready = Some(reason);
        }
    }

    /// A condition holds. Logged when it begins and when its message changes.
    pub fn degraded(&self, condition: impl Into<String>, message: impl Into<String>) {
        let (condition, message) = (condition.into(), message.into());
        let mut state = self.lock();
        if state.degraded.get(&condition) != Some(&message) {
            tracing::warn!(condition, message, "degraded");
            self.metrics.condition(&condition, true);
            state.degraded.insert(condition, message);
        }
    }

    /// A condition holds no longer.
    pub fn recovered(&self, condition: &str) {
        if self.lock().degraded.remove(condition).is_some() {
            tracing::info!(condition, "recovered");
            self.metrics.condition(condition, false);
        }
    }

    /// Exactly these conditions hold, message by condition, and no other: for a process that computes them all at once.
    pub fn conditions(&self, conditions: BTreeMap<String, String>) {
        let gone: Vec<String> = self
            .lock()
            .degraded
            .keys()
            .filter(|name| !conditions.contains_key(*name))
            .cloned()
            .collect();
        for condition in gone {
            self.recovered(&condition);
        }
        for (condition, message) in conditions {
            self.degraded(condition, message);
        }
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether a main loop still turns. Clones share one state.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    start: Instant,
    last: Arc<AtomicU64>,
    deadline: Duration,
}

impl Heartbeat {
    /// After how long without a beat a loop counts as stalled.
    pub const DEADLINE: Duration = Duration::from_secs(30);

    /// A heart that beats now, and stalls after `deadline` without another beat.
    #[must_use]
    pub fn new(deadline: Duration) -> Self {
        Self {
            start: Instant::now(),
            last: Arc::new(AtomicU64::new(0)),
            deadline,
        }
    }

    /// The loop turned.
    pub fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// For how long the loop has been stalled; `None` while it turns.
    #[must_use]
    pub fn stalled(&self) -> Option<Duration> {
        let since = self
            .start
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)));
        (since > self.deadline).then_some(since)
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new(Self::DEADLINE)
    }
}
