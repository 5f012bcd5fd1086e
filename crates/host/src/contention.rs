//! Objects that somebody else takes away again and again: they are left alone for a while, and named.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::{Change, Subject, Wanted};

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
    repairs: BTreeMap<Subject, VecDeque<Duration>>,
    held: BTreeMap<Subject, Held>,
}

#[derive(Debug, Clone)]
struct Held {
    /// The repair that was one too many.
    change: Change,
    until: Duration,
}

impl Contention {
    /// Keeps the changes of objects that are not held.
    pub fn admit(&mut self, mut changes: Vec<Change>, now: Duration) -> Vec<Change> {
        self.held.retain(|_, held| held.until > now);
        if !self.held.is_empty() {
            changes.retain(|change| !self.held.contains_key(&change.subject()));
        }
        changes
    }

    /// These were made though what is wanted of them is as it was: somebody else had changed the host.
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
                let held = Held {
                    change: brief(change),
                    until: now + HOLD,
                };
                self.held.insert(subject, held);
            }
        }
        self.repairs.retain(|_, times| {
            times
                .back()
                .is_some_and(|last| now.saturating_sub(*last) < WITHIN)
        });
    }

    /// Forgets objects of which something else is wanted now than before; what becomes of others says nothing about the rest.
    pub fn forget(&mut self, before: &Wanted, now: &Wanted) {
        let same = |subject: &Subject| before.of(subject) == now.of(subject);
        self.repairs.retain(|subject, _| same(subject));
        self.held.retain(|subject, _| same(subject));
    }

    /// What is left alone at present: of each object a change that would be made. Of long ones it tells only what they are about.
    pub fn held(&self) -> impl Iterator<Item = &Change> {
        self.held.values().map(|held| &held.change)
    }

    /// When the next object is tried again.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.held.values().map(|held| held.until).min()
    }
}

/// The same change without what may be long.
fn brief(change: &Change) -> Change {
    match change {
        Change::Nft(_) => Change::Nft(Vec::new()),
        Change::SetAccepts(table, chain, _) => {
            Change::SetAccepts(table.clone(), chain.clone(), Vec::new())
        }
        Change::CreateLink(..)
        | Change::ChangeLink(..)
        | Change::RemoveLink(_)
        | Change::AddAddress(_)
        | Change::RemoveAddress(_)
        | Change::SetNeighbour(_)
        | Change::RemoveNeighbour(_)
        | Change::SetFdb(_)
        | Change::RemoveFdb(_)
        | Change::SetSysctl(..)
        | Change::SetRoute(_)
        | Change::RemoveRoute(_)
        | Change::AddRule(_)
        | Change::RemoveRule(_) => change.clone(),
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
        let held: Vec<String> = c.held().map(|held| held.subject().to_string()).collect();
        assert_eq!(held, ["sysctl a"]);
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
    fn a_new_wish_is_carried_out_at_once_and_others_stay_held() {
        let wanted = |a: &str| Wanted {
            sysctls: [("a", a), ("b", "1")]
                .map(|(path, value)| (path.to_owned(), value.to_owned()))
                .into(),
            ..Wanted::default()
        };
        let mut c = Contention::default();
        for second in 0..5 {
            pass(&mut c, "a", at(second));
            pass(&mut c, "b", at(second));
        }
        assert_eq!(c.held().count(), 2);
        c.forget(&wanted("1"), &wanted("0"));
        assert!(pass(&mut c, "a", at(5)));
        assert!(!pass(&mut c, "b", at(5)));
    }

    #[test]
    fn what_comes_and_goes_beside_an_object_does_not_begin_its_count_anew() {
        let wanted = |other: u64| Wanted {
            sysctls: [
                ("a".to_owned(), "1".to_owned()),
                (other.to_string(), "1".to_owned()),
            ]
            .into(),
            ..Wanted::default()
        };
        let mut c = Contention::default();
        for second in 0..5 {
            assert!(pass(&mut c, "a", at(second)), "repair {second}");
            c.forget(&wanted(second), &wanted(second + 1));
        }
        assert!(!pass(&mut c, "a", at(5)));
    }
}
