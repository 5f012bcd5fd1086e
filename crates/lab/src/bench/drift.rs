//! From the moment at which somebody takes away one of ours, or alters it, to that at which it is back: one series for each kind of object.
//! Both moments are those of the kernel's announcements, as foreign tools print them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use strait_api::names::{NFT_TABLE, NODE_VXLAN};

use super::events::{Monitor, milliseconds};
use super::figure::{Figure, Unit};
use super::scale::{MANY, NODE, until_routed};
use crate::client::Lab;

/// What is taken away five times in ten seconds is contended.
const APART: Duration = Duration::from_millis(2600);
/// The most samples of a kind: each takes [`APART`].
const MOST: u32 = 20;
/// The gateway's node: rules are there only.
const GATEWAY: &str = "east-1";

/// Something that somebody does.
struct Damage<'a> {
    kind: &'a str,
    node: &'a str,
    command: Vec<&'a str>,
    monitor: Monitor,
    /// What the announcement of the damage contains.
    gone: Vec<&'a str>,
    /// What that of the repair does.
    back: Vec<&'a str>,
}

impl Damage<'_> {
    fn sample(&self, lab: &Lab) -> Result<f64> {
        self.monitor.skip();
        lab.exec(self.node, &self.command)?;
        let start = self.monitor.until(&self.gone)?;
        let end = self.monitor.until(&self.back);
        let end = end.with_context(|| format!("{} is not back", self.kind))?;
        Ok(milliseconds(start, end))
    }
}

/// All series.
pub(super) fn figures(lab: &Lab, runs: u32) -> Result<Vec<Figure>> {
    let runs = runs.min(MOST);
    let address = inner(
        lab,
        &["ip", "-4", "-br", "address", "show", "dev", NODE_VXLAN],
    )?;
    let neighbour = lab.exec(
        NODE,
        &[
            "ip",
            "-4",
            "neigh",
            "show",
            "nud",
            "permanent",
            "dev",
            NODE_VXLAN,
        ],
    )?;
    let next_hop = neighbour
        .split_whitespace()
        .next()
        .context("no neighbour")?;
    let entries = lab.exec(NODE, &["bridge", "fdb", "show", "dev", NODE_VXLAN])?;
    let entry: Vec<&str> = entries
        .lines()
        .find(|line| line.contains(" dst ") && !line.starts_with("00:00:00:00:00:00"))
        .context("no forwarding entry")?
        .split_whitespace()
        .collect();
    let mac = *entry.first().context("no address")?;
    let after = entry.iter().skip_while(|word| **word != "dst").nth(1);
    let outer = *after.context("no destination")?;
    let rp_filter = "net.ipv4.conf.eth0.rp_filter=1";
    let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
    let on = |node, command: &[&str]| Monitor::start(lab, node, command);

    let mut damages = vec![
        Damage {
            kind: "address",
            node: NODE,
            command: vec!["ip", "address", "del", &address, "dev", NODE_VXLAN],
            monitor: on(NODE, &["ip", "-o", "-4", "monitor", "address"])?,
            gone: vec!["Deleted", &address],
            back: vec![NODE_VXLAN, &address],
        },
        Damage {
            kind: "neighbour",
            node: NODE,
            command: vec!["ip", "neigh", "del", next_hop, "dev", NODE_VXLAN],
            monitor: on(NODE, &["ip", "-4", "monitor", "neigh"])?,
            gone: vec![next_hop, NODE_VXLAN],
            back: vec![next_hop, NODE_VXLAN, "PERMANENT"],
        },
        Damage {
            kind: "FDB entry",
            node: NODE,
            command: vec!["bridge", "fdb", "del", mac, "dev", NODE_VXLAN, "dst", outer],
            monitor: on(NODE, &["bridge", "monitor", "fdb"])?,
            gone: vec!["Deleted", mac],
            back: vec![mac, NODE_VXLAN],
        },
        Damage {
            kind: "rule, of a gateway",
            node: GATEWAY,
            command: words("ip rule delete priority 100"),
            monitor: on(GATEWAY, &["ip", "-4", "monitor", "rule"])?,
            gone: vec!["Deleted", "100:"],
            back: vec!["100:"],
        },
        Damage {
            kind: "nftables table, with all subnets in it",
            node: NODE,
            command: vec!["nft", "delete", "table", "inet", NFT_TABLE],
            monitor: on(NODE, &["nft", "monitor"])?,
            gone: vec!["delete table", NFT_TABLE],
            back: vec!["add table", NFT_TABLE],
        },
        Damage {
            kind: "reverse-path filter",
            node: NODE,
            command: vec!["sysctl", "-qw", rp_filter],
            monitor: on(NODE, &["ip", "-4", "monitor", "netconf"])?,
            gone: vec!["eth0", "rp_filter strict"],
            back: vec!["eth0", "rp_filter loose"],
        },
    ];
    // What hangs on an address goes with it, and would count as taken away twice; all the more what hangs on the link.
    let others = damages.split_off(1);
    let mut figures = series(lab, &damages, runs)?;
    figures.extend(series(lab, &others, runs)?);
    let link = Damage {
        kind: "link",
        node: NODE,
        command: vec!["ip", "link", "del", NODE_VXLAN],
        monitor: on(NODE, &["ip", "-o", "monitor", "link"])?,
        gone: vec!["Deleted", NODE_VXLAN],
        back: vec![NODE_VXLAN, "UP,"],
    };
    figures.extend(series(lab, &[link], runs)?);
    until_routed(lab, MANY)?;
    Ok(figures)
}

/// One damage after the other, so many times.
fn series(lab: &Lab, damages: &[Damage<'_>], runs: u32) -> Result<Vec<Figure>> {
    // The monitors may not listen yet, and what was damaged before is no more counted.
    std::thread::sleep(Duration::from_secs(11));
    let mut samples = vec![Vec::new(); damages.len()];
    for _ in 0..runs {
        let begun = Instant::now();
        for (damage, samples) in damages.iter().zip(&mut samples) {
            samples.push(damage.sample(lab)?);
            // A repair is verified.
            std::thread::sleep(APART / 10);
        }
        std::thread::sleep(APART.saturating_sub(begun.elapsed()));
    }
    let figure = |(damage, samples): (&Damage<'_>, Vec<f64>)| {
        let kind = damage.kind;
        let name = format!(
            "one of ours removed or altered by somebody -> back, 1000 remote clusters: {kind}"
        );
        Figure::new(&name, "p99 <= 100 ms", Unit::Milliseconds, samples)
    };
    Ok(damages.iter().zip(samples).map(figure).collect())
}

/// The address of the node inside the VXLAN, with its length.
fn inner(lab: &Lab, command: &[&str]) -> Result<String> {
    let shown = lab.exec(NODE, command)?;
    let address = shown.split_whitespace().nth(2);
    Ok(address.context("no address")?.to_owned())
}
