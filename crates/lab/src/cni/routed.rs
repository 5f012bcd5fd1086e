//! Like Calico without a tunnel, and like clouds whose network knows the pods: a route to each pod by a cable of its own, a route
//! to each other node by its address, and no address of the pods' on the node.

use anyhow::Result;
use strait_host::Family;

use super::{bridge, host_end, nodad};
use crate::netns;
use crate::topology::{Cluster, Node, Pod};

/// The MTU of pods, in bytes: nothing is added to their packets.
pub(super) const MTU: u32 = 1500;
/// The route protocol of Calico's own routes (felix, `DeviceRouteProtocol`).
pub(super) const PROTOCOL: u8 = 80;
/// The Ethernet address that Calico gives the host's end of each cable.
const MAC: &str = "ee:ee:ee:ee:ee:ee";

/// The next hop that Calico gives every pod: the host's end of the cable answers for it, or has it, derived from [`MAC`].
const fn next_hop(family: Family) -> &'static str {
    match family {
        Family::V4 => "169.254.1.1",
        Family::V6 => "fe80::ecee:eeff:feee:eeee",
    }
}

/// Addresses of the node's pods that no pod has lead nowhere.
pub(super) fn up(cluster: &Cluster, node: &Node) -> Result<()> {
    let families = cluster.families.all().iter();
    let block = |f: &Family| {
        let net = node.pod_net(*f);
        format!("route replace blackhole {net} proto {PROTOCOL}")
    };
    netns::ip(&node.name, &families.map(block).collect::<Vec<_>>())
}

/// The lines of `ip` that undo [`up`].
pub(super) fn unblock(cluster: &Cluster, node: &Node) -> Vec<String> {
    let families = cluster.families.all().iter();
    let unblock = |f: &Family| {
        let net = node.pod_net(*f);
        format!("route del blackhole {net} proto {PROTOCOL}")
    };
    families.map(unblock).collect()
}

pub(super) fn down(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut lines = bridge::unroute(cluster, node);
    lines.extend(unblock(cluster, node));
    netns::ip(&node.name, &lines)
}

pub(super) fn pod(cluster: &Cluster, node: &Node, pod: &Pod, mtu: u32) -> Result<()> {
    let host = host_end("cali", pod);
    let inside = &pod.name;
    netns::ip(
        &node.name,
        &[format!(
            "link add {host} address {MAC} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {inside}"
        )],
    )?;
    let (proxy, delay) = (
        format!("ipv4/conf/{host}/proxy_arp"),
        format!("ipv4/neigh/{host}/proxy_delay"),
    );
    netns::sysctl(&node.name, &[(&proxy, "1"), (&delay, "0")])?;
    let mut outside = vec![format!("link set {host} up")];
    let mut lines = vec!["link set eth0 up".to_owned()];
    for family in cluster.families.all() {
        let (ip, via, nodad) = (pod.ip(*family), next_hop(*family), nodad(*family));
        outside.push(format!("route add {ip} dev {host} proto {PROTOCOL}"));
        lines.push(format!("addr add {ip} dev eth0{nodad}"));
        if *family == Family::V4 {
            lines.push(format!("route add {via} dev eth0 scope link"));
        }
        lines.push(format!("route add default via {via} dev eth0"));
    }
    netns::ip(&node.name, &outside)?;
    netns::ip(inside, &lines)
}
