//! A worker's route agent among a thousand other clusters: how fast it starts, follows and verifies, what it takes of the host, and what it
//! costs packets. Those clusters exist as Endpoints only, and as addresses to ping, most of which answer; one more, in the lab, has pods.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use strait_api::names::{GROUP, LABEL_CLUSTER_ID, NAMESPACE, NFT_TABLE, NODE_VXLAN};

use super::events::{Monitor, milliseconds};
use super::figure::{Figure, Unit};
use super::throughput::{Server, iperf_datagrams};
use super::{Effort, PATIENCE, drift, pod, rest, watched};
use crate::client::Lab;
use crate::options::{Families, Options};
use crate::process::Role;
use crate::sandbox::SELF;

/// How many clusters there are beside the lab's own two.
pub(super) const MANY: u32 = 1000;
/// How many events of a watch are measured at least.
const EVENTS: u32 = 100;
/// The node that is looked at: a worker.
pub(super) const NODE: &str = "east-2";

/// All figures of one lab of its own.
pub(super) fn figures(
    options: &Options,
    binary: &std::path::Path,
    effort: Effort,
) -> Result<Vec<Figure>> {
    let options = Options {
        families: Families::Dual,
        ..options.clone()
    };
    let lab = Lab::up(&options, binary, |_| ())?;
    lab.wait_until_joined(PATIENCE)?;
    // It would remove the Endpoints that no broker knows. What it has put into the kernel stays.
    lab.kill("east-1", Role::Gateway)?;

    let mut figures = Vec::new();
    let few = Carried::measure(&lab, effort)?;
    answer_pings(&lab)?;
    for number in 0..MANY {
        create(&lab, number)?;
    }
    until_routed(&lab, MANY)?;
    let many = Carried::measure(&lab, effort)?;
    figures.extend(few.against(&many));

    figures.push(milliseconds_of(
        "one of our routes removed by somebody -> back, 1000 remote clusters",
        "p99 <= 100 ms",
        taken_away(&lab, effort.runs)?,
    ));
    figures.extend(drift::figures(&lab, effort.runs)?);
    figures.push(milliseconds_of(
        "request for a further Endpoint sent -> route in the kernel of a worker, 1000 remote clusters",
        "",
        further(&lab, effort.runs)?,
    ));
    figures.push(milliseconds_of(
        "verifying pass that changes nothing, 1000 remote clusters (mean of 10, as the agent tells)",
        "<= 30 ms",
        verifying(&lab, effort.rounds)?,
    ));
    let mut starts = Vec::new();
    for _ in 0..effort.rounds {
        starts.push(cold_start(&lab)?);
    }
    figures.push(milliseconds_of(
        "cold start -> 4000 routes of 1000 remote clusters, two families",
        "<= 500 ms",
        starts,
    ));
    figures.extend(rest::figures(&lab)?);
    let cluster = lab.topology().cluster("east")?;
    for node in cluster.nodes.iter().filter(|node| node.name != NODE) {
        lab.kill(&node.name, Role::RouteAgent)?;
    }
    figures.push(milliseconds_of(
        "the watch's event of one Endpoint more or less -> all of it in the kernel, 1000 remote clusters, one agent at rest",
        "p99 <= 10 ms",
        watched::further(&lab, effort.runs.max(EVENTS / 2))?,
    ));
    Ok(figures)
}

fn milliseconds_of(name: &str, wanted: &str, samples: Vec<f64>) -> Figure {
    Figure::new(name, wanted, Unit::Milliseconds, samples)
}

/// The subnets of a cluster: two of each family.
pub(super) fn subnets(number: u32) -> [String; 4] {
    let (high, low) = (number / 128, number % 128 * 2);
    [
        format!("11.{high}.{low}.0/24"),
        format!("11.{high}.{}.0/24", low + 1),
        format!("fd99:{number:x}:1::/64"),
        format!("fd99:{number:x}:2::/64"),
    ]
}

/// How many of these clusters answer pings; the others never do.
pub(super) const ANSWERING: u32 = 768;

/// The gateway's node answers pings to all addresses of those that do, as if each was its own, so that no other gateway is needed.
fn answer_pings(lab: &Lab) -> Result<()> {
    // 512 and 256 clusters, by what `subnets` makes of their numbers.
    for (family, net) in [
        ("-4", "11.0.0.0/14"),
        ("-4", "11.4.0.0/15"),
        ("-6", "fd99::/23"),
        ("-6", "fd99:200::/24"),
    ] {
        let route = ["ip", family, "route", "add", "local", net, "dev", "lo"];
        lab.exec("east-1", &route)?;
    }
    Ok(())
}

fn collection() -> String {
    format!("/apis/{GROUP}/v1/namespaces/{NAMESPACE}/endpoints")
}

/// Name of the Endpoint of a cluster.
fn endpoint_name(number: u32) -> String {
    format!("many-{number}-submariner-cable-many-{number}")
}

pub(super) fn create(lab: &Lab, number: u32) -> Result<()> {
    let cluster = format!("many-{number}");
    let [v4, _, v6, _] = subnets(number);
    let first = |net: String| -> Result<String> {
        let address: ipnet::IpNet = net.parse()?;
        let host = address.hosts().nth(1).context("no host")?;
        Ok(host.to_string())
    };
    let endpoint = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "Endpoint",
        "metadata": {"name": endpoint_name(number), "namespace": NAMESPACE, "labels": {LABEL_CLUSTER_ID: cluster}},
        "spec": {
            "cluster_id": cluster,
            "cable_name": format!("submariner-cable-{cluster}"),
            "hostname": cluster,
            "subnets": subnets(number),
            "healthCheckIPs": [first(v4)?, first(v6)?],
            "private_ip": format!("198.18.{}.{}", number / 256, number % 256),
            "public_ip": "",
            "nat_enabled": false,
            "backend": "vxlan",
            "backend_config": {"udp-port": "4500", "natt-discovery-port": "0"},
        },
    });
    lab.api("east", "POST", &collection(), &endpoint)?;
    Ok(())
}

pub(super) fn remove(lab: &Lab, number: u32) -> Result<()> {
    let path = format!("{}/{}", collection(), endpoint_name(number));
    lab.api("east", "DELETE", &path, &Value::Null)?;
    Ok(())
}

/// How many routes by way of the gateway a worker has, of both families.
fn routed(lab: &Lab) -> Result<usize> {
    let mut count = 0;
    for family in ["-4", "-6"] {
        let routes = lab.exec(NODE, &["ip", family, "route"])?;
        let ours = |l: &&str| l.contains(" via ") && l.contains(" dev vx-submariner");
        count += routes.lines().filter(ours).count();
    }
    Ok(count)
}

/// Waits until all subnets of so many clusters, and of the one with pods, are routed.
pub(super) fn until_routed(lab: &Lab, clusters: u32) -> Result<()> {
    let wanted = clusters as usize * 4 + 4;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let routed = routed(lab)?;
        if routed == wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{routed} routes on {NODE}: expected {wanted}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a worker's pod gets through.
struct Carried {
    /// Datagrams a second that arrive.
    packets: Vec<f64>,
    /// New flows a second, each of a datagram and its answer.
    flows: Vec<f64>,
}

impl Carried {
    fn measure(lab: &Lab, effort: Effort) -> Result<Self> {
        let (client, _) = pod(lab, NODE)?;
        let (server, address) = pod(lab, "west-2")?;
        let listener = Server::start(lab, &server)?;
        let (mut packets, mut flows) = (Vec::new(), Vec::new());
        let seconds = effort.seconds.to_string();
        for _ in 0..effort.rounds {
            packets.push(iperf_datagrams(
                lab,
                &client,
                &address.to_string(),
                &seconds,
            )?);
            let text = lab.exec(
                &client,
                &[
                    SELF,
                    "lab",
                    "flows",
                    &format!("{address}:8080"),
                    "--seconds",
                    &seconds,
                ],
            )?;
            flows.push(text.trim().parse().context("no number of flows")?);
        }
        drop(listener);
        Ok(Self { packets, flows })
    }

    fn against(self, many: &Self) -> [Figure; 6] {
        let ratios = |few: &[f64], many: &[f64]| -> Vec<f64> {
            many.iter().zip(few).map(|(many, few)| many / few).collect()
        };
        let (packets, flows) = (
            ratios(&self.packets, &many.packets),
            ratios(&self.flows, &many.flows),
        );
        let rate = |what: &str, clusters: &str, samples| {
            let name = format!("{what} from a worker's pod to a remote one, {clusters}");
            Figure::new(&name, "", Unit::PerSecond, samples)
        };
        let ratio = |what: &str, samples| {
            let name = format!("{what}, 1001 remote clusters to 1");
            Figure::new(&name, "0.9 to 1.1", Unit::Ratio, samples)
        };
        [
            rate("packets", "1 remote cluster", self.packets),
            rate("packets", "1001 remote clusters", many.packets.clone()),
            ratio("packets", packets),
            rate("new flows", "1 remote cluster", self.flows),
            rate("new flows", "1001 remote clusters", many.flows.clone()),
            ratio("new flows", flows),
        ]
    }
}

/// From a route's removal by hand to the kernel's announcement that it is there again.
fn taken_away(lab: &Lab, runs: u32) -> Result<Vec<f64>> {
    let monitor = Monitor::start(lab, NODE, &["ip", "monitor", "route"])?;
    std::thread::sleep(Duration::from_millis(300));
    let mut samples = Vec::new();
    for run in 0..runs {
        let [subnet, ..] = subnets(run % MANY);
        lab.exec(NODE, &["ip", "route", "del", &subnet, "dev", NODE_VXLAN])?;
        let start = monitor.until(&["Deleted", &subnet])?;
        samples.push(milliseconds(start, monitor.until(&[&subnet, " via "])?));
        // Not so often that it would be contended.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(samples)
}

/// From the request for one more Endpoint, over a connection of its own, to its route on a worker.
fn further(lab: &Lab, runs: u32) -> Result<Vec<f64>> {
    let monitor = Monitor::start(lab, NODE, &["ip", "monitor", "route"])?;
    std::thread::sleep(Duration::from_millis(300));
    let mut samples = Vec::new();
    for _ in 0..runs {
        let [subnet, ..] = subnets(MANY);
        let start = Instant::now();
        create(lab, MANY)?;
        samples.push(milliseconds(start, monitor.until(&[&subnet, " via "])?));
        remove(lab, MANY)?;
        monitor.until(&["Deleted", &subnet, " via "])?;
    }
    Ok(samples)
}

/// What the agent tells of a duration.
struct Told {
    seconds: f64,
    count: f64,
}

impl Told {
    fn read(lab: &Lab, what: &str) -> Result<Self> {
        let text = lab.page(NODE, Role::RouteAgent, "/metrics")?;
        let value = |suffix: &str| -> Result<f64> {
            let name = format!("strait_{what}_seconds_{suffix} ");
            let number = text.lines().find_map(|l| l.strip_prefix(&name));
            Ok(number.with_context(|| format!("no {name}"))?.parse()?)
        };
        Ok(Self {
            seconds: value("sum")?,
            count: value("count")?,
        })
    }

    /// Milliseconds.
    fn mean_since(&self, before: &Self) -> f64 {
        (self.seconds - before.seconds) / (self.count - before.count) * 1000.0
    }
}

/// The mean duration of ten verifying passes, some times: changes by others bring them about.
fn verifying(lab: &Lab, rounds: u32) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let before = Told::read(lab, "verify")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            for change in ["add", "del"] {
                let route = ["ip", "route", change, "unreachable", "192.0.2.0/24"];
                lab.exec(NODE, &route)?;
                std::thread::sleep(Duration::from_millis(200));
            }
            let now = Told::read(lab, "verify")?;
            if now.count >= before.count + 10.0 {
                samples.push(now.mean_since(&before));
                break;
            }
            ensure!(Instant::now() < deadline, "no verifying passes");
        }
    }
    Ok(samples)
}

/// From the start of the process, on a node that has nothing of ours, to the last route.
fn cold_start(lab: &Lab) -> Result<f64> {
    lab.kill(NODE, Role::RouteAgent)?;
    let uninstall = [SELF, "route-agent", "--submariner-uninstall", "true"];
    lab.exec(NODE, &uninstall)?;
    ensure!(routed(lab)? == 0, "something is left on {NODE}");
    // Thousands of announcements at once overrun the socket of `ip monitor`: the kernel's own counts of routes are read instead.
    let counts =
        "while :; do cat /proc/net/fib_triestat /proc/net/rt6_stats | tr '\\n' ' '; echo; done";
    let mut counter = lab
        .command(NODE, ["sh", "-c", counts])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = BufReader::new(counter.stdout.take().context("no pipe")?);
    let reader = std::thread::Builder::new().spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines.map(|l| (Instant::now(), l)).collect::<Vec<_>>()
    })?;
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    lab.restart(NODE, Role::RouteAgent)?;
    let routed = until_routed(lab, MANY);
    std::thread::sleep(Duration::from_millis(200));
    super::end(&mut counter);
    let counted = reader.join().unwrap_or_default();
    routed?;
    let (_, last) = counted.last().context("no counts of routes")?;
    let settled = counted.iter().rev().take_while(|(_, count)| count == last);
    let (end, _) = settled.last().context("no counts of routes")?;
    let table = lab.exec(NODE, &["nft", "list", "set", "inet", NFT_TABLE, "remote4"])?;
    ensure!(table.contains("11.0.0.0"), "the set lacks the subnets");
    Ok(milliseconds(start, *end))
}
