//! Links and what hangs on them: addresses, neighbours, forwarding entries.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All zeroes: in a VXLAN's forwarding table, the destination of frames that have no entry.
    pub const ZERO: Self = Self([0; 6]);

    /// A unicast address that is administered locally or globally, and not all zeroes.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        *self != Self::ZERO && self.0[0] & 1 == 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not an Ethernet address; expected six hexadecimal octets, as in 02:00:5e:00:00:01"
)]
pub struct BadMac(String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            // `from_str_radix` takes a sign.
            let hex = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(hex).ok_or_else(bad)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(bad()),
        }
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its type.
    pub kind: LinkKind,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// `ifalias`: carries our mark of ownership.
    pub alias: Option<String>,
    /// The bridge or bond that it belongs to.
    pub master: Option<String>,
}

/// What a link is. Only what a decision depends on is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// One end of a pair of virtual Ethernet devices.
    Veth,
    /// A bridge.
    Bridge,
    /// The loopback device.
    Loopback,
    /// A WireGuard device of the kernel.
    Wireguard,
    /// A device whose other end a process holds (`tun` or `tap`).
    Tun,
    /// Any other type, by its kernel name (`ipip`, `geneve`, …), or empty for a hardware device.
    Other(String),
}

/// The attributes of a VXLAN device that we set; network identifier, port and family change only by making it anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP port, both own and destination.
    pub port: u16,
    /// Outer source address; `None` leaves it to the route to the peer.
    pub local: Option<IpAddr>,
    /// Default destination; ours have none.
    pub remote: Option<IpAddr>,
    /// Whether it learns from what arrives; ours don't.
    pub learning: bool,
}

/// Scope of an address (`enum rt_scope_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Valid everywhere.
    Global,
    /// Valid on the link only.
    Link,
    /// Valid in this host only.
    Host,
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The link's name.
    pub link: String,
    /// Address with its prefix length, host bits kept.
    pub net: IpNet,
    /// Its scope.
    pub scope: Scope,
}

/// A permanent neighbour entry (ARP or ND).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbour {
    /// The link's name.
    pub link: String,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// A forwarding entry of a VXLAN device: frames to `mac` go to `dst`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fdb {
    /// The link's name.
    pub link: String,
    /// Ethernet destination; [`Mac::ZERO`] for all that has no entry of its own.
    pub mac: Mac,
    /// Outer destination address.
    pub dst: IpAddr,
    /// UDP port there; `None` for the device's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_address_is_read_and_written_alike() {
        let mac: Mac = "02:00:5e:00:0A:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:00:0a:ff");
        for bad in [
            "",
            "02:00:5e:00:0a",
            "02:00:5e:00:0a:ff:00",
            "2:0:5e:0:a:ff",
            "zz:00:5e:00:0a:ff",
            "+2:00:5e:00:0a:ff",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
