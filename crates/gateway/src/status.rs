//! Keeps this node's Gateway object equal to what the plan says, with a heartbeat.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use strait_api::Object;
use strait_api::names::ANNOTATION_UPDATE_TIMESTAMP;
use strait_daemon::Metrics;
use strait_daemon::objects::{Annotations, put};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How often the heartbeat is written: an active gateway of Submariner deletes what is older than three of these
/// (upstream `cableengine/syncer`, `GatewayUpdateInterval`).
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The least time between two writes.
const PAUSE: Duration = Duration::from_millis(200);

/// Writes the newest object that was sent, and its heartbeat.
pub(crate) fn start(client: Client, metrics: Metrics) -> watch::Sender<Option<Object>> {
    let (sender, mut receiver) = watch::channel::<Option<Object>>(None);
    tokio::spawn(async move {
        let mut told = false;
        loop {
            let wanted = receiver.borrow_and_update().clone();
            if let Some(mut object) = wanted {
                let now = Timestamp::now().as_second().to_string();
                object
                    .annotations
                    .insert(ANNOTATION_UPDATE_TIMESTAMP.to_owned(), now);
                match put(&client, &object, Annotations::KeepForeign).await {
                    Ok(_) => told = false,
                    Err(error) => {
                        if !told {
                            tracing::warn!(%error, object = %object.key, "can't be written; it is tried again");
                            told = true;
                        }
                        metrics.error("StatusWrite");
                    }
                }
                sleep(PAUSE).await;
            }
            match timeout(HEARTBEAT, receiver.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return,
            }
        }
    });
    sender
}
