//! What users get when somebody else takes our objects away: they come back, and what can't be kept is named.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{agent, joined};
use strait_lab::{Families, Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(20);

/// What of ours a node has, as foreign tools show it; counters and ages left out.
fn state(lab: &Lab, node: &str) -> String {
    let show = |command: &[&str]| lab.exec(node, command).expect("it runs");
    let table = show(&["nft", "-s", "list", "table", "inet", "strait-route-agent"]);
    // What somebody has set forwarding to is what was there before ours.
    let table = table.lines().filter(|line| !line.contains("\"all\" : 0x"));
    let table = table.collect::<Vec<_>>().join("\n");
    let ours = |text: String, mark: &str| {
        let mut lines: Vec<String> = text
            .lines()
            .filter(|l| l.contains(mark))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines.join("\n")
    };
    // Of others it shows ours as their far ends, which are in other namespaces, by the number.
    let begun = |text: &str, mark: &str| {
        let lines = text.lines().filter(|line| line.starts_with(mark));
        lines.collect::<Vec<_>>().join("\n")
    };
    [
        table,
        ours(show(&["ip", "route", "show", "table", "all"]), "proto 83"),
        ours(
            show(&["ip", "-6", "route", "show", "table", "all"]),
            "proto 83",
        ),
        ours(show(&["ip", "rule"]), "proto 83"),
        ours(show(&["ip", "-6", "rule"]), "proto 83"),
        begun(&show(&["ip", "-4", "-br", "address"]), "vx-submariner"),
        begun(
            &show(&["ip", "-6", "-br", "address", "show", "scope", "global"]),
            "vx-submariner",
        ),
        ours(show(&["bridge", "fdb"]), " dst "),
        ours(
            show(&["ip", "neigh", "show", "nud", "permanent"]),
            "vx-submariner",
        ),
        show(&[
            "sysctl",
            "-a",
            "-r",
            r"ipv4.conf.vx-submariner\.(forwarding|send_redirects)|ipv6.conf.all.forwarding",
        ]),
    ]
    .join("\n--\n")
}

/// What a node's agent made good, by kind of object.
fn repairs(lab: &Lab, node: &str) -> BTreeMap<String, u64> {
    let text = lab
        .page(node, Role::RouteAgent, "/metrics")
        .expect("a page");
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("strait_drift_repairs_total{object=\"")?;
            let (object, count) = rest.split_once("\"} ")?;
            Some((object.to_owned(), count.parse().ok()?))
        })
        .collect()
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
    let worker = [
        "ip route replace unreachable 10.102.0.0/16 metric 4294967295 proto 83 table 77",
        "ip route delete 10.102.0.0/16 metric 0",
        "ip route replace 10.102.0.0/16 dev cni0",
    ];
    let gateway = [
        "ip rule delete priority 100",
        "ip route replace 10.102.0.0/16 dev cni0 metric 10 table 100",
    ];
    take_away_on_both(&lab, &V4, &worker, &gateway);
}

#[test]
fn what_somebody_takes_away_of_ipv6_comes_back_without_a_restart() {
    let lab = joined(
        "drift-6",
        Options {
            nodes: 2,
            families: Families::V6,
            ..Options::default()
        },
    );
    let worker = [
        "ip route replace unreachable fd10:102::/48 metric 4294967295 proto 83 table 77",
        "ip route delete fd10:102::/48 metric 1024",
        "ip route delete unreachable fd10:102::/48 metric 4294967295",
        "ip -6 route replace fd10:102::/48 dev cni0 metric 1024",
    ];
    let gateway = [
        "ip -6 rule delete priority 100",
        "ip -6 route replace fd10:102::/48 dev cni0 metric 10 table 100",
    ];
    take_away_on_both(&lab, &V6, &worker, &gateway);
}

const V4: [&str; 15] = [
    "ip link delete vx-submariner",
    "ip link set vx-submariner down",
    "ip link set vx-submariner mtu 1300",
    "ip link set vx-submariner address 02:00:00:00:00:99",
    "ip address flush dev vx-submariner",
    "ip address add 240.9.9.9/8 dev vx-submariner",
    "ip neigh flush dev vx-submariner nud permanent",
    "bridge fdb show dev vx-submariner | grep -m1 ' dst ' | { read mac _ ip _; bridge fdb del $mac dev vx-submariner dst $ip; }",
    "nft flush ruleset",
    "nft delete table inet strait-route-agent",
    "nft flush chain inet strait-route-agent source",
    "nft add rule inet strait-route-agent source drop",
    "nft add element inet strait-route-agent remote4 { 10.9.0.0/16 }",
    "ip route flush proto 83 table all",
    "sysctl -w net.ipv4.conf.vx-submariner.forwarding=0",
];

const V6: [&str; 13] = [
    "ip link delete vx-submariner-6",
    "ip link set vx-submariner-6 down",
    "ip link set vx-submariner-6 mtu 1300",
    "ip link set vx-submariner-6 address 02:00:00:00:00:99",
    "ip -6 address flush dev vx-submariner-6 scope global",
    "ip address add fd00:100:100::9:9/96 dev vx-submariner-6",
    "ip -6 neigh flush dev vx-submariner-6 nud permanent",
    "bridge fdb show dev vx-submariner-6 | grep -m1 ' dst ' | { read mac _ ip _; bridge fdb del $mac dev vx-submariner-6 dst $ip; }",
    "nft flush ruleset",
    "nft add rule inet strait-route-agent source drop",
    "nft add element inet strait-route-agent remote6 { fd10:9::/48 }",
    "ip -6 route flush proto 83 table all",
    "sysctl -w net.ipv6.conf.all.forwarding=0",
];

/// On a worker and on a gateway.
fn take_away_on_both(lab: &Lab, damages: &[&str], of_worker: &[&str], of_gateway: &[&str]) {
    // While a lab starts, its CNI may undo something of an agent that was first.
    let nodes = ["east-1", "east-2"];
    let before = nodes.map(|node| repairs(lab, node));
    std::thread::scope(|threads| {
        threads.spawn(|| take_away(lab, "east-2", &[damages, of_worker].concat()));
        threads.spawn(|| take_away(lab, "east-1", &[damages, of_gateway].concat()));
    });
    for (node, before) in nodes.into_iter().zip(before) {
        let repairs = repairs(lab, node);
        for object in ["link", "address", "neighbour", "fdb", "nft", "route"] {
            assert!(
                repairs.get(object) > before.get(object),
                "{node}: no {object} in {repairs:?}, which were {before:?}"
            );
        }
    }
    let seen = lab.probe_until(&Probe::tcp("east-2-a", "west-2-a"), PATIENCE, |_| true);
    assert!(seen.is_ok(), "{seen:?}");
}

/// The state once the other node's Ethernet address is known: until then there is a flooding entry, and things work too.
fn settled(lab: &Lab, node: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let entries = lab.exec(node, &["ip", "neigh", "show", "nud", "permanent"]);
        if entries.is_ok_and(|entries| entries.contains("dev vx-submariner")) {
            return state(lab, node);
        }
        assert!(
            Instant::now() < deadline,
            "{node} does not hear of the other"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Damages a node in every way, one after the other, and waits each time until it is as it was.
fn take_away(lab: &Lab, node: &str, damages: &[&str]) {
    let (before, pid) = (settled(lab, node), agent(lab, node));
    for damage in damages {
        lab.exec(node, &["sh", "-c", damage]).expect(damage);
        wait_for(lab, node, &before, damage);
        // What somebody takes away five times in ten seconds is contended, and that is another test.
        std::thread::sleep(Duration::from_millis(2500));
    }
    assert_eq!(agent(lab, node), pid, "no restart");
}

#[test]
fn what_the_kernel_tells_nothing_of_comes_back_with_the_next_pass_over_everything() {
    let lab = joined(
        "untold",
        Options {
            nodes: 2,
            // A minute, unless set.
            environment: vec![("STRAIT_VERIFY_INTERVAL".to_owned(), "2".to_owned())],
            ..Options::default()
        },
    );
    let path = "net.ipv4.conf.vx-submariner.send_redirects";
    let set = format!("{path}=1");
    for node in ["east-1", "east-2"] {
        let value = || lab.exec(node, &["sysctl", "-n", path]).expect("sysctl");
        assert_eq!(value().trim(), "0", "{node}");
        lab.exec(node, &["sysctl", "-qw", &set]).expect("sysctl");
        let begun = Instant::now();
        while value().trim() != "0" {
            assert!(begun.elapsed() < PATIENCE, "{node}: {}", value());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_route_that_was_there_before_ours_stays_and_is_named() {
    let lab = joined(
        "before",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        lab.exec("east-2", &words).expect("it runs")
    };
    lab.kill("east-2", Role::RouteAgent).expect("it ends");
    run("ip route replace 10.102.0.0/16 dev cni0");
    lab.restart("east-2", Role::RouteAgent).expect("it starts");
    let deadline = Instant::now() + PATIENCE;
    let readyz = || {
        let page = lab.page("east-2", Role::RouteAgent, "/readyz");
        page.unwrap_or_default()
    };
    while !readyz().contains("a foreign route (protocol 3) to 10.102.0.0/16") {
        assert!(Instant::now() < deadline, "never named: {}", readyz());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(run("ip route show 10.102.0.0/16").contains("dev cni0"));
    // When it goes, ours comes.
    run("ip route delete 10.102.0.0/16 dev cni0");
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("all is well");
    assert!(run("ip route show 10.102.0.0/16").contains("dev vx-submariner"));
}

#[test]
fn a_reverse_path_filter_that_somebody_makes_strict_is_loose_again_at_once() {
    let lab = joined(
        "filter",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    // Replies arrive there.
    let path = "net.ipv4.conf.eth0.rp_filter";
    let value = || lab.exec("east-2", &["sysctl", "-n", path]).expect("sysctl");
    let until_loose = |longest: Duration| {
        let begun = Instant::now();
        while value().trim() != "2" {
            assert!(begun.elapsed() < longest, "{}", value());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until_loose(PATIENCE);
    for _ in 0..3 {
        // As `sysctl --system` does. What counts is the larger of the two.
        for (path, value) in [("net.ipv4.conf.all.rp_filter", "1"), (path, "1")] {
            let set = format!("{path}={value}");
            lab.exec("east-2", &["sysctl", "-qw", &set])
                .expect("sysctl");
        }
        // The pass that looks at everything would come within a minute.
        until_loose(Duration::from_secs(2));
        // What somebody changes five times in ten seconds is contended.
        std::thread::sleep(Duration::from_millis(2500));
    }
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
    // It is about one remote subnet: the node serves all others.
    assert!(readyz().starts_with("ok\n"), "{}", readyz());
    // The same where else users look.
    let metrics = lab
        .page("east-2", Role::RouteAgent, "/metrics")
        .expect("a page");
    assert!(
        metrics.contains("strait_condition{condition=\"Contended\"} 1\n"),
        "{metrics}"
    );
    let object = "/apis/submariner.io/v1/namespaces/submariner-operator/routeagents/east-2";
    let told = || {
        let object = lab.api("east", "GET", object, &serde_json::Value::Null);
        object.expect("the object")["status"].to_string()
    };
    while !told().contains("\"type\":\"Contended\"") {
        assert!(Instant::now() < deadline, "{}", told());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The rival has stopped: within 30 s it is tried again, and stays.
    lab.wait_until_ready(Duration::from_secs(60), true)
        .expect("it recovers");
    let routes = lab
        .exec("east-2", &["ip", "route", "show", "10.102.0.0/16"])
        .expect("ip");
    assert!(routes.contains("dev vx-submariner"), "{routes}");
}
