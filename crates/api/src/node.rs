//! Node: the part of Kubernetes' own resource that the agents read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::Object;
use crate::endpoint::parse_ip;
use crate::names::{
    ANNOTATION_CLAMP_MSS, BACKEND_NATT_PORT, BACKEND_PREFERRED_SERVER, BACKEND_UDP_PORT,
    LABEL_GATEWAY, NODE_GATEWAY_PREFIX,
};

/// A Node, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Addresses of type InternalIP, in the order given.
    pub internal_ips: Vec<IpAddr>,
    /// Maximum segment size that its annotation asks for, in bytes, or why it can't be used.
    pub clamp_mss: Option<Result<u16, String>>,
    /// What its labels and annotations say of a gateway on it.
    pub gateway: GatewayHints,
    /// Whether a gateway may run on it.
    pub may_be_gateway: bool,
}

/// How a gateway on a Node is to be, as far as its labels and annotations `gateway.submariner.io/…` say so; an annotation
/// goes before a label of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayHints {
    /// UDP port of the cable.
    pub udp_port: Option<u16>,
    /// UDP port of NAT discovery; 0 for none.
    pub natt_port: Option<u16>,
    /// Where the public address comes from, not parsed.
    pub public_ip: Option<String>,
    /// Whether others should rather connect to it.
    pub preferred_server: Option<bool>,
    /// A sentence for each that can't be used.
    pub problems: Vec<String>,
}

impl GatewayHints {
    fn read(object: &Object) -> Self {
        let mut all: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, value) in object.labels.iter().chain(&object.annotations) {
            if let Some(name) = key.strip_prefix(NODE_GATEWAY_PREFIX) {
                all.insert(name, value.trim());
            }
        }
        let mut hints = Self::default();
        for (name, text) in all {
            let shown = crate::object::shown(text, 80);
            let mut bad = |expected: &str| {
                hints.problems.push(format!(
                    "{NODE_GATEWAY_PREFIX}{name}: '{shown}' can't be used; expected {expected}"
                ));
            };
            match name {
                BACKEND_UDP_PORT => match text.parse().ok().filter(|port| *port > 0) {
                    Some(port) => hints.udp_port = Some(port),
                    None => bad("a port, 1 to 65535"),
                },
                BACKEND_NATT_PORT => match text.parse() {
                    Ok(port) => hints.natt_port = Some(port),
                    Err(_) => bad("a port, 1 to 65535, or 0 for none"),
                },
                BACKEND_PREFERRED_SERVER => match text.to_ascii_lowercase().as_str() {
                    "1" | "t" | "true" => hints.preferred_server = Some(true),
                    "0" | "f" | "false" => hints.preferred_server = Some(false),
                    _ => bad("true or false"),
                },
                "public-ip" => hints.public_ip = Some(text.to_owned()),
                _ => {
                    let name = crate::object::shown(name, 80);
                    hints.problems.push(format!(
                        "{NODE_GATEWAY_PREFIX}{name} is not known, and keeps Submariner's gateway from starting on this node"
                    ));
                }
            }
        }
        hints
    }
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Node {
    /// Parses an object.
    ///
    /// # Errors
    /// A sentence that names the field, what it holds and what was expected.
    pub fn parse(object: &Object) -> Result<Self, String> {
        if !object.content.contains_key("status") {
            return Ok(Self {
                internal_ips: Vec::new(),
                clamp_mss: clamp_mss(object),
                gateway: GatewayHints::read(object),
                may_be_gateway: may_be_gateway(object),
            });
        }
        let status: Status = object.section("status")?;
        let internal = status
            .addresses
            .iter()
            .enumerate()
            .filter(|(_, a)| a.kind == "InternalIP");
        let internal_ips = internal
            .map(|(i, a)| parse_ip(&format!("status.addresses[{i}].address"), &a.address))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            internal_ips,
            clamp_mss: clamp_mss(object),
            gateway: GatewayHints::read(object),
            may_be_gateway: may_be_gateway(object),
        })
    }

    /// The first address of a family.
    #[must_use]
    pub fn internal_ip(&self, v6: bool) -> Option<IpAddr> {
        self.internal_ips
            .iter()
            .copied()
            .find(|ip| ip.is_ipv6() == v6)
    }
}

/// What the kubelet, or who watches over it, says of a Node that is not ready; `None` where its condition `Ready` is true.
#[must_use]
pub fn not_ready(object: &Object) -> Option<String> {
    #[derive(Deserialize, Default)]
    struct Status {
        #[serde(default)]
        conditions: Vec<NodeCondition>,
    }
    #[derive(Deserialize)]
    struct NodeCondition {
        #[serde(rename = "type")]
        kind: String,
        status: String,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        message: String,
    }
    if !object.content.contains_key("status") {
        return Some("it has no status yet".to_owned());
    }
    let status: Status = match object.section("status") {
        Ok(status) => status,
        Err(why) => return Some(why),
    };
    let Some(ready) = status.conditions.iter().find(|c| c.kind == "Ready") else {
        return Some("it has no condition Ready yet".to_owned());
    };
    if ready.status == "True" {
        return None;
    }
    let shown = |text: &str| crate::object::shown(text, 200);
    let mut why = format!("Ready is {}", shown(&ready.status));
    for text in [&ready.reason, &ready.message] {
        if !text.is_empty() {
            why.push_str(": ");
            why.push_str(&shown(text));
        }
    }
    Some(why)
}

fn may_be_gateway(object: &Object) -> bool {
    object
        .labels
        .get(LABEL_GATEWAY)
        .is_some_and(|value| value == "true")
}

/// The least that IPv4 hosts must be able to take (RFC 9293, 3.7.1).
const LEAST_MSS: u16 = 536;

fn clamp_mss(object: &Object) -> Option<Result<u16, String>> {
    let text = object.annotations.get(ANNOTATION_CLAMP_MSS)?;
    let good = text.trim().parse().ok().filter(|mss| *mss >= LEAST_MSS);
    Some(good.ok_or_else(|| {
        let shown = crate::object::shown(text, 80);
        format!("annotation {ANNOTATION_CLAMP_MSS}: '{shown}' is no segment size; expected bytes, {LEAST_MSS} to 65535")
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn a_node_is_ready_when_its_condition_says_so_and_else_it_is_told_why_not() {
        let node = |status: serde_json::Value| {
            let mut object = Object::new(Kind::Node, "", "worker");
            object.content.insert("status".into(), status);
            not_ready(&object)
        };
        let ready = |status: &str| {
            serde_json::json!({"conditions": [
                {"type": "DiskPressure", "status": "True"},
                {"type": "Ready", "status": status, "reason": "KubeletNotReady", "message": "cni plugin not initialized"},
            ]})
        };
        assert_eq!(node(ready("True")), None);
        for (status, said) in [
            (
                ready("False"),
                "Ready is False: KubeletNotReady: cni plugin not initialized",
            ),
            (ready("Unknown"), "Ready is Unknown: "),
            (ready("true"), "Ready is true: "),
            (serde_json::json!({}), "no condition Ready"),
            (serde_json::json!({"conditions": 7}), "status"),
        ] {
            let why = node(status).expect("it is not ready");
            assert!(why.contains(said), "{why}");
        }
        assert!(not_ready(&Object::new(Kind::Node, "", "worker")).is_some());
    }

    #[test]
    fn what_a_node_says_of_its_gateway_is_read_and_what_cannot_be_used_is_named() {
        let mut object = Object::new(Kind::Node, "", "gw");
        let with = |key: &str| format!("{NODE_GATEWAY_PREFIX}{key}");
        object.labels.insert(with("udp-port"), "4501".into());
        object
            .labels
            .insert(with("natt-discovery-port"), "4491".into());
        object
            .labels
            .insert("submariner.io/gateway".into(), "true".into());
        let annotations = &mut object.annotations;
        annotations.insert(with("natt-discovery-port"), "0".into());
        annotations.insert(with("public-ip"), "ipv4:192.0.2.1".into());
        annotations.insert(with("preferred-server"), "True".into());
        let hints = Node::parse(&object).unwrap().gateway;
        let expected = GatewayHints {
            udp_port: Some(4501),
            natt_port: Some(0),
            public_ip: Some("ipv4:192.0.2.1".into()),
            preferred_server: Some(true),
            problems: Vec::new(),
        };
        assert_eq!(hints, expected, "an annotation goes before a label");
        for (key, value, said) in [
            ("udp-port", "0", "expected a port"),
            ("natt-discovery-port", "65536", "or 0 for none"),
            ("preferred-server", "perhaps", "true or false"),
            (
                "colour",
                "blue",
                "gateway.submariner.io/colour is not known",
            ),
        ] {
            let mut object = Object::new(Kind::Node, "", "gw");
            object.annotations.insert(with(key), value.into());
            let hints = Node::parse(&object).unwrap().gateway;
            assert!(hints.problems[0].contains(said), "{:?}", hints.problems);
            let problems = hints.problems.clone();
            assert_eq!(
                hints,
                GatewayHints {
                    problems,
                    ..GatewayHints::default()
                }
            );
        }
    }
}
