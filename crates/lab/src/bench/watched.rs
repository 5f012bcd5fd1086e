//! From a watch's event to the kernel, of one agent with nothing else to do: the event is the packet that brings it, as `tcpdump`
//! sees it on the node; its end is the kernel's last announcement of what follows from it, as `ip monitor` sees it. Both print the
//! clock's time, so that no delay of the bench is in it, but that of `ip monitor`, which is a process of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};

use super::events::Monitor;
use super::scale::{MANY, NODE, create, remove, subnets};
use crate::client::Lab;

/// After this time an agent is at rest again: 200 ms after a change it verifies, and it writes its RouteAgent object, which is large,
/// at most every 500 ms (half a millisecond for each of a thousand clusters), and hears of that.
const REST: Duration = Duration::from_millis(900);
/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// One more Endpoint comes, and goes again, so many times; milliseconds of each event.
pub(super) fn further(lab: &Lab, runs: u32) -> Result<Vec<f64>> {
    let server = lab.topology().cluster("east")?.api_server();
    let filter = format!(
        "src host {} and src port {} and tcp[tcpflags] & tcp-push != 0",
        server.ip(),
        server.port()
    );
    let capture = ["tcpdump", "--immediate-mode", "-lnntttt", "-i", "eth0"];
    let packets = Monitor::start(lab, NODE, &[&capture[..], &[&filter]].concat())?;
    let routes = Monitor::start(lab, NODE, &["ip", "-tshort", "monitor", "route"])?;
    let subnets = subnets(MANY);
    let mut samples = Vec::new();
    // What was measured before may have left it something to write.
    std::thread::sleep(REST * 3);
    for _ in 0..runs {
        for (change, deleted) in [
            (create as fn(&Lab, u32) -> Result<()>, false),
            (remove, true),
        ] {
            std::thread::sleep(REST);
            packets.skip();
            routes.skip();
            change(lab, MANY)?;
            let end = last_of(&routes, &subnets, deleted)?;
            // Nothing else is told to this node, so the first is the event.
            let start = seconds(&packets.next()?)?;
            samples.push((end - start).rem_euclid(DAY) * 1000.0);
        }
    }
    Ok(samples)
}

/// When the last was announced of what belongs to these subnets: to each its route by way of the gateway, and what stands under that.
fn last_of(routes: &Monitor, subnets: &[String], deleted: bool) -> Result<f64> {
    let both = |subnet| [format!("{subnet} via "), format!("unreachable {subnet} ")];
    let mut left: BTreeSet<String> = subnets.iter().flat_map(both).collect();
    loop {
        let line = routes.next()?;
        if line.contains("Deleted ") == deleted {
            left.retain(|part| !line.contains(part));
        }
        if left.is_empty() {
            return seconds(&line);
        }
    }
}

/// The seconds of the day in a line that begins with a date and a time, as `2026-11-25 04:35:54.182108` or in brackets.
fn seconds(line: &str) -> Result<f64> {
    let time = || {
        let mut parts = line.trim_start_matches('[').get(11..26)?.split(':');
        let mut next = || parts.next()?.parse::<f64>().ok();
        Some(next()? * 3600.0 + next()? * 60.0 + next()?)
    };
    time().with_context(|| format!("no time in: {line}"))
}
