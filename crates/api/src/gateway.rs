//! Gateway: what a gateway node says of itself and its connections. It has no spec and no status subresource.

use serde::{Deserialize, Serialize};

use crate::EndpointSpec;

/// `status` of a Gateway; all fields are required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Version of the software.
    pub version: String,
    /// Whether it carries the cluster's traffic.
    pub ha_status: HaStatus,
    /// What it publishes.
    pub local_endpoint: EndpointSpec,
    /// Why it can't work, or empty.
    pub status_failure: String,
    /// Connections to other clusters, one per Endpoint and family; never null.
    pub connections: Vec<Connection>,
}

/// Role of a gateway among those of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HaStatus {
    /// It carries the traffic.
    Active,
    /// It stands by.
    Passive,
}

/// A connection to another cluster's gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its state.
    pub status: ConnectionStatus,
    /// Why it is in this state, or empty.
    #[serde(rename = "statusMessage")]
    pub status_message: String,
    /// The other side.
    pub endpoint: EndpointSpec,
    /// The address that is used to reach it.
    #[serde(rename = "usingIP", default, skip_serializing_if = "String::is_empty")]
    pub using_ip: String,
    /// Whether there is a NAT in between; absent when not.
    #[serde(
        rename = "usingNAT",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub using_nat: bool,
}

/// State of a connection, also of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionStatus {
    /// Programmed, and alive as far as is known.
    Connected,
    /// On its way.
    Connecting,
    /// Not usable.
    Error,
    /// Not checked.
    None,
}
