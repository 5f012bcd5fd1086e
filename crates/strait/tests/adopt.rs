//! What users get when they come from Submariner: what its route agent left on a node is taken over or removed, and no packet
//! of a pod is lost.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;
mod upstream;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{binary, joined, show};
use serde_json::{Value, json};
use strait_lab::{Families, Family, Lab, Options, Probe, Role};
use upstream::{Side, V4, V6, device, leftovers, others, shell};

const PATIENCE: Duration = Duration::from_secs(20);
const AGENTS: &str = "/apis/submariner.io/v1/namespaces/submariner-operator/routeagents";
const ENDPOINTS: &str = "/apis/submariner.io/v1/namespaces/submariner-k8s-broker/endpoints";
/// Packets of a flow, one a millisecond.
const PACKETS: usize = 8000;

fn lab(purpose: &str, families: Families, adopt: bool) -> Lab {
    let mut environment = vec![("STRAIT_VERIFY_INTERVAL".to_owned(), "1".to_owned())];
    if adopt {
        environment.push(("STRAIT_ADOPT".to_owned(), "true".to_owned()));
    }
    joined(
        purpose,
        Options {
            nodes: 2,
            families,
            environment,
            ..Options::default()
        },
    )
}

/// Takes our route agent off a node, as if it had never been there.
fn without_ours(lab: &Lab, node: &str) {
    lab.kill(node, Role::RouteAgent).expect("it ends");
    let binary = binary().to_str().expect("a path");
    let uninstall = [binary, "route-agent", "--submariner-uninstall", "true"];
    lab.exec(node, &uninstall).expect("it succeeds");
    let cluster = node.split('-').next().expect("a cluster");
    let object = format!("{AGENTS}/{node}");
    // It is gone already where the uninstallation knew the node's name.
    let _ = lab.api(cluster, "DELETE", &object, &serde_json::Value::Null);
    assert!(
        lab.api(cluster, "GET", &object, &serde_json::Value::Null)
            .is_err(),
        "{object} is gone"
    );
}

/// What others have on a node, in the tables where Submariner writes too.
fn foreign(lab: &Lab, node: &str, tool: &str) {
    shell(
        lab,
        node,
        &format!(
            "
            {tool} -t nat -N THEIRS
            {tool} -t nat -A THEIRS -s 192.0.2.0/24 -p tcp -m tcp --dport 80 -j RETURN
            {tool} -t nat -A POSTROUTING -m comment --comment theirs -j THEIRS
            {tool} -t filter -N THEIRS
            {tool} -t filter -A THEIRS -m conntrack --ctstate INVALID -j DROP
            {tool} -t filter -A FORWARD -j THEIRS
            {tool} -t filter -A INPUT -p udp -m udp --dport 9999 -j DROP
            {tool} -t mangle -A POSTROUTING -d 192.0.2.0/24 -j MARK --set-xmark 0x1/0x1
            ipset create THEIRS hash:net
            ipset add THEIRS 192.0.2.0/24
            nft add table inet theirs
            ip rule add pref 151 from 192.0.2.0/24 lookup 151
            ip route add 192.0.2.0/24 dev eth0 table 151 proto static
            ip route add 10.189.0.0/16 dev eth0 proto static
            "
        ),
    );
}

fn flow(lab: &Lab, from: &str, target: &str) -> Child {
    let count = PACKETS.to_string();
    let ping = [
        "ping", "-n", "-i", "0.001", "-q", "-c", &count, "-W", "2", target,
    ];
    lab.command(from, ping)
        .stdout(Stdio::piped())
        .spawn()
        .expect("ping starts")
}

fn wait_until(what: &str, good: impl Fn() -> Option<String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Some(why) = good() {
        assert!(Instant::now() < deadline, "{what}: {why}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn gone(lab: &Lab, node: &str) {
    wait_until(node, || {
        let left = leftovers(lab, node);
        (!left.is_empty()).then(|| format!("{left:#?}"))
    });
}

/// What the route agent of a node says of a condition, if it holds.
fn message(lab: &Lab, node: &str, condition: &str) -> Option<String> {
    let status = lab.status().expect("the lab answers");
    let agent = status
        .processes
        .into_iter()
        .find(|process| process.role == Role::RouteAgent && process.place == node);
    agent?.readiness?.degraded.get(condition).cloned()
}

/// The CNI address of a node, and the address of its first pod.
fn node(lab: &Lab, name: &str, family: Family) -> (String, String) {
    let node = lab.topology().node(name).expect("a node").1;
    let cni = node.cni_ip(family).expect("a CNI address");
    (cni.to_string(), node.pods[0].ip(family).to_string())
}

fn log(lab: &Lab, node: &str) -> String {
    let path = lab.logs().join(format!("{node}-route-agent.log"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Flows of pods at 1 kHz.
struct Flows(Vec<(String, Child)>);

impl Flows {
    fn start(lab: &Lab, sides: &[&Side], ways: &[(&str, &str)]) -> Self {
        let all = sides
            .iter()
            .flat_map(|side| ways.iter().map(move |way| (side, way)));
        let flows = all.map(|(side, (from, to))| {
            let target = node(lab, to, side.family).1;
            (format!("{from} to {target}"), flow(lab, from, &target))
        });
        Self(flows.collect())
    }

    /// They went on during all that was done, and nothing of theirs is lost.
    fn end(mut self, done: impl FnOnce()) {
        for (way, child) in &mut self.0 {
            let ended = child.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "{way}: the flow must outlast this");
        }
        done();
        for (way, child) in self.0 {
            let output = child.wait_with_output().expect("ping ends");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let all = format!("{PACKETS} packets transmitted, {PACKETS} received");
            assert!(text.contains(&all), "{way}: {text}");
        }
    }
}

/// The node's agent comes, and nothing of a pod's is lost.
fn taken_over(purpose: &str, families: Families, tools: [&str; 2], order: [&str; 2]) {
    let lab = lab(purpose, families, true);
    let sides: &[&Side] = match families {
        Families::V4 => &[&V4],
        Families::V6 => &[&V6],
        Families::Dual => &[&V4, &V6],
    };
    for (at, tool) in ["east-1", "east-2"].into_iter().zip(tools) {
        without_ours(&lab, at);
        foreign(&lab, at, tool);
        for side in sides {
            side.masquerade(&lab, at, tool);
            side.filter(&lab, at, tool, &node(&lab, at, side.family).0);
        }
    }
    for side in sides {
        side.gateway(&lab, &node(&lab, "east-1", side.family).0);
        side.worker(&lab, &node(&lab, "east-2", side.family).0);
        for from in ["east-1-a", "east-2-a", "east-2"] {
            let probe = Probe::tcp(from, "west-2-a").over(side.family);
            let seen = lab.probe_until(&probe, PATIENCE, |_| true);
            seen.unwrap_or_else(|error| panic!("Submariner's way from {from}: {error:#}"));
        }
    }
    let devices = |at: &str| -> Vec<_> {
        let all = sides.iter();
        all.map(|side| device(&lab, at, side.device)).collect()
    };
    let before: Vec<_> = ["east-1", "east-2"]
        .map(|n| (others(&lab, n), devices(n)))
        .into();
    assert!(leftovers(&lab, "east-1").len() > 15 && leftovers(&lab, "east-2").len() > 15);
    let ways = [("east-1-a", "west-2"), ("east-2-a", "west-2")];
    let flows = Flows::start(&lab, sides, &ways);
    std::thread::sleep(Duration::from_millis(500));
    for at in order {
        lab.restart(at, Role::RouteAgent).expect("it starts");
        gone(&lab, at);
    }
    flows.end(|| {
        for (at, before) in ["east-1", "east-2"].into_iter().zip(before) {
            let after = (others(&lab, at), devices(at));
            assert_eq!(
                after, before,
                "{at}: others' objects, and the very same devices"
            );
        }
        lab.wait_until_joined(PATIENCE)
            .expect("all reach all, with the right sources");
    });
    let said = log(&lab, "east-2");
    let mut names = Vec::new();
    if families != Families::V6 {
        names.extend([
            "link vx-submariner".to_owned(),
            "route 10.102.0.0/16 in table 254 by vx-submariner".to_owned(),
            "route 10.188.0.0/16 in table 254 by vx-submariner".to_owned(),
            "route 10.187.0.0/16 in table 150 by eth0".to_owned(),
            "IPv4 rule 150 to table 150".to_owned(),
            format!("chain SUBMARINER-POSTROUTING of {} -t nat", tools[1]),
            format!("chain SUBMARINER-POSTROUTING of {} -t mangle", tools[1]),
            format!("chain SUBMARINER-FORWARD of {} -t filter", tools[1]),
            "ipset SUBMARINER-LOCALCIDRS".to_owned(),
        ]);
    }
    if families != Families::V4 {
        let tool = tools[1].replace("iptables", "ip6tables");
        names.extend([
            "link vx-submariner-6".to_owned(),
            "route fd10:102::/48 in table 254 by vx-submariner-6".to_owned(),
            "route fd10:188::/48 in table 254 by vx-submariner-6".to_owned(),
            "route fd10:187::/48 in table 150 by eth0".to_owned(),
            "IPv6 rule 150 to table 150".to_owned(),
            format!("chain SUBMARINER-POSTROUTING of {tool} -t nat"),
            "nftables table ip6 submariner-ipv6".to_owned(),
        ]);
    }
    for name in names {
        assert!(said.contains(&name), "'{name}' is not named in {said}");
    }
}

#[test]
fn from_iptables_nft_with_the_worker_first_no_packet_of_a_pod_is_lost() {
    taken_over(
        "adopt-nft",
        Families::V4,
        ["iptables-nft"; 2],
        ["east-2", "east-1"],
    );
}

#[test]
fn from_iptables_legacy_with_the_gateway_first_no_packet_of_a_pod_is_lost() {
    taken_over(
        "adopt-legacy",
        Families::V4,
        ["iptables-legacy"; 2],
        ["east-1", "east-2"],
    );
}

#[test]
fn in_both_families_no_packet_of_a_pod_is_lost() {
    taken_over(
        "adopt-dual",
        Families::Dual,
        ["iptables-nft"; 2],
        ["east-2", "east-1"],
    );
}

#[test]
fn with_ipv6_alone_and_legacy_tables_no_packet_of_a_pod_is_lost() {
    taken_over(
        "adopt-v6",
        Families::V6,
        ["iptables-legacy"; 2],
        ["east-1", "east-2"],
    );
}

#[test]
fn a_gateways_cable_is_taken_over_in_place_and_no_packet_is_lost() {
    let lab = lab("adopt-cable", Families::Dual, false);
    lab.kill("east-1", Role::Gateway).expect("it ends");
    // A gateway of Submariner's publishes no Ethernet address.
    let list = lab
        .api("broker", "GET", ENDPOINTS, &Value::Null)
        .expect("a list");
    let items = list["items"].as_array().expect("items").iter();
    let own = items.map(|o| o["metadata"]["name"].as_str().expect("a name"));
    let own = own
        .into_iter()
        .find(|name| name.starts_with("east-"))
        .expect("an Endpoint");
    let without = json!({"metadata": {"annotations": {"strait.io/vtep-mac": null}}});
    let local = ENDPOINTS.replace("k8s-broker", "operator");
    for (server, path) in [("broker", ENDPOINTS), ("east", &local)] {
        lab.api(server, "PATCH", &format!("{path}/{own}"), &without)
            .expect("a patch");
    }
    for side in [&V4, &V6] {
        side.cable(&lab);
        for (from, to) in [("east-2-a", "west-2-a"), ("west-1-a", "east-1-a")] {
            let probe = Probe::tcp(from, to).over(side.family);
            lab.probe_until(&probe, PATIENCE, |_| true)
                .expect("Submariner's cable carries");
        }
    }
    let devices = || [&V4, &V6].map(|side| device(&lab, "east-1", side.cable));
    let before = devices();
    let ours = |name: &str| {
        shell(
            &lab,
            "east-1",
            &format!("ip link show {name}; bridge fdb show dev {name}"),
        )
    };
    let ways = [("east-2-a", "west-2"), ("west-1-a", "east-1")];
    let flows = Flows::start(&lab, &[&V4, &V6], &ways);
    std::thread::sleep(Duration::from_millis(500));
    lab.restart("east-1", Role::Gateway).expect("it starts");
    for side in [&V4, &V6] {
        wait_until(side.cable, || {
            let seen = ours(side.cable);
            let exact = format!("dst {} self permanent", side.remote);
            let flooded = format!("00:00:00:00:00:00 dst {}", side.remote);
            let done =
                seen.contains("alias strait") && seen.contains(&exact) && !seen.contains(&flooded);
            (!done).then_some(seen)
        });
    }
    // The next process goes on with it.
    lab.restart("east-1", Role::Gateway).expect("it starts");
    flows.end(|| {
        lab.wait_until_joined(PATIENCE).expect("all reach all");
        assert_eq!(devices(), before, "the very same devices");
    });
}

#[test]
fn without_the_wish_leftovers_and_another_agent_at_work_are_named_and_nothing_is_touched() {
    let lab = lab("adopt-not", Families::V4, false);
    let at = "east-2";
    V4.filter(&lab, at, "iptables-nft", &node(&lab, at, Family::V4).0);
    shell(
        &lab,
        at,
        "ip rule add pref 150 lookup 150 protocol 0; nft add table ip submariner-ipv4",
    );
    let before = leftovers(&lab, at);
    // One in the place of ours, which comes back.
    shell(
        &lab,
        at,
        "ip route replace 10.102.0.0/16 via 240.30.1.11 dev vx-submariner proto static",
    );
    for (condition, names) in [
        (
            "SubmarinerLeftovers",
            &[
                "chain SUBMARINER-POSTROUTING of iptables-nft -t nat",
                "nftables table ip submariner-ipv4",
                "ipset SUBMARINER-REMOTECIDRS",
                "IPv4 rule 150 to table 150",
                "`strait route-agent --adopt` removes it",
            ][..],
        ),
        (
            "ForeignAgent",
            &[
                "chain SUBMARINER-INPUT of iptables-nft -t filter",
                "IPv4 rule 150 to table 150",
                "route 10.102.0.0/16 in table 254 by vx-submariner",
            ],
        ),
    ] {
        wait_until(condition, || {
            let said = message(&lab, at, condition).unwrap_or_default();
            let missing = names.iter().find(|name| !said.contains(**name))?;
            Some(format!("no '{missing}' in '{said}'"))
        });
    }
    assert_eq!(leftovers(&lab, at), before);
    // What would go, if it were wished, can be seen.
    let (text, code) = show(&lab, at, &["diff"]);
    assert_eq!((text.as_str(), code), ("nothing to change\n", Some(0)));
    let adopt = |command| show(&lab, at, &[command, "--adopt", "--output", "json"]).0;
    let json = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    let (text, code) = show(&lab, at, &["diff", "--adopt"]);
    assert_eq!(code, Some(1), "{text}");
    for line in [
        "leftover  IPv4 rule 150 to table 150\n",
        "leftover  chain SUBMARINER-POSTROUTING of iptables-nft -t nat with the jumps to it\n",
        "leftover  nftables table ip submariner-ipv4\n",
        "leftover  ipset SUBMARINER-REMOTECIDRS\n",
    ] {
        assert!(text.contains(line), "no '{line}' in {text}");
    }
    let diff = json(adopt("diff"));
    assert_eq!(
        diff["leftovers"].as_array().expect("a list").len(),
        text.lines().count(),
        "{diff:#}"
    );
    assert_eq!(json(adopt("plan"))["leftovers"], diff["leftovers"]);
    assert_eq!(leftovers(&lab, at), before);
    for from in ["east-2-a", "east-2"] {
        let probe = Probe::tcp(from, "west-2-a");
        lab.probe_until(&probe, PATIENCE, |_| true)
            .expect("it hurts nobody");
    }
}

#[test]
fn what_others_still_need_stays_and_is_named_with_what_to_do() {
    let lab = lab("adopt-kept", Families::V4, true);
    let at = "east-2";
    lab.kill(at, Role::RouteAgent).expect("it ends");
    let (cni, pod) = node(&lab, at, Family::V4);
    V4.filter(&lab, at, "iptables-legacy", &cni);
    shell(
        &lab,
        at,
        &format!(
            "
            iptables-legacy -A FORWARD -s 10.102.0.0/16 -d {pod} -j ACCEPT
            iptables-legacy -P FORWARD DROP
            iptables-legacy -t nat -N SUBMARINER-GN-EGRESS
            iptables-legacy -t nat -I SUBMARINER-POSTROUTING 1 -j SUBMARINER-GN-EGRESS
            nft add table ip submariner-ipv4
            nft add chain ip submariner-ipv4 SUBMARINER-GN-EGRESS
            nft add table ip submariner
            "
        ),
    );
    lab.restart(at, Role::RouteAgent).expect("it starts");
    let kept = |lab: &Lab| -> Vec<String> {
        let save =
            "iptables-legacy-save | grep ^:SUBM | cut -d' ' -f1; nft list tables; ipset list -n";
        let all = shell(lab, at, save);
        let theirs = |line: &&str| line.to_lowercase().contains("submariner");
        all.lines().filter(theirs).map(str::to_owned).collect()
    };
    wait_until("what nobody needs goes", || {
        let mut left = kept(&lab);
        left.sort();
        let expected = [
            ":SUBMARINER-FORWARD",
            ":SUBMARINER-GN-EGRESS",
            ":SUBMARINER-POSTROUTING",
            "table ip submariner-ipv4",
        ];
        (left != expected).then(|| format!("{left:#?}"))
    });
    wait_until("the rest is named", || {
        let said = message(&lab, at, "SubmarinerLeftovers").unwrap_or_default();
        let names = [
            "chain SUBMARINER-POSTROUTING of iptables-legacy -t nat with the jumps to it stays: Globalnet",
            "nftables table ip submariner-ipv4 stays: Globalnet",
            "iptables-legacy -t filter -I FORWARD -o vx-submariner -j ACCEPT",
        ];
        let missing = names.iter().find(|name| !said.contains(**name))?;
        Some(format!("no '{missing}' in '{said}'"))
    });
    let probe = Probe::tcp("east-2-a", "west-2-a");
    lab.probe_until(&probe, PATIENCE, |_| true)
        .expect("what stays lets pods through");
    shell(
        &lab,
        at,
        "
        iptables-legacy -t filter -I FORWARD -o vx-submariner -j ACCEPT
        iptables-legacy -t filter -D FORWARD -j SUBMARINER-FORWARD
        iptables-legacy -t filter -F SUBMARINER-FORWARD
        iptables-legacy -t filter -X SUBMARINER-FORWARD
        iptables-legacy -t nat -D SUBMARINER-POSTROUTING -j SUBMARINER-GN-EGRESS
        iptables-legacy -t nat -X SUBMARINER-GN-EGRESS
        nft delete table ip submariner-ipv4
        ",
    );
    wait_until("once nothing hangs on it, it goes", || {
        let left = kept(&lab);
        (!left.is_empty()).then(|| format!("{left:#?}"))
    });
    wait_until("nothing is left to be said", || {
        message(&lab, at, "SubmarinerLeftovers")
    });
    lab.probe_until(&probe, PATIENCE, |_| true)
        .expect("and pods pass");
}
