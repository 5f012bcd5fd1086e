//! What users are told when one half of a worker's way is dead: which half it is, and when it is well again.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::joined;
use strait_lab::{Cni, Families, Family, Lab, Options, Role};

const PATIENCE: Duration = Duration::from_secs(15);
const WORKERS: [&str; 2] = ["east-2", "west-2"];

fn lab(purpose: &str, cnis: Vec<Cni>, families: Families) -> Lab {
    let environment = [("STRAIT_SELFTEST_INTERVAL_MS", "200")];
    joined(
        purpose,
        Options {
            nodes: 2,
            cnis,
            families,
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Options::default()
        },
    )
}

/// The conditions of a worker with their messages.
fn said(lab: &Lab, node: &str) -> BTreeMap<String, String> {
    let status = lab.status().expect("the lab answers");
    let mut processes = status.processes.into_iter();
    let agent = processes.find(|p| p.role == Role::RouteAgent && p.place == node);
    let readiness = agent.and_then(|a| a.readiness).expect("an answer");
    assert_eq!(
        readiness.not_ready, None,
        "{node}: {:?}",
        readiness.degraded
    );
    readiness.degraded
}

/// Waits until each worker says `wanted` and nothing else beside `always`, and sees that it says nothing else on the way from `before`.
fn until(lab: &Lab, before: &str, wanted: &str, always: &[&str]) -> [String; 2] {
    let begun = Instant::now();
    WORKERS.map(|node| {
        loop {
            let mut seen = said(lab, node);
            seen.retain(|name, _| !always.contains(&name.as_str()));
            let names: Vec<&str> = seen.keys().map(String::as_str).collect();
            let elapsed = begun.elapsed();
            if names == [wanted] || (wanted.is_empty() && names.is_empty()) {
                return seen.into_values().next().unwrap_or_default();
            }
            assert!(
                names.is_empty() || names == [before],
                "{node}: {seen:#?} on the way from '{before}' to '{wanted}'"
            );
            assert!(elapsed < PATIENCE, "{node}: no '{wanted}' but {seen:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

/// Waits until every worker's gauges are these.
fn gauges(lab: &Lab, family: Family, wanted: &[(&str, u8)]) {
    let label = if family == Family::V6 { "v6" } else { "v4" };
    let deadline = Instant::now() + PATIENCE;
    for node in WORKERS {
        loop {
            let page = lab
                .page(node, Role::RouteAgent, "/metrics")
                .expect("a page");
            let missing = wanted.iter().find(|(path, value)| {
                let line =
                    format!("strait_selftest_up{{path=\"{path}\",family=\"{label}\"}} {value}\n");
                !page.contains(&line)
            });
            let count = page
                .lines()
                .filter(|l| l.starts_with("strait_selftest_up{") && l.contains(label))
                .count();
            if missing.is_none() && count == wanted.len() {
                break;
            }
            assert!(Instant::now() < deadline, "{node}: {missing:?} in {page}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A table on these nodes that drops what matches.
fn cut(lab: &Lab, nodes: [&str; 2], what: &str) {
    cut_each(lab, nodes, [what; 2]);
}

fn cut_each(lab: &Lab, nodes: [&str; 2], what: [&str; 2]) {
    for (node, what) in nodes.into_iter().zip(what) {
        let rules = format!(
            "add table inet cut; \
             add chain inet cut prerouting {{ type filter hook prerouting priority -350; }}; \
             add rule inet cut prerouting {what} drop"
        );
        lab.exec(node, &["nft", &rules]).expect("nft");
    }
}

fn mend(lab: &Lab, nodes: [&str; 2]) {
    for node in nodes {
        lab.exec(node, &["nft", "delete table inet cut"])
            .expect("nft");
    }
}

const GATEWAYS: [&str; 2] = ["east-1", "west-1"];

/// Takes the gateways' routes to the workers' pods away, and gives the commands that bring them back.
fn unroute(lab: &Lab, family: Family) -> Vec<(&'static str, String)> {
    let ip = if family == Family::V6 { "-6" } else { "-4" };
    let mut back = Vec::new();
    for (gateway, worker) in GATEWAYS.into_iter().zip(WORKERS) {
        let node = lab.topology().node(worker).expect("a node").1;
        let pods = node.pod_net(family).to_string();
        let shown = lab
            .exec(gateway, &["ip", ip, "route", "show", &pods])
            .expect("ip");
        let route = shown.lines().next().expect("a route").trim().to_owned();
        lab.exec(gateway, &["ip", ip, "route", "del", &pods])
            .expect("ip");
        back.push((gateway, format!("ip {ip} route add {route}")));
    }
    back
}

fn run(lab: &Lab, commands: Vec<(&str, String)>) {
    for (node, command) in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        lab.exec(node, &words).expect("it runs");
    }
}

fn assert_contains(messages: &[String; 2], parts: &[&str]) {
    for (message, part) in messages
        .iter()
        .flat_map(|m| parts.iter().map(move |p| (m, p)))
    {
        assert!(message.contains(part), "no '{part}' in: {message}");
    }
}

#[test]
fn each_dead_half_of_a_workers_way_is_named_and_none_in_a_healthy_lab() {
    let cnis = vec![Cni::Bridge, Cni::Calico];
    let lab = lab("selftest", cnis, Families::Dual);
    let all_up = [("tunnel", 1), ("round", 1), ("cni", 1)];
    for family in Family::ALL {
        gauges(&lab, family, &all_up);
    }
    for gateway in GATEWAYS {
        let page = lab.page(gateway, Role::RouteAgent, "/metrics");
        assert!(!page.expect("a page").contains("strait_selftest_up{"));
    }
    for (family, proto, vxlan, inner) in [
        (Family::V4, "ipv4", "vx-submariner", "240.30."),
        (Family::V6, "ipv6", "vx-submariner-6", "fd00:100:100::"),
    ] {
        cut(
            &lab,
            GATEWAYS,
            &format!("meta nfproto {proto} udp dport 4800"),
        );
        let tunnel = until(&lab, "", "TunnelToGatewayDead", &[]);
        let parts = [vxlan, inner, "UDP 4800", "by the CNI it does", "-1"];
        assert_contains(&tunnel, &parts);
        gauges(&lab, family, &[("tunnel", 0), ("round", 0), ("cni", 1)]);
        mend(&lab, GATEWAYS);
        until(&lab, "TunnelToGatewayDead", "", &[]);

        let routes = unroute(&lab, family);
        let back = until(&lab, "", "ReturnPathDead", &[]);
        assert_contains(&back, &[vxlan, inner, "the CNI's routes and tunnel"]);
        gauges(&lab, family, &[("tunnel", 1), ("round", 0), ("cni", 0)]);
        run(&lab, routes);
        until(&lab, "ReturnPathDead", "", &[]);
        gauges(&lab, family, &all_up);
    }
    // The pods' network carries its own, and drops what comes from elsewhere: as a strict reverse-path filter does.
    let foreign = ["10.102.0.0/16", "10.101.0.0/16"]
        .map(|other| format!("iifname != vx-submariner ip saddr {{ 240.0.0.0/8, {other} }}"));
    cut_each(&lab, WORKERS, [&foreign[0], &foreign[1]]);
    let back = until(&lab, "", "ReturnPathDead", &[]);
    assert_contains(
        &back,
        &["the CNI carries its own packets both ways", "reverse-path"],
    );
    gauges(&lab, Family::V4, &[("tunnel", 1), ("round", 0), ("cni", 1)]);
    mend(&lab, WORKERS);
    until(&lab, "ReturnPathDead", "", &[]);
    // Both at once.
    cut(
        &lab,
        WORKERS,
        "ip daddr != 127.0.0.0/8 meta l4proto { udp, icmp }",
    );
    let gateway = until(&lab, "", "GatewayUnreachable", &[]);
    assert_contains(&gateway, &["neither over vx-submariner", "nor by the CNI"]);
    mend(&lab, WORKERS);
    until(&lab, "GatewayUnreachable", "", &[]);
}

#[test]
fn a_node_without_a_cni_address_is_told_of_its_dead_tunnel() {
    let lab = lab("selftest-routed", vec![Cni::Routed], Families::V4);
    gauges(&lab, Family::V4, &[("tunnel", 1)]);
    let always = ["CniInterfaceNotFound"];
    until(&lab, "", "", &always);
    cut(&lab, GATEWAYS, "udp dport 4800");
    let tunnel = until(&lab, "", "TunnelToGatewayDead", &always);
    assert_contains(&tunnel, &["vx-submariner", "UDP 4800"]);
    mend(&lab, GATEWAYS);
    until(&lab, "TunnelToGatewayDead", "", &always);
}

#[test]
fn a_gateway_that_stops_to_let_pings_in_is_not_said_to_be_dead() {
    let lab = lab("selftest-icmp", vec![Cni::Bridge], Families::Dual);
    let all_up = [("tunnel", 1), ("round", 1), ("cni", 1)];
    for family in Family::ALL {
        gauges(&lab, family, &all_up);
    }
    // The worker must have heard of the other cluster before: its health checks come once a minute.
    let connected =
        |line: &str| line.starts_with("strait_health_connected{") && line.ends_with(" 1");
    let page = || {
        lab.page("east-2", Role::RouteAgent, "/metrics")
            .expect("a page")
    };
    let deadline = Instant::now() + PATIENCE;
    while page().lines().filter(|line| connected(line)).count() < 2 {
        assert!(Instant::now() < deadline, "{}", page());
        std::thread::sleep(Duration::from_millis(20));
    }
    let silent = "add table inet silent; \
        add chain inet silent input { type filter hook input priority 0; }; \
        add rule inet silent input icmp type echo-request drop; \
        add rule inet silent input icmpv6 type echo-request drop";
    lab.exec("east-1", &["nft", silent]).expect("nft");
    let down = "strait_selftest_up{path=\"tunnel\",family=\"v6\"} 0";
    let deadline = Instant::now() + PATIENCE;
    while !page().contains(down) {
        assert!(Instant::now() < deadline, "{}", page());
        std::thread::sleep(Duration::from_millis(20));
    }
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        assert_eq!(said(&lab, "east-2"), BTreeMap::new());
        std::thread::sleep(Duration::from_millis(20));
    }
    lab.exec("east-1", &["nft", "delete table inet silent"])
        .expect("nft");
    gauges(&lab, Family::V4, &all_up);
    assert_eq!(said(&lab, "east-2"), BTreeMap::new());
}
