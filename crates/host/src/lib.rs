//! A host's networking as plain data, and the difference between two of them.
//!
//! [`Host`] is what a host has: links, addresses, routes, rules, neighbours, forwarding entries,
//! sysctls and nftables tables. [`Wanted`] is what one [`Owner`] wants of it. [`diff`](diff::diff)
//! compares the two and yields the [`Change`]s, in the order in which they are safe to make.
//! Nothing here does I/O: `strait-kernel` reads a [`Host`] and carries out [`Change`]s.
//!
//! Links are named, never numbered: interface indexes change when a link is made anew.

pub mod change;
pub mod contention;
pub mod diff;
pub mod firewall;
pub mod leftovers;
pub mod link;
pub mod nft;
pub mod route;
pub mod subject;
mod unshared;
pub mod wanted;
pub mod wireguard;

use std::collections::{BTreeMap, BTreeSet};

pub use change::{Change, Stage};
pub use contention::Contention;
pub use diff::{Conflict, Difference, Remade, diff};
pub use firewall::{BaseChain, Filtering};
pub use link::{Address, Fdb, Link, LinkKind, Mac, Neighbour, Scope, Vxlan};
pub use route::{Hop, Route, RouteKind, Rule, TABLE_MAIN};
use serde::{Deserialize, Serialize};
pub use subject::{Subject, Wish};
pub use wanted::{Owned, Owner, Wanted};
pub use wireguard::{Key, Peer, PeerStatus, WireGuard};

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(ip: std::net::IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a prefix.
    #[must_use]
    pub fn of_net(net: &ipnet::IpNet) -> Self {
        Self::of(net.addr())
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What a host has, as far as it was read.
///
/// nftables tables are those that were asked for, all else is complete for the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Links by name.
    pub links: BTreeMap<String, Link>,
    /// Addresses of all links.
    pub addresses: BTreeSet<Address>,
    /// Unicast, unreachable, blackhole, prohibit and throw routes of all tables but `local`.
    pub routes: BTreeSet<Route>,
    /// Policy rules that look up a table.
    pub rules: BTreeSet<Rule>,
    /// Permanent neighbour entries.
    pub neighbours: BTreeSet<Neighbour>,
    /// Forwarding entries of VXLAN devices (`NTF_SELF`), the permanent ones.
    pub fdb: BTreeSet<Fdb>,
    /// Sysctls by their path below `/proc/sys`, e.g. `net/ipv4/conf/eth0/rp_filter`.
    pub sysctls: BTreeMap<String, String>,
    /// nftables tables.
    pub nft: BTreeMap<nft::TableId, nft::Table>,
    /// Chains of iptables-nft in which rules of ours may stand.
    pub filters: firewall::FilterChains,
    /// Families in which rules of others ask, before a packet is routed, which way its source is reached: reverse-path filters.
    #[serde(default)]
    pub source_checks: BTreeSet<Family>,
}

impl Host {
    /// A sysctl as a number; absent or not a number gives `None`.
    #[must_use]
    pub fn sysctl(&self, path: &str) -> Option<i64> {
        self.sysctls.get(path)?.trim().parse().ok()
    }

    /// The addresses of one link, in order.
    pub fn addresses_of<'a>(&'a self, link: &'a str) -> impl Iterator<Item = &'a Address> {
        self.addresses.iter().filter(move |a| a.link == link)
    }
}

/// The path of a device's reverse-path filter below `/proc/sys`.
#[must_use]
pub fn rp_filter_path(dev: &str) -> String {
    format!("net/ipv4/conf/{dev}/rp_filter")
}
