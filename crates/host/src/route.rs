//! Routes and policy rules.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Family;

/// The main table (`RT_TABLE_MAIN` in linux/rtnetlink.h).
pub const TABLE_MAIN: u32 = 254;

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// Destination prefix, host bits zero.
    pub dst: IpNet,
    /// Priority; the lower wins. IPv6 turns 0 into 1024: ask for 1024.
    pub metric: u32,
    /// Who installed it (`rtm_protocol`).
    pub protocol: u8,
    /// What it does.
    pub kind: RouteKind,
}

/// What a route does with a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Sends it on.
    Unicast {
        /// The next hops; more than one is a multipath route.
        hops: Vec<Hop>,
        /// Preferred source of packets from this host.
        src: Option<IpAddr>,
    },
    /// Drops it and tells the sender.
    Unreachable,
    /// Drops it silently.
    Blackhole,
    /// Drops it and tells the sender that it is prohibited.
    Prohibit,
    /// Ends the look-up in this table; the next rule decides.
    Throw,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// Out of this link; `None` where the kernel named none (or a link that is gone).
    pub dev: Option<String>,
    /// By way of this neighbour; `None` for what is on the link.
    pub via: Option<IpAddr>,
    /// The neighbour is on the link even if no address says so.
    pub onlink: bool,
}

impl Route {
    /// The family of the destination.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of_net(&self.dst)
    }

    /// What tells two routes apart for the kernel's `replace`: table, destination and metric.
    #[must_use]
    pub fn key(&self) -> (u32, IpNet, u32) {
        (self.table, self.dst, self.metric)
    }

    /// The next hops; empty unless unicast.
    #[must_use]
    pub fn hops(&self) -> &[Hop] {
        match &self.kind {
            RouteKind::Unicast { hops, .. } => hops,
            RouteKind::Unreachable
            | RouteKind::Blackhole
            | RouteKind::Prohibit
            | RouteKind::Throw => &[],
        }
    }
}

/// A policy rule that looks up a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Priority; the lower is asked first.
    pub priority: u32,
    /// Sources it applies to; `None` for all.
    pub from: Option<IpNet>,
    /// Destinations it applies to; `None` for all.
    pub to: Option<IpNet>,
    /// The link by which packets come that it applies to; `None` for all, those of the host itself too.
    pub link: Option<String>,
    /// Packet mark and mask it applies to.
    pub mark: Option<(u32, u32)>,
    /// The table that it looks up.
    pub table: u32,
    /// Who installed it (`FRA_PROTOCOL`).
    pub protocol: u8,
}
