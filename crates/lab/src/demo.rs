//! `strait lab demo`: two clusters are joined, every way is tried, a node boots with a CNI that comes late, and a gateway's process is
//! killed.

use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use strait_api::names::CABLE_WIREGUARD;
use strait_host::Family;

use crate::cli::print;
use crate::client::Lab;
use crate::flow::Flow;
use crate::matrix::{self, Origin, Tried, Way};
use crate::options::{Cable, Cni, Options};
use crate::probe::Probe;
use crate::process::Role;
use crate::signals;
use crate::topology::Node;

/// How long everything may take that normally takes less than a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest gap that the death of a gateway's process may leave: on a busy machine, too.
const LONGEST_GAP: Duration = Duration::from_secs(2);

struct Demo {
    start: Instant,
    failures: usize,
}

/// Runs the demonstration. Success only if every row of every table is as it should be.
pub(crate) fn run(binary: &Path, late: Duration) -> Result<ExitCode> {
    let options = Options {
        name: format!("demo-{}", std::process::id()),
        cnis: vec![Cni::Bridge, Cni::Calico],
        cable: Cable::Wireguard,
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
    let whose = if in_process(&lab)? {
        "that of the gateways' processes, since this kernel has none"
    } else {
        "the kernel's"
    };
    demo.step(&format!(
        "the clusters are joined by WireGuard, {whose}; trying every way, 3 KB both ways"
    ))?;
    let tried: Vec<Tried> = matrix::ways(lab.topology())
        .iter()
        .map(|way| way.attempt(&lab))
        .collect::<Result<_>>()?;
    demo.table("WHO REACHES WHOM", &tried)?;
    demo.late_cni(&lab, late)?;
    demo.killed_gateway(&lab)?;
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

    /// The process that does the work of a gateway is killed under traffic between two workers.
    fn killed_gateway(&mut self, lab: &Lab) -> Result<()> {
        let topology = lab.topology();
        let (east, west) = (topology.cluster("east")?, topology.cluster("west")?);
        let gateway = east.nodes.first().context("no gateway")?;
        let pod = |node: Option<&Node>| {
            let pod = node.and_then(|node| node.pods.first());
            pod.map(|pod| pod.name.clone())
                .context("a worker without pods")
        };
        let (from, to) = (pod(east.nodes.get(1))?, pod(west.nodes.get(1))?);
        let again = if in_process(lab)? {
            "its parent holds the device, and starts it again"
        } else {
            "the kernel has the device, and it is started again"
        };
        self.step(&format!(
            "the gateway's process on {} is killed (kill -9) under 1000 datagrams a second and 4 connections from {from} to {to}: {again}",
            gateway.name
        ))?;
        let flow = lab.flow(&Flow::new(&from, &to))?;
        sleep(Duration::from_secs(1));
        lab.crash(&gateway.name, Role::Gateway)?;
        sleep(Duration::from_secs(2));
        let report = flow.end()?;
        let (udp, tcp) = (&report.udp, &report.tcp);
        self.step(&format!(
            "the longest gap was {:.0} ms (this machine made the sender itself late by up to {:.0} ms); {} of {} datagrams were not answered",
            udp.longest_gap_ms, udp.sender_late_ms, udp.lost, udp.sent
        ))?;
        let limit = LONGEST_GAP.as_secs_f64() * 1000.0;
        self.check(
            udp.sent > 0 && udp.longest_gap_ms < limit,
            &format!("no gap of {} s or more", LONGEST_GAP.as_secs()),
        )?;
        let whole = tcp.connected == 4 && tcp.broken.is_empty() && tcp.silent == 0;
        self.check(whole, "all 4 connections live on")
    }
}

/// Whether the gateways serve WireGuard themselves.
fn in_process(lab: &Lab) -> Result<bool> {
    let cluster = lab.topology().cluster("east")?;
    let gateway = cluster.nodes.first().context("no gateway")?;
    let show = ["ip", "-d", "link", "show", CABLE_WIREGUARD];
    let text = lab.exec(&gateway.name, &show)?;
    Ok(text.contains("tun type tun"))
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
