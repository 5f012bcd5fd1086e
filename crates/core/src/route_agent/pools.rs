//! Calico's IPPools for remote subnets: what pods send into a pool is not masqueraded.
//!
//! The gateway's agent keeps them for the whole cluster, as upstream's does. Another node's agent leaves them as they
//! are, so that nothing goes and comes back when the gateway moves.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};
use strait_api::{IpPool, Kind, ObjectKey};

use super::State;
use super::view::Role;
use crate::condition::some;
use crate::net::overlap;
use crate::remote::Remote;
use crate::{Condition, Entry, ObjectChange, Source};

/// The pools as they are known, and what became of the newest changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pools {
    /// All of the cluster's pools: others' may be in the way of ours.
    pub there: Source<Entry<IpPool>>,
    /// Why a pool could not be written or removed, by its name.
    pub failures: BTreeMap<String, String>,
}

impl State {
    /// The changes that make the cluster's pools what they should be, removals first: Calico refuses a pool that overlaps
    /// another. None unless this is the gateway's node, and the pools are known.
    pub(super) fn pool_changes(
        &self,
        remotes: &[Remote<'_>],
    ) -> (Vec<ObjectChange>, Option<Condition>) {
        let there = &self.pools.there;
        let mut problems = Vec::new();
        if self.role() != Role::Gateway || there.is_absent() {
            return (Vec::new(), None);
        }
        if !there.is_known() {
            problems.extend(there.failure().map(str::to_owned));
            return (Vec::new(), condition(problems));
        }
        let wanted = wanted(remotes);
        let mut changes: Vec<ObjectChange> = ours(there)
            .filter(|(name, entry)| {
                // The prefix of a pool can't be changed: it goes first.
                wanted.get(*name).is_none_or(|cidr| {
                    let right = |pool: &IpPool| pool.cidr == IpNet::V4(*cidr);
                    !entry.parsed.as_ref().is_ok_and(right)
                })
            })
            .map(|(name, _)| ObjectChange::Delete(key(name)))
            .collect();
        let others = Others::of(there);
        let gone: BTreeSet<String> = changes.iter().map(|c| c.key().name.clone()).collect();
        for (name, cidr) in wanted.iter().filter(|(name, _)| !gone.contains(*name)) {
            let pool = IpPool::remote(*cidr);
            match there.get(name).filter(|entry| entry.object.is_ours()) {
                Some(entry) if entry.parsed.as_ref() == Ok(&pool) => {}
                Some(entry) => {
                    let object = pool.object(name, Some(&entry.object));
                    changes.push(ObjectChange::Put(object));
                }
                None => match others.way(name, &pool) {
                    Way::Free => changes.push(ObjectChange::Put(pool.object(name, None))),
                    Way::Served => {}
                    Way::Blocked(why) => problems.push(why),
                },
            }
        }
        for change in &changes {
            let name = &change.key().name;
            let failure = self.pools.failures.get(name);
            problems.extend(failure.map(|why| format!("{name}: {why}")));
        }
        (changes, condition(problems))
    }
}

/// IPv4 only, as upstream. Of subnets of one cluster that hold each other the widest counts.
fn wanted(remotes: &[Remote<'_>]) -> BTreeMap<String, Ipv4Net> {
    let mut wanted = BTreeMap::new();
    for remote in remotes {
        let mut last: Option<Ipv4Net> = None;
        // In order: what holds others comes right before them.
        for net in &remote.subnets {
            let IpNet::V4(net) = net else { continue };
            if last.is_some_and(|last| last.contains(net)) {
                continue;
            }
            last = Some(*net);
            wanted.insert(IpPool::remote_name(&remote.endpoint.cluster, *net), *net);
        }
    }
    wanted
}

/// Others' pools.
struct Others<'a> {
    names: BTreeSet<&'a str>,
    pools: Vec<(&'a str, &'a IpPool)>,
}

/// What they leave of the place for one of ours.
enum Way {
    Free,
    /// Another's pool does what ours would.
    Served,
    Blocked(String),
}

impl<'a> Others<'a> {
    fn of(there: &'a Source<Entry<IpPool>>) -> Self {
        let foreign = || there.iter().filter(|(_, entry)| !entry.object.is_ours());
        let pool =
            |(name, entry): (&'a str, &'a Entry<IpPool>)| Some((name, entry.parsed.as_ref().ok()?));
        Self {
            names: foreign().map(|(name, _)| name).collect(),
            pools: foreign().filter_map(pool).collect(),
        }
    }

    fn way(&self, name: &str, pool: &IpPool) -> Way {
        let serves = |other: &IpPool| {
            other.cidr.contains(&pool.cidr) && other.disabled && !other.nat_outgoing
        };
        let overlaps = |other: &IpPool| overlap(&other.cidr, &pool.cidr);
        if self.pools.iter().any(|(_, other)| serves(other)) {
            Way::Served
        } else if self.names.contains(name) {
            Way::Blocked(format!(
                "{name}: somebody else has a pool of that name, which is not touched: remove it"
            ))
        } else if let Some((other, theirs)) = self.pools.iter().find(|(_, p)| overlaps(p)) {
            Way::Blocked(format!(
                "{name}: it would overlap pool {other} ({}): pods of both clusters may have the same address",
                theirs.cidr
            ))
        } else {
            Way::Free
        }
    }
}

fn ours(there: &Source<Entry<IpPool>>) -> impl Iterator<Item = (&str, &Entry<IpPool>)> {
    there.iter().filter(|(_, entry)| entry.object.is_ours())
}

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        kind: Kind::IpPool,
        namespace: String::new(),
        name: name.to_owned(),
    }
}

fn condition(problems: Vec<String>) -> Option<Condition> {
    (!problems.is_empty()).then(|| {
        let message = format!(
            "Calico's IPPools for remote subnets are not all there: {}",
            some(&problems, "; ")
        );
        Condition::degraded("CalicoPoolsIncomplete", message).of(problems.len())
    })
}
