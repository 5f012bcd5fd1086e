//! What is not as it should be, by name.

use std::cmp::Reverse;
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

/// How many of the things that a condition is about are named, where it is shown.
const NAMED: usize = 10;
/// How many bytes of one message are shown. Some contain what others wrote.
const LONGEST: usize = 4096;

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Condition {
    /// Its name, in CamelCase, e.g. `CniInterfaceNotFound`.
    pub name: &'static str,
    /// What was looked for, what was seen, and what to do about it.
    pub message: String,
    /// How much it hurts.
    pub severity: Severity,
    /// Of how many things it tells.
    pub count: usize,
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
            count: 1,
        }
    }

    /// A condition that makes the process not ready.
    #[must_use]
    pub fn not_ready(name: &'static str, message: String) -> Self {
        Self {
            name,
            message: readable(message),
            severity: Severity::NotReady,
            count: 1,
        }
    }

    /// The same, that tells of so many things.
    #[must_use]
    pub fn of(self, count: usize) -> Self {
        Self { count, ..self }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

/// All of them in a sentence for each name, as `statusFailure` has them, the worst first; empty without any. As long as
/// [`by_name`] makes it.
#[must_use]
pub fn text(conditions: &[Condition]) -> String {
    let mut all: Vec<(&'static str, Holding)> = by_name(conditions).into_iter().collect();
    all.sort_by_key(|(_, holding)| Reverse(holding.severity));
    let all: Vec<String> = all
        .into_iter()
        .map(|(name, holding)| format!("{name}: {}", holding.message))
        .collect();
    all.join("; ")
}

/// The first few of what may be thousands, with `between` in between, and how many more there are.
#[must_use]
pub fn some<T: fmt::Display>(all: impl IntoIterator<Item = T>, between: &str) -> String {
    let mut all = all.into_iter();
    let named: Vec<String> = all
        .by_ref()
        .take(NAMED)
        .map(|one| one.to_string())
        .collect();
    let mut text = named.join(between);
    let more = all.count();
    if more > 0 {
        text.push_str(&format!("{between}and {more} more"));
    }
    text
}

/// Text of no more than so many bytes, with a sign where something is missing.
#[must_use]
pub fn cut(mut text: String, longest: usize) -> String {
    const SIGN: char = '…';
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest.saturating_sub(SIGN.len_utf8())));
        text.push(SIGN);
    }
    text
}

/// Conditions of one name as one: the worst severity, and the messages of the first few.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// How much it hurts.
    pub severity: Severity,
    /// What was seen: of ten things at most, the worst first, with at most 4 KiB of each.
    pub message: String,
    /// Of how many things the conditions tell.
    pub count: usize,
}

/// All conditions that hold, by name. There may be one for each of thousands of objects: what is shown stays short.
#[must_use]
pub fn by_name(conditions: &[Condition]) -> BTreeMap<&'static str, Holding> {
    let mut all: BTreeMap<&'static str, Vec<&Condition>> = BTreeMap::new();
    for condition in conditions {
        all.entry(condition.name).or_default().push(condition);
    }
    all.into_iter()
        .map(|(name, mut same)| {
            same.sort_by_key(|condition| Reverse(condition.severity));
            let messages = same.iter().map(|c| Shown(&c.message));
            let holding = Holding {
                severity: same.first().map_or(Severity::Degraded, |c| c.severity),
                message: some(messages, "; "),
                count: same.iter().map(|c| c.count).sum(),
            };
            (name, holding)
        })
        .collect()
}

struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= LONGEST {
            f.write_str(self.0)
        } else {
            f.write_str(&cut(self.0.to_owned(), LONGEST))
        }
    }
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
            ("InvalidObject", Severity::NotReady, "b; a"),
            ("Other", Severity::Degraded, "x"),
        ];
        let seen: Vec<_> = all
            .iter()
            .map(|(n, h)| (*n, h.severity, h.message.as_str()))
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn of_a_thousand_things_ten_are_named_and_all_are_counted() {
        let one = |n: usize| {
            let message = format!("the way to cluster c{n} does not work");
            Condition::degraded("RemoteUnreachable", message)
        };
        let mut all: Vec<Condition> = (0..1000).map(one).collect();
        all.push(Condition::not_ready("RemoteUnreachable", "the worst".to_owned()).of(3));
        let holding = &by_name(&all)["RemoteUnreachable"];
        assert_eq!(
            (holding.severity, holding.count),
            (Severity::NotReady, 1003)
        );
        assert!(
            holding
                .message
                .starts_with("the worst; the way to cluster c0 ")
        );
        assert!(
            holding.message.ends_with(" c8 does not work; and 991 more"),
            "{}",
            holding.message
        );
        assert!(text(&all).len() < 1000);
        let ten = by_name(&all[..10]);
        assert!(!ten["RemoteUnreachable"].message.contains("more"));
    }

    #[test]
    fn a_message_that_somebody_made_long_is_cut() {
        let long = Condition::degraded("InvalidObject", "é".repeat(1 << 20));
        let holding = &by_name(std::slice::from_ref(&long))["InvalidObject"];
        assert!(holding.message.len() <= LONGEST && holding.message.ends_with('…'));
        assert!(text(&vec![long; 1000]).len() < 11 * (LONGEST + 32));
    }
}
