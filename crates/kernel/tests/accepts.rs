//! Our accept rules in the chains of iptables-nft: judged by `iptables-nft` and by packets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::BTreeMap;

use common::*;
use ipnet::IpNet;
use strait_host::firewall::{ACCEPT_MARK, Accepts};
use strait_host::nft::{Field, Rule, Statement, TableFamily, TableId, Value};
use strait_host::{Family, Owned, Wanted};
use strait_netns::Namespace;

fn filter(family: Family) -> TableId {
    TableId {
        family: match family {
            Family::V4 => TableFamily::Ip,
            Family::V6 => TableFamily::Ip6,
        },
        name: "filter".to_owned(),
    }
}

fn accept(mut statements: Vec<Statement>) -> Rule {
    statements.extend([Statement::Counter, Statement::Accept]);
    Rule {
        statements,
        comment: ACCEPT_MARK.to_owned(),
    }
}

fn link(field: Field) -> Statement {
    Statement::Match {
        field,
        mask: None,
        negated: false,
        value: Value::Name("vx-submariner".to_owned()),
    }
}

fn number(field: Field, value: u32) -> Statement {
    Statement::Match {
        field,
        mask: None,
        negated: false,
        value: Value::Number(value),
    }
}

fn to(net: &str) -> Statement {
    let net: IpNet = net.parse().unwrap();
    Statement::within(Field::Destination(Family::of_net(&net)), net)
}

fn from(net: &str) -> Statement {
    let net: IpNet = net.parse().unwrap();
    Statement::within(Field::Source(Family::of_net(&net)), net)
}

fn wanted() -> Wanted {
    let udp = || {
        vec![
            number(Field::Transport, 17),
            number(Field::DestinationPort, 4800),
        ]
    };
    let v4 = vec![
        accept(vec![link(Field::OutputLink), to("10.2.0.0/16")]),
        accept(vec![link(Field::InputLink), from("10.2.16.0/20")]),
        accept(vec![from("10.2.3.4/32"), to("10.0.0.0/7")]),
    ];
    let v6 = vec![accept(vec![
        link(Field::OutputLink),
        from("fd00:1::/57"),
        to("fd00:2::1/128"),
    ])];
    let accepts: Accepts = BTreeMap::from([
        (
            filter(Family::V4),
            [
                ("FORWARD".to_owned(), v4),
                ("INPUT".to_owned(), vec![accept(udp())]),
            ]
            .into(),
        ),
        (filter(Family::V6), [("FORWARD".to_owned(), v6)].into()),
    ]);
    Wanted {
        accepts: Owned::Set(accepts),
        ..nothing()
    }
}

const OURS: [&str; 3] = [
    "-A FORWARD -d 10.2.0.0/16 -o vx-submariner -m comment --comment strait -j ACCEPT",
    "-A FORWARD -s 10.2.16.0/20 -i vx-submariner -m comment --comment strait -j ACCEPT",
    "-A FORWARD -s 10.2.3.4/32 -d 10.0.0.0/7 -m comment --comment strait -j ACCEPT",
];

fn shown(ns: &Namespace, chain: &str) -> Vec<String> {
    let text = run(ns, &format!("iptables-nft -S {chain}"));
    text.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn iptables_shows_saves_and_restores_what_we_write_into_its_chains() {
    let ns = namespace();
    assert_eq!(settle(&ns, &wanted()), [], "there is no such chain");
    run(&ns, "iptables-nft -P FORWARD DROP");
    run(&ns, "iptables-nft -A FORWARD -s 192.0.2.0/24 -j ACCEPT");
    run(&ns, "ip6tables-nft -A FORWARD -p tcp -j REJECT");
    assert_eq!(settle(&ns, &wanted()).len(), 2);
    let theirs = "-A FORWARD -s 192.0.2.0/24 -j ACCEPT";
    let all: Vec<&str> = OURS.into_iter().chain([theirs]).collect();
    assert_eq!(shown(&ns, "FORWARD"), all);
    let v6 = run(&ns, "ip6tables-nft -S FORWARD");
    let v6: Vec<&str> = v6.lines().skip(1).collect();
    assert_eq!(
        v6,
        [
            "-A FORWARD -s fd00:1::/57 -d fd00:2::1/128 -o vx-submariner -m comment --comment strait -j ACCEPT",
            "-A FORWARD -p tcp -j REJECT --reject-with icmp6-port-unreachable",
        ]
    );
    run(&ns, "iptables-nft -A INPUT -p tcp -j ACCEPT");
    assert_eq!(settle(&ns, &wanted()).len(), 1);
    assert_eq!(
        shown(&ns, "INPUT"),
        [
            "-A INPUT -p udp -m udp --dport 4800 -m comment --comment strait -j ACCEPT",
            "-A INPUT -p tcp -j ACCEPT",
        ]
    );
    // What iptables writes itself in their place is the same to it, and to nft.
    let before = run(&ns, "iptables-nft-save");
    let file = std::env::temp_dir().join(format!("strait-accepts-{}", std::process::id()));
    std::fs::write(&file, &before).unwrap();
    run(&ns, &format!("iptables-nft-restore {}", file.display()));
    std::fs::remove_file(file).unwrap();
    let rules = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| line.starts_with('-'))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(rules(&run(&ns, "iptables-nft-save")), rules(&before));
    settle(&ns, &wanted());
    assert_eq!(rules(&run(&ns, "iptables-nft-save")), rules(&before));
    // And it can delete them as it does its own.
    run(
        &ns,
        &format!("iptables-nft -D{}", OURS[0].trim_start_matches("-A")),
    );
}

#[test]
fn our_rules_come_back_to_their_place_go_when_they_are_not_wanted_and_others_are_not_touched() {
    let ns = namespace();
    run(&ns, "iptables-nft -P FORWARD DROP");
    run(&ns, "iptables-nft -N cali-FORWARD");
    run(
        &ns,
        "iptables-nft -A FORWARD -m conntrack --ctstate INVALID -j DROP",
    );
    run(&ns, "iptables-nft -A FORWARD -j cali-FORWARD");
    run(
        &ns,
        "iptables-nft -A FORWARD -s 192.0.2.0/24 -m comment --comment theirs -j ACCEPT",
    );
    let theirs = shown(&ns, "FORWARD");
    settle(&ns, &wanted());
    let placed: Vec<&str> = theirs[..2]
        .iter()
        .map(String::as_str)
        .chain(OURS)
        .chain(theirs[2..].iter().map(String::as_str))
        .collect();
    assert_eq!(shown(&ns, "FORWARD"), placed);
    for damage in [
        "iptables-nft -D FORWARD 3",
        "iptables-nft -D FORWARD 4",
        "iptables-nft -I FORWARD 4 -p udp -j REJECT",
        "iptables-nft -I FORWARD 3 -p tcp -j REJECT",
        "iptables-nft -R FORWARD 3 -o vx-submariner -m comment --comment strait -j ACCEPT",
        "iptables-nft -A FORWARD -m comment --comment strait -j DROP",
    ] {
        run(&ns, damage);
        assert_eq!(settle(&ns, &wanted()).len(), 1, "{damage}");
        for added in ["-A FORWARD -p udp -j REJECT", "-A FORWARD -p tcp -j REJECT"] {
            let line = format!("{added} --reject-with icmp-port-unreachable");
            let now = shown(&ns, "FORWARD");
            if let Some(at) = now.iter().position(|rule| *rule == line) {
                assert_eq!(at, 5, "{damage}: behind ours: {now:#?}");
                run(
                    &ns,
                    &format!("iptables-nft -D{}", line.trim_start_matches("-A")),
                );
            }
        }
        assert_eq!(shown(&ns, "FORWARD"), placed, "{damage}");
    }
    run(&ns, "iptables-nft -F FORWARD");
    settle(&ns, &wanted());
    assert_eq!(shown(&ns, "FORWARD"), OURS);
    settle(&ns, &nothing());
    assert_eq!(shown(&ns, "FORWARD"), [] as [&str; 0]);
    assert_eq!(run(&ns, "iptables-nft -S FORWARD"), "-P FORWARD DROP\n");
}

#[test]
fn whether_a_chain_can_drop_is_seen() {
    let ns = namespace();
    let drops = |ns: &Namespace| {
        let host = observe(ns);
        host.filters[&filter(Family::V4)]["FORWARD"].drops
    };
    run(&ns, "iptables-nft -A FORWARD -j ACCEPT");
    assert!(!drops(&ns));
    for rule in [
        "-j DROP",
        "-j REJECT",
        "-p tcp -j REJECT --reject-with tcp-reset",
    ] {
        run(&ns, &format!("iptables-nft -A FORWARD {rule}"));
        assert!(drops(&ns), "{rule}");
        run(&ns, &format!("iptables-nft -D FORWARD {rule}"));
        assert!(!drops(&ns), "{rule}");
    }
    run(&ns, "iptables-nft -P FORWARD DROP");
    assert!(drops(&ns));
}
