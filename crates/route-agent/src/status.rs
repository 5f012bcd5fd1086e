//! Keeps this node's RouteAgent object equal to what the plan says.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use strait_api::Object;
use strait_daemon::Metrics;
use strait_daemon::objects::{Annotations, put};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The least time between two writes: with many remote clusters the object is large, and changes that come together are one write.
const GAP: Duration = Duration::from_millis(500);
/// When it is looked at again though nothing changed: somebody may have removed it.
const VERIFY: Duration = Duration::from_secs(60);

/// Writes the newest object that was sent, until it is written.
pub(crate) fn start(client: Client, metrics: Metrics) -> watch::Sender<Option<Object>> {
    let (sender, mut receiver) = watch::channel::<Option<Object>>(None);
    tokio::spawn(async move {
        let mut since = BTreeMap::new();
        let mut pause = Duration::ZERO;
        let mut told = false;
        loop {
            let wanted = receiver.borrow_and_update().clone();
            if let Some(mut object) = wanted {
                stamp(&mut object, &mut since);
                match put(&client, &object, Annotations::KeepForeign).await {
                    Ok(_) => {
                        pause = Duration::ZERO;
                        told = false;
                    }
                    Err(error) => {
                        if !told {
                            tracing::warn!(%error, object = %object.key, "can't be written; it is tried again");
                            told = true;
                        }
                        metrics.error("StatusWrite");
                        pause = (pause * 2).clamp(Duration::from_millis(200), LONGEST_PAUSE);
                    }
                }
            }
            if pause.is_zero() {
                sleep(GAP).await;
                match timeout_at(Instant::now() + VERIFY, receiver.changed()).await {
                    Ok(Ok(())) | Err(_) => {}
                    Ok(Err(_)) => return,
                }
            } else {
                sleep(pause).await;
            }
        }
    });
    sender
}

/// Fills in since when each condition holds; one whose message changes keeps its time.
fn stamp(object: &mut Object, since: &mut BTreeMap<String, String>) {
    let Some(Value::Array(conditions)) = object
        .content
        .get_mut("status")
        .and_then(|s| s.get_mut("conditions"))
    else {
        since.clear();
        return;
    };
    let now = Timestamp::now()
        .round(k8s_openapi::jiff::Unit::Second)
        .unwrap_or_default()
        .to_string();
    let mut holding = BTreeMap::new();
    for condition in conditions {
        let kind = condition
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let time = since.get(&kind).cloned().unwrap_or_else(|| now.clone());
        if let Some(fields) = condition.as_object_mut() {
            fields.insert("lastTransitionTime".to_owned(), Value::String(time.clone()));
        }
        holding.insert(kind, time);
    }
    *since = holding;
}
