//! Links, forwarding entries, routes and rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::names::{
    LINK_ALIAS, NODE_VXLAN, NODE_VXLAN_6, NODE_VXLAN_PORT, NODE_VXLAN_VNI, ROUTE_PROTOCOL,
    RULE_UNDERLAY, TABLE_GATEWAY, TABLE_VXLAN_CABLE, UNDERLAY_MARK, VXLAN_OVERHEAD_V4,
    VXLAN_OVERHEAD_V6, WIREGUARD_OVERHEAD_V4, WIREGUARD_OVERHEAD_V6,
};
use strait_api::vtep;
use strait_host::{
    Address, Family, Fdb, Hop, Host, Link, LinkKind, Mac, Neighbour, Route, RouteKind, Rule, Scope,
    TABLE_MAIN, Vxlan,
};

use super::view::{FamilyView, Peer};
use crate::driver::Driver;

/// Metric of the guard under every route to a remote subnet: the worst there is.
pub(super) const GUARD_METRIC: u32 = u32::MAX;
/// Metric of the gateway's routes that name a source.
const SOURCE_METRIC: u32 = 10;
/// Metric of the gateway's routes without.
const PLAIN_METRIC: u32 = 20;
/// IPv4 takes 0 as it is; IPv6 would turn it into 1024.
pub(super) const fn default_metric(family: Family) -> u32 {
    match family {
        Family::V4 => 0,
        Family::V6 => 1024,
    }
}

/// Name of the nodes' VXLAN device of a family.
pub(super) const fn device(family: Family) -> &'static str {
    match family {
        Family::V4 => NODE_VXLAN,
        Family::V6 => NODE_VXLAN_6,
    }
}

/// The nodes' VXLAN device. Without `remote`: a change of role touches entries and routes only.
///
/// Nothing longer than what the cable takes fits it. Where bridges are filtered (`br_netfilter`), the kernel joins a pod's fragments and
/// cuts them anew as long as the device takes them, whatever the pod was told: over IPv6 they would never fit the next device.
pub(super) fn link(
    view: &FamilyView<'_>,
    mac: Mac,
    driver: Option<Driver>,
) -> Option<(String, Link)> {
    let underlay = view.underlay.as_ref()?;
    let overhead = match (view.family, driver) {
        (Family::V4, Some(Driver::WireGuard)) => WIREGUARD_OVERHEAD_V4,
        (Family::V6, Some(Driver::WireGuard)) => WIREGUARD_OVERHEAD_V6,
        (Family::V4, Some(Driver::Vxlan) | None) => VXLAN_OVERHEAD_V4,
        (Family::V6, Some(Driver::Vxlan) | None) => VXLAN_OVERHEAD_V6,
    };
    let link = Link {
        kind: LinkKind::Vxlan(Vxlan {
            vni: NODE_VXLAN_VNI,
            port: NODE_VXLAN_PORT,
            local: Some(underlay.ip),
            remote: None,
            learning: false,
        }),
        mtu: underlay.mtu.saturating_sub(overhead),
        up: true,
        mac: Some(mac),
        alias: Some(LINK_ALIAS.to_owned()),
        master: None,
    };
    Some((device(view.family).to_owned(), link))
}

/// The address of this node inside the nodes' VXLAN.
pub(super) fn address(view: &FamilyView<'_>) -> Option<Address> {
    let underlay = view.underlay.as_ref()?;
    let net = vtep::Vxlan::Nodes.inner_net(underlay.ip);
    Some(Address {
        link: device(view.family).to_owned(),
        net,
        scope: Scope::Global,
    })
}

/// The exact entry for a peer that publishes its Ethernet address; for another, where to flood.
pub(super) fn entries(
    family: Family,
    peers: impl IntoIterator<Item = Peer>,
) -> (BTreeSet<Neighbour>, BTreeSet<Fdb>) {
    let link = device(family).to_owned();
    let mut neighbours = BTreeSet::new();
    let mut fdb = BTreeSet::new();
    for peer in peers {
        if let Some(mac) = peer.mac {
            neighbours.insert(Neighbour {
                link: link.clone(),
                ip: vtep::Vxlan::Nodes.inner(peer.outer),
                mac,
            });
        }
        fdb.insert(Fdb {
            link: link.clone(),
            mac: peer.mac.unwrap_or(Mac::ZERO),
            dst: peer.outer,
            port: None,
        });
    }
    (neighbours, fdb)
}

/// What stands under the route to a remote subnet, so that nothing leaves in clear when that route is gone.
pub(super) fn guard(table: u32, dst: IpNet) -> Route {
    Route {
        table,
        dst,
        metric: GUARD_METRIC,
        protocol: ROUTE_PROTOCOL,
        kind: RouteKind::Unreachable,
    }
}

/// A worker's routes: by way of the gateway. No source is named: the kernel would delete the route with that address.
/// In order, so that a set of what may be thousands is quickly built of all at once.
pub(super) fn worker(view: &FamilyView<'_>) -> Vec<Route> {
    let mut routes = Vec::with_capacity(view.subnets.len() * 2);
    for dst in view.subnets.iter().copied() {
        if let (Some(gateway), Some(_)) = (&view.gateway, &view.underlay) {
            let via = vtep::Vxlan::Nodes.inner(gateway.outer);
            let metric = default_metric(view.family);
            let dev = device(view.family);
            routes.push(unicast(TABLE_MAIN, dst, metric, dev, Some(via), None));
        }
        routes.push(guard(TABLE_MAIN, dst));
    }
    routes
}

/// The cable of this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cable<'a> {
    /// Its device, if it has one by which routes lead.
    pub link: Option<&'a str>,
    /// Whether routes lead by way of the peers' addresses in a VXLAN; else the device itself knows who has what.
    pub vxlan: bool,
}

impl Cable<'_> {
    /// Its routing table, and the priority of the rule that looks it up (upstream's numbers).
    fn table(self) -> u32 {
        if self.vxlan {
            TABLE_VXLAN_CABLE
        } else {
            TABLE_GATEWAY
        }
    }
}

/// The gateway's routes over its cable, in the cable's own table.
pub(super) fn gateway(view: &FamilyView<'_>, host: &Host, cable: &Cable<'_>) -> BTreeSet<Route> {
    let table = cable.table();
    let link = cable
        .link
        .filter(|name| host.links.get(*name).is_some_and(|l| l.up));
    let mut routes = BTreeSet::new();
    for remote in &view.remotes {
        let endpoint = remote.endpoint;
        let outers: Vec<IpAddr> = endpoint
            .private_ips
            .iter()
            .chain(&endpoint.public_ips)
            .copied()
            .collect();
        for dst in remote.subnets {
            routes.insert(guard(table, *dst));
            // The cable itself must not go through the cable.
            for outer in outers.iter().filter(|ip| dst.contains(*ip)) {
                routes.insert(Route {
                    table,
                    dst: IpNet::from(*outer),
                    metric: default_metric(view.family),
                    protocol: ROUTE_PROTOCOL,
                    kind: RouteKind::Throw,
                });
            }
            let Some(link) = link else {
                continue;
            };
            let via = match (cable.vxlan, remote.private) {
                (false, _) => None,
                (true, Some(private)) => Some(vtep::Vxlan::Gateways.inner(private)),
                (true, None) => continue,
            };
            if let Some(cni) = &view.cni {
                let src = Some(cni.ip);
                routes.insert(unicast(table, *dst, SOURCE_METRIC, link, via, src));
            }
            routes.insert(unicast(table, *dst, PLAIN_METRIC, link, via, None));
        }
    }
    routes
}

fn unicast(
    table: u32,
    dst: IpNet,
    metric: u32,
    dev: &str,
    via: Option<IpAddr>,
    src: Option<IpAddr>,
) -> Route {
    let hops = vec![Hop {
        dev: Some(dev.to_owned()),
        via,
        onlink: false,
    }];
    Route {
        table,
        dst,
        metric,
        protocol: ROUTE_PROTOCOL,
        kind: RouteKind::Unicast { hops, src },
    }
}

/// The gateway's rule that looks up the cable's table first.
pub(super) fn gateway_rule(family: Family, cable: &Cable<'_>) -> Rule {
    Rule {
        family,
        priority: cable.table(),
        from: None,
        to: None,
        link: None,
        mark: None,
        table: cable.table(),
        protocol: ROUTE_PROTOCOL,
    }
}

/// The same for what comes from other nodes only, on a node that has a cable and is not the gateway.
pub(super) fn passing_rule(family: Family, cable: &Cable<'_>) -> Rule {
    Rule {
        link: Some(device(family).to_owned()),
        ..gateway_rule(family, cable)
    }
}

/// The gateway's rule before it: what gateways say to each other outside of their tunnels goes by the main table, even where
/// the other one's address is in a subnet that is reached through a tunnel.
pub(super) fn underlay_rule(family: Family) -> Rule {
    Rule {
        family,
        priority: RULE_UNDERLAY,
        from: None,
        to: None,
        link: None,
        mark: Some((UNDERLAY_MARK, u32::MAX)),
        table: TABLE_MAIN,
        protocol: ROUTE_PROTOCOL,
    }
}

/// Links by which the pods' network delivers from other nodes: those of main-table routes into a pod CIDR that
/// have a next hop, and the one with the CNI address, which may be there before its routes; never a pod's veth.
/// Replies of remote clusters arrive there, though their reverse route leads elsewhere.
pub(super) fn pod_network_links(host: &Host, view: &FamilyView<'_>) -> BTreeSet<String> {
    let shared = |link: &&String| {
        let kind = host.links.get(*link).map(|l| &l.kind);
        !matches!(kind, None | Some(LinkKind::Veth | LinkKind::Loopback))
    };
    let mut links: BTreeSet<String> = view
        .cni
        .iter()
        .map(|cni| &cni.link)
        .filter(shared)
        .cloned()
        .collect();
    let routes = host
        .routes
        .iter()
        .filter(|r| r.table == TABLE_MAIN && r.protocol != ROUTE_PROTOCOL)
        .filter(|r| view.pods.iter().any(|cidr| cidr.contains(&r.dst)));
    links.extend(
        routes
            .flat_map(Route::hops)
            .filter(|hop| hop.via.is_some())
            .filter_map(|hop| hop.dev.clone()),
    );
    links
}
