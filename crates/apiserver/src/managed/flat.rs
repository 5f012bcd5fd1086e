//! Objects as flat maps from the path of a field to its value.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::schema::{ListKind, Schema};
use crate::types::Type;

/// Steps to a field, written as in `fieldsV1`: `f:NAME`, `k:{KEYS}`, `v:VALUE`.
pub(super) type Path = Vec<String>;

/// A field's value, or that it is an item of a keyed list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Leaf<'a> {
    Value(&'a Value),
    Item,
}

pub(super) type Flat<'a> = BTreeMap<Path, Leaf<'a>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Root,
    Metadata,
    BuiltinStatus,
    Other,
}

/// How the value at a place is shared between managers.
#[derive(Clone, Debug)]
pub(super) struct Shape<'a> {
    schema: Option<&'a Schema>,
    builtin: bool,
    place: Place,
    list: Cow<'a, ListKind>,
}

const ATOMIC: ListKind = ListKind::Atomic;

impl<'a> Shape<'a> {
    pub(super) fn root(ty: &'a Type) -> Self {
        Self {
            schema: ty.schema.as_deref(),
            builtin: !ty.custom(),
            place: Place::Root,
            list: Cow::Borrowed(&ATOMIC),
        }
    }

    /// The shape of the field `key`; none if the field has no owner.
    fn child(&self, key: &str) -> Option<Self> {
        let plain = |place, list| Self {
            schema: None,
            builtin: self.builtin,
            place,
            list,
        };
        let keyed = |key: &str| Cow::Owned(ListKind::Map(vec![key.to_owned()]));
        match (self.place, key) {
            (Place::Root, "apiVersion" | "kind") => None,
            (Place::Root, "metadata") => Some(plain(Place::Metadata, Cow::Borrowed(&ATOMIC))),
            (Place::Root, "status") if self.builtin => {
                Some(plain(Place::BuiltinStatus, Cow::Borrowed(&ATOMIC)))
            }
            (Place::Metadata, "labels" | "annotations") => {
                Some(plain(Place::Other, Cow::Borrowed(&ATOMIC)))
            }
            (Place::Metadata, "finalizers") => Some(plain(Place::Other, Cow::Owned(ListKind::Set))),
            (Place::Metadata, "ownerReferences") => Some(plain(Place::Other, keyed("uid"))),
            (Place::Metadata, _) => None,
            (Place::BuiltinStatus, "conditions") => Some(plain(Place::Other, keyed("type"))),
            (Place::Root | Place::BuiltinStatus | Place::Other, _) => Some(Self::of(
                self.schema.and_then(|s| s.field(key)),
                self.builtin,
            )),
        }
    }

    fn item(&self) -> Self {
        Self::of(self.schema.and_then(Schema::items), self.builtin)
    }

    fn of(schema: Option<&'a Schema>, builtin: bool) -> Self {
        let list = schema.map_or(&ATOMIC, Schema::list_kind);
        Self {
            schema,
            builtin,
            place: Place::Other,
            list: Cow::Borrowed(list),
        }
    }

    fn atomic_map(&self) -> bool {
        self.schema.is_some_and(Schema::is_atomic_map)
    }
}

/// The step to an item of a shared list; none where the item lacks its keys, and the list is then owned as a whole.
fn item_step(kind: &ListKind, item: &Value) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(format!("v:{item}")),
        ListKind::Map(keys) => {
            let mut found = Map::new();
            for key in keys {
                if let Some(value) = item.get(key) {
                    found.insert(key.clone(), value.clone());
                }
            }
            (!found.is_empty()).then(|| format!("k:{}", Value::Object(found)))
        }
    }
}

fn item_steps(kind: &ListKind, items: &[Value]) -> Option<Vec<String>> {
    if items.is_empty() || *kind == ListKind::Atomic {
        return None;
    }
    items.iter().map(|item| item_step(kind, item)).collect()
}

pub(super) fn flatten<'a>(ty: &Type, object: &'a Value) -> Flat<'a> {
    let mut flat = Flat::new();
    walk(object, &Shape::root(ty), &mut Vec::new(), &mut flat);
    flat
}

fn walk<'a>(value: &'a Value, shape: &Shape<'_>, path: &mut Path, flat: &mut Flat<'a>) {
    match value {
        Value::Object(map) if !map.is_empty() && !shape.atomic_map() => {
            for (key, value) in map {
                if let Some(shape) = shape.child(key) {
                    path.push(format!("f:{key}"));
                    walk(value, &shape, path, flat);
                    path.pop();
                }
            }
        }
        Value::Array(items) => {
            let Some(steps) = item_steps(&shape.list, items) else {
                flat.insert(path.clone(), Leaf::Value(value));
                return;
            };
            for (step, item) in steps.into_iter().zip(items) {
                path.push(step);
                if *shape.list == ListKind::Set {
                    flat.insert(path.clone(), Leaf::Value(item));
                } else {
                    flat.insert(path.clone(), Leaf::Item);
                    walk(item, &shape.item(), path, flat);
                }
                path.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            if !path.is_empty() && *path != ["f:metadata"] {
                flat.insert(path.clone(), Leaf::Value(value));
            }
        }
    }
}

/// Merges `config` into `live` as apply does: objects by field, shared lists by item, everything else as a whole.
pub(super) fn merge(live: &mut Value, config: &Value, shape: &Shape<'_>) {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !shape.atomic_map() => {
            for (key, value) in config {
                let Some(shape) = shape.child(key) else {
                    live.entry(key.clone()).or_insert_with(|| value.clone());
                    continue;
                };
                if let Some(old) = live.get_mut(key) {
                    merge(old, value, &shape);
                } else {
                    live.insert(key.clone(), value.clone());
                }
            }
        }
        (Value::Array(live), Value::Array(config)) if *shape.list != ListKind::Atomic => {
            let (Some(wanted), true) = (
                item_steps(&shape.list, config),
                live.is_empty() || item_steps(&shape.list, live).is_some(),
            ) else {
                if !config.is_empty() {
                    live.clone_from(config);
                }
                return;
            };
            for (step, item) in wanted.into_iter().zip(config) {
                let found = live
                    .iter_mut()
                    .find(|old| item_step(&shape.list, old).as_ref() == Some(&step));
                match found {
                    Some(old) => merge(old, item, &shape.item()),
                    None => live.push(item.clone()),
                }
            }
        }
        (live, config) => live.clone_from(config),
    }
}

/// Removes the field at `path`, and the containers that this empties.
pub(super) fn remove(value: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    match value {
        Value::Object(map) => {
            let Some(key) = step.strip_prefix("f:") else {
                return;
            };
            let Some(child) = map.get_mut(key) else {
                return;
            };
            if !rest.is_empty() {
                remove(child, rest);
            }
            let emptied = match child {
                Value::Object(map) => map.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
            };
            if (rest.is_empty() || emptied) && key != "metadata" {
                map.remove(key);
            }
        }
        Value::Array(items) => {
            let found = items.iter().position(|item| is_item(step, item));
            if let Some(at) = found {
                if rest.is_empty() {
                    items.remove(at);
                } else if let Some(item) = items.get_mut(at) {
                    remove(item, rest);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_item(step: &str, item: &Value) -> bool {
    if let Some(text) = step.strip_prefix("v:") {
        return serde_json::from_str::<Value>(text).is_ok_and(|v| v == *item);
    }
    let keys = step
        .strip_prefix("k:")
        .and_then(|k| serde_json::from_str::<Map<String, Value>>(k).ok());
    keys.is_some_and(|keys| keys.iter().all(|(key, value)| item.get(key) == Some(value)))
}

/// Reads `fieldsV1`.
pub(super) fn parse_fields(node: &Map<String, Value>, path: &mut Path, out: &mut BTreeSet<Path>) {
    if node.is_empty() && !path.is_empty() {
        out.insert(path.clone());
    }
    for (step, child) in node {
        if step == "." {
            out.insert(path.clone());
        } else if let Some(child) = child.as_object() {
            path.push(step.clone());
            parse_fields(child, path, out);
            path.pop();
        }
    }
}

/// Writes `fieldsV1`.
pub(super) fn render_fields(fields: &BTreeSet<Path>) -> Value {
    let mut root = Value::Object(Map::new());
    for path in fields {
        let mut node = &mut root;
        for step in path {
            let Value::Object(map) = node else { break };
            node = map
                .entry(step.clone())
                .or_insert_with(|| Value::Object(Map::new()));
        }
    }
    for path in fields {
        let mut node = Some(&mut root);
        for step in path {
            node = node.and_then(|n| n.get_mut(step));
        }
        if let Some(Value::Object(map)) = node
            && !map.is_empty()
        {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
    }
    root
}

/// A path as people read it, such as `.spec.ports[{"port":80}].name`.
pub(super) fn display(path: &[String]) -> String {
    path.iter()
        .map(|step| match step.split_once(':') {
            Some(("f", name)) => format!(".{name}"),
            Some(("k", keys)) => format!("[{keys}]"),
            Some((_, other)) => format!("[={other}]"),
            None => step.clone(),
        })
        .collect()
}
