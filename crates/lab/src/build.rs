//! Builds the machines of a lab: the WAN, routers, API servers' places, nodes and pods, without what runs on them.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use strait_host::Family;

use crate::options::{Families, Nat, Options, RpFilter};
use crate::topology::{Cluster, Node, Topology, internet as internet_address};
use crate::{cni, nat, netns, services};

/// The supervisor's own namespace: the Internet, with a bridge that joins the clusters' routers.
pub(crate) const INTERNET_NAME: &str = "internet";
const BROKER_NAME: &str = "broker";

/// Gives the supervisor's own namespace its name, its bridge and the broker's machine.
pub(crate) fn internet(topology: &Topology) -> Result<()> {
    strait_netns::Namespace::current()?.name(format!("/run/netns/{INTERNET_NAME}"))?;
    strait_netns::HostName::new(INTERNET_NAME)?.name(format!("/run/utsns/{INTERNET_NAME}"))?;
    netns::no_detection(INTERNET_NAME)?;
    let families = topology.families;
    router_sysctls(INTERNET_NAME)?;
    let mut lines = bridge("wan", 0, families, &internet_address);
    lines.push("link set lo up".to_owned());
    netns::ip(INTERNET_NAME, &lines)?;
    machine(
        BROKER_NAME,
        INTERNET_NAME,
        "wan",
        None,
        &[(topology.broker().ip(), internet_address(families.first()))],
    )?;
    for cluster in &topology.clusters {
        router(cluster, topology)?;
        // What is behind a NAT is known to nobody.
        if topology.nat == Nat::None {
            let route = |family: &Family| {
                let (net, via) = (cluster.underlay_net(*family), cluster.wan_ip(*family));
                format!("route add {net} via {via}")
            };
            let routes: Vec<String> = families.all().iter().map(route).collect();
            netns::ip(INTERNET_NAME, &routes)?;
        }
        let via = cluster.on_underlay(families.first(), 1);
        machine(
            &cluster.control(),
            &cluster.router(),
            "underlay",
            None,
            &[(cluster.api_server().ip(), via)],
        )?;
    }
    Ok(())
}

fn router(cluster: &Cluster, topology: &Topology) -> Result<()> {
    let name = cluster.router();
    netns::make(&name)?;
    router_sysctls(&name)?;
    netns::ip(
        INTERNET_NAME,
        &[
            format!("link add {name} type veth peer name wan0 netns {name}"),
            format!("link set {name} master wan up"),
        ],
    )?;
    let families = topology.families;
    let mut lines = bridge("underlay", cluster.number, families, &|family| {
        cluster.on_underlay(family, 1)
    });
    lines.push("link set wan0 up".to_owned());
    for family in families.all() {
        let wan = cluster.wan_ip(*family);
        lines.push(address_line(wan, "wan0"));
        lines.push(format!(
            "route add default via {}",
            internet_address(*family)
        ));
        if topology.nat == Nat::FullCone {
            let public = cluster
                .gateways()
                .map(|node| topology.public_ip(cluster, node, *family));
            // The first one has the router's.
            lines.extend(
                public
                    .filter(|ip| *ip != wan)
                    .map(|ip| address_line(ip, "wan0")),
            );
        }
        let others = topology
            .clusters
            .iter()
            .filter(|other| topology.nat == Nat::None && other.number != cluster.number);
        for other in others {
            let (net, via) = (other.underlay_net(*family), other.wan_ip(*family));
            lines.push(format!("route add {net} via {via}"));
        }
    }
    netns::ip(&name, &lines)?;
    match topology.nat {
        Nat::None => Ok(()),
        Nat::FullCone | Nat::PortRestricted | Nat::Symmetric => {
            netns::nft(&name, &nat::ruleset(topology, cluster))
        }
    }
}

/// Boots a node: its own machine without CNI, pods or processes, but with the rules of its kube-proxy.
pub(crate) fn node(cluster: &Cluster, node: &Node, options: &Options) -> Result<()> {
    let families = cluster.families.all().iter();
    let addresses: Vec<(IpAddr, IpAddr)> = families
        .map(|family| (node.ip(*family), cluster.on_underlay(*family, 1)))
        .collect();
    let (name, router) = (&node.name, cluster.router());
    machine(name, &router, "underlay", Some(&node.mac), &addresses)?;
    let filter = options.rp_filter.value().to_string();
    // Kubelet and container runtimes switch forwarding on; the distribution's boot sets the filter.
    let mut settings = vec![
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/default/rp_filter", &filter),
        ("ipv4/conf/eth0/rp_filter", &filter),
    ];
    if cluster.families.all().contains(&Family::V6) {
        settings.push(("ipv6/conf/all/forwarding", "1"));
    }
    let all = if options.rp_filter == RpFilter::Strict {
        "1"
    } else {
        "0"
    };
    settings.push(("ipv4/conf/all/rp_filter", all));
    netns::sysctl(name, &settings)?;
    netns::nft(name, &services::ruleset(cluster))
}

/// Ends a node's machine. Its processes have ended before.
pub(crate) fn unmake_node(cluster: &Cluster, node: &Node) -> Result<()> {
    // First, while the names keep the namespaces: later the kernel takes the cable away by itself, nobody knows when, and its name is
    // needed again at once.
    netns::ip(&cluster.router(), &[format!("link del {}", node.name)])?;
    for pod in node
        .pods
        .iter()
        .filter(|pod| netns::find(&pod.name).is_ok())
    {
        netns::unname(&pod.name)?;
    }
    netns::unname(&node.name)
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

/// A namespace with `eth0` at a bridge of another one, with addresses and for each the router by which it leaves.
fn machine(
    name: &str,
    at: &str,
    port_of: &str,
    mac: Option<&str>,
    addresses: &[(IpAddr, IpAddr)],
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
    let mut lines = vec!["link set eth0 up".to_owned()];
    for (address, via) in addresses {
        lines.push(address_line(*address, "eth0"));
        lines.push(format!("route add default via {via}"));
    }
    netns::ip(name, &lines)
}

/// Networks of machines are /24, or /64.
fn address_line(address: IpAddr, dev: &str) -> String {
    match address {
        IpAddr::V4(ip) => format!("addr add {ip}/24 dev {dev}"),
        IpAddr::V6(ip) => format!("addr add {ip}/64 dev {dev} nodad"),
    }
}

/// A bridge, and a cable to it that holds the router's addresses: a packet that leaves by the bridge's own device inside a tunnel would be cut
/// to the size of the wire there (such a device offers no `hw_enc_features`), where cables, as network cards, pass it on whole.
fn bridge(
    name: &str,
    number: u8,
    families: Families,
    address: &dyn Fn(Family) -> IpAddr,
) -> Vec<String> {
    let cable = format!("{name}0");
    // Of its own, lest machines that know it send into the void when it is made anew.
    let mac = format!("02:31:00:00:00:{number:02x}");
    let mut lines = vec![
        // Without snooping: with it, multicast of IPv6 neighbours waits for queriers that are not there.
        format!("link add {name} type bridge forward_delay 0 mcast_snooping 0"),
        format!("link add {cable} address {mac} type veth peer name {cable}-port"),
        format!("link set {cable}-port master {name} up"),
        format!("link set {name} up"),
        format!("link set {cable} up"),
    ];
    let families = families.all().iter();
    lines.extend(families.map(|family| address_line(address(*family), &cable)));
    lines
}

fn router_sysctls(name: &str) -> Result<()> {
    netns::sysctl(
        name,
        &[
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            // Else a bridge answers too for the address of its cable, with an Ethernet address that changes with its ports.
            ("ipv4/conf/all/arp_ignore", "1"),
            ("ipv6/conf/all/forwarding", "1"),
        ],
    )?;
    // Else what crosses the router's bridge on its way to the router is tracked there, as if it had been routed already, and translated no more.
    let switches = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];
    netns::find(name)?.run(|| {
        switches.iter().try_for_each(|switch| {
            let path = Path::new("/proc/sys/net/bridge").join(switch);
            // A kernel without that module does not do it.
            if path.exists() {
                std::fs::write(&path, "0")
                    .with_context(|| format!("{name}: cannot write {}", path.display()))?;
            }
            Ok(())
        })
    })?
}
