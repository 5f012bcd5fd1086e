//! Addresses inside the VXLANs, which are derived from addresses outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The two VXLANs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vxlan {
    /// Between the nodes of a cluster: 240.0.0.0/8 and fd00:100:100::/96 (upstream `VxLANVTepNetworkPrefix`).
    Nodes,
    /// Between the gateways of clusters: 241.0.0.0/8 and fd00:100:200::/96.
    Gateways,
}

impl Vxlan {
    /// The inner address of the host with this outer address: the last three octets (IPv6: the last four) of the outer one.
    #[must_use]
    pub fn inner(self, outer: IpAddr) -> IpAddr {
        match outer {
            IpAddr::V4(ip) => {
                let [_, b, c, d] = ip.octets();
                let first = match self {
                    Self::Nodes => 240,
                    Self::Gateways => 241,
                };
                IpAddr::V4(Ipv4Addr::new(first, b, c, d))
            }
            IpAddr::V6(ip) => {
                let [.., g, h] = ip.segments();
                let third = match self {
                    Self::Nodes => 0x100,
                    Self::Gateways => 0x200,
                };
                IpAddr::V6(Ipv6Addr::new(0xfd00, 0x100, third, 0, 0, 0, g, h))
            }
        }
    }

    /// The inner address with the prefix of the VXLAN.
    #[must_use]
    pub fn inner_net(self, outer: IpAddr) -> IpNet {
        match self.inner(outer) {
            IpAddr::V4(ip) => IpNet::V4(Ipv4Net::new_assert(ip, 8)),
            IpAddr::V6(ip) => IpNet::V6(Ipv6Net::new_assert(ip, 96)),
        }
    }

    /// The prefix of all inner addresses of a family.
    #[must_use]
    pub fn prefix(self, v6: bool) -> IpNet {
        let any = if v6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        self.inner_net(any).trunc()
    }

    /// Whether an Ethernet address is of the form that [`Vxlan::mac`] gives.
    #[must_use]
    pub fn gives(self, mac: [u8; 6]) -> bool {
        let [first, second, ..] = self.mac(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        mac.starts_with(&[first, second])
    }

    /// The Ethernet address of the device of the host with this outer address: locally administered, and the same
    /// each time the device is made, so that peers' entries stay right. Unique in the VXLAN as far as inner addresses are.
    #[must_use]
    pub fn mac(self, outer: IpAddr) -> [u8; 6] {
        let tag = match self {
            Self::Nodes => 0x64,
            Self::Gateways => 0xe8,
        };
        let last = match outer {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(ip) => {
                let [.., a, b, c, d] = ip.octets();
                [a, b, c, d]
            }
        };
        [0x02, tag, last[0], last[1], last[2], last[3]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_addresses_are_those_that_submariner_derives() {
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        let v6: IpAddr = "2001:db8::1:2:3".parse().unwrap();
        assert_eq!(Vxlan::Nodes.inner_net(v4).to_string(), "240.1.2.3/8");
        assert_eq!(Vxlan::Gateways.inner_net(v4).to_string(), "241.1.2.3/8");
        assert_eq!(
            Vxlan::Nodes.inner_net(v6).to_string(),
            "fd00:100:100::2:3/96"
        );
        assert_eq!(
            Vxlan::Gateways.prefix(true).to_string(),
            "fd00:100:200::/96"
        );
        assert_eq!(Vxlan::Nodes.prefix(false).to_string(), "240.0.0.0/8");
    }
}
