//! On random hosts.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::prelude::*;
use strait_host::nft::{
    Base, Chain, ChainKind, Field, Hook, Rule as NftRule, Set, Statement, Table,
};
use strait_host::{
    Address, Change, Family, Fdb, Hop, Host, Link, LinkKind, Mac, Neighbour, Owned, Route,
    RouteKind, Rule, Scope, Stage, Vxlan, Wanted, diff,
};

use super::*;

/// A VXLAN link: ours have distinct network identifiers, so that they never stand in each other's way.
fn vxlan(name: &'static str, alias: Option<&'static str>) -> impl Strategy<Value = Link> {
    (
        1400u32..1403,
        any::<bool>(),
        1u8..4,
        prop::option::of(1u8..3),
    )
        .prop_map(move |(mtu, up, mac, local)| Link {
            kind: LinkKind::Vxlan(Vxlan {
                vni: if name == "vx0" { 100 } else { 1000 },
                port: 4800,
                local: local.map(ip),
                remote: None,
                learning: false,
            }),
            mtu,
            up,
            mac: Some(Mac([2, 0, 0, 0, 0, mac])),
            alias: alias.map(str::to_owned),
            master: None,
        })
}

fn links(alias: Option<&'static str>) -> impl Strategy<Value = BTreeMap<String, Link>> {
    let one = move |name| prop::option::of(vxlan(name, alias));
    (one("vx0"), one("vx1")).prop_map(|(a, b)| {
        let pairs = [("vx0", a), ("vx1", b)];
        pairs
            .into_iter()
            .filter_map(|(n, l)| Some((n.to_owned(), l?)))
            .collect()
    })
}

fn link_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["vx0", "vx1"]).prop_map(str::to_owned)
}

fn addresses() -> impl Strategy<Value = BTreeSet<Address>> {
    let address = (link_name(), 1u8..5).prop_map(|(link, n)| Address {
        link,
        net: format!("240.0.0.{n}/8").parse().unwrap(),
        scope: Scope::Global,
    });
    prop::collection::btree_set(address, 0..4)
}

fn neighbours() -> impl Strategy<Value = BTreeSet<Neighbour>> {
    // One Ethernet address per neighbour: what is wanted must be possible.
    prop::collection::btree_map((link_name(), 1u8..5), 1u8..3, 0..4).prop_map(|map| {
        map.into_iter()
            .map(|((link, n), mac)| Neighbour {
                link,
                ip: ip(n),
                mac: Mac([2, 0, 0, 0, 0, mac]),
            })
            .collect()
    })
}

fn fdb() -> impl Strategy<Value = BTreeSet<Fdb>> {
    let exact = prop::collection::btree_map((link_name(), 1u8..4), 1u8..4, 0..4).prop_map(|map| {
        map.into_iter().map(|((link, mac), n)| Fdb {
            link,
            mac: Mac([2, 0, 0, 0, 0, mac]),
            dst: ip(n),
            port: (n == 2).then_some(4501),
        })
    });
    let flood = prop::collection::btree_set((link_name(), 1u8..4), 0..4).prop_map(|set| {
        set.into_iter().map(|(link, n)| Fdb {
            link,
            mac: Mac::ZERO,
            dst: ip(n),
            port: None,
        })
    });
    (exact, flood).prop_map(|(a, b)| a.chain(b).collect())
}

fn routes(protocol: u8) -> impl Strategy<Value = BTreeSet<Route>> {
    let kind = prop_oneof![
        Just(RouteKind::Unreachable),
        Just(RouteKind::Throw),
        (link_name(), 1u8..4, prop::option::of(1u8..3)).prop_map(|(dev, via, src)| {
            RouteKind::Unicast {
                hops: vec![Hop {
                    dev: Some(dev),
                    via: Some(ip(via)),
                    onlink: false,
                }],
                src: src.map(ip),
            }
        }),
    ];
    // Foreign ones never share a key with ours here: that is a conflict, and has a test of its own.
    let metric = if protocol == OURS {
        vec![0u32, 10, u32::MAX]
    } else {
        vec![77]
    };
    let key = (
        prop::sample::select(vec![100u32, 254]),
        1u8..4,
        prop::sample::select(metric),
    );
    prop::collection::btree_map(key, kind, 0..6).prop_map(move |map| {
        let route = |((table, n, metric), kind)| Route {
            table,
            dst: net(n),
            metric,
            protocol,
            kind,
        };
        map.into_iter().map(route).collect()
    })
}

fn rules(protocol: u8) -> impl Strategy<Value = BTreeSet<Rule>> {
    let rule = (any::<bool>(), 100u32..103, prop::option::of(1u8..3)).prop_map(
        move |(v4, priority, from)| Rule {
            family: if v4 { Family::V4 } else { Family::V6 },
            priority,
            from: from.map(net),
            to: None,
            link: None,
            mark: None,
            table: priority,
            protocol,
        },
    );
    prop::collection::btree_set(rule, 0..4)
}

fn table() -> impl Strategy<Value = Table> {
    let sets = prop::collection::btree_set(1u8..6, 0..5);
    let names =
        prop::collection::btree_set(prop::sample::select(vec!["eth0", "vx0", "cni0"]), 0..3);
    let statement = prop_oneof![
        Just(Statement::Accept),
        Just(Statement::Counter),
        Just(Statement::SnatToSelf(Family::V4)),
        (1u8..4).prop_map(|n| Statement::SnatTo(ip(n))),
        Just(Statement::Lookup {
            field: Field::Source(Family::V4),
            negated: false,
            set: "remote4".into()
        }),
    ];
    let rule = prop::collection::vec(statement, 1..3).prop_map(|statements| NftRule {
        statements,
        comment: "test".into(),
    });
    let base = prop_oneof![
        Just(None),
        Just(Some(Base {
            kind: ChainKind::Nat,
            hook: Hook::Postrouting,
            priority: -199
        })),
        Just(Some(Base {
            kind: ChainKind::Filter,
            hook: Hook::Input,
            priority: -150
        })),
    ];
    (
        sets,
        names,
        prop::collection::vec(rule, 0..3),
        base,
        any::<bool>(),
    )
        .prop_map(|(nets, names, rules, base, extra)| {
            let nets: Vec<IpNet> = nets.into_iter().map(net).collect();
            let mut table = Table {
                comment: "strait".into(),
                ..Table::default()
            };
            table
                .sets
                .insert("remote4".into(), Set::of_nets(Family::V4, &nets));
            table.sets.insert("ways".into(), Set::of_names(names));
            table.chains.insert("source".into(), Chain { base, rules });
            if extra {
                table.chains.insert("extra".into(), Chain::default());
            }
            table
        })
}

prop_compose! {
    fn wanted()(
        links in links(Some("strait")), addresses in addresses(), neighbours in neighbours(), fdb in fdb(),
        nft in prop::option::of(table()), routes in routes(OURS), rules in rules(OURS), loose in any::<bool>(),
        keep in any::<bool>(),
    ) -> Wanted {
        let on = |link: &String| links.contains_key(link);
        let usable = |r: &Route| r.hops().iter().all(|h| h.dev.as_ref().is_some_and(on));
        Wanted {
            addresses: Owned::Set(addresses.into_iter().filter(|a| on(&a.link)).collect()),
            neighbours: Owned::Set(neighbours.into_iter().filter(|n| on(&n.link)).collect()),
            fdb: Owned::Set(fdb.into_iter().filter(|f| on(&f.link)).collect()),
            nft: Owned::Set(nft.into_iter().map(|t| (table_id("strait"), t)).collect()),
            accepts: Owned::Keep,
            routes: if keep { Owned::Keep } else { Owned::Set(routes.into_iter().filter(usable).collect()) },
            rules: Owned::Set(rules),
            sysctls: BTreeMap::from([("net/ipv4/conf/vx0/forwarding".into(), "1".into())]),
            loose_reverse_path: if loose { ["eth0".to_owned()].into() } else { BTreeSet::new() },
            reaped: BTreeSet::new(),
            links: Owned::Set(links),
        }
    }
}

prop_compose! {
    fn host()(
        ours in links(Some("strait")), addresses in addresses(), neighbours in neighbours(), fdb in fdb(),
        nft in prop::option::of(table()), own_routes in routes(OURS), foreign_routes in routes(THEIRS),
        own_rules in rules(OURS), foreign_rules in rules(THEIRS), strict in 0u8..3, foreign_table in table(),
    ) -> Host {
        let mut host = Host { links: ours, ..Host::default() };
        let on = |link: &String| host.links.contains_key(link);
        host.addresses = addresses.into_iter().filter(|a| on(&a.link)).collect();
        host.neighbours = neighbours.into_iter().filter(|n| on(&n.link)).collect();
        host.fdb = fdb.into_iter().filter(|f| on(&f.link)).collect();
        let mut by_key = BTreeMap::new();
        for r in foreign_routes.into_iter().chain(own_routes) {
            if r.hops().iter().all(|h| h.dev.as_ref().is_some_and(on)) {
                by_key.insert(r.key(), r);
            }
        }
        host.routes = by_key.into_values().collect();
        host.rules = own_rules.into_iter().chain(foreign_rules).collect();
        host.links.insert("cni0".into(), other_link());
        host.addresses.insert(Address { link: "cni0".into(), net: "10.1.0.1/24".parse().unwrap(), scope: Scope::Global });
        host.nft = nft.into_iter().map(|t| (table_id("strait"), t)).collect();
        host.nft.insert(table_id("foreign"), foreign_table);
        host.sysctls.insert("net/ipv4/conf/all/rp_filter".into(), "0".into());
        host.sysctls.insert("net/ipv4/conf/eth0/rp_filter".into(), strict.to_string());
        host
    }
}

/// What of a host an owner does not own. Routes through links that are made anew or removed go with them.
fn foreign(host: &Host, lost: &BTreeSet<String>) -> Host {
    let o = owner();
    let mut host = host.clone();
    host.links.retain(|n, l| !o.owns_link(n, l));
    let ours: BTreeSet<String> = o.links.clone();
    host.addresses.retain(|a| !ours.contains(&a.link));
    host.neighbours.retain(|n| !ours.contains(&n.link));
    host.fdb.retain(|f| !ours.contains(&f.link));
    host.routes.retain(|r| {
        !o.owns_route(r)
            && !r
                .hops()
                .iter()
                .any(|h| h.dev.as_ref().is_some_and(|d| lost.contains(d)))
    });
    host.rules.retain(|r| !o.owns_rule(r));
    host.nft.retain(|id, _| !o.tables.contains(id));
    host.sysctls.clear();
    host
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_difference_applied_gives_what_is_wanted_and_then_nothing(host in host(), wanted in wanted()) {
        let first = diff(&host, &wanted, &owner());
        prop_assert!(first.conflicts.is_empty(), "{:?}", first.conflicts);
        let mut after = host.clone();
        for change in &first.changes {
            after.apply(change);
        }
        let second = diff(&after, &wanted, &owner());
        prop_assert!(second.changes.is_empty(), "left over: {:#?}\nafter: {:#?}", second.changes, first.changes);
        let links = wanted.links.get().unwrap();
        for (name, link) in links {
            prop_assert_eq!(after.links.get(name), Some(link));
        }
        prop_assert_eq!(after.nft.get(&table_id("strait")), wanted.nft.get().unwrap().get(&table_id("strait")));
        if let Owned::Set(routes) = &wanted.routes {
            let ours: BTreeSet<Route> = after.routes.iter().filter(|r| r.protocol == OURS).cloned().collect();
            prop_assert_eq!(&ours, routes);
        }
        let rules: BTreeSet<Rule> = after.rules.iter().filter(|r| r.protocol == OURS).cloned().collect();
        prop_assert_eq!(Some(&rules), wanted.rules.get());
    }

    #[test]
    fn a_pass_that_ends_anywhere_is_completed_by_the_next(host in host(), wanted in wanted(), share in 0.0..1.0f64) {
        let whole = diff(&host, &wanted, &owner()).changes;
        let mut complete = host.clone();
        whole.iter().for_each(|change| complete.apply(change));
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few changes")]
        let made = (whole.len() as f64 * share) as usize;
        let mut after = host;
        whole.iter().take(made).for_each(|change| after.apply(change));
        // Who begins anew knows only what is there.
        let rest = diff(&after, &wanted, &owner());
        prop_assert!(rest.conflicts.is_empty(), "{:?}", rest.conflicts);
        rest.changes.iter().for_each(|change| after.apply(change));
        prop_assert_eq!(after, complete, "after {} of {:#?}\nand {:#?}", made, whole, rest.changes);
    }

    #[test]
    fn foreign_objects_are_never_touched(host in host(), wanted in wanted()) {
        let d = diff(&host, &wanted, &owner());
        let mut after = host.clone();
        let mut lost = BTreeSet::new();
        for change in &d.changes {
            after.apply(change);
            if let Change::RemoveLink(name) = change {
                lost.insert(name.clone());
            }
        }
        prop_assert_eq!(foreign(&after, &lost), foreign(&host, &lost));
    }

    #[test]
    fn what_carries_traffic_comes_after_what_protects_it(host in host(), wanted in wanted()) {
        let changes = diff(&host, &wanted, &owner()).changes;
        let at = |stage: Stage| changes.iter().position(|c| c.stage() == stage);
        let last = |stage: Stage| changes.iter().rposition(|c| c.stage() == stage);
        let first_route = at(Stage::Routes).unwrap_or(usize::MAX);
        for stage in [Stage::Guard, Stage::Nft] {
            if let Some(last) = last(stage) {
                prop_assert!(last < first_route);
            }
        }
        prop_assert!(changes.iter().filter(|c| matches!(c, Change::Nft(_))).count() <= 1, "one transaction a pass");
    }

    #[test]
    fn keep_changes_nothing(host in host()) {
        prop_assert_eq!(diff(&host, &Wanted::default(), &owner()).changes, vec![]);
    }
}
