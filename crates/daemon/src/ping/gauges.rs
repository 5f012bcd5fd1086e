//! Results of health checks as metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;
use strait_api::gateway::ConnectionStatus;
use strait_core::health::{Results, Target, Way};

use super::label;
use crate::Metrics;

/// Labels `cluster` and `family`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRemote {
    cluster: String,
    family: &'static str,
}

impl ByRemote {
    fn of(target: &Target) -> Self {
        Self {
            cluster: target.cluster.to_string(),
            family: label(target.family),
        }
    }
}

/// Labels `path` and `family`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPath {
    path: &'static str,
    family: &'static str,
}

impl ByPath {
    /// `None` for targets in other clusters.
    fn of(target: &Target) -> Option<Self> {
        let path = match target.way {
            Way::Cluster => return None,
            Way::Tunnel => "tunnel",
            Way::Round => "round",
            Way::Cni => "cni",
        };
        Some(Self {
            path,
            family: label(target.family),
        })
    }
}

/// `strait_health_connected{cluster,family}`, `strait_health_rtt_seconds{cluster,family}` and
/// `strait_selftest_up{path,family}`.
pub(super) struct Gauges {
    connected: Family<ByRemote, Gauge>,
    rtt: Family<ByRemote, Gauge<f64, AtomicU64>>,
    up: Family<ByPath, Gauge>,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let gauges = Self {
            connected: Family::default(),
            rtt: Family::default(),
            up: Family::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "health_connected",
                "1 while the other cluster's gateway answers pings",
                gauges.connected.clone(),
            );
            registry.register_with_unit(
                "health_rtt",
                "Round-trip time of the newest ping of the other cluster's gateway",
                Unit::Seconds,
                gauges.rtt.clone(),
            );
            registry.register(
                "selftest_up",
                "1 while this cluster's gateway answers pings by this path: tunnel, round (there by the tunnel, back by the CNI) or cni",
                gauges.up.clone(),
            );
        });
        gauges
    }

    /// Sets the gauges of all targets, and removes those of targets that are gone.
    pub(super) fn set(&self, old: &Results, new: &Results) {
        for gone in old.keys().filter(|t| !new.contains_key(*t)) {
            if let Some(path) = ByPath::of(gone) {
                self.up.remove(&path);
                continue;
            }
            let gone = ByRemote::of(gone);
            self.connected.remove(&gone);
            self.rtt.remove(&gone);
        }
        for (target, report) in new {
            let connected = report.status == ConnectionStatus::Connected;
            if let Some(path) = ByPath::of(target) {
                self.up.get_or_create(&path).set(i64::from(connected));
                continue;
            }
            let remote = ByRemote::of(target);
            self.connected
                .get_or_create(&remote)
                .set(i64::from(connected));
            match report.rtt.filter(|_| connected) {
                Some(rtt) => {
                    self.rtt.get_or_create(&remote).set(rtt.last.as_secs_f64());
                }
                None => {
                    self.rtt.remove(&remote);
                }
            }
        }
    }
}
