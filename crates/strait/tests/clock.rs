//! What users get when the wall clock of a gateway's node is stepped: nothing of it is noticed.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]
#![allow(clippy::print_stdout, reason = "figures are for whoever reads them")]

mod common;

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{binary, joined, name};
use serde_json::Value;
use strait_lab::{Cable, Fault, Flow, Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: i64 = 3600;
/// Longer than a Lease holds (15 s).
const PAST_LEASE: Duration = Duration::from_secs(18);
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/submariner-operator/leases/submariner-gateway-lock";

fn options() -> Options {
    Options {
        cable: Cable::Wireguard,
        clocks: true,
        ..Options::default()
    }
}

/// By how many seconds a time is before this machine's, as `date` reads it.
fn ahead(lab: &Lab, node: &str, time: &str) -> i64 {
    let command = ["date", "--date", time, "+%s"];
    let said = lab.exec(node, &command).expect("date runs");
    let own = Command::new("date").arg("+%s").output().expect("date runs");
    let own = String::from_utf8(own.stdout).expect("text");
    let number = |text: &str| text.trim().parse::<i64>().expect("seconds");
    number(&said) - number(&own)
}

fn near(ahead: i64, wanted: i64) {
    assert!((ahead - wanted).abs() <= 5, "{ahead} s, not {wanted}");
}

fn lease(lab: &Lab) -> Value {
    let lease = lab.api("east", "GET", LEASE, &Value::Null);
    lease.expect("a Lease")["spec"].clone()
}

#[test]
fn a_gateways_clock_is_an_hour_off_and_no_datagram_nor_the_lease_is_lost() {
    let options = Options {
        gateways: 2,
        ..options()
    };
    let lab = joined("clock", options);
    let before = lease(&lab);
    let holder = before["holderIdentity"].as_str().expect("a holder");
    let node = &holder.replace("-submariner-gateway", "");
    // Who holds it is known by then, and both stand.
    sleep(Duration::from_secs(2));
    for step in [HOUR, -HOUR] {
        let flow = lab
            .flow(&Flow::new("east-3-a", "west-3-a"))
            .expect("it starts");
        sleep(Duration::from_millis(1500));
        let impaired = lab.clock(node, step).expect("it is stepped");
        assert_eq!(impaired[0].fault, Fault::Clock { ahead_s: step });
        near(ahead(&lab, node, "now"), step);
        near(ahead(&lab, "east-3", "now"), 0);
        sleep(PAST_LEASE);
        let report = flow.end().expect("it ends");
        println!("{step} s: {report:?}");
        assert_eq!(report.udp.lost, 0, "{report:?}");
        assert_eq!((report.tcp.connected, report.tcp.silent), (4, 0));
        assert_eq!(report.tcp.broken, Vec::<String>::new());
        // The gateway's own clock is off: it renews the Lease with it, and keeps it.
        let now = lease(&lab);
        let renewed = now["renewTime"].as_str().expect("a time");
        near(ahead(&lab, "east-3", renewed), step);
        for field in ["holderIdentity", "leaseTransitions", "acquireTime"] {
            assert_eq!(now[field], before[field], "{field}");
        }
        // Who starts now sees the certificates of API servers and the broker for the first time.
        lab.restart(node, Role::RouteAgent).expect("it starts");
        lab.wait_until_joined(PATIENCE).expect("all is well");
    }
    // The one that starts as the gateway, too; the other takes over.
    lab.restart(node, Role::Gateway).expect("it starts");
    lab.wait_until_joined(PATIENCE).expect("all is well");
    let impaired = lab.heal(node, None).expect("it goes right");
    assert!(impaired.is_empty(), "{impaired:?}");
    near(ahead(&lab, node, "now"), 0);
    lab.wait_until_joined(PATIENCE).expect("all is well");
}

/// A gateway that was locked out would be asked by the other one, which takes 15 s to find its session dead.
const LOCKED_OUT: Duration = Duration::from_secs(10);

#[test]
fn a_gateway_that_starts_anew_with_its_clock_stepped_back_is_not_locked_out() {
    let lab = joined("clockback", options());
    for step in [HOUR, -HOUR] {
        lab.clock("east-1", step).expect("it is stepped");
        // With its parent: what it knows is what it has written.
        lab.kill("east-1", Role::Gateway).expect("it ends");
        lab.heal("east-1", Some(Role::Gateway)).expect("it starts");
        let begun = Instant::now();
        let probe = Probe {
            timeout_ms: 500,
            ..Probe::tcp("east-2-a", "west-2-a")
        };
        let seen = lab.probe_until(&probe, PATIENCE, |_| true);
        println!("{step} s: reached after {:?}", begun.elapsed());
        seen.expect("it is reached");
        assert!(begun.elapsed() < LOCKED_OUT, "{:?}", begun.elapsed());
        lab.wait_until_joined(PATIENCE).expect("all is well");
    }
}

#[test]
fn a_lab_without_clocks_says_how_to_get_them() {
    let options = Options {
        name: name("noclock"),
        nodes: 1,
        agents: false,
        ..Options::default()
    };
    let lab = Lab::up(&options, binary(), |_| ()).expect("the lab starts");
    let strait = |arguments: &[&str]| {
        let output = Command::new(binary())
            .args(["lab", "clock"])
            .args(arguments)
            .env("STRAIT_LAB", lab.name())
            .output()
            .expect("strait runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = strait(&["east-1", "-1h"]);
    assert!(said.contains("strait lab up --clocks"), "{said}");
    let said = strait(&["nowhere", "+1h"]);
    assert!(said.contains("'nowhere'"), "{said}");
    let said = strait(&["east-1", "soon"]);
    assert!(said.contains("expected such as +1h"), "{said}");
}
