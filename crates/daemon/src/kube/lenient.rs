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
