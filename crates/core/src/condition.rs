//! What is not as it should be, by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// How much a condition hurts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Something works less well, or not at all, for reasons outside this process's own path.
    Degraded,
    /// This node's own path can't be programmed.
    NotReady,
}

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Condition {
    /// Its name, in CamelCase, e.g. `CniInterfaceNotFound`.
    pub name: &'static str,
    /// What was looked for, what was seen, and what to do about it.
    pub message: String,
    /// How much it hurts.
    pub severity: Severity,
}

/// A text without control characters, which somebody else may have written into it: it is shown on terminals and in logs.
pub(crate) fn readable(mut text: String) -> String {
    text.retain(|c| !c.is_control());
    text
}

impl Condition {
    /// A condition that degrades.
    #[must_use]
    pub fn degraded(name: &'static str, message: String) -> Self {
        Self {
            name,
            message: readable(message),
            severity: Severity::Degraded,
        }
    }

    /// A condition that makes the process not ready.
    #[must_use]
    pub fn not_ready(name: &'static str, message: String) -> Self {
        Self {
            name,
            message: readable(message),
            severity: Severity::NotReady,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

/// All of them in a sentence each, as `statusFailure` has them; empty without any.
#[must_use]
pub fn text(conditions: &[Condition]) -> String {
    let all: Vec<String> = conditions.iter().map(ToString::to_string).collect();
    all.join("; ")
}

/// Conditions of one name as one: the worst severity, and all messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// How much it hurts.
    pub severity: Severity,
    /// What was seen.
    pub message: String,
}

/// All conditions that hold, by name.
#[must_use]
pub fn by_name(conditions: &[Condition]) -> BTreeMap<&'static str, Holding> {
    let mut all: BTreeMap<&'static str, Holding> = BTreeMap::new();
    for condition in conditions {
        let Condition {
            name,
            message,
            severity,
        } = condition;
        all.entry(name)
            .and_modify(|holding| {
                holding.severity = holding.severity.max(*severity);
                holding.message.push_str("; ");
                holding.message.push_str(message);
            })
            .or_insert_with(|| Holding {
                severity: *severity,
                message: message.clone(),
            });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_one_name_are_one_as_bad_as_the_worst() {
        let all = by_name(&[
            Condition::degraded("InvalidObject", "a".to_owned()),
            Condition::degraded("Other", "x".to_owned()),
            Condition::not_ready("InvalidObject", "b".to_owned()),
        ]);
        let expected = [
            ("InvalidObject", Severity::NotReady, "a; b"),
            ("Other", Severity::Degraded, "x"),
        ];
        let seen: Vec<_> = all
            .iter()
            .map(|(n, h)| (*n, h.severity, h.message.as_str()))
            .collect();
        assert_eq!(seen, expected);
    }
}
