//! Questions about prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use strait_api::vtep::Vxlan;
use strait_host::Family;

/// Whether two prefixes share an address.
#[must_use]
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    let shorter = u32::from(a.prefix_len().min(b.prefix_len()));
    match (a, b) {
        (IpNet::V4(a), IpNet::V4(b)) => {
            (a.addr().to_bits() ^ b.addr().to_bits()).leading_zeros() >= shorter
        }
        (IpNet::V6(a), IpNet::V6(b)) => {
            (a.addr().to_bits() ^ b.addr().to_bits()).leading_zeros() >= shorter
        }
        (IpNet::V4(_), IpNet::V6(_)) | (IpNet::V6(_), IpNet::V4(_)) => false,
    }
}

/// Prefixes among which an address is found quickly, though they are thousands: in order, none inside another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Prefixes(Vec<IpNet>);

impl FromIterator<IpNet> for Prefixes {
    /// What is inside another is left out.
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut nets: Vec<IpNet> = nets.into_iter().map(|net| net.trunc()).collect();
        // In order, what holds others comes right before them.
        nets.sort_unstable();
        nets.dedup_by(|net, before| before.contains(&*net));
        Self(nets)
    }
}

impl Prefixes {
    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    /// Whether an address is in one of them.
    #[must_use]
    pub fn contains(&self, ip: &IpAddr) -> bool {
        let after = self.0.partition_point(|net| net.addr() <= *ip);
        let last = after.checked_sub(1).and_then(|at| self.0.get(at));
        last.is_some_and(|net| net.contains(ip))
    }
}

/// Why a prefix can't be a remote subnet, whoever announces it; `None` if it can.
///
/// A remote cluster that announced everything, this host's loopback or the insides of our VXLANs would take
/// traffic that is not its own.
#[must_use]
pub fn never_remote(net: &IpNet) -> Option<&'static str> {
    let (no_host, loopback, link_local, multicast) = match net {
        IpNet::V4(_) => (NO_HOST_V4, LOOPBACK_V4, LINK_LOCAL_V4, MULTICAST_V4),
        IpNet::V6(_) => (NO_HOST_V6, LOOPBACK_V6, LINK_LOCAL_V6, MULTICAST_V6),
    };
    let v6 = matches!(net, IpNet::V6(_));
    if net.prefix_len() == 0 {
        Some("it is everything")
    } else if overlap(&loopback, net) {
        Some("it overlaps loopback")
    } else if overlap(&no_host, net) {
        Some("it overlaps addresses that stand for no host")
    } else if overlap(&MAPPED_V4, net) {
        Some("it overlaps IPv4 addresses written as IPv6")
    } else if overlap(&link_local, net) {
        Some("it overlaps link-local addresses")
    } else if overlap(&multicast, net) {
        Some("it overlaps multicast addresses")
    } else if overlap(&Vxlan::Nodes.prefix(v6), net) || overlap(&Vxlan::Gateways.prefix(v6), net) {
        Some("it overlaps the addresses inside our VXLANs")
    } else if overlap(&BROADCAST_V4, net) {
        Some("it overlaps the broadcast address")
    } else {
        None
    }
}

// RFC 6890, and RFC 4291 section 2.7.
const NO_HOST_V4: IpNet = v4([0, 0, 0, 0], 8);
const NO_HOST_V6: IpNet = v6([0, 0, 0, 0, 0, 0, 0, 0], 128);
const MAPPED_V4: IpNet = v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96);
const BROADCAST_V4: IpNet = v4([255, 255, 255, 255], 32);
const LOOPBACK_V4: IpNet = v4([127, 0, 0, 0], 8);
const LOOPBACK_V6: IpNet = v6([0, 0, 0, 0, 0, 0, 0, 1], 128);
const LINK_LOCAL_V4: IpNet = v4([169, 254, 0, 0], 16);
const LINK_LOCAL_V6: IpNet = v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10);
const MULTICAST_V4: IpNet = v4([224, 0, 0, 0], 4);
const MULTICAST_V6: IpNet = v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8);

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> IpNet {
    let address = Ipv6Addr::new(a, b, c, d, e, f, g, h);
    IpNet::V6(Ipv6Net::new_assert(address, length))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few addresses, so that prefixes overlap.
    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (0u8..4, 0u8..4, 0u8..=32)
            .prop_map(|(a, b, len)| IpNet::new([a, 0, 0, b].into(), len).unwrap());
        let v6 = (0u16..4, 0u16..4, 0u8..=128)
            .prop_map(|(a, b, len)| IpNet::new([a, 0, 0, 0, 0, 0, 0, b].into(), len).unwrap());
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn prefixes_overlap_if_one_holds_where_the_other_begins(a in net(), b in net()) {
            let holds = a.contains(&b.network()) || b.contains(&a.network());
            prop_assert_eq!(overlap(&a, &b), holds);
        }

        #[test]
        fn an_address_is_in_prefixes_if_it_is_in_one_of_them(
            nets in proptest::collection::vec(net(), 0..20), asked in net(),
        ) {
            let all: Prefixes = nets.iter().copied().collect();
            for ip in [asked.addr(), asked.broadcast()] {
                prop_assert_eq!(all.contains(&ip), nets.iter().any(|net| net.contains(&ip)));
            }
        }
    }
}
