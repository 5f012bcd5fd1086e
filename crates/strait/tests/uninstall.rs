//! What users get when they uninstall: all that is ours goes, nothing of others does.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::{Duration, Instant};

use common::{binary, joined};
use strait_lab::{Families, Lab, Options, Role};

/// Everything on a node that an agent could have left, as foreign tools show it.
fn leftovers(lab: &Lab, node: &str) -> Vec<String> {
    let show = |command: &[&str]| lab.exec(node, command).expect("it runs");
    let mut left = Vec::new();
    for (what, text, mark) in [
        ("link", show(&["ip", "-o", "link"]), "vx-submariner"),
        (
            "route",
            show(&["ip", "route", "show", "table", "all"]),
            "proto 83",
        ),
        (
            "route",
            show(&["ip", "-6", "route", "show", "table", "all"]),
            "proto 83",
        ),
        ("rule", show(&["ip", "rule"]), "proto 83"),
        ("rule", show(&["ip", "-6", "rule"]), "proto 83"),
        ("nftables", show(&["nft", "list", "ruleset"]), "strait"),
    ] {
        left.extend(
            text.lines()
                .filter(|line| line.contains(mark))
                .map(|line| format!("{what}: {line}")),
        );
    }
    left
}

/// What others have in nftables on a node.
fn foreign_tables(lab: &Lab, node: &str) -> String {
    let tables = lab.exec(node, &["nft", "list", "tables"]).expect("nft");
    tables
        .lines()
        .filter(|line| !line.contains("strait"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn uninstalling_removes_all_that_is_ours_says_so_and_leaves_the_rest() {
    let lab = joined(
        "uninstall",
        Options {
            nodes: 2,
            families: Families::Dual,
            ..Options::default()
        },
    );
    let binary = binary().to_str().expect("a path");
    for node in ["east-1", "east-2", "west-1", "west-2"] {
        let before = foreign_tables(&lab, node);
        assert!(
            !before.is_empty() && !leftovers(&lab, node).is_empty(),
            "{node} has both before"
        );
        lab.kill(node, Role::RouteAgent).expect("it ends");
        let uninstall = [binary, "route-agent", "--submariner-uninstall", "true"];
        let begun = Instant::now();
        let said = lab.exec(node, &uninstall).expect("it succeeds");
        let took = begun.elapsed();
        for part in [
            "removed link vx-submariner",
            "removed route",
            "removed nftables table",
        ] {
            assert!(said.contains(part), "{node}: no '{part}' in: {said}");
        }
        assert_eq!(leftovers(&lab, node), Vec::<String>::new(), "{node}");
        assert_eq!(foreign_tables(&lab, node), before, "{node}");
        // Not a measurement: a bound that only a hang can break.
        assert!(took < Duration::from_secs(10), "{node}: {took:?}");
        let again = lab.exec(node, &uninstall).expect("it succeeds");
        assert!(
            again.contains("nothing of the route agent was there"),
            "{again}"
        );
    }
}

#[test]
fn an_agent_that_comes_back_after_an_uninstallation_sets_all_up_again() {
    let lab = joined(
        "reinstall",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    lab.kill("east-2", Role::RouteAgent).expect("it ends");
    let binary = binary().to_str().expect("a path");
    lab.exec(
        "east-2",
        &[binary, "route-agent", "--submariner-uninstall", "true"],
    )
    .expect("it succeeds");
    lab.restart("east-2", Role::RouteAgent).expect("it starts");
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("the clusters are joined again");
}
