//! Random desired states on the real kernel, one after the other, with others meddling in between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::*;
use ipnet::IpNet;
use strait_host::nft::{
    Base, Chain, ChainKind, Element, ElementType, Field, Hook, Set, Statement, Table, Value,
};
use strait_host::{
    Address, Family, Fdb, Hop, Host, Link, LinkKind, Mac, Neighbour, Owned, Owner, Route,
    RouteKind, Rule, Scope, Wanted, diff,
};
use strait_kernel::Kernel;
use strait_netns::Namespace;

/// Xorshift: the same seed gives the same desired states.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn yes(&mut self, in_ten: u64) -> bool {
        self.below(10) < in_ten
    }

    fn octet(&mut self, n: u8) -> u8 {
        self.below(u64::from(n)) as u8
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    fn many<T: Ord>(&mut self, most: u64, mut one: impl FnMut(&mut Self) -> T) -> BTreeSet<T> {
        (0..self.below(most + 1)).map(|_| one(self)).collect()
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn link(d: &mut Dice, vni: u32, local: &str) -> Link {
    Link {
        kind: LinkKind::Vxlan(strait_host::Vxlan {
            vni,
            port: 4800,
            local: d.yes(8).then(|| local.parse().unwrap()),
            remote: None,
            learning: d.yes(1),
        }),
        mtu: d.pick(&[1280, 1400, 1450]),
        up: true,
        mac: d.yes(8).then(|| Mac([2, 0, 0, 0, d.octet(3), 1])),
        alias: Some("strait".to_owned()),
        master: None,
    }
}

fn address(d: &mut Dice, link: &str) -> Address {
    let net = if d.yes(6) {
        let ip = Ipv4Addr::new(240, 0, d.octet(3), 1 + d.octet(4));
        IpNet::new(ip.into(), d.pick(&[8, 8, 8, 24])).unwrap()
    } else {
        let ip = Ipv6Addr::new(0xfd00, 0x240, 0, 0, 0, 0, 0, u16::from(1 + d.octet(4)));
        IpNet::new(ip.into(), 64).unwrap()
    };
    Address {
        link: link.to_owned(),
        net,
        scope: Scope::Global,
    }
}

fn destination(d: &mut Dice, family: Family) -> IpNet {
    match family {
        Family::V4 => {
            let len = d.pick(&[16, 17, 24, 32]);
            let ip = Ipv4Addr::new(10, d.octet(5), 128 * d.octet(2), 0);
            IpNet::new(ip.into(), len).unwrap().trunc()
        }
        Family::V6 => {
            let len = d.pick(&[48, 49, 64, 128]);
            let ip = Ipv6Addr::new(0xfd00, u16::from(d.octet(5)), 0, 0, 0, 0, 0, 0);
            IpNet::new(ip.into(), len).unwrap().trunc()
        }
    }
}

fn hop(d: &mut Dice, family: Family, overlay: bool, several: bool) -> Hop {
    let (dev, via) = match (family, overlay && d.yes(6)) {
        (Family::V4, true) => (VXLAN, IpAddr::V4(Ipv4Addr::new(240, 0, 9, 1 + d.octet(9)))),
        (Family::V6, true) => {
            let last = u16::from(0x90 + d.octet(9));
            let ip = Ipv6Addr::new(0xfd00, 0x240, 0, 0, 0, 0, 0, last);
            (VXLAN, ip.into())
        }
        (Family::V4, false) => ("up0", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + d.octet(9)))),
        (Family::V6, false) => {
            let last = u16::from(0x90 + d.octet(9));
            let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            ("up0", ip.into())
        }
    };
    Hop {
        dev: Some(dev.to_owned()),
        via: (several || d.yes(8)).then_some(via),
        onlink: false,
    }
}

fn route(d: &mut Dice, overlay: bool) -> Route {
    let family = d.pick(&Family::ALL);
    let kind = match d.below(10) {
        0 => RouteKind::Unreachable,
        1 => RouteKind::Blackhole,
        2 => RouteKind::Prohibit,
        3 => RouteKind::Throw,
        n => {
            let several = n == 9;
            let mut hops = vec![hop(d, family, overlay, several)];
            if several {
                let other = hop(d, family, overlay, several);
                if other != hops[0] {
                    hops.push(other);
                }
            }
            let src: IpAddr = match family {
                Family::V4 => [192, 0, 2, 10].into(),
                Family::V6 => "2001:db8::10".parse().unwrap(),
            };
            RouteKind::Unicast {
                hops,
                src: d.yes(2).then_some(src),
            }
        }
    };
    Route {
        table: d.pick(&[254, 100, 150, 1000]),
        dst: destination(d, family),
        metric: match family {
            Family::V4 => d.pick(&[0, 10, 20, u32::MAX]),
            Family::V6 => d.pick(&[1024, 10, 20, u32::MAX]),
        },
        protocol: ROUTES,
        kind,
    }
}

fn rule(d: &mut Dice) -> Rule {
    let family = d.pick(&Family::ALL);
    Rule {
        family,
        priority: d.pick(&[99, 150]),
        from: d.yes(4).then(|| destination(d, family)),
        to: d.yes(4).then(|| destination(d, family)),
        link: d
            .yes(4)
            .then(|| d.pick(&["eth0", "vx-submariner"]).to_owned()),
        mark: d
            .yes(4)
            .then(|| (d.pick(&[1, 0xc0000]), d.pick(&[u32::MAX, 0xff_ffff]))),
        table: d.pick(&[150, 1000]),
        protocol: RULES,
    }
}

fn set(d: &mut Dice) -> Set {
    let family = d.pick(&Family::ALL);
    match d.below(4) {
        0 => Set::of_names(
            d.many(4, |d| format!("eth{}", d.below(9)))
                .iter()
                .map(String::as_str),
        ),
        1 => Set {
            keys: ElementType::Port,
            interval: false,
            values: Some(ElementType::Mark),
            elements: d
                .many(4, |d| d.below(9))
                .into_iter()
                .map(|port| {
                    (
                        Element::Port(port as u16),
                        Some(Element::Mark(d.octet(9).into())),
                    )
                })
                .collect(),
        },
        _ => {
            let random = |d: &mut Dice| match family {
                Family::V4 => {
                    let ip = Ipv4Addr::from_bits(d.below(1 << 32) as u32);
                    IpNet::new(ip.into(), d.octet(33)).unwrap().trunc()
                }
                Family::V6 => {
                    let ip = Ipv6Addr::from_bits(u128::from(d.below(u64::MAX)) << 64);
                    IpNet::new(ip.into(), d.octet(129)).unwrap().trunc()
                }
            };
            let nets = d.many(20, |d| {
                if d.yes(5) {
                    destination(d, family)
                } else {
                    random(d)
                }
            });
            Set::of_nets(family, &nets)
        }
    }
}

fn nft(d: &mut Dice) -> BTreeMap<strait_host::nft::TableId, Table> {
    if d.yes(2) {
        return BTreeMap::new();
    }
    // Mostly the same sets with other elements, at times others.
    let count = d.pick(&[3, 3, 3, 4]);
    let sets: BTreeMap<String, Set> = (0..count).map(|i| (format!("set{i}"), set(d))).collect();
    let rules = |d: &mut Dice| {
        let all = (0..d.below(6)).map(|i| {
            let name = format!("set{}", d.below(count));
            let field = match sets[&name].keys {
                ElementType::Ipv4 => {
                    d.pick(&[Field::Source(Family::V4), Field::Destination(Family::V4)])
                }
                ElementType::Ipv6 => {
                    d.pick(&[Field::Source(Family::V6), Field::Destination(Family::V6)])
                }
                ElementType::Name => d.pick(&[Field::InputLink, Field::OutputLink]),
                ElementType::Port => Field::DestinationPort,
                ElementType::Mark => Field::Mark,
            };
            let proto = Statement::Match {
                field: Field::Protocol,
                mask: None,
                negated: d.yes(3),
                value: Value::Number(2),
            };
            let is_map = sets[&name].values.is_some();
            let lookup = Statement::Lookup {
                field,
                negated: d.yes(3),
                set: name,
            };
            let mut statements = vec![proto];
            if !is_map {
                statements.push(lookup);
            }
            statements.push(d.pick(&[
                Statement::Counter,
                Statement::SetMark(7),
                Statement::SetMarkBits {
                    mask: 0xff,
                    value: 7,
                },
            ]));
            statements.push(d.pick(&[Statement::Accept, Statement::Drop, Statement::Return]));
            strait_host::nft::Rule {
                statements,
                comment: format!("rule {i}"),
            }
        });
        all.collect()
    };
    let chain = |d: &mut Dice, hook| Chain {
        base: Some(Base {
            kind: ChainKind::Filter,
            hook,
            priority: d.pick(&[0, 0, 0, 7]),
        }),
        rules: rules(d),
    };
    let chains = BTreeMap::from([
        ("forward".to_owned(), chain(d, Hook::Forward)),
        ("output".to_owned(), chain(d, Hook::Output)),
    ]);
    BTreeMap::from([(
        table(),
        Table {
            comment: "strait".to_owned(),
            chains,
            sets,
        },
    )])
}

fn wanted(d: &mut Dice) -> Wanted {
    let mut w = nothing();
    let overlay = d.yes(7);
    if overlay {
        let mut all = BTreeMap::from([(VXLAN.to_owned(), link(d, 100, "192.0.2.10"))]);
        if d.yes(4) {
            all.insert("vx-two".to_owned(), link(d, 200, "2001:db8::10"));
        }
        let two = all.contains_key("vx-two");
        let mut addresses = d.many(4, |d| address(d, VXLAN));
        // What routes go by way of.
        addresses.insert(Address {
            link: VXLAN.to_owned(),
            net: net("240.0.0.200/8"),
            scope: Scope::Global,
        });
        addresses.insert(Address {
            link: VXLAN.to_owned(),
            net: net("fd00:240::200/64"),
            scope: Scope::Global,
        });
        if two {
            // With its last IPv4 address a link loses its IPv4 neighbours.
            addresses.insert(Address {
                link: "vx-two".to_owned(),
                net: net("241.0.0.200/8"),
                scope: Scope::Global,
            });
            addresses.extend(d.many(2, |d| address(d, "vx-two")));
        }
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        let neighbour = |d: &mut Dice| Neighbour {
            link: d.pick(&names).to_owned(),
            ip: hop(d, Family::V4, true, true).via.unwrap(),
            mac: Mac([2, 0, 0, 0, 1, d.octet(5)]),
        };
        let by_ip = d
            .many(5, neighbour)
            .into_iter()
            .map(|n| ((n.link.clone(), n.ip), n));
        w.neighbours = Owned::Set(by_ip.collect::<BTreeMap<_, _>>().into_values().collect());
        let fdb = |d: &mut Dice| {
            let link = d.pick(&names);
            let six = matches!(&all[link].kind, LinkKind::Vxlan(v) if v.local.is_some_and(|l| l.is_ipv6()));
            let dst: IpAddr = if six {
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, d.octet(9).into()).into()
            } else {
                Ipv4Addr::new(192, 0, 2, 20 + d.octet(9)).into()
            };
            Fdb {
                link: link.to_owned(),
                mac: if d.yes(4) {
                    Mac::ZERO
                } else {
                    Mac([2, 0, 0, 0, 2, d.octet(5)])
                },
                dst,
                port: d.yes(4).then_some(4999),
            }
        };
        let mut taken = BTreeSet::new();
        let mut entries = d.many(6, fdb);
        entries.retain(|e| e.mac == Mac::ZERO || taken.insert((e.link.clone(), e.mac)));
        w.fdb = Owned::Set(entries);
        w.links = Owned::Set(all);
        w.addresses = Owned::Set(addresses);
    }
    let by_key = d
        .many(12, |d| route(d, overlay))
        .into_iter()
        .map(|r| (r.key(), r));
    w.routes = Owned::Set(by_key.collect::<BTreeMap<_, _>>().into_values().collect());
    w.rules = Owned::Set(d.many(6, rule));
    w.nft = Owned::Set(nft(d));
    for path in [
        "net/ipv4/conf/up0/send_redirects",
        "net/ipv6/conf/up0/forwarding",
    ] {
        w.sysctls
            .insert(path.to_owned(), d.pick(&["0", "1"]).to_owned());
    }
    w
}

/// Only what the owner has, without what the kernel adds or chooses.
fn owned(mut host: Host, owner: &Owner) -> Host {
    host.links.retain(|name, link| owner.owns_link(name, link));
    let links: BTreeSet<String> = host.links.keys().cloned().collect();
    for link in host.links.values_mut() {
        link.mac = None;
    }
    host.addresses
        .retain(|a| links.contains(&a.link) && !a.is_kernels());
    host.neighbours.retain(|n| links.contains(&n.link));
    host.fdb.retain(|f| links.contains(&f.link));
    host.routes.retain(|r| owner.owns_route(r));
    host.rules.retain(|r| owner.owns_rule(r));
    host.sysctls.clear();
    host
}

/// What is not the owner's, but for what comes with its links.
fn foreign(mut host: Host, owner: &Owner) -> Host {
    // By name: a link of ours that lost its mark to the meddler is left to him.
    host.links.retain(|name, _| !owner.links.contains(name));
    let links: BTreeSet<String> = host.links.keys().cloned().collect();
    host.addresses.retain(|a| links.contains(&a.link));
    host.neighbours.retain(|n| links.contains(&n.link));
    host.fdb.clear();
    host.routes.retain(|r| {
        let mut devs = r.hops().iter().filter_map(|h| h.dev.as_ref());
        !owner.owns_route(r) && devs.all(|dev| links.contains(dev))
    });
    host.rules.retain(|r| !owner.owns_rule(r));
    host.sysctls.clear();
    host.nft.clear();
    host
}

fn meddle(d: &mut Dice, ns: &Namespace) {
    let deeds = [
        "ip link del vx-submariner",
        "ip link set vx-submariner down",
        "ip link set vx-submariner mtu 1300",
        "ip link set vx-submariner address 02:00:00:00:00:77",
        "ip link set vx-submariner alias somebody",
        "ip addr flush dev vx-submariner",
        "ip addr add 240.0.7.7/8 dev vx-submariner",
        "ip neigh flush dev vx-submariner nud permanent",
        "bridge fdb append 00:00:00:00:00:00 dev vx-submariner dst 192.0.2.99",
        "ip route flush table 150",
        "ip -6 route flush table 1000",
        "ip route flush proto 181",
        "ip rule del pref 150 protocol 182",
        "ip -6 rule del pref 99 protocol 182",
        "nft flush chain inet strait forward",
        "nft flush ruleset",
    ];
    let deed = d.pick(&deeds);
    // It may fail: there may be nothing to destroy.
    let mut words = deed.split(' ');
    let program = words.next().unwrap();
    let done = ns.command(program).args(words).output();
    done.unwrap_or_else(|e| panic!("this test needs {program}: {e}"));
}

fn converge(seed: u64, cases: u64) {
    let ns = namespace();
    run(&ns, "ip route add 10.99.0.0/16 via 192.0.2.1 proto 4");
    run(&ns, "ip -6 route add fd99::/16 via 2001:db8::1 metric 10");
    run(&ns, "ip rule add pref 150 from 10.99.0.0/16 lookup 1000");
    run(
        &ns,
        "ip neigh add 192.0.2.55 lladdr 02:00:00:00:00:55 dev up0 nud permanent",
    );
    let others = foreign(observe(&ns), &owner());
    assert!(
        others.rules.len() > 5 && others.routes.len() >= 4,
        "{others:#?}"
    );
    let mut d = Dice(seed);
    let mut made = 0;
    for case in 0..cases {
        let w = if case + 1 == cases {
            nothing()
        } else {
            wanted(&mut d)
        };
        if d.yes(3) {
            meddle(&mut d, &ns);
        }
        let at = format!("seed {seed:#x} case {case}");
        made += ns.run_async(|| one_pass(&at, &w, &others)).unwrap();
    }
    assert!(
        made > 5 * cases,
        "{made} changes are too few to show anything"
    );
}

async fn one_pass(at: &str, w: &Wanted, others: &Host) -> u64 {
    let owner = owner();
    let mut kernel = Kernel::connect().await.unwrap();
    let before = kernel.observe(&owner.tables).await.unwrap();
    let difference = diff(&before, w, &owner);
    assert_eq!(difference.conflicts, [], "{at}");
    let failures = kernel.apply(&difference.changes).await;
    assert!(failures.is_empty(), "{at}: {failures:#?}\n{before:?}");
    let after = kernel.observe(&owner.tables).await.unwrap();
    let again = diff(&after, w, &owner);
    assert_eq!(again.changes, [], "{at}, after {:?}", difference.changes);
    let mut predicted = before;
    difference.changes.iter().for_each(|c| predicted.apply(c));
    assert_eq!(
        owned(after.clone(), &owner),
        owned(predicted, &owner),
        "{at}"
    );
    assert_eq!(&foreign(after, &owner), others, "{at}");
    difference.changes.len() as u64
}

#[test]
fn random_desired_states_become_true_in_one_pass_and_the_next_finds_nothing_to_do() {
    converge(0x5eed_1e55_c0ff_ee01, 60);
    converge(0x5eed_1e55_c0ff_ee02, 60);
}
