//! The definitions of the custom resources, as Submariner's operator installs them, and `status.conditions` of
//! the RouteAgent, which is ours.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::names::{GROUP, VERSION};

/// The definitions of Cluster, Endpoint, Gateway and RouteAgent.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    let cluster = object(
        json!({
            "cluster_id": cluster_id(), "color_codes": texts(), "service_cidr": texts(),
            "cluster_cidr": texts(), "global_cidr": texts(),
        }),
        &["cluster_id", "service_cidr", "cluster_cidr", "global_cidr"],
    );
    let connection = object(
        json!({
            "status": status(), "statusMessage": text(), "endpoint": endpoint_spec(),
            "usingIP": text(), "usingNAT": {"type": "boolean"}, "latencyRTT": latency(),
        }),
        &["status", "statusMessage", "endpoint"],
    );
    let gateway = object(
        json!({
            "version": text(), "haStatus": text(), "localEndpoint": endpoint_spec(), "statusFailure": text(),
            "connections": {"type": "array", "items": connection},
        }),
        &[
            "version",
            "haStatus",
            "localEndpoint",
            "statusFailure",
            "connections",
        ],
    );
    let remote = object(
        json!({"status": status(), "statusMessage": text(), "spec": endpoint_spec(), "latencyRTT": latency()}),
        &["status", "statusMessage", "spec"],
    );
    let condition = object(
        json!({"type": text(), "status": text(), "message": text(), "lastTransitionTime": text()}),
        &["type", "status"],
    );
    let route_agent = object(
        json!({
            "version": text(), "statusFailure": text(),
            "remoteEndpoints": {"type": "array", "items": remote},
            "conditions": {"type": "array", "items": condition},
        }),
        &["version", "statusFailure", "remoteEndpoints"],
    );
    [
        definition("Cluster", "clusters", "spec", &cluster, &json!([])),
        definition(
            "Endpoint",
            "endpoints",
            "spec",
            &endpoint_spec(),
            &json!([]),
        ),
        definition(
            "Gateway",
            "gateways",
            "status",
            &gateway,
            &json!([{"name": "HA Status", "type": "string", "jsonPath": ".status.haStatus"}]),
        ),
        definition(
            "RouteAgent",
            "routeagents",
            "status",
            &route_agent,
            &json!([]),
        ),
    ]
    .into_iter()
    .filter_map(|value| serde_json::from_value(value).ok())
    .collect()
}

fn definition(kind: &str, plural: &str, section: &str, schema: &Value, columns: &Value) -> Value {
    let schema = object(
        json!({
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
            section: schema,
        }),
        &[section],
    );
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase(),
            },
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

fn endpoint_spec() -> Value {
    let text = || json!({"type": "string"});
    let two = || json!({"type": "array", "maxItems": 2, "items": {"type": "string"}});
    object(
        json!({
            "cluster_id": cluster_id(), "cable_name": text(), "healthCheckIP": text(), "healthCheckIPs": two(),
            "hostname": text(), "subnets": {"type": "array", "items": {"type": "string"}},
            "private_ip": text(), "private_ips": two(), "public_ip": text(), "public_ips": two(),
            "nat_enabled": {"type": "boolean"}, "backend": text(),
            "backend_config": {"type": "object", "additionalProperties": {"type": "string"}},
        }),
        &[
            "cluster_id",
            "cable_name",
            "hostname",
            "subnets",
            "private_ip",
            "public_ip",
            "nat_enabled",
            "backend",
        ],
    )
}

fn cluster_id() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 63})
}

fn status() -> Value {
    json!({"type": "string"})
}

fn latency() -> Value {
    let text = || json!({"type": "string"});
    object(
        json!({"last": text(), "min": text(), "average": text(), "max": text(), "stdDev": text()}),
        &[],
    )
}

fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_one_that_kubernetes_can_read() {
        let names: Vec<_> = crds().into_iter().filter_map(|c| c.metadata.name).collect();
        assert_eq!(
            names,
            [
                "clusters.submariner.io",
                "endpoints.submariner.io",
                "gateways.submariner.io",
                "routeagents.submariner.io"
            ]
        );
    }
}
