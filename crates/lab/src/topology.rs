//! Who is where in a lab: names and addresses, as plain data.
//!
//! For cluster `c` (from 1), node `n` (from 1) and pod `p` (from 1) of a node:
//!
//! | what | address |
//! |---|---|
//! | WAN | 198.51.100.0/24: the broker .250, the Internet .254, router of the cluster .`c` |
//! | underlay | 172.30.`c`.0/24: router .1, API server .2, node .(10+`n`) |
//! | pods | 10.(100+`c`).0.0/16, of a node 10.(100+`c`).`n`.0/24, pod .(10+`p`) |
//! | services | 10.(150+`c`).0.0/16, `web` 10.(150+`c`).0.80, port 80 |
//!
//! Each name is a network namespace, `/run/netns/NAME` within the lab.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::options::{Cni, Options};

/// Where the pods listen, TCP and UDP.
pub const POD_PORT: u16 = 8080;
/// Where the service `web` is reached, TCP and UDP.
pub const SERVICE_PORT: u16 = 80;
/// The broker's API server.
pub const BROKER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 250), 6443);
/// The Internet's address on the WAN.
pub(crate) const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 254);

/// A lab's clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
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
    /// How its pods are connected.
    pub cni: Cni,
    /// The CIDR of its pods.
    pub pod_cidr: Ipv4Net,
    /// The CIDR of its services.
    pub service_cidr: Ipv4Net,
    /// The cluster address of its service `web`.
    pub service: Ipv4Addr,
    /// The nodes' network.
    pub underlay: Ipv4Net,
    /// Its router's address on the WAN.
    pub wan: Ipv4Addr,
    /// Its nodes; the first is the gateway.
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
    /// Its address on the underlay.
    pub address: Ipv4Addr,
    /// Its MAC address on the underlay, the same after a reboot.
    pub mac: String,
    /// The CIDR of its pods.
    pub pod_cidr: Ipv4Net,
    /// The address that its CNI puts on the node: the source of the node's own traffic to pods.
    pub cni_address: Ipv4Addr,
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
    /// Its address.
    pub address: Ipv4Addr,
}

impl Topology {
    /// The topology that `options` ask for.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let clusters = (1..=options.clusters)
            .map(|number| cluster(number, options))
            .collect();
        Self { clusters }
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

    /// What a name, with a port or without, stands for as a target of a connection: `east-1` is a node's address (its port has
    /// to be given), `east-1-a` a pod (port 8080), `east` or `web.east` a cluster's service (port 80), and `10.0.0.1:80` itself.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub fn target(&self, text: &str) -> Result<SocketAddr> {
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
            (pod.address, Some(POD_PORT))
        } else if let Some(cluster) = self.clusters.iter().find(|cluster| cluster.name == service) {
            (cluster.service, Some(SERVICE_PORT))
        } else if let Some(node) = self.nodes().find(|node| node.name == name) {
            (node.address, None)
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
    pub fn api_server(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(172, 30, self.number, 2), 6443)
    }

    pub(crate) fn router_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.number, 1)
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
        .map(|n| node(&name, number, n, cni, options.pods))
        .collect();
    Cluster {
        number,
        cni,
        pod_cidr: net(10, 100 + number, 0, 16),
        service_cidr: net(10, 150 + number, 0, 16),
        service: Ipv4Addr::new(10, 150 + number, 0, 80),
        underlay: net(172, 30, number, 24),
        wan: Ipv4Addr::new(198, 51, 100, number),
        nodes,
        name,
    }
}

fn node(cluster: &str, c: u8, n: u8, cni: Cni, pods: u8) -> Node {
    let name = format!("{cluster}-{n}");
    let pod = |p: u8| Pod {
        name: format!("{name}-{}", char::from(b'a' + p - 1)),
        node: name.clone(),
        address: Ipv4Addr::new(10, 100 + c, n, 10 + p),
    };
    let host = match cni {
        Cni::Bridge => 1,
        Cni::Calico => 0,
    };
    Node {
        pods: (1..=pods).map(pod).collect(),
        cluster: cluster.to_owned(),
        number: n,
        gateway: n == 1,
        address: Ipv4Addr::new(172, 30, c, 10 + n),
        mac: format!("02:30:00:00:{c:02x}:{n:02x}"),
        pod_cidr: net(10, 100 + c, n, 24),
        cni_address: Ipv4Addr::new(10, 100 + c, n, host),
        name,
    }
}

fn net(a: u8, b: u8, c: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), length)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_networks_of_the_largest_lab_overlap() {
        let options = Options {
            clusters: 50,
            nodes: 200,
            pods: 26,
            ..Options::default()
        };
        assert!(options.check().is_ok());
        let topology = Topology::new(&options);
        let mut nets: Vec<Ipv4Net> = topology
            .clusters
            .iter()
            .flat_map(|c| [c.pod_cidr, c.service_cidr, c.underlay])
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
        for cluster in &topology.clusters {
            assert!(cluster.service_cidr.contains(&cluster.service));
            for node in &cluster.nodes {
                assert!(
                    cluster.pod_cidr.contains(&node.pod_cidr)
                        && cluster.underlay.contains(&node.address)
                );
                assert!(node.pod_cidr.contains(&node.cni_address));
                assert!(
                    node.pods
                        .iter()
                        .all(|pod| node.pod_cidr.contains(&pod.address))
                );
            }
        }
        let mut names = topology.names();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn targets_are_names_and_addresses() {
        let topology = Topology::new(&Options::default());
        let target = |text: &str| {
            topology
                .target(text)
                .map(|t| t.to_string())
                .map_err(|e| e.to_string())
        };
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
