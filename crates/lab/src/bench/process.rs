//! What a process takes of its node, as the kernel tells.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::events::Monitor;
use crate::client::Lab;

/// Clock ticks a second of `/proc/PID/stat`: `USER_HZ`, which is 100 wherever Linux runs Kubernetes.
const TICKS: f64 = 100.0;

/// Resident memory of a node's route agent, MiB: once a second, so many times.
pub(super) fn resident(lab: &Lab, node: &str, times: u32) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    for _ in 0..times {
        std::thread::sleep(Duration::from_secs(1));
        samples.push(mebibytes(&file(lab, node, "route-agent", "status")?)?);
    }
    Ok(samples)
}

/// The most that it ever was, MiB.
pub(super) fn peak(lab: &Lab, node: &str) -> Result<f64> {
    in_mebibytes(&file(lab, node, "route-agent", "status")?, "VmHWM:")
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
    in_mebibytes(status, "VmRSS:")
}

/// A field, of which the kernel tells in KiB.
fn in_mebibytes(status: &str, field: &'static str) -> Result<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    let kibibytes = line.and_then(|l| l.split_whitespace().next());
    Ok(kibibytes.context(field)?.parse::<f64>()? / 1024.0)
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
    milliseconds(&file(lab, node, "route-agent", "stat")?)
}

/// What a gateway takes: the process that does the work, and the parent that holds its devices, if there is one.
pub(super) struct Taken {
    /// Resident memory of the two, MiB.
    pub(super) memory: [f64; 2],
    /// Milliseconds that they have been on a processor, together.
    pub(super) processor: f64,
}

impl Taken {
    pub(super) fn read(lab: &Lab, node: &str) -> Result<Self> {
        let read = |name| file(lab, node, "gateway", name);
        let (stats, statuses) = (read("stat")?, read("status")?);
        let processor: Vec<f64> = stats.lines().map(milliseconds).collect::<Result<_>>()?;
        let mut memory: Vec<f64> = statuses
            .split_inclusive("Name:")
            .filter(|status| status.contains("VmRSS:"))
            .map(mebibytes)
            .collect::<Result<_>>()?;
        // The one that does the work is the larger.
        memory.sort_by(|a, b| b.total_cmp(a));
        let number = memory.len();
        let [child, parent] = memory[..] else {
            bail!("{number} processes of the gateway: expected two");
        };
        ensure!(processor.len() == 2, "a process of the gateway ended");
        Ok(Self {
            memory: [child, parent],
            processor: processor.iter().sum(),
        })
    }
}

fn milliseconds(stat: &str) -> Result<f64> {
    // Behind the name, which is in brackets: fields 14 and 15 of proc_pid_stat(5), counted from 1.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS * 1000.0)
}

/// A file below `/proc` of each process with this role. They are found by their namespace, since process numbers inside the lab are others. The pattern
/// does not match the command line that it stands in.
fn file(lab: &Lab, node: &str, role: &str, name: &str) -> Result<String> {
    let script = format!(
        r#"own=$(readlink /proc/self/ns/net)
for p in /proc/[0-9]*; do
  [ "$(readlink "$p/ns/net" 2>/dev/null)" = "$own" ] || continue
  tr '\0' ' ' < "$p/cmdline" | grep -q '[ ]{role} ' && cat "$p/{name}"
done
true"#
    );
    lab.exec(node, &["sh", "-c", &script])
}
