//! `strait lab watch`: what is joined with what, how well, and what is wrong, on one screen.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Serialize;
use serde_json::Value;
use strait_api::names::NAMESPACE;

use crate::cli::print;
use crate::client::Lab;
use crate::control::Status;
use crate::faults::{Fault, Impaired};
use crate::probe::Probe;
use crate::process::{ProcessStatus, Role};
use crate::status::{self, table, text};
use crate::topology::{Cluster, Topology};

/// How many of the newest probes between two clusters count for the loss.
const WINDOW: usize = 60;
/// After how long a probe counts as lost.
const LOST: Duration = Duration::from_millis(500);
/// Probes before the only frame is printed.
const ONCE: usize = 5;

/// What is to be seen at a moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Frame {
    gateways: Vec<Gateway>,
    tunnels: Vec<Tunnel>,
    /// By who says it.
    conditions: Vec<String>,
    impaired: Vec<Impaired>,
}

/// A node that has the gateway's label.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Gateway {
    cluster: String,
    node: String,
    /// What its Gateway object says: `active`, `passive`; none where there is no object, or the API server does not answer.
    role: Option<String>,
    /// Of its process.
    state: String,
}

/// The way from one cluster to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Tunnel {
    from: String,
    to: String,
    /// The remote gateway, as the active one of `from` knows it.
    gateway: Option<String>,
    cable: Option<String>,
    /// `connected`, `connecting`, `error`.
    status: Option<String>,
    /// The newest ping between the gateways, as the object has it.
    rtt: Option<String>,
    /// Round trip of the newest answered datagram between pods of the two, ms.
    pods_ms: Option<f64>,
    /// Of so many datagrams between pods of the two …
    probes: usize,
    /// … so many were lost.
    lost: usize,
}

/// What became of the newest probes, by clusters: how many ms each took, if it was answered.
type Probes = BTreeMap<(String, String), VecDeque<Option<f64>>>;

/// Shows a lab until Ctrl-C; where standard output is no terminal, or `json`, once.
pub(crate) fn run(lab: &Lab, interval: Duration, json: bool) -> Result<()> {
    let mut probes = Probes::new();
    if json || !std::io::stdout().is_terminal() {
        for _ in 0..ONCE {
            probe(lab, &mut probes)?;
        }
        let frame = frame(lab, &probes)?;
        return print(&if json {
            serde_json::to_string_pretty(&frame)? + "\n"
        } else {
            render(&frame)
        });
    }
    print("\u{1b}[2J")?;
    loop {
        let begun = Instant::now();
        probe(lab, &mut probes)?;
        let frame = frame(lab, &probes)?;
        let title = format!("lab '{}': Ctrl-C ends this, not the lab\n\n", lab.name());
        // From the top, each line to its end and not over it, then nothing below.
        let lines = (title + &render(&frame)).replace('\n', "\u{1b}[K\r\n");
        print(&format!("\u{1b}[H\u{1b}[?7l{lines}\u{1b}[J\u{1b}[?7h"))?;
        std::thread::sleep(interval.saturating_sub(begun.elapsed()));
    }
}

/// The pairs of clusters, each way.
fn pairs(topology: &Topology) -> impl Iterator<Item = (&Cluster, &Cluster)> {
    let clusters = || topology.clusters.iter();
    clusters().flat_map(move |from| {
        clusters()
            .filter(move |to| to.number != from.number)
            .map(move |to| (from, to))
    })
}

/// A datagram from a pod of each cluster to one of each other, all at once.
fn probe(lab: &Lab, probes: &mut Probes) -> Result<()> {
    let last = |cluster: &Cluster| {
        let pod = cluster.pods().last();
        pod.map(|pod| pod.name.clone()).unwrap_or_default()
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = pairs(lab.topology())
            .map(|(from, to)| {
                let probe = Probe {
                    bytes: 56,
                    timeout_ms: u64::try_from(LOST.as_millis()).unwrap_or_default(),
                    ..Probe::udp(&last(from), &last(to))
                };
                let names = (from.name.clone(), to.name.clone());
                (names, scope.spawn(move || lab.probe(&probe)))
            })
            .collect();
        let joined = threads.into_iter().map(|(names, thread)| {
            let seen = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            #[allow(clippy::cast_precision_loss, reason = "less than a second")]
            let took = seen.ok().map(|seen| seen.micros as f64 / 1000.0);
            Ok((names, took))
        });
        joined.collect::<Result<_>>()
    })?;
    for (names, took) in results {
        let all = probes.entry(names).or_default();
        all.push_back(took);
        if all.len() > WINDOW {
            all.pop_front();
        }
    }
    Ok(())
}

fn frame(lab: &Lab, probes: &Probes) -> Result<Frame> {
    let status = lab.status()?;
    let path = format!("/apis/submariner.io/v1/namespaces/{NAMESPACE}/gateways");
    let objects: BTreeMap<&str, Result<Value>> = std::thread::scope(|scope| {
        let threads: Vec<_> = lab
            .topology()
            .clusters
            .iter()
            .map(|cluster| {
                let path = &path;
                let ask = move || lab.api(&cluster.name, "GET", path, &Value::Null);
                (cluster.name.as_str(), scope.spawn(ask))
            })
            .collect();
        let joined = threads.into_iter().map(|(name, thread)| {
            let panicked = |_| Err(anyhow!("a thread panicked"));
            (name, thread.join().unwrap_or_else(panicked))
        });
        joined.collect()
    });
    Ok(compose(&status, &objects, probes))
}

/// A frame of what the lab, the API servers and the probes say.
fn compose(status: &Status, objects: &BTreeMap<&str, Result<Value>>, probes: &Probes) -> Frame {
    let mut conditions: Vec<String> = status
        .processes
        .iter()
        .filter_map(|process| status::missing(process, true, &[]))
        .collect();
    for (name, answer) in objects {
        if let Err(error) = answer {
            conditions.push(format!("the API server of {name}: {error:#}"));
        }
    }
    let of_cluster = |name: &str| match objects.get(name) {
        Some(Ok(list)) => list["items"].as_array().map_or(&[][..], Vec::as_slice),
        Some(Err(_)) | None => &[],
    };
    let gateways = status.topology.clusters.iter().flat_map(|cluster| {
        cluster.gateways().map(|node| {
            let items = of_cluster(&cluster.name).iter();
            let mut own = items.filter(|it| it["metadata"]["name"] == node.name.as_str());
            Gateway {
                cluster: cluster.name.clone(),
                node: node.name.clone(),
                role: own.next().and_then(|it| word(&it["status"]["haStatus"])),
                state: state(status, &node.name),
            }
        })
    });
    let tunnels = pairs(&status.topology).map(|(from, to)| {
        let active = of_cluster(&from.name)
            .iter()
            .find(|it| it["status"]["haStatus"] == "active");
        let connections = active.and_then(|it| it["status"]["connections"].as_array());
        let mut known = connections.into_iter().flatten();
        let one = known.find(|it| it["endpoint"]["cluster_id"] == to.name.as_str());
        let say = |path: &str| one.and_then(|it| word(it.pointer(path)?));
        let key = (from.name.clone(), to.name.clone());
        let all = probes.get(&key);
        let all = || all.into_iter().flatten();
        Tunnel {
            from: from.name.clone(),
            to: to.name.clone(),
            gateway: say("/endpoint/hostname"),
            cable: say("/endpoint/backend"),
            status: say("/status"),
            rtt: say("/latencyRTT/last"),
            pods_ms: all().rev().find_map(|took| *took),
            probes: all().count(),
            lost: all().filter(|took| took.is_none()).count(),
        }
    });
    Frame {
        gateways: gateways.collect(),
        tunnels: tunnels.collect(),
        conditions,
        impaired: status.impaired.clone(),
    }
}

fn word(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
}

fn state(status: &Status, node: &str) -> String {
    let off = |it: &Impaired| it.what == node && it.fault == Fault::Off;
    if status.impaired.iter().any(off) {
        return "off".to_owned();
    }
    let of_node = |it: &&ProcessStatus| it.place == node && it.role == Role::Gateway;
    match status.processes.iter().find(of_node) {
        None => "no process",
        Some(process) if process.ended.is_some() => "ended",
        Some(process) if process.stopped => "stopped",
        Some(process) => match &process.readiness {
            None => "does not answer",
            Some(readiness) if readiness.not_ready.is_some() => "not ready",
            Some(readiness) if readiness.degraded.is_empty() => "ready",
            Some(_) => "ready, with conditions",
        },
    }
    .to_owned()
}

fn render(frame: &Frame) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut gateways = table(["CLUSTER", "GATEWAY", "ROLE", "STATE"]);
    for it in &frame.gateways {
        gateways.add_row([
            it.cluster.clone(),
            it.node.clone(),
            or_dash(&it.role),
            it.state.clone(),
        ]);
    }
    let mut tunnels = table([
        "FROM",
        "TO",
        "BY",
        "CABLE",
        "STATUS",
        "RTT",
        "POD TO POD",
        "LOST",
    ]);
    for it in &frame.tunnels {
        tunnels.add_row([
            it.from.clone(),
            it.to.clone(),
            or_dash(&it.gateway),
            or_dash(&it.cable),
            or_dash(&it.status),
            or_dash(&it.rtt),
            it.pods_ms
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms")),
            format!("{} of {}", it.lost, it.probes),
        ]);
    }
    let mut output = format!("{}\n{}", text(&mut gateways), text(&mut tunnels));
    for (title, lines) in [
        ("CONDITIONS", frame.conditions.clone()),
        (
            "IMPAIRED",
            frame.impaired.iter().map(ToString::to_string).collect(),
        ),
    ] {
        if !lines.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(output, "\n{title}\n{}", lines.join("\n"));
        }
    }
    output
}
