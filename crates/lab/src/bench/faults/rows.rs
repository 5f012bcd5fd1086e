//! The rows of the fault matrix: what is broken, how long that is watched, and what was wanted before anything was measured.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::client::Lab;
use crate::faults::{Sides, Trouble};
use crate::options::Cable;
use crate::process::Role;

/// How long a cut that only its end can mend lasts.
const CUT: Duration = Duration::from_secs(2);
/// Longer than a Lease holds (15 s): who needs the API server has noticed by then.
const PAST_LEASE: Duration = Duration::from_secs(18);
/// Hosts of the cluster that is broken.
pub(super) const CLUSTER: &str = "east";

/// What happens, in cluster east.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// Nothing: what the machine itself does to a flow
    Nothing,
    /// SIGKILL for the active gateway, its parent included
    Killed,
    /// SIGKILL for the child that serves WireGuard; its parent starts another
    Crashed,
    /// SIGTERM for the active gateway
    Terminated,
    /// SIGSTOP for the active gateway
    Stopped,
    /// The active gateway's node has no power
    Power,
    /// What leaves the cluster is lost, for 2 s
    Wan,
    /// Nothing passes between the active gateway's node and the others of its cluster
    Underlay,
    /// The cluster's API server is gone
    Api,
    /// The broker is gone
    Broker,
    /// Both are gone
    ApiAndBroker,
    /// 20 % of all packets to and from the cluster are lost, the others late by 80 ms
    Lossy,
}

/// What a flow may lose.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Limit {
    /// No datagram.
    NoneLost,
    /// Time without an answer, ms.
    GapMs(f64),
}

impl Limit {
    pub(super) fn text(self) -> String {
        match self {
            Self::NoneLost => "none lost".to_owned(),
            Self::GapMs(gap) => format!("<= {gap} ms"),
        }
    }
}

impl Fault {
    /// All, in the table's order.
    pub(super) const ALL: [Self; 12] = [
        Self::Nothing,
        Self::Killed,
        Self::Crashed,
        Self::Terminated,
        Self::Stopped,
        Self::Power,
        Self::Underlay,
        Self::Wan,
        Self::Api,
        Self::Broker,
        Self::ApiAndBroker,
        Self::Lossy,
    ];

    /// As the table calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Killed => "gateway, and its parent, killed (SIGKILL)",
            Self::Crashed => "the gateway's child killed (SIGKILL)",
            Self::Terminated => "gateway asked to end (SIGTERM)",
            Self::Stopped => "gateway stands still (SIGSTOP)",
            Self::Power => "the gateway's node without power",
            Self::Underlay => "the gateway's node cut off from the cluster's other nodes",
            Self::Wan => "WAN cut one way, for 2 s",
            Self::Api => "API server gone",
            Self::Broker => "broker gone",
            Self::ApiAndBroker => "API server and broker gone",
            Self::Lossy => "20 % lost and 80 ms late, each way",
        }
    }

    /// What may be lost with a cable, set before it was measured, and why just that; none where the fault makes no sense with it.
    pub(super) fn limit(self, cable: Cable) -> Option<(Limit, &'static str)> {
        use Limit::{GapMs, NoneLost};
        let kernel = cable == Cable::Vxlan;
        Some(match self {
            Self::Nothing => (NoneLost, "nothing happens"),
            Self::Killed if kernel => (
                NoneLost,
                "the kernel forwards on; a standby takes over beside it",
            ),
            Self::Stopped if kernel => (NoneLost, "as killed"),
            Self::Killed => (GapMs(500.0), "300 ms of silence, then the standby's turn"),
            Self::Stopped => (GapMs(500.0), "as killed"),
            Self::Crashed if kernel => return None,
            Self::Crashed => (
                GapMs(100.0),
                "device, sockets and sessions outlive the child",
            ),
            Self::Terminated => (
                GapMs(100.0),
                "who ends goes on until the successor has begun",
            ),
            Self::Power => (
                GapMs(1000.0),
                "300 ms of silence, votes or the Lease, and what nodes need to follow",
            ),
            Self::Underlay => (GapMs(1000.0), "as without power, seen from the nodes"),
            Self::Wan => (GapMs(2250.0), "no other way: the cut, and 250 ms"),
            Self::Api => (NoneLost, "nothing that stands needs it"),
            Self::Broker => (NoneLost, "as the API server"),
            Self::ApiAndBroker => (NoneLost, "as the API server"),
            Self::Lossy => (
                GapMs(300.0),
                "160 ms when it begins, and runs of lost datagrams; nobody takes over",
            ),
        })
    }

    /// How long it is watched.
    pub(super) fn time(self) -> Duration {
        match self {
            Self::Api | Self::Broker | Self::ApiAndBroker => PAST_LEASE,
            Self::Lossy => Duration::from_secs(8),
            Self::Nothing
            | Self::Killed
            | Self::Crashed
            | Self::Terminated
            | Self::Stopped
            | Self::Power
            | Self::Underlay
            | Self::Wan => Duration::from_secs(4),
        }
    }

    /// Lets it happen, to `active` where it is a gateway's.
    pub(super) fn happen(self, lab: &Lab, active: &str) -> Result<()> {
        match self {
            Self::Nothing => (),
            Self::Killed => drop(lab.kill(active, Role::Gateway)?),
            Self::Crashed => drop(lab.crash(active, Role::Gateway)?),
            Self::Terminated => terminate(lab, active)?,
            Self::Stopped => drop(lab.stop(active, Some(Role::Gateway))?),
            Self::Power => drop(lab.power_off(active)?),
            Self::Underlay => cut_off(lab, active)?,
            Self::Wan => {
                lab.cut(CLUSTER, Sides::Out)?;
                std::thread::sleep(CUT);
                lab.heal(CLUSTER, None)?;
            }
            Self::Api => drop(lab.kill_what(&lab.topology().cluster(CLUSTER)?.control(), None)?),
            Self::Broker => drop(lab.kill_what("broker", None)?),
            Self::ApiAndBroker => {
                Self::Api.happen(lab, active)?;
                Self::Broker.happen(lab, active)?;
            }
            Self::Lossy => {
                let sides = Sides::Both;
                let slow = Trouble::Slow {
                    sides,
                    delay_ms: 80.0,
                    jitter_ms: 0.0,
                    rate_mbit: None,
                };
                let percent = 20.0;
                lab.trouble(CLUSTER, slow)?;
                lab.trouble(CLUSTER, Trouble::Lose { sides, percent })?;
            }
        }
        Ok(())
    }
}

/// As Kubernetes asks a process to end.
fn terminate(lab: &Lab, node: &str) -> Result<()> {
    let status = lab.status()?;
    let mut all = status.processes.iter();
    let gateway = all.find(|it| it.role == Role::Gateway && it.place == node);
    let pid = gateway.context("no gateway runs there")?.pid.to_string();
    lab.exec(node, &["kill", "-TERM", &pid])?;
    Ok(())
}

/// The node's own filter does what a broken switch between it and the cluster's other nodes would; the WAN and the API server stay.
fn cut_off(lab: &Lab, node: &str) -> Result<()> {
    let nodes = lab.topology().cluster(CLUSTER)?.nodes.iter();
    let others: Vec<String> = nodes
        .filter(|other| other.name != node)
        .map(|other| other.address.to_string())
        .collect();
    let others = others.join(", ");
    let script = format!(
        "table ip bench-cut {{
  chain in {{ type filter hook prerouting priority -500; ip saddr {{ {others} }} drop; }}
  chain out {{ type filter hook postrouting priority 500; ip daddr {{ {others} }} drop; }}
}}"
    );
    lab.exec(node, &["nft", &script])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_in_the_table_with_a_limit_for_a_cable() {
        use clap::ValueEnum;
        for fault in Fault::value_variants() {
            assert!(Fault::ALL.contains(fault), "{fault:?}");
            let (_, why) = fault.limit(Cable::Wireguard).expect("a limit");
            assert!(!why.is_empty());
        }
    }
}
