//! What users get between clusters, with the real processes on a real kernel. Every source address is what the listener saw, and
//! every payload is 3 KB both ways, over TCP and over UDP.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{agent, assert_all_good, conditions, joined};
use strait_lab::matrix::{Origin, Way, targets, ways};
use strait_lab::{CniChange, Family, Lab, Options, Probe, Role};

/// One lab for all tests that only look.
static LAB: LazyLock<Lab> = LazyLock::new(|| joined("e2e", Options::default()));

const PATIENCE: Duration = Duration::from_secs(30);

fn chosen(origin: Origin, service: bool) -> Vec<Way> {
    let all = ways(LAB.topology());
    all.into_iter()
        .filter(|way| way.origin == origin && way.to.starts_with("web.") == service)
        .collect()
}

#[test]
fn a_pod_reaches_remote_pods_with_its_own_address() {
    assert_all_good(&LAB, &chosen(Origin::Pod, false));
}

#[test]
fn a_pod_reaches_a_remote_service_with_its_own_address() {
    assert_all_good(&LAB, &chosen(Origin::Pod, true));
}

#[test]
fn a_process_on_a_node_reaches_remote_pods_with_the_nodes_cni_address() {
    assert_all_good(&LAB, &chosen(Origin::Host, false));
}

#[test]
fn a_process_on_a_node_reaches_a_remote_service_with_the_nodes_cni_address() {
    assert_all_good(&LAB, &chosen(Origin::Host, true));
}

#[test]
fn a_socket_bound_to_the_node_address_reaches_remote_pods_with_the_nodes_cni_address() {
    assert_all_good(&LAB, &chosen(Origin::BoundHost, false));
}

#[test]
fn a_socket_bound_to_the_node_address_reaches_a_remote_service_with_the_nodes_cni_address() {
    assert_all_good(&LAB, &chosen(Origin::BoundHost, true));
}

#[test]
fn pods_and_services_of_the_own_cluster_are_reached_as_before() {
    let topology = LAB.topology();
    for cluster in &topology.clusters {
        let from = &cluster.nodes[1].pods[0];
        let to = &cluster.nodes[2].pods[0];
        let seen = LAB.probe(&Probe::tcp(&from.name, &to.name)).unwrap();
        assert_eq!(seen.unwrap().source.ip(), from.address);
        let service = LAB.probe(&Probe::udp(&from.name, &cluster.name)).unwrap();
        assert!(service.is_ok(), "{service:?}");
    }
}

#[test]
fn three_clusters_reach_each_other() {
    let lab = joined(
        "three",
        Options {
            clusters: 3,
            nodes: 2,
            ..Options::default()
        },
    );
    assert_all_good(&lab, &ways(lab.topology()));
}

/// The ways of a node's own processes to another cluster, where the listener sees `source`.
fn host_ways(lab: &Lab, node: &str, to: &str, source: Ipv4Addr) -> Vec<Way> {
    let topology = lab.topology();
    let node = topology.node(node).expect("a node").1;
    let targets = targets(topology.cluster(to).expect("a cluster"));
    let ways = |origin| {
        targets
            .iter()
            .filter_map(move |to| Way::new(Family::V4, origin, node, to))
    };
    let both = ways(Origin::Host).chain(ways(Origin::BoundHost));
    both.map(|way| way.seen_as(source)).collect()
}

fn cni_address(lab: &Lab, node: &str) -> Ipv4Addr {
    lab.topology().node(node).expect("a node").1.cni_address
}

fn wait_for_source(lab: &Lab, node: &str, to: &str, source: Ipv4Addr) {
    let probe = Probe {
        timeout_ms: 500,
        ..Probe::tcp(node, to)
    };
    lab.probe_until(&probe, PATIENCE, |seen| seen.source.ip() == source)
        .expect("the source changes");
}

/// The agent is there first, the CNI 60 s later.
fn late_cni(purpose: &str, node: &str, gateway: &str, to: &str) {
    const LATE: Duration = Duration::from_secs(60);
    let lab = joined(purpose, Options::default());
    let booted = Instant::now();
    lab.reboot(node, LATE).expect("the node boots");
    let first = agent(&lab, node);
    let during = || {
        let source = cni_address(&lab, gateway);
        wait_for_source(&lab, node, to, source);
        assert_all_good(&lab, &host_ways(&lab, node, to, source));
        let told = conditions(&lab, node);
        assert!(
            told.contains(&"CniInterfaceNotFound".to_owned()),
            "nobody is told that there is no CNI address: {told:?}"
        );
    };
    during();
    sleep((LATE - Duration::from_secs(6)).saturating_sub(booted.elapsed()));
    during();
    assert!(booted.elapsed() < LATE, "the CNI came while it was watched");

    sleep(LATE.saturating_sub(booted.elapsed()));
    wait_for_source(&lab, node, to, cni_address(&lab, node));
    lab.wait_until_joined(PATIENCE).expect("all is well again");
    // Its pods come with the CNI, and take a moment to listen.
    for pod in &lab.topology().node(node).expect("a node").1.pods {
        lab.probe_until(&Probe::tcp(node, &pod.name), PATIENCE, |_| true)
            .expect("the pod listens");
    }
    assert_all_good(&lab, &ways(lab.topology()));
    assert_eq!(conditions(&lab, node), Vec::<String>::new());
    assert_eq!(agent(&lab, node), first, "the agent was restarted");
}

#[test]
fn host_traffic_works_before_and_after_a_bridge_cni_that_comes_60_s_late_without_a_restart() {
    late_cni("late-b", "east-2", "east-1", "west");
}

#[test]
fn host_traffic_works_before_and_after_a_tunnel_cni_that_comes_60_s_late_without_a_restart() {
    late_cni("late-c", "west-2", "west-1", "east");
}

#[test]
fn a_connection_that_began_before_the_cni_came_lives_on() {
    let lab = joined("lives", Options::default());
    let node = "west-2";
    lab.reboot(node, Duration::from_secs(3600)).unwrap();
    wait_for_source(&lab, node, "east", cni_address(&lab, "west-1"));
    let to = lab.topology().node("east-2").unwrap().1.pods[0].address;
    let script = format!(
        "exec 3<>/dev/tcp/{to}/8080; head -1 <&3; while read line; do echo $line >&3; head -1 <&3; done"
    );
    let mut child = lab
        .command(node, ["bash", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen = output.next().unwrap().unwrap();
    assert!(
        seen.contains(&format!("{}:", cni_address(&lab, "west-1"))),
        "{seen}"
    );
    let mut echo = |text: &str| {
        writeln!(input, "{text}").unwrap();
        output.next().unwrap().unwrap()
    };
    assert_eq!(echo("before"), "before");
    lab.cni(node, CniChange::Up).unwrap();
    wait_for_source(&lab, node, "east", cni_address(&lab, node));
    sleep(Duration::from_millis(500));
    assert_eq!(echo("after"), "after");
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_node_follows_its_cni_address_when_it_changes_goes_and_comes_back() {
    let lab = joined("follow", Options::default());
    for (node, gateway, to, other) in [
        ("east-2", "east-1", "west", "10.101.2.7/24"),
        ("west-2", "west-1", "east", "10.102.2.7/32"),
    ] {
        let address: Ipv4Addr = other.split('/').next().unwrap().parse().unwrap();
        let before = agent(&lab, node);
        lab.cni(node, CniChange::Address(other.parse().unwrap()))
            .unwrap();
        wait_for_source(&lab, node, to, address);
        assert_all_good(&lab, &host_ways(&lab, node, to, address));
        lab.cni(node, CniChange::NoAddress).unwrap();
        wait_for_source(&lab, node, to, cni_address(&lab, gateway));
        lab.cni(node, CniChange::Down).unwrap();
        wait_for_source(&lab, node, to, cni_address(&lab, gateway));
        assert_all_good(&lab, &host_ways(&lab, node, to, cni_address(&lab, gateway)));
        lab.cni(node, CniChange::Up).unwrap();
        wait_for_source(&lab, node, to, cni_address(&lab, node));
        assert_all_good(&lab, &host_ways(&lab, node, to, cni_address(&lab, node)));
        assert_eq!(agent(&lab, node), before);
    }
    assert_all_good(&lab, &ways(lab.topology()));
}

#[test]
fn what_works_goes_on_while_agents_are_dead_and_after_their_return() {
    let lab = joined("dead", Options::default());
    let all: Vec<(String, Role)> = lab
        .topology()
        .nodes()
        .flat_map(|node| {
            let gateway = node.gateway.then(|| (node.name.clone(), Role::Gateway));
            gateway
                .into_iter()
                .chain([(node.name.clone(), Role::RouteAgent)])
        })
        .collect();
    for (place, role) in &all {
        lab.kill(place, *role).unwrap();
    }
    assert_all_good(&lab, &ways(lab.topology()));
    for (place, role) in &all {
        lab.restart(place, *role).unwrap();
    }
    assert_all_good(&lab, &ways(lab.topology()));
    lab.wait_until_ready(PATIENCE, true).unwrap();
    assert_all_good(&lab, &ways(lab.topology()));
}

#[test]
fn a_gateway_that_boots_with_a_late_cni_joins_the_clusters_again_by_itself() {
    let lab = joined("gateway", Options::default());
    lab.reboot("west-1", Duration::from_secs(3)).unwrap();
    let before = agent(&lab, "west-1");
    let to = "east";
    wait_for_source(&lab, "west-1", to, cni_address(&lab, "west-1"));
    lab.wait_until_joined(PATIENCE).unwrap();
    assert_all_good(&lab, &ways(lab.topology()));
    assert_eq!(agent(&lab, "west-1"), before);
}
