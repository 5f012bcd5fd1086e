//! One change of a host, and its effect on plain data.

use serde::Serialize;

use crate::nft;
use crate::{Address, Fdb, Host, Link, Neighbour, Route, RouteKind, Rule, Scope};

/// When a change is made. Removals come after all that is added, in reverse order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Unreachable and throw routes: what fails closed stands first.
    Guard,
    /// Links.
    Links,
    /// Addresses.
    Addresses,
    /// Neighbours and forwarding entries.
    Neighbours,
    /// nftables, in one transaction.
    Nft,
    /// Sysctls.
    Sysctls,
    /// Routes that carry traffic: only once nftables holds.
    Routes,
    /// Policy rules.
    Rules,
    /// Removals, in reverse.
    Removal,
}

/// One change of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Makes a link.
    CreateLink(String, Link),
    /// Sets the MTU, Ethernet address, alias and state of a link to these, of a VXLAN device its ends and learning too;
    /// its type stays.
    ChangeLink(String, Link),
    /// Removes a link with all that hangs on it.
    RemoveLink(String),
    /// Adds an address (without duplicate address detection).
    AddAddress(Address),
    /// Removes an address.
    RemoveAddress(Address),
    /// Adds a permanent neighbour, or replaces the one of that address.
    SetNeighbour(Neighbour),
    /// Removes a neighbour.
    RemoveNeighbour(Neighbour),
    /// Adds a forwarding entry; for other than the zero address it replaces what that address had.
    SetFdb(Fdb),
    /// Removes a forwarding entry.
    RemoveFdb(Fdb),
    /// One nftables transaction: all or nothing.
    Nft(Vec<nft::Op>),
    /// Makes our accept rules in a chain of iptables-nft these, and puts them where they should stand.
    SetAccepts(nft::TableId, String, Vec<nft::Rule>),
    /// Writes a sysctl.
    SetSysctl(String, String),
    /// Adds a route, or replaces our own of the same table, destination and metric.
    SetRoute(Route),
    /// Removes a route.
    RemoveRoute(Route),
    /// Adds a policy rule.
    AddRule(Rule),
    /// Removes a policy rule.
    RemoveRule(Rule),
}

impl Change {
    /// When it is made.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::CreateLink(..) | Self::ChangeLink(..) => Stage::Links,
            Self::AddAddress(_) => Stage::Addresses,
            Self::SetNeighbour(_) | Self::SetFdb(_) => Stage::Neighbours,
            Self::Nft(_) | Self::SetAccepts(..) => Stage::Nft,
            Self::SetSysctl(..) => Stage::Sysctls,
            Self::SetRoute(route) => match route.kind {
                RouteKind::Unicast { .. } => Stage::Routes,
                RouteKind::Unreachable
                | RouteKind::Blackhole
                | RouteKind::Prohibit
                | RouteKind::Throw => Stage::Guard,
            },
            Self::AddRule(_) => Stage::Rules,
            Self::RemoveLink(_)
            | Self::RemoveAddress(_)
            | Self::RemoveNeighbour(_)
            | Self::RemoveFdb(_)
            | Self::RemoveRoute(_)
            | Self::RemoveRule(_) => Stage::Removal,
        }
    }

    /// The kind of object, for metrics and logs.
    #[must_use]
    pub fn object(&self) -> &'static str {
        match self {
            Self::CreateLink(..) | Self::ChangeLink(..) | Self::RemoveLink(_) => "link",
            Self::AddAddress(_) | Self::RemoveAddress(_) => "address",
            Self::SetNeighbour(_) | Self::RemoveNeighbour(_) => "neighbour",
            Self::SetFdb(_) | Self::RemoveFdb(_) => "fdb",
            Self::Nft(_) => "nft",
            Self::SetAccepts(..) => "accept",
            Self::SetSysctl(..) => "sysctl",
            Self::SetRoute(_) | Self::RemoveRoute(_) => "route",
            Self::AddRule(_) | Self::RemoveRule(_) => "rule",
        }
    }
}

impl Host {
    /// Carries out a change on plain data, as the kernel would.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::CreateLink(name, link) | Change::ChangeLink(name, link) => {
                self.links.insert(name.clone(), link.clone());
            }
            Change::RemoveLink(name) => self.remove_link(name),
            Change::AddAddress(a) => {
                self.addresses.insert(a.clone());
            }
            Change::RemoveAddress(a) => {
                self.addresses.remove(a);
            }
            Change::SetNeighbour(n) => {
                self.neighbours
                    .retain(|have| (&have.link, have.ip) != (&n.link, n.ip));
                self.neighbours.insert(n.clone());
            }
            Change::RemoveNeighbour(n) => {
                self.neighbours.remove(n);
            }
            Change::SetFdb(entry) => {
                if entry.mac != crate::Mac::ZERO {
                    self.fdb
                        .retain(|have| (&have.link, have.mac) != (&entry.link, entry.mac));
                }
                self.fdb.insert(entry.clone());
            }
            Change::RemoveFdb(entry) => {
                self.fdb.remove(entry);
            }
            Change::Nft(ops) => nft::apply(&mut self.nft, ops),
            Change::SetAccepts(table, name, rules) => {
                let chain = self.filters.get_mut(table).and_then(|t| t.get_mut(name));
                if let Some(chain) = chain {
                    chain.ours.clone_from(rules);
                    chain.in_place = true;
                }
            }
            Change::SetSysctl(path, value) => {
                self.sysctls.insert(path.clone(), value.clone());
            }
            Change::SetRoute(route) => {
                self.remove_replaced(route);
                self.routes.insert(route.clone());
            }
            Change::RemoveRoute(route) => {
                self.routes.remove(route);
            }
            Change::AddRule(rule) => {
                self.rules.insert(rule.clone());
            }
            Change::RemoveRule(rule) => {
                self.rules.remove(rule);
            }
        }
    }

    /// Removes routes of the same key. They stand side by side, since routes are ordered by it first; there may be thousands.
    fn remove_replaced(&mut self, route: &Route) {
        let first = Route::first(route.table, route.dst, route.metric);
        let same = self.routes.range(first..);
        let same = same.take_while(|have| have.key() == route.key());
        for route in same.cloned().collect::<Vec<_>>() {
            self.routes.remove(&route);
        }
    }

    /// The kernel takes addresses, neighbours, forwarding entries and routes with their link.
    fn remove_link(&mut self, name: &str) {
        self.links.remove(name);
        self.addresses.retain(|a| a.link != name);
        self.neighbours.retain(|n| n.link != name);
        self.fdb.retain(|f| f.link != name);
        self.routes
            .retain(|r| !r.hops().iter().any(|h| h.dev.as_deref() == Some(name)));
    }
}

impl Address {
    /// A link-local address that the kernel itself put there.
    #[must_use]
    pub fn is_kernels(&self) -> bool {
        self.scope == Scope::Link && self.net.addr().is_ipv6()
    }
}
