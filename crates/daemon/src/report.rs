//! Tells what is not as it should be, once, when it changes: to the log, `/readyz` and `/metrics`.

use std::collections::BTreeMap;

use strait_core::{Condition, Severity};

use crate::Readiness;

/// Remembers what was told.
#[derive(Debug)]
pub struct Reporter {
    readiness: Readiness,
    told: BTreeMap<&'static str, String>,
    begun: bool,
}

impl Reporter {
    /// Nothing was told yet.
    #[must_use]
    pub fn new(readiness: Readiness) -> Self {
        Self {
            readiness,
            told: BTreeMap::new(),
            begun: false,
        }
    }

    /// Tells what is new: one line for each condition that appears, changes or goes.
    pub fn report(&mut self, conditions: &[Condition]) {
        let mut now: BTreeMap<&'static str, String> = BTreeMap::new();
        let mut blocking = Vec::new();
        let mut degraded: BTreeMap<String, String> = BTreeMap::new();
        for condition in conditions {
            let text = now.entry(condition.name).or_default();
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(&condition.message);
            match condition.severity {
                Severity::NotReady => blocking.push(condition.to_string()),
                Severity::Degraded => {
                    let text = degraded.entry(condition.name.to_owned()).or_default();
                    if !text.is_empty() {
                        text.push_str("; ");
                    }
                    text.push_str(&condition.message);
                }
            }
        }
        for (name, message) in &now {
            if self.told.get(name) != Some(message) {
                tracing::warn!(condition = name, "{message}");
            }
        }
        for name in self.told.keys().filter(|name| !now.contains_key(*name)) {
            tracing::info!(condition = name, "no longer so");
        }
        self.told = now;
        self.readiness.conditions(degraded);
        if blocking.is_empty() {
            if !self.begun {
                tracing::info!("ready");
                self.begun = true;
            }
            self.readiness.ready();
        } else {
            self.begun = false;
            self.readiness.not_ready(blocking.join("; "));
        }
    }
}
