//! What users get when a gateway goes for good: no dead cable stays on its node, and no living one is touched.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::{Duration, Instant};

use common::joined;
use serde_json::Value;
use strait_lab::{Families, Family, Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(20);
const CABLES: [&str; 2] = ["vxlan-tunnel", "vxlan-tunnel-6"];

fn lab(purpose: &str) -> Lab {
    joined(
        purpose,
        Options {
            nodes: 2,
            families: Families::Dual,
            ..Options::default()
        },
    )
}

/// Names and numbers of the links of a node that are called like cables.
fn cables(lab: &Lab, node: &str) -> Vec<(String, u64)> {
    let shown = lab.exec(node, &["ip", "-j", "link"]).expect("ip");
    let links: Value = serde_json::from_str(&shown).expect("JSON");
    let links = links.as_array().expect("a list").iter();
    let mut found: Vec<(String, u64)> = links
        .map(|l| {
            let name = l["ifname"].as_str().expect("a name").to_owned();
            (name, l["ifindex"].as_u64().expect("a number"))
        })
        .filter(|(name, _)| CABLES.contains(&name.as_str()))
        .collect();
    found.sort();
    found
}

fn until(what: &str, good: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !good() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes the Endpoint of a cluster from its own API server.
fn remove_endpoint(lab: &Lab, cluster: &str) {
    let path = "/apis/submariner.io/v1/namespaces/submariner-operator/endpoints";
    let list = lab.api(cluster, "GET", path, &Value::Null).expect("a list");
    let items = list["items"].as_array().expect("items").iter();
    let own = items.filter(|e| e["spec"]["cluster_id"] == cluster);
    for endpoint in own {
        let name = endpoint["metadata"]["name"].as_str().expect("a name");
        lab.api(cluster, "DELETE", &format!("{path}/{name}"), &Value::Null)
            .expect("it goes");
    }
}

fn passes(lab: &Lab) -> bool {
    [Family::V4, Family::V6].into_iter().all(|family| {
        let probe = Probe::tcp("east-2-a", "west-2-a").over(family);
        lab.probe(&probe).expect("the lab answers").is_ok()
    })
}

#[test]
fn the_cable_of_a_gateway_that_is_gone_for_good_goes_and_comes_back_with_it() {
    let lab = lab("reaping");
    let before = cables(&lab, "east-1");
    assert_eq!(before.len(), 2);
    // It is killed, and may come back at any moment: all goes on, longer than the route of a lost gateway would.
    lab.kill("east-1", Role::Gateway).expect("it ends");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        assert!(passes(&lab), "after {:?}", begun.elapsed());
        assert_eq!(cables(&lab, "east-1"), before);
    }
    remove_endpoint(&lab, "east");
    until("the dead cables go", || cables(&lab, "east-1").is_empty());
    lab.restart("east-1", Role::Gateway).expect("it starts");
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("the clusters are joined again");
    assert_eq!(cables(&lab, "east-1").len(), 2);
}

#[test]
fn the_cable_of_a_gateway_that_runs_stays_whatever_becomes_of_its_endpoint() {
    let lab = lab("alive");
    let before = cables(&lab, "east-1");
    // It puts the Endpoint back.
    for _ in 0..3 {
        remove_endpoint(&lab, "east");
        std::thread::sleep(Duration::from_millis(300));
    }
    // It hangs, so that its node is no gateway to the route agent; but it lives.
    let status = lab.status().expect("the lab answers");
    let gateway = status
        .processes
        .iter()
        .find(|p| p.role == Role::Gateway && p.place == "east-1");
    let pid = gateway.expect("a gateway").pid.to_string();
    lab.exec("east-1", &["kill", "-STOP", &pid]).expect("kill");
    remove_endpoint(&lab, "east");
    let rules = || lab.exec("east-1", &["ip", "rule"]).expect("ip");
    until("this node is no gateway", || {
        !rules().contains("lookup 100")
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cables(&lab, "east-1"), before);
    lab.exec("east-1", &["kill", "-CONT", &pid]).expect("kill");
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("all is well");
    assert_eq!(cables(&lab, "east-1"), before);
}

#[test]
fn a_gateway_that_comes_back_while_its_cable_is_removed_is_whole_in_the_end() {
    let lab = lab("race");
    for pause in [0, 1, 3, 5_000, 5_100, 5_200, 6_000] {
        lab.kill("east-1", Role::Gateway).expect("it ends");
        remove_endpoint(&lab, "east");
        std::thread::sleep(Duration::from_millis(pause));
        lab.restart("east-1", Role::Gateway).expect("it starts");
        lab.wait_until_joined(Duration::from_secs(30))
            .expect("the clusters are joined again");
    }
}

#[test]
fn on_a_worker_what_carries_our_mark_goes_and_what_does_not_stays() {
    let lab = lab("marks");
    let run = |command: &str| {
        let words: Vec<&str> = command.split_whitespace().collect();
        lab.exec("east-2", &words).expect("it runs");
    };
    run("ip link add vxlan-tunnel-6 type bridge");
    run("ip link add vxlan-tunnel type vxlan id 1000 dstport 4500 nolearning");
    run("ip link set vxlan-tunnel alias strait up");
    let names = || -> Vec<String> {
        let found = cables(&lab, "east-2").into_iter();
        found.map(|(name, _)| name).collect()
    };
    until("the dead cable goes", || names() == ["vxlan-tunnel-6"]);
    // Nobody holds the lock any longer than that.
    let held = || lab.exec("east-2", &["ss", "-xa"]).expect("ss");
    until("the lock is free", || !held().contains("@strait-gateway"));
    let gateway = lab.exec("east-1", &["ss", "-xa"]).expect("ss");
    assert!(gateway.contains("@strait-gateway"), "{gateway}");
}
