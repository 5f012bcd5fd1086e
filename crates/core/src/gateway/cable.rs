//! The VXLAN cable: its device, and where the other gateways are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::Endpoint;
use strait_api::gateway::{Connection, ConnectionStatus};
use strait_api::names::{
    CABLE_VXLAN, CABLE_VXLAN_6, CABLE_VXLAN_VNI, LINK_ALIAS, VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6,
};
use strait_api::vtep::Vxlan;
use strait_host::{
    Address, Family, Fdb, Link, LinkKind, Mac, Neighbour, Owned, Scope, Vxlan as VxlanLink, Wanted,
};

use super::health::Health;
use crate::local::Underlay;
use crate::net::ip_of;
use crate::remote::Remote;

/// The driver's name, as Endpoints have it.
pub(super) const BACKEND: &str = "vxlan";

/// Name of the cable's device of a family.
const fn device(family: Family) -> &'static str {
    match family {
        Family::V4 => CABLE_VXLAN,
        Family::V6 => CABLE_VXLAN_6,
    }
}

/// Where a peer is reached in a family: its public address if there may be a NAT in front of it, else the private one.
fn outer(endpoint: &Endpoint, family: Family) -> Option<IpAddr> {
    let private = ip_of(&endpoint.private_ips, family);
    let public = ip_of(&endpoint.public_ips, family);
    if endpoint.spec.nat_enabled {
        public.or(private)
    } else {
        private.or(public)
    }
}

/// What the gateway owns on its host.
pub(super) fn wanted(
    underlays: &BTreeMap<Family, Underlay>,
    remotes: &[Remote<'_>],
    port: u16,
    mac: Option<Mac>,
) -> Wanted {
    let mut links = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    let mut neighbours = BTreeSet::new();
    let mut fdb = BTreeSet::new();
    for (family, underlay) in underlays {
        let name = device(*family).to_owned();
        let overhead = match family {
            Family::V4 => VXLAN_OVERHEAD_V4,
            Family::V6 => VXLAN_OVERHEAD_V6,
        };
        let link = Link {
            kind: LinkKind::Vxlan(VxlanLink {
                vni: CABLE_VXLAN_VNI,
                port,
                local: Some(underlay.ip),
                remote: None,
                learning: false,
            }),
            mtu: underlay.mtu.saturating_sub(overhead),
            up: true,
            mac,
            alias: Some(LINK_ALIAS.to_owned()),
            master: None,
        };
        links.insert(name.clone(), link);
        addresses.insert(Address {
            link: name.clone(),
            net: Vxlan::Gateways.inner_net(underlay.ip),
            scope: Scope::Global,
        });
        let mut macs = BTreeSet::new();
        for remote in remotes.iter().filter(|r| r.endpoint.backend == BACKEND) {
            let endpoint = remote.endpoint;
            let (Some(dst), Some(private)) = (outer(endpoint, *family), remote.private_ip(*family))
            else {
                continue;
            };
            let mac = remote.vtep_mac().filter(|mac| macs.insert(*mac));
            if let Some(mac) = mac {
                neighbours.insert(Neighbour {
                    link: name.clone(),
                    ip: Vxlan::Gateways.inner(private),
                    mac,
                });
            }
            fdb.insert(Fdb {
                link: name.clone(),
                mac: mac.unwrap_or(Mac::ZERO),
                dst,
            });
        }
    }
    Wanted {
        links: Owned::Set(links),
        addresses: Owned::Set(addresses),
        neighbours: Owned::Set(neighbours),
        fdb: Owned::Set(fdb),
        ..Wanted::default()
    }
}

/// What the Gateway object says of each peer, one entry per family.
pub(super) fn connections(
    underlays: &BTreeMap<Family, Underlay>,
    remotes: &[Remote<'_>],
    health: &Health<'_>,
) -> Vec<Connection> {
    let mut connections = Vec::new();
    for remote in remotes {
        let endpoint = remote.endpoint;
        let connection = |status, message: String, using: Option<IpAddr>| Connection {
            status,
            status_message: message,
            endpoint: (*endpoint.spec).clone(),
            using_ip: using.map(|ip| ip.to_string()).unwrap_or_default(),
            using_nat: false,
            latency_rtt: None,
        };
        if endpoint.backend != BACKEND {
            let message = format!(
                "cable driver '{}' of the other side does not match ours, '{BACKEND}'",
                endpoint.backend
            );
            connections.push(connection(ConnectionStatus::Error, message, None));
            continue;
        }
        let families = underlays
            .keys()
            .filter(|f| remote.subnets.iter().any(|s| Family::of_net(s) == **f));
        let before = connections.len();
        for family in families {
            if remote.indistinct.contains(family) {
                let message = format!(
                    "its {family} address inside the cable is another gateway's: see CableAddressConflict"
                );
                connections.push(connection(ConnectionStatus::Error, message, None));
                continue;
            }
            connections.push(match outer(endpoint, *family) {
                Some(ip) => health.merged(
                    connection(ConnectionStatus::Connected, String::new(), Some(ip)),
                    remote,
                    *family,
                ),
                None => {
                    let message = format!("the other side publishes no {family} address");
                    connection(ConnectionStatus::Error, message, None)
                }
            });
        }
        if connections.len() == before {
            let message = "the other side has no subnet that can be reached from here".to_owned();
            connections.push(connection(ConnectionStatus::Error, message, None));
        }
    }
    connections
}
