//! The links of a lab: each is a cable from a machine to a port of a bridge.

use anyhow::{Result, bail};

use crate::build::INTERNET_NAME;
use crate::netns;
use crate::topology::Topology;

/// A link, by what it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// What it connects: a node, an API server's machine, or a cluster with its WAN.
    pub(crate) what: String,
    /// Where the bridge is.
    pub(crate) at: String,
    /// The bridge's end of the cable.
    pub(crate) port: String,
    pub(crate) bridge: &'static str,
    /// The other end: a machine, and its device.
    pub(crate) machine: (String, &'static str),
}

impl Link {
    /// The link of a node, of an API server's machine, or of a cluster's router to the WAN.
    pub(crate) fn find(topology: &Topology, what: &str) -> Result<Self> {
        let link = |at: String, port: &str, bridge, device| Self {
            what: what.to_owned(),
            at,
            port: port.to_owned(),
            bridge,
            machine: (port.to_owned(), device),
        };
        for cluster in &topology.clusters {
            if what == cluster.name {
                let at = INTERNET_NAME.to_owned();
                return Ok(link(at, &cluster.router(), "wan", "wan0"));
            }
            let inside = what == cluster.control() || cluster.nodes.iter().any(|n| n.name == what);
            if inside {
                return Ok(link(cluster.router(), what, "underlay", "eth0"));
            }
        }
        if what == "broker" {
            return Ok(link(INTERNET_NAME.to_owned(), what, "wan", "eth0"));
        }
        let names = |names: Vec<String>| names.join(", ");
        let clusters = topology.clusters.iter();
        bail!(
            "no link '{what}'; there are the WAN of {}, the nodes {}, and the API servers {}, broker",
            names(clusters.clone().map(|c| c.name.clone()).collect()),
            names(topology.nodes().map(|node| node.name.clone()).collect()),
            names(clusters.map(crate::topology::Cluster::control).collect()),
        )
    }

    /// Whether the port exists: a machine that is off has none.
    pub(crate) fn is_there(&self) -> Result<bool> {
        let port = self.port.as_str();
        let index = netns::find(&self.at)?.run(|| nix::net::if_::if_nametoindex(port))?;
        Ok(index.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn clusters_nodes_and_servers_have_links_and_nothing_else_has() {
        let topology = Topology::new(&Options::default());
        let find = |what: &str| {
            let link = Link::find(&topology, what)?;
            let (machine, device) = link.machine;
            Ok(format!("{}:{} {}:{device}", link.at, link.port, machine))
        };
        let found = |what: &str| find(what).map_err(|e: anyhow::Error| e.to_string());
        assert_eq!(
            found("east").unwrap(),
            "internet:router-east router-east:wan0"
        );
        assert_eq!(found("west-2").unwrap(), "router-west:west-2 west-2:eth0");
        assert_eq!(
            found("control-west").unwrap(),
            "router-west:control-west control-west:eth0"
        );
        assert_eq!(found("broker").unwrap(), "internet:broker broker:eth0");
        for what in ["east-1-a", "internet", "", "east-9"] {
            let error = found(what).unwrap_err();
            assert!(
                error.contains("the WAN of east, west, the nodes east-1,")
                    && error.ends_with("control-east, control-west, broker"),
                "{error}"
            );
        }
    }
}
