//! The secret of a cluster's direct watch: watched, and made where there is none.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as SecretObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::{Client, Error};
use strait_api::names::{HELLO_SECRET, HELLO_SECRET_KEY};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::kube::{Change, Item, Watch, describe};
use crate::objects::{MANAGER, there_was};

/// How long a secret is that we make.
const LENGTH: usize = 32;
/// How long one must be that somebody else made, and may be.
const ENOUGH: usize = 16;
const MOST: usize = 4096;
/// The pause before it is tried again to make one.
const PAUSE: Duration = Duration::from_secs(1);

/// What becomes of a secret that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It is made.
    OrMake,
    /// It is waited for.
    Only,
}

/// Gives the secret, and each one that takes its place, until the receiver is dropped.
pub fn secrets(
    client: Client,
    namespace: &str,
    finding: Finding,
) -> mpsc::UnboundedReceiver<Vec<u8>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let api: Api<SecretObject> = Api::namespaced(client.clone(), namespace);
    let mut changes = Watch::of::<SecretObject>(&client)
        .namespace(namespace)
        .fields(format!("metadata.name={HELLO_SECRET}"))
        .start(|object| Ok(parse(object)));
    tokio::spawn(async move {
        while let Some(change) = changes.next().await {
            let found = match change {
                Change::Reset(items) => items.into_iter().next(),
                Change::Applied(item) => Some(item),
                Change::Deleted(_) => None,
                Change::Failed(why) => {
                    tracing::debug!(secret = HELLO_SECRET, %why, "can't be read");
                    continue;
                }
                Change::Resumed | Change::Absent => continue,
            };
            match found {
                Some(Item {
                    parsed: Ok(Ok(secret)),
                    ..
                }) => {
                    if sender.send(secret).is_err() {
                        return;
                    }
                }
                Some(Item {
                    parsed: Ok(Err(why)) | Err(why),
                    ..
                }) => {
                    tracing::warn!(secret = HELLO_SECRET, %why, "can't be used");
                }
                None if finding == Finding::OrMake => make(&api).await,
                None => tracing::debug!(secret = HELLO_SECRET, "is not there yet"),
            }
        }
    });
    receiver
}

/// Removes it; whether there was one. For the last gateway of a cluster.
///
/// # Errors
/// What the server says.
pub async fn remove_secret(client: &Client, namespace: &str) -> Result<bool, Error> {
    let api: Api<SecretObject> = Api::namespaced(client.clone(), namespace);
    there_was(api.delete(HELLO_SECRET, &DeleteParams::default()).await)
}

/// The text of a failure never has the secret in it.
fn parse(object: &DynamicObject) -> Result<Vec<u8>, String> {
    let text = object
        .data
        .get("data")
        .and_then(|d| d.get(HELLO_SECRET_KEY));
    let text = text
        .and_then(serde_json::Value::as_str)
        .ok_or_else(|| format!("it has no key '{HELLO_SECRET_KEY}'"))?;
    let secret = STANDARD
        .decode(text)
        .map_err(|_| format!("its key '{HELLO_SECRET_KEY}' is not base64"))?;
    if (ENOUGH..=MOST).contains(&secret.len()) {
        Ok(secret)
    } else {
        Err(format!(
            "its key '{HELLO_SECRET_KEY}' has {} bytes; expected {ENOUGH} to {MOST}",
            secret.len()
        ))
    }
}

/// Makes it, unless somebody has; the watch tells.
async fn make(api: &Api<SecretObject>) {
    let mut told = false;
    loop {
        let mut secret = vec![0; LENGTH];
        let random = rustls::crypto::ring::default_provider().secure_random;
        let why = if random.fill(&mut secret).is_err() {
            "the system has no random numbers".to_owned()
        } else {
            let object = SecretObject {
                metadata: ObjectMeta {
                    name: Some(HELLO_SECRET.to_owned()),
                    ..ObjectMeta::default()
                },
                type_: Some("Opaque".to_owned()),
                data: Some(BTreeMap::from([(
                    HELLO_SECRET_KEY.to_owned(),
                    ByteString(secret),
                )])),
                ..SecretObject::default()
            };
            let params = PostParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PostParams::default()
            };
            match api.create(&params, &object).await {
                Ok(_) => {
                    tracing::info!(secret = HELLO_SECRET, "made");
                    return;
                }
                Err(Error::Api(status)) if status.code == 409 => return,
                Err(error) => describe(&error),
            }
        };
        if !told {
            tracing::warn!(secret = HELLO_SECRET, error = %why, "can't be made; it is tried again");
            told = true;
        }
        sleep(PAUSE).await;
    }
}
