//! Health checks of other clusters' gateways, as the RouteAgent object tells of them.

use std::collections::BTreeSet;

use strait_api::gateway::ConnectionStatus;
use strait_api::route_agent::RemoteEndpoint;

use super::State;
use super::view::Role;
use crate::health::{self, Target};
use crate::remote::Remote;

// Upstream's words (`routeagent_driver/handlers/healthchecker`): tools look for them.
const NOT_ENABLED: &str = "Health check is not enabled";
const ON_GATEWAY: &str = "Health check is not performed on gateway nodes";
const NOT_CONFIGURED: &str = "Health checker IP is not configured";

impl State {
    /// Whom this node pings: every other cluster's gateway, unless this node is a gateway, which pings for itself.
    pub(super) fn health_targets(&self, remotes: &[Remote<'_>]) -> BTreeSet<Target> {
        if !self.settings.health_check || self.role() == Role::Gateway {
            return BTreeSet::new();
        }
        health::targets(remotes, &self.settings.cluster_cidrs)
    }

    /// What the RouteAgent object says of each remote Endpoint, one entry per family.
    pub(super) fn remote_endpoints(&self, remotes: &[Remote<'_>]) -> Vec<RemoteEndpoint> {
        remotes.iter().flat_map(|r| self.entries(r)).collect()
    }

    fn entries(&self, remote: &Remote<'_>) -> Vec<RemoteEndpoint> {
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
