//! Carries out changes of objects on one API server, off the main loop.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Client;
use strait_api::{Object, ObjectKey};
use strait_core::ObjectChange;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::Metrics;
use crate::objects::{Annotations, WriteError, delete, put, supersede};

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What came of changes.
#[expect(clippy::large_enum_variant, reason = "reports are few and short-lived")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// An object was written, or was found equal.
    Stored {
        /// As it was wanted.
        wanted: Object,
        /// As the server has it: an older definition of the resource lacks fields.
        stored: Object,
    },
    /// All changes that fail at present, and why; told when that is other than before.
    Failures(BTreeMap<ObjectKey, String>),
}

/// Carries out the newest list of changes that was sent, until there is none that fails. A newer list replaces an
/// older one between two changes: it is the whole difference.
pub fn start(
    server: &'static str,
    client: Client,
    annotations: Annotations,
    metrics: Metrics,
    reports: mpsc::UnboundedSender<Report>,
) -> watch::Sender<Vec<ObjectChange>> {
    let (sender, mut receiver) = watch::channel::<Vec<ObjectChange>>(Vec::new());
    tokio::spawn(async move {
        let mut pause = Duration::ZERO;
        let mut told = BTreeMap::new();
        loop {
            let changes = receiver.borrow_and_update().clone();
            let mut failures = BTreeMap::new();
            let mut whole = true;
            for change in &changes {
                if receiver.has_changed().unwrap_or(false) {
                    whole = false;
                    break;
                }
                match make(&client, change, annotations).await {
                    Ok(Made { stored, changed }) => {
                        if changed {
                            tracing::info!(server, object = %change.key(), change = verb(change), "written");
                            metrics.changed("object", 1);
                        }
                        if let Some(stored) = stored {
                            let _ = reports.send(stored);
                        }
                    }
                    Err(error) => {
                        if told.is_empty() && failures.is_empty() {
                            tracing::warn!(server, object = %change.key(), %error, "can't be written; it is tried again");
                        }
                        metrics.error("ObjectWrite");
                        failures.insert(change.key().clone(), error.to_string());
                    }
                }
            }
            if !whole {
                continue;
            }
            let failed = !failures.is_empty();
            if failures != told {
                told.clone_from(&failures);
                let _ = reports.send(Report::Failures(failures));
            }
            if failed {
                pause = (pause * 2).clamp(Duration::from_millis(200), LONGEST_PAUSE);
                sleep(pause).await;
            } else {
                pause = Duration::ZERO;
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
    stored: Option<Report>,
    changed: bool,
}

async fn make(
    client: &Client,
    change: &ObjectChange,
    annotations: Annotations,
) -> Result<Made, WriteError> {
    match change {
        ObjectChange::Put(object) => {
            let put = put(client, object, annotations).await?;
            let stored = Some(Report::Stored {
                wanted: object.clone(),
                stored: put.stored,
            });
            Ok(Made {
                stored,
                changed: put.written,
            })
        }
        ObjectChange::Delete(key) => Ok(Made {
            stored: None,
            changed: delete(client, key).await?,
        }),
        ObjectChange::Supersede { key, by } => Ok(Made {
            stored: None,
            changed: supersede(client, key, by).await?,
        }),
    }
}

fn verb(change: &ObjectChange) -> &'static str {
    match change {
        ObjectChange::Put(_) => "put",
        ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => "delete",
    }
}
