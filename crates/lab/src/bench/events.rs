//! How long it takes from an event to the kernel. The kernel's side is what `nft monitor` and `ip monitor` print, and when; the
//! beginning is the moment before the request that causes the event is sent, so that each sample is an upper bound.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use strait_api::names::{BROKER_NAMESPACE, GROUP, LABEL_CLUSTER_ID, VERSION};

use super::PATIENCE;
use crate::client::Lab;
use crate::control::CniChange;

/// A command whose lines are taken with the time at which they came.
pub(super) struct Monitor {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Monitor {
    pub(super) fn start(lab: &Lab, node: &str, command: &[&str]) -> Result<Self> {
        let mut child = lab
            .command(node, command.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let (send, lines) = channel();
        std::thread::Builder::new()
            .name(format!("{node} monitor"))
            .spawn(move || {
                for line in output.lines().map_while(Result::ok) {
                    if send.send((Instant::now(), line)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { child, lines })
    }

    /// When the next line came in which all of `parts` occur.
    pub(super) fn until(&self, parts: &[&str]) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok((when, line)) if parts.iter().all(|part| line.contains(part)) => {
                    return Ok(when);
                }
                Ok(_) => (),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("nothing with {parts:?} within {PATIENCE:?}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the monitor ended before there was anything with {parts:?}")
                }
            }
        }
    }

    /// The next line.
    pub(super) fn next(&self) -> Result<String> {
        let line = self.lines.recv_timeout(PATIENCE);
        let (_, line) = line.with_context(|| format!("no further line within {PATIENCE:?}"))?;
        Ok(line)
    }

    /// Forgets what has come; returns how many lines that were.
    pub(super) fn skip(&self) -> u32 {
        let mut count = 0;
        while self.lines.try_recv().is_ok() {
            count += 1;
        }
        count
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        super::end(&mut self.child);
    }
}

/// From a CNI address that is set on its interface, where there was none, to the SNAT rule with it: from the moment before
/// that is asked for, and from the kernel's announcement of the address; milliseconds.
pub(super) fn cni_address(
    lab: &Lab,
    node: &str,
    address: &str,
    length: u8,
    runs: u32,
) -> Result<[Vec<f64>; 2]> {
    let monitor = Monitor::start(lab, node, &["nft", "monitor"])?;
    let announced = Monitor::start(lab, node, &["ip", "-o", "monitor", "address"])?;
    let snat = format!("snat ip to {address} ");
    let change = CniChange::Address(format!("{address}/{length}").parse()?);
    // The monitors may not listen yet when the first change is made.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (mut from_request, mut from_announcement) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        lab.cni(node, CniChange::NoAddress)?;
        monitor.until(&["add rule", "snat ip to 240."])?;
        // That it went was announced before, in the same words but for the first.
        announced.skip();
        let start = Instant::now();
        lab.cni(node, change)?;
        let end = monitor.until(&["add rule", &snat])?;
        from_request.push(milliseconds(start, end));
        let set = announced.until(&[&format!(" inet {address}/")])?;
        from_announcement.push(milliseconds(set, end));
    }
    let own = lab.topology().node(node)?.1.cni_address;
    lab.cni(node, CniChange::Address(format!("{own}/{length}").parse()?))?;
    lab.wait_until_joined(PATIENCE)?;
    Ok([from_request, from_announcement])
}

/// From an Endpoint of another cluster, created on the broker, to the last node's route to its subnet; milliseconds.
pub(super) fn endpoint(lab: &Lab, runs: u32) -> Result<Vec<f64>> {
    let monitors: Vec<Monitor> = lab
        .topology()
        .nodes()
        .map(|node| Monitor::start(lab, &node.name, &["ip", "monitor", "route"]))
        .collect::<Result<_>>()?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let collection = format!("/apis/{GROUP}/{VERSION}/namespaces/{BROKER_NAMESPACE}/endpoints");
    let mut samples = Vec::new();
    for run in 0..runs.min(250) {
        let subnet = format!("10.210.{run}.0/24");
        let (name, endpoint) = stranger(run, &subnet);
        let start = Instant::now();
        lab.api("broker", "POST", &collection, &endpoint)?;
        let mut last = start;
        for monitor in &monitors {
            // The gateways' routes are in the cable's table, the workers' in the main one.
            last = last.max(monitor.until(&[&format!("{subnet} via"), "dev vx"])?);
        }
        samples.push(milliseconds(start, last));
        lab.api(
            "broker",
            "DELETE",
            &format!("{collection}/{name}"),
            &Value::Null,
        )?;
        for monitor in &monitors {
            monitor.until(&[&format!("Deleted {subnet} via")])?;
        }
    }
    Ok(samples)
}

/// The Endpoint of a cluster that does not exist.
fn stranger(number: u32, subnet: &str) -> (String, Value) {
    let cluster = format!("stranger-{number}");
    let cable = format!("submariner-cable-{cluster}-192-0-2-{number}");
    let name = format!("{cluster}-{cable}");
    let endpoint = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "Endpoint",
        "metadata": {"name": name, "namespace": BROKER_NAMESPACE, "labels": {LABEL_CLUSTER_ID: cluster}},
        "spec": {
            "cluster_id": cluster,
            "cable_name": cable,
            "hostname": cluster,
            "subnets": [subnet],
            "private_ip": format!("192.0.2.{number}"),
            "public_ip": "",
            "nat_enabled": false,
            "backend": "vxlan",
            "backend_config": {"udp-port": "4500", "natt-discovery-port": "0"},
        },
    });
    (name, endpoint)
}

pub(super) fn milliseconds(start: Instant, end: Instant) -> f64 {
    end.saturating_duration_since(start).as_secs_f64() * 1000.0
}
