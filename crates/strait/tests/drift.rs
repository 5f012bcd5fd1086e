//! What users get when somebody else takes our objects away: they come back, and what can't be kept is named.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::{Duration, Instant};

use common::{agent, joined};
use strait_lab::{Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(20);

/// What of ours a node has, as foreign tools show it; counters and ages left out.
fn state(lab: &Lab, node: &str) -> String {
    let show = |command: &[&str]| lab.exec(node, command).expect("it runs");
    let table = show(&["nft", "-s", "list", "table", "inet", "strait-route-agent"]);
    let ours = |text: String, mark: &str| {
        let mut lines: Vec<String> = text
            .lines()
            .filter(|l| l.contains(mark))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines.join("\n")
    };
    [
        table,
        ours(show(&["ip", "route", "show", "table", "all"]), "proto 83"),
        ours(show(&["ip", "rule"]), "proto 83"),
        ours(show(&["ip", "-4", "-br", "address"]), "vx-submariner"),
        ours(show(&["bridge", "fdb"]), "vx-submariner dst"),
        ours(
            show(&["ip", "neigh", "show", "nud", "permanent"]),
            "vx-submariner",
        ),
        show(&[
            "sysctl",
            "-n",
            "net.ipv4.conf.vx-submariner.forwarding",
            "net.ipv4.conf.vx-submariner.send_redirects",
        ]),
    ]
    .join("\n--\n")
}

fn wait_for(lab: &Lab, node: &str, wanted: &str, after: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // While an object is away its reading may fail: that is no answer either.
        let now = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| state(lab, node)))
            .unwrap_or_default();
        if now == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "after {after}:\n{now}\nbut it was:\n{wanted}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_somebody_takes_away_comes_back_without_a_restart() {
    let lab = joined(
        "drift",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    std::thread::scope(|threads| {
        threads.spawn(|| take_away(&lab, "east-2", false));
        threads.spawn(|| take_away(&lab, "east-1", true));
    });
    let seen = lab.probe_until(&Probe::tcp("east-2-a", "west-2-a"), PATIENCE, |_| true);
    assert!(seen.is_ok(), "{seen:?}");
}

/// Damages a node in every way, one after the other, and waits each time until it is as it was.
fn take_away(lab: &Lab, node: &str, gateway: bool) {
    let (before, pid) = (state(lab, node), agent(lab, node));
    let mut damages = vec![
        "ip link delete vx-submariner",
        "ip link set vx-submariner down",
        "ip link set vx-submariner mtu 1300",
        "ip link set vx-submariner address 02:00:00:00:00:99",
        "ip address flush dev vx-submariner",
        "ip address add 240.9.9.9/8 dev vx-submariner",
        "ip neigh flush dev vx-submariner nud permanent",
        "nft flush ruleset",
        "nft delete table inet strait-route-agent",
        "nft flush chain inet strait-route-agent source",
        "nft add rule inet strait-route-agent source drop",
        "nft add element inet strait-route-agent remote4 { 10.9.0.0/16 }",
        "ip route flush proto 83 table all",
    ];
    if gateway {
        damages.push("ip rule delete priority 100");
    } else {
        damages
            .push("ip route replace unreachable 10.102.0.0/16 metric 4294967295 proto 83 table 77");
        damages.push("ip route delete 10.102.0.0/16 metric 0");
    }
    for damage in damages {
        let words: Vec<&str> = damage.split(' ').collect();
        lab.exec(node, &words).expect(damage);
        wait_for(lab, node, &before, damage);
        // What somebody takes away five times in ten seconds is contended, and that is another test.
        std::thread::sleep(Duration::from_millis(2500));
    }
    assert_eq!(agent(lab, node), pid, "no restart");
}

#[test]
fn an_object_that_somebody_takes_away_again_and_again_is_named_and_tried_again_later() {
    let lab = joined(
        "contended",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    let route = [
        "ip",
        "route",
        "delete",
        "10.102.0.0/16",
        "metric",
        "0",
        "proto",
        "83",
    ];
    let readyz = || {
        lab.page("east-2", Role::RouteAgent, "/readyz")
            .unwrap_or_default()
    };
    let deadline = Instant::now() + PATIENCE;
    while !readyz().contains("Contended") {
        let _ = lab.exec("east-2", &route);
        assert!(Instant::now() < deadline, "never named: {}", readyz());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(readyz().contains("route 10.102.0.0/16"), "{}", readyz());
    // The rival has stopped: within 30 s it is tried again, and stays.
    lab.wait_until_ready(Duration::from_secs(60), true)
        .expect("it recovers");
    let routes = lab
        .exec("east-2", &["ip", "route", "show", "10.102.0.0/16"])
        .expect("ip");
    assert!(routes.contains("dev vx-submariner"), "{routes}");
}
