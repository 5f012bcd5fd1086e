//! The CNI project's own plugins, `bridge` and `ptp` with `host-local`, run as container runtimes run them (the CNI
//! specification, "Execution Protocol"), and a route to each other node by its address, as the daemon beside them adds.
//!
//! A node has no address of its pods' until its first pod is connected: the plugins put it there. What they note down stays in
//! the lab's own `/run`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use strait_host::Family;

use super::bridge;
use crate::netns;
use crate::options::{Cni, Plugin};
use crate::process::PATH;
use crate::topology::{Cluster, Node, Pod, Topology};

/// Where Debian and the Kubernetes project install plugins.
const DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
const IPAM: &str = "host-local";
/// What the plugins are told to keep their notes in: a directory of a node.
const NOTES: &str = "/run/cni";
/// What plugins of all ages in use speak (1.1.1 in Debian 12, 0.9.1 in Ubuntu 22.04).
const VERSION: &str = "0.4.0";
/// The network's name.
const NETWORK: &str = "strait-lab";
/// The interface in the pod.
const INSIDE: &str = "eth0";

/// Whether the plugins that a lab needs are there.
pub(super) fn check(topology: &Topology) -> Result<()> {
    for cluster in &topology.clusters {
        if let Cni::Plugin { plugin, .. } = cluster.cni {
            find(&DIRS, plugin.binary())?;
            find(&DIRS, IPAM)?;
        }
    }
    Ok(())
}

/// The first of the directories that has a plugin.
fn find<'a>(dirs: &[&'a str], plugin: &str) -> Result<&'a str> {
    let has = |dir: &&&str| Path::new(dir).join(plugin).is_file();
    match dirs.iter().find(has) {
        Some(dir) => Ok(dir),
        None => bail!(
            "no CNI plugin '{plugin}' in {}: install the package containernetworking-plugins",
            dirs.join(" or ")
        ),
    }
}

/// What a runtime does before it connects the first pod after a boot: it gives back what pods had before.
pub(super) fn up(cluster: &Cluster, node: &Node, plugin: Plugin, masquerade: bool) -> Result<()> {
    if !notes(node).exists() {
        return Ok(());
    }
    node.pods
        .iter()
        .try_for_each(|pod| Call::new(cluster, node, pod, plugin, masquerade).del(false))
}

/// Whether one of the node's pods is connected.
pub(super) fn is_up(node: &Node) -> Result<bool> {
    for pod in &node.pods {
        let Ok(namespace) = netns::find(&pod.name) else {
            continue;
        };
        let path = Path::new("/proc/sys/net/ipv4/conf").join(INSIDE);
        if namespace.run(|| path.exists())? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn down(cluster: &Cluster, node: &Node, plugin: Plugin, masquerade: bool) -> Result<()> {
    for pod in &node.pods {
        Call::new(cluster, node, pod, plugin, masquerade).del(true)?;
    }
    let mut lines = bridge::unroute(cluster, node);
    if plugin == Plugin::Bridge {
        lines.push(format!("link del {}", bridge::DEVICE));
    }
    netns::ip(&node.name, &lines)
}

pub(super) fn pod(
    cluster: &Cluster,
    node: &Node,
    pod: &Pod,
    plugin: Plugin,
    masquerade: bool,
) -> Result<()> {
    Call::new(cluster, node, pod, plugin, masquerade).add()
}

/// The directory of a node's notes.
fn notes(node: &Node) -> PathBuf {
    Path::new(NOTES).join(&node.name)
}

/// The network configuration, with the addresses that a pod asks for (the convention `ips` of the CNI project).
fn config(cluster: &Cluster, node: &Node, pod: &Pod, plugin: Plugin, masquerade: bool) -> Value {
    let families = cluster.families.all();
    let each = |of: &dyn Fn(Family) -> Value| families.iter().map(|f| of(*f)).collect::<Vec<_>>();
    let any = |family| match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    };
    let mut config = json!({
        "cniVersion": VERSION,
        "name": NETWORK,
        "type": plugin.binary(),
        "ipMasq": masquerade,
        "ipam": {
            "type": IPAM,
            "dataDir": notes(node),
            "ranges": each(&|family| json!([{ "subnet": node.pod_net(family) }])),
            "routes": each(&|family| json!({ "dst": any(family) })),
        },
        "args": { "cni": { "ips": each(&|family| json!(pod.ip(family))) } },
    });
    if plugin == Plugin::Bridge {
        config["bridge"] = json!(bridge::DEVICE);
        config["isGateway"] = json!(true);
        config["hairpinMode"] = json!(true);
    }
    config
}

/// One execution of a plugin for a pod.
struct Call<'a> {
    node: &'a Node,
    pod: &'a Pod,
    plugin: &'static str,
    families: &'static [Family],
    config: String,
}

impl<'a> Call<'a> {
    fn new(
        cluster: &Cluster,
        node: &'a Node,
        pod: &'a Pod,
        plugin: Plugin,
        masquerade: bool,
    ) -> Self {
        Self {
            node,
            pod,
            plugin: plugin.binary(),
            families: cluster.families.all(),
            config: config(cluster, node, pod, plugin, masquerade).to_string(),
        }
    }

    fn add(&self) -> Result<()> {
        let output = self.run("ADD", true)?;
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the answer of {self} is none"))?;
        let given: BTreeSet<_> = answer.ips.iter().map(|ip| ip.address.addr()).collect();
        let asked: BTreeSet<_> = self.families.iter().map(|f| self.pod.ip(*f)).collect();
        ensure!(
            given == asked,
            "{self} gave {given:?} where {asked:?} was asked for"
        );
        Ok(())
    }

    /// Without a namespace, which is gone, only what was noted down is given back.
    fn del(&self, namespace: bool) -> Result<()> {
        self.run("DEL", namespace).map(drop)
    }

    fn run(&self, verb: &str, namespace: bool) -> Result<Output> {
        let dir = find(&DIRS, self.plugin)?;
        let binary = Path::new(dir).join(self.plugin);
        let mut command = netns::command(&self.node.name, &binary)?;
        command.env_clear();
        command.env("PATH", PATH);
        command.env("CNI_COMMAND", verb);
        command.env("CNI_CONTAINERID", &self.pod.name);
        command.env("CNI_IFNAME", INSIDE);
        command.env("CNI_PATH", dir);
        if namespace {
            command.env("CNI_NETNS", netns::path(&self.pod.name));
        }
        let output = netns::converse(command, &self.config)
            .with_context(|| format!("{verb} of {self} failed"))?;
        if !output.status.success() {
            let refusal = serde_json::from_slice::<Refusal>(&output.stdout);
            let why = refusal.map_or_else(
                |_| String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                |refusal| format!("{} {}", refusal.msg, refusal.details),
            );
            bail!("{verb} of {self} failed: {}", why.trim());
        }
        Ok(output)
    }
}

impl std::fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the CNI plugin '{}' for {}", self.plugin, self.pod.name)
    }
}

/// What the specification calls a success: the part of it that matters here.
#[derive(Debug, Deserialize)]
struct Answer {
    ips: Vec<Given>,
}

#[derive(Debug, Deserialize)]
struct Given {
    address: IpNet,
}

/// What the specification calls an error.
#[derive(Debug, Deserialize)]
struct Refusal {
    msg: String,
    #[serde(default)]
    details: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_plugin_is_named_with_the_package_that_has_it() {
        let error = find(&["/usr/no/such", "/opt/nor/this"], "bridge").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no CNI plugin 'bridge' in /usr/no/such or /opt/nor/this: install the package containernetworking-plugins"
        );
    }
}
