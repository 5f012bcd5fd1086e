//! Questions about prefixes.

use std::net::IpAddr;

use ipnet::IpNet;
use strait_api::vtep::Vxlan;
use strait_host::Family;

/// Whether two prefixes share an address.
#[must_use]
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Why a prefix can't be a remote subnet, whoever announces it; `None` if it can.
///
/// A remote cluster that announced everything, this host's loopback or the insides of our VXLANs would take
/// traffic that is not its own.
#[must_use]
pub fn never_remote(net: &IpNet) -> Option<&'static str> {
    let v6 = matches!(net, IpNet::V6(_));
    let within = |text: &str| {
        text.parse::<IpNet>()
            .is_ok_and(|special| overlap(&special, net))
    };
    if net.prefix_len() == 0 {
        Some("it is everything")
    } else if within(if v6 { "::1/128" } else { "127.0.0.0/8" }) {
        Some("it overlaps loopback")
    } else if within(if v6 { "::/128" } else { "0.0.0.0/8" }) {
        Some("it overlaps addresses that stand for no host")
    } else if v6 && within("::ffff:0:0/96") {
        Some("it overlaps IPv4 addresses written as IPv6")
    } else if within(if v6 { "fe80::/10" } else { "169.254.0.0/16" }) {
        Some("it overlaps link-local addresses")
    } else if within(if v6 { "ff00::/8" } else { "224.0.0.0/4" }) {
        Some("it overlaps multicast addresses")
    } else if overlap(&Vxlan::Nodes.prefix(v6), net) || overlap(&Vxlan::Gateways.prefix(v6), net) {
        Some("it overlaps the addresses inside our VXLANs")
    } else if !v6 && within("255.255.255.255/32") {
        Some("it overlaps the broadcast address")
    } else {
        None
    }
}

/// The entries of a family.
pub fn of_family(nets: &[IpNet], family: Family) -> impl Iterator<Item = &IpNet> {
    nets.iter().filter(move |n| Family::of_net(n) == family)
}

/// The first address of a family.
#[must_use]
pub fn ip_of(ips: &[IpAddr], family: Family) -> Option<IpAddr> {
    ips.iter().copied().find(|ip| Family::of(*ip) == family)
}
