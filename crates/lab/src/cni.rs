//! The CNIs: how a node's pods are connected, one module for each.

mod bridge;
mod calico;

use anyhow::Result;
use ipnet::Ipv4Net;

use crate::netns;
use crate::options::Cni;
use crate::topology::{Cluster, Node, Pod};

/// The CNI comes up on a node: its device and address, its routes to other nodes, its masquerade.
pub(crate) fn up(cluster: &Cluster, node: &Node) -> Result<()> {
    match cluster.cni {
        Cni::Bridge => bridge::up(node)?,
        Cni::Calico => calico::up(cluster, node)?,
    }
    routes(cluster, node)?;
    netns::nft(&node.name, &masquerade(cluster.pod_cidr))
}

/// Its neighbours and routes for the other nodes: the kernel drops both with the device's last address.
pub(crate) fn routes(cluster: &Cluster, node: &Node) -> Result<()> {
    match cluster.cni {
        Cni::Bridge => bridge::routes(cluster, node),
        Cni::Calico => calico::routes(cluster, node),
    }
}

/// The CNI goes from a node; its pods are cut off, not ended.
pub(crate) fn down(cluster: &Cluster, node: &Node) -> Result<()> {
    netns::nft(&node.name, "table ip cni {}\ndelete table ip cni\n")?;
    match cluster.cni {
        Cni::Bridge => bridge::down(cluster, node),
        Cni::Calico => calico::down(node),
    }
}

/// Connects a pod whose namespace exists and is empty.
pub(crate) fn pod(cluster: &Cluster, node: &Node, pod: &Pod) -> Result<()> {
    match cluster.cni {
        Cni::Bridge => bridge::pod(node, pod),
        Cni::Calico => calico::pod(node, pod),
    }
}

/// Connects a pod again after [`down`] and [`up`].
pub(crate) fn reconnect(cluster: &Cluster, node: &Node, pod: &Pod) -> Result<()> {
    match cluster.cni {
        Cni::Bridge => bridge::reconnect(node, pod),
        // A pod's cable and route do not depend on the tunnel.
        Cni::Calico => Ok(()),
    }
}

/// The device that carries the CNI's address on a node.
#[must_use]
pub fn device(cni: Cni) -> &'static str {
    match cni {
        Cni::Bridge => bridge::DEVICE,
        Cni::Calico => calico::DEVICE,
    }
}

/// What flannel, kindnet and Calico install: pods reach the outside with their node's address.
fn masquerade(pods: Ipv4Net) -> String {
    format!(
        "table ip cni {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pods} ip daddr != {pods} ip daddr != 224.0.0.0/4 masquerade
  }}
}}
"
    )
}

/// The name of the host's end of a pod's cable.
fn host_end(prefix: &str, pod: &Pod) -> String {
    format!("{prefix}{}", pod.name)
}
