//! What the agent says of itself.

use serde::Serialize;
use strait_api::names::{ANNOTATION_AGENT, ANNOTATION_VTEP_MAC, ANNOTATION_VTEP_MAC_6};
use strait_api::route_agent::{Condition as StatusCondition, RouteAgentStatus};
use strait_api::{Kind, Object};
use strait_host::Mac;

use crate::{Condition, condition};

/// What becomes the RouteAgent object. That tells of every remote cluster, so it is made only where it is written: each pass
/// makes one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Namespace of the object.
    pub namespace: String,
    /// The node, which is the object's name.
    pub node: String,
    /// Ethernet address of the node's VXLAN devices.
    pub vtep_mac: Option<Mac>,
    /// That of the one with IPv6 outside, where it is another.
    pub vtep_mac_6: Option<Mac>,
    /// Its status.
    pub status: RouteAgentStatus,
}

impl Account {
    /// Makes these the conditions that it tells.
    pub fn tell(&mut self, conditions: &[Condition]) {
        self.status.status_failure = condition::text(conditions);
        self.status.conditions = condition::by_name(conditions)
            .into_iter()
            .map(|(name, holding)| StatusCondition {
                kind: name.to_owned(),
                status: "True".to_owned(),
                message: holding.message,
                last_transition_time: None,
            })
            .collect();
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> Object {
        let mut object =
            Object::new(Kind::RouteAgent, &self.namespace, &self.node).with("status", &self.status);
        let version = self.status.version.clone();
        object
            .annotations
            .insert(ANNOTATION_AGENT.to_owned(), version);
        let macs = [
            (ANNOTATION_VTEP_MAC, self.vtep_mac),
            (ANNOTATION_VTEP_MAC_6, self.vtep_mac_6),
        ];
        for (annotation, mac) in macs {
            let text = mac.map(|mac| (annotation.to_owned(), mac.to_string()));
            object.annotations.extend(text);
        }
        object
    }
}
