//! The gateways' Lease: carries out what an election says, one operation at a time.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Error};
use strait_api::names::GATEWAY_LEASE;
use strait_core::gateway::election::{Answered, Lease, LeaseOperation, Record};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::Metrics;
use crate::kube::describe;
use crate::objects::{MANAGER, there_was};

/// Carries out operations on the Lease of this namespace until either end is gone; each is answered, and given up after `limit`.
pub fn start(
    client: Client,
    namespace: &str,
    limit: Duration,
    metrics: Metrics,
) -> (
    mpsc::UnboundedSender<LeaseOperation>,
    mpsc::UnboundedReceiver<Answered>,
) {
    let (sender, mut operations) = mpsc::unbounded_channel();
    let (answers, receiver) = mpsc::unbounded_channel();
    let mut keeper = Keeper {
        api: Api::namespaced(client, namespace),
        there: None,
    };
    tokio::spawn(async move {
        let mut told = false;
        while let Some(operation) = operations.recv().await {
            let why = match timeout(limit, keeper.carry_out(operation)).await {
                Ok(Ok(answered)) => {
                    told = false;
                    if answers.send(answered).is_err() {
                        return;
                    }
                    continue;
                }
                Ok(Err(error)) => describe(&error),
                Err(_) => format!("no answer within {limit:?}"),
            };
            if !told {
                tracing::warn!(lease = GATEWAY_LEASE, error = %why, "can't be read or written; it is tried again");
                told = true;
            }
            metrics.error("Lease");
            if answers.send(Answered::Failed).is_err() {
                return;
            }
        }
    });
    (sender, receiver)
}

/// Removes it, whoever holds it; whether there was one. For the last gateway of a cluster.
///
/// # Errors
/// What the server says.
pub async fn remove(client: &Client, namespace: &str) -> Result<bool, Error> {
    let api: Api<LeaseObject> = Api::namespaced(client.clone(), namespace);
    there_was(api.delete(GATEWAY_LEASE, &DeleteParams::default()).await)
}

struct Keeper {
    api: Api<LeaseObject>,
    /// As the server had it last: what others put on it stays.
    there: Option<LeaseObject>,
}

impl Keeper {
    async fn carry_out(&mut self, operation: LeaseOperation) -> Result<Answered, Error> {
        match operation {
            LeaseOperation::Read => {
                self.there = self.api.get_opt(GATEWAY_LEASE).await?;
                Ok(Answered::Read(self.there.as_ref().map(read)))
            }
            LeaseOperation::Write {
                record,
                version,
                acquire,
            } => self.write(&record, version, acquire).await,
        }
    }

    async fn write(
        &mut self,
        record: &Record,
        version: Option<String>,
        acquire: bool,
    ) -> Result<Answered, Error> {
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let same = |l: &&LeaseObject| l.metadata.resource_version == version;
        let before = self.there.as_ref().filter(same).cloned();
        let written = match version {
            None => {
                let spec = written(record, None, acquire);
                self.api.create(&params, &named(spec)).await
            }
            Some(version) => {
                let mut lease = before.unwrap_or_else(|| named(LeaseSpec::default()));
                lease.spec = Some(written(record, lease.spec, acquire));
                lease.metadata.resource_version = Some(version);
                self.api.replace(GATEWAY_LEASE, &params, &lease).await
            }
        };
        match written {
            Ok(lease) => {
                let answer = read(&lease);
                self.there = Some(lease);
                Ok(Answered::Written(answer))
            }
            // Somebody made, wrote or removed it since.
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Answered::Conflict),
            Err(error) => Err(error),
        }
    }
}

fn named(spec: LeaseSpec) -> LeaseObject {
    LeaseObject {
        metadata: ObjectMeta {
            name: Some(GATEWAY_LEASE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    }
}

/// What is to be written: renewed now, and what the record does not say stays.
fn written(record: &Record, before: Option<LeaseSpec>, acquire: bool) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    let before = before.unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        // What an election asks for is in range; the server would refuse what is not.
        lease_duration_seconds: Some(i32::try_from(record.duration.as_secs()).unwrap_or(i32::MAX)),
        lease_transitions: Some(i32::try_from(record.transitions).unwrap_or(i32::MAX)),
        acquire_time: if acquire {
            Some(now.clone())
        } else {
            before.acquire_time.clone()
        },
        renew_time: Some(now),
        ..before
    }
}

/// What anybody may have written.
fn read(lease: &LeaseObject) -> Lease {
    let spec = lease.spec.clone().unwrap_or_default();
    let number = |n: Option<i32>| u64::try_from(n.unwrap_or_default()).unwrap_or_default();
    Lease {
        record: Record {
            holder: spec.holder_identity.unwrap_or_default(),
            duration: Duration::from_secs(number(spec.lease_duration_seconds)),
            transitions: number(spec.lease_transitions),
            renewed: spec.renew_time.map(|t| t.0.to_string()).unwrap_or_default(),
        },
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
