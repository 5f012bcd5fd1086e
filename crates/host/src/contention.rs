//! Objects that somebody else takes away again and again: they are left alone for a while, and named.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::Change;

/// This many repairs of one object …
const REPAIRS: usize = 5;
/// … within this time make it contended …
const WITHIN: Duration = Duration::from_secs(10);
/// … for this long.
const HOLD: Duration = Duration::from_secs(30);
/// Repairs that follow each other faster are of one damage: a link that is made anew takes what hung on it along, some of it later.
const APART: Duration = Duration::from_millis(200);

/// Counts repairs by object. Time is that since any fixed moment.
#[derive(Debug, Clone, Default)]
pub struct Contention {
    repairs: BTreeMap<String, VecDeque<Duration>>,
    held: BTreeMap<String, Duration>,
}

impl Contention {
    /// Keeps the changes of objects that are not held.
    pub fn admit(&mut self, mut changes: Vec<Change>, now: Duration) -> Vec<Change> {
        self.held.retain(|_, until| *until > now);
        changes.retain(|change| !self.held.contains_key(&change.subject()));
        changes
    }

    /// These were made though what is wanted is as it was: somebody else had changed the host.
    pub fn repaired<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>, now: Duration) {
        for change in changes {
            let subject = change.subject();
            let times = self.repairs.entry(subject.clone()).or_default();
            times.retain(|time| now.saturating_sub(*time) < WITHIN);
            let same = times.back();
            if same.is_none_or(|last| now.saturating_sub(*last) >= APART) {
                times.push_back(now);
            }
            if times.len() >= REPAIRS {
                self.repairs.remove(&subject);
                self.held.insert(subject, now + HOLD);
            }
        }
        self.repairs.retain(|_, times| {
            times
                .back()
                .is_some_and(|last| now.saturating_sub(*last) < WITHIN)
        });
    }

    /// Forgets everything: what is wanted has changed.
    pub fn forget(&mut self) {
        self.repairs.clear();
        self.held.clear();
    }

    /// What is left alone at present.
    pub fn held(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// When the next object is tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.held.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctl(name: &str) -> Vec<Change> {
        vec![Change::SetSysctl(name.to_owned(), "1".to_owned())]
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// One pass that finds `name` changed; whether it was repaired.
    fn pass(c: &mut Contention, name: &str, now: Duration) -> bool {
        let admitted = c.admit(sysctl(name), now);
        c.repaired(&admitted, now);
        !admitted.is_empty()
    }

    #[test]
    fn an_object_that_is_taken_away_five_times_in_ten_seconds_is_left_alone_for_thirty() {
        let mut c = Contention::default();
        for second in 0..5 {
            assert!(pass(&mut c, "a", at(second)), "repair {second}");
        }
        assert!(!pass(&mut c, "a", at(5)));
        assert_eq!(c.held().collect::<Vec<_>>(), ["sysctl a"]);
        assert!(pass(&mut c, "b", at(5)), "others are not affected");
        assert_eq!(c.deadline(), Some(at(34)));
        assert!(!pass(&mut c, "a", at(33)));
        assert!(pass(&mut c, "a", at(34)));
    }

    #[test]
    fn repairs_of_one_damage_count_once() {
        let mut c = Contention::default();
        for damage in 0..4 {
            for repair in 0..3 {
                let now = at(damage * 2) + Duration::from_millis(repair * 50);
                assert!(pass(&mut c, "a", now), "{now:?}");
            }
        }
        assert_eq!(c.held().count(), 0);
    }

    #[test]
    fn repairs_far_apart_are_no_contention() {
        let mut c = Contention::default();
        for n in 0..20 {
            assert!(pass(&mut c, "a", at(n * 3)));
        }
    }

    #[test]
    fn a_new_wish_is_carried_out_at_once() {
        let mut c = Contention::default();
        for second in 0..5 {
            pass(&mut c, "a", at(second));
        }
        c.forget();
        assert!(pass(&mut c, "a", at(5)));
    }
}
