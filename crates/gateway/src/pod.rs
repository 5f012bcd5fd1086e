//! The labels of this gateway's Pod, by which a Service finds the one that carries the traffic.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use strait_api::names::{LABEL_POD_NODE, LABEL_POD_STATUS};
use strait_daemon::Metrics;
use strait_daemon::kube::describe;
use tokio::sync::watch;
use tokio::time::sleep;

/// The pauses between two tries.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Keeps the labels of a Pod true: whether it carries the traffic.
pub(crate) fn start(
    client: Client,
    namespace: &str,
    pod: String,
    node: String,
    metrics: Metrics,
) -> watch::Sender<Option<bool>> {
    let (sender, mut wanted) = watch::channel(None);
    let api: Api<Pod> = Api::namespaced(client, namespace);
    tokio::spawn(async move {
        let mut pause = SHORTEST;
        let mut written = None;
        loop {
            let active = *wanted.borrow_and_update();
            if let Some(active) = active.filter(|active| written != Some(*active)) {
                match label(&api, &pod, &node, active).await {
                    Ok(()) => {
                        written = Some(active);
                        pause = SHORTEST;
                    }
                    // The name is for information where there is no such Pod.
                    Err(Error::Api(status)) if status.code == 404 => {
                        tracing::debug!(pod, "there is no such Pod to label");
                        written = Some(active);
                    }
                    Err(error) => {
                        if pause == SHORTEST {
                            let error = describe(&error);
                            tracing::warn!(pod, %error, "the Pod can't be labelled; it is tried again");
                        }
                        metrics.error("PodLabel");
                        sleep(pause).await;
                        pause = (pause * 2).min(LONGEST);
                        continue;
                    }
                }
            }
            if wanted.changed().await.is_err() {
                return;
            }
        }
    });
    sender
}

async fn label(api: &Api<Pod>, pod: &str, node: &str, active: bool) -> Result<(), Error> {
    let status = if active { "active" } else { "passive" };
    let labels = json!({LABEL_POD_NODE: node, LABEL_POD_STATUS: status});
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    api.patch(pod, &PatchParams::default(), &patch).await?;
    Ok(())
}
