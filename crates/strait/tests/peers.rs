//! What users get with gateways that are not ours, and with objects that nobody should have written.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{binary, joined};
use serde_json::{Value, json};
use strait_lab::{Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(20);
const BROKER: &str = "/apis/submariner.io/v1/namespaces/submariner-k8s-broker/endpoints";
const LOCAL: &str = "/apis/submariner.io/v1/namespaces/submariner-operator/endpoints";

fn small() -> Options {
    Options {
        nodes: 2,
        ..Options::default()
    }
}

fn endpoint(cluster: &str, label: &str, private_ip: &str, subnets: &[&str]) -> Value {
    json!({
        "apiVersion": "submariner.io/v1",
        "kind": "Endpoint",
        "metadata": {"name": format!("{cluster}-cable"), "labels": {"submariner-io/clusterID": label}},
        "spec": {
            "cluster_id": cluster, "cable_name": format!("submariner-cable-{cluster}"), "hostname": "gw",
            "subnets": subnets, "private_ip": private_ip, "public_ip": "", "nat_enabled": false,
            "backend": "vxlan", "backend_config": {"udp-port": "4500"},
        },
    })
}

/// Waits until `good` holds of what `look` gives.
fn until<T: std::fmt::Debug>(what: &str, look: impl Fn() -> T, good: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(20));
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

/// A listener on a machine of the lab, as pods have one.
fn listen(lab: &Lab, place: &str) -> Ended {
    let binary = binary().to_str().expect("a path");
    let child = lab
        .command(place, [binary, "lab", "pod-server"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a listener");
    Ended(child)
}

/// Makes a gateway as Submariner's VXLAN driver does, with iproute2: a random Ethernet address that it publishes
/// nowhere, flooding to all peers, and ARP.
fn foreign_gateway(lab: &Lab, peers: &[&str]) {
    let run = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        lab.exec("internet", &words).expect(command);
    };
    run("ip address add 10.77.0.1/32 dev lo");
    run("ip link add vxlan-tunnel type vxlan id 1000 dstport 4500 nolearning");
    run("ip address add 241.51.100.254/8 dev vxlan-tunnel");
    run("ip link set vxlan-tunnel mtu 1450 up");
    for (n, peer) in peers.iter().enumerate() {
        let cluster = n + 1;
        run(&format!(
            "bridge fdb append 00:00:00:00:00:00 dev vxlan-tunnel dst {peer}"
        ));
        run(&format!(
            "ip route add 10.10{cluster}.0.0/16 via 241.30.{cluster}.11 dev vxlan-tunnel src 10.77.0.1"
        ));
    }
}

#[test]
fn a_gateway_that_publishes_no_ethernet_address_is_reached_by_flooding_and_arp() {
    let lab = joined("foreign", small());
    foreign_gateway(&lab, &["172.30.1.11", "172.30.2.11"]);
    let _listener = listen(&lab, "internet");
    lab.api(
        "broker",
        "POST",
        BROKER,
        &endpoint("north", "north", "198.51.100.254", &["10.77.0.0/16"]),
    )
    .expect("the broker takes it");
    let node = |name: &str| lab.topology().node(name).expect("a node").1.clone();
    for (from, source) in [
        ("east-1-a", node("east-1").pods[0].address),
        ("east-2-a", node("east-2").pods[0].address),
        ("east-2", node("east-2").cni_address),
        ("west-2-a", node("west-2").pods[0].address),
        ("west-2", node("west-2").cni_address),
    ] {
        for probe in [
            Probe::tcp(from, "10.77.0.1:8080"),
            Probe::udp(from, "10.77.0.1:8080"),
        ] {
            let seen = lab
                .probe_until(&probe, PATIENCE, |seen| seen.source.ip() == source)
                .expect("the other gateway is reached");
            assert_eq!(seen.source.ip(), source, "{from}");
        }
    }
    let pod = &node("east-2").pods[0];
    let back = lab
        .probe(&Probe::tcp("internet", &pod.name))
        .expect("the lab answers");
    assert_eq!(
        back.expect("the pod is reached").source.ip().to_string(),
        "10.77.0.1"
    );
    // One entry to flood to it, and still an exact one towards ours.
    let fdb = lab
        .exec(
            "east-1",
            &["bridge", "-j", "fdb", "show", "dev", "vxlan-tunnel"],
        )
        .expect("bridge");
    let fdb: Vec<Value> = serde_json::from_str(&fdb).expect("JSON");
    let mac_to = |dst: &str| {
        let entry = fdb.iter().find(|e| e["dst"] == dst).expect("an entry");
        entry["mac"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(mac_to("198.51.100.254"), "00:00:00:00:00:00");
    assert_eq!(mac_to("172.30.2.11"), "02:e8:ac:1e:02:0b");
    // And when it leaves the clusterset, nothing of it stays.
    lab.api(
        "broker",
        "DELETE",
        &format!("{BROKER}/north-cable"),
        &Value::Null,
    )
    .expect("it goes");
    until(
        "routes to a cluster that is gone",
        || {
            lab.exec("east-2", &["ip", "-j", "route", "show", "10.77.0.0/16"])
                .expect("ip")
        },
        |routes| routes.trim() == "[]",
    );
}

fn log(lab: &Lab, file: &str) -> String {
    let file = std::fs::File::open(lab.logs().join(file)).expect("a log");
    BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn bad_objects_are_named_in_readiness_status_and_log_and_hurt_nothing_else() {
    let lab = joined("hostile", small());
    for object in [
        endpoint("forged", "liar", "198.51.100.66", &["10.66.0.0/16"]),
        endpoint(
            "unreadable",
            "unreadable",
            "198.51.100.66",
            &["10.66.0.0/99"],
        ),
        endpoint(
            "overlapping",
            "overlapping",
            "198.51.100.66",
            &["10.101.7.0/24"],
        ),
    ] {
        lab.api("broker", "POST", BROKER, &object)
            .expect("the broker takes it");
    }
    let page = until(
        "the gateway names what it refuses",
        || {
            lab.page("east-1", Role::Gateway, "/readyz")
                .expect("a page")
        },
        |page| {
            [
                "forged",
                "liar",
                "unreadable",
                "10.66.0.0/99",
                "overlapping",
            ]
            .iter()
            .all(|part| page.contains(part))
        },
    );
    assert!(page.starts_with("ok"), "degraded, and ready: {page}");
    let status = until(
        "the Gateway object says so too",
        || {
            let path = "/apis/submariner.io/v1/namespaces/submariner-operator/gateways/east-1";
            lab.api("east", "GET", path, &Value::Null)
                .expect("the Gateway")
        },
        |gateway| {
            gateway["status"]["statusFailure"]
                .as_str()
                .is_some_and(|text| text.contains("unreadable"))
        },
    );
    assert_eq!(status["status"]["haStatus"], "active");
    for (cluster, why) in [
        ("liar", "says that it is of cluster 'forged'"),
        ("unreadable", "'10.66.0.0/99' is no prefix"),
        ("overlapping", "overlaps 10.101.0.0/16 of this cluster"),
    ] {
        let all = status["status"]["connections"]
            .as_array()
            .into_iter()
            .flatten();
        let mut of = all.filter(|c| c["endpoint"]["cluster_id"] == cluster);
        let connection = of.next().expect("it has a connection");
        assert_eq!(connection["status"], "error", "{cluster}");
        let said = connection["statusMessage"].as_str().unwrap_or_default();
        assert!(said.contains(why), "{said}");
    }
    // Ages are whole seconds: this one is younger than west, and before it in the alphabet.
    std::thread::sleep(Duration::from_millis(1100));
    let newcomer = endpoint(
        "aaa",
        "aaa",
        "198.51.100.67",
        &["10.102.0.0/16", "10.90.0.0/16"],
    );
    lab.api("broker", "POST", BROKER, &newcomer)
        .expect("the broker takes it");
    until(
        "nodes know whose it is",
        || {
            lab.page("east-2", Role::RouteAgent, "/readyz")
                .expect("a page")
        },
        |page| {
            page.contains("10.102.0.0/16 of Endpoint aaa-cable: it overlaps 10.102.0.0/16 of cluster west, which was there first")
        },
    );
    assert!(log(&lab, "east-1-gateway.log").contains("10.66.0.0/99"));
    // Somebody with access to the cluster writes one that the agents can't read, and one that wants everything.
    let mut bad = endpoint("mistyped", "mistyped", "198.51.100.66", &["10.99.0.0/16"]);
    bad["spec"]["backend_config"]["udp-port"] = json!("many");
    bad["metadata"]["labels"] = json!({});
    lab.api("east", "POST", LOCAL, &bad)
        .expect("the cluster takes it");
    let mut greedy = endpoint(
        "greedy",
        "greedy",
        "198.51.100.66",
        &["0.0.0.0/0", "10.88.0.0/16"],
    );
    greedy["metadata"]["labels"] = json!({});
    lab.api("east", "POST", LOCAL, &greedy)
        .expect("the cluster takes it");
    until(
        "the route agent names them",
        || {
            lab.page("east-2", Role::RouteAgent, "/readyz")
                .expect("a page")
        },
        |page| {
            page.starts_with("ok")
                && page.contains("mistyped")
                && page.contains("'many' is no UDP port")
                && page.contains("0.0.0.0/0 of Endpoint greedy-cable: it is everything")
        },
    );
    // The one of several subnets that is good is routed; the way to west is what it was.
    let routes = lab.exec("east-2", &["ip", "-j", "route"]).expect("ip");
    assert!(
        routes.contains("10.88.0.0/16")
            && routes.contains("10.90.0.0/16")
            && !routes.contains("10.66.")
            && !routes.contains("0.0.0.0/0"),
        "{routes}"
    );
    let seen = lab
        .probe(&Probe::tcp("east-2-a", "west-2-a"))
        .expect("the lab answers");
    assert!(seen.is_ok(), "{seen:?}");
}

#[test]
fn vxlan_gateways_with_ports_of_their_own_reach_each_other_and_what_a_change_costs_is_named() {
    let lab = joined("vxports", small());
    let node = "/api/v1/nodes/east-1";
    let port = json!({"gateway.submariner.io/udp-port": "4501"});
    let patch = json!({"metadata": {"annotations": port}});
    lab.api("east", "PATCH", node, &patch).expect("it is taken");
    let look = |node: &str, words: &[&str]| -> Value {
        let seen = lab.exec(node, words).expect("it is shown");
        serde_json::from_str(&seen).expect("JSON")
    };
    let ports = || {
        let cable = ["ip", "-j", "-d", "link", "show", "vxlan-tunnel"];
        let own = |node| look(node, &cable)[0]["linkinfo"]["info_data"]["port"].clone();
        let entries = |node| {
            let entries = look(
                node,
                &["bridge", "-j", "fdb", "show", "dev", "vxlan-tunnel"],
            );
            entries[0]["port"].clone()
        };
        [
            own("east-1"),
            entries("east-1"),
            own("west-1"),
            entries("west-1"),
        ]
    };
    let expected = [json!(4501), json!(4500), json!(4500), json!(4501)];
    until("each sends to the other's port", ports, |seen| {
        *seen == expected
    });
    for (from, to) in [
        ("east-2-a", "west-2-a"),
        ("west-2-a", "east-2-a"),
        ("west-2", "east-1-a"),
    ] {
        for probe in [Probe::tcp(from, to), Probe::udp(from, to)] {
            lab.probe_until(&probe, PATIENCE, |_| true)
                .expect("the other cluster is reached");
        }
    }
    let readyz = || {
        lab.page("east-1", Role::Gateway, "/readyz")
            .expect("a page")
    };
    let page = readyz();
    let why = "vxlan-tunnel was removed and made anew, since it can't be changed in place: its UDP port 4500 becomes 4501";
    assert!(page.starts_with("ok"), "{page}");
    assert!(
        page.contains("DeviceMadeAnew") && page.contains(why),
        "{page}"
    );
    let events = "/api/v1/namespaces/default/events";
    let told = || {
        lab.api("east", "GET", events, &Value::Null)
            .expect("they are listed")
    };
    until("an Event", told, |events| {
        let all = events["items"].as_array().into_iter().flatten();
        let mut of_device = all.filter(|e| e["reason"] == "DeviceMadeAnew");
        of_device.any(|e| e["message"].as_str().is_some_and(|m| m.contains(why)))
    });
}
