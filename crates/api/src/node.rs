//! Node: the part of Kubernetes' own resource that the agents read.

use std::net::IpAddr;

use serde::Deserialize;

use crate::Object;
use crate::endpoint::parse_ip;
use crate::names::ANNOTATION_CLAMP_MSS;

/// A Node, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Addresses of type InternalIP, in the order given.
    pub internal_ips: Vec<IpAddr>,
    /// Maximum segment size that its annotation asks for, in bytes, or why it can't be used.
    pub clamp_mss: Option<Result<u16, String>>,
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
