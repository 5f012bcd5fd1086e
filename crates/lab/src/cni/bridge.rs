//! A bridge on each node, with the first address of the node's pods, and a route to each other node by its address: kindnet,
//! flannel's host-gw.

use anyhow::Result;

use super::host_end;
use crate::netns;
use crate::topology::{Cluster, Node, Pod};

pub(super) const DEVICE: &str = "cni0";

pub(super) fn up(node: &Node) -> Result<()> {
    let [_, b, c, d] = node.cni_address.octets();
    let mac = format!("02:31:00:{b:02x}:{c:02x}:{d:02x}");
    netns::ip(
        &node.name,
        &[
            // Its own, not a pod's, as the bridge plugin sees to.
            format!("link add {DEVICE} address {mac} type bridge forward_delay 0"),
            format!("addr add {}/24 dev {DEVICE}", node.cni_address),
            format!("link set {DEVICE} up"),
        ],
    )
}

pub(super) fn routes(cluster: &Cluster, node: &Node) -> Result<()> {
    let route = |other: &Node| {
        format!(
            "route replace {} via {} dev eth0",
            other.pod_cidr, other.address
        )
    };
    netns::ip(
        &node.name,
        &cluster.others(node).map(route).collect::<Vec<_>>(),
    )
}

pub(super) fn down(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut lines = vec![format!("link del {DEVICE}")];
    lines.extend(cluster.others(node).map(|other| {
        format!(
            "route del {} via {} dev eth0",
            other.pod_cidr, other.address
        )
    }));
    netns::ip(&node.name, &lines)
}

pub(super) fn pod(node: &Node, pod: &Pod) -> Result<()> {
    let host = host_end("veth", pod);
    let inside = &pod.name;
    netns::ip(
        &node.name,
        &[
            format!("link add {host} type veth peer name eth0 netns {inside}"),
            format!("link set {host} master {DEVICE} up"),
            format!("link set {host} type bridge_slave hairpin on"),
        ],
    )?;
    netns::ip(
        inside,
        &[
            format!("addr add {}/24 dev eth0", pod.address),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", node.cni_address),
        ],
    )
}

pub(super) fn reconnect(node: &Node, pod: &Pod) -> Result<()> {
    let host = host_end("veth", pod);
    netns::ip(
        &node.name,
        &[
            format!("link set {host} master {DEVICE} up"),
            format!("link set {host} type bridge_slave hairpin on"),
        ],
    )
}
