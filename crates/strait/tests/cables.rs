//! Who reaches whom over each kind of cable, with one gateway and with two, behind each kind of NAT, in each family: rows that have
//! every pair of these at least once. Where a cable can't be, its connection says why.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]
#![allow(clippy::print_stdout, reason = "figures are for whoever reads them")]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{assert_all_good, binary, conditions, name};
use serde_json::{Value, json};
use strait_lab::matrix::{Origin, Way, targets, ways};
use strait_lab::{Cable, Families, Family, Lab, Nat, Options, Probe, Role};

const PATIENCE: Duration = Duration::from_secs(45);
/// How long NAT discovery waits for an answer before it says that there is none.
const SILENT: Duration = Duration::from_secs(60);
/// The worker whose CNI comes late. Its cluster is Calico's, the other one has a bridge.
const WORKER: &str = "west-3";
const PATH: &str = "/apis/submariner.io/v1/namespaces/submariner-operator/gateways";

/// What stands in front of the two clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nats {
    None,
    FullCone,
    PortRestricted,
    /// East's lets everybody in, west's takes another port for each destination.
    SymmetricOnOneSide,
}

impl Nats {
    const ALL: [Self; 4] = [
        Self::None,
        Self::FullCone,
        Self::PortRestricted,
        Self::SymmetricOnOneSide,
    ];

    fn lab(self) -> Nat {
        match self {
            Self::None => Nat::None,
            Self::FullCone | Self::SymmetricOnOneSide => Nat::FullCone,
            Self::PortRestricted => Nat::PortRestricted,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    cable: Cable,
    gateways: u8,
    nats: Nats,
    families: Families,
}

const fn row(cable: Cable, gateways: u8, nats: Nats, families: Families) -> Row {
    Row {
        cable,
        gateways,
        nats,
        families,
    }
}

/// A test for each row, and the rows.
macro_rules! rows {
    ($($test:ident: $cable:ident, $gateways:literal, $nats:ident, $families:ident;)*) => {
        const ROWS: &[Row] = &[$(row(Cable::$cable, $gateways, Nats::$nats, Families::$families)),*];
        $(#[test]
        fn $test() {
            essentials(stringify!($test), row(Cable::$cable, $gateways, Nats::$nats, Families::$families));
        })*
    };
}

rows! {
    vx1_none_v4: Vxlan, 1, None, V4;
    vx2_none_v6: Vxlan, 2, None, V6;
    vx1_none_dual: Vxlan, 1, None, Dual;
    wg1_none_v4: Wireguard, 1, None, V4;
    wg2_none_v6: Wireguard, 2, None, V6;
    wg1_none_dual: Wireguard, 1, None, Dual;
    wg2_cone_v4: Wireguard, 2, FullCone, V4;
    wg1_cone_v6: Wireguard, 1, FullCone, V6;
    wg2_cone_dual: Wireguard, 2, FullCone, Dual;
    wg1_port_v4: Wireguard, 1, PortRestricted, V4;
    wg2_port_v6: Wireguard, 2, PortRestricted, V6;
    wg1_port_dual: Wireguard, 1, PortRestricted, Dual;
    wg2_symm_v4: Wireguard, 2, SymmetricOnOneSide, V4;
    wg1_symm_v6: Wireguard, 1, SymmetricOnOneSide, V6;
    wg2_symm_dual: Wireguard, 2, SymmetricOnOneSide, Dual;
}

#[test]
fn every_pair_that_can_be_is_in_a_row() {
    let has = |good: &dyn Fn(&Row) -> bool| ROWS.iter().any(good);
    for families in [Families::V4, Families::V6, Families::Dual] {
        for nats in Nats::ALL {
            assert!(
                has(&|row| row.families == families && row.nats == nats),
                "{families:?} {nats:?}"
            );
        }
        for cable in [Cable::Vxlan, Cable::Wireguard] {
            assert!(
                has(&|row| row.families == families && row.cable == cable),
                "{families:?} {cable}"
            );
        }
    }
    for gateways in [1, 2] {
        for nats in Nats::ALL {
            assert!(
                has(&|row| row.gateways == gateways && row.nats == nats),
                "{gateways} {nats:?}"
            );
        }
        for cable in [Cable::Vxlan, Cable::Wireguard] {
            assert!(
                has(&|row| row.gateways == gateways && row.cable == cable),
                "{gateways} {cable}"
            );
        }
        for families in [Families::V4, Families::V6, Families::Dual] {
            assert!(
                has(&|row| row.gateways == gateways && row.families == families),
                "{gateways} {families:?}"
            );
        }
    }
}

/// Two labs at a time.
struct Turn;

static TURNS: (Mutex<u8>, Condvar) = (Mutex::new(2), Condvar::new());

impl Turn {
    fn take() -> Self {
        let left = TURNS.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = TURNS.1.wait_while(left, |left| *left == 0);
        *wait.unwrap_or_else(PoisonError::into_inner) -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        TURNS.1.notify_one();
    }
}

/// A lab, some of whose routers are made symmetric.
fn start(purpose: &str, row: Row, symmetric: &[&str]) -> Lab {
    let options = Options {
        name: name(purpose),
        cable: row.cable,
        gateways: row.gateways,
        nat: row.nats.lab(),
        families: row.families,
        ..Options::default()
    };
    let lab = Lab::up(&options, binary(), |_| ()).expect("the lab starts");
    for cluster in symmetric {
        make_symmetric(&lab, cluster);
    }
    if row.gateways > 1 && row.nats == Nats::PortRestricted {
        ports_of_their_own(&lab);
    }
    // Sessions that have begun before live for three minutes.
    for node in lab.topology().nodes() {
        if node.gateway && !symmetric.is_empty() {
            lab.restart(&node.name, Role::Gateway).expect("it starts");
        }
    }
    lab
}

/// Each cluster's second gateway gets other ports than the first: they share a public address, and a NAT keeps a port for one of them only.
fn ports_of_their_own(lab: &Lab) {
    for cluster in &lab.topology().clusters {
        let second = cluster.gateways().nth(1).expect("a second one");
        let path = format!("/api/v1/nodes/{}", second.name);
        let ports = json!({
            "gateway.submariner.io/udp-port": "4501",
            "gateway.submariner.io/natt-discovery-port": "4491",
        });
        let change = json!({"metadata": {"labels": ports}});
        lab.api(&cluster.name, "PATCH", &path, &change)
            .expect("the Node is labelled");
    }
}

/// A router that showed each gateway with a public address of its own, and let everybody in, takes another port for each destination.
fn make_symmetric(lab: &Lab, cluster: &str) {
    let topology = lab.topology();
    let cluster = topology.cluster(cluster).expect("a cluster");
    let mut script = String::new();
    for family in topology.families.all() {
        let ip = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        for chain in ["prerouting", "postrouting"] {
            writeln!(script, "flush chain {ip} nat {chain}").expect("text");
        }
        for gateway in cluster.gateways() {
            let (own, public) = (
                gateway.ip(*family),
                topology.public_ip(cluster, gateway, *family),
            );
            writeln!(script, "add rule {ip} nat postrouting oifname wan0 {ip} saddr {own} snat {ip} to {public} random,fully-random").expect("text");
        }
        writeln!(
            script,
            "add rule {ip} nat postrouting oifname wan0 masquerade random,fully-random"
        )
        .expect("text");
    }
    let script = script.replace('\n', ";");
    let router = format!("router-{}", cluster.name);
    lab.exec(&router, &["nft", &script]).expect("nft");
    // What has begun before goes on as it began.
    lab.exec(&router, &["conntrack", "-F"]).expect("conntrack");
}

fn host_ways(lab: &Lab, node: &str, gateway: Option<&str>) -> Vec<Way> {
    let topology = lab.topology();
    let node = topology.node(node).expect("a node").1;
    let to = targets(topology.cluster("east").expect("a cluster"));
    let mut all = Vec::new();
    for family in topology.families.all() {
        let source = topology.node(gateway.unwrap_or(&node.name));
        let source = source.expect("a node").1.cni_ip(*family).expect("it has");
        for origin in [Origin::Host, Origin::BoundHost] {
            let ways = to
                .iter()
                .filter_map(|to| Way::new(*family, origin, node, to));
            all.extend(ways.map(|way| way.seen_as(source)));
        }
    }
    all
}

/// Waits until the first of these ways works in each family.
fn wait_for(lab: &Lab, ways: &[Way]) {
    for way in ways {
        let probe = Probe {
            timeout_ms: 500,
            ..way.probe(strait_lab::Transport::Tcp)
        };
        lab.probe_until(&probe, PATIENCE, |seen| {
            Some(seen.source.ip()) == way.source
        })
        .expect("it works");
    }
}

/// What the suite of the route agent is about, in short.
fn essentials(purpose: &str, row: Row) {
    let _turn = Turn::take();
    let begun = Instant::now();
    let symmetric: &[&str] = match row.nats {
        Nats::SymmetricOnOneSide => &["west"],
        Nats::None | Nats::FullCone | Nats::PortRestricted => &[],
    };
    let lab = start(&purpose.replace('_', ""), row, symmetric);
    lab.wait_until_joined(PATIENCE)
        .expect("the clusters are joined");
    let all = ways(lab.topology());
    assert_all_good(&lab, &all);

    // Nobody starts again what is dead here.
    let mut killed = Vec::new();
    for node in lab.topology().nodes() {
        killed.push((node.name.clone(), Role::RouteAgent));
        // The kernel carries VXLAN without anybody.
        if node.gateway && row.cable == Cable::Vxlan {
            killed.push((node.name.clone(), Role::Gateway));
        }
    }
    for (node, role) in &killed {
        lab.kill(node, *role).expect("it dies");
    }
    assert_all_good(&lab, &all);
    for (node, role) in &killed {
        lab.restart(node, *role).expect("it starts");
    }
    lab.wait_until_joined(PATIENCE).expect("all is well again");

    let late = Duration::from_secs(600);
    lab.reboot(WORKER, late).expect("it boots");
    let gateway = active(&lab, "west");
    let during = host_ways(&lab, WORKER, Some(&gateway));
    wait_for(&lab, &during);
    assert_all_good(&lab, &during);
    let told = conditions(&lab, WORKER);
    assert!(
        told.contains(&"CniInterfaceNotFound".to_owned()),
        "{told:?}"
    );
    lab.cni(WORKER, strait_lab::CniChange::Up)
        .expect("it comes");
    wait_for(&lab, &host_ways(&lab, WORKER, None));

    if row.gateways > 1 {
        lab.power_off(&gateway).expect("it is dead");
        // Services stand for the dead node's pods, too.
        let gone = |to: &str| to.starts_with(&gateway) || to.starts_with("web.");
        let rest: Vec<Way> = ways(lab.topology())
            .into_iter()
            .filter(|way| way.node != gateway && !gone(&way.to))
            .collect();
        wait_for(&lab, &rest);
        assert_all_good(&lab, &rest);
    } else {
        lab.wait_until_joined(PATIENCE).expect("all is well again");
        assert_all_good(&lab, &all);
    }
    println!("{row:?}: {:.1} s", begun.elapsed().as_secs_f64());
}

fn gateways(lab: &Lab, cluster: &str) -> Vec<Value> {
    let list = lab.api(cluster, "GET", PATH, &Value::Null);
    let list = list.unwrap_or_default();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// The node of the gateway that carries a cluster's traffic.
fn active(lab: &Lab, cluster: &str) -> String {
    let all = gateways(lab, cluster);
    let active = all.iter().find(|g| g["status"]["haStatus"] == "active");
    let name = active.and_then(|gateway| gateway["metadata"]["name"].as_str());
    name.expect("an active gateway").to_owned()
}

/// Two clusters whose cable can't be: what the connections say, once they say what they should.
fn named(purpose: &str, row: Row, symmetric: &[&str], wanted: &str) {
    let _turn = Turn::take();
    let lab = start(purpose, row, symmetric);
    for cluster in ["east", "west"] {
        let begun = Instant::now();
        loop {
            let connections: Vec<Value> = gateways(&lab, cluster)
                .iter()
                .filter_map(|gateway| gateway["status"]["connections"].as_array().cloned())
                .flatten()
                .collect();
            let says = |connection: &Value| {
                let message = connection["statusMessage"].as_str().unwrap_or("");
                message.contains(wanted) && connection["status"] != "connected"
            };
            let families = row.families.all().len();
            if connections.len() == families && connections.iter().all(says) {
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE + SILENT,
                "{cluster}: {connections:#?}"
            );
            sleep(Duration::from_millis(100));
        }
    }
    // It is not merely said.
    let reached: BTreeSet<String> = ways(lab.topology())
        .into_iter()
        .filter(|way| way.origin == Origin::Pod)
        .filter_map(|way| {
            let tried = Way {
                source: None,
                ..way
            };
            let tried = tried.attempt(&lab).expect("the lab answers");
            (!tried.good()).then(|| format!("{} {}", tried.way.from, tried.way.to))
        })
        .collect();
    assert!(reached.is_empty(), "{reached:?}");
}

#[test]
fn a_vxlan_cable_behind_a_nat_says_so() {
    let row = row(Cable::Vxlan, 1, Nats::PortRestricted, Families::V4);
    named("vxnat", row, &[], "a VXLAN cable can't pass a NAT");
}

#[test]
fn a_wireguard_cable_between_two_symmetric_nats_says_so() {
    let row = row(Cable::Wireguard, 1, Nats::FullCone, Families::Dual);
    named("symm", row, &["east", "west"], "(symmetric)");
}
