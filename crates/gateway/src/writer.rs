//! Carries out changes of objects on one API server, off the main loop.

use std::time::Duration;

use kube::Client;
use strait_api::Object;
use strait_core::gateway::ObjectChange;
use strait_daemon::Metrics;
use strait_daemon::objects::{Annotations, delete, put};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What was written: as it was wanted, and as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) wanted: Object,
    pub(crate) stored: Object,
}

/// Carries out the newest list of changes that was sent, until there is none that fails. A newer list replaces an
/// older one between two changes: it is the whole difference.
pub(crate) fn start(
    server: &'static str,
    client: Client,
    metrics: Metrics,
    written: mpsc::UnboundedSender<Stored>,
) -> watch::Sender<Vec<ObjectChange>> {
    let (sender, mut receiver) = watch::channel::<Vec<ObjectChange>>(Vec::new());
    tokio::spawn(async move {
        let mut pause = Duration::ZERO;
        let mut told = false;
        loop {
            let changes = receiver.borrow_and_update().clone();
            let mut failed = false;
            for change in &changes {
                if receiver.has_changed().unwrap_or(false) {
                    break;
                }
                match make(&client, change).await {
                    Ok(Made { stored, changed }) => {
                        if changed {
                            tracing::info!(server, object = %change.key(), change = verb(change), "written");
                            metrics.changed("object", 1);
                        }
                        if let Some(stored) = stored {
                            let _ = written.send(stored);
                        }
                    }
                    Err(error) => {
                        if !told {
                            tracing::warn!(server, object = %change.key(), %error, "can't be written; it is tried again");
                            told = true;
                        }
                        metrics.error("ObjectWrite");
                        failed = true;
                    }
                }
            }
            if failed {
                pause = (pause * 2).clamp(Duration::from_millis(200), LONGEST_PAUSE);
                sleep(pause).await;
            } else {
                pause = Duration::ZERO;
                told = false;
                if receiver.changed().await.is_err() {
                    return;
                }
            }
        }
    });
    sender
}

/// What a change did.
struct Made {
    stored: Option<Stored>,
    changed: bool,
}

async fn make(client: &Client, change: &ObjectChange) -> Result<Made, kube::Error> {
    match change {
        ObjectChange::Put(object) => {
            let put = put(client, object, Annotations::Exact).await?;
            let stored = Some(Stored {
                wanted: object.clone(),
                stored: put.stored,
            });
            Ok(Made {
                stored,
                changed: put.written,
            })
        }
        ObjectChange::Delete(key) => {
            delete(client, key).await?;
            Ok(Made {
                stored: None,
                changed: true,
            })
        }
    }
}

fn verb(change: &ObjectChange) -> &'static str {
    match change {
        ObjectChange::Put(_) => "put",
        ObjectChange::Delete(_) => "delete",
    }
}
