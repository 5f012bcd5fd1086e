//! What every object has: names, labels, annotations, owners, finalizers.

use serde_json::{Map, Value};

use crate::failure::Cause;

/// Fields of `metadata` that clients may set. Everything else is the server's or is dropped.
const CLIENTS: [&str; 9] = [
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "resourceVersion",
];
/// Fields of `metadata` that only the server sets.
pub const SERVERS: [&str; 5] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];
/// Most bytes of all annotations of an object (`apimachinery/pkg/api/validation/objectmeta.go`).
const MAX_ANNOTATIONS: usize = 256 << 10;

/// The text at `metadata.FIELD`, or an empty one.
#[must_use]
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The metadata of `object`, made if there is none.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    map_of(map_of(object).entry("metadata").or_insert(Value::Null))
}

/// The map that `value` is, made if it is something else.
fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else {
        unreachable!("made an object just above")
    };
    map
}

/// Whether the object has finalizers.
#[must_use]
pub fn has_finalizers(object: &Value) -> bool {
    object
        .get("metadata")
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array)
        .is_some_and(|f| !f.is_empty())
}

/// Whether the object is on its way out.
#[must_use]
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// Drops fields that no object has, and empty ones.
pub fn tidy(metadata: &mut Map<String, Value>) {
    metadata.retain(|key, value| {
        let known = CLIENTS.contains(&key.as_str()) || SERVERS.contains(&key.as_str());
        let empty = match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty() && key != "managedFields",
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        known && !empty
    });
}

/// What is wrong with an object's metadata.
#[must_use]
pub fn validate(object: &Value, namespaces: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    let invalid = |field: &str, value: &str, why: &str| {
        let field = format!("metadata.{field}");
        Cause::new(
            "FieldValueInvalid",
            field.clone(),
            format!("Invalid value: {value:?}: {why}"),
        )
    };
    let name = text(object, "name");
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                 and must start and end with an alphanumeric character";
    let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                     and must start and end with an alphanumeric character";
    if name.is_empty() {
        causes.push(Cause::new(
            "FieldValueRequired",
            "metadata.name",
            "Required value: name or generateName is required",
        ));
    } else if namespaces && !is_label(name) {
        causes.push(invalid("name", name, label));
    } else if !is_subdomain(name) {
        causes.push(invalid("name", name, subdomain));
    }
    let Some(metadata) = object.get("metadata").and_then(Value::as_object) else {
        return causes;
    };
    for field in ["labels", "annotations"] {
        let Some(map) = metadata.get(field) else {
            continue;
        };
        let Some(map) = map.as_object() else {
            causes.push(invalid(field, "", "must be a map of strings"));
            continue;
        };
        let mut size = 0;
        for (key, value) in map {
            let Some(value) = value.as_str() else {
                causes.push(invalid(field, key, "the value must be a string"));
                continue;
            };
            size += key.len() + value.len();
            if !is_qualified(&if field == "annotations" {
                key.to_lowercase()
            } else {
                key.clone()
            }) {
                causes.push(invalid(field, key, "not a qualified name"));
            }
            if field == "labels" && !(value.is_empty() || is_name_part(value)) {
                causes.push(invalid(
                    field,
                    value,
                    "a valid label must be at most 63 alphanumeric characters, '-', '_' or '.'",
                ));
            }
        }
        if field == "annotations" && size > MAX_ANNOTATIONS {
            causes.push(Cause::new(
                "FieldValueTooLong",
                "metadata.annotations",
                "Too long: may not be more than 262144 bytes",
            ));
        }
    }
    if let Some(list) = metadata.get("finalizers") {
        let right = list
            .as_array()
            .is_some_and(|l| l.iter().all(|f| f.as_str().is_some_and(is_qualified)));
        if !right {
            causes.push(invalid(
                "finalizers",
                &list.to_string(),
                "must be a list of qualified names",
            ));
        }
    }
    if let Some(list) = metadata.get("ownerReferences") {
        let full = |o: &Value| {
            ["apiVersion", "kind", "name", "uid"].iter().all(|k| {
                o.get(k)
                    .and_then(Value::as_str)
                    .is_some_and(|t| !t.is_empty())
            })
        };
        if !list.as_array().is_some_and(|l| l.iter().all(full)) {
            causes.push(invalid(
                "ownerReferences",
                &list.to_string(),
                "each needs apiVersion, kind, name and uid",
            ));
        }
    }
    causes
}

/// Whether `text` is a DNS label (RFC 1123), in lower case.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` is a DNS subdomain (RFC 1123), in lower case. Its labels may be longer than 63 bytes, as in Kubernetes.
#[must_use]
pub fn is_subdomain(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let part =
        |p: &str| !p.is_empty() && p.bytes().all(inner) && !p.starts_with('-') && !p.ends_with('-');
    text.len() <= 253 && text.split('.').all(part)
}

fn is_name_part(text: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.bytes().next())
        && ends(text.bytes().last())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name_part(name),
        None => is_name_part(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_that_kubernetes_refuses_is_refused() {
        for (metadata, field) in [
            (json!({}), "metadata.name"),
            (json!({"name": "A"}), "metadata.name"),
            (json!({"name": "a/b"}), "metadata.name"),
            (json!({"name": ".."}), "metadata.name"),
            (json!({"name": "x".repeat(254)}), "metadata.name"),
            (json!({"name": "a", "labels": {"a": 1}}), "metadata.labels"),
            (
                json!({"name": "a", "labels": {"a b": ""}}),
                "metadata.labels",
            ),
            (
                json!({"name": "a", "labels": {"a": "x".repeat(64)}}),
                "metadata.labels",
            ),
            (json!({"name": "a", "labels": []}), "metadata.labels"),
            (
                json!({"name": "a", "annotations": {"a": "x".repeat(300_000)}}),
                "metadata.annotations",
            ),
            (
                json!({"name": "a", "finalizers": "x"}),
                "metadata.finalizers",
            ),
            (
                json!({"name": "a", "ownerReferences": [{}]}),
                "metadata.ownerReferences",
            ),
        ] {
            let causes = validate(&json!({"metadata": metadata}), false);
            assert_eq!(
                causes.iter().map(|c| c.field.as_str()).collect::<Vec<_>>(),
                [field],
                "{metadata}"
            );
        }
    }

    #[test]
    fn metadata_that_submariner_writes_is_taken() {
        let metadata = json!({
            "name": "east-submariner-cable-east-172-18-0-5.x", "labels": {"submariner-io/clusterID": "east", "a": ""},
            "annotations": {"strait.io/vtep-mac": "02:00:00:00:00:01"}, "finalizers": ["strait.io/x"],
        });
        assert_eq!(validate(&json!({"metadata": metadata}), false), []);
        assert!(!validate(&json!({"metadata": {"name": "a.b"}}), true).is_empty());
    }
}
