//! Objects as they come, whatever they are.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, TypeMeta};
use kube::core::{ApiResource, DynamicResourceScope, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object of which nothing can be wrong: what is not as Kubernetes promises is absent.
#[derive(Debug, Clone)]
pub(super) struct Lenient(pub(super) DynamicObject);

impl Lenient {
    /// The resource version, if there is one.
    pub(super) fn version(&self) -> Option<String> {
        self.0
            .metadata
            .resource_version
            .clone()
            .filter(|version| !version.is_empty())
    }
}

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Value::deserialize(deserializer)?;
        let mut take = |key: &str| data.as_object_mut().and_then(|object| object.remove(key));
        let metadata = take("metadata").unwrap_or_default();
        let types = match (take("apiVersion"), take("kind")) {
            (Some(Value::String(api_version)), Some(Value::String(kind))) => {
                Some(TypeMeta { api_version, kind })
            }
            (_, _) => None,
        };
        let metadata = ObjectMeta::deserialize(&metadata).unwrap_or_else(|_| {
            let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
            ObjectMeta {
                name: text("name"),
                namespace: text("namespace"),
                resource_version: text("resourceVersion"),
                uid: text("uid"),
                ..ObjectMeta::default()
            }
        });
        Ok(Self(DynamicObject {
            types,
            metadata,
            data,
        }))
    }
}

impl Resource for Lenient {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(dt: &ApiResource) -> Cow<'_, str> {
        DynamicObject::kind(dt)
    }

    fn group(dt: &ApiResource) -> Cow<'_, str> {
        DynamicObject::group(dt)
    }

    fn version(dt: &ApiResource) -> Cow<'_, str> {
        DynamicObject::version(dt)
    }

    fn plural(dt: &ApiResource) -> Cow<'_, str> {
        DynamicObject::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::api::WatchEvent;
    use strait_api::{Endpoint, Kind, Node, Object};

    use super::*;

    /// Each line of a watch is decoded like this.
    #[test]
    fn no_line_of_a_watch_makes_the_decoder_panic_and_an_object_is_never_its_fault() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/watch");
        strait_fuzz::fuzz(corpus, 20_000, |bytes| {
            let Ok(event) = serde_json::from_slice::<WatchEvent<Lenient>>(bytes) else {
                return;
            };
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event {
                let _ = object.version();
                let _ = Endpoint::parse(&Object::read(Kind::Endpoint, &object.0));
                let _ = Node::parse(&Object::read(Kind::Node, &object.0));
            }
        });
        // Whatever an object is, it is one object that can be refused.
        for object in ["null", "7", "[]", "\"x\"", "{\"metadata\":[]}"] {
            let line = format!("{{\"type\":\"ADDED\",\"object\":{object}}}");
            let event = serde_json::from_str::<WatchEvent<Lenient>>(&line);
            assert!(
                matches!(event, Ok(WatchEvent::Added(_))),
                "{object}: {event:?}"
            );
        }
    }
}
