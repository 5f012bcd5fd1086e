//! RouteAgent: what a node's agent says of its way to other clusters. It has no spec and no status subresource.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::endpoint::vtep_mac;
use crate::gateway::{ConnectionStatus, LatencyRtt};
use crate::names::{ANNOTATION_AGENT, ANNOTATION_VTEP_MAC, ANNOTATION_VTEP_MAC_6};
use crate::{EndpointSpec, Object};

/// `status` of a RouteAgent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteAgentStatus {
    /// Version of the software.
    pub version: String,
    /// What does not work, in a sentence per condition, or empty.
    pub status_failure: String,
    /// Other clusters' Endpoints; never null.
    pub remote_endpoints: Vec<RemoteEndpoint>,
    /// Conditions that are not met; ours alone, pruned where Submariner's definition of the resource is installed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Another cluster's Endpoint, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteEndpoint {
    /// Result of the health check.
    pub status: ConnectionStatus,
    /// Why it is in this state.
    pub status_message: String,
    /// The Endpoint.
    pub spec: Arc<EndpointSpec>,
    /// How long pings to it take; absent unless it is connected.
    #[serde(
        rename = "latencyRTT",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub latency_rtt: Option<LatencyRtt>,
}

/// A condition that is not met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name, e.g. `CniInterfaceNotFound`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`: it holds.
    pub status: String,
    /// What was looked for and what was seen.
    pub message: String,
    /// Since when, RFC 3339; filled in when it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// What one agent needs to know of another: whether it is one of ours, and the Ethernet addresses of its `vx-submariner` devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentInfo {
    /// Whether it is one of ours, which says so or publishes an Ethernet address.
    pub ours: bool,
    /// The address; `None` for an agent that publishes none.
    pub vtep_mac: Option<[u8; 6]>,
    /// That of `vx-submariner-6`, where it is another.
    pub vtep_mac_6: Option<[u8; 6]>,
}

impl AgentInfo {
    /// Parses a RouteAgent object of another node.
    ///
    /// # Errors
    /// A sentence that names the annotation and what was expected.
    pub fn parse(object: &Object) -> Result<Self, String> {
        let vtep_mac_4 = vtep_mac(object, ANNOTATION_VTEP_MAC)?;
        Ok(Self {
            ours: vtep_mac_4.is_some() || object.annotations.contains_key(ANNOTATION_AGENT),
            vtep_mac: vtep_mac_4,
            vtep_mac_6: vtep_mac(object, ANNOTATION_VTEP_MAC_6)?,
        })
    }
}
