//! What users get when they uninstall: all that is ours goes, nothing of others does.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::time::{Duration, Instant};

use common::{binary, joined};
use serde_json::{Value, json};
use strait_lab::{Cable, Families, Lab, Options, Role};

/// Everything on a node that an agent could have left, as foreign tools show it.
fn leftovers(lab: &Lab, node: &str) -> Vec<String> {
    let show = |command: &[&str]| lab.exec(node, command).expect("it runs");
    let mut left = Vec::new();
    for (what, text, mark) in [
        ("link", show(&["ip", "-o", "link"]), "vx-submariner"),
        (
            "route",
            show(&["ip", "route", "show", "table", "all"]),
            "proto 83",
        ),
        (
            "route",
            show(&["ip", "-6", "route", "show", "table", "all"]),
            "proto 83",
        ),
        ("rule", show(&["ip", "rule"]), "proto 83"),
        ("rule", show(&["ip", "-6", "rule"]), "proto 83"),
        ("nftables", show(&["nft", "list", "ruleset"]), "strait"),
    ] {
        left.extend(
            text.lines()
                .filter(|line| line.contains(mark))
                .map(|line| format!("{what}: {line}")),
        );
    }
    left
}

/// What others have in nftables on a node.
fn foreign_tables(lab: &Lab, node: &str) -> String {
    let tables = lab.exec(node, &["nft", "list", "tables"]).expect("nft");
    tables
        .lines()
        .filter(|line| !line.contains("strait"))
        .collect::<Vec<_>>()
        .join("\n")
}

const ASKED: [(&str, &str); 1] = [("SUBMARINER_UNINSTALL", "true")];
/// How long a node may take to be clean.
const SECOND: Duration = Duration::from_secs(1);
/// How often it is tried, where the machine has something else to do.
const TRIES: u32 = 4;
/// Not a measurement: a bound that only a hang can break.
const BOUND: Duration = Duration::from_secs(10);

/// Runs an uninstallation as Submariner's operator does, and gives what it said.
fn uninstall(lab: &Lab, node: &str, role: Role) -> String {
    let begun = Instant::now();
    let said = lab.run(node, role, &ASKED).expect("it succeeds");
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    said
}

/// Whether a node has what an agent leaves on it.
fn is_set_up(lab: &Lab, node: &str, routes: usize) -> bool {
    let show = lab.exec(node, &["ip", "route", "show", "proto", "83"]);
    show.expect("it runs").lines().count() >= routes
}

/// Does something to a node whose agent has ended, and removes what that left, without the API: in under a second, or else all is set up
/// again, and it is tried again. Gives what was said.
fn in_a_second(lab: &Lab, node: &str, routes: usize, damage: &str) -> String {
    let by_hand = [
        binary().to_str().expect("a path"),
        "route-agent",
        "--submariner-uninstall",
        "true",
    ];
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_set_up(lab, node, routes) {
            assert!(Instant::now() < deadline, "{node} is never set up");
            std::thread::sleep(Duration::from_millis(100));
        }
        lab.kill(node, Role::RouteAgent).expect("it ends");
        lab.exec(node, &["sh", "-c", damage]).expect(damage);
        let begun = Instant::now();
        let said = lab.exec(node, &by_hand).expect("it succeeds");
        took.push(begun.elapsed());
        assert_eq!(leftovers(lab, node), Vec::<String>::new(), "{damage}");
        if begun.elapsed() < SECOND {
            return said;
        }
        lab.restart(node, Role::RouteAgent).expect("it starts");
    }
    panic!("after '{damage}' it took {took:?}");
}

/// The reverse-path filter of a node's links, as far as it was set when it booted, as sysctl shows it.
fn filters(lab: &Lab, node: &str) -> Vec<String> {
    let shown = lab.exec(node, &["sysctl", "-a", "-r", r"ipv4\.conf\..*\.rp_filter"]);
    let shown = shown.expect("sysctl");
    let others = ["vx-submariner", "vxlan-tunnel", ".lo.", "churn"];
    shown
        .lines()
        .filter(|line| !others.iter().any(|name| line.contains(name)))
        .map(str::to_owned)
        .collect()
}

fn path(kind: &str) -> String {
    format!("/apis/submariner.io/v1/namespaces/submariner-operator/{kind}")
}

/// Names of a server's objects.
fn names(lab: &Lab, server: &str, path: &str) -> Vec<String> {
    let list = lab.api(server, "GET", path, &Value::Null).expect("a list");
    let items = list["items"].as_array().expect("items").iter();
    items
        .map(|o| o["metadata"]["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn small(purpose: &str) -> Lab {
    joined(
        purpose,
        Options {
            nodes: 2,
            ..Options::default()
        },
    )
}

#[test]
fn uninstalling_removes_all_that_is_ours_says_so_and_leaves_the_rest() {
    let lab = joined(
        "uninstall",
        Options {
            nodes: 2,
            families: Families::Dual,
            ..Options::default()
        },
    );
    let nodes = ["east-1", "east-2", "west-1", "west-2"];
    for node in nodes {
        assert!(filters(&lab, node).iter().any(|line| line.ends_with("= 2")));
        // What was before outlives the process that changed it.
        lab.kill(node, Role::RouteAgent).expect("it ends");
        lab.restart(node, Role::RouteAgent).expect("it starts");
    }
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("all is well again");
    // Somebody's reverse-path filter, which is answered by rules and tables of their own.
    for node in nodes {
        for command in [
            "nft add table ip6 filters",
            "nft add chain ip6 filters early { type filter hook prerouting priority 10 ; }",
            "nft add rule ip6 filters early fib saddr . mark . iif oif missing counter",
        ] {
            let words: Vec<&str> = command.split_whitespace().collect();
            lab.exec(node, &words).expect("it runs");
        }
        let deadline = Instant::now() + BOUND;
        for part in ["rule: 98:\tfrom all fwmark 0x1031/0x303f", "table 8301"] {
            while !leftovers(&lab, node).iter().any(|l| l.contains(part)) {
                assert!(Instant::now() < deadline, "{node} never has {part}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    for node in nodes {
        let before = foreign_tables(&lab, node);
        assert!(
            !before.is_empty() && !leftovers(&lab, node).is_empty(),
            "{node} has both before"
        );
        lab.kill(node, Role::RouteAgent).expect("it ends");
        let said = uninstall(&lab, node, Role::RouteAgent);
        for part in [
            "set sysctl net/ipv4/conf/eth0/rp_filter back to 1",
            "removed link vx-submariner",
            "removed route",
            "removed nftables table",
            &format!("removed RouteAgent submariner-operator/{node}"),
        ] {
            assert!(said.contains(part), "{node}: no '{part}' in: {said}");
        }
        assert_eq!(leftovers(&lab, node), Vec::<String>::new(), "{node}");
        assert_eq!(foreign_tables(&lab, node), before, "{node}");
        // The lab's nodes boot with a strict filter on every link.
        let filters = filters(&lab, node);
        assert!(filters.len() > 3);
        assert!(filters.iter().all(|l| l.ends_with("= 1")), "{filters:#?}");
        let again = uninstall(&lab, node, Role::RouteAgent);
        assert!(
            again.contains("nothing of the route agent was there"),
            "{again}"
        );
    }
    assert_eq!(
        names(&lab, "east", &path("routeagents")),
        Vec::<String>::new()
    );
}

#[test]
fn a_node_is_clean_within_a_second_whatever_became_of_what_was_there() {
    let lab = small("second");
    // What drops is looked for at each pass over everything.
    let often = [("STRAIT_VERIFY_INTERVAL", "1")];
    for (damage, line) in [
        ("true", "removed nftables table"),
        ("nft flush ruleset", "removed route 10.102.0.0/16"),
        ("ip link delete vx-submariner", "removed nftables table"),
    ] {
        let said = in_a_second(&lab, "east-2", 2, damage);
        assert!(said.contains(line), "after '{damage}': {said}");
        lab.restart("east-2", Role::RouteAgent).expect("it starts");
    }
    // An administrator's filter, which the agent opens for what it knows.
    let run = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        lab.exec("east-2", &words).expect("it runs")
    };
    run("iptables-nft -P FORWARD DROP");
    lab.restart_with("east-2", Role::RouteAgent, &often)
        .expect("it starts");
    let accepts = || run("iptables-nft-save").contains("--comment strait");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !accepts() {
        assert!(Instant::now() < deadline, "it is never opened");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = in_a_second(&lab, "east-2", 2, "true");
    assert!(!accepts(), "{said}");
    let filter = run("iptables-nft-save");
    assert!(filter.contains(":FORWARD DROP"), "{filter}");
}

#[test]
fn a_node_is_clean_within_a_second_with_a_thousand_other_clusters() {
    const MANY: u32 = 1000;
    let lab = small("thousand");
    // It would remove the Endpoints that no broker knows.
    lab.kill("east-1", Role::Gateway).expect("it ends");
    for number in 0..MANY {
        let cluster = format!("many-{number}");
        let (high, low) = (number / 128, number % 128 * 2);
        let endpoint = json!({
            "apiVersion": "submariner.io/v1",
            "kind": "Endpoint",
            "metadata": {"name": cluster, "namespace": NAMESPACE, "labels": {"submariner-io/clusterID": cluster}},
            "spec": {
                "cluster_id": cluster,
                "cable_name": format!("submariner-cable-{cluster}"),
                "hostname": cluster,
                "subnets": [format!("11.{high}.{low}.0/24"), format!("11.{high}.{}.0/24", low + 1)],
                "healthCheckIP": format!("11.{high}.{low}.1"),
                "private_ip": format!("198.18.{}.{}", number / 256, number % 256),
                "public_ip": "",
                "nat_enabled": false,
                "backend": "vxlan",
                "backend_config": {"udp-port": "4500"},
            },
        });
        lab.api("east", "POST", &path("endpoints"), &endpoint)
            .expect("it is created");
    }
    // To each subnet its route, and what stands under it.
    let said = in_a_second(&lab, "east-2", 4 * MANY as usize, "true");
    assert!(said.contains("removed route 11.7."), "{said}");
}

#[test]
fn forwarding_of_ipv6_is_off_again_if_it_was_before() {
    let lab = joined(
        "forwarding",
        Options {
            nodes: 2,
            families: Families::V6,
            ..Options::default()
        },
    );
    const FORWARDING: &str = "net.ipv6.conf.all.forwarding";
    let sysctl = |words: &[&str]| lab.exec("east-2", &[&["sysctl"], words].concat());
    let value = || {
        sysctl(&["-n", FORWARDING])
            .expect("sysctl")
            .trim()
            .to_owned()
    };
    lab.kill("east-2", Role::RouteAgent).expect("it ends");
    let said = uninstall(&lab, "east-2", Role::RouteAgent);
    // The lab's nodes boot as routers.
    assert!(!said.contains("ipv6/conf/all/forwarding"), "{said}");
    sysctl(&["-w", &format!("{FORWARDING}=0")]).expect("sysctl");
    lab.restart("east-2", Role::RouteAgent).expect("it starts");
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("the clusters are joined again");
    assert_eq!(value(), "1");
    lab.kill("east-2", Role::RouteAgent).expect("it ends");
    let said = uninstall(&lab, "east-2", Role::RouteAgent);
    let line = "set sysctl net/ipv6/conf/all/forwarding back to 0";
    assert!(said.contains(line), "{said}");
    assert_eq!(value(), "0");
}

#[test]
fn what_others_put_in_place_of_ours_or_changed_since_stays() {
    let lab = small("foreign");
    let run = |command: &str| {
        let words: Vec<&str> = command.split_whitespace().collect();
        lab.exec("east-2", &words).expect("it runs")
    };
    lab.kill("east-2", Role::RouteAgent).expect("it ends");
    run("ip link del vx-submariner");
    run("ip link add vx-submariner type bridge");
    run("sysctl -w net.ipv4.conf.eth0.rp_filter=0");
    let said = uninstall(&lab, "east-2", Role::RouteAgent);
    assert!(
        said.contains("net/ipv4/conf/cni0/rp_filter back to 1"),
        "{said}"
    );
    assert!(
        !said.contains("vx-submariner") && !said.contains("eth0"),
        "{said}"
    );
    assert!(run("ip -d link show vx-submariner").contains("bridge"));
    assert_eq!(run("sysctl -n net.ipv4.conf.eth0.rp_filter").trim(), "0");
    run("ip link del vx-submariner");
    assert_eq!(leftovers(&lab, "east-2"), Vec::<String>::new());
}

#[test]
fn a_node_is_cleaned_while_the_api_is_away_and_while_somebody_else_changes_things() {
    let lab = small("away");
    lab.kill("east-2", Role::RouteAgent).expect("it ends");
    lab.kill("control-east", Role::Apiserver).expect("it ends");
    let churn = "while :; do nft add table inet churn; nft delete table inet churn; \
        ip link add churn0 type bridge; ip addr add 192.0.2.1/24 dev churn0; ip link del churn0; done";
    let mut churn = lab
        .command("east-2", ["timeout", "30", "sh", "-c", churn])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    std::thread::sleep(Duration::from_millis(200));
    let said = uninstall(&lab, "east-2", Role::RouteAgent);
    assert_eq!(churn.try_wait().expect("a child"), None, "it still goes on");
    let _ = churn.kill();
    let _ = churn.wait();
    assert!(said.contains("removed link vx-submariner"), "{said}");
    assert!(!said.contains("RouteAgent"), "{said}");
    assert_eq!(leftovers(&lab, "east-2"), Vec::<String>::new());
    assert!(
        filters(&lab, "east-2")
            .iter()
            .all(|l| l.ends_with("= 1") || l.contains("churn"))
    );
}

#[test]
fn an_agent_that_still_runs_is_told_of() {
    let lab = small("runs");
    let error = lab.run("east-2", Role::RouteAgent, &ASKED).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("come back") && error.contains("removed route"),
        "{error}"
    );
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("the agent has put all back");
}

#[test]
fn uninstalling_a_gateway_removes_its_cable_and_what_it_published() {
    let lab = joined(
        "gateway",
        Options {
            nodes: 2,
            families: Families::Dual,
            ..Options::default()
        },
    );
    let link = |name: &str| lab.exec("east-1", &["ip", "link", "show", name]).is_ok();
    let brokers =
        |kind: &str| format!("/apis/submariner.io/v1/namespaces/submariner-k8s-broker/{kind}");
    assert!(link("vxlan-tunnel") && link("vxlan-tunnel-6"));
    for role in [Role::RouteAgent, Role::Gateway] {
        lab.kill("east-1", role).expect("it ends");
    }
    // The route agent leaves the gateway's, and the gateway what is none of its.
    let said = uninstall(&lab, "east-1", Role::RouteAgent);
    assert!(
        !said.contains("vxlan-tunnel") && link("vxlan-tunnel"),
        "{said}"
    );
    let said = uninstall(&lab, "east-1", Role::Gateway);
    for part in [
        "removed link vxlan-tunnel\n",
        "removed link vxlan-tunnel-6\n",
        "removed Gateway submariner-operator/east-1 from the cluster",
        "removed Endpoint submariner-operator/east-",
        "removed Endpoint submariner-operator/west-",
        "removed Cluster submariner-operator/east from the cluster",
        "removed Endpoint submariner-k8s-broker/east-",
        "removed Cluster submariner-k8s-broker/east from the broker",
        "removed Lease submariner-operator/submariner-gateway-lock from the cluster",
        "removed Secret submariner-operator/strait-gateway-hello from the cluster",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    assert_eq!(shared(&lab), [false, false]);
    assert!(!link("vxlan-tunnel") && !link("vxlan-tunnel-6"));
    assert_eq!(leftovers(&lab, "east-1"), Vec::<String>::new());
    for kind in ["gateways", "endpoints", "clusters"] {
        assert_eq!(names(&lab, "east", &path(kind)), Vec::<String>::new());
    }
    // Other clusters' stay on the broker.
    assert_eq!(names(&lab, "broker", &brokers("clusters")), ["west"]);
    let endpoints = names(&lab, "broker", &brokers("endpoints"));
    assert!(
        endpoints.len() == 1 && endpoints[0].starts_with("west-"),
        "{endpoints:?}"
    );
    let again = uninstall(&lab, "east-1", Role::Gateway);
    assert_eq!(again, "nothing of the gateway was on this node\n");
    // It comes back as it was.
    for role in [Role::Gateway, Role::RouteAgent] {
        lab.restart("east-1", role).expect("it starts");
    }
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("the clusters are joined again");
}

#[test]
fn uninstalling_a_gateway_with_wireguard_leaves_no_key_on_the_node_and_says_so() {
    let lab = joined(
        "keys",
        Options {
            nodes: 2,
            cable: Cable::Wireguard,
            ..Options::default()
        },
    );
    let state = "/run/strait-lab/east-1/gateway";
    let run = |words: &[&str]| lab.exec("east-1", words);
    let files = || run(&["ls", state]).expect("the directory");
    let strait = binary().to_str().expect("a path");
    let rotate = [
        strait,
        "gateway",
        "--rotate-key",
        "--strait-state-dir",
        state,
    ];
    run(&rotate).expect("another key");
    run(&["touch", &format!("{state}/theirs")]).expect("touch");
    lab.kill("east-1", Role::Gateway).expect("it ends");
    let before = files();
    for name in ["wireguard.key\n", "wireguard.key.next\n", "theirs\n"] {
        assert!(before.contains(name), "no {name} in: {before}");
    }
    let said = uninstall(&lab, "east-1", Role::Gateway);
    for name in before.lines().filter(|name| *name != "theirs") {
        let line = format!("removed {state}/{name}\n");
        assert!(said.contains(&line), "no '{line}' in: {said}");
    }
    assert_eq!(files(), "theirs\n");
    run(&["rm", &format!("{state}/theirs")]).expect("rm");
    // It comes back with another key, and goes with the directory.
    lab.restart("east-1", Role::Gateway).expect("it starts");
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("the clusters are joined again");
    lab.kill("east-1", Role::Gateway).expect("it ends");
    let said = uninstall(&lab, "east-1", Role::Gateway);
    assert!(said.contains(&format!("removed {state}\n")), "{said}");
    assert!(run(&["ls", state]).is_err());
    let again = uninstall(&lab, "east-1", Role::Gateway);
    assert_eq!(again, "nothing of the gateway was on this node\n");
}

const NAMESPACE: &str = "submariner-operator";

/// Whether the Lease and the secret of east's gateways are there.
fn shared(lab: &Lab) -> [bool; 2] {
    [
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/submariner-gateway-lock"
        ),
        format!("/api/v1/namespaces/{NAMESPACE}/secrets/strait-gateway-hello"),
    ]
    .map(|path| lab.api("east", "GET", &path, &Value::Null).is_ok())
}

#[test]
fn of_several_gateways_the_last_takes_what_they_share_and_says_what_is_left_where_no_api_answers() {
    let lab = joined(
        "several",
        Options {
            gateways: 2,
            ..Options::default()
        },
    );
    let endpoints = || names(&lab, "east", &path("endpoints"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while names(&lab, "east", &path("gateways")) != ["east-1", "east-2"] {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    let before = endpoints();
    assert_eq!(before.len(), 2, "{before:?}");
    lab.kill("east-2", Role::Gateway).expect("it ends");
    let said = uninstall(&lab, "east-2", Role::Gateway);
    for part in [
        "removed Gateway submariner-operator/east-2 from the cluster",
        "left what is of the cluster's other gateways too: east-1",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    for part in ["Endpoint", "Lease", "Secret", "broker"] {
        assert!(!said.contains(part), "'{part}' in: {said}");
    }
    assert_eq!(shared(&lab), [true, true]);
    assert_eq!(names(&lab, "east", &path("gateways")), ["east-1"]);

    lab.kill("east-1", Role::Gateway).expect("it ends");
    // It takes connections, and says nothing.
    lab.stop("control-east", None).expect("it stands still");
    let said = uninstall(&lab, "east-1", Role::Gateway);
    for part in [
        "removed link vxlan-tunnel\n",
        "not removed from the cluster (no answer within 2s): Gateway submariner-operator/east-1; ",
        "Lease submariner-operator/submariner-gateway-lock and Secret submariner-operator/strait-gateway-hello",
    ] {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
    lab.heal("control-east", None).expect("it goes on");
    let said = uninstall(&lab, "east-1", Role::Gateway);
    assert!(said.contains("removed Lease"), "{said}");
    assert_eq!(shared(&lab), [false, false]);
    assert_eq!(endpoints(), [""; 0]);
    assert_eq!(names(&lab, "east", &path("gateways")), [""; 0]);
}

#[test]
fn an_agent_that_comes_back_after_an_uninstallation_sets_all_up_again() {
    let lab = joined(
        "reinstall",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    lab.kill("east-2", Role::RouteAgent).expect("it ends");
    let binary = binary().to_str().expect("a path");
    // By hand, without any other setting.
    let by_hand = [binary, "route-agent", "--submariner-uninstall", "true"];
    let said = lab.exec("east-2", &by_hand).expect("it succeeds");
    assert!(said.contains("removed link vx-submariner"), "{said}");
    lab.restart("east-2", Role::RouteAgent).expect("it starts");
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("the clusters are joined again");
}
