//! Keeps this node's Gateway object equal to what the plan says, with a heartbeat.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::{Client, Error};
use serde_json::Value;
use strait_api::Object;
use strait_api::names::ANNOTATION_UPDATE_TIMESTAMP;
use strait_daemon::Metrics;
use strait_daemon::objects::{Annotations, WriteError, annotate, delete, put};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::gauges::Gauges;

/// How often the heartbeat is written: an active gateway of Submariner deletes what is older than three of these
/// (upstream `cableengine/syncer`, `GatewayUpdateInterval`).
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often the whole object is written though nothing but round-trip times changed, or nothing: somebody else may have
/// changed it.
const REFRESH: Duration = Duration::from_secs(30);
/// The least time between two writes.
const PAUSE: Duration = Duration::from_millis(200);

/// How long removing it at the end may take.
const REMOVE: Duration = Duration::from_secs(1);

/// The way to who keeps it.
pub(crate) struct Status {
    pub(crate) wanted: watch::Sender<Option<Object>>,
    client: Client,
    keeper: JoinHandle<()>,
}

impl Status {
    /// Removes the object, for this gateway ends: nobody would keep it true. Where the API server does not answer soon it stays,
    /// and the gateway that carries the traffic then removes it.
    pub(crate) async fn remove(self) {
        let key = self.wanted.borrow().as_ref().map(|o| o.key.clone());
        let Some(key) = key else {
            return;
        };
        // Nothing of it is under way after this.
        drop(self.wanted);
        let removed = timeout(REMOVE, async {
            let _ = self.keeper.await;
            delete(&self.client, &key).await
        });
        match removed.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the Gateway object can't be removed"),
            Err(_) => tracing::warn!("the Gateway object can't be removed in time"),
        }
    }
}

/// Writes the newest object that was sent, and its heartbeat; tells of it in metrics.
pub(crate) fn start(client: Client, metrics: Metrics, gauges: Gauges) -> Status {
    let (wanted, mut receiver) = watch::channel::<Option<Object>>(None);
    let api = client.clone();
    let keeper = tokio::spawn(async move {
        let mut told = false;
        let mut writer = Writer {
            client: api,
            written: None,
            beat: None,
        };
        loop {
            let wanted = receiver.borrow_and_update().clone();
            if let Some(object) = wanted {
                let now = Timestamp::now().as_second();
                gauges.told(&object, now);
                match writer.write(object, now).await {
                    Ok(true) => {
                        gauges.written();
                        told = false;
                    }
                    Ok(false) => {}
                    Err(error) => {
                        if !told {
                            tracing::warn!(%error, "the Gateway object can't be written; it is tried again");
                            told = true;
                        }
                        metrics.error("StatusWrite");
                    }
                }
                sleep(PAUSE).await;
            }
            match timeout(writer.pause(), receiver.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return,
            }
        }
    });
    Status {
        wanted,
        client,
        keeper,
    }
}

struct Writer {
    client: Client,
    /// What was written last as a whole, without the heartbeat, and when.
    written: Option<(Object, Instant)>,
    /// When the heartbeat was written.
    beat: Option<Instant>,
}

impl Writer {
    /// How long the next heartbeat may wait.
    fn pause(&self) -> Duration {
        self.beat
            .map_or(HEARTBEAT, |at| HEARTBEAT.saturating_sub(at.elapsed()))
    }

    /// Writes the object if it says something else than what was written last, else its heartbeat if that is due; whether
    /// anything was written.
    async fn write(&mut self, object: Object, now: i64) -> Result<bool, WriteError> {
        let stands = self.written.as_ref().is_some_and(|(before, at)| {
            at.elapsed() < REFRESH && without_figures(before) == without_figures(&object)
        });
        let now = now.to_string();
        if stands {
            if !self.pause().is_zero() {
                return Ok(false);
            }
            match annotate(&self.client, &object.key, ANNOTATION_UPDATE_TIMESTAMP, &now).await {
                Ok(true) => {
                    self.beat = Some(Instant::now());
                    return Ok(true);
                }
                // Somebody removed it; or may only replace it (rights of a role that was made for Submariner).
                Ok(false) => {}
                Err(Error::Api(status)) if status.code == 403 => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.written = None;
        let mut whole = object.clone();
        whole
            .annotations
            .insert(ANNOTATION_UPDATE_TIMESTAMP.to_owned(), now);
        put(&self.client, &whole, Annotations::KeepForeign).await?;
        let now = Instant::now();
        self.written = Some((object, now));
        self.beat = Some(now);
        Ok(true)
    }
}

/// The object with round-trip times as if all were the same; whether there are any counts.
fn without_figures(object: &Object) -> Object {
    let mut object = object.clone();
    let connections = object
        .content
        .get_mut("status")
        .and_then(|status| status.get_mut("connections"));
    for connection in connections
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(figures) = connection.get_mut("latencyRTT") {
            *figures = Value::Null;
        }
    }
    object
}

#[cfg(test)]
mod tests;
