//! Kubernetes objects as plain data, as far as decisions need them.

use std::collections::BTreeMap;
use std::fmt;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::names::{GROUP, LABEL_IP_POOL, VERSION};

/// The kinds that the agents read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// `submariner.io` Cluster.
    Cluster,
    /// `submariner.io` Endpoint.
    Endpoint,
    /// `submariner.io` Gateway.
    Gateway,
    /// `submariner.io` RouteAgent.
    RouteAgent,
    /// Kubernetes' own Node.
    Node,
    /// Calico's IPPool, which has no namespace.
    IpPool,
}

impl Kind {
    /// How the API server names it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::Cluster => (GROUP, VERSION, "Cluster", "clusters"),
            Self::Endpoint => (GROUP, VERSION, "Endpoint", "endpoints"),
            Self::Gateway => (GROUP, VERSION, "Gateway", "gateways"),
            Self::RouteAgent => (GROUP, VERSION, "RouteAgent", "routeagents"),
            Self::Node => ("", "v1", "Node", "nodes"),
            Self::IpPool => ("projectcalico.org", "v3", "IPPool", "ippools"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// The label, with its value, without which an object of this kind is somebody else's; `None` where the name, or
    /// who may write it, says whose it is.
    #[must_use]
    pub fn mark(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::IpPool => Some((LABEL_IP_POOL, "true")),
            Self::Cluster | Self::Endpoint | Self::Gateway | Self::RouteAgent | Self::Node => None,
        }
    }
}

/// What names an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.resource().kind;
        if self.namespace.is_empty() {
            write!(f, "{kind} {}", self.name)
        } else {
            write!(f, "{kind} {}/{}", self.namespace, self.name)
        }
    }
}

/// An object without what the API server alone decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// What names it.
    pub key: ObjectKey,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// `spec`, `status` and whatever else stands beside `metadata`.
    pub content: Map<String, Value>,
    /// When it was made, in Unix seconds; 0 where that is unknown. Not compared by [`Object::same`].
    pub created: i64,
}

impl Object {
    /// An object with nothing in it.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            key: ObjectKey {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            content: Map::new(),
            created: 0,
        }
    }

    /// Sets `spec` or `status`. What can't be JSON (no type of this crate) becomes null.
    #[must_use]
    pub fn with(mut self, section: &str, content: &impl Serialize) -> Self {
        let value = serde_json::to_value(content).unwrap_or(Value::Null);
        self.content.insert(section.to_owned(), value);
        self
    }

    /// Reads `spec` or `status`.
    ///
    /// # Errors
    /// A sentence that names the section and says what was expected.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, String> {
        let value = self
            .content
            .get(name)
            .ok_or_else(|| format!("{name}: missing"))?;
        serde::Deserialize::deserialize(value)
            .map_err(|e: serde_json::Error| format!("{name}: {}", shown(&e.to_string(), 300)))
    }

    /// Whether it carries the label that makes an object of its kind ours; true for kinds that need none.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.key
            .kind
            .mark()
            .is_none_or(|(label, value)| self.labels.get(label).is_some_and(|have| have == value))
    }

    /// Same labels, annotations and content.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.annotations == other.annotations
            && self.content == other.content
    }

    /// What was read from the API server.
    #[must_use]
    pub fn read(kind: Kind, object: &DynamicObject) -> Self {
        Self::take(kind, object.clone())
    }

    /// The same, without a copy.
    #[must_use]
    pub fn take(kind: Kind, object: DynamicObject) -> Self {
        let meta = object.metadata;
        let mut content = match object.data {
            Value::Object(content) => content,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Map::new(),
        };
        content.retain(|k, _| !matches!(k.as_str(), "apiVersion" | "kind" | "metadata"));
        Self {
            key: ObjectKey {
                kind,
                namespace: meta.namespace.unwrap_or_default(),
                name: meta.name.unwrap_or_default(),
            },
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default(),
            content,
            created: meta.creation_timestamp.map_or(0, |t| t.0.as_second()),
        }
    }

    /// What is sent to the API server.
    #[must_use]
    pub fn write(self) -> DynamicObject {
        let resource = self.key.kind.resource();
        let mut object =
            DynamicObject::new(&self.key.name, &resource).data(Value::Object(self.content));
        object.metadata = ObjectMeta {
            name: Some(self.key.name),
            namespace: Some(self.key.namespace).filter(|n| !n.is_empty()),
            labels: Some(self.labels).filter(|l| !l.is_empty()),
            annotations: Some(self.annotations).filter(|a| !a.is_empty()),
            ..ObjectMeta::default()
        };
        object
    }
}
/// What somebody else may have written into, for a message: without control characters, and at most so many.
pub(crate) fn shown(text: &str, most: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(most)
        .collect()
}
