//! A bridge on each node, with the first address of the node's pods, and a route to each other node by its address: kindnet,
//! flannel's host-gw.

use anyhow::{Context, Result};
use strait_host::Family;

use super::{host_end, nodad};
use crate::netns;
use crate::topology::{Cluster, Node, Pod};

pub(super) const DEVICE: &str = "cni0";

pub(super) fn up(cluster: &Cluster, node: &Node) -> Result<()> {
    let [_, b, c, d] = node.cni_address.octets();
    let mac = format!("02:31:00:{b:02x}:{c:02x}:{d:02x}");
    let mut lines = vec![
        // Its own, not a pod's, as the bridge plugin sees to.
        format!("link add {DEVICE} address {mac} type bridge forward_delay 0 mcast_snooping 0"),
        format!("link set {DEVICE} up"),
    ];
    for family in cluster.families.all() {
        let ip = node.cni_ip(*family).context("a bridge has an address")?;
        let (length, nodad) = (node.pod_net(*family).prefix_len(), nodad(*family));
        lines.push(format!("addr add {ip}/{length} dev {DEVICE}{nodad}"));
    }
    netns::ip(&node.name, &lines)
}

/// The other nodes' pods, each by way of its node.
fn next_hops(cluster: &Cluster, node: &Node) -> Vec<String> {
    let of = |family: &Family| {
        let (family, others) = (*family, cluster.others(node));
        others.map(move |other| {
            format!(
                "{} via {} dev eth0",
                other.pod_net(family),
                other.ip(family)
            )
        })
    };
    cluster.families.all().iter().flat_map(of).collect()
}

pub(super) fn routes(cluster: &Cluster, node: &Node) -> Result<()> {
    let hops = next_hops(cluster, node).into_iter();
    let lines: Vec<String> = hops.map(|hop| format!("route replace {hop}")).collect();
    netns::ip(&node.name, &lines)
}

pub(super) fn unroute(cluster: &Cluster, node: &Node) -> Vec<String> {
    let hops = next_hops(cluster, node).into_iter();
    hops.map(|hop| format!("route del {hop}")).collect()
}

pub(super) fn down(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut lines = vec![format!("link del {DEVICE}")];
    lines.extend(unroute(cluster, node));
    netns::ip(&node.name, &lines)
}

pub(super) fn pod(cluster: &Cluster, node: &Node, pod: &Pod) -> Result<()> {
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
    let mut lines = vec!["link set eth0 up".to_owned()];
    for family in cluster.families.all() {
        let via = node.cni_ip(*family).context("a bridge has an address")?;
        let (ip, length) = (pod.ip(*family), node.pod_net(*family).prefix_len());
        lines.push(format!("addr add {ip}/{length} dev eth0{}", nodad(*family)));
        lines.push(format!("route add default via {via}"));
    }
    netns::ip(inside, &lines)
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
