//! What one process wants of a host, and how it knows its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::firewall::Accepts;
use crate::nft::{Table, TableId};
use crate::{Address, Fdb, Link, Neighbour, Route, Rule};

/// What is wanted of one class of objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Owned<T> {
    /// An input is not known yet: leave what is there.
    #[default]
    Keep,
    /// Exactly this; whatever else is ours goes.
    Set(T),
}

impl<T> Owned<T> {
    /// What is wanted, if it is known.
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Keep => None,
            Self::Set(wanted) => Some(wanted),
        }
    }
}

/// The whole desired state of what one process owns on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Links by name; each carries the owner's alias.
    pub links: Owned<BTreeMap<String, Link>>,
    /// Links with the owner's alias that another owner has left, and that go too.
    pub reaped: BTreeSet<String>,
    /// Addresses on owned links.
    pub addresses: Owned<BTreeSet<Address>>,
    /// Permanent neighbours on owned links.
    pub neighbours: Owned<BTreeSet<Neighbour>>,
    /// Forwarding entries on owned links.
    pub fdb: Owned<BTreeSet<Fdb>>,
    /// nftables tables.
    pub nft: Owned<BTreeMap<TableId, Table>>,
    /// Accept rules in the chains of iptables-nft, where those are.
    pub accepts: Owned<Accepts>,
    /// Routes with the owner's protocol.
    pub routes: Owned<BTreeSet<Route>>,
    /// Policy rules with the owner's protocol.
    pub rules: Owned<BTreeSet<Rule>>,
    /// Sysctls by path below `/proc/sys`, where the path exists. Nothing is set back by itself when one is no longer wanted.
    pub sysctls: BTreeMap<String, String>,
    /// Links whose reverse-path filter must not be strict: where the effective value (the larger of `all`'s and
    /// the link's) is 1, the link's becomes 2; 0 and 2 are left alone.
    pub loose_reverse_path: BTreeSet<String>,
}

impl Wanted {
    /// That nothing of the owner's stays.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            links: Owned::Set(BTreeMap::new()),
            reaped: BTreeSet::new(),
            addresses: Owned::Set(BTreeSet::new()),
            neighbours: Owned::Set(BTreeSet::new()),
            fdb: Owned::Set(BTreeSet::new()),
            nft: Owned::Set(BTreeMap::new()),
            accepts: Owned::Set(BTreeMap::new()),
            routes: Owned::Set(BTreeSet::new()),
            rules: Owned::Set(BTreeSet::new()),
            sysctls: BTreeMap::new(),
            loose_reverse_path: BTreeSet::new(),
        }
    }
}

/// How a process knows what is its own on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `ifalias` of its links, and comment of its tables.
    pub alias: String,
    /// Names of the links that may be its own; two owners with one alias differ in these.
    pub links: BTreeSet<String>,
    /// `rtm_protocol` of its routes; `None` owns no route.
    pub route_protocol: Option<u8>,
    /// `FRA_PROTOCOL` of its rules; `None` owns no rule.
    pub rule_protocol: Option<u8>,
    /// Names of its nftables tables.
    pub tables: BTreeSet<TableId>,
    /// Chains by which a table is known that a former version has made, without a comment: it has all of them.
    pub former_chains: BTreeSet<String>,
}

impl Owner {
    /// Whether a link is its own: by name and mark.
    #[must_use]
    pub fn owns_link(&self, name: &str, link: &Link) -> bool {
        self.links.contains(name) && link.alias.as_deref() == Some(&self.alias)
    }

    /// Whether a table is its own: by name and mark. One with nothing in it is nobody's, and may be taken.
    #[must_use]
    pub fn owns_table(&self, id: &TableId, table: &Table) -> bool {
        let empty = table.chains.is_empty() && table.sets.is_empty();
        let has = |chain: &String| table.chains.contains_key(chain);
        let former = !self.former_chains.is_empty() && self.former_chains.iter().all(has);
        self.tables.contains(id)
            && (table.comment == self.alias || table.comment.is_empty() && (empty || former))
    }

    /// Whether a route is its own.
    #[must_use]
    pub fn owns_route(&self, route: &Route) -> bool {
        self.route_protocol == Some(route.protocol)
    }

    /// Whether a rule is its own.
    #[must_use]
    pub fn owns_rule(&self, rule: &Rule) -> bool {
        self.rule_protocol == Some(rule.protocol)
    }
}
