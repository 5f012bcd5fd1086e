//! Objects of the cluster and of the broker: what is wanted there, and the difference with what is there.

use std::collections::BTreeMap;

use ipnet::IpNet;
use strait_api::names::{
    ANNOTATION_CLUSTER_UID, ANNOTATION_HEARTBEAT, ANNOTATION_SINCE, LABEL_CLUSTER_ID,
};
use strait_api::{ClusterId, Kind, Object, ObjectKey};

use super::Written;
use crate::{Entry, ObjectChange, Source};

/// Which cluster an object went through the broker for.
fn label(object: &Object) -> Option<&str> {
    object.labels.get(LABEL_CLUSTER_ID).map(String::as_str)
}

/// The copy of an own object that goes to the broker; a heartbeat, if any, goes with it.
pub(super) fn to_broker(
    object: &Object,
    namespace: &str,
    own: &ClusterId,
    uid: &str,
    beat: Option<u64>,
) -> Object {
    let mut copy = object.clone();
    namespace.clone_into(&mut copy.key.namespace);
    copy.labels
        .insert(LABEL_CLUSTER_ID.to_owned(), own.to_string());
    copy.annotations
        .insert(ANNOTATION_CLUSTER_UID.to_owned(), uid.to_owned());
    let beat = beat.map(|beat| (ANNOTATION_HEARTBEAT.to_owned(), beat.to_string()));
    copy.annotations.extend(beat);
    copy
}

/// Objects on the broker of other clusters.
pub(super) struct Others<'a, T> {
    /// Those that may stand here.
    pub taken: Vec<(&'a Object, &'a T)>,
    /// Those that may not, and why.
    pub refused: Vec<(&'a Entry<T>, String)>,
}

/// What other clusters have on the broker and may have here: each under its own label only. `why_not` has the last
/// word.
pub(super) fn from_broker<'a, T>(
    broker: &'a Source<Entry<T>>,
    own: &ClusterId,
    id: impl Fn(&T) -> &ClusterId,
    why_not: impl Fn(&T) -> Option<String>,
) -> Others<'a, T> {
    let mut taken = Vec::new();
    let mut refused = Vec::new();
    for entry in broker.values() {
        let object = &entry.object;
        // Unlabelled objects were not put there for us; those with our label are our own.
        let Some(label) = label(object).filter(|l| *l != own.as_str()) else {
            continue;
        };
        let verdict = match &entry.parsed {
            Err(why) => Err(why.clone()),
            Ok(parsed) if id(parsed).as_str() != label => Err(format!(
                "it carries the label of cluster '{label}', but says that it is of cluster '{}'",
                id(parsed)
            )),
            Ok(parsed) => why_not(parsed).map_or(Ok(parsed), Err),
        };
        match verdict {
            Ok(parsed) => taken.push((object, parsed)),
            Err(why) => refused.push((entry, why)),
        }
    }
    Others { taken, refused }
}

/// The copy here of another cluster's object on the broker.
pub(super) fn from(object: &Object, namespace: &str) -> Object {
    let mut copy = object.clone();
    namespace.clone_into(&mut copy.key.namespace);
    // Every beat would be a write here, and an event for every node.
    copy.annotations.remove(ANNOTATION_HEARTBEAT);
    // Nobody says of himself since when he is there.
    copy.annotations.remove(ANNOTATION_SINCE);
    copy
}

/// The changes that make the objects of one kind on one server what they should be.
///
/// `ours` says which of those that are there, and are not wanted, may be removed.
pub(super) fn changes<T>(
    there: &Source<Entry<T>>,
    wanted: &[Object],
    written: &Written,
    ours: impl Fn(&Entry<T>) -> bool,
) -> Vec<ObjectChange> {
    if !there.is_known() {
        return Vec::new();
    }
    let wanted: BTreeMap<&str, &Object> = wanted.iter().map(|o| (o.key.name.as_str(), o)).collect();
    let puts = wanted
        .iter()
        .filter(|(name, object)| {
            there.get(name).is_none_or(|have| {
                !have.object.same(object) && !as_stored(&have.object, object, written)
            })
        })
        .map(|(_, object)| ObjectChange::Put((*object).clone()));
    let gone = there
        .iter()
        .filter(|(name, entry)| !wanted.contains_key(name) && ours(entry))
        .map(|(_, entry)| ObjectChange::Delete(entry.object.key.clone()));
    puts.chain(gone).collect()
}

/// Whether an object is what the server made of just this wish: writing it again would change nothing.
fn as_stored(have: &Object, want: &Object, written: &Written) -> bool {
    written
        .get(&want.key)
        .is_some_and(|(wanted, stored)| wanted.same(want) && stored.same(have))
}

/// Whether an object here is a copy of another cluster's.
pub(super) fn is_foreign_copy<T>(entry: &Entry<T>, own: &ClusterId) -> bool {
    label(&entry.object).is_some_and(|l| l != own.as_str())
}

/// Whether an object on the broker has this cluster's id.
pub(super) fn is_own_on_broker<T>(entry: &Entry<T>, own: &ClusterId) -> bool {
    label(&entry.object) == Some(own.as_str())
}

/// Which cluster an object on the broker is of, beside its id; none where Submariner wrote it.
pub(super) fn uid(object: &Object) -> Option<&str> {
    let uid = object.annotations.get(ANNOTATION_CLUSTER_UID)?;
    Some(uid.as_str()).filter(|uid| !uid.is_empty())
}

/// Which of a server's Clusters and Endpoints go when the gateway is uninstalled, in the order in which they should: in the
/// cluster all, since nobody keeps the copies of others true any more; on the broker this cluster's. Another cluster with the same id
/// keeps its own there, where the [`identity`] is given to tell them apart.
#[must_use]
pub fn uninstalled(
    there: &[Object],
    own: Option<&ClusterId>,
    identity: Option<&str>,
) -> Vec<ObjectKey> {
    let same = |o: &Object| {
        let (theirs, ours) = (uid(o), identity);
        theirs.zip(ours).is_none_or(|(theirs, ours)| theirs == ours)
    };
    let ours = |o: &&Object| own.is_none_or(|own| label(o) == Some(own.as_str()) && same(o));
    let gone = there.iter().filter(ours);
    let changes = ordered(gone.map(|o| ObjectChange::Delete(o.key.clone())).collect());
    changes.iter().map(|change| change.key().clone()).collect()
}

/// The Gateway objects of other gateways of the cluster, by name. While there are any, what all share is theirs: Clusters, Endpoints, the Lease and the
/// secret of the direct watch.
#[must_use]
pub fn other_gateways<'a>(there: &'a [Object], own: &ObjectKey) -> Vec<&'a str> {
    let gateways = there.iter().map(|object| &object.key);
    let others = gateways.filter(|key| key.kind == Kind::Gateway && *key != own);
    others.map(|key| key.name.as_str()).collect()
}

/// What tells this cluster from others of its id, from the objects in it.
#[must_use]
pub fn identity(there: &[Object]) -> Option<&str> {
    let own = there.iter().filter(|o| label(o).is_none());
    own.filter(|o| o.key.kind == Kind::Cluster).find_map(uid)
}

/// Text of prefixes, IPv4 first: the order is part of what libreswan peers agree on.
pub(super) fn texts<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Vec<String> {
    let (v4, v6): (Vec<&IpNet>, Vec<&IpNet>) = nets.into_iter().partition(|n| n.addr().is_ipv4());
    v4.into_iter().chain(v6).map(ToString::to_string).collect()
}

/// Clusters before Endpoints when they come, the other way round when they go: peers check an Endpoint's subnets
/// against its Cluster.
pub(super) fn ordered(mut changes: Vec<ObjectChange>) -> Vec<ObjectChange> {
    changes.sort_by_key(|change| match change {
        ObjectChange::Put(o) if o.key.kind == Kind::Cluster => 0,
        ObjectChange::Put(_) => 1,
        ObjectChange::Delete(key) if key.kind == Kind::Cluster => 3,
        ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => 2,
    });
    changes
}
