//! What a process takes of its node, as the kernel tells.

use std::time::Duration;

use anyhow::{Context, Result};

use super::events::Monitor;
use crate::client::Lab;

/// Clock ticks a second of `/proc/PID/stat`: `USER_HZ`, which is 100 wherever Linux runs Kubernetes.
const TICKS: f64 = 100.0;

/// Resident memory of a node's route agent, MiB.
pub(super) fn resident(lab: &Lab, node: &str) -> Result<f64> {
    mebibytes(&file(lab, node, "status")?)
}

/// Resident memory of a process of this machine, MiB.
pub(super) fn memory(pid: u32) -> Result<f64> {
    mebibytes(&std::fs::read_to_string(format!("/proc/{pid}/status"))?)
}

/// Seconds that a process of this machine has been on a processor.
pub(super) fn seconds(pid: u32) -> Result<f64> {
    Ok(milliseconds(&std::fs::read_to_string(format!("/proc/{pid}/stat"))?)? / 1000.0)
}

fn mebibytes(status: &str) -> Result<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|l| l.split_whitespace().next());
    Ok(kibibytes.context("no VmRSS")?.parse::<f64>()? / 1024.0)
}

/// While nothing happens: announcements of changes of links, addresses, routes, rules and nftables, and milliseconds on a
/// processor.
pub(super) fn idle(lab: &Lab, node: &str, time: Duration) -> Result<[f64; 2]> {
    let objects = ["ip", "monitor", "link", "address", "route", "rule"];
    let monitors = [
        Monitor::start(lab, node, &objects)?,
        Monitor::start(lab, node, &["nft", "monitor"])?,
    ];
    std::thread::sleep(Duration::from_millis(300));
    monitors.iter().for_each(|monitor| {
        monitor.skip();
    });
    let before = processor(lab, node)?;
    std::thread::sleep(time);
    let took = processor(lab, node)? - before;
    let changes: u32 = monitors.iter().map(Monitor::skip).sum();
    Ok([f64::from(changes), took])
}

/// Milliseconds that it has been on a processor.
fn processor(lab: &Lab, node: &str) -> Result<f64> {
    milliseconds(&file(lab, node, "stat")?)
}

fn milliseconds(stat: &str) -> Result<f64> {
    // Behind the name, which is in brackets: fields 14 and 15 of proc_pid_stat(5), counted from 1.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS * 1000.0)
}

/// A file of the process below `/proc`. It is found by its namespace, since process numbers inside the lab are others. The pattern
/// does not match the command line that it stands in.
fn file(lab: &Lab, node: &str, name: &str) -> Result<String> {
    let script = format!(
        r#"own=$(readlink /proc/self/ns/net)
for p in /proc/[0-9]*; do
  [ "$(readlink "$p/ns/net" 2>/dev/null)" = "$own" ] || continue
  tr '\0' ' ' < "$p/cmdline" | grep -q '[ ]route-agent' && cat "$p/{name}"
done
true"#
    );
    lab.exec(node, &["sh", "-c", &script])
}
