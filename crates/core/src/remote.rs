//! Other clusters' Endpoints: which one counts, and which of its subnets can be reached.

use std::collections::BTreeMap;
use std::net::IpAddr;

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
    let mut taken = Taken::default();
    for endpoint in newest.into_values() {
        let mut subnets: Vec<IpNet> = Vec::new();
        for net in &endpoint.subnets {
            match refusal(net, local, &taken) {
                Some(why) => problems.push(format!("{net} of Endpoint {}: {why}", endpoint.name)),
                None => subnets.push(*net),
            }
        }
        subnets.sort();
        subnets.dedup();
        for net in &subnets {
            taken.insert(*net, &endpoint.cluster);
        }
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

/// Subnets of clusters that came earlier, by their first address; those of two clusters never overlap.
#[derive(Default)]
struct Taken<'a>(BTreeMap<IpAddr, Vec<(IpNet, &'a ClusterId)>>);

impl<'a> Taken<'a> {
    fn insert(&mut self, net: IpNet, of: &'a ClusterId) {
        self.0.entry(net.network()).or_default().push((net, of));
    }

    /// One that shares an address with this one.
    fn overlapping(&self, net: &IpNet) -> Option<(IpNet, &'a ClusterId)> {
        // Of prefixes, one contains the other: either one begins inside this one, or this one lies in one that begins before it.
        let inside = self.0.range(net.network()..=net.broadcast());
        let found = inside.flat_map(|(_, nets)| nets).next();
        found.or_else(|| self.around(net)).copied()
    }

    /// One that contains it, by each prefix length that there can be.
    fn around(&self, net: &IpNet) -> Option<&(IpNet, &'a ClusterId)> {
        let mut wider = net.supernet();
        while let Some(this) = wider {
            let begins_here = self.0.get(&this.network()).into_iter().flatten();
            let mut containing = begins_here.filter(|(taken, _)| taken.contains(net));
            if let Some(found) = containing.next() {
                return Some(found);
            }
            wider = this.supernet();
        }
        None
    }
}

fn refusal(net: &IpNet, local: &[IpNet], taken: &Taken<'_>) -> Option<String> {
    if let Some(why) = never_remote(net) {
        return Some(why.to_owned());
    }
    if let Some(own) = local.iter().find(|own| overlap(own, net)) {
        return Some(format!("it overlaps {own} of this cluster"));
    }
    let (theirs, cluster) = taken.overlapping(net)?;
    Some(format!("it overlaps {theirs} of cluster {cluster}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few addresses, so that they overlap.
    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (0u8..8, 0u8..4, 6u8..=32).prop_map(|(a, b, len)| {
            IpNet::new([a, 0, b, 0].into(), len).map_or_else(|_| unreachable!(), |n| n.trunc())
        });
        let v6 = (0u16..8, 0u16..4, 14u8..=128).prop_map(|(a, b, len)| {
            IpNet::new([a, b, 0, 0, 0, 0, 0, 0].into(), len)
                .map_or_else(|_| unreachable!(), |n| n.trunc())
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn a_subnet_is_taken_if_it_overlaps_one_of_those_that_came_before(
            nets in proptest::collection::vec(net(), 0..40), asked in net(),
        ) {
            let cluster: ClusterId = "east".parse().unwrap();
            let mut taken = Taken::default();
            for net in &nets {
                taken.insert(*net, &cluster);
            }
            let found = taken.overlapping(&asked).map(|(net, _)| net);
            prop_assert_eq!(found.is_some(), nets.iter().any(|net| overlap(net, &asked)));
            prop_assert!(found.is_none_or(|net| overlap(&net, &asked) && nets.contains(&net)));
        }
    }
}
