//! Circumstances of two clusters, and what happens to them: pairs of these are in `make test`, all combinations in `make soak`.

#![allow(dead_code, unused_imports, reason = "each binary uses a part of it")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod events;
pub(crate) mod firewalls;
mod flows;

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

pub(crate) use events::Event;
use strait_lab::matrix::{Origin, Tried, Way, render, targets, ways};
use strait_lab::topology::{Cluster, Node};
use strait_lab::{
    Cable, Cni, CniChange, Families, Family, Lab, Options, Probe, RpFilter, Transport,
};

use crate::common::{conditions, joined};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The CNI comes when the test says so.
const NEVER: Duration = Duration::from_secs(3600);
/// Ways that are tried at once.
const AT_ONCE: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    AgentFirst,
    CniFirst,
}

/// What a lab is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Circumstances {
    pub east: Cni,
    pub west: Cni,
    pub families: Families,
    pub rp_filter: RpFilter,
    pub start: Start,
    pub cable: Cable,
}

impl fmt::Display for Circumstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!(
            "{}-{:?}-{:?}-{:?}-{}",
            self.east, self.families, self.rp_filter, self.start, self.cable
        );
        f.write_str(&text.to_lowercase())
    }
}

impl Circumstances {
    /// All combinations; the other cluster has the next CNI.
    pub(crate) fn all() -> Vec<Self> {
        let cnis = [Cni::Bridge, Cni::Calico, Cni::Routed];
        let mut all = Vec::new();
        for (number, east) in cnis.into_iter().enumerate() {
            for families in [Families::V4, Families::V6, Families::Dual] {
                for rp_filter in [RpFilter::Strict, RpFilter::Loose] {
                    for start in [Start::AgentFirst, Start::CniFirst] {
                        for cable in [Cable::Vxlan, Cable::Wireguard] {
                            all.push(Self {
                                east,
                                west: cnis[(number + 1) % cnis.len()],
                                families,
                                rp_filter,
                                start,
                                cable,
                            });
                        }
                    }
                }
            }
        }
        all
    }

    /// A lab that is joined, after the start that is asked for; all ways were tried.
    pub(crate) fn lab(&self, purpose: &str, nodes: u8) -> Lab {
        let options = Options {
            nodes,
            cnis: vec![self.east, self.west],
            families: self.families,
            rp_filter: self.rp_filter,
            cable: self.cable,
            ..Options::default()
        };
        let lab = joined(purpose, options);
        if self.start == Start::AgentFirst {
            boot_with_late_cnis(&lab);
        }
        all_good(&lab, &ways(lab.topology()));
        for node in lab.topology().nodes() {
            let expected: &[&str] = match node.cni {
                Cni::Routed => &["CniInterfaceNotFound"],
                Cni::Bridge | Cni::Calico | Cni::Plugin { .. } => &[],
            };
            assert_eq!(conditions(&lab, &node.name), expected, "{}", node.name);
        }
        lab
    }
}

/// Every node boots, the agents before the CNIs; workers meanwhile borrow the gateway's address.
fn boot_with_late_cnis(lab: &Lab) {
    for cluster in &lab.topology().clusters {
        lab.reboot(&cluster.nodes[0].name, Duration::from_secs(1))
            .expect("the gateway boots");
        lab.reboot(&cluster.nodes[1].name, NEVER)
            .expect("the worker boots");
    }
    for cluster in &lab.topology().clusters {
        for family in lab.topology().families.all() {
            if let Some(source) = cluster.nodes[0].cni_ip(*family) {
                let ways = host_ways(lab, *family, &cluster.nodes[1], Some(source));
                wait_for(lab, &ways[0]);
                // Pods of the other cluster's worker are not there yet.
                let there = |way: &Way| way.to.ends_with("-1-a");
                let ways: Vec<Way> = ways.into_iter().filter(there).collect();
                all_good(lab, &ways);
            }
        }
    }
    for cluster in &lab.topology().clusters {
        lab.cni(&cluster.nodes[1].name, CniChange::Up)
            .expect("the CNI comes up");
    }
    lab.wait_until_joined(PATIENCE).expect("all is well again");
    for way in ways(lab.topology()) {
        wait_for(lab, &way);
    }
}

/// Waits until it goes as it should over TCP.
pub(crate) fn wait_for(lab: &Lab, way: &Way) {
    if let Some(source) = way.source {
        let probe = Probe {
            timeout_ms: 500,
            ..way.probe(Transport::Tcp)
        };
        if let Err(error) = lab.probe_until(&probe, PATIENCE, |seen| seen.source.ip() == source) {
            panic!("{way:?} does not open: {error:#}");
        }
    }
}

pub(crate) fn run(lab: &Lab, node: &str, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    lab.exec(node, &words).expect("it runs");
}

fn shell(lab: &Lab, node: &str, script: &str) {
    lab.exec(node, &["sh", "-c", script]).expect("it runs");
}

fn load(lab: &Lab, place: &str, rules: &str) {
    let mut command = lab.command(place, ["nft", "-f", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("nft starts");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(rules.as_bytes()).expect("it reads");
    drop(input);
    assert!(child.wait().expect("nft ends").success(), "{rules}");
}

const fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

pub(crate) fn other<'a>(lab: &'a Lab, node: &Node) -> &'a Cluster {
    let mut clusters = lab.topology().clusters.iter();
    clusters
        .find(|cluster| cluster.name != node.cluster)
        .expect("another cluster")
}

/// The ways of a node's own processes to the other cluster, where the listener sees `source`, or nobody.
pub(crate) fn host_ways(
    lab: &Lab,
    family: Family,
    node: &Node,
    source: Option<IpAddr>,
) -> Vec<Way> {
    let targets = targets(other(lab, node));
    let of = |origin| {
        targets
            .iter()
            .filter_map(move |to| Way::new(family, origin, node, to))
    };
    let both = of(Origin::Host).chain(of(Origin::BoundHost));
    both.map(|way| Way { source, ..way }).collect()
}

/// Tries ways, many at once, and fails with a table of those that did not go as they should.
pub(crate) fn all_good(lab: &Lab, ways: &[Way]) {
    let bad = bad(lab, ways);
    assert!(bad.is_empty(), "\n{}", render(&bad));
}

/// The same, but for a while ways may not go as they should; then all are tried again.
pub(crate) fn soon_good(lab: &Lab, ways: &[Way]) {
    let deadline = Instant::now() + PATIENCE;
    let mut left = ways.to_vec();
    loop {
        let bad = bad(lab, &left);
        if bad.is_empty() && left.len() == ways.len() {
            return;
        }
        if bad.is_empty() {
            return all_good(lab, ways);
        }
        assert!(Instant::now() < deadline, "\n{}", render(&bad));
        left = bad.into_iter().map(|one| one.way).collect();
    }
}

/// The same; those that did not.
pub(crate) fn bad(lab: &Lab, ways: &[Way]) -> Vec<Tried> {
    assert!(!ways.is_empty(), "nothing to try");
    let mut bad: Vec<Tried> = Vec::new();
    for chunk in ways.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let tries: Vec<_> = chunk
                .iter()
                .map(|way| scope.spawn(|| way.attempt(lab).expect("the lab answers")))
                .collect();
            let tried = tries.into_iter().map(|t| t.join().expect("it is tried"));
            bad.extend(tried.filter(|one| !one.good()));
        });
    }
    bad
}
