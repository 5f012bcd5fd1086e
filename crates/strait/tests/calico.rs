//! What users of Calico get: an IPPool for each remote subnet, which follows it, and nothing where Calico's API is not.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{binary, conditions, joined, move_gateway, show};
use serde_json::{Value, json};
use strait_lab::{Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(20);
/// A kind that the server does not know is looked for every 30 s.
const LOOKED_FOR: Duration = Duration::from_secs(45);
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const POOLS: &str = "/apis/projectcalico.org/v3/ippools";
const ENDPOINTS: &str = "/apis/submariner.io/v1/namespaces/submariner-operator/endpoints";
const BROKER: &str = "/apis/submariner.io/v1/namespaces/submariner-k8s-broker/endpoints";

/// Calico's definition, as far as pools for remote subnets are concerned; like Calico's server it fills in what is left out.
fn definition() -> Value {
    let text = json!({"type": "string"});
    let yes_or_no = json!({"type": "boolean"});
    let spec = json!({
        "type": "object", "required": ["cidr"],
        "properties": {
            "cidr": text, "disabled": yes_or_no, "natOutgoing": yes_or_no, "disableBGPExport": yes_or_no,
            "ipipMode": {"type": "string", "default": "Never"}, "vxlanMode": {"type": "string", "default": "Never"},
            "blockSize": {"type": "integer", "default": 26}, "nodeSelector": {"type": "string", "default": "all()"},
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ippools.projectcalico.org"},
        "spec": {
            "group": "projectcalico.org", "scope": "Cluster",
            "names": {"kind": "IPPool", "listKind": "IPPoolList", "plural": "ippools", "singular": "ippool"},
            "versions": [{"name": "v3", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": spec},
            }}}],
        },
    })
}

fn pool(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": spec})
}

/// Another cluster, as it stands on the broker.
fn north(subnets: &[&str]) -> Value {
    json!({
        "apiVersion": "submariner.io/v1", "kind": "Endpoint",
        "metadata": {"name": "north-cable", "labels": {"submariner-io/clusterID": "north"}},
        "spec": {
            "cluster_id": "north", "cable_name": "submariner-cable-north", "hostname": "gw", "subnets": subnets,
            "private_ip": "172.30.0.99", "public_ip": "", "nat_enabled": false,
            "backend": "vxlan", "backend_config": {"udp-port": "4500"},
        },
    })
}

fn api(lab: &Lab, place: &str, method: &str, path: &str, body: &Value) -> Value {
    lab.api(place, method, path, body).expect(path)
}

/// The pools of cluster east by name.
fn pools(lab: &Lab) -> BTreeMap<String, Value> {
    let list = api(lab, "east", "GET", POOLS, &Value::Null);
    let items = list["items"].as_array().expect("a list").clone();
    let name = |item: &Value| {
        item["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    items.into_iter().map(|item| (name(&item), item)).collect()
}

/// Waits until the pools of cluster east have these names.
fn until(lab: &Lab, patience: Duration, names: &[&str]) -> BTreeMap<String, Value> {
    let deadline = Instant::now() + patience;
    loop {
        let seen = pools(lab);
        if seen.keys().map(String::as_str).eq(names.iter().copied()) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "{:?}, wanted {names:?}",
            seen.keys()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How often a process wrote an object.
fn written(lab: &Lab, node: &str) -> u64 {
    let text = lab
        .page(node, Role::RouteAgent, "/metrics")
        .expect("a page");
    let line = "strait_changes_total{object=\"object\"} ";
    let value = text.lines().find_map(|l| l.strip_prefix(line));
    value.map_or(0, |v| v.parse().expect("a number"))
}

fn log(lab: &Lab, node: &str) -> String {
    let file = lab.logs().join(format!("{node}-route-agent.log"));
    std::fs::read_to_string(file).expect("a log")
}

#[test]
fn remote_subnets_have_pools_that_follow_them_and_go_with_them_once_calico_is_there() {
    let lab = joined(
        "calico",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    // Without Calico's API there is nothing to say about it.
    for node in ["east-1", "east-2"] {
        assert_eq!(conditions(&lab, node), [""; 0], "{node}");
        let log = log(&lab, node);
        let about = |line: &&str| line.to_lowercase().contains("ippool") || line.contains("ERROR");
        assert_eq!(log.lines().find(about), None, "{node}");
    }
    // It comes while all runs, with a pool of its own and one that has the name that ours would have.
    api(&lab, "east", "POST", CRDS, &definition());
    let own = pool(
        "default-ipv4-ippool",
        &json!({"cidr": "10.101.0.0/16", "natOutgoing": true}),
    );
    api(&lab, "east", "POST", POOLS, &own);
    let services = "submariner-west-10.152.0.0-16";
    let pods = "submariner-west-10.102.0.0-16";
    let squatter = pool(services, &json!({"cidr": "192.0.2.0/24"}));
    let squatter = api(&lab, "east", "POST", POOLS, &squatter);
    let seen = until(&lab, LOOKED_FOR, &["default-ipv4-ippool", pods, services]);
    assert_eq!(
        seen[pods]["metadata"]["labels"],
        json!({"submariner.io/ippool": "true"})
    );
    let expected = json!({
        "cidr": "10.102.0.0/16", "disabled": true, "natOutgoing": false, "disableBGPExport": true,
        "ipipMode": "Never", "vxlanMode": "Never", "blockSize": 26, "nodeSelector": "all()",
    });
    assert_eq!(seen[pods]["spec"], expected);
    // What is not ours is as it was, and what is in our way is named.
    assert_eq!(seen[services], squatter);
    let deadline = Instant::now() + PATIENCE;
    let readyz = || {
        lab.page("east-1", Role::RouteAgent, "/readyz")
            .expect("a page")
    };
    while !readyz().contains("CalicoPoolsIncomplete") {
        assert!(Instant::now() < deadline, "{}", readyz());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        readyz().starts_with("ok") && readyz().contains(services),
        "{}",
        readyz()
    );
    assert_eq!(
        conditions(&lab, "east-2"),
        [""; 0],
        "the gateway's node alone keeps them"
    );
    // Somebody removes it: ours takes its place.
    api(
        &lab,
        "east",
        "DELETE",
        &format!("{POOLS}/{services}"),
        &Value::Null,
    );
    let seen = until(&lab, PATIENCE, &["default-ipv4-ippool", pods, services]);
    assert_eq!(seen[services]["spec"]["cidr"], "10.152.0.0/16");
    lab.wait_until_ready(PATIENCE, true).expect("no condition");

    // Another cluster comes, changes its subnets, and goes.
    let all = |more: &[&'static str]| {
        let mut names = vec!["default-ipv4-ippool"];
        names.extend_from_slice(more);
        names.extend([pods, services]);
        names
    };
    api(
        &lab,
        "broker",
        "POST",
        BROKER,
        &north(&["10.60.0.0/16", "10.61.0.0/28"]),
    );
    let (one, two, three) = (
        "submariner-north-10.60.0.0-16",
        "submariner-north-10.61.0.0-28",
        "submariner-north-10.62.0.0-16",
    );
    until(&lab, PATIENCE, &all(&[one, two]));
    let spec = json!({"spec": {"subnets": ["10.60.0.0/16", "10.62.0.0/16"]}});
    let object = format!("{BROKER}/north-cable");
    api(&lab, "broker", "PATCH", &object, &spec);
    until(&lab, PATIENCE, &all(&[one, three]));
    // Somebody alters one, and removes one.
    let altered = json!({"spec": {"natOutgoing": true}});
    api(&lab, "east", "PATCH", &format!("{POOLS}/{one}"), &altered);
    let deadline = Instant::now() + PATIENCE;
    while pools(&lab)[one]["spec"]["natOutgoing"] != json!(false) {
        assert!(Instant::now() < deadline, "{:#}", pools(&lab)[one]);
        std::thread::sleep(Duration::from_millis(20));
    }
    api(
        &lab,
        "east",
        "DELETE",
        &format!("{POOLS}/{three}"),
        &Value::Null,
    );
    until(&lab, PATIENCE, &all(&[one, three]));
    // An agent that starts anew finds all as it should be, and writes nothing.
    lab.restart("east-1", Role::RouteAgent).expect("it starts");
    lab.wait_until_ready(PATIENCE, true).expect("it is ready");
    api(&lab, "broker", "DELETE", &object, &Value::Null);
    until(&lab, PATIENCE, &all(&[]));
    assert_eq!(written(&lab, "east-1"), 2, "no more than the two that went");
    assert_eq!(written(&lab, "east-2"), 0);
    let left = &pools(&lab)["default-ipv4-ippool"]["spec"];
    assert_eq!(
        (&left["natOutgoing"], &left["cidr"]),
        (&json!(true), &json!("10.101.0.0/16"))
    );

    // What an agent would do about pools can be seen beforehand.
    lab.kill("east-1", Role::RouteAgent).expect("it ends");
    let nothing = ("nothing to change\n".to_owned(), Some(0));
    assert_eq!(show(&lab, "east-1", &["diff"]), nothing);
    let object = format!("{POOLS}/{pods}");
    api(&lab, "east", "DELETE", &object, &Value::Null);
    let (text, code) = show(&lab, "east-1", &["diff"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), code), (1, Some(1)), "{text}");
    assert!(
        lines[0].starts_with("ippool    {\"put\":") && text.contains(pods),
        "{text}"
    );
    let (json, _) = show(&lab, "east-1", &["diff", "--output", "json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["pools"][0]["put"]["key"]["name"], *pods, "{json:#}");
    let (plan, _) = show(&lab, "east-1", &["plan"]);
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(plan["pools"], json["pools"]);
    assert_eq!(show(&lab, "east-2", &["diff"]), nothing);
    lab.restart("east-1", Role::RouteAgent).expect("it starts");
    until(&lab, PATIENCE, &all(&[]));

    // Uninstalling takes ours alone.
    lab.kill("east-1", Role::RouteAgent).expect("it ends");
    let uninstall = [
        binary().to_str().expect("a path"),
        "route-agent",
        "--submariner-uninstall",
        "true",
        "--node-name",
        "east-1",
        "--kubeconfig",
        // As it is seen inside the lab.
        "/run/strait-lab/control-east/admin.kubeconfig",
    ];
    let said = lab.exec("east-1", &uninstall).expect("it succeeds");
    for name in [pods, services] {
        assert!(said.contains(&format!("removed IPPool {name}")), "{said}");
    }
    assert!(!said.contains("default-ipv4-ippool"), "{said}");
    until(&lab, PATIENCE, &["default-ipv4-ippool"]);
    // The API goes again: that is no condition either.
    lab.restart("east-1", Role::RouteAgent).expect("it starts");
    until(&lab, PATIENCE, &all(&[]));
    let definition = format!("{CRDS}/ippools.projectcalico.org");
    api(&lab, "east", "DELETE", &definition, &Value::Null);
    std::thread::sleep(Duration::from_secs(2));
    lab.wait_until_ready(PATIENCE, true).expect("no condition");
}

/// Names of pools with what tells whether they are the very same as before.
fn identities(lab: &Lab) -> BTreeMap<String, Value> {
    let same = |(name, pool): (String, Value)| (name, pool["metadata"]["uid"].clone());
    pools(lab).into_iter().map(same).collect()
}

#[test]
fn pools_go_on_when_the_gateway_moves_and_are_the_new_nodes_to_keep() {
    let lab = joined(
        "calico-moves",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    api(&lab, "east", "POST", CRDS, &definition());
    let (services, pods) = (
        "submariner-west-10.152.0.0-16",
        "submariner-west-10.102.0.0-16",
    );
    until(&lab, LOOKED_FOR, &[pods, services]);
    let ways = ["east-1-a", "east-2-a", "east-2"].map(|from| Probe::tcp(from, "west-2-a"));
    let north_pool = "submariner-north-10.60.0.0-16";
    let north_path = format!("{BROKER}/north-cable");
    let counts = || [written(&lab, "east-1"), written(&lab, "east-2")];
    // What was written while Calico's server still filled in defaults may be written once more.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(counts()[1], 0);
    for (from, to, at) in [("east-1", "east-2", 1), ("east-2", "east-1", 0)] {
        let (before, begin) = (identities(&lab), counts());
        move_gateway(&lab, from, to);
        let host = |e: &Value| e["spec"]["hostname"] == *to && e["spec"]["cluster_id"] == "east";
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert_eq!(identities(&lab), before, "from {from} to {to}");
            let list = api(&lab, "east", "GET", ENDPOINTS, &Value::Null);
            let moved = list["items"].as_array().expect("a list").iter().any(host);
            if moved
                && ways
                    .iter()
                    .all(|way| lab.probe(way).is_ok_and(|seen| seen.is_ok()))
            {
                break;
            }
            assert!(Instant::now() < deadline, "{list:#}");
        }
        // One that had gone meanwhile would have another uid.
        assert_eq!(identities(&lab), before);
        // The move itself writes nothing; what comes later, the new node writes, and the old one does not.
        assert_eq!(counts(), begin);
        api(&lab, "broker", "POST", BROKER, &north(&["10.60.0.0/16"]));
        until(&lab, PATIENCE, &[north_pool, pods, services]);
        api(
            &lab,
            "east",
            "DELETE",
            &format!("{POOLS}/{pods}"),
            &Value::Null,
        );
        until(&lab, PATIENCE, &[north_pool, pods, services]);
        api(&lab, "broker", "DELETE", &north_path, &Value::Null);
        until(&lab, PATIENCE, &[pods, services]);
        let end = counts();
        assert!(end[at] >= begin[at] + 3, "{begin:?} {end:?}");
        assert_eq!(end[1 - at], begin[1 - at]);
    }
}
