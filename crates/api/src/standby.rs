//! Gateways that stand by, as the Endpoint of the one that carries the traffic tells of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{ANNOTATION_STANDBYS, BACKEND_INTERFACE};
use crate::{Endpoint, EndpointSpec, Kind, Object};

/// Standbys that an Endpoint tells of at most.
pub const MOST_STANDBYS: usize = 4;
/// Bytes of the annotation at most.
const MOST_BYTES: usize = 16 * 1024;

/// A gateway that may take the place of the one that carries the traffic: what peers need to be ready for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standby {
    /// Host name of its node.
    pub hostname: String,
    /// Its cable's name.
    pub cable_name: String,
    /// Cable driver.
    pub backend: String,
    /// What the driver and its peers need to know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backend_config: BTreeMap<String, String>,
    /// Addresses on its own network, at most one per family. The Ethernet address of a VXLAN cable follows from the first.
    #[serde(rename = "privateIPs")]
    pub private_ips: Vec<String>,
    /// Addresses on the Internet, at most one per family.
    #[serde(rename = "publicIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub public_ips: Vec<String>,
    /// Whether there may be a NAT in front of it.
    #[serde(default)]
    pub nat_enabled: bool,
}

impl Standby {
    /// Of what a gateway would publish.
    #[must_use]
    pub fn of(spec: &EndpointSpec) -> Self {
        let listed = |plural: &[String], singular: &String| {
            if plural.is_empty() && !singular.is_empty() {
                vec![singular.clone()]
            } else {
                plural.to_vec()
            }
        };
        Self {
            hostname: spec.hostname.clone(),
            cable_name: spec.cable_name.clone(),
            backend: spec.backend.clone(),
            backend_config: spec.backend_config.clone(),
            private_ips: listed(&spec.private_ips, &spec.private_ip),
            public_ips: listed(&spec.public_ips, &spec.public_ip),
            nat_enabled: spec.nat_enabled,
        }
    }

    /// As an Endpoint without subnets.
    fn endpoint(self, cluster: &str) -> Result<Endpoint, String> {
        let mut backend_config = self.backend_config;
        backend_config.remove(BACKEND_INTERFACE);
        let spec = EndpointSpec {
            cluster_id: cluster.to_owned(),
            cable_name: self.cable_name,
            hostname: self.hostname,
            private_ips: self.private_ips,
            public_ips: self.public_ips,
            nat_enabled: self.nat_enabled,
            backend: self.backend,
            backend_config,
            ..EndpointSpec::default()
        };
        let name = Endpoint::object_name(cluster, &spec.cable_name);
        Endpoint::parse(&Object::new(Kind::Endpoint, "", &name).with("spec", &spec))
    }
}

/// The standbys of which an Endpoint tells, each as an Endpoint without subnets.
///
/// # Errors
/// A sentence that says what can't be used; then none is.
pub(crate) fn standbys(object: &Object, cluster: &str) -> Result<Vec<Endpoint>, String> {
    let Some(text) = object.annotations.get(ANNOTATION_STANDBYS) else {
        return Ok(Vec::new());
    };
    let bad = |why: String| format!("annotation {ANNOTATION_STANDBYS}: {why}");
    if text.len() > MOST_BYTES {
        return Err(bad(format!("more than {MOST_BYTES} bytes")));
    }
    let all: Vec<Standby> = serde_json::from_str(text)
        .map_err(|error| bad(crate::object::shown(&error.to_string(), 200)))?;
    if all.len() > MOST_STANDBYS {
        return Err(bad(format!("more than {MOST_STANDBYS} gateways")));
    }
    let parse = |standby: Standby| standby.endpoint(cluster).map_err(bad);
    all.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(annotation: &str) -> Endpoint {
        let spec = EndpointSpec {
            cluster_id: "west".into(),
            cable_name: "cable-west".into(),
            hostname: "west-1".into(),
            private_ip: "172.30.2.11".into(),
            backend: "vxlan".into(),
            ..EndpointSpec::default()
        };
        let mut object = Object::new(Kind::Endpoint, "ns", "west").with("spec", &spec);
        let key = ANNOTATION_STANDBYS.to_owned();
        object.annotations.insert(key, annotation.to_owned());
        Endpoint::parse(&object).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let spec = EndpointSpec {
            cluster_id: "west".into(),
            cable_name: "cable-2".into(),
            hostname: "west-2".into(),
            private_ip: "172.30.2.12".into(),
            public_ip: "192.0.2.1".into(),
            backend: "wireguard".into(),
            backend_config: BTreeMap::from([
                ("udp-port".into(), "4501".into()),
                ("publicKey".into(), "key".into()),
            ]),
            ..EndpointSpec::default()
        };
        let text = serde_json::to_string(&[Standby::of(&spec)]).unwrap();
        let read = endpoint(&text);
        assert_eq!(read.bad_standbys, None);
        let [standby] = &read.standbys[..] else {
            panic!("{read:?}")
        };
        assert_eq!(standby.hostname, "west-2");
        assert_eq!(standby.udp_port, 4501);
        assert_eq!(
            standby.private_ips,
            ["172.30.2.12".parse::<std::net::IpAddr>().unwrap()]
        );
        assert_eq!(standby.public_ips.len(), 1);
        assert_eq!(standby.spec.backend_config["publicKey"], "key");
        assert_eq!(standby.cluster, read.cluster);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_the_endpoint_is_used_all_the_same() {
        let one =
            r#"{"hostname":"h","cableName":"c","backend":"vxlan","privateIPs":["172.30.2.12"]}"#;
        assert_eq!(endpoint(&format!("[{one}]")).standbys.len(), 1);
        let many = format!("[{}]", [one; 5].join(","));
        let long = format!("[{}]{}", one, " ".repeat(20_000));
        for bad in [
            "",
            "{}",
            "[1]",
            &one.replace("172.30.2.12", "127.0.0.1"),
            &format!("[{}]", one.replace("172.30.2.12", "127.0.0.1")),
            &format!("[{}]", one.replace("\"c\"", "\"c/d\"")),
            &many,
            &long,
        ] {
            let read = endpoint(bad);
            assert_eq!(read.standbys, [], "{bad}");
            assert!(read.bad_standbys.unwrap().contains(ANNOTATION_STANDBYS));
        }
    }
}
