//! Like Calico with a tunnel: for each family a VXLAN device with one address of the node's pods, a route to each pod by a cable
//! of its own, and a route through the tunnel to each other node.

use anyhow::{Context, Result};
use strait_host::Family;

use super::nodad;
use super::routed::{self, PROTOCOL};
use crate::netns;
use crate::topology::{Cluster, Node};

/// Calico's names for it, as its VNI and port (felix, `VXLANVNI` and `VXLANPort`).
pub(super) const fn device(family: Family) -> &'static str {
    match family {
        Family::V4 => "vxlan.calico",
        Family::V6 => "vxlan-v6.calico",
    }
}
const VNI: u32 = 4096;
const PORT: u16 = 4789;

/// 1500 bytes less what VXLAN over a family adds.
const fn tunnel_mtu(family: Family) -> u32 {
    match family {
        Family::V4 => 1450,
        Family::V6 => 1430,
    }
}

/// A pod's MTU, in bytes: what fits into every tunnel.
pub(super) fn mtu(cluster: &Cluster) -> u32 {
    let families = cluster.families.all().iter();
    families.map(|f| tunnel_mtu(*f)).min().unwrap_or(1430)
}

pub(super) fn up(cluster: &Cluster, node: &Node) -> Result<()> {
    let name = &node.name;
    let (mut lines, mut entries) = (Vec::new(), Vec::new());
    for family in cluster.families.all() {
        let (dev, local, nodad) = (device(*family), node.ip(*family), nodad(*family));
        let ip = node.cni_ip(*family).context("a tunnel has an address")?;
        let (mac, mtu) = (mac(node), tunnel_mtu(*family));
        lines.push(format!(
            "link add {dev} address {mac} mtu {mtu} type vxlan id {VNI} dstport {PORT} local {local} dev eth0 nolearning"
        ));
        lines.push(format!("addr add {ip} dev {dev}{nodad}"));
        lines.push(format!("link set {dev} up"));
        for other in cluster.others(node) {
            let (mac, dst) = (self::mac(other), other.ip(*family));
            entries.push(format!(
                "fdb replace {mac} dev {dev} dst {dst} self permanent"
            ));
        }
    }
    netns::ip(name, &lines)?;
    netns::bridge(name, &entries)?;
    routed::up(cluster, node)
}

pub(super) fn routes(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut lines = Vec::new();
    for family in cluster.families.all() {
        let dev = device(*family);
        for other in cluster.others(node) {
            let (cidr, mac) = (other.pod_net(*family), mac(other));
            let via = other.cni_ip(*family).context("a tunnel has an address")?;
            lines.push(format!(
                "neigh replace {via} lladdr {mac} dev {dev} nud permanent"
            ));
            lines.push(format!(
                "route replace {cidr} via {via} dev {dev} onlink proto {PROTOCOL}"
            ));
        }
    }
    netns::ip(&node.name, &lines)
}

pub(super) fn down(cluster: &Cluster, node: &Node) -> Result<()> {
    // Its routes go with the devices.
    let families = cluster.families.all().iter();
    let mut lines: Vec<String> = families
        .map(|f| format!("link del {}", device(*f)))
        .collect();
    lines.extend(routed::unblock(cluster, node));
    netns::ip(&node.name, &lines)
}

/// Calico derives it from the node's name, so that it outlives a reboot.
fn mac(node: &Node) -> String {
    let [_, c, n, _] = node.cni_address.octets();
    format!("66:ca:11:c0:{c:02x}:{n:02x}")
}
