//! Who owns which field (`metadata.managedFields`), and server-side apply.
//!
//! A field is a leaf: a scalar, an empty object, or a list or object that is owned as a whole. A list that
//! the schema calls a set or a map has its items as fields. Built-in kinds have no schema here: their lists are owned as
//! a whole, but for finalizers (a set), owner references (by `uid`) and `status.conditions` (by `type`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::failure::{Cause, Failure};
use crate::types::Type;

mod flat;

use flat::{Flat, Path, Shape};

/// Who writes, and by which way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The field manager's name.
    pub manager: String,
    /// Whether it writes by server-side apply.
    pub apply: bool,
    /// Whether it writes through `/status`.
    pub status: bool,
    /// Time of the write, RFC 3339 in whole seconds.
    pub now: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    apply: bool,
    subresource: String,
    api_version: String,
    time: String,
    fields: BTreeSet<Path>,
}

impl Entry {
    fn parse(value: &Value) -> Option<Self> {
        let text = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let mut fields = BTreeSet::new();
        flat::parse_fields(
            value.get("fieldsV1")?.as_object()?,
            &mut Vec::new(),
            &mut fields,
        );
        let apply = match value.get("operation")?.as_str()? {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            apply,
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: text("time"),
            fields,
        })
    }

    fn render(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": flat::render_fields(&self.fields),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }

    fn is(&self, writer: &Writer) -> bool {
        self.manager == writer.manager
            && self.apply == writer.apply
            && self.subresource == subresource(writer)
    }
}

fn subresource(writer: &Writer) -> &'static str {
    if writer.status { "status" } else { "" }
}

/// The entries of an object; what cannot be understood is left out.
fn entries(object: &Value) -> Vec<Entry> {
    let list = object
        .get("metadata")
        .and_then(|m| m.get("managedFields"))
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Entry::parse)
        .collect()
}

fn store(object: &mut Value, entries: &[Entry]) {
    let rendered = entries
        .iter()
        .filter(|e| !e.fields.is_empty())
        .map(Entry::render)
        .collect::<Vec<_>>();
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    if rendered.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(rendered));
    }
}

/// The writer's entry, made if there is none.
fn own<'a>(entries: &'a mut Vec<Entry>, writer: &Writer, ty: &Type) -> Option<&'a mut Entry> {
    if !entries.iter().any(|e| e.is(writer)) {
        entries.push(Entry {
            manager: writer.manager.clone(),
            apply: writer.apply,
            subresource: subresource(writer).to_owned(),
            api_version: ty.api_version(),
            time: writer.now.clone(),
            fields: BTreeSet::new(),
        });
    }
    entries.iter_mut().find(|e| e.is(writer))
}

/// Records what an ordinary write changed: `new` gets the managed fields that follow from `old`'s, or from its own where
/// the client sent some.
pub fn record(ty: &Type, old: Option<&Value>, new: &mut Value, writer: &Writer) {
    let sent = new
        .get("metadata")
        .and_then(|m| m.get("managedFields"))
        .is_some_and(Value::is_array);
    let mut entries = match old {
        Some(old) if !sent => entries(old),
        Some(_) => entries(new),
        None => Vec::new(),
    };
    let before = old.map(|old| flat::flatten(ty, old)).unwrap_or_default();
    let after = flat::flatten(ty, new);
    let (changed, removed) = difference(&before, &after);
    for entry in &mut entries {
        entry.fields.retain(|p| {
            !removed.contains(p)
                && (entry_is(&entry.manager, entry.apply, &entry.subresource, writer)
                    || !changed.contains(p))
        });
    }
    if !changed.is_empty()
        && let Some(entry) = own(&mut entries, writer, ty)
    {
        entry.fields.extend(changed);
        entry.time.clone_from(&writer.now);
        entry.api_version = ty.api_version();
    }
    store(new, &entries);
}

fn entry_is(manager: &str, apply: bool, sub: &str, writer: &Writer) -> bool {
    manager == writer.manager && apply == writer.apply && sub == subresource(writer)
}

fn difference(before: &Flat<'_>, after: &Flat<'_>) -> (BTreeSet<Path>, BTreeSet<Path>) {
    let changed = after
        .iter()
        .filter(|(p, v)| before.get(*p) != Some(v))
        .map(|(p, _)| p.clone())
        .collect();
    let removed = before
        .keys()
        .filter(|p| !after.contains_key(*p))
        .cloned()
        .collect();
    (changed, removed)
}

/// Applies `config` to `live`: the merged object, with its managed fields.
///
/// # Errors
/// 409 when fields that `config` changes belong to other managers and `force` is not set.
pub fn apply(
    ty: &Type,
    live: &Value,
    config: &Value,
    writer: &Writer,
    force: bool,
) -> Result<Value, Failure> {
    let mut entries = entries(live);
    let wanted = flat::flatten(ty, config)
        .into_keys()
        .collect::<BTreeSet<_>>();
    let mut merged = live.clone();
    flat::merge(&mut merged, config, &Shape::root(ty));

    let before = flat::flatten(ty, live);
    let (changed, removed) = {
        let after = flat::flatten(ty, &merged);
        difference(&before, &after)
    };
    let mut causes = Vec::new();
    for entry in entries.iter_mut().filter(|e| !e.is(writer)) {
        let lost = entry
            .fields
            .iter()
            .filter(|p| changed.contains(*p) || removed.contains(*p))
            .cloned();
        let lost = lost.collect::<Vec<_>>();
        if force {
            entry.fields.retain(|p| !lost.contains(p));
            continue;
        }
        let how = if entry.apply { "" } else { " using " };
        let version = if entry.apply {
            ""
        } else {
            entry.api_version.as_str()
        };
        let message = format!("conflict with {:?}{how}{version}", entry.manager);
        causes.extend(
            lost.iter()
                .map(|p| Cause::new("FieldManagerConflict", flat::display(p), message.clone())),
        );
    }
    if !causes.is_empty() {
        return Err(Failure::apply_conflict(causes));
    }

    let previous = entries
        .iter()
        .find(|e| e.is(writer))
        .map(|e| e.fields.clone())
        .unwrap_or_default();
    let others = entries
        .iter()
        .filter(|e| !e.is(writer))
        .flat_map(|e| e.fields.iter())
        .collect::<BTreeSet<_>>();
    let given_up = {
        let after = flat::flatten(ty, &merged);
        let kept = |p: &Path| {
            others
                .range::<Path, _>(p..)
                .next()
                .is_some_and(|o| o.starts_with(p))
        };
        let dropped = previous
            .difference(&wanted)
            .filter(|p| after.contains_key(*p) && !kept(p));
        dropped.cloned().collect::<Vec<_>>()
    };
    for path in &given_up {
        flat::remove(&mut merged, path);
    }
    let same = previous == wanted;
    if let Some(entry) = own(&mut entries, writer, ty) {
        entry.fields = wanted;
        entry.api_version = ty.api_version();
        if !same {
            entry.time.clone_from(&writer.now);
        }
    }
    store(&mut merged, &entries);
    Ok(merged)
}

/// Whether two versions of an object differ in nothing but the times in their managed fields.
#[must_use]
pub fn same_but_times(old: &Value, new: &Value) -> bool {
    let without = |object: &Value| -> (Option<Map<String, Value>>, Option<Map<_, _>>) {
        let mut rest = object.as_object().cloned();
        let metadata = rest.as_mut().and_then(|o| o.remove("metadata"));
        let mut metadata = metadata.and_then(|m| m.as_object().cloned());
        if let Some(m) = metadata.as_mut() {
            m.remove("managedFields");
        }
        (rest, metadata)
    };
    let owners = |object: &Value| -> BTreeMap<(String, bool, String), BTreeSet<Path>> {
        entries(object)
            .into_iter()
            .map(|e| ((e.manager, e.apply, e.subresource), e.fields))
            .collect()
    };
    without(old) == without(new) && owners(old) == owners(new)
}

#[cfg(test)]
mod tests;
