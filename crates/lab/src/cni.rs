//! The CNIs: how a node's pods are connected, one module for each.

mod bridge;
mod calico;
mod plugin;
mod routed;

use std::path::Path;

use anyhow::Result;
use strait_host::Family;

use crate::netns;
use crate::options::{Cni, Plugin};
use crate::services::word;
use crate::topology::{Cluster, Node, Pod, Topology};

/// Whether what the CNIs of a lab need is installed.
pub(crate) fn check(topology: &Topology) -> Result<()> {
    plugin::check(topology)
}

/// The CNI comes up on a node: its device and address, its routes to other nodes, its masquerade.
pub(crate) fn up(cluster: &Cluster, node: &Node) -> Result<()> {
    match cluster.cni {
        Cni::Bridge => bridge::up(cluster, node)?,
        Cni::Calico => calico::up(cluster, node)?,
        Cni::Routed => routed::up(cluster, node)?,
        // Pods are masqueraded by the plugins, or not at all.
        Cni::Plugin { plugin, masquerade } => {
            plugin::up(cluster, node, plugin, masquerade)?;
            return routes(cluster, node);
        }
    }
    routes(cluster, node)?;
    let families = cluster.families.all().iter();
    let tables: String = families.map(|f| masquerade(cluster, *f)).collect();
    netns::nft(&node.name, &tables)
}

/// Whether it is up on a node.
pub(crate) fn is_up(cluster: &Cluster, node: &Node) -> Result<bool> {
    if let Cni::Plugin { .. } = cluster.cni {
        return plugin::is_up(node);
    }
    if let Some(device) = device_of(cluster.cni, cluster.families.first()) {
        let path = Path::new("/proc/sys/net/ipv4/conf").join(device);
        return netns::find(&node.name)?.run(|| Ok(path.exists()))?;
    }
    let table = ["list", "table", word(cluster.families.first()), TABLE];
    let output = netns::command(&node.name, "nft")?.args(table).output()?;
    Ok(output.status.success())
}

/// Its neighbours and routes for the other nodes: the kernel drops both with the device's last address.
pub(crate) fn routes(cluster: &Cluster, node: &Node) -> Result<()> {
    match cluster.cni {
        Cni::Bridge | Cni::Routed | Cni::Plugin { .. } => bridge::routes(cluster, node),
        Cni::Calico => calico::routes(cluster, node),
    }
}

/// The CNI goes from a node; its pods are cut off, not ended.
pub(crate) fn down(cluster: &Cluster, node: &Node) -> Result<()> {
    if let Cni::Plugin { plugin, masquerade } = cluster.cni {
        return plugin::down(cluster, node, plugin, masquerade);
    }
    for family in cluster.families.all() {
        let table = format!("{} {TABLE}", word(*family));
        netns::nft(
            &node.name,
            &format!("table {table} {{}}\ndelete table {table}\n"),
        )?;
    }
    match cluster.cni {
        Cni::Bridge => bridge::down(cluster, node),
        Cni::Calico => calico::down(cluster, node),
        Cni::Routed => routed::down(cluster, node),
        Cni::Plugin { .. } => Ok(()),
    }
}

/// Connects a pod whose namespace exists and is empty.
pub(crate) fn pod(cluster: &Cluster, node: &Node, pod: &Pod) -> Result<()> {
    match cluster.cni {
        Cni::Bridge => bridge::pod(cluster, node, pod),
        Cni::Calico => routed::pod(cluster, node, pod, calico::mtu(cluster)),
        Cni::Routed => routed::pod(cluster, node, pod, routed::MTU),
        Cni::Plugin { plugin, masquerade } => plugin::pod(cluster, node, pod, plugin, masquerade),
    }
}

/// Connects a pod again after [`down`] and [`up`].
pub(crate) fn reconnect(cluster: &Cluster, node: &Node, pod: &Pod) -> Result<()> {
    match cluster.cni {
        Cni::Bridge => bridge::reconnect(node, pod),
        // A pod's cable and route depend on no other device.
        Cni::Calico | Cni::Routed => Ok(()),
        Cni::Plugin { .. } => self::pod(cluster, node, pod),
    }
}

/// The device that carries the CNI's IPv4 address on a node; a routed one has none, and the `ptp` plugin's are named by chance.
#[must_use]
pub fn device(cni: Cni) -> Option<&'static str> {
    device_of(cni, Family::V4)
}

/// The device that carries the CNI's address of a family on a node, if it has one of a known name.
pub(crate) fn device_of(cni: Cni, family: Family) -> Option<&'static str> {
    match cni {
        Cni::Bridge
        | Cni::Plugin {
            plugin: Plugin::Bridge,
            ..
        } => Some(bridge::DEVICE),
        Cni::Calico => Some(calico::device(family)),
        Cni::Routed
        | Cni::Plugin {
            plugin: Plugin::Ptp,
            ..
        } => None,
    }
}

/// The CNI's nftables tables.
const TABLE: &str = "cni";

/// What flannel, kindnet and Calico install: pods reach the outside with their node's address.
fn masquerade(cluster: &Cluster, family: Family) -> String {
    let (ip, pods) = (word(family), cluster.pod_net(family));
    let multicast = match family {
        Family::V4 => "224.0.0.0/4",
        Family::V6 => "ff00::/8",
    };
    format!(
        "table {ip} {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {ip} saddr {pods} {ip} daddr != {pods} {ip} daddr != {multicast} masquerade
  }}
}}
"
    )
}

/// The name of the host's end of a pod's cable.
fn host_end(prefix: &str, pod: &Pod) -> String {
    format!("{prefix}{}", pod.name)
}

/// The addresses of our own making are unique: to wait until nobody objects would only delay.
pub(crate) fn nodad(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => " nodad",
    }
}
