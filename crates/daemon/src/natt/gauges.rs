//! What NAT discovery found, and what was dropped, as metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use strait_core::discovery::{Dropped, Key, Path, Results, Verdict};

use super::label;
use crate::Metrics;

/// Label `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

/// Label `verdict`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

/// Labels `cluster`, `family`, `state` and `nat`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPath {
    cluster: String,
    family: &'static str,
    state: &'static str,
    nat: &'static str,
}

impl ByPath {
    fn of(key: &Key, path: &Path) -> Self {
        Self {
            cluster: key.cluster.to_string(),
            family: label(key.family),
            state: path.state.name(),
            nat: if path.nat { "true" } else { "false" },
        }
    }
}

/// `strait_discovery_dropped_total{reason}`, `strait_discovery_answers_total{verdict}` and
/// `strait_discovery_path{cluster,family,state,nat}`.
pub(super) struct Gauges {
    dropped: Family<ByReason, Counter>,
    answers: Family<ByVerdict, Counter>,
    paths: Family<ByPath, Gauge>,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let gauges = Self {
            dropped: Family::default(),
            answers: Family::default(),
            paths: Family::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "discovery_dropped",
                "Datagrams of NAT discovery that did nothing, by reason",
                gauges.dropped.clone(),
            );
            registry.register(
                "discovery_answers",
                "Requests of NAT discovery that were answered, by what was answered",
                gauges.answers.clone(),
            );
            registry.register(
                "discovery_path",
                "How many gateways of each other cluster, standbys too, are reached so: answered, silent (nobody answered), asking, or assumed (nobody is asked)",
                gauges.paths.clone(),
            );
        });
        gauges
    }

    pub(super) fn dropped(&self, reason: Dropped) {
        let reason = reason.name();
        self.dropped.get_or_create(&ByReason { reason }).inc();
    }

    pub(super) fn answered(&self, verdict: Verdict) {
        let verdict = verdict.name();
        self.answers.get_or_create(&ByVerdict { verdict }).inc();
    }

    pub(super) fn set(&self, old: &Results, new: &Results) {
        for (key, path) in old {
            self.paths.remove(&ByPath::of(key, path));
        }
        for (key, path) in new {
            self.paths.get_or_create(&ByPath::of(key, path)).inc();
        }
    }
}
