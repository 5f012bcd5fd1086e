//! What users get when they come from Submariner: what its route agent left on a node is taken over or removed, and no packet
//! of a pod is lost.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{binary, joined};
use strait_lab::{Lab, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(20);
const AGENTS: &str = "/apis/submariner.io/v1/namespaces/submariner-operator/routeagents";
/// Packets of a flow, one a millisecond.
const PACKETS: usize = 8000;

fn lab(purpose: &str, adopt: bool) -> Lab {
    let mut environment = vec![("STRAIT_VERIFY_INTERVAL".to_owned(), "1".to_owned())];
    if adopt {
        environment.push(("STRAIT_ADOPT".to_owned(), "true".to_owned()));
    }
    joined(
        purpose,
        Options {
            nodes: 2,
            environment,
            ..Options::default()
        },
    )
}

fn shell(lab: &Lab, node: &str, script: &str) -> String {
    let said = lab.exec(node, &["sh", "-ec", script]);
    said.unwrap_or_else(|error| panic!("{node}: {error:#}\n{script}"))
}

/// Reads something while the agent is at work: a look at a ruleset that changes meanwhile may fail, and is taken again.
fn look(lab: &Lab, node: &str, script: &str) -> String {
    for _ in 0..20 {
        if let Ok(said) = lab.exec(node, &["sh", "-ec", script]) {
            return said;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    shell(lab, node, script)
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

/// What others have on a node, in the tables where Submariner writes too. The CNI masquerades there as well: what nftables
/// masquerades of their own would never pass Submariner's way.
fn foreign(lab: &Lab, node: &str, tool: &str) {
    shell(
        lab,
        node,
        &format!(
            "
            {tool} -t nat -N THEIRS
            {tool} -t nat -A THEIRS -s 192.0.2.0/24 -p tcp -m tcp --dport 80 -j RETURN
            {tool} -t nat -A POSTROUTING -m comment --comment theirs -j THEIRS
            {tool} -t nat -A POSTROUTING -s 10.101.0.0/16 ! -d 10.101.0.0/16 -j MASQUERADE
            nft delete table ip cni
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

/// What Submariner's route agent and its packet filter put on every node.
fn upstream_filter(lab: &Lab, node: &str, tool: &str, cni: &str) {
    let mut script = format!(
        "
        ipset create SUBMARINER-LOCALCIDRS hash:net
        ipset create SUBMARINER-REMOTECIDRS hash:net
        ipset add SUBMARINER-LOCALCIDRS 10.101.0.0/16
        ipset add SUBMARINER-REMOTECIDRS 10.102.0.0/16
        {tool} -t nat -N SUBMARINER-POSTROUTING
        {tool} -t nat -I POSTROUTING 1 -j SUBMARINER-POSTROUTING
        {tool} -t nat -A SUBMARINER-POSTROUTING -s 240.0.0.0/8 -o vx-submariner -j SNAT --to-source {cni}
        {tool} -t filter -N SUBMARINER-INPUT
        {tool} -t filter -A INPUT -p udp -m udp -j SUBMARINER-INPUT
        {tool} -t filter -A SUBMARINER-INPUT -p udp -m udp --dport 4800 -j ACCEPT
        {tool} -t filter -N SUBMARINER-FORWARD
        {tool} -t filter -I FORWARD 1 -j SUBMARINER-FORWARD
        {tool} -t filter -A SUBMARINER-FORWARD -o vx-submariner -j ACCEPT
        {tool} -t mangle -N SUBMARINER-POSTROUTING
        {tool} -t mangle -I POSTROUTING 1 -j SUBMARINER-POSTROUTING
        "
    );
    for remote in ["10.102.0.0/16", "10.152.0.0/16"] {
        for (from, to) in [("10.101.0.0/16", remote), (remote, "10.101.0.0/16")] {
            script +=
                &format!("{tool} -t nat -A SUBMARINER-POSTROUTING -s {from} -d {to} -j ACCEPT\n");
        }
    }
    for (from, to) in [("LOCAL", "REMOTE"), ("REMOTE", "LOCAL")] {
        script += &format!(
            "{tool} -t mangle -A SUBMARINER-POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN \
             -m set --match-set SUBMARINER-{from}CIDRS src -m set --match-set SUBMARINER-{to}CIDRS dst -j TCPMSS --clamp-mss-to-pmtu\n"
        );
    }
    shell(lab, node, &script);
}

const SYSCTLS: &str = "
    sysctl -q net.ipv4.conf.vx-submariner.forwarding=1
    sysctl -q net.ipv4.conf.eth0.rp_filter=2
";

/// The worker as Submariner leaves it: the gateway's Ethernet address unknown, all flooded to it, and some things of
/// yesterday: an address, a cluster that has left, a time as a gateway.
fn upstream_worker(lab: &Lab, cni: &str) {
    shell(
        lab,
        "east-2",
        &format!(
            "
            ip link add vx-submariner type vxlan id 100 dstport 4800 nolearning remote 172.30.1.11
            ip address add 240.30.1.12/8 dev vx-submariner
            ip address add 240.99.1.12/8 dev vx-submariner
            ip link set vx-submariner mtu 1450 up
            {SYSCTLS}
            for net in 10.102.0.0/16 10.152.0.0/16 10.188.0.0/16; do
                ip route add $net via 240.30.1.11 dev vx-submariner proto static
            done
            ip rule add pref 150 lookup 150 protocol 0
            ip route add 10.187.0.0/16 dev eth0 scope link src {cni} table 150 proto static
            "
        ),
    );
}

/// The gateway as Submariner leaves it, with its VXLAN cable's routes.
fn upstream_gateway(lab: &Lab, cni: &str) {
    shell(
        lab,
        "east-1",
        &format!(
            "
            ip link add vx-submariner type vxlan id 100 dstport 4800 nolearning
            ip address add 240.30.1.11/8 dev vx-submariner
            ip link set vx-submariner mtu 1450 up
            for node in 172.30.1.11 172.30.1.12; do
                bridge fdb append 00:00:00:00:00:00 dev vx-submariner dst $node
            done
            {SYSCTLS}
            sysctl -q net.ipv4.conf.vx-submariner.rp_filter=2
            ip rule add pref 100 lookup 100 protocol 0
            ip rule add pref 150 lookup 150 protocol 0
            for net in 10.102.0.0/16 10.152.0.0/16; do
                ip route add $net via 241.30.2.11 dev vxlan-tunnel src {cni} table 100 proto static
                ip route add $net dev eth0 scope link src {cni} table 150 proto static
            done
            "
        ),
    );
}

/// All that is Submariner's on a node, as foreign tools show it, but for the device, which is ours once it has our mark.
fn leftovers(lab: &Lab, node: &str) -> Vec<String> {
    let mut left = Vec::new();
    for tool in ["iptables-nft", "iptables-legacy"] {
        let text = look(lab, node, &format!("{tool}-save"));
        let lines = text.lines().filter(|line| line.contains("SUBMARINER"));
        left.extend(lines.map(|line| format!("{tool}: {line}")));
    }
    let sets = look(lab, node, "ipset list -n");
    left.extend(
        sets.lines()
            .filter(|l| l.contains("SUBMARINER"))
            .map(str::to_owned),
    );
    let rules = look(lab, node, "ip rule");
    let theirs = |line: &&str| {
        (line.starts_with("150:") || line.starts_with("100:")) && !line.contains("proto 83")
    };
    left.extend(rules.lines().filter(theirs).map(str::to_owned));
    for table in ["main", "100", "150"] {
        let routes = look(
            lab,
            node,
            &format!("ip route show table {table} 2>/dev/null || true"),
        );
        let theirs = |line: &&str| {
            let device = line.contains("vx-submariner") || line.contains("vxlan-tunnel");
            let of_kernel = line.contains("proto kernel") || line.contains("proto 83");
            (device || table == "150") && !of_kernel
        };
        left.extend(
            routes
                .lines()
                .filter(theirs)
                .map(|line| format!("table {table}: {line}")),
        );
    }
    let addresses = look(lab, node, "ip -o -4 address show dev vx-submariner");
    left.extend(
        addresses
            .lines()
            .filter(|l| l.contains("240.99."))
            .map(str::to_owned),
    );
    left
}

/// All that is somebody else's.
fn others(lab: &Lab, node: &str) -> String {
    let text = look(
        lab,
        node,
        "
        iptables-nft-save; iptables-legacy-save; ipset save; nft list tables; ip rule; ip route show table 151
        ip route show proto static
        ",
    );
    let other = |line: &&str| {
        let ours = ["strait", "proto 83", "SUBMARINER", "vx-submariner"];
        let rules = ["#", "150:", "100:"];
        !rules.iter().any(|mark| line.starts_with(mark))
            && !ours.iter().any(|mark| line.contains(mark))
    };
    // What the policies have counted changes all the time.
    let plain = |line: &str| {
        line.split(" [")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let lines: Vec<String> = text.lines().filter(other).map(plain).collect();
    lines.join("\n")
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

fn node(lab: &Lab, name: &str) -> (String, String) {
    let node = lab.topology().node(name).expect("a node").1;
    (
        node.cni_address.to_string(),
        node.pods[0].address.to_string(),
    )
}

/// Index and Ethernet address.
fn device(lab: &Lab, node: &str) -> (String, String) {
    let show = |what: &str| {
        let path =
            format!("ip -j link show vx-submariner | sed 's/.*\"{what}\":\"*\\([^,\"]*\\).*/\\1/'");
        shell(lab, node, &path)
    };
    (show("ifindex"), show("address"))
}

fn log(lab: &Lab, node: &str) -> String {
    let path = lab.logs().join(format!("{node}-route-agent.log"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The node's agent comes, and nothing of a pod's is lost.
fn taken_over(purpose: &str, tools: [&str; 2], order: [&str; 2]) {
    let lab = lab(purpose, true);
    let target = node(&lab, "west-2").1;
    for (at, tool) in ["east-1", "east-2"].into_iter().zip(tools) {
        without_ours(&lab, at);
        foreign(&lab, at, tool);
        upstream_filter(&lab, at, tool, &node(&lab, at).0);
    }
    upstream_gateway(&lab, &node(&lab, "east-1").0);
    upstream_worker(&lab, &node(&lab, "east-2").0);
    for from in ["east-1-a", "east-2-a", "east-2"] {
        let probe = Probe::tcp(from, "west-2-a");
        let seen = lab.probe_until(&probe, PATIENCE, |_| true);
        seen.unwrap_or_else(|error| panic!("Submariner's way from {from}: {error:#}"));
    }
    let before: Vec<_> = ["east-1", "east-2"]
        .map(|n| (others(&lab, n), device(&lab, n)))
        .into();
    assert!(leftovers(&lab, "east-1").len() > 15 && leftovers(&lab, "east-2").len() > 15);
    let mut flows = [
        ("east-1-a", flow(&lab, "east-1-a", &target)),
        ("east-2-a", flow(&lab, "east-2-a", &target)),
    ];
    std::thread::sleep(Duration::from_millis(500));
    for at in order {
        lab.restart(at, Role::RouteAgent).expect("it starts");
        gone(&lab, at);
    }
    for (from, child) in &mut flows {
        let ended = child.try_wait().expect("it can be asked");
        assert!(ended.is_none(), "{from}: the flow must outlast this");
    }
    for (at, before) in ["east-1", "east-2"].into_iter().zip(before) {
        let after = (others(&lab, at), device(&lab, at));
        assert_eq!(
            after, before,
            "{at}: others' objects, and the very same device"
        );
    }
    lab.wait_until_joined(PATIENCE)
        .expect("all reach all, with the right sources");
    for (from, child) in flows {
        let output = child.wait_with_output().expect("ping ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = format!("{PACKETS} packets transmitted, {PACKETS} received");
        assert!(text.contains(&all), "{from}: {text}");
    }
    let said = log(&lab, "east-2");
    for name in [
        "link vx-submariner",
        "route 10.102.0.0/16 in table 254 by vx-submariner",
        "route 10.188.0.0/16 in table 254 by vx-submariner",
        "route 10.187.0.0/16 in table 150 by eth0",
        "IPv4 rule 150 to table 150",
        &format!("chain SUBMARINER-POSTROUTING of {} -t nat", tools[1]),
        &format!("chain SUBMARINER-POSTROUTING of {} -t mangle", tools[1]),
        &format!("chain SUBMARINER-FORWARD of {} -t filter", tools[1]),
        "ipset SUBMARINER-LOCALCIDRS",
    ] {
        assert!(said.contains(name), "'{name}' is not named in {said}");
    }
}

#[test]
fn from_iptables_nft_with_the_worker_first_no_packet_of_a_pod_is_lost() {
    taken_over("adopt-nft", ["iptables-nft"; 2], ["east-2", "east-1"]);
}

#[test]
fn from_iptables_legacy_with_the_gateway_first_no_packet_of_a_pod_is_lost() {
    taken_over("adopt-legacy", ["iptables-legacy"; 2], ["east-1", "east-2"]);
}

#[test]
fn without_the_wish_leftovers_and_another_agent_at_work_are_named_and_nothing_is_touched() {
    let lab = lab("adopt-not", false);
    let at = "east-2";
    upstream_filter(&lab, at, "iptables-nft", &node(&lab, at).0);
    shell(
        &lab,
        at,
        "ip rule add pref 150 lookup 150 protocol 0; nft add table ip submariner-ipv4",
    );
    let before = leftovers(&lab, at);
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
            &["chain SUBMARINER-INPUT of iptables-nft -t filter"],
        ),
    ] {
        wait_until(condition, || {
            let said = message(&lab, at, condition).unwrap_or_default();
            let missing = names.iter().find(|name| !said.contains(**name))?;
            Some(format!("no '{missing}' in '{said}'"))
        });
    }
    assert_eq!(leftovers(&lab, at), before);
    for from in ["east-2-a", "east-2"] {
        let probe = Probe::tcp(from, "west-2-a");
        lab.probe_until(&probe, PATIENCE, |_| true)
            .expect("it hurts nobody");
    }
}

#[test]
fn what_others_still_need_stays_and_is_named_with_what_to_do() {
    let lab = lab("adopt-kept", true);
    let at = "east-2";
    lab.kill(at, Role::RouteAgent).expect("it ends");
    let (cni, pod) = node(&lab, at);
    upstream_filter(&lab, at, "iptables-legacy", &cni);
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
