//! What a lab is asked to be.

mod between;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use strait_host::Family;

pub use between::{Cable, Nat, Wireguard};

/// Clusters at most: the second octet of their pods is 100 + their number, that of their services 150 + it.
pub(crate) const MAX_CLUSTERS: u8 = 50;
/// Nodes of a cluster at most: the last octet of their addresses is 10 + their number.
pub(crate) const MAX_NODES: u8 = 200;
/// Gateways of a cluster at most that have a public address each: it ends in the cluster's number and 50 for each gateway before.
pub(crate) const MAX_PUBLIC: u8 = 4;
/// Pods of a node at most: the last octet of their addresses is 10 + their number.
pub(crate) const MAX_PODS: u8 = 26;

/// What a lab is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Its name, unique among the user's labs.
    pub name: String,
    /// How many clusters (at most 50).
    pub clusters: u8,
    /// Nodes of each cluster (at most 200).
    pub nodes: u8,
    /// How many of them, the first ones, carry the gateway's label and run a gateway.
    pub gateways: u8,
    /// Pods of each node (at most 26).
    pub pods: u8,
    /// The clusters' CNIs, in the clusters' order; the last one stands for all further clusters.
    pub cnis: Vec<Cni>,
    /// The IP families of all networks.
    pub families: Families,
    /// How gateways reach those of other clusters.
    pub cable: Cable,
    /// Whose WireGuard the clusters' gateways take, in the clusters' order; the last one stands for all further clusters.
    #[serde(default = "auto")]
    pub wireguard: Vec<Wireguard>,
    /// What stands between a cluster and the others.
    pub nat: Nat,
    /// The reverse-path filter with which the nodes boot.
    pub rp_filter: RpFilter,
    /// Whether the route agents and gateways are started.
    pub agents: bool,
    /// The program of the route agents and gateways; without, this one.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// Whether nodes have wall clocks of their own, which can be stepped; needs libfaketime.
    #[serde(default)]
    pub clocks: bool,
    /// Variables for the route agents and gateways, beside those that they need; they win.
    pub environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "lab".to_owned(),
            clusters: 2,
            nodes: 3,
            gateways: 1,
            pods: 1,
            cnis: vec![Cni::Bridge, Cni::Calico],
            families: Families::V4,
            cable: Cable::Vxlan,
            wireguard: auto(),
            nat: Nat::None,
            rp_filter: RpFilter::Strict,
            agents: true,
            program: None,
            clocks: false,
            environment: Vec::new(),
        }
    }
}

fn auto() -> Vec<Wireguard> {
    vec![Wireguard::Auto]
}

impl Options {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// A sentence that names what is wrong and what was expected.
    pub fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        let within = |what: &str, number: u8, most: u8| {
            ensure!(
                (1..=most).contains(&number),
                "{number} {what}: expected 1 to {most}"
            );
            Ok(())
        };
        within("clusters", self.clusters, MAX_CLUSTERS)?;
        within("nodes a cluster", self.nodes, MAX_NODES)?;
        within("pods a node", self.pods, MAX_PODS)?;
        ensure!(
            (1..=self.nodes).contains(&self.gateways),
            "{} gateways a cluster: expected 1 to {}, as many as there are nodes",
            self.gateways,
            self.nodes
        );
        ensure!(
            self.nat != Nat::FullCone || self.gateways <= MAX_PUBLIC,
            "{} gateways a cluster behind a full-cone NAT, where each has an address of its own: expected at most {MAX_PUBLIC}",
            self.gateways
        );
        ensure!(
            self.cnis.len() <= usize::from(self.clusters),
            "{} CNIs for {} clusters: expected at most one a cluster",
            self.cnis.len(),
            self.clusters
        );
        ensure!(
            self.wireguard.len() <= usize::from(self.clusters),
            "{} choices of WireGuard for {} clusters: expected at most one a cluster",
            self.wireguard.len(),
            self.clusters
        );
        ensure!(
            self.cable == Cable::Wireguard || self.wireguard == auto(),
            "a choice of WireGuard for a cable that is {}: expected wireguard",
            self.cable
        );
        Ok(())
    }

    /// The CNI of cluster `number`, counted from 0.
    #[must_use]
    pub fn cni(&self, number: usize) -> Cni {
        self.cnis
            .get(number)
            .or(self.cnis.last())
            .copied()
            .unwrap_or(Cni::Bridge)
    }

    /// Whose WireGuard the gateways of cluster `number` take, counted from 0.
    #[must_use]
    pub fn wireguard(&self, number: usize) -> Wireguard {
        let all = &self.wireguard;
        let whose = all.get(number).or(all.last());
        whose.copied().unwrap_or(Wireguard::Auto)
    }
}

/// A lab's name becomes the name of a directory.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        (1..=30).contains(&name.len()) && name.chars().all(good) && !name.starts_with('-'),
        "'{name}' is no name for a lab: expected 1 to 30 of a-z, 0-9 and -, not beginning with -"
    );
    Ok(())
}

/// How a cluster connects its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Cni {
    /// A bridge on each node with the first address of the node's pods, and a route to each other node (flannel's host-gw, kindnet).
    Bridge,
    /// A tunnel device with a /32 of the node's pods, a route to each pod, and a route through the tunnel to each other node (Calico).
    Calico,
    /// A route to each pod and by its address to each other node; no address of the pods' on the node (Calico without tunnel, clouds).
    Routed,
    /// A plugin of the CNI project itself, as installed on this machine, with its `host-local`, and a route to each other node.
    Plugin {
        /// Which one.
        plugin: Plugin,
        /// Its `ipMasq`: by rules of its own, pods leave their node's pod network with the node's address.
        masquerade: bool,
    },
}

/// A plugin of the CNI project that connects pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// A bridge on each node, with the first address of the node's pods.
    Bridge,
    /// A cable to each pod, whose host's end has the first address of the node's pods, as a /32 or /128.
    Ptp,
}

impl Plugin {
    /// The name of its binary.
    #[must_use]
    pub fn binary(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
        }
    }
}

impl Cni {
    const fn plugin(plugin: Plugin, masquerade: bool) -> Self {
        Self::Plugin { plugin, masquerade }
    }

    /// Their names.
    const NAMES: [(&'static str, Self); 7] = [
        ("bridge", Self::Bridge),
        ("calico", Self::Calico),
        ("routed", Self::Routed),
        ("cni-bridge", Self::plugin(Plugin::Bridge, false)),
        ("cni-bridge-masq", Self::plugin(Plugin::Bridge, true)),
        ("cni-ptp", Self::plugin(Plugin::Ptp, false)),
        ("cni-ptp-masq", Self::plugin(Plugin::Ptp, true)),
    ];
}

impl FromStr for Cni {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(name, _)| *name == text);
        known.map(|(_, cni)| *cni).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
            format!("no CNI '{text}': expected one of {}", names.join(", "))
        })
    }
}

impl TryFrom<String> for Cni {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cni> for String {
    fn from(cni: Cni) -> Self {
        cni.to_string()
    }
}

impl fmt::Display for Cni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge => f.write_str("bridge"),
            Self::Calico => f.write_str("calico"),
            Self::Routed => f.write_str("routed"),
            Self::Plugin { plugin, masquerade } => {
                let suffix = if *masquerade { "-masq" } else { "" };
                write!(f, "cni-{}{suffix}", plugin.binary())
            }
        }
    }
}

/// IP families of a lab's networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// One or both.
    #[must_use]
    pub fn all(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Dual => &Family::ALL,
        }
    }

    /// The one that API servers use.
    #[must_use]
    pub fn first(self) -> Family {
        match self {
            Self::V4 | Self::Dual => Family::V4,
            Self::V6 => Family::V6,
        }
    }
}

impl FromStr for Families {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "v4" => Ok(Self::V4),
            "v6" => Ok(Self::V6),
            "dual" => Ok(Self::Dual),
            other => Err(format!("no family '{other}': expected v4, v6 or dual")),
        }
    }
}

/// The kernel's reverse-path filter, `net.ipv4.conf.*.rp_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RpFilter {
    /// 0: none.
    Off,
    /// 1: RFC 3704 strict, what most distributions boot with.
    Strict,
    /// 2: RFC 3704 loose.
    Loose,
}

impl RpFilter {
    /// The sysctl's value.
    #[must_use]
    pub fn value(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Strict => 1,
            Self::Loose => 2,
        }
    }
}

impl FromStr for RpFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "strict" => Ok(Self::Strict),
            "loose" => Ok(Self::Loose),
            other => Err(format!(
                "no reverse-path filter '{other}': expected strict, loose or off"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused_with_what_was_expected() {
        let error = |options: Options| options.check().unwrap_err().to_string();
        assert!(Options::default().check().is_ok());
        let many = Options {
            clusters: 51,
            ..Options::default()
        };
        assert_eq!(error(many), "51 clusters: expected 1 to 50");
        let none = Options {
            nodes: 0,
            ..Options::default()
        };
        assert_eq!(error(none), "0 nodes a cluster: expected 1 to 200");
        let cnis = Options {
            clusters: 1,
            ..Options::default()
        };
        assert!(error(cnis).contains("2 CNIs for 1 clusters"));
        let whose = |cable, wireguard| Options {
            cable,
            wireguard,
            ..Options::default()
        };
        let all = vec![Wireguard::Kernel, Wireguard::Process, Wireguard::Auto];
        let many = error(whose(Cable::Wireguard, all.clone()));
        assert!(
            many.contains("3 choices of WireGuard for 2 clusters"),
            "{many}"
        );
        let both = whose(Cable::Wireguard, all[..2].to_vec());
        assert!(both.check().is_ok());
        assert_eq!(
            [0, 1, 2].map(|number| both.wireguard(number)),
            [Wireguard::Kernel, Wireguard::Process, Wireguard::Process]
        );
        let none = error(whose(Cable::Vxlan, all[..1].to_vec()));
        assert!(none.contains("a cable that is vxlan"), "{none}");
        let gateways = Options {
            gateways: 4,
            ..Options::default()
        };
        assert!(error(gateways).contains("4 gateways a cluster: expected 1 to 3"));
        let public = Options {
            nodes: 5,
            gateways: 5,
            nat: Nat::FullCone,
            ..Options::default()
        };
        assert!(error(public).contains("full-cone NAT"));
        for name in ["", "..", "a/b", "-x", "Lab"] {
            let bad = Options {
                name: name.to_owned(),
                ..Options::default()
            };
            assert!(error(bad).contains("is no name"), "{name}");
        }
    }

    #[test]
    fn a_cni_has_one_name_wherever_it_is_written() {
        for (name, cni) in Cni::NAMES {
            assert_eq!(cni.to_string(), name);
            assert_eq!(serde_json::to_value(cni).unwrap(), name);
            assert_eq!(name.parse(), Ok(cni));
        }
        let error = "ptp".parse::<Cni>().unwrap_err();
        assert!(
            error.contains("'ptp'") && error.contains("cni-ptp-masq"),
            "{error}"
        );
    }

    #[test]
    fn the_last_cni_stands_for_all_further_clusters() {
        let options = Options {
            clusters: 4,
            ..Options::default()
        };
        let cnis: Vec<_> = (0..4).map(|n| options.cni(n)).collect();
        assert_eq!(cnis, [Cni::Bridge, Cni::Calico, Cni::Calico, Cni::Calico]);
    }
}
