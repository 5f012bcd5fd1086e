//! Tells what is not as it should be: one text per condition, to [`Readiness`], which logs and counts what changes.

use std::collections::BTreeMap;

use strait_core::{Condition, Severity};

use crate::Readiness;

/// Tells `readiness` which conditions hold; those of one name become one.
pub fn report(readiness: &Readiness, conditions: &[Condition]) {
    let mut blocking = Vec::new();
    let mut degraded: BTreeMap<String, String> = BTreeMap::new();
    for condition in conditions {
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
    readiness.conditions(degraded);
    if blocking.is_empty() {
        readiness.ready();
    } else {
        readiness.not_ready(blocking.join("; "));
    }
}
