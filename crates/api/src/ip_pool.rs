//! IPPool: Calico's own resource. What lies in one is not masqueraded when a pod sends to it, which is what remote subnets
//! need; one that is disabled gives no address to a pod.

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::endpoint::parse_net;
use crate::{ClusterId, Kind, Object};

/// An IPPool, as far as remote subnets are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpPool {
    /// The prefix, host bits zero.
    pub cidr: IpNet,
    /// Whether pods get no address of it.
    pub disabled: bool,
    /// Whether what pods in it send elsewhere is masqueraded.
    pub nat_outgoing: bool,
    /// Whether it is kept from BGP peers: a route that comes back from one would win over ours.
    pub disable_bgp_export: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cidr: String,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    nat_outgoing: bool,
    #[serde(default, rename = "disableBGPExport")]
    disable_bgp_export: bool,
}

impl IpPool {
    /// The pool that stands for a remote subnet.
    #[must_use]
    pub fn remote(cidr: Ipv4Net) -> Self {
        Self {
            cidr: IpNet::V4(cidr.trunc()),
            disabled: true,
            nat_outgoing: false,
            disable_bgp_export: true,
        }
    }

    /// Its name: that of upstream.
    #[must_use]
    pub fn remote_name(cluster: &ClusterId, cidr: Ipv4Net) -> String {
        format!(
            "submariner-{cluster}-{}",
            cidr.to_string().replace('/', "-")
        )
    }

    /// Parses an object.
    ///
    /// # Errors
    /// A sentence that names the field, what it holds and what was expected.
    pub fn parse(object: &Object) -> Result<Self, String> {
        let spec: Spec = object.section("spec")?;
        Ok(Self {
            cidr: parse_net("spec.cidr", &spec.cidr)?,
            disabled: spec.disabled,
            nat_outgoing: spec.nat_outgoing,
            disable_bgp_export: spec.disable_bgp_export,
        })
    }

    /// An object of this pool; where there is one already, with whatever else is in it.
    #[must_use]
    pub fn object(&self, name: &str, there: Option<&Object>) -> Object {
        let new = || Object::new(Kind::IpPool, "", name);
        let mut object = there.cloned().unwrap_or_else(new);
        if let Some((label, value)) = Kind::IpPool.mark() {
            object.labels.insert(label.to_owned(), value.to_owned());
        }
        let spec = object.content.entry("spec").or_insert_with(|| json!({}));
        if !spec.is_object() {
            *spec = json!({});
        }
        if let Value::Object(spec) = spec {
            spec.insert("cidr".to_owned(), json!(self.cidr.to_string()));
            spec.insert("disabled".to_owned(), json!(self.disabled));
            spec.insert("natOutgoing".to_owned(), json!(self.nat_outgoing));
            spec.insert(
                "disableBGPExport".to_owned(),
                json!(self.disable_bgp_export),
            );
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> (String, IpPool) {
        let cluster: ClusterId = "east".parse().unwrap();
        let cidr = "10.42.0.0/16".parse().unwrap();
        (IpPool::remote_name(&cluster, cidr), IpPool::remote(cidr))
    }

    #[test]
    fn a_pool_for_a_remote_subnet_has_upstreams_name_label_and_fields() {
        let (name, pool) = pool();
        let object = serde_json::to_value(pool.object(&name, None).write()).unwrap();
        let expected = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPPool",
            "metadata": {"name": "submariner-east-10.42.0.0-16", "labels": {"submariner.io/ippool": "true"}},
            "spec": {"cidr": "10.42.0.0/16", "disabled": true, "natOutgoing": false, "disableBGPExport": true},
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn what_calico_adds_to_a_pool_stays_and_what_it_leaves_out_is_false() {
        let (name, pool) = pool();
        let mut there = Object::new(Kind::IpPool, "", &name).with(
            "spec",
            &json!({"cidr": "10.42.0.0/16", "blockSize": 28, "natOutgoing": true}),
        );
        there.annotations.insert("who".into(), "calico".into());
        let seen = IpPool::parse(&there).unwrap();
        assert!(seen.nat_outgoing && !seen.disabled && !seen.disable_bgp_export);
        let new = pool.object(&name, Some(&there));
        assert_eq!(IpPool::parse(&new).unwrap(), pool);
        assert_eq!(new.content["spec"]["blockSize"], 28);
        assert_eq!(new.annotations, there.annotations);
        assert!(new.is_ours() && !there.is_ours());
    }

    #[test]
    fn a_pool_that_is_none_is_refused_with_the_field_that_is_wrong() {
        for (spec, expected) in [
            (json!(null), "spec: "),
            (json!({"cidr": 7}), "spec: "),
            (
                json!({"cidr": "10.0.0.0/33"}),
                "spec.cidr: '10.0.0.0/33' is no prefix",
            ),
        ] {
            let object = Object::new(Kind::IpPool, "", "x").with("spec", &spec);
            let error = IpPool::parse(&object).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            // Making it good replaces what is not understood.
            let (name, pool) = pool();
            assert_eq!(IpPool::parse(&pool.object(&name, Some(&object))), Ok(pool));
        }
    }
}
