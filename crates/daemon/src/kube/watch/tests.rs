//! Against a scripted server: each request for a list or a watch gets the next answer of the script.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::{Change, Item, Watch};
use crate::kube::scripted::client;

/// An answer of the server.
enum Answer {
    /// One page of a list.
    List(Value),
    /// These events, and then the end of the watch.
    Events(Vec<Value>),
    /// These events, and then silence.
    Open(Vec<Value>),
    /// A status other than 200.
    Status(u16),
    /// Bytes that are no answer at all.
    Garbage,
}

#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
    accepted: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn queries(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    script.asked.lock().unwrap().push(request.uri().to_string());
    let accepted = request
        .headers()
        .get("accept")
        .map(|h| h.to_str().unwrap().to_owned());
    script.accepted.lock().unwrap().extend(accepted);
    let lines = |events: Vec<Value>| {
        events
            .iter()
            .map(|event| format!("{event}\n"))
            .collect::<String>()
    };
    let next = script.answers.lock().unwrap().pop_front();
    match next {
        Some(Answer::List(list)) => axum::Json(list).into_response(),
        Some(Answer::Events(events)) => lines(events).into_response(),
        Some(Answer::Open(events)) => {
            let first = futures::stream::once(std::future::ready(
                Ok::<_, std::convert::Infallible>(lines(events)),
            ));
            Body::from_stream(first.chain(futures::stream::pending())).into_response()
        }
        Some(Answer::Status(code)) => {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "scripted", "reason": "Scripted", "code": code });
            (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
        }
        Some(Answer::Garbage) => "<html>\u{0}".into_response(),
        None => Body::from_stream(futures::stream::pending::<
            Result<String, std::convert::Infallible>,
        >())
        .into_response(),
    }
}

type Changes = BoxStream<'static, Change<String>>;

/// Watches config maps, parsed to their datum `x`, at a server with this script.
async fn watch(answers: impl IntoIterator<Item = Answer>) -> (Changes, Script) {
    let (address, script) = serve(answers).await;
    (changes(address).await, script)
}

async fn serve(answers: impl IntoIterator<Item = Answer>) -> (SocketAddr, Script) {
    let script = Script {
        answers: Arc::new(Mutex::new(answers.into_iter().collect())),
        asked: Arc::default(),
        accepted: Arc::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(script.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, script)
}

async fn changes(server: SocketAddr) -> Changes {
    Watch::of::<ConfigMap>(&client(server).await)
        .namespace("ns")
        .labels("a=b")
        .start(|object| {
            let datum = object.data.pointer("/data/x").and_then(Value::as_str);
            datum
                .map(str::to_owned)
                .ok_or_else(|| "data.x is no string".to_owned())
        })
}

async fn next(changes: &mut Changes) -> Change<String> {
    timeout(Duration::from_secs(10), changes.next())
        .await
        .expect("nothing came")
        .expect("the stream ended")
}

fn object(name: &str, version: &str, datum: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "x": datum },
        "metadata": { "name": name, "namespace": "ns", "resourceVersion": version } })
}

fn list(version: &str, items: Vec<Value>) -> Answer {
    Answer::List(json!({ "kind": "ConfigMapList", "apiVersion": "v1",
        "metadata": { "resourceVersion": version }, "items": items }))
}

fn event(kind: &str, object: Value) -> Value {
    json!({ "type": kind, "object": object })
}

fn gone() -> Value {
    event(
        "ERROR",
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old", "reason": "Expired", "code": 410 }),
    )
}

fn item(name: &str, datum: &str) -> Item<String> {
    Item {
        name: name.to_owned(),
        namespace: "ns".to_owned(),
        parsed: Ok(datum.to_owned()),
    }
}

#[tokio::test]
async fn a_list_and_then_its_changes_as_they_come() {
    let events = vec![
        event("ADDED", object("b", "6", json!("2"))),
        event("MODIFIED", object("b", "7", json!("3"))),
        event("DELETED", object("a", "8", json!("1"))),
    ];
    let (mut changes, script) = watch([
        list("5", vec![object("a", "4", json!("1"))]),
        Answer::Open(events),
    ])
    .await;
    assert_eq!(
        next(&mut changes).await,
        Change::Reset(vec![item("a", "1")])
    );
    assert_eq!(next(&mut changes).await, Change::Applied(item("b", "2")));
    assert_eq!(next(&mut changes).await, Change::Applied(item("b", "3")));
    assert_eq!(next(&mut changes).await, Change::Deleted(item("a", "1")));
    let queries = script.queries();
    assert!(
        queries
            .iter()
            .all(|query| query.starts_with("/api/v1/namespaces/ns/configmaps?")),
        "{queries:?}"
    );
    assert!(
        queries
            .iter()
            .all(|query| query.contains("labelSelector=a%3Db")),
        "{queries:?}"
    );
    assert!(queries[1].contains("resourceVersion=5"), "{queries:?}");
}

#[tokio::test]
async fn pages_of_a_list_make_one_reset() {
    let first = json!({ "kind": "ConfigMapList", "apiVersion": "v1",
        "metadata": { "resourceVersion": "5", "continue": "more" }, "items": [object("a", "1", json!("1"))] });
    let (mut changes, script) = watch([
        Answer::List(first),
        list("5", vec![object("b", "2", json!("2"))]),
    ])
    .await;
    assert_eq!(
        next(&mut changes).await,
        Change::Reset(vec![item("a", "1"), item("b", "2")])
    );
    assert!(script.queries()[1].contains("continue=more"));
}

#[tokio::test]
async fn objects_that_are_wrong_in_any_way_stop_nothing_and_say_why() {
    let wrong_datum = object("a", "4", json!(7));
    let wrong_metadata = json!({ "metadata": { "name": "b", "namespace": "ns", "labels": 7, "resourceVersion": "3" },
        "data": { "x": "2" } });
    let events = vec![
        event("ADDED", json!("not even an object")),
        event("MODIFIED", json!({ "metadata": [1], "kind": {} })),
        event("ADDED", object("c", "9", json!("3"))),
    ];
    let script = [
        list("5", vec![wrong_datum, wrong_metadata]),
        Answer::Open(events),
    ];
    let (mut changes, _) = watch(script).await;
    let why = || Err("data.x is no string".to_owned());
    let rejected = Item {
        name: "a".to_owned(),
        namespace: "ns".to_owned(),
        parsed: why(),
    };
    assert_eq!(
        next(&mut changes).await,
        Change::Reset(vec![rejected, item("b", "2")])
    );
    for _ in 0..2 {
        let nameless = Item {
            name: String::new(),
            namespace: String::new(),
            parsed: why(),
        };
        assert_eq!(next(&mut changes).await, Change::Applied(nameless));
    }
    assert_eq!(next(&mut changes).await, Change::Applied(item("c", "3")));
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_ended_without_a_new_list() {
    let bookmark = event(
        "BOOKMARK",
        json!({ "kind": "ConfigMap", "apiVersion": "v1",
        "metadata": { "resourceVersion": "70" } }),
    );
    let (mut changes, script) = watch([
        list("5", vec![]),
        Answer::Events(vec![event("ADDED", object("a", "6", json!("1")))]),
        Answer::Events(vec![bookmark]),
        Answer::Open(vec![event("ADDED", object("b", "71", json!("2")))]),
    ])
    .await;
    assert_eq!(next(&mut changes).await, Change::Reset(vec![]));
    assert_eq!(next(&mut changes).await, Change::Applied(item("a", "1")));
    assert_eq!(next(&mut changes).await, Change::Applied(item("b", "2")));
    let queries = script.queries();
    assert!(queries[2].contains("resourceVersion=6"), "{queries:?}");
    assert!(queries[3].contains("resourceVersion=70"), "{queries:?}");
}

#[tokio::test]
async fn what_the_server_has_forgotten_is_listed_again() {
    for forgotten in [Answer::Status(410), Answer::Events(vec![gone()])] {
        let (mut changes, _) = watch([
            list("5", vec![]),
            forgotten,
            list("9", vec![object("a", "8", json!("1"))]),
        ])
        .await;
        assert_eq!(next(&mut changes).await, Change::Reset(vec![]));
        assert_eq!(
            next(&mut changes).await,
            Change::Reset(vec![item("a", "1")])
        );
    }
}

#[tokio::test]
async fn failures_are_told_and_tried_again() {
    let (mut changes, _) = watch([
        Answer::Status(403),
        Answer::Status(500),
        Answer::Garbage,
        list("5", vec![]),
        Answer::Status(500),
        Answer::Open(vec![event("ADDED", object("a", "6", json!("1")))]),
    ])
    .await;
    for expected in [
        "cannot list: scripted (403)",
        "cannot list: scripted (500)",
        "cannot list: ",
    ] {
        let change = next(&mut changes).await;
        assert!(
            matches!(&change, Change::Failed(reason) if reason.starts_with(expected)),
            "{change:?}"
        );
    }
    assert_eq!(next(&mut changes).await, Change::Reset(vec![]));
    let change = next(&mut changes).await;
    assert!(
        matches!(&change, Change::Failed(reason) if reason.starts_with("cannot watch: ")),
        "{change:?}"
    );
    assert_eq!(next(&mut changes).await, Change::Resumed);
    assert_eq!(next(&mut changes).await, Change::Applied(item("a", "1")));
}

#[tokio::test]
async fn a_server_that_is_away_is_told_of_and_found_when_it_comes() {
    let place = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let mut changes = changes(address).await;
    let change = next(&mut changes).await;
    assert!(
        matches!(&change, Change::Failed(reason) if reason.contains("refused")),
        "{change:?}"
    );
    let listener = TcpListener::bind(address).await.unwrap();
    let router = Router::new().fallback(|| async {
        axum::Json(json!({ "kind": "List", "apiVersion": "v1",
        "metadata": { "resourceVersion": "1" }, "items": [] }))
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    loop {
        match next(&mut changes).await {
            Change::Reset(items) => return assert!(items.is_empty()),
            Change::Failed(_) => {}
            change @ (Change::Applied(_)
            | Change::Deleted(_)
            | Change::Resumed
            | Change::Absent) => {
                panic!("{change:?}")
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_ends_every_watch_at_once_is_not_asked_in_a_tight_loop() {
    let script =
        std::iter::once(list("5", vec![])).chain((0..1000).map(|_| Answer::Events(vec![])));
    let (mut changes, script) = watch(script).await;
    assert_eq!(next(&mut changes).await, Change::Reset(vec![]));
    let begin = Instant::now();
    assert!(
        timeout(Duration::from_secs(1), changes.next())
            .await
            .is_err()
    );
    let asked = script.queries().len();
    assert!(asked < 12, "asked {asked} times in {:?}", begin.elapsed());
}

#[tokio::test]
async fn metadata_is_asked_for_alone_where_the_rest_is_not_looked_at() {
    let object = |kind: &str| {
        json!({ "apiVersion": "meta.k8s.io/v1", "kind": kind,
            "metadata": { "name": "a", "namespace": "ns", "resourceVersion": "7", "annotations": { "k": "v" } } })
    };
    let list = json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": { "resourceVersion": "7" }, "items": [object("PartialObjectMetadata")] });
    let event = json!({ "type": "MODIFIED", "object": object("PartialObjectMetadata") });
    let (address, script) = serve([Answer::List(list), Answer::Open(vec![event])]).await;
    let mut changes = Watch::of::<ConfigMap>(&client(address).await)
        .metadata_only()
        .start(|object| Ok(object.metadata.annotations.clone().unwrap_or_default()["k"].clone()));
    let item = || Item {
        name: "a".to_owned(),
        namespace: "ns".to_owned(),
        parsed: Ok("v".to_owned()),
    };
    assert_eq!(next(&mut changes).await, Change::Reset(vec![item()]));
    assert_eq!(next(&mut changes).await, Change::Applied(item()));
    let accepted = script.accepted.lock().unwrap().clone();
    assert_eq!(accepted.len(), 2);
    assert!(
        accepted
            .iter()
            .all(|a| a.contains("as=PartialObjectMetadata")),
        "{accepted:?}"
    );
}

/// Watches Calico's pools, if the server knows them.
async fn pools(answers: impl IntoIterator<Item = Answer>) -> (Changes, Script) {
    let (server, script) = serve(answers).await;
    let resource = strait_api::Kind::IpPool.resource();
    let changes = Watch::of_resource(&client(server).await, resource)
        .where_served()
        .start(|object| Ok(object.data["spec"].to_string()));
    (changes, script)
}

fn resources(names: &[&str]) -> Answer {
    let resource = |name: &&str| json!({ "name": name, "singularName": "", "namespaced": false, "kind": "X", "verbs": ["list"] });
    let resources: Vec<Value> = names.iter().map(resource).collect();
    Answer::List(json!({ "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": "projectcalico.org/v3", "resources": resources }))
}

#[tokio::test]
async fn a_resource_that_the_server_does_not_know_is_told_once_and_not_listed() {
    for unknown in [Answer::Status(404), resources(&["globalnetworksets"])] {
        let (mut changes, script) = pools([unknown]).await;
        assert_eq!(next(&mut changes).await, Change::Absent);
        let more = timeout(Duration::from_millis(500), changes.next()).await;
        assert!(more.is_err(), "{more:?}");
        assert_eq!(script.queries(), ["/apis/projectcalico.org/v3"]);
    }
}

#[tokio::test]
async fn a_resource_that_goes_while_it_is_watched_is_no_failure() {
    let (mut changes, script) = pools([
        resources(&["ippools"]),
        list("5", vec![]),
        Answer::Events(vec![]),
        Answer::Status(404),
        Answer::Status(404),
    ])
    .await;
    assert_eq!(next(&mut changes).await, Change::Reset(vec![]));
    assert_eq!(next(&mut changes).await, Change::Absent);
    assert_eq!(script.queries().len(), 5, "{:?}", script.queries());
}

#[tokio::test]
async fn a_resource_that_may_not_be_listed_is_a_failure_in_the_servers_words_and_is_tried_again() {
    let (mut changes, _) = pools([
        resources(&["ippools"]),
        Answer::Status(403),
        Answer::Status(500),
        resources(&["ippools"]),
        list("5", vec![]),
    ])
    .await;
    let failed = |change: Change<String>| {
        let Change::Failed(why) = change else {
            panic!("{change:?}")
        };
        why
    };
    assert_eq!(
        failed(next(&mut changes).await),
        "cannot list: scripted (403)"
    );
    assert_eq!(
        failed(next(&mut changes).await),
        "cannot find out: scripted (500)"
    );
    assert_eq!(next(&mut changes).await, Change::Reset(vec![]));
}
