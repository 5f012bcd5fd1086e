//! `strait lab bench`: how fast, as figures. A benchmark, never a test: it judges nothing.

mod clusters;
mod drift;
mod echo;
mod events;
mod faults;
mod figure;
mod peers;
mod process;
mod responder;
mod rest;
mod scale;
mod throughput;
mod watched;
mod wireguard;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cli::print;
use crate::client::Lab;
use crate::matrix::{self, Tried};
use crate::options::Options;
use crate::signals;
pub(crate) use faults::Fault;
use figure::{Figure, Unit};
pub(crate) use responder::serve as respond;
pub(crate) use wireguard::serve as wireguard_device;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing happens.
const IDLE: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Two clusters: events, and what the way between them carries
    Lab,
    /// A route agent among a thousand other clusters
    Scale,
    /// WireGuard in this process next to other programs (wireguard-go, gotatun and boringtun-cli, as far as installed)
    Wireguard,
    /// A gateway that is joined with 200 other clusters by WireGuard in its process
    Clusters,
    /// What a flow between pods loses while something breaks, over each cable
    Faults,
}

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// How often each event is measured.
    pub(crate) runs: u32,
    /// How often each fault is.
    pub(crate) faults: u32,
    /// How often each throughput is measured.
    pub(crate) rounds: u32,
    /// How long each throughput is measured, seconds.
    pub(crate) seconds: u32,
}

/// Measures everything, of the faults those in `only`, or all, with route agents and gateways by `program` or this one; prints Markdown, or JSON.
pub(crate) fn run(
    binary: &Path,
    program: Option<PathBuf>,
    parts: &[Part],
    effort: Effort,
    only: &[Fault],
    json: bool,
) -> Result<ExitCode> {
    let options = Options {
        name: format!("bench-{}", std::process::id()),
        program,
        ..Options::default()
    };
    let mut figures = Vec::new();
    if parts.contains(&Part::Lab) {
        figures.extend(signals::ending(&options.name, || {
            measure(&options, binary, effort)
        })?);
    }
    if parts.contains(&Part::Scale) {
        figures.extend(signals::ending(&options.name, || {
            scale::figures(&options, binary, effort)
        })?);
    }
    if parts.contains(&Part::Wireguard) {
        figures.extend(wireguard::figures(binary, effort)?);
    }
    if parts.contains(&Part::Clusters) {
        figures.extend(signals::ending(&options.name, || {
            clusters::figures(&options, binary, effort)
        })?);
    }
    let mut rows = Vec::new();
    if parts.contains(&Part::Faults) {
        rows = signals::ending(&options.name, || {
            faults::rows(&options, binary, only, effort.faults)
        })?;
    }
    if json {
        let mut all = Vec::new();
        for figure in &figures {
            all.push(serde_json::to_value(figure)?);
        }
        for row in &rows {
            all.push(serde_json::to_value(row)?);
        }
        print(&(serde_json::to_string_pretty(&all)? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !figures.is_empty() {
        print(&figure::markdown(&figures))?;
    }
    if !rows.is_empty() {
        print(&faults::markdown(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(options: &Options, binary: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let start = Instant::now();
    let lab = Lab::up(options, binary, |_| ())?;
    lab.wait_until_joined(PATIENCE)?;
    let tried: Vec<Tried> = matrix::ways(lab.topology())
        .iter()
        .map(|way| way.attempt(&lab))
        .collect::<Result<_>>()?;
    anyhow::ensure!(
        tried.iter().all(Tried::good),
        "not every way works:\n{}",
        matrix::render(&tried)
    );
    figures.push(Figure::new(
        "the demo's way from start to its table",
        "<= 30 s",
        Unit::Seconds,
        vec![start.elapsed().as_secs_f64()],
    ));

    for (node, kind, address, length) in [
        ("east-2", "bridge CNI", "10.101.2.7", 24),
        ("west-2", "Calico-like CNI", "10.102.2.7", 32),
    ] {
        let samples = events::cni_address(&lab, node, address, length, effort.runs)?;
        for (samples, from) in samples.into_iter().zip([
            "CNI address asked for",
            "CNI address announced by the kernel",
        ]) {
            let name = format!("{from} -> SNAT rule in the kernel, worker, {kind}");
            let wanted = "p99 <= 20 ms";
            figures.push(Figure::new(&name, wanted, Unit::Milliseconds, samples));
        }
    }
    let samples = events::endpoint(&lab, effort.runs)?;
    let name = "remote Endpoint created on the broker -> route in the kernel of every node (six, of two clusters)";
    figures.push(Figure::new(
        name,
        "p99 <= 100 ms",
        Unit::Milliseconds,
        samples,
    ));
    let [changes, processor] = process::idle(&lab, "east-2", IDLE)?;
    let name = "changes of the kernel's objects on a worker while nothing happens for a minute";
    figures.push(Figure::new(name, "0", Unit::Count, vec![changes]));
    let name = "time of its route agent on a processor in that minute";
    let wanted = "no more than pings take";
    figures.push(Figure::new(
        name,
        wanted,
        Unit::Milliseconds,
        vec![processor],
    ));
    figures.extend(throughput::figures(&lab, effort)?);
    Ok(figures)
}

/// Ends a command that runs in the lab.
fn end(child: &mut std::process::Child) {
    // The command in the lab ends with the one that started it; both end with the lab in any case.
    let _ = child.kill().and_then(|()| child.wait());
}

/// The name of the first pod of a node.
fn pod(lab: &Lab, node: &str) -> Result<(String, std::net::Ipv4Addr)> {
    let pod = lab
        .topology()
        .node(node)?
        .1
        .pods
        .first()
        .context("a node without pods")?;
    Ok((pod.name.clone(), pod.address))
}
