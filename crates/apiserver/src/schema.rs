//! Structural schemas of custom resources: compile, prune, default, and validate.
//!
//! Not checked: `pattern`, `format`, `uniqueItems` and `x-kubernetes-validations` (CEL).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

mod validate;

/// How the items of a list are told apart when managers share it (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// The list has one owner and is replaced as a whole.
    #[default]
    Atomic,
    /// Scalars, each with its own owners.
    Set,
    /// Objects that are told apart by these fields.
    Map(Vec<String>),
}

/// A compiled structural schema.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    kind: Option<String>,
    properties: BTreeMap<String, Arc<Schema>>,
    required: Vec<String>,
    items: Option<Arc<Schema>>,
    additional: Option<Arc<Schema>>,
    enumeration: Option<Vec<Value>>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
    nullable: bool,
    int_or_string: bool,
    preserve: bool,
    embedded: bool,
    default: Option<Value>,
    list: ListKind,
    atomic_map: bool,
    all_of: Vec<Arc<Schema>>,
    any_of: Vec<Arc<Schema>>,
    one_of: Vec<Arc<Schema>>,
    not: Option<Arc<Schema>>,
}

impl Schema {
    /// Compiles the `openAPIV3Schema` of a custom resource definition.
    ///
    /// # Errors
    /// A path and what is wrong there.
    pub fn compile(schema: &Value) -> Result<Self, String> {
        compile(schema, "openAPIV3Schema")
    }

    /// A schema that allows and keeps everything.
    #[must_use]
    pub fn anything() -> Self {
        Self {
            kind: Some("object".to_owned()),
            preserve: true,
            ..Self::default()
        }
    }

    /// The schema of the field `name` of an object.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.properties
            .get(name)
            .or(self.additional.as_ref())
            .map(AsRef::as_ref)
    }

    /// The schema of the items of a list.
    #[must_use]
    pub fn items(&self) -> Option<&Self> {
        self.items.as_deref()
    }

    /// How managers share a list.
    #[must_use]
    pub fn list_kind(&self) -> &ListKind {
        &self.list
    }

    /// Whether an object has one owner as a whole (`x-kubernetes-map-type: atomic`).
    #[must_use]
    pub fn is_atomic_map(&self) -> bool {
        self.atomic_map
    }

    /// Drops what the schema does not know from a whole object, and tells the paths that were dropped.
    /// `apiVersion`, `kind` and `metadata` are left alone.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        self.prune_at(object, "", true, &mut dropped);
        dropped
    }

    /// Fills in the defaults of a whole object.
    pub fn fill_in(&self, object: &mut Value) {
        let Value::Object(map) = object else { return };
        self.default_properties(map, true);
    }

    fn prune_at(&self, value: &mut Value, path: &str, root: bool, dropped: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                let embedded = root || self.embedded;
                map.retain(|key, value| {
                    if embedded && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                        return true;
                    }
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    if let Some(schema) = self.field(key) {
                        schema.prune_at(value, &path, false, dropped);
                        return true;
                    }
                    if !self.preserve {
                        dropped.push(path);
                    }
                    self.preserve
                });
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (index, item) in items.iter_mut().enumerate() {
                        schema.prune_at(item, &format!("{path}[{index}]"), false, dropped);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn default_at(&self, value: &mut Value) {
        match value {
            Value::Object(map) => self.default_properties(map, false),
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.default_at(item));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn default_properties(&self, map: &mut Map<String, Value>, root: bool) {
        let own = |key: &str| root && matches!(key, "apiVersion" | "kind" | "metadata");
        // A null where none is allowed counts as absent, as in Kubernetes.
        map.retain(|key, value| {
            own(key) || !value.is_null() || self.field(key).is_none_or(|schema| schema.nullable)
        });
        for (key, schema) in &self.properties {
            if let Some(default) = schema
                .default
                .as_ref()
                .filter(|_| !own(key) && !map.contains_key(key))
            {
                map.insert(key.clone(), default.clone());
            }
        }
        for (key, value) in map.iter_mut().filter(|(key, _)| !own(key)) {
            if let Some(schema) = self.field(key) {
                schema.default_at(value);
            }
        }
    }
}

fn compile(schema: &Value, path: &str) -> Result<Schema, String> {
    let Value::Object(map) = schema else {
        return Err(format!("{path}: a schema must be an object"));
    };
    let sub = |key: &str| -> Result<Option<Arc<Schema>>, String> {
        map.get(key)
            .map(|s| compile(s, &format!("{path}.{key}")).map(Arc::new))
            .transpose()
    };
    let several = |key: &str| -> Result<Vec<Arc<Schema>>, String> {
        let list = map
            .get(key)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        list.iter()
            .enumerate()
            .map(|(i, s)| compile(s, &format!("{path}.{key}[{i}]")).map(Arc::new))
            .collect()
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str);
    let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
    let count = |key: &str| map.get(key).and_then(Value::as_u64);
    let number = |key: &str| map.get(key).and_then(Value::as_f64);
    let strings = |key: &str| -> Vec<String> {
        let list = map
            .get(key)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        list.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    if let Some(kind) = text("type")
        && !matches!(
            kind,
            "object" | "array" | "string" | "integer" | "number" | "boolean"
        )
    {
        return Err(format!("{path}.type: unsupported value {kind:?}"));
    }
    let mut properties = BTreeMap::new();
    for (key, value) in map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        properties.insert(
            key.clone(),
            Arc::new(compile(value, &format!("{path}.properties[{key}]"))?),
        );
    }
    let additional = match map.get("additionalProperties") {
        Some(Value::Bool(true)) => Some(Arc::new(Schema {
            preserve: true,
            nullable: true,
            ..Schema::default()
        })),
        Some(Value::Bool(false)) | None => None,
        Some(_) => sub("additionalProperties")?,
    };
    let list = match text("x-kubernetes-list-type") {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(strings("x-kubernetes-list-map-keys")),
        Some("atomic") | None => ListKind::Atomic,
        Some(other) => {
            return Err(format!(
                "{path}.x-kubernetes-list-type: unsupported value {other:?}"
            ));
        }
    };
    Ok(Schema {
        kind: text("type").map(str::to_owned),
        properties,
        required: strings("required"),
        items: sub("items")?,
        additional,
        enumeration: map.get("enum").and_then(Value::as_array).cloned(),
        minimum: number("minimum"),
        maximum: number("maximum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        nullable: flag("nullable"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        preserve: flag("x-kubernetes-preserve-unknown-fields"),
        embedded: flag("x-kubernetes-embedded-resource"),
        default: map.get("default").cloned(),
        list,
        atomic_map: text("x-kubernetes-map-type") == Some("atomic"),
        all_of: several("allOf")?,
        any_of: several("anyOf")?,
        one_of: several("oneOf")?,
        not: sub("not")?,
    })
}

#[cfg(test)]
mod tests;
