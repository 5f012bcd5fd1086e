//! What users get when a gateway ends, dies or loses its power, and WireGuard is the kernel's: on both sides, or on one, with the other
//! side's in its gateways' processes. Not built without the feature `kernel-wireguard`: few kernels of those who build have WireGuard;
//! `scripts/guest/run` runs it on kernels that do.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::Duration;

use common::takeover::{
    FIRST, FROM, SECOND, SUBMARINER, TO, all_is_well, gap_within, list, one_is_active, other,
    standby_is_known, terminate, through_flow,
};
use common::{binary, name};
use serde_json::Value;
use strait_lab::{Cable, Flow, Lab, Options, Role, Wireguard};

/// An emulated machine takes up to ten times as long for everything, and stands still for a second at times: fewer datagrams a second
/// and connections than elsewhere, and a silence of 2 s, not of 300 ms.
fn flow() -> Flow {
    Flow {
        rate: 100,
        connections: 2,
        ..Flow::new(FROM, TO)
    }
}
const HELLO: [(&str, &str); 2] = [
    ("STRAIT_HELLO_INTERVAL_MS", "200"),
    ("STRAIT_HELLO_MULTIPLIER", "10"),
];
/// How long all processes may take to start.
const PATIENCE: Duration = Duration::from_secs(180);
/// The silence, and what comes after. Where nobody watches, it would be 15 s and more.
const TAKEN_OVER_MS: f64 = 12000.0;
/// Nobody's silence is waited for; what the other side is told takes its time.
const HANDED_OVER_MS: f64 = 6000.0;
/// Seconds: TCP, whose pauses between two tries double, comes back long after the way does.
const AFTER: u64 = 12;

/// The kind of a node's WireGuard device, as the kernel names it.
fn kind(lab: &Lab, node: &str) -> String {
    let shown = lab.exec(node, &["ip", "-d", "-j", "link", "show", "submariner"]);
    let links: Value = serde_json::from_str(&shown.expect("a link")).expect("JSON");
    let kind = links[0]["linkinfo"]["info_kind"].as_str();
    kind.expect("a kind").to_owned()
}

/// Two clusters with two gateways each, east's of the first kind and west's of the second.
fn lab(purpose: &str, [east, west]: [Wireguard; 2]) -> Lab {
    let options = Options {
        name: name(purpose),
        gateways: 2,
        cable: Cable::Wireguard,
        wireguard: vec![east, west],
        environment: HELLO
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        ..Options::default()
    };
    let lab = Lab::up(&options, binary(), |_| ()).expect("the lab starts");
    lab.wait_until_joined(PATIENCE)
        .expect("the clusters are joined");
    for (cluster, whose) in [("east", east), ("west", west)] {
        let expected = if whose == Wireguard::Kernel {
            "wireguard"
        } else {
            "tun"
        };
        for number in [1, 2] {
            assert_eq!(kind(&lab, &format!("{cluster}-{number}")), expected);
        }
    }
    one_is_active(&lab, &[FIRST, SECOND]);
    lab
}

/// The one that carries east's traffic, once the other one could at once.
fn ready(lab: &Lab) -> String {
    lab.wait_until_joined(PATIENCE).expect("all is well");
    let active = one_is_active(lab, &[FIRST, SECOND]);
    standby_is_known(lab, &active);
    active
}

/// Everything that can end a gateway of east, one after the other.
fn every_end(purpose: &str, whose: [Wireguard; 2]) {
    let lab = lab(purpose, whose);
    let told = |what: &str| format!("{what}, {} to {}", whose[0], whose[1]);

    let before = ready(&lab);
    let report = through_flow(&lab, &flow(), &told("asked to end"), AFTER, || {
        terminate(&lab, &before)
    });
    gap_within(&report, HANDED_OVER_MS);
    assert_eq!(one_is_active(&lab, &[other(&before)]), other(&before));
    lab.restart(&before, Role::Gateway).expect("it starts");

    let before = ready(&lab);
    let report = through_flow(&lab, &flow(), &told("process killed"), AFTER, || {
        lab.kill(&before, Role::Gateway).expect("it ends");
    });
    gap_within(&report, TAKEN_OVER_MS);
    assert_eq!(one_is_active(&lab, &[other(&before)]), other(&before));
    lab.restart(&before, Role::Gateway).expect("it starts");

    let before = ready(&lab);
    let report = through_flow(&lab, &flow(), &told("node without power"), AFTER, || {
        lab.power_off(&before).expect("it is off");
    });
    gap_within(&report, TAKEN_OVER_MS);
    one_is_active(&lab, &[other(&before)]);
    all_is_well(&lab, &[other(&before), "east-3"]);
}

#[test]
fn every_end_of_a_gateway_is_survived_from_kernel_to_kernel() {
    every_end("kfo-kk", [Wireguard::Kernel, Wireguard::Kernel]);
}

#[test]
fn every_end_of_a_gateway_is_survived_from_kernel_to_process() {
    every_end("kfo-kp", [Wireguard::Kernel, Wireguard::Process]);
}

#[test]
fn every_end_of_a_gateway_is_survived_from_process_to_kernel() {
    every_end("kfo-pk", [Wireguard::Process, Wireguard::Kernel]);
}

/// The gateways of a cluster: the one that stands by first, so that nobody takes over.
fn kill_all(lab: &Lab, cluster: &str) {
    let all = list(lab, cluster, &format!("{SUBMARINER}/endpoints"));
    let own = all.iter().find(|e| e["spec"]["cluster_id"] == cluster);
    let active = own.expect("an Endpoint")["spec"]["hostname"].as_str();
    let mut nodes = [1, 2].map(|number| format!("{cluster}-{number}"));
    nodes.sort_by_key(|node| Some(node.as_str()) == active);
    for node in nodes {
        lab.kill(&node, Role::Gateway).expect("it ends");
    }
}

#[test]
fn the_kernel_carries_on_without_losing_a_datagram_when_all_gateways_processes_are_killed() {
    let lab = lab("kfo-all", [Wireguard::Kernel; 2]);
    let lost = |_| {
        ready(&lab);
        let report = through_flow(&lab, &flow(), "all processes killed", 4, || {
            kill_all(&lab, "east");
            kill_all(&lab, "west");
        });
        for node in ["east-1", "east-2", "west-1", "west-2"] {
            lab.restart(node, Role::Gateway).expect("it starts");
        }
        report.udp.lost
    };
    // A machine that others use may lose one by itself.
    assert!((0..3).map(lost).any(|lost| lost == 0));
}
