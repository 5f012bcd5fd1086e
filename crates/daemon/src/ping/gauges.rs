//! Results of health checks as metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;
use strait_api::gateway::ConnectionStatus;
use strait_core::health::{Results, Target};

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

/// `strait_health_connected{cluster,family}` and `strait_health_rtt_seconds{cluster,family}`.
pub(super) struct Gauges {
    connected: Family<ByRemote, Gauge>,
    rtt: Family<ByRemote, Gauge<f64, AtomicU64>>,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let gauges = Self {
            connected: Family::default(),
            rtt: Family::default(),
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
        });
        gauges
    }

    /// Sets the gauges of all targets, and removes those of targets that are gone.
    pub(super) fn set(&self, old: &Results, new: &Results) {
        for gone in old
            .keys()
            .filter(|t| !new.contains_key(*t))
            .map(ByRemote::of)
        {
            self.connected.remove(&gone);
            self.rtt.remove(&gone);
        }
        for (target, report) in new {
            let remote = ByRemote::of(target);
            let connected = report.status == ConnectionStatus::Connected;
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
