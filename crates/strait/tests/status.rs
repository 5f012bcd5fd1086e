//! What a RouteAgent object costs its server: nothing while there is nothing to say.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::{Duration, Instant};

use common::{conditions, joined};
use serde_json::{Value, json};
use strait_lab::{Lab, Options, Role};

const PATIENCE: Duration = Duration::from_secs(20);
const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/routeagents.submariner.io";
const AGENT: &str = "/apis/submariner.io/v1/namespaces/submariner-operator/routeagents/east-2";

/// How often a node's agent wrote its object.
fn written(lab: &Lab, node: &str) -> u64 {
    let page = lab.page(node, Role::RouteAgent, "/metrics");
    let text = page.expect("a page");
    let line = "strait_changes_total{object=\"status\"} ";
    let value = text.lines().find_map(|l| l.strip_prefix(line));
    value.map_or(0, |v| v.parse().expect("a number"))
}

fn status(lab: &Lab) -> Value {
    let object = lab.api("east", "GET", AGENT, &Value::Null);
    object.expect("a RouteAgent")["status"].clone()
}

fn until(what: &str, good: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !good() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_that_drops_the_conditions_is_not_written_to_for_ever() {
    let environment = [
        ("STRAIT_VERIFY_INTERVAL", "1"),
        ("SUBMARINER_HEALTHCHECKENABLED", "false"),
    ];
    let lab = joined(
        "pruned",
        Options {
            nodes: 2,
            environment: environment
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Options::default()
        },
    );
    // As Submariner defines it.
    let there = lab.api("east", "GET", DEFINITION, &Value::Null);
    let mut versions = there.expect("a definition")["spec"]["versions"].clone();
    let schema = &mut versions[0]["schema"]["openAPIV3Schema"];
    let fields = schema["properties"]["status"]["properties"].as_object_mut();
    let gone = fields.expect("fields").remove("conditions");
    assert!(gone.is_some());
    let without = json!({"spec": {"versions": versions}});
    lab.api("east", "PATCH", DEFINITION, &without)
        .expect("a patch");
    // Something that is to be told, and stays.
    let bad = json!({"metadata": {"annotations": {"submariner.io/tcp-clamp-mss": "much"}}});
    lab.api("east", "PATCH", "/api/v1/nodes/east-2", &bad)
        .expect("a patch");
    until("it is told", || {
        let failure = &status(&lab)["statusFailure"];
        failure.as_str().is_some_and(|text| text.contains("much"))
    });
    assert_eq!(conditions(&lab, "east-2"), ["InvalidAnnotation"]);
    assert_eq!(
        status(&lab).get("conditions"),
        None,
        "the server drops them"
    );
    let before = written(&lab, "east-2");
    assert!(before > 0);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(
        written(&lab, "east-2"),
        before,
        "it is looked at every second"
    );
    // Somebody alters it, or takes it away.
    let other = json!({"status": {"statusFailure": "nothing"}});
    lab.api("east", "PATCH", AGENT, &other).expect("a patch");
    until("it is as it was", || {
        let failure = &status(&lab)["statusFailure"];
        failure.as_str().is_some_and(|text| text.contains("much"))
    });
    lab.api("east", "DELETE", AGENT, &Value::Null)
        .expect("it goes");
    until("it is back", || {
        lab.api("east", "GET", AGENT, &Value::Null).is_ok()
    });
    assert_eq!(written(&lab, "east-2"), before + 2);
}
