//! What is not as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::vtep::Vxlan;
use strait_host::{Family, Host};

use super::State;
use super::firewall::Seen;
use super::view::{FamilyView, Role};
use crate::Condition;
use crate::condition::some;
use crate::local::{every_link, seen};

/// How many objects of a kind a message names.
const NAMED: usize = 5;
/// They tell of Ethernet addresses only: a node finds its way without.
const AGENTS: &str = "RouteAgents";

impl State {
    pub(super) fn source_conditions(&self) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut source = |what: &str,
                          known: bool,
                          held: bool,
                          failure: Option<&str>,
                          rejected: Vec<(&str, &str)>| {
            let why = failure.map(|f| format!(" ({f})")).unwrap_or_default();
            if !known && what == AGENTS {
                let message = format!(
                    "the list of {what} has not come yet{why}; entries towards nodes stay as they are, and nodes without one are asked for by ARP"
                );
                conditions.push(Condition::degraded("InputsUnknown", message));
            } else if !known {
                let message = format!(
                    "the list of {what} has not come yet{why}; what a predecessor left in the kernel stays"
                );
                conditions.push(Condition::not_ready("InputsUnknown", message));
            } else if let Some(failure) = failure {
                conditions.push(Condition::degraded(
                    "ApiUnreachable",
                    format!("watching {what}: {failure}"),
                ));
            }
            if held {
                let message = format!(
                    "all {what} vanished at once; they are kept for 30 s in case that is a fault"
                );
                conditions.push(Condition::degraded("SourceHeld", message));
            }
            for (name, why) in rejected {
                conditions.push(Condition::degraded(
                    "InvalidObject",
                    format!("{what} {name}: {why}"),
                ));
            }
        };
        let s = &self.endpoints;
        source(
            "Endpoints",
            s.is_known(),
            s.is_held(),
            s.failure(),
            s.rejected().collect(),
        );
        let s = &self.nodes;
        source(
            "Nodes",
            s.is_known(),
            s.is_held(),
            s.failure(),
            s.rejected().collect(),
        );
        let s = &self.agents;
        source(
            AGENTS,
            s.is_known(),
            s.is_held(),
            s.failure(),
            s.rejected().collect(),
        );
        let s = &self.pools.there;
        // Not known yet is no problem, and what can't be had at all is named with the pools.
        if s.is_known() {
            source("IPPools", true, s.is_held(), s.failure(), Vec::new());
        }
        if self.host.is_none() {
            conditions.push(Condition::not_ready(
                "InputsUnknown",
                "the kernel's state was not read yet".to_owned(),
            ));
        }
        conditions
    }

    pub(super) fn path_conditions(
        &self,
        host: &Host,
        families: &[FamilyView<'_>],
    ) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let role = self.role();
        if role == Role::NoGateway || self.gateway_lost.is_some() {
            let message = format!(
                "no Endpoint of cluster {} in namespace {}: remote clusters can't be reached",
                self.settings.cluster, self.settings.namespace
            );
            conditions.push(Condition::degraded("NoLocalGateway", message));
        }
        if let Some(Err(why)) = self.clamp_mss() {
            let message = format!("Node {}: {why}", self.settings.node);
            conditions.push(Condition::degraded("InvalidAnnotation", message));
        }
        for view in families {
            if view.underlay.is_none() {
                let message = format!(
                    "no {} address of this host: neither the InternalIP of Node {} nor a default route's; interfaces seen: {}",
                    view.family,
                    self.settings.node,
                    seen(host, view.family, &every_link())
                );
                conditions.push(Condition::not_ready("NodeAddressNotFound", message));
            }
            if view.cni.is_none() {
                let cidrs: Vec<String> = view.pods.iter().map(ToString::to_string).collect();
                let meanwhile = match role {
                    Role::Worker => {
                        "this host reaches remote clusters with the gateway's CNI address, if that has one, until one appears"
                    }
                    Role::Gateway => {
                        "this host, and workers without a CNI address, can't reach remote clusters until one appears"
                    }
                    Role::NoGateway => "there is no gateway either",
                };
                // The beginning is what people search logs for: upstream's words.
                let message = format!(
                    "Error discovering the CNI interface: no {} address in {} on an interface that is up; interfaces seen: {}; {meanwhile}",
                    view.family,
                    cidrs.join(", "),
                    seen(host, view.family, &every_link()),
                );
                conditions.push(Condition::degraded("CniInterfaceNotFound", message));
            }
            conditions.extend(self.collisions(view));
            conditions.extend(self.addresses_not_found(view));
            if view.family == Family::V6 && ipv6_forwarding(host) == Some(false) {
                let message = format!(
                    "this host does not forward IPv6, and has a route by a router advertisement, which it would lose with forwarding: set accept_ra of that interface to 2, then {IPV6_FORWARDING} to 1"
                );
                conditions.push(Condition::degraded("Ipv6ForwardingOff", message));
            }
            conditions.extend(self.vtep_mismatch(view));
            conditions.extend(self.self_test_condition(view));
        }
        conditions.extend(self.foreign_agents());
        let seen = Seen {
            subnets: families.iter().flat_map(|v| &v.subnets).copied().collect(),
            cable: self.cable_port(host, families).map(|cable| cable.port),
            arrivals: self.back(host, families).arrivals,
        };
        conditions.extend(self.firewall.conditions(&seen));
        let own = families.iter().map(|v| v.family).collect();
        conditions.extend(self.firewall.nat_condition(&own));
        conditions
    }

    /// Nodes that get the same address inside the VXLAN: only the last three octets of theirs count.
    fn collisions(&self, view: &FamilyView<'_>) -> Option<Condition> {
        let mut by_inner: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
        let own = view.underlay.iter().map(|u| u.ip);
        let v6 = view.family == Family::V6;
        let gateway = self.gateway.iter().filter(|_| self.role() == Role::Worker);
        let gateway = gateway.filter_map(|g| g.private_ip(v6));
        for outer in view
            .nodes
            .values()
            .map(|p| p.outer)
            .chain(own)
            .chain(gateway)
        {
            by_inner
                .entry(Vxlan::Nodes.inner(outer))
                .or_default()
                .insert(outer);
        }
        let clashes: Vec<String> = by_inner
            .iter()
            .filter(|(_, outers)| outers.len() > 1)
            .map(|(inner, outers)| {
                let outers: Vec<String> = outers.iter().map(ToString::to_string).collect();
                format!("{inner} stands for {}", outers.join(" and "))
            })
            .collect();
        (!clashes.is_empty())
            .then(|| Condition::degraded("VtepCollision", some(&clashes, "; ")).of(clashes.len()))
    }

    /// Nodes of this cluster on which another agent than ours is at work, or was.
    fn foreign_agents(&self) -> Option<Condition> {
        let nodes: Vec<&str> = self
            .agents
            .iter()
            .filter(|(node, agent)| !agent.ours && *node != self.settings.node)
            .map(|(node, _)| node)
            .filter(|node| self.nodes.get(node).is_some())
            .collect();
        let (named, more) = nodes.split_at(nodes.len().min(NAMED));
        let more = match more.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!nodes.is_empty()).then(|| {
            let message = format!(
                "another agent than ours has written the RouteAgent of these nodes: {}{more}; Submariner's and ours in one cluster are not supported: run `strait route-agent` there",
                named.join(", ")
            );
            Condition::degraded("ForeignAgent", message)
        })
    }

    /// A gateway that publishes no address, and on it, nodes that have none.
    fn addresses_not_found(&self, view: &FamilyView<'_>) -> Vec<Condition> {
        let (family, v6) = (view.family, view.family == Family::V6);
        let mut conditions = Vec::new();
        if let Some(gateway) = self.gateway.as_ref().filter(|g| g.private_ip(v6).is_none()) {
            let message = format!(
                "Endpoint {} of this cluster's gateway has no {family} private address: its nodes can't send to it over {family}",
                gateway.name
            );
            conditions.push(Condition::degraded("GatewayAddressNotFound", message));
        }
        let others = self.nodes.iter().filter(|(n, _)| *n != self.settings.node);
        let mut without = others.filter(|(_, node)| node.internal_ip(v6).is_none());
        if let (Role::Gateway, Some((first, _))) = (self.role(), without.next()) {
            let more = match without.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let message = format!(
                "Node {first}{more} has no {family} InternalIP: it can't use this gateway over {family}"
            );
            conditions.push(Condition::degraded("PeerAddressNotFound", message));
        }
        conditions
    }

    /// Other nodes derive this node's inner address from an object, we from the host: they must agree.
    fn vtep_mismatch(&self, view: &FamilyView<'_>) -> Option<Condition> {
        let (family, v6) = (view.family, view.family == Family::V6);
        let own = view.underlay.as_ref()?.ip;
        let node = &self.settings.node;
        let message = match self.role() {
            Role::Gateway => {
                let gateway = self.gateway.as_ref()?;
                let published = gateway.private_ip(v6).filter(|ip| *ip != own)?;
                format!(
                    "this node's Endpoint {} says {published}, but this host's address is {own}: workers send to where nobody listens",
                    gateway.name
                )
            }
            Role::Worker => {
                let said = self.nodes.get(node).and_then(|n| n.internal_ip(v6));
                let said = match said {
                    Some(said) if said == own => return None,
                    Some(said) => format!("Node {node} says {said}, which this host does not have"),
                    None => format!("Node {node} has no {family} InternalIP"),
                };
                format!(
                    "{said}: this host sends from {own}, from where the gateway takes nothing, so remote clusters can't be reached over {family}; give the Node and the host the same address (the kubelet's --node-ip says which)"
                )
            }
            Role::NoGateway => return None,
        };
        Some(Condition::degraded("VtepMismatch", message))
    }
}

/// Forwarding of IPv6, below `/proc/sys`: only that of all links counts (net/ipv6/ip6_output.c, `ip6_forward`).
pub(super) const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";
/// `RTPROT_RA` in linux/rtnetlink.h: a route by a router advertisement.
const BY_ADVERTISEMENT: u8 = 9;

/// Whether we see to it that the host forwards IPv6, which makes it deaf to router advertisements; `None` where it
/// forwards, but for our doing.
pub(super) fn ipv6_forwarding(host: &Host) -> Option<bool> {
    let advertised = host
        .routes
        .iter()
        .any(|r| r.protocol == BY_ADVERTISEMENT && Family::of_net(&r.dst) == Family::V6);
    match (host.sysctl(IPV6_FORWARDING)?, advertised) {
        (0, advertised) => Some(!advertised),
        (_, true) => None,
        (_, false) => Some(true),
    }
}

/// The worst first; each once.
pub(super) fn sorted(mut conditions: Vec<Condition>) -> Vec<Condition> {
    conditions.sort_by(|a, b| {
        b.severity
            .cmp(&a.severity)
            .then_with(|| (a.name, &a.message).cmp(&(b.name, &b.message)))
    });
    conditions.dedup();
    conditions
}
