//! Who is where in a lab: names and addresses, as plain data.
//!
//! For cluster `c` (from 1), node `n` (from 1) and pod `p` (from 1) of a node:
//!
//! | what | IPv4 | IPv6, where the digits are those of the decimal number |
//! |---|---|---|
//! | WAN | 198.51.100.0/24: the broker .250, the Internet .254, router of the cluster .`c`, its gateway `n` if each has a public address .(`c`+50(`n`-1)) | 2001:db8:100::/64, the same digits |
//! | underlay | 172.30.`c`.0/24: router .1, API server .2, node .(10+`n`) | fd00:30:`c`::/64, ::`c`:1, ::`c`:2, ::`c`:(10+`n`) |
//! | pods | 10.(100+`c`).0.0/16, of a node 10.(100+`c`).`n`.0/24, pod .(10+`p`) | fd10:(100+`c`)::/48, fd10:(100+`c`):0:`n`::/64, ::(10+`p`) |
//! | services | 10.(150+`c`).0.0/16, `web` 10.(150+`c`).0.80, port 80 | fd10:(150+`c`)::/112, ::80 |
//!
//! A lab has the addresses of its families only; API servers have IPv4 unless there is none. The last four bytes of a node's IPv6
//! address contain its cluster's number, since addresses inside the VXLANs are made of them.
//!
//! Each name is a network namespace, `/run/netns/NAME` within the lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use strait_host::Family;

use crate::options::{Cni, Families, MAX_CLUSTERS, Nat, Options};

/// Where the pods listen, TCP and UDP.
pub const POD_PORT: u16 = 8080;
/// Where the service `web` is reached, TCP and UDP.
pub const SERVICE_PORT: u16 = 80;
/// Where API servers listen.
const API_PORT: u16 = 6443;

/// A lab's clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The families of all its networks.
    pub families: Families,
    /// What stands between a cluster and the others.
    pub nat: Nat,
    /// In the order of their numbers.
    pub clusters: Vec<Cluster>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// `east`, `west`, `north`, `south`, then `c5` and so on; it is the cluster's ID too.
    pub name: String,
    /// From 1.
    pub number: u8,
    /// The families of its networks.
    pub families: Families,
    /// How its pods are connected.
    pub cni: Cni,
    /// The IPv4 CIDR of its pods.
    pub pod_cidr: Ipv4Net,
    /// The IPv6 CIDR of its pods.
    pub pod_cidr6: Ipv6Net,
    /// The IPv4 CIDR of its services.
    pub service_cidr: Ipv4Net,
    /// The IPv6 CIDR of its services.
    pub service_cidr6: Ipv6Net,
    /// The IPv4 cluster address of its service `web`.
    pub service: Ipv4Addr,
    /// The IPv6 cluster address of its service `web`.
    pub service6: Ipv6Addr,
    /// The nodes' IPv4 network.
    pub underlay: Ipv4Net,
    /// The nodes' IPv6 network.
    pub underlay6: Ipv6Net,
    /// Its nodes; the gateways come first.
    pub nodes: Vec<Node>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Such as `east-1`; its host name too.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// From 1.
    pub number: u8,
    /// Whether it carries the label `submariner.io/gateway=true`.
    pub gateway: bool,
    /// How its pods are connected.
    pub cni: Cni,
    /// Its IPv4 address on the underlay.
    pub address: Ipv4Addr,
    /// Its IPv6 address on the underlay.
    pub address6: Ipv6Addr,
    /// Its MAC address on the underlay, the same after a reboot.
    pub mac: String,
    /// The IPv4 CIDR of its pods.
    pub pod_cidr: Ipv4Net,
    /// The IPv6 CIDR of its pods.
    pub pod_cidr6: Ipv6Net,
    /// The IPv4 address that its CNI, unless it is a routed one, puts on the node: the source of the node's own traffic to pods.
    pub cni_address: Ipv4Addr,
    /// The same in IPv6.
    pub cni_address6: Ipv6Addr,
    /// Its pods.
    pub pods: Vec<Pod>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Such as `east-1-a`.
    pub name: String,
    /// Its node's name.
    pub node: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address6: Ipv6Addr,
}

impl Topology {
    /// The topology that `options` ask for.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let clusters = (1..=options.clusters)
            .map(|number| cluster(number, options))
            .collect();
        Self {
            families: options.families,
            nat: options.nat,
            clusters,
        }
    }

    /// The broker's API server.
    #[must_use]
    pub fn broker(&self) -> SocketAddr {
        (wan(self.families.first(), 250), API_PORT).into()
    }

    /// The address with which a gateway is seen from other clusters.
    #[must_use]
    pub fn public_ip(&self, cluster: &Cluster, node: &Node, family: Family) -> IpAddr {
        match self.nat {
            Nat::None => node.ip(family),
            // An address of its own: it was checked that there are enough.
            Nat::FullCone => wan(
                family,
                cluster
                    .number
                    .saturating_add(MAX_CLUSTERS.saturating_mul(node.number - 1)),
            ),
            Nat::PortRestricted | Nat::Symmetric => cluster.wan_ip(family),
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.clusters.iter().flat_map(|cluster| &cluster.nodes)
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes().flat_map(|node| &node.pods)
    }

    /// A node and its cluster, by name.
    ///
    /// # Errors
    /// A sentence that says which nodes there are.
    pub fn node(&self, name: &str) -> Result<(&Cluster, &Node)> {
        for cluster in &self.clusters {
            if let Some(node) = cluster.nodes.iter().find(|node| node.name == name) {
                return Ok((cluster, node));
            }
        }
        bail!(
            "no node '{name}'; there are {}",
            list(self.nodes().map(|node| node.name.as_str()))
        )
    }

    /// A cluster, by name.
    ///
    /// # Errors
    /// A sentence that says which clusters there are.
    pub fn cluster(&self, name: &str) -> Result<&Cluster> {
        match self.clusters.iter().find(|cluster| cluster.name == name) {
            Some(cluster) => Ok(cluster),
            None => bail!(
                "no cluster '{name}'; there are {}",
                list(self.clusters.iter().map(|c| c.name.as_str()))
            ),
        }
    }

    /// Every name that commands can run in.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.nodes().map(|node| node.name.clone()).collect();
        names.extend(self.pods().map(|pod| pod.name.clone()));
        for cluster in &self.clusters {
            names.extend([cluster.control(), cluster.router()]);
        }
        names.extend(["broker".to_owned(), "internet".to_owned()]);
        names
    }

    /// Those, and the clusters.
    #[must_use]
    pub fn all_names(&self) -> Vec<String> {
        let mut names = self.names();
        names.extend(self.clusters.iter().map(|cluster| cluster.name.clone()));
        names
    }

    /// [`Topology::target_in`] the lab's first family.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn target(&self, text: &str) -> Result<SocketAddr> {
        self.target_in(self.families.first(), text)
    }

    /// What a name, with a port or without, stands for as a target of a connection in a family: `east-1` is a node's address (its port has
    /// to be given), `east-1-a` a pod (port 8080), `east` or `web.east` a cluster's service (port 80), and `10.0.0.1:80` itself.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn target_in(&self, family: Family, text: &str) -> Result<SocketAddr> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => match port.parse::<u16>() {
                Ok(port) => (name, Some(port)),
                Err(_) => bail!("'{port}' in '{text}' is no port: expected 1 to 65535"),
            },
            None => (text, None),
        };
        let service = name.strip_prefix("web.").unwrap_or(name);
        let (address, usual) = if let Some(pod) = self.pods().find(|pod| pod.name == name) {
            (pod.ip(family), Some(POD_PORT))
        } else if let Some(cluster) = self.clusters.iter().find(|cluster| cluster.name == service) {
            (cluster.service_ip(family), Some(SERVICE_PORT))
        } else if let Some(node) = self.nodes().find(|node| node.name == name) {
            (node.ip(family), None)
        } else if let Ok(address) = name.parse() {
            (address, None)
        } else {
            bail!(
                "no target '{text}': expected ADDRESS:PORT, a pod such as {}, a cluster's service such as web.{}, or NODE:PORT",
                self.pods().next().map_or("-", |pod| &pod.name),
                self.clusters.first().map_or("-", |c| &c.name)
            )
        };
        match port.or(usual) {
            Some(port) => Ok((address, port).into()),
            None => bail!("'{text}' needs a port: {text}:PORT"),
        }
    }
}

impl Cluster {
    /// The name of the namespace of its API server.
    #[must_use]
    pub fn control(&self) -> String {
        format!("control-{}", self.name)
    }

    /// The name of the namespace of its router.
    #[must_use]
    pub fn router(&self) -> String {
        format!("router-{}", self.name)
    }

    /// Its API server.
    #[must_use]
    pub fn api_server(&self) -> SocketAddr {
        (self.on_underlay(self.families.first(), 2), API_PORT).into()
    }

    /// The CIDR of its pods.
    #[must_use]
    pub fn pod_net(&self, family: Family) -> IpNet {
        choose(family, self.pod_cidr, self.pod_cidr6)
    }

    /// The CIDR of its services.
    #[must_use]
    pub fn service_net(&self, family: Family) -> IpNet {
        choose(family, self.service_cidr, self.service_cidr6)
    }

    /// The cluster address of its service `web`.
    #[must_use]
    pub fn service_ip(&self, family: Family) -> IpAddr {
        choose(family, self.service, self.service6)
    }

    /// The nodes' network.
    #[must_use]
    pub fn underlay_net(&self, family: Family) -> IpNet {
        choose(family, self.underlay, self.underlay6)
    }

    /// Its router's address on the WAN.
    #[must_use]
    pub fn wan_ip(&self, family: Family) -> IpAddr {
        wan(family, self.number)
    }

    /// A host's address on the underlay.
    pub(crate) fn on_underlay(&self, family: Family, host: u8) -> IpAddr {
        on_underlay(self.number, family, host)
    }

    /// The nodes that carry the gateway's label.
    pub fn gateways(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.gateway)
    }

    /// The other nodes.
    pub fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.gateway)
    }

    /// A node of each kind: the first gateway, the second, if there is one, which may stand by, and the first worker.
    pub fn kinds(&self) -> impl Iterator<Item = &Node> {
        self.gateways().take(2).chain(self.workers().take(1))
    }

    /// All its pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes.iter().flat_map(|node| &node.pods)
    }

    /// Nodes but `node`.
    pub(crate) fn others<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Node> {
        self.nodes
            .iter()
            .filter(|other| other.number != node.number)
    }
}

impl Node {
    /// Its address on the underlay.
    #[must_use]
    pub fn ip(&self, family: Family) -> IpAddr {
        choose(family, self.address, self.address6)
    }

    /// The CIDR of its pods.
    #[must_use]
    pub fn pod_net(&self, family: Family) -> IpNet {
        choose(family, self.pod_cidr, self.pod_cidr6)
    }

    /// The address that its CNI puts on the node; a routed one puts none.
    #[must_use]
    pub fn cni_ip(&self, family: Family) -> Option<IpAddr> {
        match self.cni {
            Cni::Bridge | Cni::Calico | Cni::Plugin { .. } => {
                Some(choose(family, self.cni_address, self.cni_address6))
            }
            Cni::Routed => None,
        }
    }
}

impl Pod {
    /// Its address.
    #[must_use]
    pub fn ip(&self, family: Family) -> IpAddr {
        choose(family, self.address, self.address6)
    }
}

fn choose<T>(family: Family, v4: impl Into<T>, v6: impl Into<T>) -> T {
    match family {
        Family::V4 => v4.into(),
        Family::V6 => v6.into(),
    }
}

/// The Internet's address on the WAN.
pub(crate) fn internet(family: Family) -> IpAddr {
    wan(family, 254)
}

fn wan(family: Family, host: u8) -> IpAddr {
    choose(
        family,
        Ipv4Addr::new(198, 51, 100, host),
        Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, digits(host)),
    )
}

fn on_underlay(cluster: u8, family: Family, host: u8) -> IpAddr {
    choose(family, underlay4(cluster, host), underlay6(cluster, host))
}

fn underlay4(cluster: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, cluster, host)
}

fn underlay6(cluster: u8, host: u8) -> Ipv6Addr {
    let c = digits(cluster);
    Ipv6Addr::new(0xfd00, 0x30, c, 0, 0, 0, c, digits(host))
}

/// The number whose hexadecimal digits are the decimal ones of `number`.
fn digits(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

/// An address of a pod or service network, `fd10:SECOND:0:THIRD::HOST`.
fn inner6(second: u8, third: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(
        0xfd10,
        digits(second),
        0,
        digits(third),
        0,
        0,
        0,
        digits(host),
    )
}

fn cluster(number: u8, options: &Options) -> Cluster {
    let name = match number {
        1 => "east".to_owned(),
        2 => "west".to_owned(),
        3 => "north".to_owned(),
        4 => "south".to_owned(),
        number => format!("c{number}"),
    };
    let cni = options.cni(usize::from(number - 1));
    let nodes = (1..=options.nodes)
        .map(|n| node(&name, number, n, cni, options))
        .collect();
    Cluster {
        number,
        families: options.families,
        cni,
        pod_cidr: net(10, 100 + number, 0, 16),
        pod_cidr6: net6(inner6(100 + number, 0, 0), 48),
        service_cidr: net(10, 150 + number, 0, 16),
        service_cidr6: net6(inner6(150 + number, 0, 0), 112),
        service: Ipv4Addr::new(10, 150 + number, 0, 80),
        service6: inner6(150 + number, 0, 80),
        underlay: net(172, 30, number, 24),
        underlay6: net6(underlay6(number, 0), 64),
        nodes,
        name,
    }
}

fn node(cluster: &str, c: u8, n: u8, cni: Cni, options: &Options) -> Node {
    let name = format!("{cluster}-{n}");
    let pod = |p: u8| Pod {
        name: format!("{name}-{}", char::from(b'a' + p - 1)),
        node: name.clone(),
        address: Ipv4Addr::new(10, 100 + c, n, 10 + p),
        address6: inner6(100 + c, n, 10 + p),
    };
    let host = match cni {
        Cni::Bridge | Cni::Routed | Cni::Plugin { .. } => 1,
        Cni::Calico => 0,
    };
    Node {
        pods: (1..=options.pods).map(pod).collect(),
        cluster: cluster.to_owned(),
        number: n,
        gateway: n <= options.gateways,
        cni,
        address: underlay4(c, 10 + n),
        address6: underlay6(c, 10 + n),
        mac: format!("02:30:00:00:{c:02x}:{n:02x}"),
        pod_cidr: net(10, 100 + c, n, 24),
        pod_cidr6: net6(inner6(100 + c, n, 0), 64),
        cni_address: Ipv4Addr::new(10, 100 + c, n, host),
        // Not 0: that is the routers' anycast address.
        cni_address6: inner6(100 + c, n, 1),
        name,
    }
}

fn net(a: u8, b: u8, c: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), length)
}

fn net6(address: Ipv6Addr, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(address, length).trunc()
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strait_api::vtep::Vxlan;

    use super::*;
    use crate::options::MAX_PUBLIC;

    #[test]
    fn no_two_networks_of_the_largest_lab_overlap() {
        let options = Options {
            clusters: 50,
            nodes: 200,
            pods: 26,
            gateways: MAX_PUBLIC,
            nat: Nat::FullCone,
            ..Options::default()
        };
        assert!(options.check().is_ok());
        let topology = Topology::new(&options);
        for family in Family::ALL {
            let mut nets: Vec<IpNet> = topology
                .clusters
                .iter()
                .flat_map(|c| {
                    [
                        c.pod_net(family),
                        c.service_net(family),
                        c.underlay_net(family),
                    ]
                })
                .chain([IpNet::new(wan(family, 0), 24).unwrap().trunc()])
                .chain([Vxlan::Nodes, Vxlan::Gateways].map(|v| v.prefix(family == Family::V6)))
                .collect();
            nets.sort();
            for pair in nets.windows(2) {
                assert!(
                    pair[0].broadcast() < pair[1].network(),
                    "{} and {}",
                    pair[0],
                    pair[1]
                );
            }
            let mut public = BTreeSet::from([internet(family), wan(family, 250)]);
            let mut inner = BTreeSet::new();
            for cluster in &topology.clusters {
                let service = cluster.service_ip(family);
                assert!(cluster.service_net(family).contains(&service));
                for gateway in cluster.gateways() {
                    let ip = topology.public_ip(cluster, gateway, family);
                    assert!(public.insert(ip), "{ip} stands for two on the WAN");
                }
                for node in &cluster.nodes {
                    let pods = node.pod_net(family);
                    assert!(cluster.pod_net(family).contains(&pods));
                    assert!(cluster.underlay_net(family).contains(&node.ip(family)));
                    assert!(pods.contains(&node.cni_ip(family).unwrap()));
                    assert!(node.pods.iter().all(|pod| pods.contains(&pod.ip(family))));
                    // Of the clusters' gateways as of one cluster's nodes.
                    let ip = Vxlan::Gateways.inner(node.ip(family));
                    assert!(inner.insert(ip), "{ip} stands for two nodes");
                }
            }
        }
        let mut names = topology.names();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn the_first_nodes_are_the_gateways() {
        let options = Options {
            clusters: 3,
            gateways: 2,
            ..Options::default()
        };
        for cluster in &Topology::new(&options).clusters {
            let names = |nodes: Vec<&Node>| nodes.iter().map(|n| n.number).collect::<Vec<_>>();
            assert_eq!(names(cluster.gateways().collect()), [1, 2]);
            assert_eq!(names(cluster.workers().collect()), [3]);
            assert_eq!(names(cluster.kinds().collect()), [1, 2, 3]);
        }
        for cluster in &Topology::new(&Options::default()).clusters {
            assert_eq!(
                cluster.kinds().map(|n| n.number).collect::<Vec<_>>(),
                [1, 2]
            );
        }
    }

    #[test]
    fn targets_are_names_and_addresses() {
        let topology = Topology::new(&Options::default());
        let in_family = |family, text: &str| {
            topology
                .target_in(family, text)
                .map(|t| t.to_string())
                .map_err(|e| e.to_string())
        };
        let target = |text: &str| in_family(Family::V4, text);
        let target6 = |text: &str| in_family(Family::V6, text).unwrap();
        assert_eq!(target6("west-2-a"), "[fd10:102:0:2::11]:8080");
        assert_eq!(target6("web.west"), "[fd10:152::80]:80");
        assert_eq!(target6("east-1:22"), "[fd00:30:1::1:11]:22");
        assert_eq!(target("west-2-a").unwrap(), "10.102.2.11:8080");
        assert_eq!(target("web.west").unwrap(), "10.152.0.80:80");
        assert_eq!(target("east:81").unwrap(), "10.151.0.80:81");
        assert_eq!(target("east-1:22").unwrap(), "172.30.1.11:22");
        assert_eq!(target("192.0.2.1:1").unwrap(), "192.0.2.1:1");
        assert!(target("east-1").unwrap_err().contains("needs a port"));
        assert!(target("nowhere").unwrap_err().contains("such as east-1-a"));
        assert!(target("east-1-a:x").unwrap_err().contains("is no port"));
        let error = topology.node("east-9").unwrap_err().to_string();
        assert_eq!(
            error,
            "no node 'east-9'; there are east-1, east-2, east-3, west-1, west-2, west-3"
        );
    }
}
