//! What `kubectl get events` and `kubectl describe node` tell users, and since when a RouteAgent says that something is so.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::{Duration, Instant};

use common::joined;
use serde_json::{Value, json};
use strait_lab::{CniChange, Lab, Options, Role};

const PATIENCE: Duration = Duration::from_secs(20);
const EVENTS: &str = "/api/v1/namespaces/default/events";
const MISSING: &str = "CniInterfaceNotFound";
/// The CNI comes when the test says so.
const NEVER: Duration = Duration::from_secs(3600);

/// The Events of a node with this reason and type, as any user may read them.
fn events(lab: &Lab, node: &str, reason: &str, kind: &str) -> Vec<Value> {
    let list = lab
        .api("east", "GET", EVENTS, &Value::Null)
        .expect("a list");
    let all = list["items"].as_array().expect("a list").clone();
    all.into_iter()
        .filter(|event| {
            event["involvedObject"]["kind"] == "Node"
                && event["involvedObject"]["name"] == node
                && event["reason"] == reason
                && event["type"] == kind
        })
        .collect()
}

/// Waits until `look` gives something.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn event(lab: &Lab, node: &str, component: &str, kind: &str) -> Value {
    let what = format!("a {kind} of {component} about {node}");
    until(&what, || {
        let mut all = events(lab, node, MISSING, kind);
        all.retain(|event| event["source"]["component"] == component);
        assert!(all.len() < 2, "{all:#?}");
        all.pop()
    })
}

/// A node's condition, as its RouteAgent tells it.
fn condition(lab: &Lab, node: &str, name: &str) -> Option<Value> {
    let path = format!("/apis/submariner.io/v1/namespaces/submariner-operator/routeagents/{node}");
    let object = lab
        .api("east", "GET", &path, &Value::Null)
        .expect("the object");
    let all = object["status"]["conditions"].as_array()?;
    all.iter()
        .find(|condition| condition["type"] == name)
        .cloned()
}

#[test]
fn a_late_cni_is_told_as_a_warning_about_the_node_and_its_coming_as_an_end() {
    let lab = joined(
        "events",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    for node in ["east-1", "east-2"] {
        let before = events(&lab, node, MISSING, "Warning");
        assert_eq!(
            before,
            Vec::<Value>::new(),
            "{node} was not without one for long"
        );
    }
    lab.reboot("east-2", NEVER).expect("it boots");
    let warning = event(&lab, "east-2", "strait-route-agent", "Warning");
    let message = warning["message"].as_str().expect("a text");
    assert!(
        message.starts_with("Error discovering the CNI interface"),
        "{message}"
    );
    assert_eq!(warning["source"]["host"], "east-2");
    let first = until("the condition", || condition(&lab, "east-2", MISSING));
    assert_eq!(first["status"], "True");
    let since = first["lastTransitionTime"].as_str().expect("a time");
    assert!(since.ends_with('Z') && since.contains('T'), "{since}");
    // A process that starts anew knows since when; another Event is not made, the one that is there counts on.
    std::thread::sleep(Duration::from_millis(2100));
    lab.restart("east-2", Role::RouteAgent).expect("it starts");
    until("the count", || {
        let again = event(&lab, "east-2", "strait-route-agent", "Warning");
        (again["count"] == json!(2)).then_some(())
    });
    let again = condition(&lab, "east-2", MISSING).expect("the condition");
    assert_eq!(again["lastTransitionTime"], first["lastTransitionTime"]);

    lab.cni("east-2", CniChange::Up).expect("its CNI comes");
    let normal = event(&lab, "east-2", "strait-route-agent", "Normal");
    let over = normal["message"].as_str().expect("a text");
    assert!(
        over.starts_with("over after ") && over.contains("Error discovering the CNI interface"),
        "{over}"
    );
    until("the end of the condition", || {
        condition(&lab, "east-2", MISSING).is_none().then_some(())
    });

    // The gateway tells of its node too.
    lab.cni("east-1", CniChange::Down).expect("its CNI goes");
    event(&lab, "east-1", "strait-gateway", "Warning");
    event(&lab, "east-1", "strait-route-agent", "Warning");
    lab.cni("east-1", CniChange::Up).expect("its CNI comes");
    event(&lab, "east-1", "strait-gateway", "Normal");
    event(&lab, "east-1", "strait-route-agent", "Normal");
}
