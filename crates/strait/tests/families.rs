//! What users get with IPv4, IPv6 and both, over every CNI of the lab: pairs of all of these with the reverse-path filter and with
//! the order of start, in few labs. Each way is tried with 3 KB both ways, over TCP and over UDP.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{conditions, joined};
use strait_lab::matrix::{Origin, Tried, Way, render, targets, ways};
use strait_lab::topology::{Cluster, Node};
use strait_lab::{Cni, CniChange, Families, Family, Lab, Options, Probe, RpFilter};

const PATIENCE: Duration = Duration::from_secs(20);
/// The CNI comes when the test says so.
const NEVER: Duration = Duration::from_secs(3600);
/// Ways that are tried at once.
const AT_ONCE: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    AgentFirst,
    CniFirst,
}

struct Case {
    name: &'static str,
    east: Cni,
    west: Cni,
    families: Families,
    rp_filter: RpFilter,
    start: Start,
}

macro_rules! cases {
    ($($name:ident: $east:ident $west:ident $families:ident $filter:ident $start:ident;)*) => {
        const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            east: Cni::$east,
            west: Cni::$west,
            families: Families::$families,
            rp_filter: RpFilter::$filter,
            start: Start::$start,
        }),*];
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*
    };
}

cases! {
    bridge_and_bridge_v4: Bridge Bridge V4 Strict AgentFirst;
    bridge_and_calico_v6: Bridge Calico V6 Loose CniFirst;
    bridge_and_routed_dual: Bridge Routed Dual Strict CniFirst;
    calico_and_calico_v4: Calico Calico V4 Loose AgentFirst;
    calico_and_routed_v6: Calico Routed V6 Strict AgentFirst;
    calico_and_bridge_dual: Calico Bridge Dual Loose CniFirst;
    routed_and_routed_v4: Routed Routed V4 Strict CniFirst;
    routed_and_bridge_v6: Routed Bridge V6 Loose AgentFirst;
    routed_and_calico_dual: Routed Calico Dual Strict AgentFirst;
}

#[test]
fn every_pair_of_circumstances_is_tried() {
    let mut pairs = BTreeSet::new();
    for case in CASES {
        for cni in [case.east, case.west] {
            let all = [
                format!("{cni}"),
                format!("{:?}", case.families),
                format!("{:?}", case.rp_filter),
                format!("{:?}", case.start),
            ];
            for one in &all {
                for other in &all {
                    pairs.insert((one.clone(), other.clone()));
                }
            }
        }
    }
    let groups: [&[&str]; 4] = [
        &["bridge", "calico", "routed"],
        &["V4", "V6", "Dual"],
        &["Strict", "Loose"],
        &["AgentFirst", "CniFirst"],
    ];
    for (i, one) in groups.iter().enumerate() {
        for other in &groups[i + 1..] {
            for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
                let pair = ((*a).to_owned(), (*b).to_owned());
                assert!(pairs.contains(&pair), "{a} with {b} is not tried");
            }
        }
    }
}

fn run(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case");
    let options = Options {
        nodes: 2,
        cnis: vec![case.east, case.west],
        families: case.families,
        rp_filter: case.rp_filter,
        ..Options::default()
    };
    let lab = joined(&name.replace('_', "-")[..14], options);
    if case.start == Start::AgentFirst {
        boot_with_late_cnis(&lab);
    }
    all_good(&lab, &ways(lab.topology()));
    for node in lab.topology().nodes() {
        let expected: &[&str] = match node.cni {
            Cni::Routed => &["CniInterfaceNotFound"],
            Cni::Bridge | Cni::Calico | Cni::Plugin { .. } => &[],
        };
        assert_eq!(conditions(&lab, &node.name), expected, "{}", node.name);
    }
}

#[test]
fn a_gateway_with_a_pod_address_lends_it_to_workers_that_never_get_one() {
    let lab = joined(
        "lend",
        Options {
            nodes: 2,
            cnis: vec![Cni::Routed, Cni::Bridge],
            families: Families::Dual,
            ..Options::default()
        },
    );
    let (gateway, worker) = ("east-1", lab.topology().node("east-2").expect("a node").1);
    let addresses: [(Family, IpAddr); 2] = [
        (Family::V4, [10, 101, 1, 1].into()),
        (Family::V6, [0xfd10, 0x101, 0, 1, 0, 0, 0, 1].into()),
    ];
    for (family, source) in addresses {
        all_good(&lab, &host_ways(&lab, family, worker, None));
        let address = source.to_string();
        lab.exec(gateway, &["ip", "address", "add", &address, "dev", "lo"])
            .expect("it is added");
        let ways = host_ways(&lab, family, worker, Some(source));
        wait_for(&lab, &ways[0]);
        all_good(&lab, &ways);
        lab.exec(gateway, &["ip", "address", "del", &address, "dev", "lo"])
            .expect("it is removed");
    }
    // It is gone again, and with it the way; pods never notice.
    let closed = |way: &Way| way.attempt(&lab).is_ok_and(|tried| tried.good());
    let deadline = Instant::now() + PATIENCE;
    for (family, _) in addresses {
        let way = &host_ways(&lab, family, worker, None)[0];
        while !closed(way) {
            assert!(Instant::now() < deadline, "{way:?} is still open");
        }
    }
    all_good(&lab, &ways(lab.topology()));
}

/// Every node boots, the agents before the CNIs; workers meanwhile borrow the gateway's address.
fn boot_with_late_cnis(lab: &Lab) {
    for cluster in &lab.topology().clusters {
        lab.reboot(&cluster.nodes[0].name, Duration::from_secs(1))
            .expect("the gateway boots");
        lab.reboot(&cluster.nodes[1].name, NEVER)
            .expect("the worker boots");
    }
    for cluster in &lab.topology().clusters {
        for family in lab.topology().families.all() {
            if let Some(source) = cluster.nodes[0].cni_ip(*family) {
                let ways = host_ways(lab, *family, &cluster.nodes[1], Some(source));
                wait_for(lab, &ways[0]);
                // Pods of the other cluster's worker are not there yet.
                let there = |way: &Way| way.to.ends_with("-1-a");
                let ways: Vec<Way> = ways.into_iter().filter(there).collect();
                all_good(lab, &ways);
            }
        }
    }
    for cluster in &lab.topology().clusters {
        lab.cni(&cluster.nodes[1].name, CniChange::Up)
            .expect("the CNI comes up");
    }
    lab.wait_until_joined(PATIENCE).expect("all is well again");
    for way in ways(lab.topology()) {
        wait_for(lab, &way);
    }
}

/// Waits until it goes as it should over TCP.
fn wait_for(lab: &Lab, way: &Way) {
    if let Some(source) = way.source {
        let probe = Probe {
            timeout_ms: 500,
            ..way.probe(strait_lab::Transport::Tcp)
        };
        lab.probe_until(&probe, PATIENCE, |seen| seen.source.ip() == source)
            .expect("the way opens");
    }
}

fn other<'a>(lab: &'a Lab, node: &Node) -> &'a Cluster {
    let mut clusters = lab.topology().clusters.iter();
    clusters
        .find(|cluster| cluster.name != node.cluster)
        .expect("another cluster")
}

/// The ways of a node's own processes to the other cluster, where the listener sees `source`, or nobody.
fn host_ways(lab: &Lab, family: Family, node: &Node, source: Option<IpAddr>) -> Vec<Way> {
    let targets = targets(other(lab, node));
    let of = |origin| {
        targets
            .iter()
            .filter_map(move |to| Way::new(family, origin, node, to))
    };
    let both = of(Origin::Host).chain(of(Origin::BoundHost));
    both.map(|way| Way { source, ..way }).collect()
}

/// Tries ways, many at once, and fails with a table of those that did not go as they should.
fn all_good(lab: &Lab, ways: &[Way]) {
    assert!(!ways.is_empty(), "nothing to try");
    let mut bad: Vec<Tried> = Vec::new();
    for chunk in ways.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let tries: Vec<_> = chunk
                .iter()
                .map(|way| scope.spawn(|| way.attempt(lab).expect("the lab answers")))
                .collect();
            let tried = tries.into_iter().map(|t| t.join().expect("it is tried"));
            bad.extend(tried.filter(|one| !one.good()));
        });
    }
    assert!(bad.is_empty(), "\n{}", render(&bad));
}
