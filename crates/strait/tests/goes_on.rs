//! What users get when the process that does a gateway's work dies under its parent: the next one goes on in its turn.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]
#![allow(clippy::print_stdout, reason = "figures are for whoever reads them")]

mod common;

use std::thread::sleep;
use std::time::{Duration, Instant};

use common::joined;
use serde_json::Value;
use strait_lab::{Cable, Flow, FlowReport, Lab, Options, Role};

const PATIENCE: Duration = Duration::from_secs(30);
const ENDPOINTS: &str = "/apis/submariner.io/v1/namespaces/submariner-operator/endpoints";
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/submariner-operator/leases/submariner-gateway-lock";
/// After so long a death counts no more.
const FORGOTTEN: Duration = Duration::from_secs(11);

/// What is said of the gateway that carries the traffic of cluster east.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    host: String,
    /// Host, `leaseTransitions`.
    lease: (String, u64),
    /// In east and west: which version of which object it is, what it tells.
    endpoints: [(String, String, Value); 2],
}

fn said(lab: &Lab) -> Option<Said> {
    let lease = lab.api("east", "GET", LEASE, &Value::Null).ok()?;
    let holder = lease["spec"]["holderIdentity"].as_str()?;
    let holder = holder.replace("-submariner-gateway", "");
    let transitions = lease["spec"]["leaseTransitions"].as_u64()?;
    let at = |place: &str| {
        let list = lab.api(place, "GET", ENDPOINTS, &Value::Null).ok()?;
        let all = list["items"].as_array()?;
        let mut own = all.iter().filter(|e| e["spec"]["cluster_id"] == "east");
        let (Some(endpoint), None) = (own.next(), own.next()) else {
            return None;
        };
        let meta = &endpoint["metadata"];
        let version = meta["resourceVersion"].as_str()?.to_owned();
        let told = meta["annotations"].clone();
        let host = endpoint["spec"]["hostname"].as_str()?.to_owned();
        Some((host, (meta["uid"].as_str()?.to_owned(), version, told)))
    };
    let (host, here) = at("east")?;
    let (_, there) = at("west")?;
    let standbys = here.2["strait.io/standbys"].as_str().unwrap_or("");
    (host == holder && !standbys.is_empty()).then_some(Said {
        host,
        lease: (holder, transitions),
        endpoints: [here, there],
    })
}

/// What is said once it has been the same for three seconds.
fn settled(lab: &Lab) -> Said {
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut since) = (None, Instant::now());
    loop {
        let now = said(lab);
        if now != last {
            (last, since) = (now, Instant::now());
        } else if let Some(said) = last.clone().filter(|_| since.elapsed().as_secs() >= 3) {
            return said;
        }
        assert!(Instant::now() < deadline, "{last:?}");
        sleep(Duration::from_millis(50));
    }
}

/// Flows from a pod of west to one of east and to east's service, while something happens; what became of them.
fn through(lab: &Lab, what: &str, event: impl FnOnce()) -> [FlowReport; 2] {
    let flow = |to: &str| {
        let flow = Flow::new("west-3-a", to);
        lab.flow(&flow).expect("it starts")
    };
    let flows = [flow("east-3-a"), flow("web.east")];
    sleep(Duration::from_millis(1500));
    event();
    sleep(Duration::from_secs(4));
    flows.map(|flow| {
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
        assert_eq!((report.tcp.connected, report.tcp.silent), (4, 0), "{what}");
        report
    })
}

fn nothing_breaks(lab: &Lab, what: &str, event: impl FnOnce()) {
    for report in through(lab, what, event) {
        assert_eq!(report.tcp.broken, Vec::<String>::new(), "{what}");
        let gap = report.udp.longest_gap_ms - report.udp.sender_late_ms;
        assert!(gap < 300.0, "{what}: {report:?}");
    }
}

#[test]
fn a_gateway_whose_child_is_killed_goes_on_in_its_turn_until_that_dies_too_often() {
    let lab = joined(
        "goes-on",
        Options {
            gateways: 2,
            cable: Cable::Wireguard,
            environment: vec![("STRAIT_WIREGUARD".to_owned(), "process".to_owned())],
            ..Options::default()
        },
    );
    let before = settled(&lab);
    let crash = || drop(lab.crash(&before.host, Role::Gateway).expect("it dies"));
    nothing_breaks(&lab, "child killed", crash);
    assert_eq!(settled(&lab), before);
    nothing_breaks(&lab, "child killed again", crash);
    assert_eq!(settled(&lab), before);

    // What it needs for that it asks no API server.
    sleep(FORGOTTEN);
    nothing_breaks(&lab, "child killed, API server that hangs", || {
        lab.stop("control-east", None).expect("it stands still");
        crash();
    });
    lab.heal("control-east", None).expect("it goes on");
    lab.wait_until_joined(PATIENCE).expect("all is well");
    assert_eq!(settled(&lab), before);

    // One that dies again and again is replaced.
    sleep(FORGOTTEN);
    for _ in 0..3 {
        crash();
        sleep(Duration::from_secs(2));
    }
    let after = settled(&lab);
    assert_ne!(after.host, before.host);
    assert_eq!(after.lease.1, before.lease.1 + 1);
    lab.wait_until_joined(PATIENCE).expect("all is well");
}
