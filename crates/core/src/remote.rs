//! Other clusters' Endpoints: which one counts, and which of its subnets can be reached.

use std::collections::BTreeMap;

use ipnet::IpNet;
use strait_api::{ClusterId, Endpoint};

use crate::Condition;
use crate::net::{never_remote, overlap};

/// Another cluster, by its Endpoint that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote<'a> {
    /// The Endpoint: the newest of its cluster.
    pub endpoint: &'a Endpoint,
    /// Its subnets that can be reached: in order, each once.
    pub subnets: Vec<IpNet>,
}

/// Other clusters in the order of their identifiers, and what is wrong with them.
///
/// A subnet that overlaps one of ours, one of another remote cluster, or addresses that are never remote is left
/// out and named in the condition `OverlappingSubnets`; the cluster's other subnets are not affected.
#[must_use]
pub fn remotes<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
    own: &ClusterId,
    local: &[IpNet],
) -> (Vec<Remote<'a>>, Vec<Condition>) {
    let mut newest: BTreeMap<&ClusterId, &Endpoint> = BTreeMap::new();
    for endpoint in endpoints.filter(|e| e.cluster != *own) {
        let slot = newest.entry(&endpoint.cluster).or_insert(endpoint);
        if (endpoint.created, &endpoint.name) > (slot.created, &slot.name) {
            *slot = endpoint;
        }
    }
    let mut remotes: Vec<Remote<'_>> = Vec::new();
    let mut problems = Vec::new();
    for endpoint in newest.into_values() {
        let mut subnets: Vec<IpNet> = Vec::new();
        for net in &endpoint.subnets {
            match refusal(net, local, &remotes) {
                Some(why) => problems.push(format!("{net} of Endpoint {}: {why}", endpoint.name)),
                None if subnets.contains(net) => {}
                None => subnets.push(*net),
            }
        }
        subnets.sort();
        remotes.push(Remote { endpoint, subnets });
    }
    let condition = (!problems.is_empty()).then(|| {
        Condition::degraded(
            "OverlappingSubnets",
            format!(
                "these remote subnets are not routed: {}",
                problems.join("; ")
            ),
        )
    });
    (remotes, condition.into_iter().collect())
}

fn refusal(net: &IpNet, local: &[IpNet], others: &[Remote<'_>]) -> Option<String> {
    if let Some(why) = never_remote(net) {
        return Some(why.to_owned());
    }
    if let Some(own) = local.iter().find(|own| overlap(own, net)) {
        return Some(format!("it overlaps {own} of this cluster"));
    }
    others.iter().find_map(|other| {
        let theirs = other.subnets.iter().find(|theirs| overlap(theirs, net))?;
        Some(format!(
            "it overlaps {theirs} of cluster {}",
            other.endpoint.cluster
        ))
    })
}
