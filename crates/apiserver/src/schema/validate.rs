//! Validation of objects against a [`Schema`].

use serde_json::Value;

use super::{ListKind, Schema};
use crate::failure::Cause;

impl Schema {
    /// What is wrong with a whole object; `apiVersion`, `kind` and `metadata` are judged elsewhere.
    #[must_use]
    pub fn validate(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        self.check(object, "", true, &mut causes);
        causes
    }

    fn check(&self, value: &Value, path: &str, root: bool, causes: &mut Vec<Cause>) {
        if value.is_null() && self.nullable {
            return;
        }
        if let Some(wrong) = self.wrong_type(value) {
            causes.push(wrong_value("FieldValueTypeInvalid", path, value, &wrong));
            return;
        }
        if let Some(allowed) = &self.enumeration
            && !allowed.iter().any(|a| same(a, value))
        {
            let allowed = allowed
                .iter()
                .map(Value::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            let message = format!("Unsupported value: {value}: supported values: {allowed}");
            causes.push(Cause::new("FieldValueNotSupported", path, message));
        }
        match value {
            Value::String(text) => self.check_string(text, path, causes),
            Value::Number(number) => {
                self.check_number(number.as_f64().unwrap_or_default(), value, path, causes)
            }
            Value::Array(items) => self.check_list(items, value, path, causes),
            Value::Object(map) => {
                let count = map.len() as u64;
                if self.min_properties.is_some_and(|min| count < min) {
                    causes.push(invalid(path, value, "has too few properties"));
                }
                if self.max_properties.is_some_and(|max| count > max) {
                    causes.push(Cause::new(
                        "FieldValueTooMany",
                        path,
                        "Too many: properties",
                    ));
                }
                let own = |key: &str| root && matches!(key, "apiVersion" | "kind" | "metadata");
                for key in self
                    .required
                    .iter()
                    .filter(|key| !own(key) && !map.contains_key(*key))
                {
                    causes.push(Cause::new(
                        "FieldValueRequired",
                        join(path, key),
                        "Required value",
                    ));
                }
                for (key, value) in map.iter().filter(|(key, _)| !own(key)) {
                    if let Some(schema) = self.field(key) {
                        schema.check(value, &join(path, key), false, causes);
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
        self.check_combined(value, path, root, causes);
    }

    fn wrong_type(&self, value: &Value) -> Option<String> {
        if self.int_or_string {
            let right = value.is_string() || is_integer(value);
            return (!right).then(|| "must be of type integer or string".to_owned());
        }
        let kind = self.kind.as_deref()?;
        let right = match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => is_integer(value),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => true,
        };
        (!right).then(|| format!("must be of type {kind}: {:?}", type_name(value)))
    }

    fn check_string(&self, text: &str, path: &str, causes: &mut Vec<Cause>) {
        let length = text.chars().count() as u64;
        if let Some(min) = self.min_length.filter(|min| length < *min) {
            let value = Value::from(text);
            causes.push(invalid(
                path,
                &value,
                &format!("should be at least {min} chars long"),
            ));
        }
        if let Some(max) = self.max_length.filter(|max| length > *max) {
            causes.push(Cause::new(
                "FieldValueTooLong",
                path,
                format!("Too long: may not be more than {max} bytes"),
            ));
        }
    }

    fn check_number(&self, number: f64, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if let Some(min) = self.minimum
            && (number < min || (self.exclusive_minimum && number <= min))
        {
            let than = if self.exclusive_minimum {
                "greater than"
            } else {
                "greater than or equal to"
            };
            causes.push(invalid(path, value, &format!("should be {than} {min}")));
        }
        if let Some(max) = self.maximum
            && (number > max || (self.exclusive_maximum && number >= max))
        {
            let than = if self.exclusive_maximum {
                "less than"
            } else {
                "less than or equal to"
            };
            causes.push(invalid(path, value, &format!("should be {than} {max}")));
        }
        if let Some(step) = self.multiple_of
            && step > 0.0
            && (number / step).fract() != 0.0
        {
            causes.push(invalid(
                path,
                value,
                &format!("should be a multiple of {step}"),
            ));
        }
    }

    fn check_list(&self, items: &[Value], value: &Value, path: &str, causes: &mut Vec<Cause>) {
        let count = items.len() as u64;
        if let Some(min) = self.min_items.filter(|min| count < *min) {
            causes.push(invalid(
                path,
                value,
                &format!("should have at least {min} items"),
            ));
        }
        if let Some(max) = self.max_items.filter(|max| count > *max) {
            let message = format!("Too many: {count}: must have at most {max} items");
            causes.push(Cause::new("FieldValueTooMany", path, message));
        }
        if let Some(schema) = &self.items {
            for (index, item) in items.iter().enumerate() {
                schema.check(item, &format!("{path}[{index}]"), false, causes);
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let key = match &self.list {
                ListKind::Atomic => break,
                ListKind::Set => item.to_string(),
                ListKind::Map(keys) => keys
                    .iter()
                    .map(|k| item.get(k).unwrap_or(&Value::Null).to_string())
                    .collect(),
            };
            if !seen.insert(key) {
                let message = format!("Duplicate value: {item}");
                causes.push(Cause::new(
                    "FieldValueDuplicate",
                    format!("{path}[{index}]"),
                    message,
                ));
            }
        }
    }

    fn check_combined(&self, value: &Value, path: &str, root: bool, causes: &mut Vec<Cause>) {
        for schema in &self.all_of {
            schema.check(value, path, root, causes);
        }
        let fits = |schema: &Schema| {
            let mut found = Vec::new();
            schema.check(value, path, root, &mut found);
            found.is_empty()
        };
        if !self.any_of.is_empty() && !self.any_of.iter().any(|s| fits(s)) {
            causes.push(invalid(
                path,
                value,
                "must validate at least one schema (anyOf)",
            ));
        }
        if !self.one_of.is_empty() && self.one_of.iter().filter(|s| fits(s)).count() != 1 {
            causes.push(invalid(
                path,
                value,
                "must validate one and only one schema (oneOf)",
            ));
        }
        if self.not.as_deref().is_some_and(fits) {
            causes.push(invalid(path, value, "must not validate the schema (not)"));
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn invalid(path: &str, value: &Value, why: &str) -> Cause {
    wrong_value("FieldValueInvalid", path, value, why)
}

/// The value itself is quoted only when it is short.
fn wrong_value(reason: &'static str, path: &str, value: &Value, why: &str) -> Cause {
    let text = value.to_string();
    let text = if text.len() > 100 {
        type_name(value).to_owned()
    } else {
        text
    };
    Cause::new(
        reason,
        path,
        format!("Invalid value: {text}: {path} in body {why}"),
    )
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && a.as_f64() == b.as_f64())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
