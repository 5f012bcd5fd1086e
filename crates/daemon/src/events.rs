//! Kubernetes Events about this node, for `kubectl describe node`: one when a condition begins, when its severity changes, and
//! when it ends. Nothing waits for them, and no failure to write one matters to anything else: while the API server is away, the
//! newest about each condition is kept.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use strait_core::Time as Moment;
use strait_core::notes::{Book, Note, Untold};
use tokio::time::{sleep, sleep_until};

use crate::kube::describe;
use crate::objects::MANAGER;
use crate::{Metrics, Readiness};

/// Where Events about what has no namespace must be.
const NAMESPACE: &str = "default";
/// What holds only while a process starts is not told.
const STARTING: Duration = Duration::from_secs(2);
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
        let mut untold = Untold::default();
        let mut warned = false;
        loop {
            let conditions = known.borrow_and_update().conditions.clone();
            let now = Moment(begun.elapsed());
            let (notes, wake) = book.due(now, &conditions);
            untold.add(notes);
            let due = untold.due(now);
            let mut failed = false;
            for note in &due {
                let ago = begun.elapsed().saturating_sub(note.at.0);
                let Err(error) = once(&api, &reporter, note, ago).await else {
                    untold.done(note);
                    warned = false;
                    continue;
                };
                if !warned {
                    let error = describe(&error);
                    tracing::warn!(error, event = note.reason, "an Event can't be written");
                    warned = true;
                }
                metrics.error("EventWrite");
                if is_final(&error) {
                    untold.done(note);
                } else {
                    failed = true;
                }
                if !matches!(error, Error::Api(_)) {
                    // Nobody answers: the others need not wait for that too.
                    break;
                }
            }
            if !due.is_empty() {
                untold.tried(failed, Moment(begun.elapsed()));
            }
            let waiting = async {
                match wake.into_iter().chain(untold.wake()).min() {
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

/// Whether another try would end alike.
fn is_final(error: &Error) -> bool {
    let Error::Api(status) = error else {
        return false;
    };
    // A conflict, or one that expired between two requests, does not; and rights may come, as while a server starts.
    (400..500).contains(&status.code) && ![401, 403, 404, 408, 409, 429].contains(&status.code)
}

/// Writes an Event about what was so `ago`, or counts it in the one that says the same already.
async fn once(
    api: &Api<Event>,
    reporter: &Reporter,
    note: &Note,
    ago: Duration,
) -> Result<(), Error> {
    let now = Timestamp::now();
    let new = reporter.event(note, now.checked_sub(ago).unwrap_or(now));
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
