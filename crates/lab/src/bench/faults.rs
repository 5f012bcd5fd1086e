//! The fault matrix: what a flow between pods loses while something breaks, over each cable.
//!
//! Each run has a lab of its own, so that none inherits from another: two clusters of three nodes, two of them gateways. A pod of
//! west's worker sends a datagram each millisecond to one of east's, which answers; beside it connections are kept busy, to that pod and
//! to east's service. Something happens in east.

mod rows;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use strait_api::names::{ANNOTATION_STANDBYS, NAMESPACE};

use super::PATIENCE;
use super::figure::percentile;
use crate::client::Lab;
use crate::flow::{Connections, Flow, FlowReport};
use crate::options::{Cable, Options};
pub(crate) use rows::Fault;
use rows::{CLUSTER, Limit};

const FROM: &str = "west-3-a";
const TO: &str = "east-3-a";
const SERVICE: &str = "web.east";
/// Before something happens, the flow has begun.
const BEFORE: Duration = Duration::from_millis(1500);
/// What started has come to rest.
const REST: Duration = Duration::from_secs(2);

/// A row of the matrix.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    fault: Fault,
    name: &'static str,
    cable: Cable,
    limit: Limit,
    why: &'static str,
    runs: Vec<Run>,
}

/// What became of the flows of one run. Times are milliseconds.
#[derive(Debug, Serialize)]
struct Run {
    longest_gap_ms: f64,
    /// By how much the sender itself was late at most: gaps of this length are the machine's.
    sender_late_ms: f64,
    sent: u64,
    lost: u64,
    /// Connections between pods, and of these, broken or silent to the end.
    connections: usize,
    broken: usize,
    /// Those through the service's address.
    service_connections: usize,
    service_broken: usize,
}

impl Run {
    fn new(pods: &FlowReport, service: &FlowReport) -> Self {
        let [all, service_all] = [pods, service].map(|report| all(&report.tcp));
        let [broken, service_broken] = [pods, service].map(|report| broken(&report.tcp));
        Self {
            longest_gap_ms: pods.udp.longest_gap_ms,
            sender_late_ms: pods.udp.sender_late_ms,
            sent: pods.udp.sent,
            lost: pods.udp.lost,
            connections: all,
            broken,
            service_connections: service_all,
            service_broken,
        }
    }

    fn text(&self) -> String {
        format!(
            "longest gap {:.1} ms (sender late by {:.1} ms), {} of {} lost, {} of {} connections broken, {} of {} of the service",
            self.longest_gap_ms,
            self.sender_late_ms,
            self.lost,
            self.sent,
            self.broken,
            self.connections,
            self.service_broken,
            self.service_connections
        )
    }

    fn is_within(&self, limit: Limit) -> bool {
        match limit {
            Limit::NoneLost => self.lost == 0,
            Limit::GapMs(most) => self.longest_gap_ms - self.sender_late_ms <= most,
        }
    }
}

/// Those that came about, and those that did not.
fn all(tcp: &Connections) -> usize {
    let never = tcp
        .broken
        .iter()
        .filter(|why| why.contains("cannot connect"));
    tcp.connected as usize + never.count()
}

fn broken(tcp: &Connections) -> usize {
    tcp.broken.len() + tcp.silent as usize
}

/// All rows, or those of some faults, each measured so many times; tells of each run as it ends.
pub(super) fn rows(
    options: &Options,
    binary: &Path,
    only: &[Fault],
    runs: u32,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let wanted = |fault: &&Fault| only.is_empty() || only.contains(fault);
    for fault in Fault::ALL.iter().filter(wanted) {
        for cable in [Cable::Vxlan, Cable::Wireguard] {
            let Some((limit, why)) = fault.limit(cable) else {
                continue;
            };
            let mut all = Vec::new();
            for number in 1..=runs {
                let what = || format!("{}, {cable}, run {number}", fault.name());
                let run = run(options, binary, *fault, cable).with_context(what)?;
                tell(&format!("{}: {}", what(), run.text()));
                all.push(run);
            }
            rows.push(Row {
                fault: *fault,
                name: fault.name(),
                cable,
                limit,
                why,
                runs: all,
            });
        }
    }
    Ok(rows)
}

/// Progress, for whoever waits; one that went away is no error.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn run(options: &Options, binary: &Path, fault: Fault, cable: Cable) -> Result<Run> {
    let options = Options {
        gateways: 2,
        cable,
        clocks: fault.needs_clocks(),
        ..options.clone()
    };
    let lab = Lab::up(&options, binary, |_| ())?;
    lab.wait_until_joined(PATIENCE)?;
    let active = stands_by(&lab)?;
    std::thread::sleep(REST);
    let pods = lab.flow(&Flow::new(FROM, TO))?;
    let service = lab.flow(&Flow {
        rate: 0,
        ..Flow::new(FROM, SERVICE)
    })?;
    std::thread::sleep(BEFORE);
    fault.happen(&lab, &active)?;
    std::thread::sleep(fault.time());
    let (pods, service) = (pods.end()?, service.end()?);
    Ok(Run::new(&pods, &service))
}

/// Waits until both clusters' gateways know each other's standby; the active one of the cluster that is broken.
fn stands_by(lab: &Lab) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let east = published(lab, CLUSTER, "west")?;
        let west = published(lab, "west", CLUSTER)?;
        if let (Some(active), Some(_)) = (east, west) {
            return Ok(active);
        }
        ensure!(
            Instant::now() < deadline,
            "no standby is published after {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The host of a cluster's Endpoint as another cluster has it, once it tells of a standby.
fn published(lab: &Lab, of: &str, at: &str) -> Result<Option<String>> {
    let path = format!("/apis/submariner.io/v1/namespaces/{NAMESPACE}/endpoints");
    let list = lab.api(at, "GET", &path, &Value::Null)?;
    let all = list["items"].as_array().into_iter().flatten();
    let mut found = all.filter(|endpoint| endpoint["spec"]["cluster_id"] == of);
    let ready = |endpoint: &Value| {
        let standbys = endpoint["metadata"]["annotations"][ANNOTATION_STANDBYS].as_str();
        standbys.is_some_and(|standbys| standbys.contains("cableName"))
    };
    let endpoint = found.find(|endpoint| ready(endpoint));
    let host = endpoint.and_then(|endpoint| endpoint["spec"]["hostname"].as_str());
    Ok(host.map(str::to_owned))
}

/// A table.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = "| fault | cable | limit | why | runs | within | longest gap, p50 | max | sender late, max | lost, p50 | max | connections of pods broken | of the service |\n".to_owned();
    text += "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for row in rows {
        let sorted = |of: fn(&Run) -> f64| {
            let mut all: Vec<f64> = row.runs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            [percentile(&all, 50), percentile(&all, 100)]
        };
        let sum = |of: fn(&Run) -> usize| row.runs.iter().map(of).sum::<usize>();
        let [gap, longest] = sorted(|run| run.longest_gap_ms);
        let [_, late] = sorted(|run| run.sender_late_ms);
        #[allow(clippy::cast_precision_loss, reason = "thousands")]
        let [lost, most] = sorted(|run| run.lost as f64);
        let within = row.runs.iter().filter(|run| run.is_within(row.limit));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {gap:.1} ms | {longest:.1} ms | {late:.1} ms | {lost} | {most} | {} of {} | {} of {} |",
            row.name,
            row.cable,
            row.limit.text(),
            row.why,
            row.runs.len(),
            within.count(),
            sum(|run| run.broken),
            sum(|run| run.connections),
            sum(|run| run.service_broken),
            sum(|run| run.service_connections),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(longest_gap_ms: f64, sender_late_ms: f64, lost: u64) -> Run {
        let mut pods = FlowReport::default();
        pods.udp.longest_gap_ms = longest_gap_ms;
        pods.udp.sender_late_ms = sender_late_ms;
        pods.udp.lost = lost;
        pods.tcp.connected = 3;
        pods.tcp.silent = 1;
        pods.tcp.broken = vec!["cannot connect: refused".to_owned()];
        let mut service = FlowReport::default();
        service.tcp.connected = 4;
        service.tcp.broken = vec!["after 3 answers: reset".to_owned()];
        Run::new(&pods, &service)
    }

    #[test]
    fn what_the_sender_was_late_is_no_gap_and_what_did_not_come_about_is_broken() {
        let good = run(120.0, 30.0, 0);
        assert!(good.is_within(Limit::GapMs(90.0)) && !good.is_within(Limit::GapMs(89.0)));
        assert!(good.is_within(Limit::NoneLost) && !run(1.0, 0.0, 1).is_within(Limit::NoneLost));
        let row = Row {
            fault: Fault::Power,
            name: Fault::Power.name(),
            cable: Cable::Wireguard,
            limit: Limit::GapMs(100.0),
            why: "so",
            runs: vec![good, run(300.0, 5.0, 295), run(20.0, 1.0, 2)],
        };
        let table = markdown(&[row]);
        let line = table.lines().last().expect("a line");
        assert_eq!(
            line,
            "| the gateway's node without power | wireguard | <= 100 ms | so | 3 | 2 | 120.0 ms | 300.0 ms | 30.0 ms | 2 | 295 | 6 of 12 | 3 of 12 |"
        );
    }
}
