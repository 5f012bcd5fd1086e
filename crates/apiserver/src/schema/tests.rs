use serde_json::json;

use super::*;

fn schema() -> Schema {
    Schema::compile(&json!({
        "type": "object", "required": ["spec"],
        "properties": {"spec": {
            "type": "object", "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 2, "maxLength": 4},
                "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                "either": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "maybe": {"type": "string", "nullable": true},
                "config": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "list": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {
                    "x": {"type": "boolean", "default": true}}}},
                "nested": {"type": "object", "default": {}, "properties": {"deep": {"type": "integer", "default": 7}}},
            },
        }},
    }))
    .unwrap()
}

fn paths(object: &Value) -> Vec<String> {
    schema()
        .validate(object)
        .into_iter()
        .map(|c| format!("{} {}", c.field, c.reason))
        .collect()
}

#[test]
fn unknown_fields_go_and_free_ones_stay() {
    let mut object = json!({
        "apiVersion": "g/v", "kind": "K", "metadata": {"name": "x"}, "extra": 1,
        "spec": {"name": "ab", "typo": 1, "config": {"any": "x"}, "free": {"a": {"b": 1}}, "list": [{"y": 1}]},
    });
    let dropped = schema().prune(&mut object);
    assert_eq!(dropped, ["extra", "spec.list[0].y", "spec.typo"]);
    assert_eq!(object["spec"]["free"]["a"]["b"], 1);
    assert_eq!(object["spec"]["config"]["any"], "x");
    assert_eq!(object["metadata"]["name"], "x");
}

#[test]
fn defaults_fill_gaps_at_every_depth() {
    let mut object = json!({"spec": {"name": "ab", "mode": null, "maybe": null, "list": [{}]}});
    schema().fill_in(&mut object);
    let want = json!({"spec": {
        "name": "ab", "mode": "a", "maybe": null, "list": [{"x": true}], "nested": {"deep": 7}}});
    assert_eq!(object, want);
}

#[test]
fn each_rule_names_the_path_that_breaks_it() {
    let with = |field: &str, value: Value| json!({"spec": {"name": "ab", field: value}});
    assert_eq!(paths(&json!({})), ["spec FieldValueRequired"]);
    assert_eq!(
        paths(&json!({"spec": {}})),
        ["spec.name FieldValueRequired"]
    );
    assert_eq!(paths(&json!({"spec": 3})), ["spec FieldValueTypeInvalid"]);
    for (object, want) in [
        (with("name", json!("a")), "spec.name FieldValueInvalid"),
        (with("name", json!("abcde")), "spec.name FieldValueTooLong"),
        (with("mode", json!("c")), "spec.mode FieldValueNotSupported"),
        (with("port", json!(0)), "spec.port FieldValueInvalid"),
        (with("port", json!(65_536)), "spec.port FieldValueInvalid"),
        (with("port", json!(1.5)), "spec.port FieldValueTypeInvalid"),
        (with("port", json!("1")), "spec.port FieldValueTypeInvalid"),
        (
            with("either", json!(true)),
            "spec.either FieldValueTypeInvalid",
        ),
        (
            with("config", json!({"a": 1})),
            "spec.config.a FieldValueTypeInvalid",
        ),
        (
            with("list", json!([{"x": 1}])),
            "spec.list[0].x FieldValueTypeInvalid",
        ),
        (
            with("list", json!([{}, {}, {}])),
            "spec.list FieldValueTooMany",
        ),
    ] {
        assert_eq!(paths(&object), [want], "{object}");
    }
    let good =
        json!({"spec": {"name": "abcd", "mode": "b", "port": 1.0, "either": "1", "maybe": null}});
    assert_eq!(paths(&good), Vec::<String>::new());
    assert_eq!(paths(&with("either", json!(1))), Vec::<String>::new());
}

#[test]
fn keyed_lists_hold_each_key_once() {
    let schema = Schema::compile(&json!({"type": "object", "properties": {"list": {
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {"type": "object", "properties": {"type": {"type": "string"}}}}}}))
    .unwrap();
    let found = schema.validate(&json!({"list": [{"type": "a"}, {"type": "b"}, {"type": "a"}]}));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].field, "list[2]");
}

#[test]
fn a_schema_that_cannot_be_is_refused() {
    assert!(
        Schema::compile(&json!({"properties": {"a": {"type": "text"}}}))
            .unwrap_err()
            .contains("properties[a]")
    );
    assert!(Schema::compile(&json!([])).is_err());
}
