//! What other clusters have on the broker, and what of it stands in this one.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::Value;
use strait_api::names::{ANNOTATION_SINCE, LABEL_CLUSTER_ID};
use strait_api::{Cluster, ClusterId, Endpoint, EndpointSpec, Object};
use strait_host::Family;

use super::State;
use super::objects::{from, from_broker, texts};
use crate::condition::{readable, some};
use crate::net::overlap;
use crate::{Condition, Entry};

/// So many prefixes are named in a message.
const MOST_NAMED: usize = 8;
/// So many Endpoints that are refused are told of: anybody could write as many as he likes.
const MOST_REFUSED: usize = 32;

/// Other clusters' objects, as they should stand here.
#[derive(Default)]
pub(super) struct Copies {
    pub clusters: Vec<Object>,
    pub endpoints: Vec<Object>,
    /// Whether these are all Endpoints.
    pub endpoints_known: bool,
    /// Endpoints that are not taken over, the first of them.
    pub refused: Vec<Refused>,
    /// What is not taken over, and why.
    rejected: Vec<String>,
    /// What is left out of an Endpoint that is taken over, by its name.
    pub outside: BTreeMap<String, String>,
}

/// An Endpoint on the broker that is not taken over.
pub(super) struct Refused {
    /// What of it can be shown.
    pub spec: EndpointSpec,
    /// Why.
    pub why: String,
}

impl Copies {
    pub(super) fn conditions(&self) -> impl Iterator<Item = Condition> {
        let outside = self.outside.iter();
        let outside = outside.map(|(name, said)| format!("{name} on the broker: {said}"));
        let all = [
            ("RejectedObject", self.rejected.clone()),
            ("SubnetOutsideCluster", outside.collect()),
        ];
        let told = all.into_iter().filter(|(_, said)| !said.is_empty());
        told.map(|(name, said)| Condition::degraded(name, some(&said, "; ")).of(said.len()))
    }
}

impl State {
    /// What other clusters have on the broker and may have here, and what is refused.
    pub(super) fn copies(&self) -> Copies {
        let s = &self.settings;
        let clusters = from_broker(&self.broker_clusters, &s.cluster, |c| &c.id, |_| None);
        let local = self.local_cidrs();
        let overlapping = |endpoint: &Endpoint| {
            let (theirs, ours) = endpoint.subnets.iter().find_map(|theirs| {
                Some((theirs, local.iter().find(|ours| overlap(theirs, ours))?))
            })?;
            Some(format!(
                "OverlappingSubnets: its subnet {theirs} overlaps {ours} of this cluster"
            ))
        };
        let mut rejected: Vec<String> = clusters.refused.iter().map(rejection).collect();
        let clusters = clusters.taken;
        let endpoints = from_broker(
            &self.broker_endpoints,
            &s.cluster,
            |e| &e.cluster,
            overlapping,
        );
        let rivals = self.rivals().map(|entry| Refused {
            spec: shown(entry),
            why: "DuplicateClusterId: another cluster has the id of this one".to_owned(),
        });
        let bad = endpoints.refused.iter();
        let refused = rivals.chain(bad.map(|(entry, why)| Refused {
            spec: shown(entry),
            why: why.clone(),
        }));
        let refused = refused.take(MOST_REFUSED).collect();
        rejected.extend(endpoints.refused.iter().map(rejection));
        let endpoints = endpoints.taken;
        let mut copies = Copies {
            refused,
            rejected,
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
                    let outside = outside.map(|why| (endpoint.name.clone(), why));
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

fn rejection<T>((entry, why): &(&Entry<T>, String)) -> String {
    format!("{} on the broker: {why}", entry.object.key)
}

/// What an Endpoint says, as far as it can be shown in a connection, whether it can be parsed or not: the schema of that asks for an id, a cable name and
/// texts, and there is not room for everything that somebody may have written. It is of the cluster whose label it carries: it may call itself by the id of
/// another one, which is not to blame.
fn shown(entry: &Entry<Endpoint>) -> EndpointSpec {
    let object = &entry.object;
    let cut = |text: &str, most| readable(text.chars().take(most).collect());
    let spec = object.content.get("spec");
    let text = |field, most| {
        let text = spec
            .and_then(|spec| spec.get(field))
            .and_then(Value::as_str);
        text.map(|text| cut(text, most))
            .filter(|text| !text.is_empty())
    };
    let label = object.labels.get(LABEL_CLUSTER_ID);
    let label = label
        .map(|label| cut(label, 63))
        .filter(|label| !label.is_empty());
    let name = Some(cut(&object.key.name, 253)).filter(|name| !name.is_empty());
    let or = |some: Option<String>| some.unwrap_or_else(|| "unknown".to_owned());
    EndpointSpec {
        cluster_id: or(label.or_else(|| text("cluster_id", 63))),
        cable_name: or(text("cable_name", 200).or(name)),
        hostname: text("hostname", 253).unwrap_or_default(),
        private_ip: text("private_ip", 64).unwrap_or_default(),
        public_ip: text("public_ip", 64).unwrap_or_default(),
        backend: text("backend", 64).unwrap_or_default(),
        subnets: texts(
            entry
                .parsed
                .iter()
                .flat_map(|e| &e.subnets)
                .take(MOST_NAMED),
        ),
        ..EndpointSpec::default()
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
    // What can't be read stays: who reads it names it.
    let subnets = copy
        .content
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("subnets"));
    if let Some(subnets) = subnets.and_then(Value::as_array_mut) {
        let read = |text: &Value| text.as_str().and_then(|text| text.parse::<IpNet>().ok());
        subnets.retain(|text| read(text).is_none_or(|net| inside(&net.trunc())));
    }
    let (some, listed) = (
        outside.iter().copied().take(MOST_NAMED),
        cidrs.iter().take(MOST_NAMED),
    );
    Some(format!(
        "{} is not routed, since its Cluster lists {} only",
        texts(some).join(", "),
        texts(listed).join(", ")
    ))
}
