//! What a change is about, and what is wanted of that.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::nft::{self, Table, TableId};
use crate::{Address, Change, Family, Fdb, Link, Mac, Neighbour, Route, RouteKind, Rule, Wanted};
use crate::{Owned, rp_filter_path};

/// An object, by what tells it from others. Shown with its kind, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A link, by name.
    Link(String),
    /// An address on a link.
    Address(Address),
    /// A neighbour, by link and address.
    Neighbour(String, IpAddr),
    /// A forwarding entry.
    Fdb(Fdb),
    /// The nftables tables of an owner.
    Nft,
    /// Accept rules in a chain of iptables-nft.
    Accepts(TableId, String),
    /// A sysctl, by path.
    Sysctl(String),
    /// A route, by table, destination and metric.
    Route(u32, IpNet, u32),
    /// Policy rules, by family, priority and table.
    Rule(Family, u32, u32),
}

/// What is wanted of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish<'a> {
    /// An input is not known: as it is.
    Keep,
    /// That it is not there, or nothing of it.
    Nothing,
    /// That it is there.
    There,
    /// This link.
    Link(&'a Link),
    /// This Ethernet address.
    Neighbour(Mac),
    /// These tables.
    Nft(&'a BTreeMap<TableId, Table>),
    /// These rules.
    Accepts(&'a [nft::Rule]),
    /// This value.
    Sysctl(&'a str),
    /// That the reverse path is not strict.
    Loose,
    /// This route.
    Route(&'a Route),
    /// These rules.
    Rules(Vec<&'a Rule>),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name}"),
            Self::Address(a) => write!(f, "address {} on {}", a.net, a.link),
            Self::Neighbour(link, ip) => write!(f, "neighbour {ip} on {link}"),
            Self::Fdb(e) => write!(f, "forwarding entry {} to {} on {}", e.mac, e.dst, e.link),
            Self::Nft => f.write_str("nftables table"),
            Self::Accepts(table, chain) => {
                write!(f, "accept rules in {} {chain}", String::from(table.clone()))
            }
            Self::Sysctl(path) => write!(f, "sysctl {path}"),
            Self::Route(table, dst, metric) => {
                write!(f, "route {dst} metric {metric} in table {table}")
            }
            Self::Rule(family, priority, table) => {
                write!(f, "{family} rule {priority} to table {table}")
            }
        }
    }
}

impl Change {
    /// The object that it is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::CreateLink(name, _) | Self::ChangeLink(name, _) | Self::RemoveLink(name) => {
                Subject::Link(name.clone())
            }
            Self::AddAddress(a) | Self::RemoveAddress(a) => Subject::Address(a.clone()),
            Self::SetNeighbour(n) | Self::RemoveNeighbour(n) => {
                Subject::Neighbour(n.link.clone(), n.ip)
            }
            Self::SetFdb(entry) | Self::RemoveFdb(entry) => Subject::Fdb(entry.clone()),
            Self::Nft(_) => Subject::Nft,
            Self::SetAccepts(table, chain, _) => Subject::Accepts(table.clone(), chain.clone()),
            Self::SetSysctl(path, _) => Subject::Sysctl(path.clone()),
            Self::SetRoute(r) | Self::RemoveRoute(r) => Subject::Route(r.table, r.dst, r.metric),
            Self::AddRule(r) | Self::RemoveRule(r) => Subject::Rule(r.family, r.priority, r.table),
        }
    }
}

impl Wanted {
    /// What is wanted of one object. It is looked up, however many there are.
    #[must_use]
    pub fn of(&self, subject: &Subject) -> Wish<'_> {
        match subject {
            Subject::Link(name) => of(&self.links, |all| all.get(name).map(Wish::Link)),
            Subject::Address(address) => of(&self.addresses, |all| there(all.contains(address))),
            Subject::Neighbour(link, ip) => of(&self.neighbours, |all| {
                let first = Neighbour {
                    link: link.clone(),
                    ip: *ip,
                    mac: Mac::ZERO,
                };
                let found = all.range(first..).next();
                let found = found.filter(|n| (&n.link, n.ip) == (link, *ip));
                found.map(|n| Wish::Neighbour(n.mac))
            }),
            Subject::Fdb(entry) => of(&self.fdb, |all| there(all.contains(entry))),
            Subject::Nft => of(&self.nft, |tables| Some(Wish::Nft(tables))),
            Subject::Accepts(table, chain) => of(&self.accepts, |all| {
                let rules = all.get(table)?.get(chain)?;
                Some(Wish::Accepts(rules))
            }),
            Subject::Sysctl(path) => match self.sysctls.get(path) {
                Some(value) => Wish::Sysctl(value),
                None if self
                    .loose_reverse_path
                    .iter()
                    .any(|dev| rp_filter_path(dev) == *path) =>
                {
                    Wish::Loose
                }
                None => Wish::Nothing,
            },
            Subject::Route(table, dst, metric) => of(&self.routes, |all| {
                let first = Route::first(*table, *dst, *metric);
                let key = first.key();
                let found = all.range(first..).next();
                found.filter(|route| route.key() == key).map(Wish::Route)
            }),
            Subject::Rule(family, priority, table) => of(&self.rules, |all| {
                let same = all
                    .iter()
                    .filter(|r| (r.family, r.priority, r.table) == (*family, *priority, *table));
                let same: Vec<&Rule> = same.collect();
                (!same.is_empty()).then_some(Wish::Rules(same))
            }),
        }
    }
}

impl Route {
    /// The first in order of all that may have this key.
    pub(crate) fn first(table: u32, dst: IpNet, metric: u32) -> Self {
        Self {
            table,
            dst,
            metric,
            protocol: 0,
            kind: RouteKind::Unicast {
                hops: Vec::new(),
                src: None,
            },
        }
    }
}

fn of<'a, T>(owned: &'a Owned<T>, find: impl FnOnce(&'a T) -> Option<Wish<'a>>) -> Wish<'a> {
    match owned {
        Owned::Keep => Wish::Keep,
        Owned::Set(all) => find(all).unwrap_or(Wish::Nothing),
    }
}

fn there<'a>(is: bool) -> Option<Wish<'a>> {
    is.then_some(Wish::There)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(dst: &str, metric: u32, kind: RouteKind) -> Route {
        Route {
            kind,
            protocol: 83,
            ..Route::first(254, dst.parse().unwrap(), metric)
        }
    }

    #[test]
    fn what_is_wanted_of_a_route_is_found_among_others_of_nearly_the_same_key() {
        let routes = [
            route("10.2.0.0/16", 0, RouteKind::Throw),
            route("10.2.0.0/16", 7, RouteKind::Unreachable),
            route("10.3.0.0/16", 0, RouteKind::Throw),
        ];
        let wanted = Wanted {
            routes: Owned::Set(routes.clone().into()),
            ..Wanted::default()
        };
        for route in &routes {
            let subject = Change::RemoveRoute(route.clone()).subject();
            assert_eq!(wanted.of(&subject), Wish::Route(route));
        }
        for (dst, metric) in [("10.2.0.0/16", 6), ("10.2.0.0/16", 8), ("10.4.0.0/16", 0)] {
            let subject = Subject::Route(254, dst.parse().unwrap(), metric);
            assert_eq!(wanted.of(&subject), Wish::Nothing, "{dst} {metric}");
        }
        let unknown = Wanted::default();
        let subject = Subject::Route(254, "10.2.0.0/16".parse().unwrap(), 0);
        assert_eq!(unknown.of(&subject), Wish::Keep);
    }

    #[test]
    fn what_is_wanted_of_a_neighbour_and_of_a_reverse_path_is_found() {
        let neighbour = |ip: &str, last| Neighbour {
            link: "vx".into(),
            ip: ip.parse().unwrap(),
            mac: Mac([2, 0, 0, 0, 0, last]),
        };
        let wanted = Wanted {
            neighbours: Owned::Set([neighbour("240.0.0.1", 1), neighbour("240.0.0.3", 3)].into()),
            loose_reverse_path: ["cni0".to_owned()].into(),
            ..Wanted::default()
        };
        let of = |ip: &str| wanted.of(&Subject::Neighbour("vx".into(), ip.parse().unwrap()));
        assert_eq!(of("240.0.0.3"), Wish::Neighbour(Mac([2, 0, 0, 0, 0, 3])));
        assert_eq!(of("240.0.0.2"), Wish::Nothing);
        let sysctl = |path: String| wanted.of(&Subject::Sysctl(path));
        assert_eq!(sysctl(rp_filter_path("cni0")), Wish::Loose);
        assert_eq!(sysctl(rp_filter_path("cni1")), Wish::Nothing);
    }
}
