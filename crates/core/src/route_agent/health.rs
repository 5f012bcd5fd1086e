//! Health checks of other clusters' gateways, as the RouteAgent object tells of them.

use std::collections::BTreeSet;

use strait_api::gateway::ConnectionStatus;
use strait_api::route_agent::RemoteEndpoint;
use strait_host::Family;

use super::State;
use super::view::{FamilyView, Role};
use crate::health::{self, Target};
use crate::net::ip_of;
use crate::remote::Remote;

// Upstream's words (`routeagent_driver/handlers/healthchecker`): tools look for them.
const NOT_ENABLED: &str = "Health check is not enabled";
const ON_GATEWAY: &str = "Health check is not performed on gateway nodes";
const NOT_CONFIGURED: &str = "Health checker IP is not configured";
// Ours: upstream does not start without a CNI address.
const NO_SOURCE: &str = "Neither this node nor the gateway has a CNI address, so that no host can be answered; pods are not affected";

impl State {
    /// Whom this node pings: every other cluster's gateway, unless this node is a gateway, which pings for itself.
    pub(super) fn health_targets(
        &self,
        remotes: &[Remote<'_>],
        families: &[FamilyView<'_>],
    ) -> BTreeSet<Target> {
        if !self.settings.health_check || self.role() == Role::Gateway {
            return BTreeSet::new();
        }
        let mut targets = health::targets(remotes, &self.settings.cluster_cidrs);
        let answerable = self.answerable(families);
        targets.retain(|target| answerable.contains(&target.family));
        targets
    }

    /// In which families other clusters can answer this host. What it sends gets its own CNI address, or the gateway's, which that
    /// publishes for health checks; where there is neither, pings would tell of that and of nothing else.
    fn answerable(&self, families: &[FamilyView<'_>]) -> BTreeSet<Family> {
        let lent = |family| match &self.gateway {
            Some(gateway) => ip_of(&gateway.health_check_ips, family).is_some(),
            None => true,
        };
        let can = |view: &&FamilyView<'_>| view.cni.is_some() || lent(view.family);
        families
            .iter()
            .filter(can)
            .map(|view| view.family)
            .collect()
    }

    /// What the RouteAgent object says of each remote Endpoint, one entry per family, in the order of their clusters' identifiers.
    pub(super) fn remote_endpoints(
        &self,
        remotes: &[Remote<'_>],
        families: &[FamilyView<'_>],
    ) -> Vec<RemoteEndpoint> {
        let answerable = self.answerable(families);
        let mut remotes: Vec<&Remote<'_>> = remotes.iter().collect();
        remotes.sort_by_key(|remote| &remote.endpoint.cluster);
        let entries = |remote| self.entries(remote, &answerable);
        remotes.into_iter().flat_map(entries).collect()
    }

    fn entries(&self, remote: &Remote<'_>, answerable: &BTreeSet<Family>) -> Vec<RemoteEndpoint> {
        let entry = |status, message: &str| RemoteEndpoint {
            status,
            status_message: message.to_owned(),
            spec: remote.endpoint.spec.clone(),
            latency_rtt: None,
        };
        let families = health::families(remote, &self.settings.cluster_cidrs);
        let none = |message| vec![entry(ConnectionStatus::None, message); families.len().max(1)];
        if !self.settings.health_check {
            return none(NOT_ENABLED);
        }
        if self.role() == Role::Gateway {
            return none(ON_GATEWAY);
        }
        if families.is_empty() {
            return none(NOT_CONFIGURED);
        }
        let entries = families
            .into_iter()
            .map(|family| match health::target(remote, family) {
                None => entry(ConnectionStatus::None, NOT_CONFIGURED),
                Some(Err(why)) => entry(ConnectionStatus::Error, &why),
                Some(Ok(_)) if !answerable.contains(&family) => {
                    entry(ConnectionStatus::None, NO_SOURCE)
                }
                Some(Ok(target)) => match self.health.get(&target) {
                    None => entry(ConnectionStatus::Connecting, ""),
                    Some(report) => RemoteEndpoint {
                        latency_rtt: report
                            .rtt
                            .filter(|_| report.status == ConnectionStatus::Connected)
                            .map(|rtt| rtt.text()),
                        ..entry(report.status, &report.message)
                    },
                },
            });
        entries.collect()
    }
}
