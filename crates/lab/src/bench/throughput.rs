//! What the way between pods of two clusters carries, next to the same way made by hand: the same namespaces and devices, and no
//! nftables at all, neither ours nor those of the CNI and of kube-proxy.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

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
        let (mut with, mut by_hand, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let measure = |seconds: u32| iperf(lab, &client, &address.to_string(), seconds);
        for round in 0..effort.rounds {
            // Which one comes first changes, so that what warms up or tires does not count for one of them.
            let order = if round % 2 == 0 {
                [true, false]
            } else {
                [false, true]
            };
            let mut pair = [0.0; 2];
            for strait in order {
                for node in &nodes {
                    let ruleset = rules
                        .get(node.as_str())
                        .filter(|_| strait)
                        .map(String::as_str)
                        .unwrap_or_default();
                    load(lab, node, &format!("flush ruleset\n{ruleset}"))?;
                }
                measure(1)?;
                pair[usize::from(strait)] = measure(effort.seconds)?;
            }
            let [hand, strait] = pair;
            with.push(strait);
            by_hand.push(hand);
            ratios.push(strait / hand);
        }
        drop(listener);
        let name = format!("pod -> remote pod, TCP, one stream, between {between}");
        figures.push(Figure::new(&name, "", Unit::GigabitsPerSecond, with));
        figures.push(Figure::new(
            &format!("the same by hand, without nftables, {between}"),
            "",
            Unit::GigabitsPerSecond,
            by_hand,
        ));
        figures.push(Figure::new(
            &format!("ratio of the two, {between}"),
            ">= 0.95",
            Unit::Ratio,
            ratios,
        ));
    }
    for node in &nodes {
        let ruleset = rules
            .get(node.as_str())
            .map(String::as_str)
            .unwrap_or_default();
        load(lab, node, &format!("flush ruleset\n{ruleset}"))?;
        lab.restart(node, Role::RouteAgent)?;
    }
    lab.wait_until_joined(PATIENCE)?;
    Ok(figures)
}

struct Server {
    child: Child,
}

impl Server {
    fn start(lab: &Lab, place: &str) -> Result<Self> {
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
    let seconds = seconds.to_string();
    let report = lab.exec(
        from,
        &[
            "iperf3", "-c", to, "-p", PORT, "-t", &seconds, "-C", "reno", "-J",
        ],
    )?;
    let report: Value = serde_json::from_str(&report).context("iperf3 printed no JSON")?;
    let received = report
        .pointer("/end/sum_received/bits_per_second")
        .and_then(Value::as_f64);
    Ok(received.context("iperf3 did not say what was received")? / 1e9)
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
