//! Notes that nobody has taken yet, as while the API server is away.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Note;
use crate::Time;

/// The pause after the first failure; it doubles with each …
const SHORTEST: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST: Duration = Duration::from_secs(30);

/// The newest note about each condition, until it is told: so there are never more of them than conditions, however long nobody
/// listens.
#[derive(Debug, Default)]
pub struct Untold {
    notes: BTreeMap<&'static str, Note>,
    pause: Duration,
    next: Time,
}

impl Untold {
    /// To be told too; what was to be said of the same condition before is no news any more.
    pub fn add(&mut self, notes: impl IntoIterator<Item = Note>) {
        self.notes
            .extend(notes.into_iter().map(|note| (note.reason, note)));
    }

    /// What is to be told now.
    #[must_use]
    pub fn due(&self, now: Time) -> Vec<Note> {
        if now < self.next {
            return Vec::new();
        }
        self.notes.values().cloned().collect()
    }

    /// The note was told, or nobody will ever take it.
    pub fn done(&mut self, note: &Note) {
        if self.notes.get(note.reason) == Some(note) {
            self.notes.remove(note.reason);
        }
    }

    /// All that was due was tried: something of it could not be told, or all was.
    pub fn tried(&mut self, failed: bool, now: Time) {
        if failed {
            self.pause = (self.pause * 2).clamp(SHORTEST, LONGEST);
            self.next = now + self.pause;
        } else {
            self.pause = Duration::ZERO;
        }
    }

    /// When the rest is tried again.
    #[must_use]
    pub fn wake(&self) -> Option<Time> {
        (!self.notes.is_empty()).then_some(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(reason: &'static str, message: &str) -> Note {
        Note {
            reason,
            holds: true,
            message: message.to_owned(),
            at: Time::default(),
        }
    }

    fn at(ms: u64) -> Time {
        Time(Duration::from_millis(ms))
    }

    #[test]
    fn the_newest_note_about_each_condition_waits_until_it_is_told() {
        let mut untold = Untold::default();
        assert_eq!((untold.due(at(0)), untold.wake()), (vec![], None));
        untold.add([note("A", "one"), note("B", "b")]);
        assert_eq!(untold.due(at(0)).len(), 2);
        untold.done(&note("B", "b"));
        untold.tried(true, at(0));
        assert_eq!(untold.due(at(499)), []);
        assert_eq!(untold.wake(), Some(at(500)));
        // In an outage of an hour.
        let mut now = at(500);
        let mut pauses = Vec::new();
        while now < at(3_600_000) {
            untold.add([note("A", &format!("{now:?}"))]);
            assert_eq!(untold.due(now), [note("A", &format!("{now:?}"))]);
            untold.tried(true, now);
            let next = untold.wake().unwrap();
            pauses.push(next.0.saturating_sub(now.0));
            now = next;
        }
        assert_eq!(pauses[0], Duration::from_secs(1));
        assert_eq!(pauses.iter().max(), Some(&LONGEST));
        let last = untold.due(now);
        untold.done(&last[0]);
        untold.tried(false, now);
        assert_eq!(untold.wake(), None);
        // The next outage begins with the shortest pause.
        untold.add([note("A", "x")]);
        assert_eq!(untold.due(now).len(), 1);
        untold.tried(true, now);
        assert_eq!(untold.wake(), Some(now + SHORTEST));
    }

    #[test]
    fn what_became_news_while_the_old_was_told_is_still_to_be_told() {
        let mut untold = Untold::default();
        untold.add([note("A", "old")]);
        let due = untold.due(at(0));
        untold.add([note("A", "new")]);
        untold.done(&due[0]);
        assert_eq!(untold.due(at(0)), [note("A", "new")]);
    }
}
