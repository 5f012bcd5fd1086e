//! The cable of this node: that of the gateway that carries the traffic, and that of one that stands by, or was replaced a moment ago.
//!
//! A node that has one does a gateway's work with it for whatever comes: from other nodes, whose packets go out by it, and from other
//! clusters. Which gateway is sent to is for the senders to decide, each by itself and at its own time; so none of them finds that it
//! came too early or too late. What the node itself sends goes by way of the gateway that carries the traffic, like any other's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::names::{CABLE_VXLAN, CABLE_VXLAN_6, CABLE_VXLAN_VNI, CABLE_WIREGUARD, LINK_ALIAS};
use strait_host::{Family, Host, Link, LinkKind};

use super::view::{FamilyView, Role};
use super::{State, accepts, nft, routes};
use crate::driver::Driver;

impl State {
    /// The cable of this node in a family, if it has one: where it carries the traffic, as its Endpoint says; elsewhere the device
    /// that a gateway keeps here. That of VXLAN works without a process: it counts until it is removed.
    pub(super) fn own_cable(&self, host: &Host, family: Family) -> Option<routes::Cable<'_>> {
        let gateway = self.gateway.as_ref()?;
        let driver = gateway.backend.parse::<Driver>().ok();
        let vxlan = driver == Some(Driver::Vxlan);
        if self.role() == Role::Gateway {
            let link = match gateway.interface.as_deref() {
                Some(CABLE_VXLAN) if family == Family::V6 => Some(CABLE_VXLAN_6),
                named => named,
            };
            return Some(routes::Cable { link, vxlan });
        }
        let name = match (driver?, family) {
            (Driver::Vxlan, Family::V4) => CABLE_VXLAN,
            (Driver::Vxlan, Family::V6) => CABLE_VXLAN_6,
            (Driver::WireGuard, _) => CABLE_WIREGUARD,
        };
        let link = host.links.get(name).filter(|link| link.up)?;
        let right = match &link.kind {
            LinkKind::Vxlan(_) => vxlan && port_of(link).is_some(),
            LinkKind::Wireguard | LinkKind::Tun => !vxlan,
            LinkKind::Veth | LinkKind::Bridge | LinkKind::Loopback | LinkKind::Other(_) => false,
        };
        let goes = self.locked && self.dead_cables(host).contains(name);
        (right && is_ours(link) && !goes).then_some(routes::Cable {
            link: Some(name),
            vxlan,
        })
    }

    /// Whether what other nodes send here goes out by the cable of this node though another carries the traffic. After it was replaced a
    /// WireGuard device may be served no longer, while the one who replaced it has its own: then it goes there.
    pub(super) fn passes_on(&self, cable: &routes::Cable<'_>) -> bool {
        cable.vxlan || self.retired.is_none()
    }

    /// Links of a gateway on a node that is none. A gateway that runs here may be about to become one: only who
    /// holds its lock knows that there is none.
    pub(super) fn dead_cables(&self, host: &Host) -> BTreeSet<String> {
        let names = [CABLE_VXLAN, CABLE_VXLAN_6, CABLE_WIREGUARD].into_iter();
        let left = |name: &&str| {
            // What is under way to the one before arrives, though its gateway is gone.
            self.role() != Role::Gateway
                && self.retired.is_none()
                && host.links.get(*name).is_some_and(is_ours)
        };
        names.filter(left).map(str::to_owned).collect()
    }

    /// UDP port of this node's cable, and who may speak to it.
    pub(super) fn cable_port(
        &self,
        host: &Host,
        families: &[FamilyView<'_>],
    ) -> Option<nft::CablePort> {
        let gateway = self.gateway.as_ref()?;
        let port = match (self.role(), gateway.backend.parse()) {
            (Role::Gateway, Ok(Driver::Vxlan)) => gateway.udp_port,
            // It knows its peers by their keys, wherever they are.
            (Role::Gateway, Ok(Driver::WireGuard)) => {
                let port = gateway.udp_port;
                return Some(nft::CablePort { port, peers: None });
            }
            (Role::Worker | Role::NoGateway, Ok(_)) => families.iter().find_map(|view| {
                let cable = self.own_cable(host, view.family)?;
                port_of(host.links.get(cable.link?)?)
            })?,
            (_, Err(_)) => return None,
        };
        let remotes = families.iter().flat_map(|v| &v.remotes);
        // Whoever takes another's place is heard before its Endpoint is.
        let endpoints =
            remotes.flat_map(|r| std::iter::once(r.endpoint).chain(&r.endpoint.standbys));
        let peers: BTreeSet<IpAddr> = endpoints
            .flat_map(|e| e.private_ips.iter().chain(&e.public_ips))
            .copied()
            .collect();
        Some(nft::CablePort {
            port,
            peers: Some(peers),
        })
    }

    /// Where connections from remote clusters can arrive: by the cable; and where another node is the gateway, by the pods' network, and
    /// by the nodes' VXLAN for replies that conntrack no longer knows.
    pub(super) fn ways(&self, host: &Host, families: &[FamilyView<'_>]) -> BTreeSet<String> {
        let ways = families.iter().flat_map(|view| self.ways_of(host, view));
        ways.collect()
    }

    /// The same in one family.
    pub(super) fn ways_of(&self, host: &Host, view: &FamilyView<'_>) -> BTreeSet<String> {
        let cable = self.own_cable(host, view.family);
        let cable = cable.and_then(|c| c.link).map(str::to_owned);
        let mut ways: BTreeSet<String> = cable.into_iter().collect();
        match self.role() {
            Role::Gateway => {}
            Role::Worker | Role::NoGateway => {
                ways.extend(routes::pod_network_links(host, view));
                ways.extend(view.underlay.iter().map(|u| u.link.clone()));
                ways.insert(routes::device(view.family).to_owned());
            }
        }
        ways
    }

    pub(super) fn accept_ways(
        &self,
        host: &Host,
        variables: &nft::Variables<'_>,
    ) -> accepts::Ways<'_> {
        let link = |f: Family| self.own_cable(host, f)?.link;
        let cables: BTreeMap<Family, &str> = Family::ALL
            .into_iter()
            .filter_map(|f| Some((f, link(f)?)))
            .collect();
        let is_gateway = self.role() == Role::Gateway;
        let cable = variables.cable.as_ref().map(|cable| cable.port);
        let own = self.gateway.as_ref().filter(|_| is_gateway);
        let discovery = own.and_then(|gateway| gateway.natt_port);
        let own = self.nodes.get(&self.settings.node);
        let hello = own
            .filter(|node| node.may_be_gateway)
            .map(|_| self.settings.hello_port);
        accepts::Ways {
            cables,
            gateway: is_gateway,
            ports: cable.into_iter().chain(discovery).chain(hello).collect(),
        }
    }

    /// Links whose reverse-path filter must be loose, and the cable's, which must forward.
    pub(super) fn loose_links(
        &self,
        host: &Host,
        view: &FamilyView<'_>,
    ) -> (BTreeSet<String>, Option<&str>) {
        let mut loose = routes::pod_network_links(host, view);
        loose.extend(view.underlay.iter().map(|u| u.link.clone()));
        let Some(cable) = self.own_cable(host, Family::V4) else {
            return (loose, None);
        };
        // Without an address to stand on there is no such device of ours; one of that name is somebody's.
        if view.underlay.is_some() {
            loose.insert(routes::device(view.family).to_owned());
        }
        let cable = cable.link.filter(|link| host.links.contains_key(*link));
        loose.extend(cable.map(str::to_owned));
        (loose, cable)
    }
}

fn is_ours(link: &Link) -> bool {
    link.alias.as_deref() == Some(LINK_ALIAS)
}

/// The UDP port of a VXLAN cable.
fn port_of(link: &Link) -> Option<u16> {
    match &link.kind {
        LinkKind::Vxlan(vxlan) if vxlan.vni == CABLE_VXLAN_VNI => Some(vxlan.port),
        LinkKind::Vxlan(_)
        | LinkKind::Veth
        | LinkKind::Bridge
        | LinkKind::Loopback
        | LinkKind::Wireguard
        | LinkKind::Tun
        | LinkKind::Other(_) => None,
    }
}
