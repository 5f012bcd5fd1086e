//! What a process says about itself: is its main loop alive, is its own path programmed, and what is not as it should be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use strait_core::{Holding, Severity};
use tokio::sync::watch;

use crate::Metrics;
use crate::holder::Pulse;

/// What holds, by name.
pub type Conditions = BTreeMap<&'static str, Holding>;

/// Whether a process is ready, and its conditions. Clones share one state.
///
/// Not ready means: what this process is for does not work yet. Degraded means: it works, and somebody should look.
#[derive(Debug, Clone)]
pub struct Readiness {
    known: watch::Sender<Known>,
    metrics: Metrics,
}

/// What is known of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Why nothing is known yet.
    starting: Option<String>,
    /// What holds.
    pub(crate) conditions: Conditions,
}

/// A copy of the state at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// Why the process is not ready; `None` once it is.
    pub not_ready: Option<String>,
    /// Message by condition, such as `VtepMismatch`; empty when all is well.
    pub degraded: BTreeMap<String, String>,
    /// Of how many things each condition tells; messages name the first few only.
    pub counts: BTreeMap<String, usize>,
}

impl Readiness {
    /// Not ready, for `reason`, until [`Readiness::conditions`]. Conditions are shown in `metrics` too.
    #[must_use]
    pub fn new(reason: impl Into<String>, metrics: &Metrics) -> Self {
        Self {
            known: watch::Sender::new(Known {
                starting: Some(reason.into()),
                conditions: Conditions::new(),
            }),
            metrics: metrics.clone(),
        }
    }

    /// Exactly these conditions hold, and no other. Logged when one begins, when its message changes and when it ends.
    pub fn conditions(&self, conditions: Conditions) {
        self.known.send_if_modified(|known| {
            if known.starting.is_none() && known.conditions == conditions {
                return false;
            }
            let was_ready = known.starting.is_none() && ready(&known.conditions);
            for name in known.conditions.keys() {
                if !conditions.contains_key(name) {
                    tracing::info!(condition = name, "recovered");
                    self.metrics.condition(name, 0);
                }
            }
            for (name, holding) in &conditions {
                if known.conditions.get(name) == Some(holding) {
                    continue;
                }
                let message = &holding.message;
                match holding.severity {
                    Severity::Degraded => tracing::warn!(condition = name, message, "degraded"),
                    Severity::NotReady => tracing::warn!(condition = name, message, "not ready"),
                }
                self.metrics.condition(name, holding.count);
            }
            if !was_ready && ready(&conditions) {
                tracing::info!("ready");
            }
            *known = Known {
                starting: None,
                conditions,
            };
            true
        });
    }

    /// What is known, as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        let known = self.known.borrow();
        let of = |severity| {
            known
                .conditions
                .iter()
                .filter(move |(_, holding)| holding.severity == severity)
        };
        let blocking: Vec<String> = of(Severity::NotReady)
            .map(|(name, holding)| format!("{name}: {}", holding.message))
            .collect();
        let blocking = (!blocking.is_empty()).then(|| blocking.join("; "));
        State {
            not_ready: known.starting.clone().or(blocking),
            degraded: of(Severity::Degraded)
                .map(|(name, holding)| ((*name).to_owned(), holding.message.clone()))
                .collect(),
            counts: (known.conditions.iter())
                .map(|(name, holding)| ((*name).to_owned(), holding.count))
                .collect(),
        }
    }
}

fn ready(conditions: &Conditions) -> bool {
    conditions
        .values()
        .all(|holding| holding.severity != Severity::NotReady)
}

/// Tells whether a loop still turns. Clones share one state.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    start: Instant,
    last: Arc<AtomicU64>,
    turns: Arc<AtomicU64>,
    deadline: Duration,
    pulse: Option<Pulse>,
    told: Arc<AtomicU64>,
}

/// How often a parent process is told at most, in milliseconds: it looks once a second.
const TELL: u64 = 500;

impl Heartbeat {
    /// After how long without a beat a loop counts as stalled.
    pub const DEADLINE: Duration = Duration::from_secs(30);

    /// A heart that beats now, and stalls after `deadline` without another beat.
    #[must_use]
    pub fn new(deadline: Duration) -> Self {
        Self {
            start: Instant::now(),
            last: Arc::new(AtomicU64::new(0)),
            turns: Arc::new(AtomicU64::new(0)),
            deadline,
            pulse: None,
            told: Arc::new(AtomicU64::new(0)),
        }
    }

    /// One that the process's parent is told of too, if there is such.
    #[must_use]
    pub fn felt(self, pulse: Option<Pulse>) -> Self {
        Self { pulse, ..self }
    }

    /// The loop turned. To be called by the loop itself, at least once a second.
    pub fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        let turns = self.turns.fetch_add(1, Ordering::Relaxed);
        if let Some(pulse) = &self.pulse
            && (turns == 0 || self.told.load(Ordering::Relaxed) + TELL <= now)
        {
            self.told.store(now, Ordering::Relaxed);
            pulse.tell();
        }
    }

    /// How often the loop has turned.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
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
