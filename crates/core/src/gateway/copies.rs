//! What other clusters have on the broker, and what of it stands in this one.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::Value;
use strait_api::names::{ANNOTATION_SINCE, LABEL_CLUSTER_ID};
use strait_api::{Cluster, ClusterId, Endpoint, Object};
use strait_host::Family;

use super::State;
use super::objects::{from, from_broker, texts};
use crate::Condition;
use crate::net::overlap;

/// So many prefixes are named in a message.
const MOST_NAMED: usize = 8;

/// Other clusters' objects, as they should stand here.
#[derive(Default)]
pub(super) struct Copies {
    pub clusters: Vec<Object>,
    pub endpoints: Vec<Object>,
    /// Whether these are all Endpoints.
    pub endpoints_known: bool,
    /// What is not taken over, and why.
    refused: Vec<String>,
    /// What is left out of an Endpoint that is taken over.
    outside: Vec<String>,
}

impl Copies {
    pub(super) fn conditions(&self) -> impl Iterator<Item = Condition> {
        let all = [
            ("RejectedObject", &self.refused),
            ("SubnetOutsideCluster", &self.outside),
        ];
        let some = all.into_iter().filter(|(_, said)| !said.is_empty());
        some.map(|(name, said)| Condition::degraded(name, said.join("; ")))
    }
}

impl State {
    /// What other clusters have on the broker and may have here, and what is refused.
    pub(super) fn copies(&self) -> Copies {
        let s = &self.settings;
        let (clusters, mut refused) =
            from_broker(&self.broker_clusters, &s.cluster, |c| &c.id, |_| None);
        let local = self.local_cidrs();
        let overlapping = |endpoint: &Endpoint| {
            let (theirs, ours) = endpoint.subnets.iter().find_map(|theirs| {
                Some((theirs, local.iter().find(|ours| overlap(theirs, ours))?))
            })?;
            Some(format!(
                "OverlappingSubnets: its subnet {theirs} overlaps {ours} of this cluster"
            ))
        };
        let (endpoints, bad) = from_broker(
            &self.broker_endpoints,
            &s.cluster,
            |e| &e.cluster,
            overlapping,
        );
        refused.extend(bad);
        let mut copies = Copies {
            refused,
            // A cluster's age, and what it may claim, stand in its Cluster.
            endpoints_known: self.broker_endpoints.is_known() && self.broker_clusters.is_known(),
            ..Copies::default()
        };
        if copies.endpoints_known {
            let ages = ages(&clusters, &endpoints);
            let listed: BTreeMap<&ClusterId, Vec<IpNet>> = clusters
                .iter()
                .map(|(_, cluster)| (&cluster.id, IpNet::aggregate(&cluster.cidrs)))
                .collect();
            for (object, endpoint) in endpoints {
                if self.expiry.is_gone(&object.key.name) {
                    continue;
                }
                let mut copy = from(object, &s.namespace);
                if let Some(cidrs) = listed.get(&endpoint.cluster) {
                    let outside = leave_out(&mut copy, endpoint, cidrs);
                    copies.outside.extend(outside);
                }
                let age = ages.get(&endpoint.cluster);
                let age = age.map(|age| (ANNOTATION_SINCE.to_owned(), age.to_string()));
                copy.annotations.extend(age);
                copies.endpoints.push(copy);
            }
        }
        let gone: BTreeSet<&str> = self.expiry.gone().map(ClusterId::as_str).collect();
        let of_gone = |object: &Object| {
            let label = object.labels.get(LABEL_CLUSTER_ID);
            label.is_some_and(|label| gone.contains(label.as_str()))
        };
        let there = clusters.into_iter().filter(|(object, _)| !of_gone(object));
        copies.clusters = there
            .map(|(object, _)| from(object, &s.namespace))
            .collect();
        copies
    }
}

/// Since when the broker knows each cluster: by its Cluster, which stays when another gateway takes over, or an Endpoint that is older.
fn ages<'a>(
    clusters: &[(&Object, &'a Cluster)],
    endpoints: &[(&Object, &'a Endpoint)],
) -> BTreeMap<&'a ClusterId, i64> {
    let clusters = clusters.iter().map(|(o, cluster)| (&cluster.id, o.created));
    let endpoints = endpoints.iter().map(|(o, e)| (&e.cluster, o.created));
    let mut ages = BTreeMap::new();
    for (cluster, created) in clusters.chain(endpoints).filter(|(_, made)| *made > 0) {
        let age = ages.entry(cluster).or_insert(created);
        *age = created.min(*age);
    }
    ages
}

/// Leaves out of an Endpoint what its own Cluster does not list; what is said of that. A family of which that lists nothing is not judged: not
/// all releases of Submariner put IPv6 there.
fn leave_out(copy: &mut Object, endpoint: &Endpoint, cidrs: &[IpNet]) -> Option<String> {
    let inside = |net: &IpNet| {
        let family = Family::of_net(net);
        let mut same = cidrs
            .iter()
            .filter(|c| Family::of_net(c) == family)
            .peekable();
        same.peek().is_none() || same.any(|cidr| cidr.contains(net))
    };
    let outside: Vec<&IpNet> = endpoint.subnets.iter().filter(|net| !inside(net)).collect();
    if outside.is_empty() {
        return None;
    }
    // They were parsed one by one.
    let subnets = copy
        .content
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("subnets"));
    if let Some(subnets) = subnets.and_then(Value::as_array_mut) {
        let mut parsed = endpoint.subnets.iter();
        subnets.retain(|_| parsed.next().is_some_and(inside));
    }
    let (some, listed) = (
        outside.iter().copied().take(MOST_NAMED),
        cidrs.iter().take(MOST_NAMED),
    );
    Some(format!(
        "{} on the broker: {} is not routed, since its Cluster lists {} only",
        endpoint.name,
        texts(some).join(", "),
        texts(listed).join(", ")
    ))
}
