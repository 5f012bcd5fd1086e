//! Against a server that keeps Events, and fails as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use strait_core::Condition;
use strait_core::condition::by_name;
use tokio::net::TcpListener;

use super::*;
use crate::kube::scripted::client;

const EVENTS: &str = "/api/v1/namespaces/default/events";

#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Statuses of the next answers.
    failures: Arc<Mutex<VecDeque<u16>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn events(&self) -> Vec<Value> {
        let mut all: Vec<Value> = self.objects.lock().unwrap().values().cloned().collect();
        all.sort_by_key(|event| event["type"].to_string());
        all
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn failure(code: u16) -> Response {
    let reason = if code == 404 { "NotFound" } else { "Scripted" };
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "scripted", "reason": reason, "code": code });
    (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
}

async fn answer(State(server): State<Server>, method: Method, uri: Uri, body: Bytes) -> Response {
    server.asked.lock().unwrap().push(format!("{method} {uri}"));
    if let Some(code) = server.failures.lock().unwrap().pop_front() {
        return failure(code);
    }
    let mut objects = server.objects.lock().unwrap();
    let name = uri
        .path()
        .strip_prefix(EVENTS)
        .expect("Events alone are asked for");
    let name = name.trim_start_matches('/').to_owned();
    if method == Method::GET {
        return objects.get(&name).map_or_else(
            || failure(404),
            |object| axum::Json(object.clone()).into_response(),
        );
    }
    let object: Value = serde_json::from_slice(&body).unwrap();
    let named = object["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(method == Method::POST || named == name);
    objects.insert(named, object.clone());
    axum::Json(object).into_response()
}

struct Told {
    server: Server,
    readiness: Readiness,
    metrics: Metrics,
}

async fn told() -> Told {
    let server = Server::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(server.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let metrics = Metrics::new("test");
    let readiness = Readiness::new("starting", &metrics);
    let reporter = Reporter {
        component: "strait-route-agent",
        node: "east-1".to_owned(),
    };
    start(client(address).await, &readiness, metrics.clone(), reporter);
    Told {
        server,
        readiness,
        metrics,
    }
}

fn missing() -> Vec<Condition> {
    let message = "no address in 10.1.0.0/16".to_owned();
    vec![Condition::degraded("CniInterfaceNotFound", message)]
}

async fn until(what: &str, mut good: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if good() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} never came");
}

#[tokio::test]
async fn a_condition_that_begins_and_ends_twice_is_two_events_that_count() {
    let Told {
        server, readiness, ..
    } = told().await;
    // What holds only while the process starts is nobody's business.
    let starting = Condition::not_ready("InputsUnknown", "no list".to_owned());
    readiness.conditions(by_name(&[starting]));
    readiness.conditions(by_name(&missing()));
    until("the first", || server.events().len() == 1).await;
    readiness.conditions(by_name(&[]));
    until("its end", || server.events().len() == 2).await;
    let [normal, warning] = &server.events()[..] else {
        panic!("{:?}", server.events())
    };
    for (event, kind) in [(normal, "Normal"), (warning, "Warning")] {
        assert_eq!(event["type"], kind);
        assert_eq!(event["reason"], "CniInterfaceNotFound");
        assert_eq!(
            event["involvedObject"],
            json!({"kind": "Node", "name": "east-1", "uid": "east-1"})
        );
        assert_eq!(
            event["source"],
            json!({"component": "strait-route-agent", "host": "east-1"})
        );
        assert_eq!(event["count"], 1);
        assert_eq!(event["firstTimestamp"], event["lastTimestamp"]);
    }
    assert_eq!(warning["message"], "no address in 10.1.0.0/16");
    let over = normal["message"].as_str().unwrap();
    assert!(
        over.starts_with("over after ") && over.ends_with(" s; it was: no address in 10.1.0.0/16")
    );
    let first = warning["firstTimestamp"].clone();
    readiness.conditions(by_name(&missing()));
    until("the second", || server.events()[1]["count"] == 2).await;
    let again = server.events()[1].clone();
    assert_eq!(again["firstTimestamp"], first);
    assert_ne!(again["lastTimestamp"], first);
    assert_eq!(server.events().len(), 2);
}

#[tokio::test]
async fn a_write_that_fails_is_tried_again_and_one_that_is_refused_for_good_is_not() {
    let Told {
        server,
        readiness,
        metrics,
    } = told().await;
    let failures = |codes: &[u16]| server.failures.lock().unwrap().extend(codes);
    let counted = |count: u64| {
        let line = format!("strait_errors_total{{kind=\"EventWrite\"}} {count}\n");
        metrics.text().contains(&line)
    };
    // Rights may come, as while a server starts.
    failures(&[500, 403, 409]);
    readiness.conditions(by_name(&missing()));
    until("the Event", || server.events().len() == 1).await;
    assert!(counted(3));
    let before = server.asked();
    failures(&[422]);
    readiness.conditions(by_name(&[]));
    until("the count", || counted(4)).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!((server.asked() - before, server.events().len()), (1, 1));
    readiness.conditions(by_name(&missing()));
    until("the next", || server.events()[0]["count"] == 2).await;
}

#[tokio::test]
async fn what_begins_while_the_server_is_away_is_told_when_it_is_back_as_it_is_then() {
    let Told {
        server,
        readiness,
        metrics,
    } = told().await;
    let other = || Condition::degraded("NoLocalGateway", "no Endpoint".to_owned());
    readiness.conditions(by_name(&[other()]));
    until("the first", || server.events().len() == 1).await;
    // More than would be tried in that time.
    server.failures.lock().unwrap().extend([500; 60]);
    readiness.conditions(by_name(&missing()));
    until("a failure", || metrics.text().contains("EventWrite")).await;
    let began = Timestamp::now();
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(server.events().len(), 1);
    server.failures.lock().unwrap().clear();
    until("what was kept", || server.events().len() == 3).await;
    let events = server.events();
    let of = |reason: &str, kind: &str| {
        let mut same = events.iter();
        same.find(|e| e["reason"] == reason && e["type"] == kind)
            .unwrap_or_else(|| panic!("{reason} {kind}: {events:?}"))
            .clone()
    };
    let over = of("NoLocalGateway", "Normal");
    assert!(over["message"].as_str().unwrap().starts_with("over after "));
    // It tells when it began, not when it could be told.
    let late = of("CniInterfaceNotFound", "Warning");
    let said: Timestamp = late["firstTimestamp"].as_str().unwrap().parse().unwrap();
    assert!(said <= began, "{said} {began}");
}

#[test]
fn names_are_good_for_any_node_and_differ_for_what_differs() {
    let reporter = |component, node: &str| Reporter {
        component,
        node: node.to_owned(),
    };
    let long = format!("{}.{}", "a".repeat(234), "b".repeat(18));
    let mut names = std::collections::BTreeSet::new();
    for node in ["n", "n.m", &long, &format!("{long}b")] {
        for component in ["strait-route-agent", "strait-gateway"] {
            for kind in ["Warning", "Normal"] {
                let name = reporter(component, node).name("ApplyFailed", kind);
                assert!(
                    name.len() <= 253 && !name.contains("..") && !name.contains("-."),
                    "{name}"
                );
                names.insert(name);
            }
        }
    }
    assert_eq!(names.len(), 16);
    assert_eq!(
        reporter("strait-gateway", "n").name("ApplyFailed", "Normal"),
        reporter("strait-gateway", "n").name("ApplyFailed", "Normal")
    );
}
