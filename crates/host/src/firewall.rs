//! Others' packet filters, as far as they are looked at.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::nft::{Hook, Rule, TableId};
use crate::{Change, Family};

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
    /// The lower goes first.
    pub priority: i32,
    /// Whether it translates addresses (type `nat`).
    pub nat: bool,
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
    /// The iptables of before nftables: its tables `raw` and `mangle`, which see packets before they are routed.
    pub legacy_early: BTreeSet<(Family, String)>,
    /// Packets that the rules of our table have counted, by chain and comment.
    pub counted: BTreeMap<(String, String), u64>,
}

/// The comment by which rules of ours are known in a chain of iptables.
pub const ACCEPT_MARK: &str = "strait";

/// A chain that iptables-nft keeps, `FORWARD` or `INPUT` of a table `filter`, as far as rules of ours stand in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterChain {
    /// Whether its policy or a rule of its own drops or rejects.
    pub drops: bool,
    /// Our rules, in order: those with the comment [`ACCEPT_MARK`].
    pub ours: Vec<Rule>,
    /// Whether our rules stand where they should: in front of all others but the jumps to what enforces network
    /// policies.
    pub in_place: bool,
}

/// Chains that iptables-nft keeps, by table and name.
pub type FilterChains = BTreeMap<TableId, BTreeMap<String, FilterChain>>;

/// Accept rules for such chains, by table and name.
pub type Accepts = BTreeMap<TableId, BTreeMap<String, Vec<Rule>>>;

/// The changes that make our rules in others' chains what they should be. A chain that is not there gets none.
pub(crate) fn diff(have: &FilterChains, want: &Accepts) -> Vec<Change> {
    let mut changes = Vec::new();
    for (table, chains) in have {
        for (name, chain) in chains {
            let rules = want.get(table).and_then(|chains| chains.get(name));
            let rules = rules.cloned().unwrap_or_default();
            if chain.ours != rules || (!rules.is_empty() && !chain.in_place) {
                changes.push(Change::SetAccepts(table.clone(), name.clone(), rules));
            }
        }
    }
    changes
}
