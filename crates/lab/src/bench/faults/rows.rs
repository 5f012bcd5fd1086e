//! The rows of the fault matrix: what is broken, how long that is watched, and what was wanted before anything was measured.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::client::Lab;
use crate::faults::{Sides, Trouble};
use crate::options::Cable;
use crate::process::Role;

/// How long a cut that only its end can mend lasts.
const CUT: Duration = Duration::from_secs(2);
/// Longer than a Lease holds (15 s): who needs the API server has noticed by then.
const PAST_LEASE: Duration = Duration::from_secs(18);
/// Seconds.
const HOUR: i64 = 3600;
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
    /// The wall clock of the active gateway's node goes an hour before
    ClockAhead,
    /// It goes an hour behind
    ClockBehind,
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
    pub(super) const ALL: [Self; 14] = [
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
        Self::ClockAhead,
        Self::ClockBehind,
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
            Self::ClockAhead => "the gateway's clock stepped an hour ahead",
            Self::ClockBehind => "the gateway's clock stepped an hour back",
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
            Self::ClockAhead | Self::ClockBehind => {
                (NoneLost, "nothing that waits asks the wall clock")
            }
        })
    }

    /// How long it is watched.
    pub(super) fn time(self) -> Duration {
        match self {
            Self::Api
            | Self::Broker
            | Self::ApiAndBroker
            | Self::ClockAhead
            | Self::ClockBehind => PAST_LEASE,
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

    /// Whether nodes need clocks of their own for it.
    pub(super) fn needs_clocks(self) -> bool {
        matches!(self, Self::ClockAhead | Self::ClockBehind)
    }

    /// Lets it happen, to `active` where it is a gateway's.
    pub(super) fn happen(self, lab: &Lab, active: &str) -> Result<()> {
        match self {
            Self::Nothing => (),
            Self::Killed => drop(lab.kill(active, Role::Gateway)?),
            Self::Crashed => drop(lab.crash(active, Role::Gateway)?),
            Self::Terminated => lab.terminate(active, Role::Gateway)?,
            Self::Stopped => drop(lab.stop(active, Some(Role::Gateway))?),
            Self::Power => drop(lab.power_off(active)?),
            Self::Underlay => lab.isolate(active)?,
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
            Self::ClockAhead => drop(lab.clock(active, HOUR)?),
            Self::ClockBehind => drop(lab.clock(active, -HOUR)?),
        }
        Ok(())
    }
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
