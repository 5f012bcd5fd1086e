//! A table of every statement and every type of set.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use strait_host::Family;
use strait_host::nft::{
    Base, Chain, ChainKind, Element, ElementType, Field, Hook, Rule, Set, Statement, Table, Value,
};

use crate::common::VXLAN;

pub(crate) fn rule(comment: &str, statements: Vec<Statement>) -> Rule {
    Rule {
        statements,
        comment: comment.to_owned(),
    }
}

pub(crate) fn is(field: Field, value: u32) -> Statement {
    Statement::Match {
        field,
        mask: None,
        negated: false,
        value: Value::Number(value),
    }
}

pub(crate) fn not_link(field: Field, name: &str) -> Statement {
    Statement::Match {
        field,
        mask: None,
        negated: true,
        value: Value::Name(name.to_owned()),
    }
}

pub(crate) fn any_bit(field: Field, mask: u32) -> Statement {
    Statement::Match {
        field,
        mask: Some(mask),
        negated: true,
        value: Value::Number(0),
    }
}

pub(crate) fn in_set(field: Field, set: &str, negated: bool) -> Statement {
    Statement::Lookup {
        field,
        negated,
        set: set.to_owned(),
    }
}

pub(crate) fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<Base> {
    Some(Base {
        kind,
        hook,
        priority,
    })
}

pub(crate) fn nets(family: Family, texts: &[&str]) -> Set {
    let nets: Vec<IpNet> = texts.iter().map(|t| t.parse().unwrap()).collect();
    Set::of_nets(family, &nets)
}

pub(crate) fn plain(
    keys: ElementType,
    values: Option<ElementType>,
    all: &[(Element, Option<Element>)],
) -> Set {
    Set {
        keys,
        interval: false,
        values,
        elements: all.iter().cloned().collect(),
    }
}

/// Every statement, every type of set, both families.
pub(crate) fn everything() -> Table {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let name = |n: &str| Element::Name(n.to_owned());
    let to = |k, v: &str| (k, Some(Element::Ip(ip(v))));
    let v4 = || is(Field::Protocol, 2);
    let v6 = || is(Field::Protocol, 10);
    let tcp = || is(Field::Transport, 6);
    let sets = BTreeMap::from([
        (
            "remote4".to_owned(),
            nets(Family::V4, &["10.2.0.0/16", "10.3.0.0/16", "172.16.0.0/12"]),
        ),
        (
            "remote6".to_owned(),
            nets(Family::V6, &["fd00:2::/48", "fd00:3::/48"]),
        ),
        ("all4".to_owned(), nets(Family::V4, &["0.0.0.0/0"])),
        ("all6".to_owned(), nets(Family::V6, &["::/0"])),
        (
            "top4".to_owned(),
            nets(Family::V4, &["255.255.255.0/24", "0.0.0.0/32"]),
        ),
        (
            "adjacent4".to_owned(),
            nets(Family::V4, &["10.0.1.0/24", "10.0.2.0/24", "10.0.4.0/24"]),
        ),
        (
            "links".to_owned(),
            Set::of_names(["eth0", "fifteen-letters"]),
        ),
        (
            "peers".to_owned(),
            Set::of_ips(Family::V6, &[ip("2001:db8::1")]),
        ),
        ("none4".to_owned(), nets(Family::V4, &[])),
        (
            "ports".to_owned(),
            plain(
                ElementType::Port,
                None,
                &[(Element::Port(4800), None), (Element::Port(1), None)],
            ),
        ),
        (
            "marks".to_owned(),
            plain(ElementType::Mark, None, &[(Element::Mark(0xc0000), None)]),
        ),
        (
            "sources".to_owned(),
            plain(
                ElementType::Name,
                Some(ElementType::Ipv4),
                &[to(name("eth0"), "10.1.0.1"), to(name("eth1"), "10.1.0.2")],
            ),
        ),
        (
            "by-net".to_owned(),
            Set {
                keys: ElementType::Ipv6,
                interval: true,
                values: Some(ElementType::Ipv6),
                elements: BTreeMap::from([
                    to(Element::Net("fd00:2::/48".parse().unwrap()), "fd00:1::1"),
                    to(Element::Net("fd00:3::/48".parse().unwrap()), "fd00:1::2"),
                ]),
            },
        ),
    ]);
    let forward = vec![
        rule(
            "clamp",
            vec![
                tcp(),
                Statement::Match {
                    field: Field::TcpFlags,
                    mask: Some(6),
                    negated: false,
                    value: Value::Number(2),
                },
                Statement::ClampMss,
                Statement::SetMss(1360),
            ],
        ),
        rule(
            "redirects",
            vec![
                v4(),
                is(Field::Transport, 1),
                is(Field::IcmpType, 5),
                in_set(Field::OutputLink, "links", false),
                Statement::Drop,
            ],
        ),
        rule(
            "redirects6",
            vec![
                v6(),
                is(Field::Transport, 58),
                is(Field::IcmpType, 137),
                Statement::Drop,
            ],
        ),
        rule(
            "replies",
            vec![any_bit(Field::CtState, 6), Statement::Accept],
        ),
        rule(
            "spoofed",
            vec![
                not_link(Field::InputLink, VXLAN),
                v4(),
                in_set(Field::Source(Family::V4), "remote4", false),
                Statement::Counter,
                Statement::Drop,
            ],
        ),
        rule(
            "spoofed6",
            vec![
                not_link(Field::OutputLink, "eth0"),
                v6(),
                in_set(Field::Source(Family::V6), "remote6", true),
                in_set(Field::Destination(Family::V6), "peers", true),
                Statement::Return,
            ],
        ),
        rule(
            "",
            vec![
                in_set(Field::InputLink, "links", false),
                Statement::Jump("more".to_owned()),
            ],
        ),
        rule(
            "",
            vec![
                in_set(Field::Mark, "marks", false),
                Statement::SetMark(0x1234_5678),
            ],
        ),
        rule(
            "",
            vec![
                in_set(Field::Mark, "marks", true),
                Statement::SetMarkBits {
                    mask: 0x303f,
                    value: 0x1032,
                },
            ],
        ),
        rule(
            "",
            vec![
                in_set(Field::InputLink, "links", true),
                Statement::SetMarkBits {
                    mask: 0x303f,
                    value: 0,
                },
            ],
        ),
        rule(
            "",
            vec![
                v4(),
                Statement::Match {
                    field: Field::Destination(Family::V4),
                    mask: None,
                    negated: false,
                    value: Value::Ip(ip("10.9.8.7")),
                },
                Statement::Counter,
            ],
        ),
        rule("local", vec![is(Field::SourceType, 2), Statement::Counter]),
    ];
    let more = vec![
        rule(
            "ports",
            vec![
                is(Field::Transport, 17),
                is(Field::SourcePort, 4500),
                in_set(Field::DestinationPort, "ports", false),
                Statement::Counter,
            ],
        ),
        rule(
            "exactly this mark",
            vec![
                Statement::Match {
                    field: Field::Mark,
                    mask: Some(0xff0000),
                    negated: false,
                    value: Value::Number(0xc0000),
                },
                Statement::Accept,
            ],
        ),
    ];
    let postrouting = vec![
        rule(
            "keep the pod's address",
            vec![
                v4(),
                in_set(Field::Destination(Family::V4), "remote4", false),
                Statement::SnatToSelf(Family::V4),
            ],
        ),
        rule(
            "",
            vec![
                v6(),
                in_set(Field::Destination(Family::V6), "remote6", false),
                Statement::SnatToSelf(Family::V6),
            ],
        ),
        rule(
            "",
            vec![
                v4(),
                not_link(Field::OutputLink, "lo"),
                Statement::SnatTo(ip("10.1.0.9")),
            ],
        ),
        rule(
            "",
            vec![v6(), is(Field::Mark, 7), Statement::SnatTo(ip("fd00:1::9"))],
        ),
        rule(
            "",
            vec![
                v4(),
                Statement::SnatToMap {
                    family: Family::V4,
                    field: Field::OutputLink,
                    map: "sources".to_owned(),
                },
            ],
        ),
        rule(
            "",
            vec![
                v6(),
                Statement::SnatToMap {
                    family: Family::V6,
                    field: Field::Destination(Family::V6),
                    map: "by-net".to_owned(),
                },
            ],
        ),
    ];
    let chain = |base, rules| Chain { base, rules };
    Table {
        comment: "strait".to_owned(),
        sets,
        chains: BTreeMap::from([
            (
                "forward".to_owned(),
                chain(base(ChainKind::Filter, Hook::Forward, -10), forward),
            ),
            ("more".to_owned(), chain(None, more)),
            (
                "postrouting".to_owned(),
                chain(base(ChainKind::Nat, Hook::Postrouting, -199), postrouting),
            ),
            (
                "output".to_owned(),
                chain(base(ChainKind::Route, Hook::Output, -150), vec![]),
            ),
            (
                "input".to_owned(),
                chain(base(ChainKind::Filter, Hook::Input, 5), vec![]),
            ),
            (
                "prerouting".to_owned(),
                chain(base(ChainKind::Nat, Hook::Prerouting, -100), vec![]),
            ),
        ]),
    }
}
