//! What is not as it should be, by name.

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

impl Condition {
    /// A condition that degrades.
    #[must_use]
    pub fn degraded(name: &'static str, message: String) -> Self {
        Self {
            name,
            message,
            severity: Severity::Degraded,
        }
    }

    /// A condition that makes the process not ready.
    #[must_use]
    pub fn not_ready(name: &'static str, message: String) -> Self {
        Self {
            name,
            message,
            severity: Severity::NotReady,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}
