//! `strait lab demo`: two clusters are joined, every way is tried, and a node boots with a CNI that comes late.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use strait_host::Family;

use crate::cli::print;
use crate::client::Lab;
use crate::matrix::{self, Origin, Tried, Way};
use crate::options::{Cni, Options};
use crate::probe::Probe;
use crate::process::Role;
use crate::signals;
use crate::topology::Node;

/// How long everything may take that normally takes less than a second.
const PATIENCE: Duration = Duration::from_secs(30);

struct Demo {
    start: Instant,
    failures: usize,
}

/// Runs the demonstration. Success only if every row of every table is as it should be.
pub(crate) fn run(binary: &Path, late: Duration) -> Result<ExitCode> {
    let options = Options {
        name: format!("demo-{}", std::process::id()),
        cnis: vec![Cni::Bridge, Cni::Calico],
        ..Options::default()
    };
    signals::ending(&options.name, || show(&options, binary, late))
}

fn show(options: &Options, binary: &Path, late: Duration) -> Result<ExitCode> {
    let mut demo = Demo {
        start: Instant::now(),
        failures: 0,
    };
    demo.step("starting two clusters of three nodes: east (bridge CNI, like kindnet), west (Calico-like CNI with a tunnel)")?;
    let lab = Lab::up(options, binary, |step| {
        let _ = demo.step(step);
    })?;
    lab.wait_until_ready(PATIENCE, true)?;
    demo.step("every route agent and gateway is ready")?;
    lab.wait_until_joined(PATIENCE)?;
    demo.step("the clusters are joined; trying every way, 3 KB both ways")?;
    let tried: Vec<Tried> = matrix::ways(lab.topology())
        .iter()
        .map(|way| way.attempt(&lab))
        .collect::<Result<_>>()?;
    demo.table("WHO REACHES WHOM", &tried)?;
    demo.late_cni(&lab, late)?;
    drop(lab);
    demo.step("the lab is gone")?;
    if demo.failures == 0 {
        print("\nEvery row is as it should be.\n")?;
        Ok(ExitCode::SUCCESS)
    } else {
        print(&format!("\n{} FAILED\n", demo.failures))?;
        Ok(ExitCode::FAILURE)
    }
}

impl Demo {
    fn step(&self, text: &str) -> Result<()> {
        print(&format!(
            "[{:6.2} s] {text}\n",
            self.start.elapsed().as_secs_f64()
        ))
    }

    fn table(&mut self, title: &str, tried: &[Tried]) -> Result<()> {
        self.failures += tried.iter().filter(|one| !one.good()).count();
        print(&format!("\n{title}\n\n{}\n", matrix::render(tried)))
    }

    fn check(&mut self, good: bool, text: &str) -> Result<()> {
        self.failures += usize::from(!good);
        self.step(&format!("{text}: {}", if good { "ok" } else { "FAILED" }))
    }

    /// A worker of the Calico cluster boots; its agent is there at once, its CNI later.
    fn late_cni(&mut self, lab: &Lab, late: Duration) -> Result<()> {
        let topology = lab.topology();
        let (east, west) = (topology.cluster("east")?, topology.cluster("west")?);
        let (gateway, node) = (
            west.nodes.first().context("no gateway")?,
            west.nodes.get(1).context("no worker")?,
        );
        let hosts = |source| -> Vec<Way> {
            let ways = |origin| {
                matrix::targets(east)
                    .into_iter()
                    .filter_map(move |to| Way::new(Family::V4, origin, node, &to))
            };
            ways(Origin::Host)
                .chain(ways(Origin::BoundHost))
                .map(|way| way.seen_as(source))
                .collect()
        };

        lab.reboot(&node.name, late)?;
        let booted = Instant::now();
        let agent = agent(lab, node)?;
        self.step(&format!(
            "{} boots: its route agent is there at once, its CNI comes {} s later",
            node.name,
            late.as_secs_f64()
        ))?;
        let ready = Probe {
            timeout_ms: 500,
            ..Probe::tcp(&node.name, &format!("web.{}", east.name))
        };
        lab.probe_until(&ready, PATIENCE, |_| true)?;
        self.step(&format!(
            "{} reaches {} without a CNI address, by way of {}",
            node.name, east.name, gateway.name
        ))?;
        if let Some(conditions) = conditions(lab, node)? {
            self.step(&format!("its route agent says: {conditions}"))?;
        }
        let tried: Vec<Tried> = hosts(gateway.cni_address)
            .iter()
            .map(|way| way.attempt(lab))
            .collect::<Result<_>>()?;
        let early = booted.elapsed() < late;
        self.table(
            &format!(
                "{} WITHOUT ITS CNI: seen with the CNI address of {}",
                node.name.to_uppercase(),
                gateway.name
            ),
            &tried,
        )?;
        self.check(early, "the CNI was away all that time")?;

        let waiting = Duration::from_secs(30) + late;
        lab.probe_until(&ready, waiting, |seen| seen.source.ip() == node.cni_address)?;
        self.step(&format!(
            "the CNI of {} has come ({:.1} s after boot), and its traffic has changed over",
            node.name,
            booted.elapsed().as_secs_f64()
        ))?;
        let pod = node.pods.first().context("a node without pods")?;
        lab.probe_until(
            &Probe::tcp(&pod.name, &format!("web.{}", east.name)),
            PATIENCE,
            |_| true,
        )?;
        let mut ways = hosts(node.cni_address);
        ways.extend(
            matrix::targets(east)
                .iter()
                .filter_map(|to| Way::new(Family::V4, Origin::Pod, node, to)),
        );
        let tried: Vec<Tried> = ways
            .iter()
            .map(|way| way.attempt(lab))
            .collect::<Result<_>>()?;
        self.table(
            &format!(
                "{} WITH ITS CNI: healed by itself",
                node.name.to_uppercase()
            ),
            &tried,
        )?;
        let same = self::agent(lab, node)?;
        self.check(
            same == agent,
            &format!(
                "the route agent of {} is the same process, {agent}",
                node.name
            ),
        )
    }
}

/// The number of the node's route agent, which must be alive.
fn agent(lab: &Lab, node: &Node) -> Result<u32> {
    let status = lab.status()?;
    let mut alive = status
        .processes
        .iter()
        .filter(|process| process.role == Role::RouteAgent && process.ended.is_none());
    let agent = alive
        .find(|process| process.place == node.name)
        .with_context(|| format!("no route agent runs on {}", node.name))?;
    Ok(agent.pid)
}

fn conditions(lab: &Lab, node: &Node) -> Result<Option<String>> {
    let status = lab.status()?;
    let agent = status
        .processes
        .into_iter()
        .find(|process| process.role == Role::RouteAgent && process.place == node.name);
    let degraded = agent
        .and_then(|agent| agent.readiness)
        .map(|readiness| readiness.degraded)
        .unwrap_or_default();
    let texts: Vec<String> = degraded
        .iter()
        .map(|(name, text)| format!("{name}: {text}"))
        .collect();
    Ok((!texts.is_empty()).then(|| texts.join("; ")))
}
