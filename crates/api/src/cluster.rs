//! Cluster: what networks a cluster has.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::endpoint::parse_net;
use crate::{ClusterId, Object};

/// `spec` of a Cluster. No list may be null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// The cluster.
    pub cluster_id: String,
    /// Legacy; upstream always writes `["blue"]`.
    #[serde(default)]
    pub color_codes: Vec<String>,
    /// Service CIDRs.
    pub service_cidr: Vec<String>,
    /// Pod CIDRs.
    pub cluster_cidr: Vec<String>,
    /// Global CIDRs of clusters that overlap with others.
    pub global_cidr: Vec<String>,
}

/// A Cluster, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its identifier, which is also the object's name.
    pub id: ClusterId,
    /// All its CIDRs: service, pod and global.
    pub cidrs: Vec<IpNet>,
}

impl Cluster {
    /// Parses an object, which is hostile until then.
    ///
    /// # Errors
    /// A sentence that names the field, what it holds and what was expected.
    pub fn parse(object: &Object) -> Result<Self, String> {
        let spec: ClusterSpec = object.section("spec")?;
        let id: ClusterId = spec
            .cluster_id
            .parse()
            .map_err(|e| format!("spec.cluster_id: {e}"))?;
        if object.key.name != crate::valid_name(id.as_str()) {
            return Err(format!(
                "metadata.name: a Cluster of id {id} must have that name"
            ));
        }
        let lists = [
            ("service_cidr", &spec.service_cidr),
            ("cluster_cidr", &spec.cluster_cidr),
            ("global_cidr", &spec.global_cidr),
        ];
        let mut cidrs = Vec::new();
        for (field, list) in lists {
            for (i, text) in list.iter().enumerate() {
                cidrs.push(parse_net(&format!("spec.{field}[{i}]"), text)?);
            }
        }
        Ok(Self { id, cidrs })
    }
}
