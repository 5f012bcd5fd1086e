//! Clusters that are gone: Endpoints on the broker that nobody keeps any more.
//!
//! Each gateway changes an annotation of its own Endpoint on the broker every [`HEARTBEAT`]. What the value is means nothing: that it
//! changed, while we looked, is a sign of life, so that no two hosts' clocks are compared. An Endpoint without the annotation is
//! Submariner's and never expires.
//!
//! Silence alone says little, since the broker may be what is silent. An Endpoint expires when all of these hold:
//! * the broker was fresh all the time for [`SILENT`]: never away, and at no time was there nothing new from anybody for [`FRESH`] (our
//!   own heartbeat that comes back counts);
//! * the Endpoint did not change in that time;
//! * its tunnel was dead all the time for [`DEAD`].
//!
//! It is back as soon as it changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use strait_api::names::ANNOTATION_HEARTBEAT;
use strait_api::{ClusterId, Endpoint, EndpointSpec};

use crate::object::Entry;
use crate::source::Source;
use crate::time::Time;

/// How often an own Endpoint's heartbeat changes: each change is a write for every cluster that watches the broker.
pub const HEARTBEAT: Duration = Duration::from_secs(300);
/// How long an Endpoint must not have changed: three heartbeats.
const SILENT: Duration = Duration::from_secs(900);
/// How long the broker may show nothing new at all: two heartbeats.
const FRESH: Duration = Duration::from_secs(600);
/// How long a tunnel must be dead.
const DEAD: Duration = Duration::from_secs(600);

/// What was seen of the broker's Endpoints, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expiry {
    fresh: Option<Fresh>,
    seen: BTreeMap<String, Seen>,
}

/// Since when there was always something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fresh {
    since: Time,
    last: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    cluster: ClusterId,
    beat: Option<String>,
    spec: Arc<EndpointSpec>,
    /// When it changed, or was seen first.
    changed: Time,
    /// Since when its tunnel is dead.
    dead: Option<Time>,
    silent: bool,
    gone: bool,
}

impl Seen {
    fn new(endpoint: &Endpoint, beat: Option<&String>, now: Time) -> Self {
        Self {
            cluster: endpoint.cluster.clone(),
            beat: beat.cloned(),
            spec: endpoint.spec.clone(),
            changed: now,
            dead: None,
            silent: false,
            gone: false,
        }
    }

    fn is_of(&self, endpoint: &Endpoint, beat: Option<&String>) -> bool {
        self.beat.as_ref() == beat
            && self.cluster == endpoint.cluster
            && (Arc::ptr_eq(&self.spec, &endpoint.spec) || self.spec == endpoint.spec)
    }
}

impl Expiry {
    /// Looks at what is on the broker now. `dead` says whether an Endpoint's tunnel is known to be dead at present.
    pub(super) fn look(
        &mut self,
        endpoints: &Source<Entry<Endpoint>>,
        dead: impl Fn(&Endpoint) -> bool,
        now: Time,
    ) {
        if !endpoints.is_known() {
            return;
        }
        let mut before = std::mem::take(&mut self.seen);
        let mut news = false;
        for (name, entry) in endpoints.iter() {
            let Ok(endpoint) = &entry.parsed else {
                continue;
            };
            let beat = entry.object.annotations.get(ANNOTATION_HEARTBEAT);
            let old = before.remove(name);
            // What is seen for the first time may have stood there for long.
            news |= old.as_ref().is_some_and(|s| !s.is_of(endpoint, beat));
            let mut seen = old
                .filter(|s| s.is_of(endpoint, beat))
                .unwrap_or_else(|| Seen::new(endpoint, beat, now));
            seen.dead = dead(endpoint).then(|| seen.dead.unwrap_or(now));
            self.seen.insert(name.to_owned(), seen);
        }
        self.refresh(endpoints.failure().is_none(), news, now);
        let fresh = self.fresh;
        for seen in self.seen.values_mut() {
            let since = fresh.filter(|_| seen.beat.is_some()).map(|f| f.since);
            let quiet = |since: Time| since.max(seen.changed) + SILENT <= now;
            seen.silent = since.is_some_and(quiet);
            let dead = seen.dead.is_some_and(|since| since + DEAD <= now);
            seen.gone |= seen.silent && dead;
        }
    }

    fn refresh(&mut self, works: bool, news: bool, now: Time) {
        self.fresh = match self.fresh.filter(|f| works && now <= f.last + FRESH) {
            Some(fresh) if news => Some(Fresh { last: now, ..fresh }),
            None if works && news => Some(Fresh {
                since: now,
                last: now,
            }),
            fresh => fresh,
        };
    }

    /// Whether an Endpoint on the broker has expired.
    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.seen.get(name).is_some_and(|seen| seen.gone)
    }

    /// Whether an Endpoint on the broker has not changed for long while it should have; whatever its tunnel does.
    pub(super) fn is_silent(&self, name: &str) -> bool {
        self.seen.get(name).is_some_and(|seen| seen.silent)
    }

    /// The clusters of which nothing but Endpoints that expired is there.
    pub(super) fn gone(&self) -> impl Iterator<Item = &ClusterId> {
        let mut clusters: BTreeMap<&ClusterId, bool> = BTreeMap::new();
        for seen in self.seen.values() {
            let all = clusters.entry(&seen.cluster).or_insert(true);
            *all &= seen.gone;
        }
        clusters
            .into_iter()
            .filter_map(|(cluster, gone)| gone.then_some(cluster))
    }

    /// When the next one expires, if nothing is heard until then.
    pub(super) fn deadline(&self) -> Option<Time> {
        let fresh = self.fresh?;
        let due = |seen: &Seen| {
            seen.beat.as_ref()?;
            let silent = fresh.since.max(seen.changed) + SILENT;
            match seen.dead {
                _ if seen.gone => None,
                None => (!seen.silent).then_some(silent),
                Some(dead) => Some(silent.max(dead + DEAD)),
            }
        };
        self.seen.values().filter_map(due).min()
    }
}

#[cfg(test)]
mod tests;
