//! What a node does that may not list RouteAgents: everything, but for knowing other nodes' Ethernet addresses.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::{Duration, Instant};

use common::{assert_all_good, joined};
use serde_json::Value;
use strait_lab::matrix::ways;
use strait_lab::{Lab, Options, Role};

/// A list that is refused is asked for again every 30 s at last.
const PATIENCE: Duration = Duration::from_secs(60);
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const AGENTS: &str = "routeagents.submariner.io";
const NODES: [&str; 2] = ["east-1", "east-2"];

/// Neighbour and forwarding entries of a node towards others.
fn entries(lab: &Lab, node: &str) -> Vec<String> {
    let mut all = Vec::new();
    for command in [
        "ip neighbour show dev vx-submariner nud permanent",
        "bridge fdb show dev vx-submariner",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let text = lab.exec(node, &words).expect(command);
        all.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    all.sort();
    all
}

fn floods(lab: &Lab, node: &str) -> bool {
    let all = entries(lab, node);
    all.iter().any(|e| e.starts_with("00:00:00:00:00:00 dst "))
}

fn until(what: &str, mut good: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !good() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn readyz(lab: &Lab, node: &str) -> String {
    lab.page(node, Role::RouteAgent, "/readyz")
        .unwrap_or_default()
}

#[test]
fn a_node_that_cannot_list_route_agents_reaches_other_clusters_and_says_so() {
    let lab = joined(
        "agents",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    let api = |method: &str, path: &str, body: &Value| {
        lab.api("east", method, path, body)
            .expect("the API answers")
    };
    let one = format!("{CRDS}/{AGENTS}");
    let mut definition = api("GET", &one, &Value::Null);
    let exact = NODES.map(|node| entries(&lab, node));
    for (node, entries) in NODES.iter().zip(&exact) {
        assert!(!floods(&lab, node) && entries.len() >= 2, "{entries:?}");
    }

    // Who runs meanwhile may hear of a node's object that it is gone.
    for node in NODES {
        lab.kill(node, Role::RouteAgent).expect("it ends");
    }
    api("DELETE", &one, &Value::Null);
    for node in NODES {
        lab.restart(node, Role::RouteAgent).expect("it starts");
    }
    for (node, exact) in NODES.iter().zip(&exact) {
        until("what it is without", || {
            let text = readyz(&lab, node);
            text.starts_with("ok\n") && text.contains("InputsUnknown: the list of RouteAgents")
        });
        // What the process before has put there stays.
        assert_eq!(entries(&lab, node), *exact, "{node}");
    }
    assert_all_good(&lab, &ways(lab.topology()));

    // What is gone comes back, with what serves instead.
    for node in NODES {
        lab.exec(node, &["ip", "link", "delete", "vx-submariner"])
            .expect("ip");
    }
    for node in NODES {
        until("another device", || {
            let link = lab.exec(node, &["ip", "-o", "link", "show", "vx-submariner"]);
            link.is_ok() && floods(&lab, node)
        });
    }
    lab.wait_until_ready(PATIENCE, false)
        .expect("all are ready");
    assert_all_good(&lab, &ways(lab.topology()));

    let fields = definition["metadata"].as_object_mut().expect("metadata");
    fields.retain(|name, _| name == "name");
    api("POST", CRDS, &definition);
    lab.wait_until_ready(PATIENCE, true).expect("no condition");
    for (node, exact) in NODES.iter().zip(&exact) {
        until("exact entries", || entries(&lab, node) == *exact);
    }
    assert_all_good(&lab, &ways(lab.topology()));
}
