//! What a predecessor keeps in packet filters. Of what it left elsewhere, a [`Host`](crate::Host) tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::Family;
use crate::nft::TableId;

/// Where a table of iptables is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// In nftables, as a table of the same name.
    Nft,
    /// Where it was before there were nftables.
    Legacy,
}

/// A table of iptables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct XtTable {
    /// Where it is kept.
    pub backend: Backend,
    /// Its family.
    pub family: Family,
    /// Its name, such as `nat`.
    pub name: String,
}

impl XtTable {
    /// The command that shows and changes it: `iptables-nft -t nat`.
    #[must_use]
    pub fn command(&self) -> String {
        let tool = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let backend = match self.backend {
            Backend::Nft => "nft",
            Backend::Legacy => "legacy",
        };
        format!("{tool}-{backend} -t {}", self.name)
    }
}

impl fmt::Display for XtTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command())
    }
}

/// By which names a predecessor's objects are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// How the names of its chains of iptables begin.
    pub chains: String,
    /// Its nftables tables.
    pub tables: BTreeSet<String>,
    /// Its sets of ipset.
    pub sets: BTreeSet<String>,
}

/// What is there under such names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Chains, by table of iptables.
    pub chains: BTreeMap<XtTable, BTreeSet<String>>,
    /// Built-in chains of legacy tables that drop, by their policy or a rule of their own, what a chain of such a name before that
    /// does not let through.
    pub dropping: BTreeMap<XtTable, BTreeSet<String>>,
    /// Tables of nftables, with the names of their chains and sets.
    pub tables: BTreeMap<TableId, BTreeSet<String>>,
    /// Sets of ipset.
    pub sets: BTreeSet<String>,
    /// Tables that could not be read, with the reason.
    pub unreadable: BTreeMap<XtTable, String>,
}
