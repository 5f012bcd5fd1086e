//! Health checks: whom to ping, which ping to send when, and what comes of them.
//!
//! [`targets`] says whom; a [`Checker`] says when, and makes [`Report`]s of the replies. Whoever has the sockets
//! feeds it: it does no I/O and reads no clock.

mod check;
mod checker;
mod rtt;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

pub use checker::Checker;
use ipnet::IpNet;
pub use rtt::Rtt;
use serde::Serialize;
use strait_api::ClusterId;
use strait_api::gateway::ConnectionStatus;
use strait_host::Family;

use crate::net::{ip_of, of_family};
use crate::remote::Remote;
use crate::{Condition, Time};

/// An address that is pinged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    /// Name of the Endpoint that publishes it.
    pub endpoint: String,
    /// The family; the addresses are of it.
    pub family: Family,
    /// The Endpoint's cluster.
    pub cluster: ClusterId,
    /// The address.
    pub address: IpAddr,
    /// The address of this host to ping from; `None` leaves it to the route.
    pub source: Option<IpAddr>,
    /// Which way is tried.
    pub way: Way,
}

/// Which way a ping and its answer take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To another cluster, as traffic goes.
    Cluster,
    /// To this cluster's gateway over the nodes' VXLAN, and back over it.
    Tunnel,
    /// To this cluster's gateway over the nodes' VXLAN, and back by the CNI: as this node's traffic with other clusters.
    Round,
    /// To this cluster's gateway by the CNI, and back by it.
    Cni,
}

/// What is known of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `connecting` until the first reply; never `none`.
    pub status: ConnectionStatus,
    /// Why it is in this state, or empty.
    pub message: String,
    /// Round-trip times of the last 1000 replies, of 100 where pings are far apart; `None` before the first one.
    pub rtt: Option<Rtt>,
    /// Pings sent, also those that could not be.
    pub sent: u64,
    /// Pings that were answered.
    pub received: u64,
    /// When the newest ping that was answered was sent.
    pub answered: Option<Time>,
    /// When the oldest of those that were sent since the last reply was; `None` right after a reply.
    pub silent: Option<Time>,
}

/// What is known of all targets.
pub type Results = BTreeMap<Target, Report>;

/// One condition for each of these targets in other clusters that is in error.
pub(crate) fn conditions<'a>(
    targets: &'a BTreeSet<Target>,
    results: &'a Results,
) -> impl Iterator<Item = Condition> + 'a {
    let reports = targets
        .iter()
        .filter(|target| target.way == Way::Cluster)
        .filter_map(|t| Some((t, results.get(t)?)));
    reports
        .filter(|(_, report)| report.status == ConnectionStatus::Error)
        .map(|(target, report)| {
            let message = format!(
                "the {} way to cluster {} does not work: {}",
                target.family, target.cluster, report.message
            );
            Condition::degraded("RemoteUnreachable", message)
        })
}

/// How targets are pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Those in other clusters.
    pub clusters: Pace,
    /// This cluster's gateway.
    pub gateway: Pace,
}

impl Settings {
    /// How a way is tried.
    #[must_use]
    pub fn pace(&self, way: Way) -> &Pace {
        match way {
            Way::Cluster => &self.clusters,
            Way::Tunnel | Way::Round | Way::Cni => &self.gateway,
        }
    }
}

/// How often one target is pinged, and what its losses mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Time between two pings while they are answered.
    pub interval: Duration,
    /// Time between two pings while they are not, if it is not the interval. Without, it is shorter until the first
    /// reply: 1 s at first, doubled each time.
    pub retry: Option<Duration>,
    /// A target is in error when more than so many pings in a row are lost.
    pub max_losses: u32,
}

/// A ping to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Where to.
    pub to: IpAddr,
    /// Where from, if that is not left to the route.
    pub from: Option<IpAddr>,
    /// Which one it is; the reply must carry it.
    pub token: u64,
}

impl Ping {
    /// The sequence number of the ICMP header: counts the pings of a target and wraps.
    #[must_use]
    pub fn sequence(&self) -> u16 {
        (self.token & 0xffff) as u16
    }
}

/// The families in which a remote cluster is reached from a cluster with these pod CIDRs.
#[must_use]
pub fn families(remote: &Remote<'_>, cluster_cidrs: &[IpNet]) -> Vec<Family> {
    Family::ALL
        .into_iter()
        .filter(|f| of_family(cluster_cidrs, *f).next().is_some())
        .filter(|f| of_family(&remote.subnets, *f).next().is_some())
        .collect()
}

/// Whom to ping to know that a remote cluster is reached in a family; `None` if it publishes no address for that.
///
/// Only an address in the Endpoint's own subnets is pinged: another one says nothing of the way to them, and who
/// writes an Endpoint shall not choose whom our nodes send packets to.
///
/// # Errors
/// A sentence that names the address, if it is not in the Endpoint's subnets that are reached.
#[must_use]
pub fn target(remote: &Remote<'_>, family: Family) -> Option<Result<Target, String>> {
    let endpoint = remote.endpoint;
    let address = ip_of(&endpoint.health_check_ips, family)?;
    if !remote.subnets.iter().any(|net| net.contains(&address)) {
        return Some(Err(format!(
            "The health check IP \"{address}\" is in none of the Endpoint's subnets that are reached: it is not pinged"
        )));
    }
    Some(Ok(Target {
        endpoint: endpoint.name.clone(),
        family,
        cluster: endpoint.cluster.clone(),
        address,
        source: None,
        way: Way::Cluster,
    }))
}

/// Whom to ping to know which of the remote clusters are reached.
#[must_use]
pub fn targets(remotes: &[Remote<'_>], cluster_cidrs: &[IpNet]) -> BTreeSet<Target> {
    let of_remote = |remote| {
        families(remote, cluster_cidrs)
            .into_iter()
            .filter_map(|family| target(remote, family)?.ok())
    };
    remotes.iter().flat_map(of_remote).collect()
}
