//! What to tell of conditions as they come and go, and when: as Kubernetes Events.

mod untold;

use std::collections::BTreeMap;
use std::time::Duration;

pub use untold::Untold;

use crate::condition::cut;
use crate::{Holding, Severity, Time};

/// The least time between two notes about one condition; it doubles with each …
const SHORTEST: Duration = Duration::from_secs(1);
/// … up to this, so that one that comes and goes all the time can't flood the API.
const LONGEST: Duration = Duration::from_secs(300);
/// A condition of which nothing was told for so long begins anew with the shortest.
const QUIET: Duration = Duration::from_secs(600);
/// Bytes that an Event's message may have (kubernetes `pkg/apis/core/validation`, `NoteLengthLimit`).
const LONGEST_MESSAGE: usize = 1024;

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The condition's name.
    pub reason: &'static str,
    /// Whether it holds; otherwise it has ended.
    pub holds: bool,
    /// For people, at most 1024 bytes.
    pub message: String,
    /// When it was so.
    pub at: Time,
}

/// What was told.
#[derive(Debug, Default)]
pub struct Book {
    told: BTreeMap<&'static str, Told>,
    paces: BTreeMap<&'static str, Pace>,
}

#[derive(Debug)]
struct Told {
    severity: Severity,
    message: String,
    since: Time,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    last: Time,
    gap: Duration,
}

impl Book {
    /// What is to be told now that these conditions hold, and when to ask again though nothing changes. What came and
    /// went between two times is not told.
    pub fn due(
        &mut self,
        now: Time,
        holding: &BTreeMap<&'static str, Holding>,
    ) -> (Vec<Note>, Option<Time>) {
        let mut notes = Vec::new();
        let mut wake: Option<Time> = None;
        let mut names: Vec<&'static str> =
            self.told.keys().chain(holding.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let holds = holding.get(name);
            if self.told.get(name).map(|t| t.severity) == holds.map(|h| h.severity) {
                // A later note is to say what was seen last.
                if let (Some(told), Some(holds)) = (self.told.get_mut(name), holds) {
                    told.message.clone_from(&holds.message);
                }
                continue;
            }
            if let Some(pace) = self.paces.get(name)
                && now < pace.last + pace.gap
            {
                let next = pace.last + pace.gap;
                wake = Some(wake.map_or(next, |wake| wake.min(next)));
                continue;
            }
            self.pace(name, now);
            let before = self.told.remove(name);
            let message = match (holds, &before) {
                (Some(holds), _) => match holds.severity {
                    Severity::Degraded => holds.message.clone(),
                    Severity::NotReady => format!("not ready: {}", holds.message),
                },
                (None, Some(before)) => format!(
                    "over after {} s; it was: {}",
                    now.0.saturating_sub(before.since.0).as_secs(),
                    before.message
                ),
                (None, None) => continue,
            };
            if let Some(holds) = holds {
                let told = Told {
                    severity: holds.severity,
                    message: holds.message.clone(),
                    since: before.map_or(now, |before| before.since),
                };
                self.told.insert(name, told);
            }
            notes.push(Note {
                reason: name,
                holds: holds.is_some(),
                message: cut(message, LONGEST_MESSAGE),
                at: now,
            });
        }
        (notes, wake)
    }

    fn pace(&mut self, name: &'static str, now: Time) {
        let gap = match self.paces.get(name) {
            Some(pace) if now < pace.last + QUIET => (pace.gap * 2).min(LONGEST),
            Some(_) | None => SHORTEST,
        };
        self.paces.insert(name, Pace { last: now, gap });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(all: &[(&'static str, Severity, &str)]) -> BTreeMap<&'static str, Holding> {
        all.iter()
            .map(|(name, severity, message)| {
                let (severity, message) = (*severity, (*message).to_owned());
                let count = 1;
                (
                    *name,
                    Holding {
                        severity,
                        message,
                        count,
                    },
                )
            })
            .collect()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_condition_is_told_when_it_begins_when_its_severity_changes_and_when_it_ends() {
        let (mut book, t) = (Book::default(), Time::default());
        let mut tell = |at: u64, all: &[(&'static str, Severity, &str)]| {
            let (notes, _) = book.due(t + seconds(at), &holding(all));
            let told = notes.into_iter().map(|n| (n.reason, n.holds, n.message));
            told.collect::<Vec<_>>()
        };
        let told = |name, holds, message: &str| vec![(name, holds, message.to_owned())];
        use Severity::{Degraded, NotReady};
        assert_eq!(tell(0, &[]), []);
        assert_eq!(tell(1, &[("A", Degraded, "one")]), told("A", true, "one"));
        assert_eq!(tell(20, &[("A", Degraded, "two")]), [], "only its message");
        assert_eq!(
            tell(40, &[("A", NotReady, "two")]),
            told("A", true, "not ready: two")
        );
        assert_eq!(
            tell(60, &[("B", Degraded, "b")]),
            [
                ("A", false, "over after 59 s; it was: two".to_owned()),
                ("B", true, "b".to_owned())
            ]
        );
        assert_eq!(tell(61, &[("B", Degraded, "b")]), []);
    }

    #[test]
    fn one_that_flaps_is_told_ever_more_seldom_and_the_truth_at_last() {
        let (mut book, t) = (Book::default(), Time::default());
        let on = holding(&[("A", Severity::Degraded, "x")]);
        let off = holding(&[]);
        let mut told = Vec::new();
        for step in 0..36_000 {
            let now = t + Duration::from_millis(100) * step;
            let all = if step % 2 == 0 { &on } else { &off };
            let (notes, wake) = book.due(now, all);
            told.extend(notes.into_iter().map(|n| n.holds));
            assert!(wake.is_none_or(|wake| wake > now));
        }
        assert!((8..=22).contains(&told.len()), "{} in an hour", told.len());
        // Each is other than the one before: what came and went in between is not told.
        assert!(told.windows(2).all(|two| two[0] != two[1]), "{told:?}");
        let end = t + seconds(3600);
        let last = if told.last() == Some(&true) {
            &off
        } else {
            &on
        };
        let (notes, wake) = book.due(end, last);
        assert!(notes.is_empty());
        let wake = wake.unwrap();
        assert!(wake <= end + LONGEST);
        assert_eq!(book.due(wake, last).0.len(), 1);
        assert_eq!(book.due(wake, last), (vec![], None));
        // After a long quiet it is told at once again.
        let later = wake + QUIET;
        let other = if last.is_empty() { &on } else { &off };
        assert_eq!(book.due(later, other).0.len(), 1);
        assert_eq!(book.due(later + SHORTEST, last).0.len(), 1);
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        for (text, expected) in [
            ("a".repeat(1024), 1024),
            ("a".repeat(1025), 1024),
            ("é".repeat(512), 1024),
            (format!("a{}", "é".repeat(512)), 1024),
            (format!("a{}", "é".repeat(5000)), 1024),
            ("é".repeat(5000), 1023),
            ("💥".repeat(300), 1023),
        ] {
            let short = cut(text.clone(), LONGEST_MESSAGE);
            assert_eq!(short.len(), expected, "{text}");
            let kept = short.trim_end_matches('…');
            assert!(text.starts_with(kept) && (kept.len() >= 1018 || short == text));
        }
    }
}
