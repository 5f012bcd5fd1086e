//! A watched collection of objects, as it is known so far.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Time;

/// How long a source that went from many objects to none is held.
const HOLD: Duration = Duration::from_secs(30);

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// The complete list.
    Reset(BTreeMap<String, Result<T, String>>),
    /// An object was made or changed; `Err` says why it can't be used.
    Applied(String, Result<T, String>),
    /// An object was removed.
    Deleted(String),
    /// The watch does not work at present.
    Failed(String),
    /// It works again, and goes on where it ended.
    Resumed,
    /// The server does not know this kind: there are no objects, and none can be made.
    Absent,
}

/// A collection of objects by name: unknown until its first complete list.
///
/// A source that goes from more than one object to none in one list is more often a fault than the truth:
/// it is held for 30 s, and named meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source<T> {
    known: Option<BTreeMap<String, Result<T, String>>>,
    held_until: Option<Time>,
    failure: Option<String>,
    absent: bool,
}

impl<T> Default for Source<T> {
    fn default() -> Self {
        Self {
            known: None,
            held_until: None,
            failure: None,
            absent: false,
        }
    }
}

impl<T> Source<T> {
    /// Folds an event in.
    pub fn apply(&mut self, event: Event<T>, now: Time) {
        match event {
            Event::Failed(why) => {
                self.failure = Some(why);
                return;
            }
            Event::Resumed => {
                self.failure = None;
                return;
            }
            Event::Absent => {
                self.known = Some(BTreeMap::new());
                self.held_until = None;
                self.failure = None;
                self.absent = true;
                return;
            }
            Event::Reset(list) => {
                let many = self.known.as_ref().is_some_and(|k| k.len() > 1);
                if list.is_empty() && many {
                    self.held_until.get_or_insert(now + HOLD);
                } else {
                    self.known = Some(list);
                    self.held_until = None;
                }
            }
            Event::Applied(name, object) => {
                if self.held_until.take().is_some() {
                    self.known = Some(BTreeMap::new());
                }
                if let Some(known) = &mut self.known {
                    known.insert(name, object);
                }
            }
            Event::Deleted(name) => {
                if let Some(known) = &mut self.known {
                    known.remove(&name);
                }
            }
        }
        self.failure = None;
        self.absent = false;
    }

    /// Lets what was held go when its time is over.
    pub fn tick(&mut self, now: Time) {
        if self.held_until.is_some_and(|until| until <= now) {
            self.held_until = None;
            self.known = Some(BTreeMap::new());
        }
    }

    /// When [`Source::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.held_until
    }

    /// Whether the first complete list has come.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Whether the server does not know this kind.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.absent
    }

    /// Whether an empty list is being held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held_until.is_some()
    }

    /// Why the watch does not work at present.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The usable objects by name; none while unknown.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.known
            .iter()
            .flatten()
            .filter_map(|(name, o)| Some((name.as_str(), o.as_ref().ok()?)))
    }

    /// The usable objects.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, o)| o)
    }

    /// One usable object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        self.known.as_ref()?.get(name)?.as_ref().ok()
    }

    /// Names of objects that can't be used, and why.
    pub fn rejected(&self) -> impl Iterator<Item = (&str, &str)> {
        self.known
            .iter()
            .flatten()
            .filter_map(|(name, o)| Some((name.as_str(), o.as_ref().err()?.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Event<u8> {
        Event::Reset(names.iter().map(|n| ((*n).to_owned(), Ok(0))).collect())
    }

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    #[test]
    fn nothing_is_known_before_the_first_complete_list() {
        let mut s = Source::default();
        s.apply(Event::Applied("a".into(), Ok(1)), at(0));
        assert!(!s.is_known() && s.values().count() == 0);
        s.apply(list(&[]), at(0));
        assert!(s.is_known());
    }

    #[test]
    fn many_objects_that_vanish_at_once_are_held_for_thirty_seconds() {
        let mut s = Source::default();
        s.apply(list(&["a", "b"]), at(0));
        s.apply(list(&[]), at(10));
        assert!(s.is_held());
        s.tick(at(39));
        assert_eq!(s.values().count(), 2);
        s.apply(list(&[]), at(39));
        s.tick(at(40));
        assert_eq!(
            s.values().count(),
            0,
            "a second empty list does not begin anew"
        );
    }

    #[test]
    fn an_object_after_an_empty_list_says_that_the_list_was_true() {
        let mut s = Source::default();
        s.apply(list(&["a", "b"]), at(0));
        s.apply(list(&[]), at(1));
        s.apply(Event::Applied("c".into(), Ok(1)), at(2));
        assert_eq!(s.iter().map(|(n, _)| n).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_kind_that_the_server_does_not_know_has_no_objects_until_it_does() {
        let mut s = Source::default();
        s.apply(list(&["a", "b"]), at(0));
        s.apply(Event::Absent, at(1));
        assert!(s.is_known() && s.is_absent() && !s.is_held() && s.values().count() == 0);
        s.apply(Event::Failed("why".into()), at(2));
        assert!(s.is_absent(), "a failure says nothing about that");
        s.apply(list(&["a"]), at(3));
        assert!(!s.is_absent() && s.values().count() == 1);
    }

    #[test]
    fn a_watch_that_goes_on_where_it_ended_works_and_nothing_else_has_changed() {
        let mut s = Source::default();
        s.apply(list(&["a", "b"]), at(0));
        s.apply(list(&[]), at(1));
        s.apply(Event::Failed("why".into()), at(2));
        assert_eq!(s.failure(), Some("why"));
        s.apply(Event::Resumed, at(3));
        assert!(s.failure().is_none() && s.is_held() && s.values().count() == 2);
    }

    #[test]
    fn a_bad_object_is_named_and_hurts_no_other() {
        let mut s = Source::default();
        s.apply(list(&["a"]), at(0));
        s.apply(Event::Applied("bad".into(), Err("why".into())), at(0));
        assert_eq!(s.rejected().collect::<Vec<_>>(), [("bad", "why")]);
        assert_eq!(s.values().count(), 1);
    }
}
