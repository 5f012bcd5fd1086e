//! The state as one plan sees it: who is who, per family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::vtep::Vxlan;
use strait_api::{Endpoint, Node};
use strait_host::{Family, Host, Mac};

use super::State;
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

/// One family, as one plan sees it.
#[derive(Debug)]
pub(super) struct FamilyView<'a> {
    pub family: Family,
    pub underlay: Option<Underlay>,
    pub cni: Option<CniAddress>,
    /// Pod CIDRs of this cluster.
    pub pods: Vec<IpNet>,
    /// Remote clusters with subnets of this family.
    pub remotes: Vec<(&'a Endpoint, Vec<IpNet>)>,
    /// The gateway, on a worker.
    pub gateway: Option<Peer>,
    /// The other nodes.
    pub nodes: BTreeMap<String, Peer>,
}

impl FamilyView<'_> {
    /// All remote subnets, in order.
    pub(super) fn subnets(&self) -> BTreeSet<IpNet> {
        self.remotes.iter().flat_map(|(_, s)| s).copied().collect()
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
        remotes: &[Remote<'a>],
    ) -> FamilyView<'a> {
        let v6 = family == Family::V6;
        let pods: Vec<IpNet> = of_family(&self.settings.cluster_cidrs, family)
            .copied()
            .collect();
        let nodes = self.other_nodes(family);
        let others: BTreeSet<IpAddr> = self
            .nodes
            .iter()
            .filter(|(n, _)| *n != self.settings.node)
            .flat_map(|(_, n)| n.internal_ips.clone())
            .collect();
        let internal = self
            .nodes
            .get(&self.settings.node)
            .and_then(|n| n.internal_ip(v6));
        let gateway = self
            .gateway
            .as_ref()
            .filter(|_| self.role() == Role::Worker)
            .and_then(|g| {
                let outer = g.private_ip(v6)?;
                Some(Peer {
                    outer,
                    mac: self.mac_of(outer, &g.hostname),
                })
            });
        let remotes = remotes
            .iter()
            .map(|r| {
                (
                    r.endpoint,
                    of_family(&r.subnets, family).copied().collect::<Vec<_>>(),
                )
            })
            .filter(|(_, subnets)| !subnets.is_empty())
            .collect();
        FamilyView {
            family,
            underlay: underlay(host, family, internal, &every_link()),
            cni: cni_address(host, family, &pods, &every_link(), &others),
            pods,
            remotes,
            gateway,
            nodes,
        }
    }

    fn other_nodes(&self, family: Family) -> BTreeMap<String, Peer> {
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
                        mac: self.agent_mac(name),
                    },
                ))
            })
            .collect()
    }

    fn agent_mac(&self, node: &str) -> Option<Mac> {
        self.agents.get(node)?.vtep_mac.map(Mac)
    }

    /// The published Ethernet address of the node with this address, or else of the one with this name.
    fn mac_of(&self, outer: IpAddr, hostname: &str) -> Option<Mac> {
        let has = |n: &Node| n.internal_ips.contains(&outer);
        let node = self
            .nodes
            .iter()
            .find(|(_, n)| has(n))
            .map_or(hostname, |(name, _)| name);
        self.agent_mac(node)
    }
}
