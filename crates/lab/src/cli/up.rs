//! `strait lab up`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{Which, print};
use crate::client::Lab;
use crate::options::{Cable, Cni, Families, Nat, Options, RpFilter, Wireguard};

#[derive(Debug, Args)]
pub(super) struct Up {
    #[command(flatten)]
    lab: Which,
    /// How many clusters
    #[arg(long, default_value_t = 2)]
    clusters: u8,
    /// Nodes of each cluster
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// How many of them, the first ones, are gateways
    #[arg(long, default_value_t = 1)]
    gateways: u8,
    /// Pods of each node
    #[arg(long, default_value_t = 1)]
    pods: u8,
    /// The clusters' CNIs, in their order; the last stands for the rest: bridge, calico, routed, or the CNI project's own plugins
    /// (Debian's containernetworking-plugins), cni-bridge and cni-ptp, with -masq if they are to masquerade
    #[arg(long, value_delimiter = ',', default_value = "bridge,calico")]
    cni: Vec<Cni>,
    /// IP families of all networks: v4, v6 or dual
    #[arg(long, default_value = "v4")]
    family: Families,
    /// The same as --family dual
    #[arg(long, conflicts_with = "family")]
    ipv6: bool,
    /// How gateways reach those of other clusters: vxlan or wireguard
    #[arg(long, default_value = "vxlan")]
    cable: Cable,
    /// Whose WireGuard the clusters' gateways take, in their order; the last stands for the rest: auto (the kernel's where it has
    /// one), kernel, or process
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    wireguard: Vec<Wireguard>,
    /// What each cluster's router does between its nodes and the WAN: none, full-cone, port-restricted or symmetric
    #[arg(long, default_value = "none")]
    nat: Nat,
    /// The nodes' reverse-path filter at boot: strict, loose or off
    #[arg(long, default_value = "strict")]
    rp_filter: RpFilter,
    /// Start no route agents and gateways
    #[arg(long)]
    no_agents: bool,
    /// Run route agents and gateways by this program: another version, or the smaller one for nodes
    #[arg(long, value_name = "PATH", value_parser = super::program)]
    program: Option<PathBuf>,
    /// Give nodes wall clocks of their own, for 'strait lab clock'; asking for the time costs more then
    #[arg(long)]
    clocks: bool,
    /// How many seconds to wait until the agents are ready; 0 for not at all
    #[arg(long, default_value_t = 30)]
    wait: u64,
}

impl Up {
    fn families(&self) -> Families {
        if self.ipv6 {
            Families::Dual
        } else {
            self.family
        }
    }
}

pub(super) fn up(arguments: &Up, binary: &Path) -> Result<()> {
    let options = Options {
        name: arguments.lab.name.clone(),
        clusters: arguments.clusters,
        nodes: arguments.nodes,
        gateways: arguments.gateways,
        pods: arguments.pods,
        cnis: arguments
            .cni
            .iter()
            .copied()
            .take(usize::from(arguments.clusters.max(1)))
            .collect(),
        families: arguments.families(),
        cable: arguments.cable,
        wireguard: arguments.wireguard.clone(),
        nat: arguments.nat,
        rp_filter: arguments.rp_filter,
        agents: !arguments.no_agents,
        program: arguments.program.clone(),
        clocks: arguments.clocks,
        environment: Vec::new(),
    };
    let lab = Lab::up_detached(&options, binary, |step| {
        let _ = print(&format!("{step}\n"));
    })?;
    if arguments.wait > 0 {
        lab.wait_until_ready(Duration::from_secs(arguments.wait), false)?;
    }
    print(&format!(
        "lab '{0}' is up: 'strait lab status --name {0}' shows it, 'strait lab down --name {0}' ends it\n",
        lab.name()
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: Up,
    }

    fn families(words: &[&str]) -> Result<Families, clap::error::ErrorKind> {
        let line = Line::try_parse_from([&["up"], words].concat());
        line.map(|line| line.up.families()).map_err(|e| e.kind())
    }

    #[test]
    fn ipv6_beside_ipv4_has_two_spellings() {
        assert_eq!(families(&[]), Ok(Families::V4));
        assert_eq!(families(&["--ipv6"]), Ok(Families::Dual));
        assert_eq!(families(&["--family", "dual"]), families(&["--ipv6"]));
        assert_eq!(families(&["--family", "v6"]), Ok(Families::V6));
        let both = families(&["--ipv6", "--family", "v4"]);
        assert_eq!(both, Err(clap::error::ErrorKind::ArgumentConflict));
    }
}
