//! The objects and their recent history, in memory. Pure: no clock, no file, no network.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use crate::failure::Failure;
use crate::selector::Selector;

/// Which collection an object is in: `plural.group`, or `plural` in the core group.
pub type ResourceId = Arc<str>;

/// Namespace (empty for cluster-scoped objects) and name.
pub type ObjectKey = (String, String);

/// One version of an object, kept parsed and encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// The object.
    pub value: Value,
    /// The same as JSON on one line.
    pub json: Bytes,
}

impl Object {
    /// Encodes `value`.
    #[must_use]
    pub fn new(value: Value) -> Arc<Self> {
        let json = Bytes::from(value.to_string());
        Arc::new(Self { value, json })
    }
}

/// A change that is decided but not made yet.
#[derive(Clone, Debug)]
pub struct Change {
    /// The collection.
    pub resource: ResourceId,
    /// The object's key in it.
    pub key: ObjectKey,
    /// The new version; for a deletion, the last one.
    pub object: Arc<Object>,
    /// Whether the object goes.
    pub delete: bool,
    /// Resource version of the change.
    pub revision: u64,
}

/// A change that was made.
#[derive(Clone, Debug)]
pub struct Event {
    /// Resource version of the change.
    pub revision: u64,
    /// The object's key.
    pub key: ObjectKey,
    /// The version before, if there was one.
    pub old: Option<Arc<Object>>,
    /// The version after; for a deletion, the last one.
    pub new: Arc<Object>,
    /// Whether the object went.
    pub delete: bool,
}

/// What an [`Event`] is to a watcher with a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The object is new to the watcher.
    Added(Arc<Object>),
    /// The object was known and changed.
    Modified(Arc<Object>),
    /// The object went, or no longer matches; the version that the watcher should forget.
    Deleted(Arc<Object>),
}

/// Which objects a request is about.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only objects that match.
    pub selector: Selector,
}

impl Scope {
    /// Whether the object is in scope.
    #[must_use]
    pub fn contains(&self, key: &ObjectKey, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|n| *n == key.0) && self.selector.matches(&object.value)
    }

    /// What `event` is to a watcher of this scope; nothing if the watcher need not know.
    #[must_use]
    pub fn see(&self, event: &Event) -> Option<Seen> {
        let before = event.old.as_ref().filter(|o| self.contains(&event.key, o));
        let now = Some(&event.new).filter(|o| !event.delete && self.contains(&event.key, o));
        match (before, now) {
            (None, None) => None,
            (None, Some(new)) => Some(Seen::Added(new.clone())),
            (Some(_), Some(new)) => Some(Seen::Modified(new.clone())),
            (Some(_), None) if event.delete => Some(Seen::Deleted(event.new.clone())),
            (Some(old), None) => {
                let mut value = old.value.clone();
                value["metadata"]["resourceVersion"] = Value::String(event.revision.to_string());
                Some(Seen::Deleted(Object::new(value)))
            }
        }
    }
}

/// A page of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// The objects, ordered by namespace and name.
    pub items: Vec<Arc<Object>>,
    /// Where the next page begins, if there is one: the last key of this page.
    pub more: Option<ObjectKey>,
    /// How many matching objects come after this page.
    pub remaining: usize,
    /// The resource version at which this list is true.
    pub revision: u64,
}

#[derive(Debug)]
struct Collection {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    history: VecDeque<Arc<Event>>,
    /// Bytes of the objects in `history`.
    bytes: usize,
    /// Events up to this revision are no longer (or not all) in `history`.
    horizon: u64,
}

/// What a collection remembers at most, bytes of objects as JSON: they may be large, and a server's memory is not endless.
const HISTORY_BYTES: usize = 32 << 20;

/// All collections.
#[derive(Debug)]
pub struct Store {
    collections: BTreeMap<ResourceId, Collection>,
    revision: u64,
    first: u64,
    history: usize,
}

impl Store {
    /// An empty store at `revision` that remembers the last `history` changes of each collection.
    #[must_use]
    pub fn new(revision: u64, history: usize) -> Self {
        Self {
            collections: BTreeMap::new(),
            revision,
            first: revision,
            history,
        }
    }

    /// Resource version of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Puts an object without history, as when a snapshot is loaded.
    pub fn load(&mut self, resource: ResourceId, key: ObjectKey, object: Arc<Object>) {
        self.collection(resource).objects.insert(key, object);
    }

    /// Makes a change, and tells what it did. Changes must come in the order of their revisions.
    pub fn commit(&mut self, change: Change) -> Arc<Event> {
        let limit = self.history;
        self.revision = self.revision.max(change.revision);
        let collection = self.collection(change.resource);
        let old = if change.delete {
            collection.objects.remove(&change.key)
        } else {
            collection
                .objects
                .insert(change.key.clone(), change.object.clone())
        };
        let event = Arc::new(Event {
            revision: change.revision,
            key: change.key,
            old,
            new: change.object,
            delete: change.delete,
        });
        collection.history.push_back(event.clone());
        collection.bytes += event.new.json.len();
        while collection.history.len() > limit || collection.bytes > HISTORY_BYTES {
            let Some(dropped) = collection.history.pop_front() else {
                break;
            };
            collection.bytes -= dropped.new.json.len();
            collection.horizon = dropped.revision;
        }
        event
    }

    /// The object, if it is there.
    #[must_use]
    pub fn get(&self, resource: &str, key: &ObjectKey) -> Option<Arc<Object>> {
        self.collections
            .get(resource)
            .and_then(|c| c.objects.get(key))
            .cloned()
    }

    /// Every object with its collection and key, in order.
    pub fn all(&self) -> impl Iterator<Item = (&ResourceId, &ObjectKey, &Arc<Object>)> {
        self.collections
            .iter()
            .flat_map(|(id, c)| c.objects.iter().map(move |(key, object)| (id, key, object)))
    }

    /// The objects of a collection that are in scope, in order.
    #[must_use]
    pub fn select(&self, resource: &str, scope: &Scope) -> Vec<(ObjectKey, Arc<Object>)> {
        let objects = self.collections.get(resource).map(|c| &c.objects);
        objects
            .into_iter()
            .flatten()
            .filter(|(key, object)| scope.contains(key, object))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
    }

    /// A page of at most `limit` objects (all of them for 0) after the key `after`, as things were at `at`
    /// (as they are now for `None`).
    ///
    /// # Errors
    /// 410 when the history does not reach back to `at`; 504 when `at` is in the future.
    pub fn list(
        &self,
        resource: &str,
        scope: &Scope,
        limit: usize,
        after: Option<&ObjectKey>,
        at: Option<u64>,
    ) -> Result<Page, Failure> {
        let revision = at.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(Failure::future_version(revision, self.revision));
        }
        let mut page = Page {
            revision,
            ..Page::default()
        };
        let Some(collection) = self.collections.get(resource) else {
            return Ok(page);
        };
        let past;
        let objects = if revision == self.revision {
            &collection.objects
        } else {
            past = collection.undo_to(revision)?;
            &past
        };
        let from = after.map_or(std::ops::Bound::Unbounded, |key| {
            std::ops::Bound::Excluded(key.clone())
        });
        let mut last = None;
        for (key, object) in objects.range((from, std::ops::Bound::Unbounded)) {
            if !scope.contains(key, object) {
                continue;
            }
            if limit > 0 && page.items.len() == limit {
                page.remaining += 1;
            } else {
                page.items.push(object.clone());
                last = Some(key);
            }
        }
        if page.remaining > 0 {
            page.more = last.cloned();
        }
        Ok(page)
    }

    /// The changes of a collection after `revision`, in order.
    ///
    /// # Errors
    /// 410 when some of them are forgotten, or when `revision` is in the future (a store that lost its tail).
    pub fn since(&self, resource: &str, revision: u64) -> Result<Vec<Arc<Event>>, Failure> {
        if revision > self.revision {
            return Err(Failure::gone(revision, self.revision));
        }
        let Some(collection) = self.collections.get(resource) else {
            return if revision < self.first {
                Err(Failure::gone(revision, self.first))
            } else {
                Ok(Vec::new())
            };
        };
        if revision < collection.horizon {
            return Err(Failure::gone(revision, collection.horizon));
        }
        let start = collection
            .history
            .partition_point(|event| event.revision <= revision);
        Ok(collection.history.range(start..).cloned().collect())
    }

    fn collection(&mut self, resource: ResourceId) -> &mut Collection {
        let horizon = self.first;
        self.collections
            .entry(resource)
            .or_insert_with(|| Collection {
                objects: BTreeMap::new(),
                history: VecDeque::new(),
                bytes: 0,
                horizon,
            })
    }
}

impl Collection {
    fn undo_to(&self, revision: u64) -> Result<BTreeMap<ObjectKey, Arc<Object>>, Failure> {
        if revision < self.horizon {
            return Err(Failure::gone(revision, self.horizon));
        }
        let mut objects = self.objects.clone();
        for event in self
            .history
            .iter()
            .rev()
            .take_while(|event| event.revision > revision)
        {
            match &event.old {
                Some(old) => objects.insert(event.key.clone(), old.clone()),
                None => objects.remove(&event.key),
            };
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests;
