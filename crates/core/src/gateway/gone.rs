//! Gateways of this cluster that are gone: their Gateway objects would say for ever what they said last.
//!
//! Each gateway, Submariner's too, changes an annotation of its own object every 5 s. What the value is means nothing: that it changed, while we
//! looked, is a sign of life, so that no two hosts' clocks are compared. Silence of others counts only while our own heartbeat comes
//! back by the same watch: else the API server may be what is silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use strait_api::{EndpointSpec, Kind, ObjectKey, valid_name};

use super::State;
use crate::Time;
use crate::source::Event;

/// How long a Gateway object must not have changed: six heartbeats (Submariner takes three, and compares clocks).
const SILENT: Duration = Duration::from_secs(30);
/// How long our own heartbeat may fail to come back: three of them.
const FRESH: Duration = Duration::from_secs(15);

/// What is looked at of a Gateway object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its heartbeat (`update-timestamp`), as text.
    pub beat: Option<String>,
    /// What the gateway would publish, or why that can't be used.
    pub spec: Result<EndpointSpec, String>,
}

/// Signs of life of all gateways of the cluster.
#[derive(Debug, Clone)]
pub struct Signs {
    own: String,
    /// Heartbeat by name of the object, and when it became what it is.
    seen: BTreeMap<String, (Option<String>, Time)>,
    /// Since when our own heartbeat has always come back, and when it did last.
    fresh: Option<(Time, Time)>,
}

impl Signs {
    /// Nothing was seen yet; on a host with this name.
    #[must_use]
    pub fn new(hostname: &str) -> Self {
        Self {
            own: valid_name(hostname),
            seen: BTreeMap::new(),
            fresh: None,
        }
    }

    /// Looks at what a watch of all Gateway objects tells.
    pub fn look(&mut self, event: &Event<Seen>, now: Time) {
        // What can't be read has no heartbeat.
        let beat = |seen: &Result<Seen, String>| seen.as_ref().ok().and_then(|s| s.beat.clone());
        match event {
            Event::Reset(all) => {
                self.seen.retain(|name, _| all.contains_key(name));
                for (name, seen) in all {
                    self.note(name, beat(seen), now);
                }
            }
            Event::Applied(name, seen) => self.note(name, beat(seen), now),
            Event::Deleted(name) => drop(self.seen.remove(name)),
            Event::Failed(_) => self.fresh = None,
            Event::Resumed => {}
            Event::Absent => self.seen.clear(),
        }
    }

    fn note(&mut self, name: &str, beat: Option<String>, now: Time) {
        let before = self.seen.get(name).map(|(beat, _)| beat);
        if before == Some(&beat) {
            return;
        }
        // What is seen for the first time may have stood there for long.
        if name == self.own && before.is_some() {
            let since = self.fresh.filter(|(_, last)| now <= *last + FRESH);
            self.fresh = Some((since.map_or(now, |(since, _)| since), now));
        }
        self.seen.insert(name.to_owned(), (beat, now));
    }

    /// Names of the objects of others that have not changed for long while they should have.
    #[must_use]
    pub fn silent(&self, now: Time) -> BTreeSet<String> {
        let Some((since, _)) = self.fresh.filter(|(_, last)| now <= *last + FRESH) else {
            return BTreeSet::new();
        };
        let silent = |(name, (_, changed)): (&String, &(Option<String>, Time))| {
            let long = since.max(*changed) + SILENT <= now;
            (long && *name != self.own).then(|| name.clone())
        };
        self.seen.iter().filter_map(silent).collect()
    }
}

impl State {
    /// Gateway objects that nobody keeps any more: silent, and not heard by the direct watch either. One that is heard is cut off from the API
    /// server, and lives.
    pub(super) fn left_gateways(&self) -> impl Iterator<Item = ObjectKey> {
        let heard: BTreeSet<String> = self.heard.iter().map(|name| valid_name(name)).collect();
        let own = valid_name(&self.settings.hostname);
        let left = self.silent.iter();
        left.filter(move |name| !heard.contains(*name) && **name != own)
            .map(|name| ObjectKey {
                kind: Kind::Gateway,
                namespace: self.settings.namespace.clone(),
                name: name.clone(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time is fed in seconds.
    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    fn seen(beat: u64) -> Seen {
        Seen {
            beat: Some(beat.to_string()),
            spec: Ok(EndpointSpec::default()),
        }
    }

    fn beat(signs: &mut Signs, name: &str, second: u64) {
        let event = Event::Applied(name.to_owned(), Ok(seen(second)));
        signs.look(&event, at(second));
    }

    /// The three are seen for the first time.
    fn three() -> Signs {
        let mut signs = Signs::new("GW-A");
        let all = ["gw-a", "gw-b", "gw-c"].map(|name| (name.to_owned(), Ok(seen(1000))));
        let all = BTreeMap::from(all);
        signs.look(&Event::Reset(all), at(0));
        signs
    }

    fn silent(signs: &Signs, second: u64) -> Vec<String> {
        signs.silent(at(second)).into_iter().collect()
    }

    #[test]
    fn one_that_is_silent_for_six_of_our_own_heartbeats_is_gone_until_it_beats_again() {
        let mut signs = three();
        for second in (5..=60).step_by(5) {
            beat(&mut signs, "gw-a", second);
            beat(&mut signs, "gw-b", second);
            let gone: &[&str] = if second >= 35 { &["gw-c"] } else { &[] };
            assert_eq!(silent(&signs, second), gone, "{second} s");
        }
        beat(&mut signs, "gw-c", 61);
        assert_eq!(silent(&signs, 62), [""; 0]);
        signs.look(&Event::Deleted("gw-c".into()), at(63));
        for second in (65..=200).step_by(5) {
            beat(&mut signs, "gw-a", second);
            beat(&mut signs, "gw-b", second);
            assert_eq!(silent(&signs, second), [""; 0], "{second} s");
        }
    }

    #[test]
    fn nobody_is_gone_while_our_own_heartbeat_does_not_come_back() {
        let mut signs = three();
        beat(&mut signs, "gw-a", 5);
        for second in [6, 20, 21, 40, 300] {
            assert_eq!(silent(&signs, second), [""; 0], "{second} s");
        }
        // It is back, ours first: the others have their time.
        for second in (300..=325).step_by(5) {
            beat(&mut signs, "gw-a", second);
            assert_eq!(silent(&signs, second), [""; 0], "{second} s");
        }
        beat(&mut signs, "gw-a", 330);
        assert_eq!(silent(&signs, 330), ["gw-b", "gw-c"]);
        // A watch that fails says nothing of anybody.
        signs.look(&Event::Failed("gone".into()), at(331));
        assert_eq!(silent(&signs, 331), [""; 0]);
    }

    #[test]
    fn an_object_without_a_heartbeat_or_that_cannot_be_read_is_silent_too() {
        let mut signs = three();
        let bad = Event::Applied("gw-b".to_owned(), Err("no status".to_owned()));
        signs.look(&bad, at(1));
        for second in (5..=35).step_by(5) {
            beat(&mut signs, "gw-a", second);
            signs.look(&bad, at(second));
        }
        assert_eq!(silent(&signs, 35), ["gw-b", "gw-c"]);
    }
}
