//! What becomes of an object that a client writes: pure functions from the old version and the request to the new one.

use serde_json::{Value, json};

use crate::crd;
use crate::failure::{Cause, Failure};
use crate::managed::{self, Writer};
use crate::metadata;
use crate::patch;
use crate::types::{CRDS, Type};

/// Largest object, bytes as JSON (etcd takes 1.5 MiB; requests are limited to 3 MiB).
const MAX_OBJECT: usize = 3 << 20;
/// Deepest nesting of an object; what is deeper could not be read back.
const MAX_DEPTH: usize = 100;

/// What a request brings besides the object.
#[derive(Clone, Debug)]
pub struct Context {
    /// Who writes.
    pub writer: Writer,
    /// Whether unknown fields are an error (`fieldValidation=Strict`).
    pub strict: bool,
    /// A fresh UID, for an object that is made.
    pub uid: String,
    /// A fresh suffix for `generateName`.
    pub suffix: String,
}

/// What a write comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing changes.
    Same,
    /// The object is stored.
    Put(Value),
    /// The last finalizer went from an object that was to be deleted: it goes.
    Gone(Value),
}

/// Reads one object of type `ty` out of a request's body.
///
/// # Errors
/// 400 when it is of another kind, version or namespace.
pub fn check_identity(
    ty: &Type,
    body: &mut Value,
    namespace: &str,
    name: Option<&str>,
) -> Result<(), Failure> {
    let Some(map) = body.as_object() else {
        return Err(Failure::bad_request("the body must be an object"));
    };
    for (field, want) in [("kind", ty.kind.clone()), ("apiVersion", ty.api_version())] {
        match map.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(got)) if *got == want => {}
            Some(got) => {
                let message =
                    format!("{field} in the object ({got}) does not match the request ({want:?})");
                return Err(Failure::bad_request(message));
            }
        }
    }
    if map
        .get("metadata")
        .is_some_and(|m| !m.is_object() && !m.is_null())
    {
        return Err(Failure::bad_request("metadata must be an object"));
    }
    body["apiVersion"] = json!(ty.api_version());
    body["kind"] = json!(ty.kind);
    let metadata = metadata::of(body);
    for field in [
        "name",
        "generateName",
        "namespace",
        "resourceVersion",
        "uid",
    ] {
        if metadata
            .get(field)
            .is_some_and(|v| !v.is_string() && !v.is_null())
        {
            return Err(Failure::bad_request(format!(
                "metadata.{field} must be a string"
            )));
        }
    }
    let got = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !got.is_empty() && got != namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if namespace.is_empty() {
        metadata.remove("namespace");
    } else {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    if let Some(name) = name {
        let got = metadata
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !got.is_empty() && got != name {
            let message = format!(
                "the name of the object ({got}) does not match the name on the URL ({name})"
            );
            return Err(Failure::bad_request(message));
        }
        metadata.insert("name".to_owned(), json!(name));
    }
    Ok(())
}

/// Checks that the configuration of an apply says what it is.
///
/// # Errors
/// 400 when it does not.
pub fn check_apply(config: &Value) -> Result<(), Failure> {
    for field in ["apiVersion", "kind"] {
        if config
            .get(field)
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            return Err(Failure::bad_request(format!("an apply needs {field}")));
        }
    }
    Ok(())
}

/// Drops from a custom resource what its schema does not know.
///
/// # Errors
/// 400 for unknown fields, where the client wants that.
pub fn prune(ty: &Type, object: &mut Value, strict: bool) -> Result<(), Failure> {
    let Some(schema) = &ty.schema else {
        return Ok(());
    };
    let dropped = schema.prune(object);
    if strict && !dropped.is_empty() {
        let list = dropped
            .iter()
            .map(|p| format!("unknown field \"{p}\""))
            .collect::<Vec<_>>()
            .join(", ");
        return Err(Failure::bad_request(format!(
            "strict decoding error: {list}"
        )));
    }
    Ok(())
}

/// The first version of an object.
///
/// # Errors
/// 400 and 422 when the body is not a valid object of its type.
pub fn create(ty: &Type, mut object: Value, context: &Context) -> Result<Value, Failure> {
    let metadata = metadata::of(&mut object);
    if metadata
        .get("resourceVersion")
        .and_then(Value::as_str)
        .is_some_and(|v| !v.is_empty())
    {
        return Err(Failure::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    for field in metadata::SERVERS {
        metadata.remove(field);
    }
    if metadata
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .is_empty()
        && let Some(prefix) = metadata
            .get("generateName")
            .and_then(Value::as_str)
            .filter(|p| !p.is_empty())
    {
        // Kubernetes cuts the prefix so that the name stays within 63 bytes.
        let cut = prefix
            .char_indices()
            .map(|(at, _)| at)
            .take_while(|at| *at <= 58)
            .last()
            .unwrap_or(0);
        let prefix = if prefix.len() > 58 {
            &prefix[..cut]
        } else {
            prefix
        };
        let name = format!("{prefix}{}", context.suffix);
        metadata.insert("name".to_owned(), json!(name));
    }
    metadata.insert("uid".to_owned(), json!(context.uid));
    metadata.insert("creationTimestamp".to_owned(), json!(context.writer.now));
    if ty.generation {
        metadata.insert("generation".to_owned(), json!(1));
    }
    if let Some(map) = object
        .as_object_mut()
        .filter(|_| ty.status && !(ty.group.is_empty() && ty.plural == "nodes"))
    {
        map.remove("status");
    }
    builtin_defaults(ty, &mut object);
    finish(ty, &mut object, context.strict)?;
    if !context.writer.apply {
        managed::record(ty, None, &mut object, &context.writer);
    }
    Ok(object)
}

/// What the API server itself fills in for built-in kinds. A node's status is taken at creation, as the kubelet sends it.
fn builtin_defaults(ty: &Type, object: &mut Value) {
    match (ty.group.as_str(), ty.plural.as_str()) {
        ("", "namespaces") => {
            let name = metadata::text(object, "name").to_owned();
            set(object, "spec", "finalizers", json!(["kubernetes"]));
            replace(object, "status", Some(json!({"phase": "Active"})));
            let metadata = metadata::of(object);
            let labels = metadata.entry("labels").or_insert_with(|| json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
            }
        }
        ("", "pods") => replace(object, "status", Some(json!({"phase": "Pending"}))),
        _ => {}
    }
}

/// The version after `old` that a full new object `new` comes to, through the object itself or (`context.writer.status`) its
/// `/status`. For server-side apply `new` carries its managed fields already.
///
/// # Errors
/// 409 when `new` was made from another version than `old`; 400 and 422 when it is not valid.
pub fn update(
    ty: &Type,
    old: &Value,
    mut new: Value,
    context: &Context,
) -> Result<Outcome, Failure> {
    let name = metadata::text(old, "name").to_owned();
    let conflict = |why: &str| Failure::conflict(&ty.group, &ty.plural, &name, why);
    let version = metadata::text(&new, "resourceVersion");
    if !version.is_empty() && version != metadata::text(old, "resourceVersion") {
        return Err(conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        ));
    }
    let uid = metadata::text(&new, "uid");
    if !uid.is_empty() && uid != metadata::text(old, "uid") {
        return Err(conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            metadata::text(old, "uid")
        )));
    }
    if context.writer.status {
        let mut kept = old.clone();
        let managed = new
            .get("metadata")
            .and_then(|m| m.get("managedFields"))
            .cloned();
        replace(&mut kept, "status", new.get("status").cloned());
        replace(&mut kept["metadata"], "managedFields", managed);
        new = kept;
    } else if ty.status {
        replace(&mut new, "status", old.get("status").cloned());
    }
    let old_metadata = old.get("metadata").cloned().unwrap_or_default();
    let metadata = metadata::of(&mut new);
    for field in
        metadata::SERVERS
            .iter()
            .chain(&["resourceVersion", "name", "namespace", "generateName"])
    {
        match old_metadata.get(field) {
            Some(value) => metadata.insert((*field).to_owned(), value.clone()),
            None => metadata.remove(*field),
        };
    }
    if metadata.get("managedFields").is_none_or(Value::is_null) {
        metadata.remove("managedFields");
    }
    finish(ty, &mut new, context.strict)?;
    if metadata::is_deleting(old) && gains_finalizer(old, &new) {
        let why = "Forbidden: no new finalizers can be added if the object is being deleted";
        let cause = Cause::new("FieldValueForbidden", "metadata.finalizers", why);
        return Err(Failure::invalid(&ty.group, &ty.kind, &name, vec![cause]));
    }
    if ty.generation && !context.writer.status && differs_in_spec(ty, old, &new) {
        let generation = old_metadata
            .get("generation")
            .and_then(Value::as_u64)
            .unwrap_or(0)
            + 1;
        new["metadata"]["generation"] = json!(generation);
    }
    if !context.writer.apply {
        managed::record(ty, Some(old), &mut new, &context.writer);
    }
    if metadata::is_deleting(old) && !metadata::has_finalizers(&new) && !is_namespace(ty) {
        return Ok(Outcome::Gone(new));
    }
    if managed::same_but_times(old, &new) {
        return Ok(Outcome::Same);
    }
    Ok(Outcome::Put(new))
}

/// The merge of an apply into `old` (or into nothing), ready for [`create`] or [`update`].
///
/// The configuration has passed [`check_apply`] and [`check_identity`].
///
/// # Errors
/// 400 for a configuration that carries what it must not, 409 for conflicts.
pub fn apply(
    ty: &Type,
    old: Option<&Value>,
    mut config: Value,
    context: &Context,
    force: bool,
) -> Result<Value, Failure> {
    let metadata = metadata::of(&mut config);
    if metadata
        .get("managedFields")
        .is_some_and(|m| !m.is_null() && m.as_array().is_none_or(|l| !l.is_empty()))
    {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    metadata.remove("managedFields");
    let asked = |field: &str| metadata.get(field).filter(|v| v.is_string()).cloned();
    let (version, uid) = (asked("resourceVersion"), asked("uid"));
    for field in metadata::SERVERS.iter().chain(&["resourceVersion"]) {
        metadata.remove(*field);
    }
    if let Some(map) = config.as_object_mut() {
        if context.writer.status {
            map.retain(|key, _| {
                matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")
            });
            if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace"));
            }
        } else if ty.status {
            map.remove("status");
        }
    }
    prune(ty, &mut config, context.strict)?;
    let empty = json!({"apiVersion": ty.api_version(), "kind": ty.kind, "metadata": {}});
    let mut merged = managed::apply(ty, old.unwrap_or(&empty), &config, &context.writer, force)?;
    let metadata = metadata::of(&mut merged);
    for (field, value) in [("resourceVersion", version), ("uid", uid)] {
        if let Some(value) = value {
            metadata.insert(field.to_owned(), value);
        }
    }
    Ok(merged)
}

/// The object at the start of its deletion: it stays until its finalizers are gone.
#[must_use]
pub fn begin_deletion(ty: &Type, old: &Value, now: &str) -> Value {
    let mut object = old.clone();
    let metadata = metadata::of(&mut object);
    metadata.insert("deletionTimestamp".to_owned(), json!(now));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
    if let Some(generation) = metadata.get("generation").and_then(Value::as_u64) {
        metadata.insert("generation".to_owned(), json!(generation + 1));
    }
    if is_namespace(ty) {
        set(&mut object, "status", "phase", json!("Terminating"));
    }
    object
}

/// Whether `ty` is the namespaces.
#[must_use]
pub fn is_namespace(ty: &Type) -> bool {
    ty.group.is_empty() && ty.plural == "namespaces"
}

fn finish(ty: &Type, object: &mut Value, strict: bool) -> Result<(), Failure> {
    metadata::tidy(metadata::of(object));
    prune(ty, object, strict)?;
    if *ty.id == *CRDS {
        crd::fill_in(object);
    }
    let mut causes = metadata::validate(object, is_namespace(ty));
    if let Some(schema) = &ty.schema {
        schema.fill_in(object);
        causes.extend(schema.validate(object));
    }
    if !causes.is_empty() {
        return Err(Failure::invalid(
            &ty.group,
            &ty.kind,
            metadata::text(object, "name"),
            causes,
        ));
    }
    if patch::depth(object) > MAX_DEPTH || object.to_string().len() > MAX_OBJECT {
        return Err(Failure::too_large(
            "the object is too large or nests too deeply",
        ));
    }
    Ok(())
}

fn replace(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    match value {
        Some(value) => map.insert(field.to_owned(), value),
        None => map.remove(field),
    };
}

/// Sets `object.outer.inner`, whatever a client put at `outer`.
fn set(object: &mut Value, outer: &str, inner: &str, value: Value) {
    if !object.get(outer).is_some_and(Value::is_object) {
        replace(object, outer, Some(json!({})));
    }
    if let Some(outer) = object.get_mut(outer) {
        replace(outer, inner, Some(value));
    }
}

fn gains_finalizer(old: &Value, new: &Value) -> bool {
    let list = |object: &Value| {
        object
            .get("metadata")
            .and_then(|m| m.get("finalizers"))
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let before = list(old);
    list(new).iter().any(|f| !before.contains(f))
}

fn differs_in_spec(ty: &Type, old: &Value, new: &Value) -> bool {
    let counted = |key: &str| match key {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => !ty.status,
        _ => true,
    };
    let part = |object: &Value| {
        let map = object.as_object().cloned().unwrap_or_default();
        map.into_iter()
            .filter(|(key, _)| counted(key))
            .collect::<serde_json::Map<_, _>>()
    };
    part(old) != part(new)
}
