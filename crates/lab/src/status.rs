//! `strait lab status` as a table.

use std::fmt::{Display, Write};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use strait_host::Family;

use crate::control::Status;
use crate::faults::Impaired;
use crate::options::Families;
use crate::process::{ProcessStatus, Role};

/// What an agent lacks to be up, in words; `None` for one that is, and for what is no agent.
///
/// Conditions count if `healthy`, but for those that are `expected`.
pub(crate) fn missing(process: &ProcessStatus, healthy: bool, expected: &[&str]) -> Option<String> {
    let who = format!("{} on {}", process.role, process.place);
    if let Some(ended) = &process.ended {
        return Some(format!("{who} has ended ({ended})"));
    }
    if process.stopped {
        return Some(format!("{who} is stopped"));
    }
    process.role.admin_port()?;
    let Some(readiness) = &process.readiness else {
        return Some(format!("{who} does not answer"));
    };
    if let Some(reason) = &readiness.not_ready {
        return Some(format!("{who} is not ready: {reason}"));
    }
    let conditions: Vec<String> = readiness
        .degraded
        .iter()
        .filter(|(name, _)| !expected.contains(&name.as_str()))
        .map(|(name, message)| format!("{name}: {message}"))
        .collect();
    (healthy && !conditions.is_empty()).then(|| format!("{who}: {}", conditions.join(", ")))
}

/// A table without lines, as other tools of Kubernetes print them.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}

/// The lines of a table, without spaces at their ends.
pub(crate) fn text(table: &mut Table) -> String {
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 3));
    });
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// The whole status.
pub(crate) fn render(status: &Status) -> Result<String> {
    let mut output = String::new();
    let mut clusters = table([
        "CLUSTER",
        "CNI",
        "PODS",
        "SERVICES",
        "WEB",
        "API SERVER",
        "WAN",
        "NAT",
    ]);
    for cluster in &status.topology.clusters {
        clusters.add_row([
            cluster.name.clone(),
            cluster.cni.to_string(),
            each(cluster.families, |f| cluster.pod_net(f)),
            each(cluster.families, |f| cluster.service_net(f)),
            each(cluster.families, |f| cluster.service_ip(f)),
            cluster.api_server().to_string(),
            each(cluster.families, |f| cluster.wan_ip(f)),
            status.topology.nat.to_string(),
        ]);
    }
    writeln!(output, "{}", text(&mut clusters))?;
    let mut nodes = table(["NODE", "ROLE", "ADDRESS", "CNI ADDRESS", "PODS"]);
    let families = status.topology.families;
    for node in status.topology.nodes() {
        let pods: Vec<String> = node
            .pods
            .iter()
            .map(|pod| format!("{} {}", pod.name, each(families, |f| pod.ip(f))))
            .collect();
        nodes.add_row([
            node.name.clone(),
            if node.gateway { "gateway" } else { "worker" }.to_owned(),
            each(families, |f| node.ip(f)),
            each(families, |f| {
                node.cni_ip(f)
                    .map_or_else(|| "-".to_owned(), |ip| ip.to_string())
            }),
            pods.join(", "),
        ]);
    }
    writeln!(output, "{}", text(&mut nodes))?;
    let mut processes = table(["PROCESS", "ON", "PID", "STATE"]);
    for process in status
        .processes
        .iter()
        .filter(|it| it.role != Role::Pod || it.ended.is_some() || it.stopped)
    {
        processes.add_row([
            process.role.to_string(),
            process.place.clone(),
            process.pid.to_string(),
            state(process),
        ]);
    }
    output.push_str(&text(&mut processes));
    if !status.impaired.is_empty() {
        writeln!(output, "\nIMPAIRED")?;
        output.push_str(&impaired(&status.impaired));
    }
    Ok(output)
}

/// A line each.
pub(crate) fn impaired(all: &[Impaired]) -> String {
    all.iter().map(|it| format!("{it}\n")).collect()
}

/// One or two, of the families.
fn each<T: Display>(families: Families, of: impl Fn(Family) -> T) -> String {
    let texts: Vec<String> = families.all().iter().map(|f| of(*f).to_string()).collect();
    texts.join(" ")
}

fn state(process: &ProcessStatus) -> String {
    if let Some(ended) = &process.ended {
        return format!("ended ({ended})");
    }
    if process.stopped {
        return "stopped".to_owned();
    }
    if process.role.admin_port().is_none() {
        return "alive".to_owned();
    }
    match &process.readiness {
        None => "alive, does not answer".to_owned(),
        Some(readiness) => match &readiness.not_ready {
            Some(reason) => format!("not ready: {reason}"),
            None if readiness.degraded.is_empty() => "ready".to_owned(),
            None => {
                let conditions: Vec<String> = readiness
                    .degraded
                    .iter()
                    .map(|(name, text)| format!("{name} ({text})"))
                    .collect();
                format!("ready; {}", conditions.join("; "))
            }
        },
    }
}
