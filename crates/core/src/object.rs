//! Objects on an API server as a plan treats them: what is there, and what is to be changed.

use serde::Serialize;
use strait_api::{Object, ObjectKey};

use crate::hello::Turn;

/// An object as it stands on a server, and what it parses into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<T> {
    /// As it stands there.
    pub object: Object,
    /// Parsed, or why it can't be used.
    pub parsed: Result<T, String>,
}

impl<T> Entry<T> {
    /// Parses an object; one that can't be is kept, since it may have to be named, or removed.
    #[must_use]
    pub fn read(object: Object, parse: impl FnOnce(&Object) -> Result<T, String>) -> Self {
        let parsed = parse(&object);
        Self { object, parsed }
    }
}

/// A change on an API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectChange {
    /// Makes the object, or makes it equal to this.
    Put(Object),
    /// Removes it.
    Delete(ObjectKey),
    /// Removes an Endpoint of this cluster, unless it is of a newer turn by then.
    Supersede {
        /// Which.
        key: ObjectKey,
        /// The turn that took its place.
        by: Turn,
    },
}

impl ObjectChange {
    /// What it is about.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Put(object) => &object.key,
            Self::Delete(key) | Self::Supersede { key, .. } => key,
        }
    }
}
