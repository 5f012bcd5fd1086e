//! What users get over the CNI project's own plugins, `bridge` and `ptp` with `host-local`, as Debian packages them, with and
//! without their own masquerade. Each way is tried with 3 KB both ways, over TCP and over UDP; what the plugins made is read by
//! iptables and iproute2.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use common::{agent, assert_all_good, binary, conditions, joined, name};
use strait_lab::matrix::{Origin, Way, targets, ways};
use strait_lab::topology::Node;
use strait_lab::{Cni, CniChange, Families, Family, Lab, Options, Plugin, Probe};

const PATIENCE: Duration = Duration::from_secs(20);
/// The CNI comes when the test says so.
const NEVER: Duration = Duration::from_secs(3600);

const fn cni(plugin: Plugin, masquerade: bool) -> Cni {
    Cni::Plugin { plugin, masquerade }
}

fn lab(purpose: &str, east: Cni, west: Cni, families: Families) -> Lab {
    joined(
        purpose,
        Options {
            nodes: 2,
            pods: 2,
            cnis: vec![east, west],
            families,
            ..Options::default()
        },
    )
}

/// Every way between the clusters, from second pods too: each has a cable, or a chain of rules, of its own.
fn all_ways(lab: &Lab) -> Vec<Way> {
    let all = ways(lab.topology()).into_iter();
    let second = |way: Way| {
        let node = lab.topology().node(&way.node).expect("a node").1;
        let pod = node.pods.get(1).expect("a second pod");
        let again = Way {
            from: pod.name.clone(),
            source: Some(pod.ip(way.family)),
            ..way.clone()
        };
        let again = (way.origin == Origin::Pod).then_some(again);
        [Some(way), again].into_iter().flatten()
    };
    all.flat_map(second).collect()
}

fn nobody_complains(lab: &Lab) {
    for node in lab.topology().nodes() {
        let told = conditions(lab, &node.name);
        assert_eq!(told, Vec::<String>::new(), "{}", node.name);
    }
}

/// How many rules by which a plugin masquerades pods iptables shows.
fn masquerades(lab: &Lab, node: &Node, family: Family) -> usize {
    let save = match family {
        Family::V4 => "iptables-save",
        Family::V6 => "ip6tables-save",
    };
    let rules = lab.exec(&node.name, &[save, "-t", "nat"]);
    let rules = rules.expect("iptables is installed");
    let made = |line: &&str| line.starts_with("-A CNI-") && line.ends_with("-j MASQUERADE");
    rules.lines().filter(made).count()
}

/// How many addresses `host-local` has noted down as given.
fn given(lab: &Lab, node: &Node) -> usize {
    let notes = format!("/run/cni/{}", node.name);
    let find = ["find", &notes, "-type", "f", "-name", "*.*.*.*"];
    let found = lab.exec(&node.name, &find).expect("host-local has run");
    found.lines().count()
}

fn seen_from(lab: &Lab, from: &str, to: &str, family: Family) -> IpAddr {
    let seen = lab.probe(&Probe::tcp(from, to).over(family));
    seen.expect("the lab answers").expect("reached").source.ip()
}

/// That plugins masquerade where they are asked to, and nowhere else, as is seen between pods of one cluster: what Strait leaves alone.
fn masquerade_is_as_asked(lab: &Lab) {
    for cluster in &lab.topology().clusters {
        let masquerading = matches!(
            cluster.cni,
            Cni::Plugin {
                masquerade: true,
                ..
            }
        );
        let [one, other] = &cluster.nodes[..] else {
            unreachable!("clusters have two nodes")
        };
        for family in lab.topology().families.all() {
            let rules = if masquerading { one.pods.len() } else { 0 };
            assert_eq!(masquerades(lab, one, *family), rules, "{}", one.name);
            let (from, to) = (&one.pods[0], &other.pods[0]);
            let source = if masquerading {
                one.ip(*family)
            } else {
                from.ip(*family)
            };
            assert_eq!(seen_from(lab, &from.name, &to.name, *family), source);
        }
    }
}

#[test]
fn between_a_masquerading_bridge_plugin_and_the_ptp_plugin_every_source_address_is_right() {
    let (east, west) = (cni(Plugin::Bridge, true), cni(Plugin::Ptp, false));
    let lab = lab("masq-b", east, west, Families::V4);
    masquerade_is_as_asked(&lab);
    assert_all_good(&lab, &all_ways(&lab));
    nobody_complains(&lab);
}

#[test]
fn between_the_bridge_plugin_and_a_masquerading_ptp_plugin_every_source_address_is_right_in_both_families()
 {
    let (east, west) = (cni(Plugin::Bridge, false), cni(Plugin::Ptp, true));
    let lab = lab("masq-p", east, west, Families::Dual);
    masquerade_is_as_asked(&lab);
    assert_all_good(&lab, &all_ways(&lab));
    nobody_complains(&lab);
}

/// The ways of a node's own processes to the pods of the other cluster's gateway node, where the listener sees `source`.
fn host_ways(lab: &Lab, node: &Node, source: IpAddr) -> Vec<Way> {
    let mut clusters = lab.topology().clusters.iter();
    let other = clusters
        .find(|cluster| cluster.name != node.cluster)
        .expect("another cluster");
    let targets = targets(other);
    let target = targets.first().expect("a pod");
    let both = [Origin::Host, Origin::BoundHost].into_iter();
    both.filter_map(|origin| Way::new(Family::of(source), origin, node, target))
        .map(|way| way.seen_as(source))
        .collect()
}

fn wait_for(lab: &Lab, way: &Way) {
    let probe = Probe {
        timeout_ms: 500,
        ..way.probe(strait_lab::Transport::Tcp)
    };
    lab.probe_until(&probe, PATIENCE, |seen| {
        Some(seen.source.ip()) == way.source
    })
    .expect("the way opens");
}

#[test]
fn nodes_that_boot_long_before_their_plugin_runs_need_no_restart() {
    let (east, west) = (cni(Plugin::Bridge, true), cni(Plugin::Ptp, false));
    let lab = lab("late", east, west, Families::Dual);
    let clusters = &lab.topology().clusters;
    for cluster in clusters {
        lab.reboot(&cluster.nodes[1].name, NEVER)
            .expect("the worker boots");
    }
    let agents: Vec<u32> = clusters
        .iter()
        .map(|cluster| agent(&lab, &cluster.nodes[1].name))
        .collect();
    for cluster in clusters {
        let [gateway, worker] = &cluster.nodes[..] else {
            unreachable!("clusters have two nodes")
        };
        for family in lab.topology().families.all() {
            let lent = gateway.cni_ip(*family).expect("a CNI address");
            let ways = host_ways(&lab, worker, lent);
            wait_for(&lab, &ways[0]);
            assert_all_good(&lab, &ways);
        }
        assert_eq!(conditions(&lab, &worker.name), ["CniInterfaceNotFound"]);
    }
    for cluster in clusters {
        // What host-local gave before the boot is asked for again.
        lab.cni(&cluster.nodes[1].name, CniChange::Up)
            .expect("the plugin connects the pods");
    }
    for way in ways(lab.topology()) {
        wait_for(&lab, &way);
    }
    lab.wait_until_joined(PATIENCE).expect("all is well again");
    masquerade_is_as_asked(&lab);
    assert_all_good(&lab, &all_ways(&lab));
    nobody_complains(&lab);
    for (cluster, before) in clusters.iter().zip(agents) {
        assert_eq!(
            agent(&lab, &cluster.nodes[1].name),
            before,
            "it was restarted"
        );
    }
}

#[test]
fn a_node_whose_pods_are_all_disconnected_borrows_an_address_until_the_plugin_connects_them_again()
{
    let (east, west) = (cni(Plugin::Bridge, true), cni(Plugin::Ptp, true));
    let lab = lab("gone", east, west, Families::V4);
    for cluster in &lab.topology().clusters {
        let [gateway, worker] = &cluster.nodes[..] else {
            unreachable!("clusters have two nodes")
        };
        let pods = worker.pods.len();
        assert_eq!(given(&lab, worker), pods);
        lab.cni(&worker.name, CniChange::Down).expect("it goes");
        assert_eq!(
            (given(&lab, worker), masquerades(&lab, worker, Family::V4)),
            (0, 0)
        );
        let ways = host_ways(&lab, worker, gateway.cni_address.into());
        wait_for(&lab, &ways[0]);
        assert_all_good(&lab, &ways);
        lab.cni(&worker.name, CniChange::Up).expect("it comes");
        assert_eq!(
            (given(&lab, worker), masquerades(&lab, worker, Family::V4)),
            (pods, pods)
        );
        let ways = host_ways(&lab, worker, worker.cni_address.into());
        wait_for(&lab, &ways[0]);
    }
    lab.wait_until_joined(PATIENCE).expect("all is well again");
    assert_all_good(&lab, &all_ways(&lab));
}

/// Where plugins could have left something of a lab outside of it.
fn traces() -> Vec<String> {
    let dirs = [
        "/run/cni",
        "/run/netns",
        "/var/lib/cni",
        "/var/lib/cni/networks",
    ];
    let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok());
    let paths = entries
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    let ours = |path: &String| {
        ["/east-", "/west-", "/strait-lab"]
            .iter()
            .any(|name| path.contains(name))
    };
    paths
        .map(|path| path.display().to_string())
        .filter(ours)
        .collect()
}

#[test]
fn what_plugins_make_and_note_down_stays_in_the_lab_and_ends_with_it_even_when_it_crashes() {
    let options = Options {
        name: name("traces"),
        nodes: 1,
        cnis: vec![cni(Plugin::Bridge, true), cni(Plugin::Ptp, true)],
        agents: false,
        ..Options::default()
    };
    let before = traces();
    for crash in [false, true] {
        let lab = Lab::up(&options, binary(), |_| ()).expect("the lab starts");
        for node in lab.topology().nodes() {
            assert_eq!(
                (given(&lab, node), masquerades(&lab, node, Family::V4)),
                (1, 1)
            );
        }
        assert_eq!(traces(), before);
        let dir = lab.logs().parent().expect("a directory").to_owned();
        if crash {
            let first = std::fs::read_to_string(dir.join("pid")).expect("a process number");
            let kill = Command::new("kill").args(["-9", first.trim()]).status();
            assert!(kill.expect("kill runs").success());
        }
        drop(lab);
        assert!(!dir.exists(), "{} is left", dir.display());
        assert_eq!(traces(), before);
    }
}
