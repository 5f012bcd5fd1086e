//! How objects are written for a client.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::store::Object;
use crate::types::Type;

/// How objects are shown to a client.
#[derive(Clone, Debug)]
pub(super) struct Encoding {
    api_version: String,
    metadata_only: bool,
}

impl Encoding {
    /// Objects of the version of `ty`, whole or their metadata only.
    pub(super) fn new(ty: &Type, metadata_only: bool) -> Self {
        Self {
            api_version: ty.api_version(),
            metadata_only,
        }
    }

    /// One object.
    pub(super) fn object(&self, object: &Object) -> Bytes {
        if self.metadata_only {
            let metadata = object.value.get("metadata").cloned().unwrap_or_default();
            let value = json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata,
            });
            return Bytes::from(value.to_string());
        }
        if object.value.get("apiVersion").and_then(Value::as_str) == Some(&self.api_version) {
            return object.json.clone();
        }
        let mut value = object.value.clone();
        value["apiVersion"] = json!(self.api_version);
        Bytes::from(value.to_string())
    }

    /// A list.
    pub(super) fn list(&self, ty: &Type, metadata: &Value, items: &[Arc<Object>]) -> Bytes {
        let (version, kind) = if self.metadata_only {
            ("meta.k8s.io/v1", "PartialObjectMetadataList")
        } else {
            (self.api_version.as_str(), ty.list_kind.as_str())
        };
        let mut out = BytesMut::new();
        let head = format!(
            "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
            Value::from(kind),
            Value::from(version)
        );
        out.put_slice(head.as_bytes());
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            out.put_slice(&self.object(item));
        }
        out.put_slice(b"]}");
        out.freeze()
    }
}
