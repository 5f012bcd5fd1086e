//! NAT discovery with gateways that are not ours: a peer in another language, of both dialects, and whoever sends what must not hurt.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::joined;
use serde_json::{Value, json};
use strait_lab::{Families, Lab, Options, Role};

const PATIENCE: Duration = Duration::from_secs(30);
const BROKER: &str = "/apis/submariner.io/v1/namespaces/submariner-k8s-broker/endpoints";
const GATEWAY: &str = "/apis/submariner.io/v1/namespaces/submariner-operator/gateways/east-1";
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/natt_peer.py");
/// East's gateway and its cable.
const EAST: &str = "172.30.1.11";
const CABLE: &str = "submariner-cable-east-172-30-1-11";

fn small() -> Options {
    Options {
        nodes: 1,
        ..Options::default()
    }
}

/// Ends the process when the test does.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a gateway elsewhere publishes.
fn endpoint(cluster: &str, private: &str, public: &str, subnet: &str) -> Value {
    json!({
        "apiVersion": "submariner.io/v1",
        "kind": "Endpoint",
        "metadata": {"name": format!("{cluster}-cable"), "labels": {"submariner-io/clusterID": cluster}},
        "spec": {
            "cluster_id": cluster, "cable_name": format!("submariner-cable-{cluster}"), "hostname": "gw",
            "subnets": [subnet], "private_ip": private, "public_ip": public, "nat_enabled": true,
            "backend": "vxlan", "backend_config": {"udp-port": "4500", "natt-discovery-port": "4490"},
        },
    })
}

fn publish(lab: &Lab, endpoint: &Value) {
    lab.api("broker", "POST", BROKER, endpoint)
        .expect("the broker takes it");
}

/// Runs commands on the Internet, one a line.
fn internet(lab: &Lab, script: &str) {
    let lines = script.lines().map(str::trim).filter(|l| !l.is_empty());
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        lab.exec("internet", &words).expect(line);
    }
}

/// A peer on the Internet that answers as that release does.
fn serve(
    lab: &Lab,
    dialect: &str,
    cluster: &str,
    private: &str,
) -> (Ended, BufReader<impl std::io::Read>) {
    let cable = format!("submariner-cable-{cluster}");
    let words = ["python3", PEER, "serve", dialect, cluster, &cable, private];
    let mut child = lab
        .command("internet", words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a peer");
    let mut out = BufReader::new(child.stdout.take().expect("its output"));
    let child = Ended(child);
    let mut line = String::new();
    out.read_line(&mut line).expect("its first line");
    assert_eq!(line, "ready\n");
    (child, out)
}

/// East's answer to a peer that asks from the Internet.
fn ask(lab: &Lab, words: &[&str]) -> Value {
    let all = [&["python3", PEER, "ask"][..], words].concat();
    let said = lab.exec("internet", &all).expect("an answer");
    serde_json::from_str(&said).expect("JSON")
}

/// East's connection to a cluster, as soon as it is good.
fn connection(lab: &Lab, cluster: &str, good: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let gateway = lab.api("east", "GET", GATEWAY, &Value::Null).expect("it");
        let all = gateway["status"]["connections"].as_array().cloned();
        let all = all.unwrap_or_default();
        let mut of = all
            .iter()
            .filter(|c| c["endpoint"]["cluster_id"] == cluster);
        if let Some(connection) = of.next().filter(|c| good(c)) {
            return connection.clone();
        }
        assert!(Instant::now() < deadline, "{cluster}: {all:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where east's cable sends to.
fn forwarded(lab: &Lab) -> String {
    let show = ["bridge", "-j", "fdb", "show", "dev", "vxlan-tunnel"];
    lab.exec("east-1", &show).expect("bridge")
}

fn metric(lab: &Lab, name: &str) -> f64 {
    let page = lab
        .page("east-1", Role::Gateway, "/metrics")
        .expect("metrics");
    let value = page.lines().find_map(|line| line.strip_prefix(name));
    value
        .and_then(|v| v.trim().parse().ok())
        .unwrap_or_default()
}

#[test]
fn peers_of_both_dialects_are_found_at_their_private_address_though_they_say_that_there_may_be_a_nat()
 {
    let lab = joined("natt", small());
    internet(
        &lab,
        "ip address add 198.51.100.71/24 dev wan
         ip address add 198.51.100.72/24 dev wan",
    );
    // Counts what leaves with the mark.
    for command in [
        "nft add table inet judge",
        "nft add chain inet judge out { type filter hook output priority 0 ; }",
        "nft add rule inet judge out udp sport 4490 meta mark 0x53 counter",
        "nft add rule inet judge out udp sport 4490 meta mark != 0x53 counter drop",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        lab.exec("east-1", &words).expect(command);
    }
    let mut peers = Vec::new();
    for (dialect, cluster, private, suffix) in [
        ("0.19", "old", "198.51.100.71", ""),
        ("0.21", "new", "198.51.100.72", "-v4"),
    ] {
        let (child, mut out) = serve(&lab, dialect, cluster, private);
        // Nobody has the public address: without discovery, that is where packets would go.
        let subnet = if suffix.is_empty() {
            "10.71.0.0/16"
        } else {
            "10.72.0.0/16"
        };
        publish(&lab, &endpoint(cluster, private, "203.0.113.9", subnet));
        let found = connection(&lab, cluster, |c| c["usingIP"] == private);
        assert_eq!(found["usingNAT"], Value::Null, "{found:#}");
        assert!(forwarded(&lab).contains(private));
        // It was asked in its own dialect, from the address and port that the request names.
        let good = format!("OK submariner-cable-{cluster}{suffix} {EAST} 4490\n");
        let mut line = String::new();
        while line != good {
            line.clear();
            assert!(
                out.read_line(&mut line).expect("a line") > 0,
                "never: {good}"
            );
        }
        peers.push((child, out));
        // And is answered in it.
        let cable = format!("submariner-cable-{cluster}");
        drop(peers.pop());
        let answer = ask(
            &lab,
            &[dialect, cluster, &cable, "east", CABLE, private, EAST],
        );
        assert_eq!(answer["response"], "OK", "{answer:#}");
        assert_eq!(
            answer["sender"],
            json!(["east", format!("{CABLE}{suffix}")])
        );
        assert_eq!(
            answer["receiver"],
            json!([cluster, format!("{cable}{suffix}")])
        );
        assert_eq!(answer["received_src"], json!([private, 4490]));
        assert_eq!(
            (&answer["from"], &answer["port"]),
            (&json!(EAST), &json!(4490))
        );
    }
    let page = lab
        .page("east-1", Role::Gateway, "/metrics")
        .expect("metrics");
    for cluster in ["old", "new", "west"] {
        let path = format!(
            "strait_discovery_path{{cluster=\"{cluster}\",family=\"v4\",state=\"answered\",nat=\"false\"}} 1"
        );
        assert!(page.contains(&path), "{path}: {page}");
    }
    let counters = lab
        .exec("east-1", &["nft", "-j", "list", "table", "inet", "judge"])
        .expect("nft");
    let counters: Value = serde_json::from_str(&counters).expect("JSON");
    let packets: Vec<u64> = counters["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["rule"]["expr"].as_array())
        .filter_map(|expr| expr.iter().find_map(|e| e["counter"]["packets"].as_u64()))
        .collect();
    assert!(packets[0] > 0 && packets[1] == 0, "{packets:?}");
    // What goes to other gateways goes by the main table, whatever the cable's says.
    let rules = lab.exec("east-1", &["ip", "-j", "rule"]).expect("ip");
    let rules: Vec<Value> = serde_json::from_str(&rules).expect("JSON");
    let mark = rules.iter().find(|r| r["priority"] == 99).expect("a rule");
    assert_eq!(
        (&mark["fwmark"], &mark["table"]),
        (&json!("0x53"), &json!("main"))
    );
}

#[test]
fn a_vxlan_cable_is_refused_where_a_nat_is_found_with_that_reason() {
    let lab = joined("natted", small());
    // The peer's private address is nowhere; its public one is rewritten to it.
    internet(
        &lab,
        "ip address add 10.250.0.1/32 dev lo
         ip address add 198.51.100.73/24 dev wan
         nft add table ip nat
         nft add chain ip nat raw { type filter hook prerouting priority -300 ; }
         nft add rule ip nat raw ip daddr 10.250.0.1 drop
         nft add chain ip nat in { type nat hook prerouting priority -100 ; }
         nft add rule ip nat in ip daddr 198.51.100.73 dnat to 10.250.0.1",
    );
    let _peer = serve(&lab, "0.21", "hidden", "10.250.0.1");
    publish(
        &lab,
        &endpoint("hidden", "10.250.0.1", "198.51.100.73", "10.73.0.0/16"),
    );
    let refused = connection(&lab, "hidden", |c| c["status"] == "error");
    let why = refused["statusMessage"].as_str().unwrap_or_default();
    assert!(why.contains("a VXLAN cable can't pass a NAT"), "{why}");
    assert!(why.contains("198.51.100.73"), "{why}");
    assert!(!forwarded(&lab).contains("198.51.100.73"));
    // West is what it was.
    connection(&lab, "west", |c| {
        c["status"] == "connected" && c["usingIP"] == "172.30.2.11"
    });
}

#[test]
fn hostile_datagrams_are_counted_and_the_next_request_is_answered() {
    let lab = joined("nattbad", small());
    lab.exec("internet", &["python3", PEER, "hostile", EAST])
        .expect("they are sent");
    let request = |from| {
        let cable = "submariner-cable-x";
        ask(
            &lab,
            &[
                "0.19",
                "x",
                cable,
                "east",
                CABLE,
                "198.51.100.254",
                EAST,
                from,
            ],
        )
    };
    assert_eq!(request("198.51.100.254")["response"], "OK");
    let rewritten = request("192.0.2.1");
    assert_eq!(
        (&rewritten["response"], &rewritten["src_ip"]),
        (&json!("NAT_DETECTED"), &json!(1))
    );
    for reason in [
        "Empty",
        "TooLong",
        "Unreadable",
        "NotAsked",
        "NoBody",
        "TooMany",
    ] {
        let name = format!("strait_discovery_dropped_total{{reason=\"{reason}\"}}");
        assert!(metric(&lab, &name) >= 1.0, "{name}");
    }
    assert!(
        metric(
            &lab,
            "strait_discovery_answers_total{verdict=\"Malformed\"}"
        ) >= 1.0
    );
    let page = lab
        .page("east-1", Role::Gateway, "/readyz")
        .expect("a page");
    assert!(page.starts_with("ok"), "{page}");
}

#[test]
fn what_a_node_says_of_its_gateway_is_published_and_asked_at_once() {
    let lab = joined("nodehint", small());
    let node = "/api/v1/nodes/east-1";
    let annotations = json!({
        "gateway.submariner.io/public-ip": "api:127.0.0.1:1/ip,ipv4:203.0.113.5",
        "gateway.submariner.io/natt-discovery-port": "4491",
        "gateway.submariner.io/colour": "blue",
    });
    let patch = json!({"metadata": {"annotations": annotations}});
    lab.api("east", "PATCH", node, &patch).expect("it is taken");
    let path = format!("{BROKER}/east-{CABLE}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let endpoint = lab.api("broker", "GET", &path, &Value::Null).expect("it");
        let spec = &endpoint["spec"];
        if spec["public_ip"] == "203.0.113.5" {
            assert_eq!(spec["public_ips"], json!(["203.0.113.5"]));
            assert_eq!(spec["backend_config"]["natt-discovery-port"], "4491");
            break;
        }
        assert!(Instant::now() < deadline, "{spec:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    // West asks where east is now, and finds it.
    let west = "/apis/submariner.io/v1/namespaces/submariner-operator/gateways/west-1";
    loop {
        let gateway = lab.api("west", "GET", west, &Value::Null).expect("it");
        let page = lab
            .page("west-1", Role::Gateway, "/metrics")
            .expect("metrics");
        let connection = &gateway["status"]["connections"][0];
        let told = connection["endpoint"]["public_ip"] == "203.0.113.5";
        if told && page.contains("strait_discovery_path{cluster=\"east\",family=\"v4\",state=\"answered\",nat=\"false\"} 1") {
            assert_eq!(connection["usingIP"], EAST);
            break;
        }
        assert!(Instant::now() < deadline, "{gateway:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let sockets = lab.exec("east-1", &["ss", "-Hlun"]).expect("ss");
    assert!(
        sockets.contains(":4491 ") && !sockets.contains(":4490 "),
        "{sockets}"
    );
    let page = lab
        .page("east-1", Role::Gateway, "/readyz")
        .expect("a page");
    assert!(
        page.starts_with("ok") && page.contains("gateway.submariner.io/colour"),
        "{page}"
    );
}

#[test]
fn gateways_find_each_other_in_both_families_and_an_ipv6_peer_of_0_21_is_not_behind_a_nat() {
    let lab = joined(
        "natt6",
        Options {
            families: Families::Dual,
            ..small()
        },
    );
    internet(&lab, "ip address add 2001:db8:100::71/64 dev wan nodad");
    // It compares the destination with an IPv4 address of its own, as that release does.
    let cable = "submariner-cable-six";
    let words = [
        "python3",
        PEER,
        "serve",
        "0.21",
        "six",
        cable,
        "2001:db8:100::71",
        "192.0.2.1",
    ];
    let mut child = lab
        .command("internet", words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a peer");
    let mut out = BufReader::new(child.stdout.take().expect("its output"));
    let _peer = Ended(child);
    let mut six = endpoint("six", "", "", "fd10:77::/48");
    six["spec"]["private_ips"] = json!(["2001:db8:100::71"]);
    publish(&lab, &six);
    let mut line = String::new();
    while !line.starts_with("NAT_DETECTED submariner-cable-six-v6 ") {
        line.clear();
        assert!(out.read_line(&mut line).expect("a line") > 0, "never asked");
    }
    let path = |cluster: &str, family: &str| {
        format!(
            "strait_discovery_path{{cluster=\"{cluster}\",family=\"{family}\",state=\"answered\",nat=\"false\"}} 1"
        )
    };
    let wanted = [path("west", "v4"), path("west", "v6"), path("six", "v6")];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = lab
            .page("east-1", Role::Gateway, "/metrics")
            .expect("metrics");
        if wanted.iter().all(|one| page.contains(one)) {
            break;
        }
        assert!(Instant::now() < deadline, "{page}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_gateway_that_is_restarted_never_sends_where_it_had_found_that_nobody_is() {
    let lab = joined(
        "nattagain",
        Options {
            environment: vec![("SUBMARINER_NATENABLED".to_owned(), "true".to_owned())],
            ..small()
        },
    );
    // Without discovery this is where east would send to.
    let annotations = json!({"gateway.submariner.io/public-ip": "ipv4:203.0.113.5"});
    let patch = json!({"metadata": {"annotations": annotations}});
    lab.api("west", "PATCH", "/api/v1/nodes/west-1", &patch)
        .expect("it is taken");
    let settled = || {
        connection(&lab, "west", |c| {
            c["endpoint"]["public_ip"] == "203.0.113.5" && c["usingIP"] == "172.30.2.11"
        })
    };
    settled();
    let mut monitor = lab
        .command("east-1", ["bridge", "monitor", "fdb"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a monitor");
    let mut out = monitor.stdout.take().expect("its output");
    let monitor = Ended(monitor);
    for _ in 0..3 {
        lab.kill("east-1", Role::Gateway).expect("it ends");
        lab.restart("east-1", Role::Gateway).expect("it starts");
        let deadline = Instant::now() + PATIENCE;
        let path = "strait_discovery_path{cluster=\"west\",family=\"v4\",state=\"answered\",nat=\"false\"} 1";
        while !lab
            .page("east-1", Role::Gateway, "/metrics")
            .is_ok_and(|page| page.contains(path))
        {
            assert!(Instant::now() < deadline, "it does not find west");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    settled();
    // The monitor sees what changes: this entry is somebody else's.
    let entry = "00:00:00:00:00:00 dev vxlan-tunnel dst 198.51.100.99";
    let add = format!("bridge fdb append {entry}");
    let words: Vec<&str> = add.split(' ').collect();
    lab.exec("east-1", &words).expect("bridge");
    std::thread::sleep(Duration::from_millis(500));
    drop(monitor);
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut out, &mut seen).expect("text");
    assert!(seen.contains("198.51.100.99"), "{seen}");
    assert!(!seen.contains("203.0.113.5"), "{seen}");
}
