//! Like Calico with a tunnel: a VXLAN device with a /32 of the node's pods, a route to each pod by a cable of its own, and a
//! route through the tunnel to each other node.

use anyhow::Result;

use super::host_end;
use crate::netns;
use crate::topology::{Cluster, Node, Pod};

/// Calico's name for it, as its VNI and port (felix, `VXLANVNI` and `VXLANPort`).
pub(super) const DEVICE: &str = "vxlan.calico";
const VNI: u32 = 4096;
const PORT: u16 = 4789;
/// 1500 less what VXLAN over IPv4 adds.
const MTU: u32 = 1450;
/// The next hop that Calico gives every pod; the host's end of the cable answers for it.
const NEXT_HOP: &str = "169.254.1.1";
/// The route protocol of Calico's own routes (felix, `DeviceRouteProtocol`).
const PROTOCOL: u8 = 80;

pub(super) fn up(cluster: &Cluster, node: &Node) -> Result<()> {
    let (name, local) = (&node.name, node.address);
    let tunnel = format!("type vxlan id {VNI} dstport {PORT} local {local} dev eth0 nolearning");
    let lines = [
        format!("link add {DEVICE} address {} mtu {MTU} {tunnel}", mac(node)),
        format!("addr add {}/32 dev {DEVICE}", node.cni_address),
        format!("link set {DEVICE} up"),
        format!("route replace blackhole {} proto {PROTOCOL}", node.pod_cidr),
    ];
    netns::ip(name, &lines)?;
    let entry = |other: &Node| {
        format!(
            "fdb replace {} dev {DEVICE} dst {} self permanent",
            mac(other),
            other.address
        )
    };
    netns::bridge(name, &cluster.others(node).map(entry).collect::<Vec<_>>())
}

pub(super) fn routes(cluster: &Cluster, node: &Node) -> Result<()> {
    let mut lines = Vec::new();
    for other in cluster.others(node) {
        let (cidr, via, mac) = (other.pod_cidr, other.cni_address, mac(other));
        lines.push(format!(
            "neigh replace {via} lladdr {mac} dev {DEVICE} nud permanent"
        ));
        lines.push(format!(
            "route replace {cidr} via {via} dev {DEVICE} onlink proto {PROTOCOL}"
        ));
    }
    netns::ip(&node.name, &lines)
}

pub(super) fn down(node: &Node) -> Result<()> {
    // Its routes go with the device.
    let rest = format!("route del blackhole {} proto {PROTOCOL}", node.pod_cidr);
    netns::ip(&node.name, &[format!("link del {DEVICE}"), rest])
}

pub(super) fn pod(node: &Node, pod: &Pod) -> Result<()> {
    let host = host_end("cali", pod);
    let inside = &pod.name;
    netns::ip(
        &node.name,
        &[format!(
            "link add {host} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {inside}"
        )],
    )?;
    let (proxy, delay) = (
        format!("ipv4/conf/{host}/proxy_arp"),
        format!("ipv4/neigh/{host}/proxy_delay"),
    );
    netns::sysctl(&node.name, &[(&proxy, "1"), (&delay, "0")])?;
    netns::ip(
        &node.name,
        &[
            format!("link set {host} up"),
            format!(
                "route add {} dev {host} scope link proto {PROTOCOL}",
                pod.address
            ),
        ],
    )?;
    netns::ip(
        inside,
        &[
            format!("addr add {}/32 dev eth0", pod.address),
            "link set eth0 up".to_owned(),
            format!("route add {NEXT_HOP} dev eth0 scope link"),
            format!("route add default via {NEXT_HOP} dev eth0"),
        ],
    )
}

/// Calico derives it from the node's name, so that it outlives a reboot.
fn mac(node: &Node) -> String {
    let [_, c, n, _] = node.cni_address.octets();
    format!("66:ca:11:c0:{c:02x}:{n:02x}")
}
