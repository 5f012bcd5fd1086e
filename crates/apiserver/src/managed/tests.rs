use std::sync::Arc;

use super::*;
use crate::schema::Schema;
use crate::types::Types;

fn ty() -> Type {
    let node = Types::builtin().get("", "v1", "nodes").unwrap();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "proto"],
            "items": {"type": "object", "properties": {
                "port": {"type": "integer"}, "proto": {"type": "string"}, "name": {"type": "string"}}}},
        "zones": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}},
        "selector": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
    }}}});
    Type {
        schema: Some(Arc::new(Schema::compile(&schema).unwrap())),
        ..(*node).clone()
    }
}

fn by(manager: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        apply: true,
        status: false,
        now: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn merged(live: &Value, manager: &str, spec: Value) -> Result<Value, Failure> {
    apply(
        &ty(),
        live,
        &json!({"metadata": {"name": "a"}, "spec": spec}),
        &by(manager),
        false,
    )
}

fn empty() -> Value {
    json!({"metadata": {}})
}

#[test]
fn items_of_keyed_lists_have_owners_of_their_own() {
    let live = merged(
        &empty(),
        "a",
        json!({"ports": [{"port": 1, "proto": "tcp", "name": "x"}]}),
    )
    .unwrap();
    let live = merged(&live, "b", json!({"ports": [{"port": 1, "proto": "udp"}]})).unwrap();
    assert_eq!(live["spec"]["ports"].as_array().unwrap().len(), 2);
    let other = merged(
        &live,
        "b",
        json!({"ports": [{"port": 1, "proto": "tcp", "name": "y"}]}),
    )
    .unwrap_err();
    assert_eq!(other.causes.len(), 1);
    assert_eq!(
        other.causes[0].field,
        r#".spec.ports[{"port":1,"proto":"tcp"}].name"#
    );
    let left = merged(&live, "a", json!({})).unwrap();
    assert_eq!(
        left["spec"],
        json!({"ports": [{"port": 1, "proto": "udp"}]})
    );
}

#[test]
fn items_of_sets_come_and_go_one_by_one_and_plain_lists_as_a_whole() {
    let live = merged(&empty(), "a", json!({"zones": ["x", "y"], "plain": ["1"]})).unwrap();
    let live = merged(&live, "b", json!({"zones": ["y", "z"]})).unwrap();
    assert_eq!(live["spec"]["zones"], json!(["x", "y", "z"]));
    let live = merged(&live, "a", json!({"zones": ["x"], "plain": ["2"]})).unwrap();
    assert_eq!(
        live["spec"],
        json!({"zones": ["x", "y", "z"], "plain": ["2"]})
    );
    let other = merged(&live, "b", json!({"zones": ["z"], "plain": ["3"]})).unwrap_err();
    assert_eq!(other.causes[0].field, ".spec.plain");
}

#[test]
fn an_atomic_map_is_replaced_as_a_whole() {
    let live = merged(&empty(), "a", json!({"selector": {"x": "1"}})).unwrap();
    assert_eq!(
        merged(&live, "b", json!({"selector": {"y": "1"}}))
            .unwrap_err()
            .causes[0]
            .field,
        ".spec.selector"
    );
    let live = merged(&live, "a", json!({"selector": {"y": "2"}})).unwrap();
    assert_eq!(live["spec"]["selector"], json!({"y": "2"}));
}

#[test]
fn field_sets_survive_the_round_trip() {
    let live = merged(
        &empty(),
        "a",
        json!({"ports": [{"port": 1, "proto": "tcp"}], "zones": ["x"]}),
    )
    .unwrap();
    let entry = &live["metadata"]["managedFields"][0];
    let want = json!({"f:spec": {
        "f:ports": {r#"k:{"port":1,"proto":"tcp"}"#: {".": {}, "f:port": {}, "f:proto": {}}},
        "f:zones": {"v:\"x\"": {}}}});
    assert_eq!(entry["fieldsV1"], want);
    assert_eq!(Entry::parse(entry).unwrap().render(), *entry);
}
