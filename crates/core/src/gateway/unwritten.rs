//! Objects that an API server does not take.

use std::collections::BTreeMap;

use strait_api::ObjectKey;

use super::State;
use crate::Condition;

/// So many objects are named in a message; as a rule all fail for one reason.
const MOST_NAMED: usize = 4;

impl State {
    /// What can't be written. While a server is away that is said of it anyhow, and this would be no news.
    pub(super) fn unwritten_conditions(&self) -> impl Iterator<Item = Condition> {
        let broker = [
            self.broker_clusters.failure(),
            self.broker_endpoints.failure(),
        ];
        let broker = broker.iter().all(Option::is_none).then(|| {
            let message = |objects: String| {
                format!(
                    "the broker does not take what this gateway writes, so other clusters do not know of it: {objects}. It is tried again: see what the role of \
                     this cluster's account there, and admission webhooks, allow"
                )
            };
            said(&self.unwritten_on_broker).map(|o| ("BrokerWriteRefused", message(o)))
        });
        let cluster = [self.clusters.failure(), self.endpoints.failure()];
        let cluster = cluster.iter().all(Option::is_none).then(|| {
            let message = |objects: String| {
                format!("this cluster's API server does not take what this gateway writes: {objects}. It is tried again: see what its role allows")
            };
            said(&self.unwritten).map(|o| ("WriteRefused", message(o)))
        });
        let all = [broker, cluster].into_iter().flatten().flatten();
        all.map(|(name, message)| Condition::degraded(name, message))
    }
}

fn said(failures: &BTreeMap<ObjectKey, String>) -> Option<String> {
    let some = failures.iter().take(MOST_NAMED);
    let mut some: Vec<String> = some.map(|(key, why)| format!("{key}: {why}")).collect();
    let rest = failures.len().saturating_sub(MOST_NAMED);
    some.extend((rest > 0).then(|| format!("and {rest} more")));
    (!some.is_empty()).then(|| some.join("; "))
}
