//! What users see of the way to other clusters: health checks in the objects that tools read.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::{Duration, Instant};

use common::joined;
use serde_json::Value;
use strait_lab::{Cni, CniChange, Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(20);
const OBJECTS: &str = "/apis/submariner.io/v1/namespaces/submariner-operator";
const INTERVAL_MS: u64 = 200;

fn quick(purpose: &str, more: &[(&str, &str)]) -> Lab {
    quick_over(purpose, more, Options::default().cnis)
}

fn quick_over(purpose: &str, more: &[(&str, &str)], cnis: Vec<Cni>) -> Lab {
    let interval = INTERVAL_MS.to_string();
    let environment = [("STRAIT_HEALTHCHECK_INTERVAL_MS", interval.as_str())];
    let environment = environment.iter().chain(more);
    joined(
        purpose,
        Options {
            nodes: 2,
            cnis,
            environment: environment
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Options::default()
        },
    )
}

fn object(lab: &Lab, kind: &str, node: &str) -> Value {
    let cluster = node.split('-').next().expect("a cluster");
    let path = format!("{OBJECTS}/{kind}/{node}");
    lab.api(cluster, "GET", &path, &Value::Null)
        .expect("the object")["status"]
        .clone()
}

/// What a worker says of the other cluster.
fn remote_endpoint(lab: &Lab, node: &str) -> Value {
    object(lab, "routeagents", node)["remoteEndpoints"][0].clone()
}

/// What a gateway says of the other cluster.
fn connection(lab: &Lab, node: &str) -> Value {
    object(lab, "gateways", node)["connections"][0].clone()
}

/// Waits until `good` holds of what `look` gives.
fn until(what: &str, look: impl Fn() -> Value, good: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: {seen:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is(status: &'static str) -> impl Fn(&Value) -> bool {
    move |seen| seen["status"] == status
}

/// Milliseconds of a duration as Go writes it, which must be between 1 ns and 1 s.
fn milliseconds(text: &Value) -> f64 {
    let text = text.as_str().expect("a text");
    let units = [("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6)];
    let (number, unit) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .expect(text);
    let number: f64 = number.parse().expect(text);
    number * unit
}

fn assert_figures(of: &Value) {
    let rtt = &of["latencyRTT"];
    let [last, min, average, max] =
        ["last", "min", "average", "max"].map(|name| milliseconds(&rtt[name]));
    assert!(0.0 < min && min <= average && average <= max, "{rtt}");
    assert!(min <= last && last <= max, "{rtt}");
    assert!(rtt["stdDev"].is_string(), "{rtt}");
}

fn metrics(lab: &Lab, node: &str, role: Role) -> String {
    lab.page(node, role, "/metrics").expect("a page")
}

#[test]
fn workers_and_gateways_tell_whether_the_other_cluster_answers_and_how_fast() {
    let lab = quick("health", &[]);
    let west = lab.topology().node("west-1").expect("a node").1.clone();
    for node in ["east-2", "west-2"] {
        let seen = until(node, || remote_endpoint(&lab, node), is("connected"));
        assert_eq!(seen["statusMessage"], "");
        assert_figures(&seen);
    }
    for node in ["east-1", "west-1"] {
        let seen = until(
            node,
            || connection(&lab, node),
            |seen| is("connected")(seen) && seen["latencyRTT"].is_object(),
        );
        assert_figures(&seen);
        let none = until(node, || remote_endpoint(&lab, node), is("none"));
        assert_eq!(
            none["statusMessage"],
            "Health check is not performed on gateway nodes"
        );
    }
    let gauge = "strait_health_connected{cluster=\"west\",family=\"v4\"}";
    for (node, role) in [("east-1", Role::Gateway), ("east-2", Role::RouteAgent)] {
        let text = metrics(&lab, node, role);
        assert!(text.contains(&format!("{gauge} 1\n")), "{text}");
    }
    // What dashboards for Submariner look at.
    let ends = "cable_driver=\"vxlan\",local_cluster=\"east\",local_hostname=\"east-1\",local_endpoint_ip=\"\",\
         remote_cluster=\"west\",remote_hostname=\"west-1\",remote_endpoint_ip=\"\"";
    let text = metrics(&lab, "east-1", Role::Gateway);
    let series = format!("submariner_connections{{{ends},status=\"connected\"}} 1.0\n");
    assert!(text.contains(&series), "{text}");
    let latency = format!("submariner_connection_latency_seconds{{{ends}}} 0.0");
    assert!(text.contains(&latency), "{text}");
    // The other cluster's gateway stops answering: its pods' network does not, but no user of it can tell.
    let drop = "add table inet cut; \
         add chain inet cut input { type filter hook input priority -300; }; \
         add rule inet cut input icmp type echo-request drop";
    lab.exec("west-1", &["nft", drop]).expect("nft");
    let cut = Instant::now();
    let message = format!(
        "Failed to successfully ping the remote endpoint IP \"{}\"",
        west.cni_address
    );
    let worker = until("cut", || remote_endpoint(&lab, "east-2"), is("error"));
    let gateway = until("cut", || connection(&lab, "east-1"), is("error"));
    let took = cut.elapsed();
    assert_eq!(worker["statusMessage"], message);
    assert_eq!(gateway["statusMessage"], message);
    // Six pings must be lost first, and then it is told at once, not with the figures' next turn.
    let least = Duration::from_millis(5 * INTERVAL_MS);
    assert!(
        took >= least && took < least + Duration::from_secs(3),
        "{took:?}"
    );
    for (node, role) in [("east-1", Role::Gateway), ("east-2", Role::RouteAgent)] {
        let text = metrics(&lab, node, role);
        assert!(text.contains(&format!("{gauge} 0\n")), "{text}");
        if role == Role::Gateway {
            let state = |of| format!("submariner_connections{{{ends},status=\"{of}\"}}");
            assert!(text.contains(&state("error")), "{text}");
            assert!(!text.contains(&state("connected")), "{text}");
        }
        let page = lab.page(node, role, "/readyz").expect("a page");
        assert!(page.starts_with("ok"), "degraded, and ready: {page}");
        assert!(
            page.contains("RemoteUnreachable") && page.contains(&message),
            "{page}"
        );
    }
    // Only that way is hurt.
    assert_eq!(remote_endpoint(&lab, "west-2")["status"], "connected");
    assert_eq!(connection(&lab, "west-1")["status"], "connected");
    lab.exec("west-1", &["nft", "delete table inet cut"])
        .expect("nft");
    let worker = until(
        "healed",
        || remote_endpoint(&lab, "east-2"),
        is("connected"),
    );
    let gateway = until("healed", || connection(&lab, "east-1"), is("connected"));
    assert_eq!(worker["statusMessage"], "");
    assert_eq!(gateway["statusMessage"], "");
    assert_figures(&worker);
    assert_figures(&gateway);
    for (node, role) in [("east-1", Role::Gateway), ("east-2", Role::RouteAgent)] {
        let page = lab.page(node, role, "/readyz").expect("a page");
        assert!(!page.contains("RemoteUnreachable"), "{page}");
    }
}

#[test]
fn a_node_whose_cni_goes_and_comes_is_told_to_reach_the_other_cluster_throughout() {
    let lab = quick("cni-health", &[]);
    until("up", || remote_endpoint(&lab, "east-2"), is("connected"));
    // Longer than it takes to tell an error; the object is read all the time, so that none is missed.
    let long = Duration::from_millis(12 * INTERVAL_MS);
    let assert_connected = |when: &str| {
        let begun = Instant::now();
        while begun.elapsed() < long {
            assert_eq!(
                remote_endpoint(&lab, "east-2")["status"],
                "connected",
                "{when}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    lab.cni("east-2", CniChange::Down).expect("its CNI goes");
    assert_connected("without the CNI");
    lab.cni("east-2", CniChange::Up).expect("its CNI comes");
    assert_connected("with the CNI again");
}

#[test]
fn health_checks_that_are_switched_off_send_nothing_and_say_so() {
    let lab = quick("unhealthy", &[("SUBMARINER_HEALTHCHECKENABLED", "false")]);
    for node in ["east-1", "east-2"] {
        let none = until(node, || remote_endpoint(&lab, node), is("none"));
        assert_eq!(none["statusMessage"], "Health check is not enabled");
    }
    let connection = until("up", || connection(&lab, "east-1"), is("connected"));
    assert_eq!(connection["latencyRTT"], Value::Null);
    assert_eq!(connection["endpoint"]["healthCheckIP"], Value::Null);
    let text = metrics(&lab, "east-1", Role::Gateway);
    assert!(!text.contains("strait_health_connected{"), "{text}");
}

#[test]
fn where_no_host_has_a_cni_address_the_other_cluster_is_not_said_to_be_away() {
    let lab = quick_over("no-source", &[], vec![Cni::Routed, Cni::Bridge]);
    let probe = Probe::tcp("east-2-a", "west-2-a");
    lab.probe_until(&probe, PATIENCE, |_| true).expect("pods");
    let none = until("none", || remote_endpoint(&lab, "east-2"), is("none"));
    let why = none["statusMessage"].as_str().expect("a text");
    assert!(why.contains("CNI address"), "{why}");
    // Longer than it takes to tell an error.
    let end = Instant::now() + Duration::from_millis(15 * INTERVAL_MS);
    while Instant::now() < end {
        for (node, role) in [("east-1", Role::Gateway), ("east-2", Role::RouteAgent)] {
            let page = lab.page(node, role, "/readyz").expect("a page");
            assert!(!page.contains("RemoteUnreachable"), "{page}");
            assert!(page.contains("CniInterfaceNotFound"), "{page}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let connection = connection(&lab, "east-1");
    assert_eq!(connection["status"], "connected");
    assert_eq!(connection["latencyRTT"], Value::Null);
}
