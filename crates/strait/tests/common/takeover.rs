//! Takeovers in cluster east, whose gateways are `east-1` and `east-2`: who is active, and what a flow loses meanwhile.

#![allow(clippy::print_stdout, reason = "figures are for whoever reads them")]

use std::time::{Duration, Instant};

use serde_json::Value;
use strait_lab::{Flow, FlowReport, Lab, Probe, Role};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const SUBMARINER: &str = "/apis/submariner.io/v1/namespaces/submariner-operator";
pub(crate) const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/submariner-operator/leases/submariner-gateway-lock";
pub(crate) const FIRST: &str = "east-1";
pub(crate) const SECOND: &str = "east-2";
/// A worker's pod, and one of the other cluster.
pub(crate) const FROM: &str = "east-3-a";
pub(crate) const TO: &str = "west-3-a";

pub(crate) fn list(lab: &Lab, place: &str, path: &str) -> Vec<Value> {
    // One that has just been started again does not answer yet.
    let list = lab.api(place, "GET", path, &Value::Null);
    let list = list.unwrap_or_default();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Host names of the gateways whose Endpoints of cluster east stand in a cluster.
pub(crate) fn published(lab: &Lab, place: &str) -> Vec<String> {
    let all = list(lab, place, &format!("{SUBMARINER}/endpoints"));
    let of_east = all.iter().filter(|e| e["spec"]["cluster_id"] == "east");
    let names = of_east.map(|e| e["spec"]["hostname"].as_str().unwrap_or("").to_owned());
    names.collect()
}

/// Gateways of east that say that they are active, of those that run.
pub(crate) fn active(lab: &Lab, running: &[&str]) -> Vec<String> {
    let all = list(lab, "east", &format!("{SUBMARINER}/gateways"));
    let active = all.iter().filter(|g| g["status"]["haStatus"] == "active");
    let names = active.filter_map(|g| g["metadata"]["name"].as_str());
    let names = names.filter(|name| running.contains(name));
    names.map(str::to_owned).collect()
}

pub(crate) fn holder(lab: &Lab) -> String {
    let lease = lab.api("east", "GET", LEASE, &Value::Null);
    let lease = lease.unwrap_or_default();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or("");
    holder.replace("-submariner-gateway", "")
}

/// The way of a worker to the other cluster, as its kernel has it: the address of the gateway inside the nodes' VXLAN.
pub(crate) fn way_of_worker(lab: &Lab) -> String {
    let shown = lab
        .exec("east-3", &["ip", "-j", "route", "get", "10.102.3.11"])
        .expect("ip");
    let routes: Value = serde_json::from_str(&shown).expect("JSON");
    routes[0]["gateway"].as_str().unwrap_or("").to_owned()
}

/// Waits until one of these is active, by all that tells of it; which.
pub(crate) fn one_is_active(lab: &Lab, running: &[&str]) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = [
            published(lab, "east"),
            published(lab, "west"),
            active(lab, running),
            vec![holder(lab)],
        ];
        let [first, ..] = &said;
        if let [name] = &first[..]
            && running.contains(&name.as_str())
            && said.iter().all(|names| names == first)
        {
            let number = name.trim_start_matches("east-");
            if way_of_worker(lab) == format!("240.30.1.1{number}") {
                return name.clone();
            }
        }
        assert!(Instant::now() < deadline, "{said:?} {}", way_of_worker(lab));
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn other(of: &str) -> &'static str {
    if of == FIRST { SECOND } else { FIRST }
}

/// A flow from a worker's pod to one of the other cluster, while something is done to the active gateway; what became of it.
pub(crate) fn through(lab: &Lab, what: &str, seconds: u64, event: impl FnOnce()) -> FlowReport {
    through_flow(lab, &Flow::new(FROM, TO), what, seconds, event)
}

/// What became of this flow.
pub(crate) fn through_flow(
    lab: &Lab,
    flow: &Flow,
    what: &str,
    seconds: u64,
    event: impl FnOnce(),
) -> FlowReport {
    let connections = flow.connections;
    let flow = lab.flow(flow).expect("it starts");
    std::thread::sleep(Duration::from_millis(1500));
    event();
    std::thread::sleep(Duration::from_secs(seconds));
    let report = flow.end().expect("it ends");
    println!(
        "{what}: longest gap {:.1} ms (the sender itself was late by {:.1} ms), {} of {} datagrams lost, {} of {} connections broken",
        report.udp.longest_gap_ms,
        report.udp.sender_late_ms,
        report.udp.lost,
        report.udp.sent,
        report.tcp.broken.len(),
        report.tcp.connected,
    );
    assert_eq!(
        (report.tcp.connected, report.tcp.silent),
        (connections, 0),
        "{what}"
    );
    assert_eq!(report.tcp.broken, Vec::<String>::new(), "{what}");
    report
}

/// Pods of all nodes reach the other cluster's, and are reached.
pub(crate) fn all_is_well(lab: &Lab, of: &[&str]) {
    for node in of {
        for (from, to) in [
            (format!("{node}-a"), "west-3-a".to_owned()),
            ("west-3-a".to_owned(), format!("{node}-a")),
            ((*node).to_owned(), "west-3-a".to_owned()),
        ] {
            let probe = Probe::tcp(&from, &to);
            lab.probe_until(&probe, PATIENCE, |_| true)
                .expect("it is reached");
        }
    }
}

/// What a gap may last at most, in milliseconds; what the sender was late itself does not count.
pub(crate) fn gap_within(report: &FlowReport, limit: f64) {
    let gap = report.udp.longest_gap_ms - report.udp.sender_late_ms;
    assert!(gap < limit, "{report:?}");
}

/// Sends a signal to a node's gateway: it is asked to end, as Kubernetes does.
pub(crate) fn terminate(lab: &Lab, node: &str) {
    let status = lab.status().expect("the lab answers");
    let of = |p: &&strait_lab::ProcessStatus| p.role == Role::Gateway && p.place == node;
    let gateway = status.processes.iter().find(of).expect("a gateway");
    let pid = gateway.pid.to_string();
    lab.exec(node, &["kill", "-TERM", &pid]).expect("kill");
}

/// Waits until the other cluster has been told of the standby, and the standby's node serves the others by its WireGuard cable.
pub(crate) fn standby_is_known(lab: &Lab, active: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rules = lab.exec(other(active), &["ip", "rule", "show"]);
        let served = rules.expect("ip").contains("iif vx-submariner lookup 150");
        let all = list(lab, "west", &format!("{SUBMARINER}/endpoints"));
        let mut told = all.iter().map(|e| &e["metadata"]["annotations"]);
        let standby = format!("\"hostname\":\"{}\"", other(active));
        let known = |a: &Value| a["strait.io/standbys"].as_str().map(str::to_owned);
        if served && told.any(|a| known(a).is_some_and(|text| text.contains(&standby))) {
            return;
        }
        assert!(Instant::now() < deadline, "{all:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
