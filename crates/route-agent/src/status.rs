//! Keeps this node's RouteAgent object equal to what the plan says.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use strait_api::Object;
use strait_core::route_agent::Account;
use strait_daemon::objects::{Annotations, WriteError, get, put};
use strait_daemon::{Memory, Metrics};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The least time between two writes, for each remote cluster that the object tells of: with many it is large, and changes that
/// come together are one write.
const GAP: Duration = Duration::from_micros(500);

/// Writes the newest object that was sent, until it is written. Every `verify` it is looked at though nothing changed: somebody
/// may have removed it.
pub(crate) fn start(
    client: Client,
    verify: Duration,
    metrics: Metrics,
    memory: Memory,
) -> watch::Sender<Option<Account>> {
    let (sender, mut receiver) = watch::channel::<Option<Account>>(None);
    tokio::spawn(async move {
        let mut writer = Writer {
            client,
            since: None,
            pruned: None,
        };
        let mut pause = Duration::ZERO;
        let mut told = false;
        loop {
            let mut gap = Duration::ZERO;
            let wanted = receiver.borrow_and_update().as_ref().map(|account| {
                let remotes = account.status.remote_endpoints.len();
                gap = GAP * u32::try_from(remotes).unwrap_or(u32::MAX);
                account.object()
            });
            if let Some(object) = wanted {
                match writer.write(object).await {
                    Ok(written) => {
                        if written {
                            metrics.changed("status", 1);
                        }
                        pause = Duration::ZERO;
                        told = false;
                    }
                    Err(error) => {
                        if !told {
                            tracing::warn!(%error, "the RouteAgent object can't be written; it is tried again");
                            told = true;
                        }
                        metrics.error("StatusWrite");
                        pause = (pause * 2).clamp(Duration::from_millis(200), LONGEST_PAUSE);
                    }
                }
            }
            memory.freed();
            if pause.is_zero() {
                sleep(gap).await;
                match timeout_at(Instant::now() + verify, receiver.changed()).await {
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

/// Since when each condition holds.
type Since = BTreeMap<String, String>;

struct Writer {
    client: Client,
    since: Option<Since>,
    /// What was wanted and what the server made of it, where that differs: its definition of the resource may lack fields, such
    /// as `conditions`, and would lack them after each further write.
    pruned: Option<(Object, Object)>,
}

impl Writer {
    /// Makes the object on the server what it should be; whether anything was written. What a predecessor said of a
    /// condition that still holds goes on.
    async fn write(&mut self, mut object: Object) -> Result<bool, WriteError> {
        let before = match self.since.take() {
            Some(before) => before,
            None => match get(&self.client, &object.key).await? {
                Some(there) => told(&there),
                None => Since::new(),
            },
        };
        let now = Timestamp::now()
            .round(k8s_openapi::jiff::Unit::Second)
            .unwrap_or_default()
            .to_string();
        self.since = Some(stamp(&mut object, &before, &now));
        if let Some((wanted, stored)) = &self.pruned
            && wanted.same(&object)
        {
            let there = get(&self.client, &object.key).await?;
            if there.is_some_and(|there| there.same(stored)) {
                return Ok(false);
            }
        }
        let put = put(&self.client, &object, Annotations::KeepForeign).await?;
        self.pruned = (!put.stored.same(&object)).then_some((object, put.stored));
        Ok(put.written)
    }
}

fn told(object: &Object) -> Since {
    let conditions = object.content.get("status").map(|s| &s["conditions"]);
    let all = conditions.and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|condition| {
        let text = |key: &str| condition[key].as_str().map(str::to_owned);
        let time = text("lastTransitionTime").filter(|t| t.parse::<Timestamp>().is_ok())?;
        Some((text("type")?, time))
    })
    .collect()
}

/// Fills in since when each condition holds, and gives that; one whose message changes keeps its time.
fn stamp(object: &mut Object, before: &Since, now: &str) -> Since {
    let conditions = object
        .content
        .get_mut("status")
        .and_then(|s| s.get_mut("conditions"))
        .and_then(Value::as_array_mut);
    let mut since = Since::new();
    for fields in conditions
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        let kind = fields
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let kind = kind.to_owned();
        let time = before.get(&kind).map_or(now, String::as_str).to_owned();
        fields.insert("lastTransitionTime".to_owned(), Value::String(time.clone()));
        since.insert(kind, time);
    }
    since
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use strait_api::Kind;

    use super::*;

    fn object(conditions: &[(&str, &str)]) -> Object {
        let all: Vec<Value> = conditions
            .iter()
            .map(|(kind, message)| json!({"type": kind, "status": "True", "message": message}))
            .collect();
        Object::new(Kind::RouteAgent, "ns", "n").with("status", &json!({"conditions": all}))
    }

    #[test]
    fn a_condition_has_the_time_since_when_it_holds_whatever_its_message_says() {
        let (one, two, three) = (
            "2026-01-01T00:00:01Z",
            "2026-01-01T00:00:02Z",
            "2026-01-01T00:00:03Z",
        );
        let mut first = object(&[("A", "x")]);
        let since = stamp(&mut first, &Since::new(), one);
        let mut second = object(&[("A", "y"), ("B", "z")]);
        let since = stamp(&mut second, &since, two);
        assert_eq!(
            second.content["status"]["conditions"],
            json!([
                {"type": "A", "status": "True", "message": "y", "lastTransitionTime": one},
                {"type": "B", "status": "True", "message": "z", "lastTransitionTime": two},
            ])
        );
        // The same again is the same, so that nothing is written for the time's sake; another process goes on with it.
        let mut same = object(&[("A", "y"), ("B", "z")]);
        assert_eq!(stamp(&mut same, &since, three), since);
        assert_eq!(same, second);
        assert_eq!(told(&second), since);
        // What ended and began again has a new time.
        let since = stamp(&mut object(&[]), &since, three);
        assert_eq!(stamp(&mut object(&[("A", "y")]), &since, three)["A"], three);
    }

    #[test]
    fn nonsense_in_the_object_that_is_there_is_no_time() {
        let mut bad = object(&[("A", "x"), ("B", "x")]);
        bad.content["status"]["conditions"][0]["lastTransitionTime"] = json!("yesterday");
        bad.content["status"]["conditions"][1]["lastTransitionTime"] = json!(7);
        assert_eq!(told(&bad), Since::new());
        assert_eq!(
            told(&Object::new(Kind::RouteAgent, "ns", "n")),
            Since::new()
        );
        let odd = Object::new(Kind::RouteAgent, "ns", "n")
            .with("status", &json!({"conditions": [7, "x"]}));
        assert_eq!(told(&odd), Since::new());
    }
}
