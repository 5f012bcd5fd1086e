//! The metrics that every process has, in one registry to which a process adds its own.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// One label `condition`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCondition {
    condition: String,
}

/// One label `object`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByObject {
    object: String,
}

/// One label `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: String,
}

/// Upper bounds in seconds: a pass over the kernel takes a millisecond, a verifying one some 200.
const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// What a process counts. Clones share one state.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Names without our prefix.
    others: Arc<Mutex<Registry>>,
    conditions: Family<ByCondition, Gauge>,
    condition_counts: Family<ByCondition, Gauge>,
    passes: Counter,
    changes: Family<ByObject, Counter>,
    repairs: Family<ByObject, Counter>,
    errors: Family<ByKind, Counter>,
    latency: Histogram,
    verify: Histogram,
}

impl Metrics {
    /// The families that every process has: `strait_build_info{process,version}`, `strait_condition{condition}`,
    /// `strait_condition_objects{condition}`,
    /// `strait_passes_total`, `strait_changes_total{object}`, `strait_drift_repairs_total{object}`,
    /// `strait_errors_total{kind}`, `strait_event_to_kernel_seconds` and `strait_verify_seconds`.
    #[must_use]
    pub fn new(process: &'static str) -> Self {
        let mut registry = Registry::with_prefix("strait");
        registry.register(
            "build",
            "What runs",
            Info::new(vec![
                ("process", process),
                ("version", env!("CARGO_PKG_VERSION")),
            ]),
        );
        let conditions = Family::default();
        registry.register(
            "condition",
            "1 while the condition holds",
            conditions.clone(),
        );
        let condition_counts = Family::default();
        registry.register(
            "condition_objects",
            "Of how many things the condition tells, while it holds",
            condition_counts.clone(),
        );
        let passes = Counter::default();
        registry.register("passes", "Passes over the plan", passes.clone());
        let changes = Family::default();
        registry.register(
            "changes",
            "Objects created, changed or removed",
            changes.clone(),
        );
        let repairs = Family::default();
        registry.register(
            "drift_repairs",
            "Changes because somebody else had taken away or altered what is ours",
            repairs.clone(),
        );
        let errors = Family::default();
        registry.register("errors", "Errors by kind", errors.clone());
        let latency = Histogram::new(SECONDS);
        registry.register_with_unit(
            "event_to_kernel",
            "From the arrival of an event until the kernel holds what follows from it",
            Unit::Seconds,
            latency.clone(),
        );
        let verify = Histogram::new(SECONDS);
        registry.register_with_unit(
            "verify",
            "How long a pass takes that reads the kernel first and finds nothing to change",
            Unit::Seconds,
            verify.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            others: Arc::default(),
            conditions,
            condition_counts,
            passes,
            changes,
            repairs,
            errors,
            latency,
            verify,
        }
    }

    /// Registers a process's own metrics; the names given to it get no prefix.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes metrics at each scrape that have names of others: `strait_` does not come before them.
    pub fn collect(&self, collector: Box<dyn Collector>) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.register_collector(collector);
    }

    /// A pass was made.
    pub fn pass(&self) {
        self.passes.inc();
    }

    /// `count` objects of a kind (`route`, `link`, …) were created, changed or removed.
    pub fn changed(&self, object: &str, count: u64) {
        self.changes
            .get_or_create(&ByObject {
                object: object.to_owned(),
            })
            .inc_by(count);
    }

    /// `count` of those changes made good what somebody else had done.
    pub fn repaired(&self, object: &str, count: u64) {
        self.repairs
            .get_or_create(&ByObject {
                object: object.to_owned(),
            })
            .inc_by(count);
    }

    /// Something failed; `kind` is the name of the error's variant, never its text.
    pub fn error(&self, kind: &str) {
        self.errors
            .get_or_create(&ByKind {
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// The kernel holds what follows from an event that arrived `elapsed` ago.
    pub fn event_to_kernel(&self, elapsed: Duration) {
        self.latency.observe(elapsed.as_secs_f64());
    }

    /// A pass read the kernel, found nothing to change, and took `elapsed`.
    pub fn verified(&self, elapsed: Duration) {
        self.verify.observe(elapsed.as_secs_f64());
    }

    /// All of it in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        for registry in [&self.registry, &self.others] {
            let registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = encode_registry(&mut text, &registry);
        }
        let _ = encode_eof(&mut text);
        text
    }

    /// A condition holds of so many things; of none, it does not hold.
    pub(crate) fn condition(&self, condition: &str, count: usize) {
        let label = ByCondition {
            condition: condition.to_owned(),
        };
        self.conditions
            .get_or_create(&label)
            .set(i64::from(count > 0));
        self.condition_counts
            .get_or_create(&label)
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
