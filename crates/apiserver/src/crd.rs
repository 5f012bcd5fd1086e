//! Custom resource definitions: from the object to the resources that it adds.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::failure::{Cause, Failure};
use crate::metadata;
use crate::schema::Schema;
use crate::types::{Type, Types, resource_id};

/// Fills in what a definition may leave out.
pub fn fill_in(crd: &mut Value) {
    let kind = crd["spec"]["names"]["kind"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let Some(spec) = crd.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    spec.entry("conversion")
        .or_insert_with(|| json!({"strategy": "None"}));
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        names
            .entry("singular")
            .or_insert_with(|| json!(kind.to_lowercase()));
        names
            .entry("listKind")
            .or_insert_with(|| json!(format!("{kind}List")));
    }
}

/// Marks a definition as established.
pub fn establish(crd: &mut Value, now: &str) {
    let Some(spec) = crd.get("spec").and_then(Value::as_object) else {
        return;
    };
    let names = spec.get("names").cloned().unwrap_or_default();
    let versions = spec
        .get("versions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let storage = versions
        .iter()
        .filter(|v| v["storage"] == true)
        .filter_map(|v| v["name"].as_str())
        .collect::<Vec<_>>();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now, "reason": reason, "message": message});
    let established = crd["status"]["conditions"]
        .as_array()
        .cloned()
        .filter(|c| c.len() >= 2);
    let conditions = established.unwrap_or_else(|| {
        vec![
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition(
                "Established",
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
        ]
    });
    let mut stored = crd["status"]["storedVersions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for version in storage {
        if !stored.iter().any(|s| s == version) {
            stored.push(json!(version));
        }
    }
    crd["status"] =
        json!({"acceptedNames": names, "conditions": conditions, "storedVersions": stored});
}

/// The resources of a definition, one per served version.
///
/// # Errors
/// 422 for a definition that cannot be served.
pub fn types(crd: &Value) -> Result<Vec<Type>, Failure> {
    let mut causes = Vec::new();
    let name = metadata::text(crd, "name");
    let spec = &crd["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, names) = (text(&spec["group"]), &spec["names"]);
    let (plural, kind) = (text(&names["plural"]), text(&names["kind"]));
    for (field, value) in [
        ("group", &group),
        ("names.plural", &plural),
        ("names.kind", &kind),
    ] {
        if value.is_empty() {
            causes.push(Cause::new(
                "FieldValueRequired",
                format!("spec.{field}"),
                "Required value",
            ));
        }
    }
    let dns = metadata::is_subdomain(&group) && metadata::is_label(&plural);
    if !group.is_empty() && !dns {
        causes.push(Cause::new(
            "FieldValueInvalid",
            "spec.group",
            "Invalid value: group and plural must be DNS names",
        ));
    }
    if name != format!("{plural}.{group}") {
        let message = "Invalid value: must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::new("FieldValueInvalid", "metadata.name", message));
    }
    if Types::is_builtin(&group, &plural) {
        causes.push(Cause::new(
            "FieldValueInvalid",
            "spec.names.plural",
            "Invalid value: a built-in resource",
        ));
    }
    let namespaced = match spec["scope"].as_str() {
        Some("Namespaced") => true,
        Some("Cluster") => false,
        Some(_) | None => {
            let message = "Unsupported value: supported values: \"Cluster\", \"Namespaced\"";
            causes.push(Cause::new("FieldValueNotSupported", "spec.scope", message));
            false
        }
    };
    let strategy = spec["conversion"]["strategy"].as_str().unwrap_or("None");
    if strategy != "None" {
        let message =
            "Unsupported value: this server converts between versions by the name only (\"None\")";
        causes.push(Cause::new(
            "FieldValueNotSupported",
            "spec.conversion.strategy",
            message,
        ));
    }
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let message = "Invalid value: must have exactly one version marked as storage version";
        causes.push(Cause::new("FieldValueInvalid", "spec.versions", message));
    }
    let mut types = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        if !version["name"].as_str().is_some_and(metadata::is_label) {
            causes.push(Cause::new(
                "FieldValueInvalid",
                format!("{path}.name"),
                "Invalid value: must be a DNS label",
            ));
        }
        let schema = match Schema::compile(&version["schema"]["openAPIV3Schema"]) {
            Ok(schema) => schema,
            Err(why) => {
                causes.push(Cause::new(
                    "FieldValueInvalid",
                    format!("{path}.schema"),
                    format!("Invalid value: {why}"),
                ));
                continue;
            }
        };
        if version["served"] != true {
            continue;
        }
        let short = names["shortNames"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        types.push(Type {
            group: group.clone(),
            version: text(&version["name"]),
            plural: plural.clone(),
            singular: names["singular"]
                .as_str()
                .map_or_else(|| kind.to_lowercase(), str::to_owned),
            short: short
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            kind: kind.clone(),
            list_kind: names["listKind"]
                .as_str()
                .map_or_else(|| format!("{kind}List"), str::to_owned),
            namespaced,
            status: version["subresources"].get("status").is_some(),
            generation: true,
            schema: Some(Arc::new(schema)),
            id: resource_id(&group, &plural),
        });
    }
    if causes.is_empty() {
        Ok(types)
    } else {
        Err(Failure::invalid(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            name,
            causes,
        ))
    }
}
