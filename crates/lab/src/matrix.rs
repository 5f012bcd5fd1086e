//! Who reaches whom, and with which source address: every way that users rely on, tried one by one.

use std::net::IpAddr;

use anyhow::Result;
use strait_host::Family;

use crate::client::Lab;
use crate::probe::{Probe, Seen, Transport};
use crate::status::{table, text};
use crate::topology::{Cluster, Node, Topology};

/// What a connection starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A pod.
    Pod,
    /// A process of the node itself.
    Host,
    /// A process of the node itself, on a socket bound to the node's address.
    BoundHost,
}

/// One way from one cluster to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// What it starts from.
    pub origin: Origin,
    /// The node that it starts from, or whose pod it starts from.
    pub node: String,
    /// The node or pod by name.
    pub from: String,
    /// The address that the socket is bound to, if it is.
    pub bind: Option<IpAddr>,
    /// The pod or service, as [`Topology::target_in`] takes it.
    pub to: String,
    /// The family.
    pub family: Family,
    /// The address that the listener must see; `None` where it must not be reached.
    pub source: Option<IpAddr>,
}

/// What became of a [`Way`].
#[derive(Debug, Clone)]
pub struct Tried {
    /// The way.
    pub way: Way,
    /// Over TCP.
    pub tcp: Result<Seen, String>,
    /// Over UDP.
    pub udp: Result<Seen, String>,
}

impl Way {
    /// From a node or one of its pods, in the state in which the nodes have their CNI addresses; a routed CNI gives none, and
    /// then the nodes themselves reach nobody.
    #[must_use]
    pub fn new(family: Family, origin: Origin, node: &Node, to: &str) -> Option<Self> {
        let pod = node.pods.first()?;
        let cni = node.cni_ip(family);
        let (from, bind, source) = match origin {
            Origin::Pod => (&pod.name, None, Some(pod.ip(family))),
            Origin::Host => (&node.name, None, cni),
            Origin::BoundHost => (&node.name, Some(node.ip(family)), cni),
        };
        Some(Self {
            origin,
            node: node.name.clone(),
            from: from.clone(),
            bind,
            to: to.to_owned(),
            family,
            source,
        })
    }

    /// The same, where the listener must see `source`.
    #[must_use]
    pub fn seen_as(self, source: impl Into<IpAddr>) -> Self {
        Self {
            source: Some(source.into()),
            ..self
        }
    }

    /// The probe that tries it.
    #[must_use]
    pub fn probe(&self, transport: Transport) -> Probe {
        let probe = Probe {
            transport,
            ..Probe::tcp(&self.from, &self.to).over(self.family)
        };
        Probe {
            bind: self.bind,
            // What is not to be reached need not be waited for as long.
            timeout_ms: if self.source.is_some() {
                probe.timeout_ms
            } else {
                500
            },
            ..probe
        }
    }

    /// Tries it, 3 KB both ways over TCP and over UDP.
    ///
    /// # Errors
    /// When the lab does not answer.
    pub fn attempt(&self, lab: &Lab) -> Result<Tried> {
        let tcp = lab.probe(&self.probe(Transport::Tcp))?;
        let udp = lab.probe(&self.probe(Transport::Udp))?;
        Ok(Tried {
            way: self.clone(),
            tcp,
            udp,
        })
    }

    fn origin(&self) -> String {
        match self.origin {
            Origin::Pod => format!("pod {}", self.from),
            Origin::Host => format!("host {}", self.from),
            Origin::BoundHost => format!(
                "host {} bound to {}",
                self.from,
                self.bind.map(|ip| ip.to_string()).unwrap_or_default()
            ),
        }
    }
}

impl Tried {
    /// Whether it was reached both ways with the source address that it must be.
    #[must_use]
    pub fn good(&self) -> bool {
        self.verdict(&self.tcp) == "ok" && self.verdict(&self.udp) == "ok"
    }

    fn verdict(&self, seen: &Result<Seen, String>) -> String {
        match (seen, self.way.source) {
            (Ok(seen), Some(source)) if seen.source.ip() == source => "ok".to_owned(),
            (Ok(_), Some(_)) => "FAILED: wrong source".to_owned(),
            (Ok(_), None) => "FAILED: reached".to_owned(),
            (Err(error), Some(_)) => format!("FAILED: {error}"),
            (Err(_), None) => "ok".to_owned(),
        }
    }

    fn saw(&self) -> String {
        let source = |seen: &Result<Seen, String>| {
            seen.as_ref()
                .map_or_else(|_| "-".to_owned(), |seen| seen.source.ip().to_string())
        };
        let (tcp, udp) = (source(&self.tcp), source(&self.udp));
        if tcp == udp {
            tcp
        } else {
            format!("{tcp}, {udp}")
        }
    }
}

/// From a pod, the host, and the host bound to its address, on a node of each kind ([`Cluster::kinds`]) of every cluster, to a pod on a node of
/// each kind, and the service of every other cluster, in every family.
#[must_use]
pub fn ways(topology: &Topology) -> Vec<Way> {
    let families = topology.families.all().iter();
    families
        .flat_map(|family| ways_of(topology, *family))
        .collect()
}

fn ways_of(topology: &Topology, family: Family) -> Vec<Way> {
    let mut ways = Vec::new();
    for cluster in &topology.clusters {
        for other in topology
            .clusters
            .iter()
            .filter(|other| other.number != cluster.number)
        {
            for origin in [Origin::Pod, Origin::Host, Origin::BoundHost] {
                for node in cluster.kinds() {
                    ways.extend(
                        targets(other)
                            .iter()
                            .filter_map(|to| Way::new(family, origin, node, to)),
                    );
                }
            }
        }
    }
    ways
}

/// A pod on a node of each kind, gateway and worker, and the service.
#[must_use]
pub fn targets(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.kinds().filter_map(|node| node.pods.first());
    pods.map(|pod| pod.name.clone())
        .chain([format!("web.{}", cluster.name)])
        .collect()
}

/// A table of what became of ways.
#[must_use]
pub fn render(tried: &[Tried]) -> String {
    let mut rows = table(["FROM", "TO", "LISTENER SAW", "EXPECTED", "TCP", "UDP"]);
    for one in tried {
        let way = &one.way;
        let to = if way.to.starts_with("web.") {
            format!("service {}", way.to)
        } else {
            format!("pod {}", way.to)
        };
        rows.add_row([
            way.origin(),
            to,
            one.saw(),
            way.source
                .map_or_else(|| "not reached".to_owned(), |ip| ip.to_string()),
            one.verdict(&one.tcp),
            one.verdict(&one.udp),
        ]);
    }
    text(&mut rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn every_origin_node_and_target_is_tried_in_both_directions() {
        let ways = ways(&Topology::new(&Options::default()));
        assert_eq!(ways.len(), 2 * 3 * 2 * 3);
        assert!(
            ways.iter()
                .any(|way| way.from == "west-2" && way.to == "web.east" && way.bind.is_some())
        );
    }

    #[test]
    fn only_the_expected_source_is_ok_and_every_failure_shows() {
        let topology = Topology::new(&Options::default());
        let way = ways(&topology).into_iter().next().unwrap();
        let seen = |address: &str| {
            Ok(Seen {
                source: address.parse().unwrap(),
                local: address.parse().unwrap(),
                micros: 1,
            })
        };
        let good = Tried {
            way: way.clone(),
            tcp: seen("10.101.1.11:1"),
            udp: seen("10.101.1.11:2"),
        };
        assert!(good.good());
        let wrong = Tried {
            udp: seen("10.101.1.1:2"),
            ..good.clone()
        };
        let gone = Tried {
            tcp: Err("cannot connect".to_owned()),
            ..good.clone()
        };
        assert!(!wrong.good() && !gone.good());
        let table = render(&[wrong, gone]);
        assert!(
            table.contains("10.101.1.11, 10.101.1.1") && table.contains("FAILED: wrong source"),
            "{table}"
        );
        assert!(table.contains("FAILED: cannot connect"), "{table}");
    }
}
