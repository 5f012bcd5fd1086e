//! What happens to a running lab, to cluster `east`; after each all ways must be as they were.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::{Value, json};
use strait_lab::matrix::{Way, ways};
use strait_lab::topology::Node;
use strait_lab::{Cable, Cni, CniChange, Family, Lab, Role};

use super::firewalls::{self, Flavour};
use super::flows::Flow;
use super::{PATIENCE, all_good, host_ways, load, other, run, shell, soon_good, word};
use crate::common::move_gateway;

const GATEWAY: &str = "east-1";
const WORKER: &str = "east-2";
/// From the change of a CNI address until what begins then has the new one; the agent needs some milliseconds.
const AT_ONCE: Duration = Duration::from_millis(200);
/// What a host's datagram flow may lose with two changes of its address: none or one each on a quiet machine. On a busy one the
/// agent may have to wait for the processor.
const HOST_MAY_LOSE: Duration = Duration::from_millis(100);
/// Pods lose nothing by the agent, but what arrives while their CNI's device has no IPv4 address: the kernel's reverse-path filter,
/// loose as it is, lets nothing in there. The lab's CNI, like Calico and flannel, takes the old address away before it adds the new
/// one, here twice: one or two milliseconds each on a quiet machine.
const POD_MAY_LOSE: Duration = Duration::from_millis(40);
/// Until a gateway's parent has another child that serves WireGuard; some 20 ms on a quiet machine.
const CHILD_MAY_LOSE: Duration = Duration::from_millis(500);

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
    /// Somebody's packet filter or masquerade, before and after us; see [`Flavour`].
    IptablesLegacy,
    /// The same.
    IptablesNft,
    /// The same.
    NftOwn,
    /// The same.
    NftKubeProxy,
    /// The same.
    NftKindnet,
    /// The same.
    NftCalico,
    /// The same.
    NftReversePath,
    /// The same.
    NftReversePathOnly,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Event {
    pub(crate) const ALL: [Self; 15] = [
        Self::CniAddress,
        Self::Recreated,
        Self::Flushed,
        Self::Killed,
        Self::GatewayMoved,
        Self::NodeLeaves,
        Self::StrictAgain,
        Self::IptablesLegacy,
        Self::IptablesNft,
        Self::NftOwn,
        Self::NftKubeProxy,
        Self::NftKindnet,
        Self::NftCalico,
        Self::NftReversePath,
        Self::NftReversePathOnly,
    ];

    /// Lets it happen. Afterwards all is as before, and every way was tried; what isn't so fails the test.
    pub(crate) fn happen(self, lab: &Lab, cable: Cable) {
        let firewall = |flavour: Flavour| {
            let flows = (!flavour.drops()).then(|| pods_flows(lab));
            firewalls::comes(lab, flavour, [GATEWAY, WORKER]);
            nothing_lost(flows.unwrap_or_default());
            firewalls::is_there_before(lab, flavour, [GATEWAY, WORKER]);
            for place in [GATEWAY, WORKER] {
                lab.restart(place, Role::RouteAgent).expect("it starts");
            }
        };
        match self {
            Self::CniAddress => cni_address(lab),
            Self::Recreated => recreated(lab),
            Self::Flushed => flushed(lab),
            Self::Killed => killed(lab, cable),
            Self::GatewayMoved => gateway_moved(lab),
            Self::NodeLeaves => node_leaves(lab),
            Self::StrictAgain => strict_again(lab),
            Self::IptablesLegacy => firewall(Flavour::IptablesLegacy),
            Self::IptablesNft => firewall(Flavour::IptablesNft),
            Self::NftOwn => firewall(Flavour::NftOwn),
            Self::NftKubeProxy => firewall(Flavour::NftKubeProxy),
            Self::NftKindnet => firewall(Flavour::NftKindnet),
            Self::NftCalico => firewall(Flavour::NftCalico),
            Self::NftReversePath => firewall(Flavour::NftReversePath),
            Self::NftReversePathOnly => firewall(Flavour::NftReversePathOnly),
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

fn node<'a>(lab: &'a Lab, name: &str) -> &'a Node {
    lab.topology().node(name).expect("a node").1
}

fn killed(lab: &Lab, cable: Cable) {
    // A gateway that serves WireGuard itself is the way; of such a one the process that does the work is killed, and comes back by itself.
    let serves = |role: Role| role == Role::Gateway && cable == Cable::Wireguard;
    let flows = pods_flows(lab);
    for (place, role) in agents() {
        if serves(role) {
            lab.crash(place, role).expect("it ends, and is back");
        } else {
            lab.kill(place, role).expect("it ends");
        }
    }
    // What they left in the kernel works meanwhile.
    all_good(lab, &ways(lab.topology()));
    for (place, role) in agents() {
        if !serves(role) {
            lab.restart(place, role).expect("it starts");
        }
    }
    lab.wait_until_ready(PATIENCE, false)
        .expect("all are ready");
    for flow in flows {
        let may = if cable == Cable::Wireguard {
            CHILD_MAY_LOSE
        } else {
            Duration::ZERO
        };
        flow.lost().at_most(may);
    }
}

/// From the worker's pod to a worker's pod of the other cluster, in each family.
fn pods_flows(lab: &Lab) -> Vec<Flow> {
    let worker = node(lab, WORKER);
    let target = &other(lab, worker).nodes[1].pods[0];
    let families = lab.topology().families.all().iter();
    families
        .map(|family| Flow::start(lab, &worker.pods[0].name, target.ip(*family)))
        .collect()
}

fn nothing_lost(flows: Vec<Flow>) {
    for flow in flows {
        flow.lost().at_most(Duration::ZERO);
    }
}

fn cni_address(lab: &Lab) {
    let worker = node(lab, WORKER);
    let target = &other(lab, worker).nodes[1].pods[0];
    for family in lab.topology().families.all() {
        let (net, all) = (
            worker.pod_net(*family),
            worker.pod_net(*family).max_prefix_len(),
        );
        let new = nth(net, 7);
        let pods = || pods_flows(lab);
        if worker.cni == Cni::Routed {
            let pods = pods();
            let address = IpNet::new(new, all).expect("an address").to_string();
            run(lab, WORKER, &format!("ip address add {address} dev lo"));
            std::thread::sleep(AT_ONCE);
            all_good(lab, &host_ways(lab, *family, worker, Some(new)));
            run(lab, WORKER, &format!("ip address del {address} dev lo"));
            std::thread::sleep(AT_ONCE);
            all_good(lab, &host_ways(lab, *family, worker, None));
            nothing_lost(pods);
            continue;
        }
        let (length, pods) = if worker.cni == Cni::Bridge {
            // The address is the pods' router: without it they reach nobody.
            (net.prefix_len(), Vec::new())
        } else {
            (all, pods())
        };
        let old = worker.cni_ip(*family).expect("a CNI address");
        let host = Flow::start(lab, WORKER, target.ip(*family));
        for ip in [new, old] {
            let address = IpNet::new(ip, length).expect("an address");
            lab.cni(WORKER, CniChange::Address(address))
                .expect("it changes");
            std::thread::sleep(AT_ONCE);
            all_good(lab, &host_ways(lab, *family, worker, Some(ip)));
        }
        host.lost().at_most(HOST_MAY_LOSE);
        for flow in pods {
            let may = if *family == Family::V4 && flow.family() == Family::V4 {
                POD_MAY_LOSE
            } else {
                Duration::ZERO
            };
            flow.lost().at_most(may);
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

/// kube-proxy is there again at once; connections of pods that run don't notice.
fn flushed(lab: &Lab) {
    let flows = pods_flows(lab);
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
    soon_good(lab, &ways(lab.topology()));
    nothing_lost(flows);
}

fn gateway_moved(lab: &Lab) {
    for (from, to) in [(GATEWAY, WORKER), (WORKER, GATEWAY)] {
        move_gateway(lab, from, to);
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
    let flows = (node.name != WORKER).then(|| pods_flows(lab));
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
    nothing_lost(flows.unwrap_or_default());
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
