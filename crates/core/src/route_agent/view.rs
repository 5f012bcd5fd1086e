//! The state as one plan sees it: who is who, per family.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::names::{LINK_ALIAS, NODE_VXLAN_PORT, NODE_VXLAN_VNI};
use strait_api::vtep::Vxlan;
use strait_api::{Endpoint, Node};
use strait_host::{Family, Fdb, Host, Link, LinkKind, Mac, Neighbour};

use super::State;
use super::routes::device;
use crate::local::{CniAddress, Underlay, cni_address, every_link, underlay};
use crate::net::of_family;
use crate::remote::Remote;

/// What this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The gateway's node.
    Gateway,
    /// Any other, while there is a gateway.
    Worker,
    /// There is no gateway.
    NoGateway,
}

/// Another node of this cluster, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// Address on the nodes' network.
    pub outer: IpAddr,
    /// Ethernet address of its VXLAN device, where it publishes one.
    pub mac: Option<Mac>,
}

/// Another cluster, in one family.
#[derive(Debug)]
pub(super) struct RemoteView<'a> {
    pub endpoint: &'a Endpoint,
    pub subnets: &'a [IpNet],
    /// Its gateway's private address, if a cable can use it.
    pub private: Option<IpAddr>,
}

/// One family, as one plan sees it.
#[derive(Debug)]
pub(super) struct FamilyView<'a> {
    pub family: Family,
    pub underlay: Option<Underlay>,
    pub cni: Option<CniAddress>,
    /// Pod CIDRs of this cluster.
    pub pods: Vec<IpNet>,
    /// Remote clusters with subnets of this family.
    pub remotes: Vec<RemoteView<'a>>,
    /// All their subnets, in order, each once.
    pub subnets: Vec<IpNet>,
    /// The gateway, on a worker that can tell it from itself.
    pub gateway: Option<Peer>,
    /// The other nodes.
    pub nodes: BTreeMap<String, Peer>,
}

impl FamilyView<'_> {
    /// The other nodes, each of which can be told from this one and the others inside the VXLAN: of those that can't, the
    /// gateway, or the one whose address shares the most with this node's, so that one that is out of place ousts none. An Ethernet address that two publish is taken for that of the first only.
    pub(super) fn distinct_nodes(&self) -> Vec<Peer> {
        let mut nodes: Vec<&Peer> = self.nodes.values().collect();
        let own = self.underlay.as_ref().map(|u| u.ip);
        let shared = |peer: &Peer| own.map_or(0, |own| shared_bits(own, peer.outer));
        nodes.sort_by_key(|peer| (Reverse(shared(peer)), peer.outer));
        let mut inners: BTreeSet<IpAddr> = self.vtep().into_iter().collect();
        let mut macs = BTreeSet::new();
        let mut distinct = Vec::new();
        for peer in self.gateway.iter().chain(nodes) {
            if inners.insert(Vxlan::Nodes.inner(peer.outer)) {
                let mac = peer.mac.filter(|mac| macs.insert(*mac));
                distinct.push(Peer {
                    outer: peer.outer,
                    mac,
                });
            }
        }
        distinct
    }

    /// This node's address inside the nodes' VXLAN.
    pub(super) fn vtep(&self) -> Option<IpAddr> {
        self.underlay.as_ref().map(|u| Vxlan::Nodes.inner(u.ip))
    }
}

impl State {
    pub(super) fn role(&self) -> Role {
        match &self.gateway {
            Some(gateway) if gateway.hostname == self.settings.hostname => Role::Gateway,
            Some(_) => Role::Worker,
            None => Role::NoGateway,
        }
    }

    pub(super) fn family_view<'a>(
        &'a self,
        host: &Host,
        family: Family,
        remotes: &'a [Remote<'a>],
    ) -> FamilyView<'a> {
        let v6 = family == Family::V6;
        let pods: Vec<IpNet> = of_family(&self.settings.cluster_cidrs, family)
            .copied()
            .collect();
        let nodes = self.other_nodes(host, family);
        let others: BTreeSet<IpAddr> = self
            .nodes
            .iter()
            .filter(|(n, _)| *n != self.settings.node)
            .flat_map(|(_, n)| n.internal_ips.clone())
            .collect();
        let underlay = self.underlay(host, family);
        let own = underlay.as_ref().map(|u| Vxlan::Nodes.inner(u.ip));
        let gateway = self
            .gateway
            .as_ref()
            .filter(|_| self.role() == Role::Worker)
            .and_then(|g| {
                let outer = g
                    .private_ip(v6)
                    .filter(|ip| Some(Vxlan::Nodes.inner(*ip)) != own)?;
                Some(Peer {
                    outer,
                    mac: self.mac_of(host, family, outer, &g.hostname),
                })
            });
        let remotes: Vec<RemoteView<'a>> = remotes
            .iter()
            .map(|r| RemoteView {
                endpoint: r.endpoint,
                subnets: r.subnets_of(family),
                private: r.private_ip(family),
            })
            .filter(|r| !r.subnets.is_empty())
            .collect();
        let mut subnets: Vec<IpNet> = remotes.iter().flat_map(|r| r.subnets).copied().collect();
        subnets.sort_unstable();
        subnets.dedup();
        FamilyView {
            family,
            underlay,
            cni: cni_address(host, family, &pods, &every_link(), &others),
            pods,
            remotes,
            subnets,
            gateway,
            nodes,
        }
    }

    pub(super) fn underlay(&self, host: &Host, family: Family) -> Option<Underlay> {
        let node = self.nodes.get(&self.settings.node);
        let internal = node.and_then(|n| n.internal_ip(family == Family::V6));
        underlay(host, family, internal, &every_link())
    }

    fn other_nodes(&self, host: &Host, family: Family) -> BTreeMap<String, Peer> {
        let others = self
            .nodes
            .iter()
            .filter(|(name, _)| *name != self.settings.node);
        others
            .filter_map(|(name, node)| {
                let outer = node.internal_ip(family == Family::V6)?;
                Some((
                    name.to_owned(),
                    Peer {
                        outer,
                        mac: self.peer_mac(host, family, outer, name),
                    },
                ))
            })
            .collect()
    }

    /// The Ethernet address of another node's VXLAN device: as it publishes it. While RouteAgents are not known, that for which
    /// exact entries stand; a node without those is flooded, which finds it whatever it has.
    fn peer_mac(&self, host: &Host, family: Family, outer: IpAddr, node: &str) -> Option<Mac> {
        if self.agents.is_known() {
            self.agent_mac(family, node)
        } else {
            standing_mac(host, family, outer)
        }
    }

    fn agent_mac(&self, family: Family, node: &str) -> Option<Mac> {
        let agent = self.agents.get(node)?;
        let of_v6 = agent.vtep_mac_6.filter(|_| family == Family::V6);
        of_v6.or(agent.vtep_mac).map(Mac)
    }

    /// The Ethernet address of this node's VXLAN device of a family, as a rule the same for both. It follows from the
    /// node's address; but a device that a predecessor left keeps its own, which other nodes have learned: they would go on
    /// sending to it. This node's RouteAgent object remembers that.
    pub(super) fn mac(&self, family: Family, families: &[FamilyView<'_>]) -> Option<Mac> {
        let inherited = self.inherited_macs.get(&family).copied();
        let published = if self.agents.is_known() {
            self.agent_mac(family, &self.settings.node)
        } else {
            self.host.as_ref().and_then(|host| own_mac(host, family))
        };
        let learned = inherited.or(published.filter(is_learned));
        let (first, underlay) = families
            .iter()
            .find_map(|v| Some((v.family, v.underlay.as_ref()?)))?;
        let derived = || match self.inherited_macs.get(&first) {
            Some(mac) => *mac,
            None => Mac(Vxlan::Nodes.mac(underlay.ip)),
        };
        Some(learned.unwrap_or_else(derived))
    }

    /// The published Ethernet address of the node with this address, or else of the one with this name.
    fn mac_of(&self, host: &Host, family: Family, outer: IpAddr, hostname: &str) -> Option<Mac> {
        let has = |n: &Node| n.internal_ips.contains(&outer);
        let node = self
            .nodes
            .iter()
            .find(|(_, n)| has(n))
            .map_or(hostname, |(name, _)| name);
        self.peer_mac(host, family, outer, node)
    }
}

/// The Ethernet address by which a node is reached at present, if both of the entries that takes stand: its neighbour entry and where
/// that address is.
fn standing_mac(host: &Host, family: Family, outer: IpAddr) -> Option<Mac> {
    let link = device(family).to_owned();
    let first = Neighbour {
        link: link.clone(),
        ip: Vxlan::Nodes.inner(outer),
        mac: Mac::ZERO,
    };
    let (name, ip) = (link.clone(), first.ip);
    let found = host.neighbours.range(first..).next();
    let mac = found.filter(|n| (&n.link, n.ip) == (&name, ip))?.mac;
    let entry = Fdb {
        link,
        mac,
        dst: outer,
        port: None,
    };
    host.fdb.contains(&entry).then_some(mac)
}

/// The Ethernet address of this node's own VXLAN device, where that is there.
fn own_mac(host: &Host, family: Family) -> Option<Mac> {
    let link = host.links.get(device(family))?;
    link.mac
        .filter(|_| link.alias.as_deref() == Some(LINK_ALIAS))
}

/// How many bits at the beginning two addresses share.
fn shared_bits(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    }
}

/// The nodes' VXLAN device of a family, where that is a predecessor's.
pub(super) fn inherited(host: &Host, family: Family) -> Option<&Link> {
    let link = host.links.get(device(family))?;
    let LinkKind::Vxlan(vxlan) = &link.kind else {
        return None;
    };
    let ours = link.alias.as_deref() == Some(LINK_ALIAS);
    let same = (vxlan.vni, vxlan.port) == (NODE_VXLAN_VNI, NODE_VXLAN_PORT);
    (same && !ours).then_some(link)
}

/// The Ethernet addresses of those, unless they are of our making.
pub(super) fn inherited_macs(host: &Host) -> impl Iterator<Item = (Family, Mac)> + '_ {
    let mac = |family| Some((family, inherited(host, family)?.mac.filter(is_learned)?));
    Family::ALL.into_iter().filter_map(mac)
}

/// Whether an Ethernet address is another than we would have given.
fn is_learned(mac: &Mac) -> bool {
    mac.is_unicast() && !Vxlan::Nodes.gives(mac.0)
}
