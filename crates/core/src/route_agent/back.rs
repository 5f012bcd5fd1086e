//! The way back, for reverse-path filters of others that look at marks (`fib saddr . mark . iif oif missing drop`, as firewalld has it
//! for IPv6, and the match `rpfilter --validmark`): they ask by which link the source would be reached, and drop what came by another.
//!
//! What comes from other clusters comes by the pods' network, and what pods of other nodes send comes by the nodes' VXLAN, while the
//! way to either leads elsewhere. So before all filters the link by which such a packet came is written into its mark, where a rule
//! finds a table that leads back by that link; and behind all filters, before the packet itself is routed, the mark is as it was.
//! The same two chains count, so that what a filter drops in between is named.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use strait_api::names::{
    BACK_FIXED, BACK_LINKS, BACK_MARK, BACK_MASK, ROUTE_PROTOCOL, RULE_BACK, TABLE_BACK,
};
use strait_api::vtep::Vxlan;
use strait_host::nft::{Base, Chain, ChainKind, Field, Hook, Set, Statement, Table, Value};
use strait_host::{Family, Hop, Host, Route, RouteKind, Rule};

use super::State;
use super::nft::{EARLY_FIRST, EARLY_LAST, LAST_PRIORITY, family, from, name, rule};
use super::routes::{default_metric, device};
use super::view::{FamilyView, Role};

/// Before the earliest filter (`NF_IP_PRI_RAW`, −300), behind what puts fragments together (−400).
const FIRST_PRIORITY: i32 = -310;
/// The links that are looked at.
const LINKS: &str = "back-links";
/// The whole Internet but for the destination 0, in two halves: a default route may be taken for the host's.
const HALVES: [[&str; 2]; 2] = [["0.0.0.0/1", "128.0.0.0/1"], ["::/1", "8000::/1"]];

/// Whose packets come by another link than the way to them leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    /// Other clusters', and the answers of gateways to the self-test.
    Remote,
    /// Pods' of other nodes.
    Pods,
}

/// Where such packets come in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    pub family: Family,
    pub of: Of,
    pub link: String,
}

/// What there is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Back {
    /// What is counted.
    pub arrivals: BTreeSet<Arrival>,
    /// The numbers of links, in families in which somebody asks for the way back.
    marks: BTreeMap<(Family, String), u32>,
}

impl Arrival {
    /// Comment of the rules that count it.
    pub(super) fn comment(&self) -> String {
        let of = match self.of {
            Of::Remote => "from remote clusters",
            Of::Pods => "from pods of other nodes",
        };
        format!("{} {of} before routing", self.family)
    }
}

/// The sources that come by the pods' network.
pub(super) fn sources(view: &FamilyView<'_>) -> Vec<IpNet> {
    let v6 = view.family == Family::V6;
    let inside = [Vxlan::Nodes, Vxlan::Gateways].map(|of| of.prefix(v6));
    [&view.subnets[..], &inside].concat()
}

impl State {
    /// What is marked and counted: in families in which somebody asks for the way back, and where the self-test says that something
    /// is lost, counted only.
    pub(super) fn back(&self, host: &Host, families: &[FamilyView<'_>]) -> Back {
        let mut back = Back::default();
        for view in families {
            let asked = host.source_checks.contains(&view.family);
            if asked || self.self_test_condition(view).is_some() {
                back.arrivals.extend(self.arrivals(host, view));
            }
        }
        let links: BTreeSet<&String> = back.arrivals.iter().map(|a| &a.link).collect();
        for (link, number) in links.into_iter().take(BACK_LINKS).zip(1..) {
            let of_link = back.arrivals.iter().filter(|a| a.link == *link);
            let asked = of_link.filter(|a| host.source_checks.contains(&a.family));
            back.marks
                .extend(asked.map(|a| ((a.family, link.clone()), number)));
        }
        back
    }

    fn arrivals(&self, host: &Host, view: &FamilyView<'_>) -> BTreeSet<Arrival> {
        let own = device(view.family);
        let cable = self.own_cable(host, view.family);
        let arrival = |of, link: &str| Arrival {
            family: view.family,
            of,
            link: link.to_owned(),
        };
        // The way to other clusters leads there by itself.
        let by_itself = match self.role() {
            Role::Gateway => cable.and_then(|c| c.link),
            Role::Worker | Role::NoGateway => Some(own),
        };
        let is_up = |link: &String| host.links.get(link).is_some_and(|l| l.up);
        let mut all: BTreeSet<Arrival> = self
            .ways_of(host, view)
            .iter()
            .filter(|link| by_itself != Some(link.as_str()) && is_up(link))
            .map(|link| arrival(Of::Remote, link))
            .collect();
        if cable.is_some() && view.underlay.is_some() {
            all.insert(arrival(Of::Pods, own));
        }
        all
    }
}

impl Back {
    /// The rules by which a mark leads to its link's table.
    pub(super) fn rules(&self) -> impl Iterator<Item = Rule> + '_ {
        self.marks.iter().map(|((family, _), number)| Rule {
            family: *family,
            priority: RULE_BACK,
            from: None,
            to: None,
            link: None,
            mark: Some((BACK_MARK | number, BACK_MASK)),
            table: TABLE_BACK + number,
            protocol: ROUTE_PROTOCOL,
        })
    }

    /// Those tables: everything by that link.
    pub(super) fn routes(&self) -> Vec<Route> {
        let mut all = Vec::new();
        for ((family, link), number) in &self.marks {
            let halves = match family {
                Family::V4 => HALVES[0],
                Family::V6 => HALVES[1],
            };
            for dst in halves.into_iter().filter_map(|half| half.parse().ok()) {
                let hops = vec![Hop {
                    dev: Some(link.clone()),
                    via: None,
                    onlink: false,
                }];
                all.push(Route {
                    table: TABLE_BACK + number,
                    dst,
                    metric: default_metric(*family),
                    protocol: ROUTE_PROTOCOL,
                    kind: RouteKind::Unicast { hops, src: None },
                });
            }
        }
        all
    }

    /// Puts the two chains and their sets into our table; nothing where there is nothing to do.
    pub(super) fn put(&self, table: &mut Table, families: &[FamilyView<'_>]) {
        if self.arrivals.is_empty() {
            return;
        }
        let links: BTreeSet<&str> = self.arrivals.iter().map(|a| a.link.as_str()).collect();
        table.sets.insert(LINKS.to_owned(), Set::of_names(links));
        for view in families {
            let set = Set::of_nets(view.family, &sources(view));
            table.sets.insert(name("back", view.family), set);
        }
        // The cheapest first: this is asked of every packet.
        let elsewhere = rule(
            "what comes by other links is no matter of ours",
            [
                Statement::Lookup {
                    field: Field::InputLink,
                    negated: true,
                    set: LINKS.to_owned(),
                },
                Statement::Accept,
            ],
        );
        let (mut first, mut last) = (vec![elsewhere.clone()], vec![elsewhere]);
        for arrival in &self.arrivals {
            let f = arrival.family;
            let set = match arrival.of {
                Of::Remote => name("back", f),
                Of::Pods => name("pods", f),
            };
            let link = Statement::Match {
                field: Field::InputLink,
                mask: None,
                negated: false,
                value: Value::Name(arrival.link.clone()),
            };
            let counts = rule(
                &arrival.comment(),
                [family(f), link, from(f, &set), Statement::Counter],
            );
            last.push(counts.clone());
            let mut marks = counts;
            if let Some(number) = self.marks.get(&(f, arrival.link.clone())) {
                // Whoever uses these bits goes on to.
                marks.statements.push(bits(BACK_MASK, 0));
                marks.statements.push(Statement::SetMarkBits {
                    mask: BACK_MASK,
                    value: BACK_MARK | number,
                });
            }
            first.push(marks);
        }
        if !self.marks.is_empty() {
            last.push(rule(
                "the mark has served: packets are routed without it",
                [
                    bits(BACK_FIXED, BACK_MARK),
                    Statement::SetMarkBits {
                        mask: BACK_MASK,
                        value: 0,
                    },
                ],
            ));
        }
        for (chain, priority, rules) in [
            (EARLY_FIRST, FIRST_PRIORITY, first),
            (EARLY_LAST, LAST_PRIORITY, last),
        ] {
            let base = Some(Base {
                kind: ChainKind::Filter,
                hook: Hook::Prerouting,
                priority,
            });
            table.chains.insert(chain.to_owned(), Chain { base, rules });
        }
    }
}

fn bits(mask: u32, value: u32) -> Statement {
    Statement::Match {
        field: Field::Mark,
        mask: Some(mask),
        negated: false,
        value: Value::Number(value),
    }
}
