//! Merge patch (RFC 7386) and JSON patch (RFC 6902).

use serde_json::{Map, Value};

use crate::failure::Failure;

/// Most operations that one JSON patch may hold.
const MAX_OPERATIONS: usize = 1000;
/// Most bytes that the `copy` operations of one JSON patch may add, so that copies of copies can't grow without bound.
const MAX_COPIED: usize = 3 << 20;
/// Deepest nesting that a JSON patch may build.
const MAX_DEPTH: usize = 100;

/// Applies a merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies a JSON patch.
///
/// # Errors
/// 400 when the patch is malformed, 422 when it does not fit the object.
pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Failure> {
    let operations = patch
        .as_array()
        .ok_or_else(|| Failure::bad_request("a JSON patch must be a list"))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(Failure::too_large(format!(
            "a JSON patch may hold at most {MAX_OPERATIONS} operations"
        )));
    }
    let mut copied = 0;
    for operation in operations {
        let text = |key: &str| {
            operation.get(key).and_then(Value::as_str).ok_or_else(|| {
                Failure::bad_request(format!("a JSON patch operation needs {key:?}"))
            })
        };
        let value = || {
            operation
                .get("value")
                .cloned()
                .ok_or_else(|| Failure::bad_request("a JSON patch operation needs \"value\""))
        };
        let path = pointer(text("path")?)?;
        match text("op")? {
            "add" => add(target, &path, value()?)?,
            "remove" => drop(remove(target, &path)?),
            "replace" => *find(target, &path).ok_or_else(misfit)? = value()?,
            "move" => {
                let from = pointer(text("from")?)?;
                if path.starts_with(&from) && path != from {
                    return Err(misfit());
                }
                let value = remove(target, &from)?;
                add(target, &path, value)?;
            }
            "copy" => {
                let value = find(target, &pointer(text("from")?)?)
                    .ok_or_else(misfit)?
                    .clone();
                copied += value.to_string().len();
                if copied > MAX_COPIED {
                    return Err(Failure::too_large(
                        "the copies of the JSON patch are too large",
                    ));
                }
                add(target, &path, value)?;
            }
            "test" => {
                if find(target, &path).map(|v| &*v) != Some(&value()?) {
                    return Err(misfit());
                }
            }
            other => {
                return Err(Failure::bad_request(format!(
                    "unknown JSON patch operation {other:?}"
                )));
            }
        }
        if depth(target) > MAX_DEPTH {
            return Err(Failure::too_large("the JSON patch nests too deeply"));
        }
    }
    Ok(())
}

/// How deeply `value` nests; a scalar is 1.
#[must_use]
pub fn depth(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => map.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn misfit() -> Failure {
    Failure::invalid(
        "",
        "JSON patch",
        "",
        vec![crate::failure::Cause::new(
            "FieldValueInvalid",
            "patch",
            "the server rejected our request due to an error in our request: the patch does not fit the object",
        )],
    )
}

fn pointer(text: &str) -> Result<Vec<String>, Failure> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let steps = text
        .strip_prefix('/')
        .ok_or_else(|| Failure::bad_request(format!("not a JSON pointer: {text:?}")))?;
    Ok(steps
        .split('/')
        .map(|s| s.replace("~1", "/").replace("~0", "~"))
        .collect())
}

fn index(step: &str, length: usize) -> Option<usize> {
    let plain = step == "0" || (!step.starts_with('0') && step.bytes().all(|b| b.is_ascii_digit()));
    plain
        .then(|| step.parse().ok())
        .flatten()
        .filter(|i| *i < length)
}

fn find<'a>(target: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(target, |value, step| match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(items) => index(step, items.len()).and_then(|i| items.get_mut(i)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

fn add(target: &mut Value, path: &[String], value: Value) -> Result<(), Failure> {
    let Some((last, parent)) = path.split_last() else {
        *target = value;
        return Ok(());
    };
    match find(target, parent).ok_or_else(misfit)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(last, items.len() + 1).ok_or_else(misfit)?;
            items.insert(at, value);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(misfit()),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &[String]) -> Result<Value, Failure> {
    let (last, parent) = path.split_last().ok_or_else(misfit)?;
    match find(target, parent).ok_or_else(misfit)? {
        Value::Object(map) => map.remove(last).ok_or_else(misfit),
        Value::Array(items) => {
            let at = index(last, items.len()).ok_or_else(misfit)?;
            Ok(items.remove(at))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(misfit()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patch_follows_the_rfc() {
        let mut object = json!({"a": "b", "c": {"d": "e", "f": "g"}, "l": [1, 2]});
        merge(
            &mut object,
            &json!({"a": "z", "c": {"f": null}, "l": [3], "n": {"x": null, "y": 1}}),
        );
        assert_eq!(
            object,
            json!({"a": "z", "c": {"d": "e"}, "l": [3], "n": {"y": 1}})
        );
    }

    #[test]
    fn json_patch_follows_the_rfc() {
        let mut object = json!({"a": {"b~/": [1, 3]}, "x": 1});
        let patch = json!([
            {"op": "test", "path": "/x", "value": 1},
            {"op": "add", "path": "/a/b~0~1/1", "value": 2},
            {"op": "add", "path": "/a/b~0~1/-", "value": 4},
            {"op": "replace", "path": "/a/b~0~1/0", "value": 0},
            {"op": "copy", "from": "/a", "path": "/c"},
            {"op": "move", "from": "/x", "path": "/y"},
            {"op": "remove", "path": "/a"},
        ]);
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"c": {"b~/": [0, 2, 3, 4]}, "y": 1}));
    }

    #[test]
    fn a_json_patch_that_does_not_fit_is_refused() {
        for (patch, code) in [
            (json!([{"op": "remove", "path": "/none"}]), 422),
            (json!([{"op": "test", "path": "/a", "value": 2}]), 422),
            (json!([{"op": "add", "path": "/l/7", "value": 2}]), 422),
            (json!([{"op": "move", "from": "/o", "path": "/o/p"}]), 422),
            (json!([{"op": "remove", "path": ""}]), 422),
            (json!([{"op": "frob", "path": "/a"}]), 400),
            (json!([{"op": "add", "path": "/a"}]), 400),
            (json!([{"op": "add", "path": "a", "value": 1}]), 400),
            (json!({}), 400),
        ] {
            let mut object = json!({"a": 1, "l": [], "o": {}});
            assert_eq!(
                json_patch(&mut object, &patch).unwrap_err().code,
                code,
                "{patch}"
            );
        }
    }

    #[test]
    fn copies_of_copies_do_not_grow_without_bound() {
        let mut object = json!({"a": "x".repeat(1000)});
        let patch = (0..200)
            .map(|i| json!({"op": "copy", "from": "", "path": format!("/k{i}")}))
            .collect();
        assert_eq!(
            json_patch(&mut object, &Value::Array(patch))
                .unwrap_err()
                .code,
            413
        );
        assert!(depth(&object) <= MAX_DEPTH + 1);
    }
}
