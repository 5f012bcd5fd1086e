//! What users get when a cluster has two gateways, and the one that carries the traffic ends, hangs, or is cut off.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]
#![allow(clippy::print_stdout, reason = "figures are for whoever reads them")]

mod common;

use std::time::{Duration, Instant};

use common::joined;
use common::takeover::{
    FIRST, LEASE, PATIENCE, SECOND, SUBMARINER, all_is_well, gap_within, list, one_is_active,
    other, standby_is_known, terminate, through, way_of_worker,
};
use serde_json::Value;
use strait_lab::{Cable, Lab, Nat, Options, Role, Wireguard};

fn lab(purpose: &str) -> Lab {
    let lab = joined(
        purpose,
        Options {
            gateways: 2,
            ..Options::default()
        },
    );
    one_is_active(&lab, &[FIRST, SECOND]);
    lab
}

#[test]
fn a_gateway_that_is_killed_or_loses_its_power_is_replaced_by_the_one_that_stands_by() {
    let lab = lab("failover-dead");
    // Its process only: the kernel carries on.
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    let report = through(&lab, "process killed", 3, || {
        lab.kill(&before, Role::Gateway).expect("it ends");
    });
    gap_within(&report, 2000.0);
    let after = one_is_active(&lab, &[other(&before)]);
    assert_ne!(after, before);
    all_is_well(&lab, &[FIRST, SECOND, "east-3"]);
    // It comes back, and stands by.
    lab.heal(&before, Some(Role::Gateway)).expect("it starts");
    lab.wait_until_joined(PATIENCE).expect("all is well");
    assert_eq!(one_is_active(&lab, &[FIRST, SECOND]), after);

    let report = through(&lab, "node without power", 5, || {
        lab.power_off(&after).expect("it is off");
    });
    gap_within(&report, 5000.0);
    let last = one_is_active(&lab, &[other(&after)]);
    all_is_well(&lab, &[other(&after), "east-3"]);
    lab.heal_all().expect("it boots");
    lab.wait_until_joined(PATIENCE).expect("all is well");
    assert_eq!(one_is_active(&lab, &[FIRST, SECOND]), last);
    all_is_well(&lab, &[FIRST, SECOND, "east-3"]);
}

#[test]
fn one_that_hangs_is_replaced_and_one_that_ends_hands_over() {
    let lab = lab("failover-hangs");
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    let report = through(&lab, "process stopped", 3, || {
        lab.stop(&before, Some(Role::Gateway))
            .expect("it stands still");
    });
    gap_within(&report, 2000.0);
    let after = one_is_active(&lab, &[other(&before)]);
    lab.heal_all().expect("it goes on");
    // It sees that it was replaced, and does not take anything back.
    lab.wait_until_joined(PATIENCE).expect("all is well");
    assert_eq!(one_is_active(&lab, &[FIRST, SECOND]), after);
    all_is_well(&lab, &[FIRST, SECOND, "east-3"]);

    let report = through(&lab, "process asked to end", 3, || terminate(&lab, &after));
    gap_within(&report, 1000.0);
    assert_eq!(one_is_active(&lab, &[other(&after)]), before);
    lab.restart(&after, Role::Gateway).expect("it starts");
    lab.wait_until_joined(PATIENCE).expect("all is well");
    assert_eq!(one_is_active(&lab, &[FIRST, SECOND]), before);
    all_is_well(&lab, &[FIRST, SECOND, "east-3"]);

    // Both at the same time: nobody is there to hand over to, and nothing is taken down.
    let report = through(&lab, "both asked to end", 3, || {
        terminate(&lab, FIRST);
        terminate(&lab, SECOND);
    });
    gap_within(&report, 2000.0);
    for node in [FIRST, SECOND] {
        lab.restart(node, Role::Gateway).expect("it starts");
    }
    lab.wait_until_joined(PATIENCE).expect("all is well");
    one_is_active(&lab, &[FIRST, SECOND]);
    all_is_well(&lab, &[FIRST, SECOND, "east-3"]);
}

#[test]
fn without_the_api_server_the_one_that_is_heard_goes_on_and_a_dead_one_is_replaced_by_the_nodes_votes()
 {
    let lab = lab("failover-api");
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    // Longer than the Lease holds. It takes connections, and says nothing.
    let report = through(&lab, "API server that hangs", 18, || {
        lab.stop("control-east", None).expect("it stands still");
    });
    gap_within(&report, 500.0);
    let report = through(&lab, "node without power, API server that hangs", 4, || {
        lab.power_off(&before).expect("it is off");
    });
    gap_within(&report, 5000.0);
    let worker = format!("240.30.1.1{}", other(&before).trim_start_matches("east-"));
    assert_eq!(way_of_worker(&lab), worker);
    all_is_well(&lab, &[other(&before), "east-3"]);
    lab.heal("control-east", None).expect("it goes on");
    assert_eq!(one_is_active(&lab, &[other(&before)]), other(&before));
    lab.heal_all().expect("it boots");
    lab.wait_until_joined(PATIENCE).expect("all is well");
    one_is_active(&lab, &[FIRST, SECOND]);
    all_is_well(&lab, &[FIRST, SECOND, "east-3"]);
}

/// Waits until the other cluster's gateway, the standby of this one, and its node are ready for a takeover, as their kernels have it.
fn ready(lab: &Lab, active: &str) {
    let number = other(active).trim_start_matches("east-");
    let remote = published_of(lab, "west");
    let shown = |node: &str, command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        lab.exec(node, &words).expect("it is shown")
    };
    let outer = format!("172.30.1.1{number}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let entries = shown(&remote, "bridge -j fdb show dev vxlan-tunnel");
        let filter = shown(&remote, "nft list table inet strait-route-agent");
        // The standby has the other cluster's gateway in its cable, and sends there what nodes send it.
        let own = shown(other(active), "bridge -j fdb show dev vxlan-tunnel");
        let rules = shown(other(active), "ip rule show");
        let routes = shown(other(active), "ip route show table 100");
        if entries.contains(&outer)
            && filter.contains(&outer)
            && own.contains("172.30.2.1")
            && rules.contains("iif vx-submariner lookup 100")
            && routes.contains("10.102.0.0/16 via 241.30.2.1")
        {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{entries}\n{filter}\n{own}\n{rules}\n{routes}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_standby_is_ready_on_both_sides_before_it_is_needed() {
    let lab = lab("failover-warm");
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    ready(&lab, &before);
    // What its node sends itself goes by way of the gateway all the same.
    let standby = other(&before);
    let way = ["ip", "-j", "route", "get", "10.102.3.11"];
    let way: Value = serde_json::from_str(&lab.exec(standby, &way).expect("ip")).expect("JSON");
    let inner = before.replace("east-", "240.30.1.1");
    assert_eq!(way[0]["gateway"], inner, "{way}");
    all_is_well(&lab, &[standby]);
}

/// Kills the active gateway's process while the route agent of a node stands still: whether any datagram was lost.
fn lost_while_late(lab: &Lab, late: impl Fn(&str) -> Option<String>) -> u64 {
    let before = one_is_active(lab, &[FIRST, SECOND]);
    ready(lab, &before);
    let late = late(&before);
    if let Some(node) = &late {
        lab.stop(node, Some(Role::RouteAgent)).expect("it stops");
    }
    let what = format!("killed, {} late", late.as_deref().unwrap_or("nobody"));
    // Shorter than a cable without a gateway is kept.
    let report = through(lab, &what, 3, || {
        lab.kill(&before, Role::Gateway).expect("it ends");
    });
    if let Some(node) = &late {
        lab.heal(node, Some(Role::RouteAgent)).expect("it goes on");
    }
    assert_eq!(one_is_active(lab, &[other(&before)]), other(&before));
    lab.heal(&before, Some(Role::Gateway)).expect("it starts");
    lab.wait_until_joined(PATIENCE).expect("all is well");
    report.udp.lost
}

#[test]
fn a_vxlan_gateway_that_is_killed_loses_no_datagram_whichever_node_hears_of_its_successor_last() {
    let lab = lab("failover-late");
    let west = published_of(&lab, "west");
    for late in ["nobody", "a worker", "standby", "former", "other cluster"] {
        let node = |active: &str| match late {
            "a worker" => Some("east-3".to_owned()),
            "standby" => Some(other(active).to_owned()),
            "former" => Some(active.to_owned()),
            "other cluster" => Some(west.clone()),
            _ => None,
        };
        // A machine that others use may lose one by itself; who is late here is so for seconds.
        let mut tries = (0..3).map(|_| lost_while_late(&lab, node));
        assert!(tries.any(|lost| lost == 0), "{late}");
    }
}

#[test]
fn a_gateway_that_serves_wireguard_itself_hands_over_without_losing_a_datagram() {
    let options = Options {
        gateways: 2,
        cable: Cable::Wireguard,
        wireguard: vec![Wireguard::Process],
        ..Options::default()
    };
    let lab = joined("failover-wireguard", options);
    let hands_over = |_| {
        let before = one_is_active(&lab, &[FIRST, SECOND]);
        standby_is_known(&lab, &before);
        let report = through(&lab, "asked to end", 3, || terminate(&lab, &before));
        assert_eq!(one_is_active(&lab, &[other(&before)]), other(&before));
        lab.restart(&before, Role::Gateway).expect("it starts");
        lab.wait_until_joined(PATIENCE).expect("all is well");
        report.udp.lost
    };
    // A machine that others use may lose one by itself; what is not ready loses some each time.
    assert!((0..3).map(hands_over).any(|lost| lost == 0));
}

#[test]
fn another_cluster_follows_a_takeover_though_its_api_server_is_away() {
    let options = Options {
        gateways: 2,
        cable: Cable::Wireguard,
        ..Options::default()
    };
    let lab = joined("failover-away", options);
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    standby_is_known(&lab, &before);
    lab.kill("control-west", Role::Apiserver).expect("it ends");
    let what = "node without power, the other cluster's API server away";
    let report = through(&lab, what, 6, || {
        lab.power_off(&before).expect("it is off");
    });
    gap_within(&report, 5000.0);
    all_is_well(&lab, &[other(&before), "east-3"]);
    lab.heal("control-west", None).expect("it starts");
    assert_eq!(one_is_active(&lab, &[other(&before)]), other(&before));
}

#[test]
fn the_secret_is_replaced_by_removing_it_and_nobody_takes_that_for_silence() {
    let lab = lab("failover-secret");
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    let path = "/api/v1/namespaces/submariner-operator/secrets/strait-gateway-hello";
    let secret = || {
        let object = lab.api("east", "GET", path, &Value::Null);
        object.unwrap_or_default()["data"]["secret"].clone()
    };
    let old = secret();
    assert_eq!(old.as_str().map(str::len), Some(44), "32 bytes in base64");
    lab.api("east", "DELETE", path, &Value::Null)
        .expect("it goes");
    let deadline = Instant::now() + PATIENCE;
    while secret() == old || secret().is_null() {
        assert!(Instant::now() < deadline, "no new secret");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(one_is_active(&lab, &[FIRST, SECOND]), before);
    let lease = lab
        .api("east", "GET", LEASE, &Value::Null)
        .expect("a Lease");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    // They speak under the new one.
    let report = through(&lab, "node without power, new secret", 4, || {
        lab.power_off(&before).expect("it is off");
    });
    gap_within(&report, 5000.0);
    one_is_active(&lab, &[other(&before)]);
    // It is in no log.
    let secret = secret();
    let texts = [&old, &secret].map(|s| s.as_str().expect("a text").to_owned());
    for file in std::fs::read_dir(lab.logs()).expect("logs") {
        let log = std::fs::read_to_string(file.expect("a file").path()).expect("a log");
        assert!(!texts.iter().any(|text| log.contains(text)));
    }
}

/// Host name of the gateway of a cluster, as its own API server has it.
fn published_of(lab: &Lab, cluster: &str) -> String {
    let all = list(lab, cluster, &format!("{SUBMARINER}/endpoints"));
    let own = all.iter().find(|e| e["spec"]["cluster_id"] == cluster);
    let name = own.expect("an Endpoint")["spec"]["hostname"].as_str();
    name.expect("a name").to_owned()
}

/// Gateway objects of east by name: what they say that they are, and whether they tell of connections.
fn objects(lab: &Lab) -> Vec<(String, String, bool)> {
    let all = list(lab, "east", &format!("{SUBMARINER}/gateways"));
    let of = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let connections = object["status"]["connections"].as_array();
        (
            text(&object["metadata"]["name"]),
            text(&object["status"]["haStatus"]),
            connections.is_some_and(|all| !all.is_empty()),
        )
    };
    all.iter().map(of).collect()
}

/// Waits until these are the Gateway objects of east.
fn objects_become(lab: &Lab, expected: &[(&str, &str, bool)], limit: Duration) {
    let owned = expected
        .iter()
        .map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), *c));
    let expected: Vec<_> = owned.collect();
    let deadline = Instant::now() + limit;
    while objects(lab) != expected {
        assert!(Instant::now() < deadline, "{:?}", objects(lab));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_a_gateway_says_of_itself_goes_with_it_however_it_ends() {
    let lab = lab("failover-objects");
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    let after = other(&before);
    // It removes its own.
    terminate(&lab, &before);
    objects_become(&lab, &[(after, "active", true)], PATIENCE);
    lab.restart(&before, Role::Gateway).expect("it starts");
    let mut both = [(&*before, "passive", false), (after, "active", true)];
    both.sort_unstable();
    objects_become(&lab, &both, PATIENCE);
    // It can't any more, and the other one does.
    lab.power_off(after).expect("it is off");
    let ended = Instant::now();
    one_is_active(&lab, &[&before]);
    objects_become(&lab, &[(&before, "active", true)], Duration::from_secs(50));
    println!("a dead gateway's object went after {:?}", ended.elapsed());
    // Its last heartbeat was at most five seconds before its end.
    assert!(ended.elapsed() > Duration::from_secs(24));
}

/// Holds the first thread of a process as a debugger does, for so many seconds; the others go on.
const HOLD: &str = r"
import ctypes, os, sys, time
trace = ctypes.CDLL(None, use_errno=True).ptrace
trace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
pid, seconds = int(sys.argv[1]), float(sys.argv[2])
for what in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
    if trace(what, pid, None, None) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
time.sleep(seconds)
";

#[test]
fn one_whose_main_loop_stands_still_hands_over_and_is_not_live() {
    let lab = lab("failover-still");
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    let after = other(&before);
    let status = lab.status().expect("the lab answers");
    let of = |p: &&strait_lab::ProcessStatus| p.role == Role::Gateway && p.place == before;
    let pid = status.processes.iter().find(of).expect("a gateway").pid;
    let pid = pid.to_string();
    let report = through(&lab, "main loop held", 0, || {
        let mut held = lab
            .command(&before, ["python3", "-c", HOLD, &pid, "15"])
            .spawn()
            .expect("python3 runs");
        assert_eq!(one_is_active(&lab, &[after]), after);
        assert!(lab.page(&before, Role::Gateway, "/livez").is_err());
        assert!(held.wait().expect("it ends").success());
    });
    gap_within(&report, 2000.0);
    lab.wait_until_joined(PATIENCE).expect("all is well");
    assert_eq!(one_is_active(&lab, &[FIRST, SECOND]), after);
    all_is_well(&lab, &[FIRST, SECOND, "east-3"]);
    // It may be active again.
    lab.power_off(after).expect("it is off");
    assert_eq!(one_is_active(&lab, &[&before]), before);
}

#[test]
fn behind_nats_the_way_to_a_standby_is_known_before_it_takes_over() {
    let lab = joined(
        "failover-nat",
        Options {
            gateways: 2,
            cable: Cable::Wireguard,
            nat: Nat::FullCone,
            ..Options::default()
        },
    );
    let before = one_is_active(&lab, &[FIRST, SECOND]);
    // Both gateways of either cluster have found both of the other one.
    let deadline = Instant::now() + PATIENCE;
    let found = |node: &str, of: &str| {
        let line = format!(
            "strait_discovery_path{{cluster=\"{of}\",family=\"v4\",state=\"answered\",nat=\"true\"}} 2\n"
        );
        let page = lab.page(node, Role::Gateway, "/metrics").expect("metrics");
        page.contains(&line)
    };
    for (node, of) in [
        ("east-1", "west"),
        ("east-2", "west"),
        ("west-1", "east"),
        ("west-2", "east"),
    ] {
        while !found(node, of) {
            assert!(
                Instant::now() < deadline,
                "{node} has not found all of {of}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let report = through(
        &lab,
        "node without power, WireGuard, full-cone NATs",
        5,
        || {
            lab.power_off(&before).expect("it is off");
        },
    );
    gap_within(&report, 5000.0);
    one_is_active(&lab, &[other(&before)]);
    all_is_well(&lab, &[other(&before), "east-3"]);
}
