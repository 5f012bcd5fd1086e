//! This host's own addresses: on the nodes' network, and the CNI address, by which remote clusters see its processes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::names::{CABLE_VXLAN, CABLE_VXLAN_6, CABLE_WIREGUARD, NODE_VXLAN, NODE_VXLAN_6};
use strait_host::{Family, Host, LinkKind, Scope, TABLE_MAIN};

/// Links that CNIs make for traffic between nodes, as far as they put a pod address on them; the first of the list wins.
const KNOWN: [&str; 14] = [
    "tunl0",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "flannel.1",
    "flannel-v6.1",
    "flannel-wg",
    "cilium_host",
    "antrea-gw0",
    "weave",
    "tun0",
    "cni0",
    "cbr0",
];

/// Names of all links that are ours, whichever process makes them.
#[must_use]
pub fn every_link() -> BTreeSet<String> {
    [
        NODE_VXLAN,
        NODE_VXLAN_6,
        CABLE_VXLAN,
        CABLE_VXLAN_6,
        CABLE_WIREGUARD,
    ]
    .map(str::to_owned)
    .into()
}

/// A CNI address and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniAddress {
    /// The address.
    pub ip: IpAddr,
    /// The link that has it.
    pub link: String,
}

/// This host's address on the nodes' network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The address.
    pub ip: IpAddr,
    /// The link that has it.
    pub link: String,
    /// The link's MTU in bytes.
    pub mtu: u32,
}

/// The Node's InternalIP where the host has it, else the address of the default route's link.
#[must_use]
pub fn underlay(
    host: &Host,
    family: Family,
    internal: Option<IpAddr>,
    ours: &BTreeSet<String>,
) -> Option<Underlay> {
    let on_host = |ip: IpAddr| {
        host.addresses
            .iter()
            .find(|a| a.net.addr() == ip && !ours.contains(&a.link))
    };
    let address = internal.and_then(on_host).or_else(|| {
        let defaults = host.routes.iter().filter(|r| {
            r.table == TABLE_MAIN
                && r.family() == family
                && r.dst.prefix_len() == 0
                && !r.hops().is_empty()
        });
        let route = defaults.min_by_key(|r| r.metric)?;
        let dev = route.hops().first()?.dev.as_deref()?;
        host.addresses_of(dev)
            .find(|a| Family::of(a.net.addr()) == family && a.scope == Scope::Global)
    })?;
    let mtu = host.links.get(&address.link)?.mtu;
    Some(Underlay {
        ip: address.net.addr(),
        link: address.link.clone(),
        mtu,
    })
}

/// The next hops of default routes, with what they are.
#[must_use]
pub fn routers(host: &Host) -> BTreeMap<IpAddr, String> {
    let defaults = host
        .routes
        .iter()
        .filter(|r| r.table == TABLE_MAIN && r.dst.prefix_len() == 0);
    defaults
        .flat_map(|route| route.hops())
        .filter_map(|hop| Some((hop.via?, "the router of this host".to_owned())))
        .collect()
}

/// The address of this host that lies in a pod CIDR, on a link that is up and is not ours.
///
/// Known links of CNIs go first, then bridges, then others, the host's end of a pod's veth last; among equals the
/// order of names and addresses decides, so that the choice does not depend on the order of arrival.
/// Addresses that are known to be another node's never count.
#[must_use]
pub fn cni_address(
    host: &Host,
    family: Family,
    pod_cidrs: &[IpNet],
    ours: &BTreeSet<String>,
    others: &BTreeSet<IpAddr>,
) -> Option<CniAddress> {
    let candidates = host.addresses.iter().filter(|a| {
        let ip = a.net.addr();
        Family::of(ip) == family
            && a.scope != Scope::Host
            && !a.is_kernels()
            && !ours.contains(&a.link)
            && !others.contains(&ip)
            && pod_cidrs.iter().any(|cidr| cidr.contains(&ip))
            && host.links.get(&a.link).is_some_and(|l| l.up)
    });
    candidates
        .min_by_key(|a| (rank(host, &a.link), &a.link, a.net.addr()))
        .map(|a| CniAddress {
            ip: a.net.addr(),
            link: a.link.clone(),
        })
}

/// What was looked at: links with their addresses, for whoever wonders why none was found.
#[must_use]
pub fn seen(host: &Host, family: Family, ours: &BTreeSet<String>) -> String {
    let mut links: Vec<String> = Vec::new();
    for (name, link) in host
        .links
        .iter()
        .filter(|(n, _)| !ours.contains(*n) && n.as_str() != "lo")
    {
        let addresses: Vec<String> = host
            .addresses_of(name)
            .filter(|a| Family::of(a.net.addr()) == family && !a.is_kernels())
            .map(|a| a.net.to_string())
            .collect();
        // A node has a veth per pod; those without an address tell nothing.
        if addresses.is_empty() && link.kind == LinkKind::Veth {
            continue;
        }
        let state = if link.up { "" } else { " (down)" };
        links.push(format!("{name}{state} [{}]", addresses.join(" ")));
    }
    if links.is_empty() {
        "none".to_owned()
    } else {
        links.join(", ")
    }
}

fn rank(host: &Host, link: &str) -> usize {
    if let Some(known) = KNOWN.iter().position(|k| *k == link) {
        return known;
    }
    let class = match host.links.get(link).map(|l| &l.kind) {
        Some(LinkKind::Bridge) => 0,
        Some(LinkKind::Vxlan(_)) => 1,
        Some(LinkKind::Veth) => 3,
        Some(LinkKind::Loopback | LinkKind::Wireguard | LinkKind::Tun | LinkKind::Other(_))
        | None => 2,
    };
    KNOWN.len() + class
}
