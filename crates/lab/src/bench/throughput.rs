//! What the way between pods of two clusters carries, next to the same way made by hand: the same namespaces and devices, and no
//! nftables at all, neither ours nor those of the CNI and of kube-proxy; and with those of kube-proxy only, to tell whose cost it is.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use strait_api::names::NFT_TABLE;

use super::figure::{Figure, Unit};
use super::{Effort, PATIENCE, pod};
use crate::client::Lab;
use crate::process::Role;

/// iperf3's usual port.
const PORT: &str = "5201";

/// Pods on gateway nodes, pods on worker nodes; each with what was measured, by hand, and the ratio of the two.
pub(super) fn figures(lab: &Lab, effort: Effort) -> Result<Vec<Figure>> {
    let nodes: Vec<String> = lab
        .topology()
        .nodes()
        .map(|node| node.name.clone())
        .collect();
    // They would repair what is about to be taken away.
    for node in lab.topology().nodes() {
        lab.kill(&node.name, Role::RouteAgent)?;
    }
    let rules: BTreeMap<&str, String> = nodes
        .iter()
        .map(|node| Ok((node.as_str(), lab.exec(node, &["nft", "list", "ruleset"])?)))
        .collect::<Result<_>>()?;
    let mut figures = Vec::new();
    for (between, from, to) in [
        ("gateway nodes", "east-1", "west-1"),
        ("worker nodes", "east-2", "west-2"),
    ] {
        let (client, _) = pod(lab, from)?;
        let (server, address) = pod(lab, to)?;
        let listener = Server::start(lab, &server)?;
        let mut samples: [Vec<f64>; 3] = Default::default();
        let measure = |seconds: u32| iperf(lab, &client, &address.to_string(), seconds);
        for round in 0..effort.rounds {
            // Which one comes first changes, so that what warms up or tires does not count for one of them.
            let mut order = Rules::ALL;
            order.rotate_left(round as usize % Rules::ALL.len());
            for kept in order {
                for (node, all) in &rules {
                    load(lab, node, &kept.script(all))?;
                }
                measure(1)?;
                let rate = measure(effort.seconds)?;
                if let Some(samples) = samples.get_mut(kept as usize) {
                    samples.push(rate);
                }
            }
        }
        let [with, proxied, none] = samples;
        let ratio = |by_hand: &[f64]| {
            with.iter()
                .zip(by_hand)
                .map(|(with, by_hand)| with / by_hand)
                .collect()
        };
        let ratios = [ratio(&none), ratio(&proxied)];
        drop(listener);
        let way = format!("pod -> remote pod, TCP, one stream, between {between}");
        let [to_none, to_proxied] = ratios;
        figures.extend([
            Figure::new(&way, "", Unit::GigabitsPerSecond, with),
            Figure::new(
                &format!("{way}, by hand, without nftables"),
                "",
                Unit::GigabitsPerSecond,
                none,
            ),
            Figure::new(
                &format!("{way}, by hand, with the rules of kube-proxy"),
                "",
                Unit::GigabitsPerSecond,
                proxied,
            ),
            Figure::new(
                &format!("ratio to the way by hand, without nftables, {between}"),
                ">= 0.95",
                Unit::Ratio,
                to_none,
            ),
            Figure::new(
                &format!("ratio to the way by hand, with the rules of kube-proxy, {between}"),
                "",
                Unit::Ratio,
                to_proxied,
            ),
        ]);
    }
    for (node, all) in &rules {
        load(lab, node, &Rules::All.script(all))?;
        lab.restart(node, Role::RouteAgent)?;
    }
    lab.wait_until_joined(PATIENCE)?;
    Ok(figures)
}

/// Which nftables are there while it is measured.
#[derive(Debug, Clone, Copy)]
enum Rules {
    All,
    /// Those of kube-proxy, with which the kernel tracks connections. (Those of the CNI would hide the pods.)
    KubeProxy,
    None,
}

impl Rules {
    const ALL: [Self; 3] = [Self::All, Self::KubeProxy, Self::None];

    /// The script that leaves these of `all`.
    fn script(self, all: &str) -> String {
        match self {
            Self::All => format!("flush ruleset\n{all}"),
            Self::KubeProxy => format!(
                "flush ruleset\n{all}\ndelete table inet {NFT_TABLE}\ndelete table ip cni\n"
            ),
            Self::None => "flush ruleset\n".to_owned(),
        }
    }
}

pub(super) struct Server {
    child: Child,
}

impl Server {
    pub(super) fn start(lab: &Lab, place: &str) -> Result<Self> {
        let child = lab
            .command(place, ["iperf3", "-s", "-p", PORT])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let started = Self { child };
        let deadline = std::time::Instant::now() + PATIENCE;
        while !lab
            .exec(place, &["ss", "-Htln", &format!("sport = {PORT}")])?
            .contains(PORT)
        {
            ensure!(
                std::time::Instant::now() < deadline,
                "iperf3 in {place} does not listen (expected the package iperf3)"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(started)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        super::end(&mut self.child);
    }
}

/// What the receiver got, Gbit/s.
fn iperf(lab: &Lab, from: &str, to: &str, seconds: u32) -> Result<f64> {
    let options = ["-t", &seconds.to_string(), "-C", "reno"];
    let report = client(lab, from, to, &options)?;
    let received = report
        .pointer("/end/sum_received/bits_per_second")
        .and_then(Value::as_f64);
    Ok(received.context("iperf3 did not say what was received")? / 1e9)
}

/// Small datagrams that the receiver got in a second, sent as fast as one process can.
pub(super) fn iperf_datagrams(lab: &Lab, from: &str, to: &str, seconds: &str) -> Result<f64> {
    let options = ["-t", seconds, "-u", "-b", "0", "-l", "64"];
    let report = client(lab, from, to, &options)?;
    let value = |name: &str| {
        let value = report.pointer(&format!("/end/sum/{name}"));
        let value = value.and_then(Value::as_f64);
        value.with_context(|| format!("iperf3 did not tell {name}"))
    };
    Ok((value("packets")? - value("lost_packets")?) / value("seconds")?)
}

fn client(lab: &Lab, from: &str, to: &str, options: &[&str]) -> Result<Value> {
    let command = [
        "iperf3",
        "-c",
        to,
        "-p",
        PORT,
        "--connect-timeout",
        "5000",
        "-J",
    ];
    let report = lab.exec(from, &[&command, options].concat())?;
    serde_json::from_str(&report).context("iperf3 printed no JSON")
}

fn load(lab: &Lab, node: &str, ruleset: &str) -> Result<()> {
    let mut child = lab
        .command(node, ["nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no pipe")?
        .write_all(ruleset.as_bytes())?;
    ensure!(
        child.wait()?.success(),
        "the ruleset of {node} could not be loaded"
    );
    Ok(())
}
