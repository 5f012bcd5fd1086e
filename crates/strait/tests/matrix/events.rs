//! What happens to a running lab, to cluster `east`; after each all ways must be as they were.

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::{Value, json};
use strait_lab::matrix::{Way, ways};
use strait_lab::topology::Node;
use strait_lab::{Cni, CniChange, Family, Lab, Role};

use super::{PATIENCE, host_ways, other, soon_good};

const GATEWAY: &str = "east-1";
const WORKER: &str = "east-2";
/// Pings of a running flow, one each 10 ms.
const PINGS: usize = 300;
/// Of which so many may be lost by a host whose address changes.
const MAY_BE_LOST: usize = 100;
/// Of which so many may be lost by a pod while its CNI changes the node's address twice.
const CNI_MAY_LOSE: usize = 10;
/// UDP port of the lab's tunnel CNI, which a node's administrator lets in.
const CNI_PORT: u16 = 4789;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The CNI address changes, and changes back, while hosts and pods send.
    CniAddress,
    /// The CNI's device and ours are made anew.
    Recreated,
    /// Somebody flushes the ruleset of every node.
    Flushed,
    /// All agents are killed, and start again.
    Killed,
    /// Another node becomes the gateway, and the first one again.
    GatewayMoved,
    /// A node leaves the cluster, and comes back.
    NodeLeaves,
    /// Somebody sets the reverse-path filter of every link to strict.
    StrictAgain,
    /// iptables-nft drops what it does not know: set up while the agents run, and before they start.
    DropByDefault,
    /// Others masquerade everything that leaves, in nftables and in both kinds of iptables, before and after us.
    Masquerade,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Event {
    pub(crate) const ALL: [Self; 9] = [
        Self::CniAddress,
        Self::Recreated,
        Self::Flushed,
        Self::Killed,
        Self::GatewayMoved,
        Self::NodeLeaves,
        Self::StrictAgain,
        Self::DropByDefault,
        Self::Masquerade,
    ];

    /// Lets it happen. Afterwards all is as before, and every way was tried; what isn't so fails the test.
    pub(crate) fn happen(self, lab: &Lab) {
        match self {
            Self::CniAddress => cni_address(lab),
            Self::Recreated => recreated(lab),
            Self::Flushed => flushed(lab),
            Self::Killed => {
                for (place, role) in agents() {
                    lab.kill(place, role).expect("it ends");
                }
                // What they left in the kernel works meanwhile.
                super::all_good(lab, &ways(lab.topology()));
                for (place, role) in agents() {
                    lab.restart(place, role).expect("it starts");
                }
            }
            Self::GatewayMoved => gateway_moved(lab),
            Self::NodeLeaves => node_leaves(lab),
            Self::StrictAgain => strict_again(lab),
            Self::DropByDefault => drop_by_default(lab),
            Self::Masquerade => masquerade(lab),
        }
        soon_good(lab, &ways(lab.topology()));
    }
}

fn agents() -> [(&'static str, Role); 3] {
    [
        (GATEWAY, Role::RouteAgent),
        (GATEWAY, Role::Gateway),
        (WORKER, Role::RouteAgent),
    ]
}

fn run(lab: &Lab, node: &str, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    lab.exec(node, &words).expect("it runs");
}

fn shell(lab: &Lab, node: &str, script: &str) {
    lab.exec(node, &["sh", "-c", script]).expect("it runs");
}

fn node<'a>(lab: &'a Lab, name: &str) -> &'a Node {
    lab.topology().node(name).expect("a node").1
}

/// Pings a pod of the other cluster all the time.
fn flow(lab: &Lab, from: &str, to: IpAddr) -> Child {
    let (count, to) = (PINGS.to_string(), to.to_string());
    let command = [
        "ping", "-n", "-q", "-i", "0.01", "-W", "1", "-c", &count, &to,
    ];
    let mut command = lab.command(from, command);
    command.stdout(Stdio::piped()).spawn().expect("ping starts")
}

fn received(child: Child) -> usize {
    let output = child.wait_with_output().expect("ping ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = text
        .split(',')
        .nth(1)
        .and_then(|part| part.trim().split(' ').next());
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

fn cni_address(lab: &Lab) {
    let worker = node(lab, WORKER);
    let target = |family| other(lab, worker).nodes[1].pods[0].ip(family);
    for family in lab.topology().families.all() {
        let (net, all) = (
            worker.pod_net(*family),
            worker.pod_net(*family).max_prefix_len(),
        );
        let new = nth(net, 7);
        if worker.cni == Cni::Routed {
            let address = IpNet::new(new, all).expect("an address").to_string();
            run(lab, WORKER, &format!("ip address add {address} dev lo"));
            soon_good(lab, &host_ways(lab, *family, worker, Some(new)));
            run(lab, WORKER, &format!("ip address del {address} dev lo"));
            continue;
        }
        let length = if worker.cni == Cni::Bridge {
            net.prefix_len()
        } else {
            all
        };
        let old = worker.cni_ip(*family).expect("a CNI address");
        // With a bridge the address is the pods' router: without it they reach nobody.
        let pod =
            (worker.cni == Cni::Calico).then(|| flow(lab, &worker.pods[0].name, target(*family)));
        let host = flow(lab, WORKER, target(*family));
        std::thread::sleep(Duration::from_millis(300));
        for ip in [new, old] {
            let address = IpNet::new(ip, length).expect("an address");
            lab.cni(WORKER, CniChange::Address(address))
                .expect("it changes");
            let ways: Vec<Way> = host_ways(lab, *family, worker, Some(ip));
            soon_good(lab, &ways);
        }
        let came = received(host);
        assert!(
            came >= PINGS - MAY_BE_LOST,
            "{family}: the host got {came} replies of {PINGS}"
        );
        if let Some(pod) = pod {
            // The lab's CNI takes the address away before it adds the other, and with it a route for a moment.
            let came = received(pod);
            assert!(
                came >= PINGS - CNI_MAY_LOSE,
                "{family}: the pod got {came} replies of {PINGS}"
            );
        }
    }
}

fn nth(net: IpNet, number: u32) -> IpAddr {
    match net {
        IpNet::V4(net) => std::net::Ipv4Addr::from_bits(net.network().to_bits() + number).into(),
        IpNet::V6(net) => {
            std::net::Ipv6Addr::from_bits(net.network().to_bits() + u128::from(number)).into()
        }
    }
}

fn recreated(lab: &Lab) {
    for place in [GATEWAY, WORKER] {
        shell(
            lab,
            place,
            "for l in vx-submariner vx-submariner-6 vxlan-tunnel vxlan-tunnel-6; do ip link delete $l 2>&-; done; true",
        );
        lab.cni(place, CniChange::Down).expect("the CNI goes");
        lab.cni(place, CniChange::Up).expect("it comes back");
    }
}

/// kube-proxy is there again at once.
fn flushed(lab: &Lab) {
    for node in lab.topology().nodes() {
        let tables: Vec<String> = lab
            .topology()
            .families
            .all()
            .iter()
            .map(|f| {
                lab.exec(
                    &node.name,
                    &["nft", "list", "table", word(*f), "kube-proxy"],
                )
            })
            .collect::<Result<_, _>>()
            .expect("kube-proxy's rules");
        run(lab, &node.name, "nft flush ruleset");
        load(lab, &node.name, &tables.concat());
    }
}

fn load(lab: &Lab, place: &str, rules: &str) {
    let mut command = lab.command(place, ["nft", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("nft starts");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(rules.as_bytes()).expect("it reads");
    drop(input);
    assert!(child.wait().expect("nft ends").success(), "{rules}");
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn gateway_moved(lab: &Lab) {
    for (from, to) in [(GATEWAY, WORKER), (WORKER, GATEWAY)] {
        lab.kill(from, Role::Gateway).expect("it ends");
        lab.restart(to, Role::Gateway).expect("it starts");
        wait_for_gateway(lab, to);
        soon_good(lab, &ways(lab.topology()));
    }
}

fn wait_for_gateway(lab: &Lab, host: &str) {
    let path = "/apis/submariner.io/v1/namespaces/submariner-operator/endpoints";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = lab.api("west", "GET", path, &Value::Null).expect("a list");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let mut of_east = items.iter().filter(|o| o["spec"]["cluster_id"] == "east");
        if of_east.all(|o| o["spec"]["hostname"] == host) {
            return;
        }
        assert!(Instant::now() < deadline, "never published: {items:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The third node, if there is one, else the worker.
fn node_leaves(lab: &Lab) {
    let cluster = &lab.topology().clusters[0];
    let node = cluster.nodes.last().expect("a node");
    let path = format!("/api/v1/nodes/{}", node.name);
    let object = lab
        .api("east", "GET", &path, &Value::Null)
        .expect("the Node");
    lab.kill(&node.name, Role::RouteAgent).expect("it ends");
    lab.api("east", "DELETE", &path, &Value::Null)
        .expect("it is removed");
    let known = |text: &str| {
        text.contains(&node.address.to_string()) || text.contains(&node.address6.to_string())
    };
    let wait = |wanted: bool| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fdb = lab
                .exec(GATEWAY, &["bridge", "fdb", "show"])
                .expect("bridge");
            let of_nodes = fdb.lines().filter(|line| line.contains("vx-submariner"));
            if of_nodes.clone().any(known) == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{}: {fdb}", node.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait(false);
    let others = |way: &Way| way.node != node.name && !way.to.starts_with(&node.name);
    let rest: Vec<Way> = ways(lab.topology()).into_iter().filter(others).collect();
    // The service may choose a pod of the node that is gone.
    let rest: Vec<Way> = rest
        .into_iter()
        .filter(|way| way.to != "web.east")
        .collect();
    soon_good(lab, &rest);
    let again = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": object["metadata"]["labels"]},
        "spec": object["spec"],
        "status": object["status"],
    });
    lab.api("east", "POST", "/api/v1/nodes", &again)
        .expect("it is there again");
    let status = json!({"status": object["status"]});
    lab.api("east", "PATCH", &format!("{path}/status"), &status)
        .expect("its addresses");
    lab.restart(&node.name, Role::RouteAgent)
        .expect("it starts");
    wait(true);
}

fn strict_again(lab: &Lab) {
    for node in lab.topology().nodes() {
        shell(
            lab,
            &node.name,
            "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done",
        );
    }
}

/// As a cautious administrator sets it up: what is not known is dropped.
fn drop_by_default(lab: &Lab) {
    let cluster = &lab.topology().clusters[0];
    let families = lab.topology().families;
    let set_up = |place: &str| {
        for family in families.all() {
            let (tool, icmp) = match family {
                Family::V4 => ("iptables-nft", "icmp"),
                Family::V6 => ("ip6tables-nft", "ipv6-icmp"),
            };
            let pods = cluster.pod_net(*family);
            for rule in [
                "-F".to_owned(),
                "-A INPUT -p tcp -j ACCEPT".to_owned(),
                format!("-A INPUT -p {icmp} -j ACCEPT"),
                format!("-A INPUT -p udp --dport {CNI_PORT} -j ACCEPT"),
                format!("-A FORWARD -s {pods} -d {pods} -j ACCEPT"),
                "-P FORWARD DROP".to_owned(),
                "-P INPUT DROP".to_owned(),
            ] {
                run(lab, place, &format!("{tool} {rule}"));
            }
        }
    };
    let way = |way: &Way| way.node == GATEWAY || way.node == WORKER;
    // What nodes listen to is theirs to open; what passes through is what is asked.
    let ways: Vec<Way> = ways(lab.topology()).into_iter().filter(way).collect();
    let pods: Vec<Way> = ways
        .into_iter()
        .filter(|way| way.bind.is_none() && way.from != way.node)
        .collect();
    for place in [GATEWAY, WORKER] {
        set_up(place);
    }
    soon_good(lab, &pods);
    for place in [GATEWAY, WORKER] {
        lab.kill(place, Role::RouteAgent).expect("it ends");
        set_up(place);
        lab.restart(place, Role::RouteAgent).expect("it starts");
    }
    soon_good(lab, &pods);
    for place in [GATEWAY, WORKER] {
        for tool in ["iptables-nft", "ip6tables-nft"] {
            for rule in ["-P FORWARD ACCEPT", "-P INPUT ACCEPT", "-F"] {
                run(lab, place, &format!("{tool} {rule}"));
            }
        }
    }
}

fn masquerade(lab: &Lab) {
    let set_up = |place: &str| {
        for family in lab.topology().families.all() {
            let (word, tool) = match family {
                Family::V4 => ("ip", "iptables"),
                Family::V6 => ("ip6", "ip6tables"),
            };
            let chain = |name: &str, priority: i32| {
                format!(
                    "chain {name} {{ type nat hook postrouting priority {priority};\n masquerade\n }}\n"
                )
            };
            let (before, after) = (chain("before", -198), chain("after", 99));
            load(
                lab,
                place,
                &format!("table {word} others {{\n{before}{after}}}\n"),
            );
            for flavour in ["nft", "legacy"] {
                run(
                    lab,
                    place,
                    &format!("{tool}-{flavour} -t nat -A POSTROUTING -j MASQUERADE"),
                );
            }
        }
    };
    let pods = |way: &Way| way.bind.is_none() && way.from != way.node;
    let pods: Vec<Way> = ways(lab.topology()).into_iter().filter(pods).collect();
    for place in [GATEWAY, WORKER] {
        set_up(place);
    }
    super::all_good(lab, &pods);
    for place in [GATEWAY, WORKER] {
        lab.kill(place, Role::RouteAgent).expect("it ends");
        shell(lab, place, "nft delete table inet strait-route-agent");
        lab.restart(place, Role::RouteAgent).expect("it starts");
    }
    soon_good(lab, &pods);
    for place in [GATEWAY, WORKER] {
        for family in lab.topology().families.all() {
            run(
                lab,
                place,
                &format!("nft delete table {} others", word(*family)),
            );
            let tool = match family {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            };
            for flavour in ["nft", "legacy"] {
                run(
                    lab,
                    place,
                    &format!("{tool}-{flavour} -t nat -D POSTROUTING -j MASQUERADE"),
                );
            }
        }
    }
}
