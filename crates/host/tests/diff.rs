//! The difference, on random hosts: applied it gives what is wanted, equals give none, foreign objects are never in it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use strait_host::nft::{
    Base, Chain, ChainKind, Field, Hook, Rule as NftRule, Set, Statement, Table, TableFamily,
    TableId,
};
use strait_host::{
    Address, Change, Family, Fdb, Hop, Host, Link, LinkKind, Mac, Neighbour, Owned, Owner, Route,
    RouteKind, Rule, Scope, Stage, Vxlan, Wanted, diff,
};

const OURS: u8 = 83;
const THEIRS: u8 = 4;

fn owner() -> Owner {
    Owner {
        alias: "strait".into(),
        links: ["vx0".to_owned(), "vx1".to_owned()].into(),
        route_protocol: Some(OURS),
        rule_protocol: Some(OURS),
        tables: [table_id("strait")].into(),
    }
}

fn table_id(name: &str) -> TableId {
    TableId {
        family: TableFamily::Inet,
        name: name.into(),
    }
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn net(n: u8) -> IpNet {
    format!("10.{n}.0.0/16").parse().unwrap()
}

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

fn other_link() -> Link {
    Link {
        kind: LinkKind::Bridge,
        mtu: 1500,
        up: true,
        mac: None,
        alias: None,
        master: None,
    }
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
        })
    });
    let flood = prop::collection::btree_set((link_name(), 1u8..4), 0..4).prop_map(|set| {
        set.into_iter().map(|(link, n)| Fdb {
            link,
            mac: Mac::ZERO,
            dst: ip(n),
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
            let mut table = Table::default();
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

fn plain_link(alias: Option<&str>, vni: u32) -> Link {
    Link {
        kind: LinkKind::Vxlan(Vxlan {
            vni,
            port: 4800,
            local: Some(ip(1)),
            remote: None,
            learning: false,
        }),
        mtu: 1450,
        up: true,
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        alias: alias.map(str::to_owned),
        master: None,
    }
}

fn wanting(link: Link) -> Wanted {
    let address = Address {
        link: "vx0".into(),
        net: "240.0.0.1/8".parse().unwrap(),
        scope: Scope::Global,
    };
    Wanted {
        links: Owned::Set([("vx0".to_owned(), link)].into()),
        addresses: Owned::Set([address].into()),
        ..Wanted::default()
    }
}

#[test]
fn a_predecessors_link_of_our_name_and_type_is_adopted_without_being_made_anew() {
    let host = Host {
        links: [("vx0".to_owned(), plain_link(None, 100))].into(),
        ..Host::default()
    };
    let changes = diff(&host, &wanting(plain_link(Some("strait"), 100)), &owner()).changes;
    assert!(
        matches!(
            &changes[..],
            [Change::ChangeLink(..), Change::AddAddress(_)]
        ),
        "{changes:?}"
    );
}

#[test]
fn a_route_that_a_predecessor_left_by_way_of_our_link_gives_way_without_a_gap() {
    let route = |protocol, dev: &str| Route {
        table: 254,
        dst: net(1),
        metric: 0,
        protocol,
        kind: RouteKind::Unicast {
            hops: vec![Hop {
                dev: Some(dev.to_owned()),
                via: Some(ip(9)),
                onlink: false,
            }],
            src: None,
        },
    };
    let wanted = Wanted {
        routes: Owned::Set([route(OURS, "vx0")].into()),
        ..wanting(plain_link(Some("strait"), 100))
    };
    let with = |have: Route| {
        let host = Host {
            links: [("vx0".to_owned(), plain_link(None, 100))].into(),
            routes: [have].into(),
            ..Host::default()
        };
        diff(&host, &wanted, &owner())
    };
    let taken = with(route(THEIRS, "vx0"));
    assert_eq!(taken.conflicts, []);
    assert!(
        taken
            .changes
            .contains(&Change::SetRoute(route(OURS, "vx0")))
    );
    assert!(
        !taken
            .changes
            .iter()
            .any(|c| matches!(c, Change::RemoveRoute(_)))
    );
    // That of a daemon, or by another link, is somebody's.
    for other in [route(17, "vx0"), route(THEIRS, "eth0")] {
        assert_eq!(with(other).conflicts.len(), 1);
    }
}

#[test]
fn an_address_by_way_of_which_a_route_is_to_lead_goes_before_that_comes() {
    let old = Address {
        link: "vx0".into(),
        net: "240.0.0.9/8".parse().unwrap(),
        scope: Scope::Global,
    };
    let host = Host {
        links: [("vx0".to_owned(), plain_link(Some("strait"), 100))].into(),
        addresses: [old.clone()].into(),
        ..Host::default()
    };
    let route = Route {
        table: 254,
        dst: net(1),
        metric: 0,
        protocol: OURS,
        kind: RouteKind::Unicast {
            hops: vec![Hop {
                dev: Some("vx0".into()),
                via: Some(old.net.addr()),
                onlink: false,
            }],
            src: None,
        },
    };
    let wanted = Wanted {
        routes: Owned::Set([route.clone()].into()),
        ..wanting(plain_link(Some("strait"), 100))
    };
    let [new] = wanted.addresses.get().unwrap().iter().collect::<Vec<_>>()[..] else {
        panic!("one address is wanted")
    };
    assert_eq!(
        diff(&host, &wanted, &owner()).changes,
        [
            Change::AddAddress(new.clone()),
            Change::RemoveAddress(old),
            Change::SetRoute(route)
        ]
    );
}

#[test]
fn a_foreign_link_of_our_name_is_a_conflict_and_is_left_alone() {
    let host = Host {
        links: [("vx0".to_owned(), other_link())].into(),
        ..Host::default()
    };
    let d = diff(&host, &wanting(plain_link(Some("strait"), 100)), &owner());
    assert!(d.changes.is_empty(), "{:?}", d.changes);
    assert_eq!(d.conflicts.len(), 1);
}

#[test]
fn nothing_is_set_on_a_foreign_link_of_our_name() {
    let path = |key: &str| format!("net/ipv4/conf/vx0/{key}");
    let host = Host {
        links: [("vx0".to_owned(), other_link())].into(),
        sysctls: [(path("rp_filter"), "1".to_owned())].into(),
        ..Host::default()
    };
    let wanted = Wanted {
        sysctls: [(path("forwarding"), "1".to_owned())].into(),
        loose_reverse_path: ["vx0".to_owned()].into(),
        ..wanting(plain_link(Some("strait"), 100))
    };
    let d = diff(&host, &wanted, &owner());
    assert!(d.changes.is_empty(), "{:?}", d.changes);
}

#[test]
fn a_foreign_link_with_our_network_identifier_is_a_conflict_that_names_it() {
    let host = Host {
        links: [("other".to_owned(), plain_link(None, 100))].into(),
        ..Host::default()
    };
    let d = diff(&host, &wanting(plain_link(Some("strait"), 100)), &owner());
    assert!(d.changes.is_empty(), "{:?}", d.changes);
    assert!(
        d.conflicts[0].to_string().contains("other"),
        "{}",
        d.conflicts[0]
    );
}

#[test]
fn a_foreign_route_in_the_place_of_ours_is_a_conflict_and_stays() {
    let route = |protocol| Route {
        table: 254,
        dst: net(1),
        metric: 0,
        protocol,
        kind: RouteKind::Unreachable,
    };
    let host = Host {
        routes: [route(THEIRS)].into(),
        ..Host::default()
    };
    let wanted = Wanted {
        routes: Owned::Set([route(OURS)].into()),
        ..Wanted::default()
    };
    let d = diff(&host, &wanted, &owner());
    assert!(d.changes.is_empty() && d.conflicts.len() == 1, "{d:?}");
}

#[test]
fn the_reverse_path_filter_is_loosened_only_where_it_is_strict() {
    let wanted = Wanted {
        loose_reverse_path: ["eth0".to_owned()].into(),
        ..Wanted::default()
    };
    for (all, own, loosened) in [
        (0, 0, false),
        (0, 1, true),
        (0, 2, false),
        (1, 0, true),
        (1, 2, false),
        (2, 1, false),
    ] {
        let mut host = Host::default();
        host.sysctls
            .insert("net/ipv4/conf/all/rp_filter".into(), all.to_string());
        host.sysctls
            .insert("net/ipv4/conf/eth0/rp_filter".into(), own.to_string());
        let changes = diff(&host, &wanted, &owner()).changes;
        assert_eq!(
            changes.len() == 1,
            loosened,
            "all={all} own={own}: {changes:?}"
        );
    }
}

#[test]
fn overlapping_and_adjacent_prefixes_become_one_interval() {
    let nets: Vec<IpNet> = ["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "fd00::/64"]
        .iter()
        .map(|n| n.parse().unwrap())
        .collect();
    let set = Set::of_nets(Family::V4, &nets);
    assert_eq!(set.elements.len(), 1);
    assert!(set.elements.contains_key(&strait_host::nft::Element::Net(
        "10.0.0.0/8".parse().unwrap()
    )));
}

#[test]
fn accept_rules_go_into_chains_that_are_there_and_come_back_to_their_place() {
    let rule = strait_host::nft::Rule {
        statements: vec![strait_host::nft::Statement::Accept],
        comment: "strait".to_owned(),
    };
    let table = strait_host::nft::TableId {
        family: strait_host::nft::TableFamily::Ip,
        name: "filter".to_owned(),
    };
    let want = |rules: &[strait_host::nft::Rule]| {
        let chains = ["FORWARD", "INPUT"].map(|chain| (chain.to_owned(), rules.to_vec()));
        let accepts = BTreeMap::from([(table.clone(), BTreeMap::from(chains))]);
        Wanted {
            accepts: Owned::Set(accepts),
            ..Wanted::default()
        }
    };
    let mut host = Host::default();
    let some = want(std::slice::from_ref(&rule));
    assert_eq!(diff(&host, &some, &owner()).changes, [], "no chain");
    let chains = host.filters.entry(table.clone()).or_default();
    chains.insert("FORWARD".to_owned(), Default::default());
    let set = |rules: Vec<_>| {
        vec![Change::SetAccepts(
            table.clone(),
            "FORWARD".to_owned(),
            rules,
        )]
    };
    let changes = diff(&host, &some, &owner()).changes;
    assert_eq!(changes, set(vec![rule.clone()]));
    host.apply(&changes[0]);
    assert_eq!(diff(&host, &some, &owner()).changes, []);
    let chain = host
        .filters
        .get_mut(&table)
        .unwrap()
        .get_mut("FORWARD")
        .unwrap();
    chain.in_place = false;
    assert_eq!(diff(&host, &some, &owner()).changes, set(vec![rule]));
    assert_eq!(
        diff(&host, &Wanted::default(), &owner()).changes,
        [],
        "kept"
    );
    assert_eq!(diff(&host, &want(&[]), &owner()).changes, set(vec![]));
}

#[test]
fn what_another_owner_left_goes_only_if_it_is_named_and_carries_the_mark() {
    let marked = Link {
        alias: Some("strait".into()),
        ..other_link()
    };
    let mut host = Host::default();
    for (name, link) in [
        ("cable0", marked.clone()),
        ("cable1", other_link()),
        ("cable2", marked),
    ] {
        host.links.insert(name.into(), link);
    }
    let wanted = Wanted {
        reaped: ["cable0", "cable1", "gone"].map(str::to_owned).into(),
        ..Wanted::default()
    };
    let changes = diff(&host, &wanted, &owner()).changes;
    assert_eq!(changes, [Change::RemoveLink("cable0".into())]);
}
