//! Others' packet filters, as far as they are looked at.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Family;
use crate::nft::Hook;

/// An nftables chain that is hooked in, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BaseChain {
    /// Family of its table: `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its hook.
    pub hook: Hook,
    /// Whether its policy is `drop`.
    pub drops: bool,
}

/// What filters packets on a host, and what became of those that a table of ours has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Filtering {
    /// All chains that are hooked into IPv4 and IPv6.
    pub chains: Vec<BaseChain>,
    /// Families in which the iptables of before nftables has a `filter` table. What is in it is not known.
    pub legacy: BTreeSet<Family>,
    /// Packets that the rules of our table have counted, by chain and comment.
    pub counted: BTreeMap<(String, String), u64>,
}
