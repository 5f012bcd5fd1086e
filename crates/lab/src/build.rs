//! Builds the machines of a lab: the WAN, routers, API servers' places, nodes and pods, without what runs on them.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::options::{Options, RpFilter};
use crate::topology::{BROKER, Cluster, INTERNET, Node, Topology};
use crate::{cni, netns, services};

/// The supervisor's own namespace: the Internet, with a bridge that joins the clusters' routers.
pub(crate) const INTERNET_NAME: &str = "internet";
const BROKER_NAME: &str = "broker";

/// Gives the supervisor's own namespace its name, its bridge and the broker's machine.
pub(crate) fn internet(topology: &Topology) -> Result<()> {
    strait_netns::Namespace::current()?.name(format!("/run/netns/{INTERNET_NAME}"))?;
    strait_netns::HostName::new(INTERNET_NAME)?.name(format!("/run/utsns/{INTERNET_NAME}"))?;
    netns::ip(INTERNET_NAME, &bridge("wan", INTERNET))?;
    router_sysctls(INTERNET_NAME)?;
    machine(
        BROKER_NAME,
        INTERNET_NAME,
        "wan",
        *BROKER.ip(),
        None,
        INTERNET,
    )?;
    for cluster in &topology.clusters {
        router(cluster, topology)?;
        let route = format!("route add {} via {}", cluster.underlay, cluster.wan);
        netns::ip(INTERNET_NAME, &[route])?;
        machine(
            &cluster.control(),
            &cluster.router(),
            "underlay",
            *cluster.api_server().ip(),
            None,
            cluster.router_address(),
        )?;
    }
    Ok(())
}

fn router(cluster: &Cluster, topology: &Topology) -> Result<()> {
    let name = cluster.router();
    netns::make(&name)?;
    netns::ip(
        INTERNET_NAME,
        &[
            format!("link add {name} type veth peer name wan0 netns {name}"),
            format!("link set {name} master wan up"),
        ],
    )?;
    let mut lines = bridge("underlay", cluster.router_address());
    lines.push("link set lo up".to_owned());
    lines.push(format!("addr add {}/24 dev wan0", cluster.wan));
    lines.push("link set wan0 up".to_owned());
    lines.push(format!("route add default via {INTERNET}"));
    for other in topology
        .clusters
        .iter()
        .filter(|other| other.number != cluster.number)
    {
        lines.push(format!("route add {} via {}", other.underlay, other.wan));
    }
    netns::ip(&name, &lines)?;
    router_sysctls(&name)
}

/// Boots a node: its own machine without CNI, pods or processes, but with the rules of its kube-proxy.
pub(crate) fn node(cluster: &Cluster, node: &Node, options: &Options) -> Result<()> {
    machine(
        &node.name,
        &cluster.router(),
        "underlay",
        node.address,
        Some(&node.mac),
        cluster.router_address(),
    )?;
    let filter = options.rp_filter.value().to_string();
    // Kubelet and container runtimes switch forwarding on; the distribution's boot sets the filter.
    let mut settings = vec![
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/default/rp_filter", &filter),
        ("ipv4/conf/eth0/rp_filter", &filter),
    ];
    let all = if options.rp_filter == RpFilter::Strict {
        "1"
    } else {
        "0"
    };
    settings.push(("ipv4/conf/all/rp_filter", all));
    netns::sysctl(&node.name, &settings)?;
    netns::nft(&node.name, &services::ruleset(cluster))
}

/// Ends a node's machine. Its processes have ended before.
pub(crate) fn unmake_node(cluster: &Cluster, node: &Node) -> Result<()> {
    for pod in node
        .pods
        .iter()
        .filter(|pod| netns::find(&pod.name).is_ok())
    {
        netns::unname(&pod.name)?;
    }
    netns::unname(&node.name)?;
    // The kernel takes the far end away later, and its name is needed again at once.
    netns::ip(&cluster.router(), &[format!("link del {}", node.name)])
}

/// Connects a node's pods; makes their namespaces.
pub(crate) fn pods(cluster: &Cluster, node: &Node) -> Result<()> {
    cni::up(cluster, node)?;
    for pod in &node.pods {
        netns::make(&pod.name)?;
        cni::pod(cluster, node, pod)?;
    }
    Ok(())
}

/// A namespace with `eth0` at a bridge of another one.
fn machine(
    name: &str,
    at: &str,
    port_of: &str,
    address: Ipv4Addr,
    mac: Option<&str>,
    via: Ipv4Addr,
) -> Result<()> {
    netns::make(name)?;
    let mac = mac.map(|mac| format!(" address {mac}")).unwrap_or_default();
    netns::ip(
        at,
        &[
            format!("link add {name} type veth peer name eth0{mac} netns {name}"),
            format!("link set {name} master {port_of} up"),
        ],
    )?;
    netns::ip(
        name,
        &[
            "link set lo up".to_owned(),
            format!("addr add {address}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {via}"),
        ],
    )
}

/// A bridge without an address of its own takes a port's, and another one's when that port goes: the neighbours would send into the void.
fn bridge(name: &str, address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let mac = format!("02:31:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    vec![
        "link set lo up".to_owned(),
        format!("link add {name} address {mac} type bridge forward_delay 0"),
        format!("addr add {address}/24 dev {name}"),
        format!("link set {name} up"),
    ]
}

fn router_sysctls(name: &str) -> Result<()> {
    netns::sysctl(
        name,
        &[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ],
    )
}
