//! What users get on nodes whose firewall drops what it does not know.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;
mod matrix;

use std::time::{Duration, Instant};

use common::{agent, joined};
use matrix::firewalls::{Flavour, commands, knock, message};
use matrix::run;
use strait_lab::{Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(15);

fn lab(purpose: &str) -> Lab {
    joined(
        purpose,
        Options {
            nodes: 2,
            environment: vec![("STRAIT_VERIFY_INTERVAL".to_owned(), "1".to_owned())],
            ..Options::default()
        },
    )
}

fn wait_for(lab: &Lab, node: &str, condition: &str, wanted: bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = message(lab, node, condition);
        if said.is_some() == wanted {
            return said.unwrap_or_default();
        }
        assert!(Instant::now() < deadline, "{node}: {condition}: {said:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn pod(lab: &Lab, node: &str) -> String {
    let node = lab.topology().node(node).expect("a node").1;
    node.pods[0].name.clone()
}

#[test]
fn a_legacy_firewall_that_drops_is_named_with_the_commands_that_open_it() {
    let lab = lab("legacy");
    let (from, to) = (pod(&lab, "east-2"), pod(&lab, "west-2"));
    let target = lab.topology().target(&to).expect("a target").ip();
    let before = agent(&lab, "east-2");
    for (node, setting, condition) in [
        (
            "east-2",
            "iptables-legacy -P FORWARD DROP",
            "ForwardPolicyDrop",
        ),
        (
            "east-1",
            "iptables-legacy -P FORWARD DROP",
            "ForwardPolicyDrop",
        ),
        ("east-1", "iptables-legacy -P INPUT DROP", "TunnelInputDrop"),
    ] {
        if condition == "TunnelInputDrop" {
            // A node without these would be cut off from its API server.
            run(&lab, node, "iptables-legacy -A INPUT -p tcp -j ACCEPT");
        }
        run(&lab, node, setting);
        if setting.contains("FORWARD") {
            // What CNIs do for their own.
            run(
                &lab,
                node,
                "iptables-legacy -A FORWARD -s 10.101.0.0/16 -d 10.101.0.0/16 -j ACCEPT",
            );
        }
        assert!(
            lab.probe(&Probe {
                timeout_ms: 1000,
                ..Probe::tcp(&from, &to)
            })
            .unwrap()
            .is_err()
        );
        knock(&lab, &from, target);
        let said = wait_for(&lab, node, condition, true);
        for command in commands(&said) {
            assert!(command.starts_with("iptables-legacy -I "), "{said}");
            run(&lab, node, &command);
        }
        for probe in [Probe::tcp(&from, &to), Probe::udp(&from, &to)] {
            lab.probe_until(&probe, PATIENCE, |_| true)
                .expect("it is open");
        }
        wait_for(&lab, node, condition, false);
    }
    assert_eq!(agent(&lab, "east-2"), before);
}

/// What of ours stands in a chain, as iptables shows it.
fn ours(lab: &Lab, node: &str, chain: &str) -> Vec<String> {
    let shown = lab
        .exec(node, &["iptables-nft", "-S", chain])
        .expect("it runs");
    let ours = shown
        .lines()
        .filter(|line| line.contains("--comment strait"));
    ours.map(str::to_owned).collect()
}

fn all_pass(lab: &Lab, from: &str, to: &str) {
    for (from, to) in [(from, to), (to, from)] {
        for probe in [Probe::tcp(from, to), Probe::udp(from, to)] {
            lab.probe_until(&probe, PATIENCE, |_| true)
                .expect("it passes");
        }
    }
}

#[test]
fn what_iptables_nft_would_drop_is_let_through_before_and_after_the_agents_start() {
    let lab = lab("iptables-nft");
    let (from, to) = (pod(&lab, "east-2"), pod(&lab, "west-2"));
    for node in ["east-2", "east-1"] {
        Flavour::IptablesNft.install(&lab, node);
    }
    all_pass(&lab, &from, &to);
    assert_eq!(
        ours(&lab, "east-2", "FORWARD"),
        [
            "-A FORWARD -d 10.102.0.0/16 -o vx-submariner -m comment --comment strait -j ACCEPT",
            "-A FORWARD -s 10.102.0.0/16 -d 10.101.0.0/16 -m comment --comment strait -j ACCEPT",
            "-A FORWARD -d 10.152.0.0/16 -o vx-submariner -m comment --comment strait -j ACCEPT",
            "-A FORWARD -s 10.152.0.0/16 -d 10.101.0.0/16 -m comment --comment strait -j ACCEPT",
        ]
    );
    assert_eq!(
        ours(&lab, "east-1", "INPUT"),
        [
            "-A INPUT -p udp -m udp --dport 4800 -m comment --comment strait -j ACCEPT",
            "-A INPUT -p udp -m udp --dport 4500 -m comment --comment strait -j ACCEPT",
            "-A INPUT -p udp -m udp --dport 4490 -m comment --comment strait -j ACCEPT",
            "-A INPUT -p udp -m udp --dport 4801 -m comment --comment strait -j ACCEPT",
        ]
    );
    // Somebody loads his own rules anew.
    for node in ["east-2", "east-1"] {
        run(&lab, node, "iptables-nft -F");
        run(&lab, node, "iptables-nft -A INPUT -p tcp -j ACCEPT");
    }
    all_pass(&lab, &from, &to);
    // They are there before the agents are, as after a boot.
    for node in ["east-2", "east-1"] {
        lab.kill(node, Role::RouteAgent).unwrap();
        run(&lab, node, "iptables-nft -F");
        Flavour::IptablesNft.install(&lab, node);
        lab.restart(node, Role::RouteAgent).unwrap();
    }
    all_pass(&lab, &from, &to);
    for node in ["east-2", "east-1"] {
        for condition in ["ForwardPolicyDrop", "TunnelInputDrop"] {
            wait_for(&lab, node, condition, false);
        }
        // What does not drop needs no rules.
        for chain in ["FORWARD", "INPUT"] {
            run(&lab, node, &format!("iptables-nft -P {chain} ACCEPT"));
            let deadline = Instant::now() + PATIENCE;
            while !ours(&lab, node, chain).is_empty() {
                assert!(Instant::now() < deadline, "{node}: {chain}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    all_pass(&lab, &from, &to);
}

/// Why a node's agent is not ready.
fn not_ready(lab: &Lab, node: &str) -> Option<String> {
    let status = lab.status().expect("the lab answers");
    let mut processes = status.processes.into_iter();
    let agent = processes.find(|p| p.role == Role::RouteAgent && p.place == node);
    agent.expect("an agent").readiness?.not_ready
}

#[test]
fn nat_before_ours_and_a_table_of_our_name_are_named_and_left_alone() {
    let lab = lab("foreign");
    let (node, ours) = ("east-2", "inet strait-route-agent");
    let table = || {
        lab.exec(
            node,
            &["nft", "list", "table", "inet", "strait-route-agent"],
        )
    };
    assert!(
        table()
            .expect("it is there")
            .contains("\tcomment \"strait\"\n")
    );
    run(&lab, node, "nft add table ip early");
    let chain = "nft add chain ip early post { type nat hook postrouting priority -199 ; }";
    run(&lab, node, chain);
    let said = wait_for(&lab, node, "ForeignNatChain", true);
    assert!(said.contains("chain post of table ip early"), "{said}");
    run(&lab, node, "nft delete table ip early");
    wait_for(&lab, node, "ForeignNatChain", false);

    lab.kill(node, Role::RouteAgent).expect("it ends");
    run(&lab, node, &format!("nft delete table {ours}"));
    run(&lab, node, &format!("nft add table {ours}"));
    run(&lab, node, &format!("nft add chain {ours} theirs"));
    run(&lab, node, &format!("nft add rule {ours} theirs drop"));
    // What was led to other clusters is led there no more: nothing would see to its source.
    run(&lab, node, "ip route flush proto 83");
    let theirs = table().expect("it is there");
    lab.restart(node, Role::RouteAgent).expect("it starts");
    let named = |wanted: bool| {
        let words = format!("ForeignObject: a foreign nftables table has the name {ours}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = not_ready(&lab, node);
            if said.as_ref().is_some_and(|said| said.contains(&words)) == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{wanted}: {said:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    named(true);
    let ways = || {
        lab.exec(node, &["ip", "route", "show", "proto", "83"])
            .expect("ip")
    };
    let deadline = Instant::now() + PATIENCE;
    while !ways().contains("unreachable 10.102.0.0/16") {
        assert!(Instant::now() < deadline, "{}", ways());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!ways().contains(" via "), "{}", ways());
    assert_eq!(table().expect("it is there"), theirs);
    run(&lab, node, &format!("nft delete table {ours}"));
    named(false);
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("all is well again");
    assert!(
        table()
            .expect("it is there")
            .contains("\tcomment \"strait\"\n")
    );
}
