//! Kubernetes Events about this node, for `kubectl describe node`: one when a condition begins, when its severity changes, and
//! when it ends. Nothing waits for them, and no failure to write one matters to anything else.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use strait_core::Time as Moment;
use strait_core::notes::{Book, Note};
use tokio::time::{sleep, sleep_until};

use crate::kube::describe;
use crate::objects::MANAGER;
use crate::{Metrics, Readiness};

/// Where Events about what has no namespace must be.
const NAMESPACE: &str = "default";
/// What holds only while a process starts is not told.
const STARTING: Duration = Duration::from_secs(2);
/// How often an Event is tried to be written; the pauses between double, from half a second.
const TRIES: u32 = 5;

/// Who tells, and about which node.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// The process, such as `strait-gateway`.
    pub component: &'static str,
    /// The node.
    pub node: String,
}

/// Tells of what `readiness` knows, from now on, until the process ends.
pub fn start(client: Client, readiness: &Readiness, metrics: Metrics, reporter: Reporter) {
    let mut known = readiness.watch();
    tokio::spawn(async move {
        sleep(STARTING).await;
        let api: Api<Event> = Api::namespaced(client, NAMESPACE);
        let begun = Instant::now();
        let mut book = Book::default();
        let mut told = false;
        loop {
            let conditions = known.borrow_and_update().conditions.clone();
            let (notes, wake) = book.due(Moment(begun.elapsed()), &conditions);
            for note in &notes {
                match write(&api, &reporter, note).await {
                    Ok(()) => told = false,
                    Err(error) => {
                        if !told {
                            let error = describe(&error);
                            tracing::warn!(error, event = note.reason, "an Event can't be written");
                            told = true;
                        }
                        metrics.error("EventWrite");
                    }
                }
            }
            let waiting = async {
                match wake {
                    Some(Moment(at)) => sleep_until((begun + at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = waiting => {}
                changed = known.changed() => if changed.is_err() { return },
            }
        }
    });
}

/// Writes an Event, or counts it in the one that says the same already.
async fn write(api: &Api<Event>, reporter: &Reporter, note: &Note) -> Result<(), Error> {
    let mut pause = Duration::from_millis(500);
    let mut tries = 1;
    loop {
        match once(api, reporter, note).await {
            Err(error) if tries < TRIES && !is_final(&error) => {
                tries += 1;
                sleep(pause).await;
                pause *= 2;
            }
            other => return other,
        }
    }
}

/// Whether another try would end alike.
fn is_final(error: &Error) -> bool {
    let Error::Api(status) = error else {
        return false;
    };
    // A conflict, or one that expired between two requests, does not.
    (400..500).contains(&status.code) && ![404, 408, 409, 429].contains(&status.code)
}

async fn once(api: &Api<Event>, reporter: &Reporter, note: &Note) -> Result<(), Error> {
    let new = reporter.event(note, Timestamp::now());
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let name = new.metadata.name.clone().unwrap_or_default();
    match api.get_opt(&name).await? {
        None => api.create(&params, &new).await?,
        Some(there) => api.replace(&name, &params, &again(there, new)).await?,
    };
    Ok(())
}

/// The Event that is there, once more.
fn again(there: Event, new: Event) -> Event {
    Event {
        count: Some(there.count.unwrap_or(1).saturating_add(1)),
        first_timestamp: there.first_timestamp.or(new.first_timestamp.clone()),
        metadata: there.metadata,
        ..new
    }
}

impl Reporter {
    fn event(&self, note: &Note, now: Timestamp) -> Event {
        let kind = if note.holds { "Warning" } else { "Normal" };
        Event {
            metadata: ObjectMeta {
                name: Some(self.name(note.reason, kind)),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            // The kubelet, too, gives the node's name as its uid, and `kubectl describe node` looks for that.
            involved_object: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(self.node.clone()),
                uid: Some(self.node.clone()),
                ..ObjectReference::default()
            },
            reason: Some(note.reason.to_owned()),
            type_: Some(kind.to_owned()),
            message: Some(note.message.clone()),
            source: Some(EventSource {
                component: Some(self.component.to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: Some(self.node.clone()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        }
    }

    /// The same for the same node, process, condition and type: there are never more Events than these.
    fn name(&self, reason: &str, kind: &str) -> String {
        // FNV-1a: it only has to be the same in every build.
        let parts = [self.node.as_str(), self.component, reason, kind].join("/");
        let hash = parts.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let most = 253 - ".0123456789abcdef".len();
        let node: String = self.node.chars().take(most).collect();
        format!("{}.{hash:016x}", node.trim_end_matches(['.', '-']))
    }
}

#[cfg(test)]
mod tests;
