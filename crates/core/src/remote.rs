//! Other clusters' Endpoints: which one counts, which of its subnets can be reached, and where its gateway is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::vtep::Vxlan;
use strait_api::{ClusterId, Endpoint};
use strait_host::{Family, Mac};

use crate::Condition;
use crate::condition::some;
use crate::driver::Driver;
use crate::net::{ip_of, never_remote, overlap};

/// Another cluster, by its Endpoint that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote<'a> {
    /// The Endpoint: the newest of its cluster.
    pub endpoint: &'a Endpoint,
    /// Its subnets that can be reached: in order, IPv4 first, each once.
    pub subnets: Vec<IpNet>,
    /// Families in which its gateway's address inside the cable is somebody else's already.
    pub indistinct: BTreeSet<Family>,
    /// What of the Endpoint is not used, and why.
    pub refused: Vec<String>,
}

impl Remote<'_> {
    /// Its gateway's private address in a family, unless the cable can't tell it from another's.
    #[must_use]
    pub fn private_ip(&self, family: Family) -> Option<IpAddr> {
        ip_of(&self.endpoint.private_ips, family).filter(|_| !self.indistinct.contains(&family))
    }

    /// Its subnets of a family that can be reached.
    #[must_use]
    pub fn subnets_of(&self, family: Family) -> &[IpNet] {
        let v6 = self
            .subnets
            .partition_point(|net| Family::of_net(net) == Family::V4);
        let (first, second) = self.subnets.split_at(v6);
        match family {
            Family::V4 => first,
            Family::V6 => second,
        }
    }

    /// The Ethernet address that it publishes, if that is derived from one of its addresses, as ours are: who could
    /// publish another cluster's would get what is sent to that.
    #[must_use]
    pub fn vtep_mac(&self) -> Option<Mac> {
        derived_mac(self.endpoint)
    }
}

fn derived_mac(endpoint: &Endpoint) -> Option<Mac> {
    let published = endpoint.vtep_mac?;
    let mut own = endpoint.private_ips.iter();
    own.any(|ip| Vxlan::Gateways.mac(*ip) == published)
        .then_some(Mac(published))
}

/// What nobody else may claim.
#[derive(Debug, Clone, Default)]
pub struct Ours {
    /// Pod and service CIDRs.
    pub cidrs: Vec<IpNet>,
    /// Addresses of this cluster's nodes, and of the routers that this host sends by, with what they are.
    pub addresses: BTreeMap<IpAddr, String>,
    /// Private addresses of this cluster's gateway.
    pub gateway: BTreeSet<IpAddr>,
}

/// Other clusters, those that are there for longest first and of one second in the order of their identifiers, and what is wrong with them.
///
/// Of two that claim the same, the first has it: a newcomer takes no traffic from anybody. A cluster is as old as the oldest of its Endpoints says, so
/// that it is not young again because another gateway took over.
///
/// * `OverlappingSubnets`: a subnet that overlaps one of ours, one of another remote cluster that was there before, addresses that are
///   never remote, or that would take traffic from our own nodes, is left out; the cluster's other subnets are not affected.
/// * `CableAddressConflict`: a gateway's address is one of ours, or is inside the cable that of a cluster that was there before.
/// * `SeveralEndpoints`: the newest of a cluster counts.
/// * `InvalidObject`: a subnet that can't be read is left out; one with host bits is used without them.
/// * `InvalidStandbys`: what an Endpoint says of gateways that may take its place can't be used.
#[must_use]
pub fn remotes<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
    own: &ClusterId,
    ours: &Ours,
) -> (Vec<Remote<'a>>, Vec<Condition>) {
    let mut every: Vec<&Endpoint> = endpoints.collect();
    every.sort_by(|a, b| (&a.cluster, a.order()).cmp(&(&b.cluster, b.order())));
    let mut counting: Vec<(i64, &Endpoint, Option<String>)> = Vec::new();
    let (mut overlaps, mut conflicts, mut several) = (Vec::new(), Vec::new(), Vec::new());
    let (mut unusable, mut odd) = (Vec::new(), Vec::new());
    for all in every.chunk_by(|a, b| a.cluster == b.cluster) {
        let Some(endpoint) = all.last() else {
            continue;
        };
        let cluster = &endpoint.cluster;
        let others = (all.len() > 1).then(|| {
            let names: Vec<&str> = all.iter().map(|e| e.name.as_str()).collect();
            format!(
                "cluster {cluster} has {}, of which the newest counts, {}",
                names.join(", "),
                endpoint.name
            )
        });
        several.extend(others.clone());
        if let Some(these) = &endpoint.odd_subnets {
            let message = format!("Endpoints {}: {}", endpoint.name, these.0.join("; "));
            odd.push(Condition::degraded("InvalidObject", message));
        }
        if cluster != own {
            let since = all.iter().map(|e| e.since).min().unwrap_or(endpoint.since);
            counting.push((since, endpoint, others));
        }
    }
    // Stable: those of one age stay in the order of their identifiers.
    counting.sort_by_key(|(since, ..)| *since);
    let contested = contested(&counting.iter().map(|(_, e, _)| *e).collect::<Vec<_>>());
    let mut remotes: Vec<Remote<'_>> = Vec::new();
    let mut taken = Taken::default();
    let mut inner: BTreeMap<IpAddr, Option<&ClusterId>> = ours
        .gateway
        .iter()
        .map(|ip| (Vxlan::Gateways.inner(*ip), None))
        .collect();
    for (_, endpoint, others) in counting {
        let mut refused: Vec<String> = others.into_iter().collect();
        let odd = endpoint.odd_subnets.iter();
        refused.extend(odd.flat_map(|these| these.0.iter().cloned()));
        let mut subnets: Vec<IpNet> = Vec::with_capacity(endpoint.subnets.len());
        for net in &endpoint.subnets {
            let others = contested.contains(net).then_some(&taken);
            match refusal(net, ours, others) {
                Some(why) => {
                    overlaps.push(format!("{net} of Endpoint {}: {why}", endpoint.name));
                    refused.push(format!("{net} is not routed: {why}"));
                }
                None => subnets.push(*net),
            }
        }
        subnets.sort();
        subnets.dedup();
        for net in subnets.iter().filter(|net| contested.contains(*net)) {
            taken.insert(*net, &endpoint.cluster);
        }
        let claims = claims(endpoint, ours);
        refused.extend(claims.iter().cloned());
        conflicts.extend(claims);
        let why = endpoint.bad_standbys.iter();
        let why = why.map(|why| format!("Endpoint {}: {why}", endpoint.name));
        refused.extend(why.clone());
        unusable.extend(why);
        let indistinct = indistinct(endpoint, ours, &mut inner, &mut conflicts);
        remotes.push(Remote {
            endpoint,
            subnets,
            indistinct,
            refused,
        });
    }
    let say = |name, before: &str, all: Vec<String>| {
        let message = format!("{before}{}", some(&all, "; "));
        (!all.is_empty()).then(|| Condition::degraded(name, message).of(all.len()))
    };
    let conditions = [
        say(
            "OverlappingSubnets",
            "these remote subnets are not routed: ",
            overlaps,
        ),
        say("CableAddressConflict", "", conflicts),
        say("SeveralEndpoints", "", several),
        say("InvalidStandbys", "", unusable),
    ];
    odd.extend(conditions.into_iter().flatten());
    (remotes, odd)
}

/// The subnets of which another cluster has a part. Mostly there are none, and nobody needs to be asked for his.
fn contested(endpoints: &[&Endpoint]) -> BTreeSet<IpNet> {
    let of_each = endpoints.iter().enumerate();
    let mut all: Vec<(IpNet, usize)> = of_each
        .flat_map(|(of, endpoint)| endpoint.subnets.iter().map(move |net| (*net, of)))
        .collect();
    // In order, what holds others comes right before them.
    all.sort_unstable();
    let mut contested = BTreeSet::new();
    let mut rest = all.as_slice();
    while let Some((widest, first)) = rest.first() {
        let inside = rest.iter().take_while(|(net, _)| widest.contains(net));
        let (inside, others) = rest.split_at(inside.count().max(1));
        if inside.iter().any(|(_, of)| of != first) {
            contested.extend(inside.iter().map(|(net, _)| *net));
        }
        rest = others;
    }
    contested
}

/// Contested subnets of clusters that came earlier, by their first address. No two overlap: of those of one cluster that do, the widest stands
/// for all.
#[derive(Default)]
struct Taken<'a>(BTreeMap<IpAddr, (IpNet, &'a ClusterId)>);

impl<'a> Taken<'a> {
    fn insert(&mut self, net: IpNet, of: &'a ClusterId) {
        let (first, last) = (net.network(), net.broadcast());
        let taken = self.overlapping(&net);
        if taken.is_some_and(|(wider, _)| wider.contains(&net)) {
            return;
        }
        let inside: Vec<IpAddr> = self.0.range(first..=last).map(|(ip, _)| *ip).collect();
        for ip in inside {
            self.0.remove(&ip);
        }
        self.0.insert(first, (net, of));
    }

    /// One that shares an address with this one.
    fn overlapping(&self, net: &IpNet) -> Option<(IpNet, &'a ClusterId)> {
        // Of prefixes that overlap one contains the other. If any begins inside this one, the last that begins before its end
        // does; else only that can contain it.
        let (_, last) = self.0.range(..=net.broadcast()).next_back()?;
        Some(*last).filter(|(taken, _)| overlap(taken, net))
    }
}

fn refusal(net: &IpNet, ours: &Ours, taken: Option<&Taken<'_>>) -> Option<String> {
    if let Some(why) = never_remote(net) {
        return Some(why.to_owned());
    }
    if let Some(own) = ours.cidrs.iter().find(|own| overlap(own, net)) {
        return Some(format!("it overlaps {own} of this cluster"));
    }
    let mut inside = ours.addresses.range(net.network()..=net.broadcast());
    if let Some((ip, what)) = inside.next() {
        return Some(format!("it contains {ip} of {what}"));
    }
    let (theirs, cluster) = taken?.overlapping(net)?;
    Some(format!(
        "it overlaps {theirs} of cluster {cluster}, which was there first"
    ))
}

/// Addresses of an Endpoint that are ours.
fn claims(endpoint: &Endpoint, ours: &Ours) -> Vec<String> {
    let addresses = endpoint.private_ips.iter().chain(&endpoint.public_ips);
    let claimed: BTreeSet<(&IpAddr, &String)> = addresses
        .filter_map(|ip| Some((ip, ours.addresses.get(ip)?)))
        .collect();
    let say = |(ip, what)| format!("Endpoint {} says {ip}, which is of {what}", endpoint.name);
    let mut claims: Vec<String> = claimed.into_iter().map(say).collect();
    if let (Some(mac), None) = (endpoint.vtep_mac, derived_mac(endpoint)) {
        claims.push(format!(
            "Endpoint {} publishes the Ethernet address {}, which is not derived from its addresses: it is not used",
            endpoint.name,
            Mac(mac)
        ));
    }
    claims
}

/// The families in which an Endpoint has an address inside the cable that somebody before it has, our own gateway where no cluster
/// is named; of those that this cluster has.
fn indistinct<'a>(
    endpoint: &'a Endpoint,
    ours: &Ours,
    inner: &mut BTreeMap<IpAddr, Option<&'a ClusterId>>,
    conflicts: &mut Vec<String>,
) -> BTreeSet<Family> {
    let mut families = BTreeSet::new();
    // Only there a gateway's address is derived from the one outside.
    if endpoint.backend != Driver::Vxlan.name() {
        return families;
    }
    let is_ours = |family: &Family| ours.cidrs.iter().any(|net| Family::of_net(net) == *family);
    for family in Family::ALL.into_iter().filter(is_ours) {
        let Some(private) = ip_of(&endpoint.private_ips, family) else {
            continue;
        };
        let address = Vxlan::Gateways.inner(private);
        if let Some(other) = inner.get(&address) {
            families.insert(family);
            let other = other.map_or("this cluster".to_owned(), |id| format!("cluster {id}"));
            conflicts.push(format!(
                "Endpoint {} with {private} would have {address} inside the cable, which {other} has already: it is not reached over {family}",
                endpoint.name
            ));
        } else {
            inner.insert(address, Some(&endpoint.cluster));
        }
    }
    families
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
