//! Node: the part of Kubernetes' own resource that the agents read.

use std::net::IpAddr;

use serde::Deserialize;

use crate::Object;
use crate::endpoint::parse_ip;

/// A Node, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Addresses of type InternalIP, in the order given.
    pub internal_ips: Vec<IpAddr>,
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
        Ok(Self { internal_ips })
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
