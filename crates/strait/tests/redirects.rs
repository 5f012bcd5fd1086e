//! What users get while a gateway moves: a node that sends back into the tunnel what came out of it tells nobody to send elsewhere.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::joined;
use serde_json::Value;
use strait_lab::{Family, Lab, Options, Role};

const PATIENCE: Duration = Duration::from_secs(60);
const LINK: &str = "vx-submariner";
/// It sends to the node that it still takes for the gateway.
const SENDER: &str = "east-3";
/// It is none any more, and forwards to the one that is, by the link on which packets came.
const BETWEEN: &str = "east-2";

fn on(lab: &Lab, node: &str, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    lab.exec(node, &words).expect("it runs")
}

/// The first IPv4 address of a node's link.
fn address(lab: &Lab, node: &str, link: &str) -> String {
    let shown = on(lab, node, &format!("ip -j -4 addr show dev {link}"));
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let local = &shown[0]["addr_info"][0]["local"];
    local.as_str().expect("an address").to_owned()
}

/// Packets that the agent's rule has dropped, as nft counts them.
fn dropped(lab: &Lab) -> u64 {
    let shown = lab.exec(
        BETWEEN,
        &["nft", "-j", "list", "table", "inet", "strait-route-agent"],
    );
    let shown: Value = serde_json::from_str(&shown.expect("nft")).expect("JSON");
    let objects = shown["nftables"].as_array().expect("a list").iter();
    let counters = objects
        .map(|object| &object["rule"])
        .filter(|rule| rule["comment"] == "nobody is redirected inside a tunnel")
        .flat_map(|rule| rule["expr"].as_array().expect("a list"))
        .filter_map(|one| one["counter"]["packets"].as_u64());
    counters.sum()
}

/// Redirects and echo requests that a capture on the sender's link sees while it pings.
fn ping(lab: &Lab, target: &str) -> (usize, usize) {
    let filter = "icmp[icmptype] == icmp-redirect or icmp[icmptype] == icmp-echo";
    let mut capture = lab
        // It ends by itself, well after the last ping.
        .command(
            SENDER,
            ["timeout", "6", "tcpdump", "-l", "-n", "-i", LINK, filter],
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs tcpdump");
    let mut said = BufReader::new(capture.stderr.take().expect("a pipe")).lines();
    assert!(said.any(|line| line.is_ok_and(|line| line.contains("listening on"))));
    let pings = ["ping", "-c", "5", "-i", "0.3", "-W", "1", target];
    let _ = lab.command(SENDER, pings).output().expect("ping");
    let lines = BufReader::new(capture.stdout.take().expect("a pipe")).lines();
    let lines: Vec<String> = lines.map_while(Result::ok).collect();
    capture.wait().expect("it ends");
    let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    (count("redirect"), count("echo request"))
}

/// The Ethernet address of a node's link in the tunnel.
fn mac(lab: &Lab, node: &str) -> String {
    let shown = on(lab, node, &format!("ip -j link show dev {LINK}"));
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    shown[0]["address"].as_str().expect("an address").to_owned()
}

/// Lets a node reach another one in the tunnel, as it does on a gateway.
fn introduce(lab: &Lab, to: &str, node: &str) {
    let (inner, mac) = (address(lab, node, LINK), mac(lab, node));
    let outer = lab.topology().node(node).expect("a node").1.ip(Family::V4);
    on(
        lab,
        to,
        &format!("ip neigh replace {inner} lladdr {mac} dev {LINK}"),
    );
    on(
        lab,
        to,
        &format!("bridge fdb append {mac} dev {LINK} dst {outer}"),
    );
}

#[test]
fn a_node_that_sends_back_into_the_tunnel_redirects_nobody() {
    let options = Options {
        nodes: 3,
        ..Options::default()
    };
    let lab = joined("redirects", options);
    let target = lab.topology().node("west-2").expect("a node").1.pods[0].ip(Family::V4);
    let target = target.to_string();
    let way = on(&lab, SENDER, &format!("ip -j route get {target}"));
    assert!(way.contains(LINK), "{way}");

    // As a kernel has it that nobody has told otherwise; the link's own is off.
    on(
        &lab,
        BETWEEN,
        "sysctl -w net.ipv4.conf.all.send_redirects=1",
    );
    let own = format!("sysctl -n net.ipv4.conf.{LINK}.send_redirects");
    assert_eq!(on(&lab, BETWEEN, &own).trim(), "0");
    // An agent removes entries that it does not want; what it has put there stays when it ends.
    lab.kill(BETWEEN, Role::RouteAgent).expect("it ends");
    // A redirect about a packet whose source is translated is lost in the translation.
    on(
        &lab,
        BETWEEN,
        "nft flush chain inet strait-route-agent source",
    );
    lab.kill(SENDER, Role::RouteAgent).expect("it ends");
    introduce(&lab, BETWEEN, SENDER);
    introduce(&lab, SENDER, BETWEEN);
    // The sender is one that is late: it takes another node for the gateway, and sends from its address in the tunnel.
    on(&lab, SENDER, "nft delete table inet strait-route-agent");
    let inner = address(&lab, BETWEEN, LINK);
    on(
        &lab,
        SENDER,
        &format!("ip route replace {target}/32 via {inner} dev {LINK}"),
    );

    let (redirects, sent) = ping(&lab, &target);
    assert_eq!((redirects, sent), (0, 5));
    assert!(dropped(&lab) > 0, "the kernel had nothing to say");

    // Without the rule it is heard. The kernel speaks to one peer ever more seldom, and pauses for 20 s at most.
    on(
        &lab,
        BETWEEN,
        "nft flush chain inet strait-route-agent output",
    );
    let begun = Instant::now();
    while ping(&lab, &target).0 == 0 {
        assert!(begun.elapsed() < PATIENCE, "the capture sees no redirect");
    }
}
