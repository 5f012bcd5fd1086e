//! The state of a server behind one lock: objects, journal, resources, and whom to wake.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Error;
use crate::auth::Permit;
use crate::crd;
use crate::failure::Failure;
use crate::journal::Journal;
use crate::metadata;
use crate::store::{Change, Event, Object, ObjectKey, Page, ResourceId, Scope, Store};
use crate::types::{CRDS, Type, Types};

mod write;

pub use write::{Body, Deletion, Reply, Target};

/// The state.
#[derive(Debug)]
pub struct Backend {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    journal: Journal,
    types: Arc<Types>,
    wake: BTreeMap<ResourceId, watch::Sender<u64>>,
}

impl Backend {
    /// Opens the state in `dir`; each collection remembers `history` changes for watches.
    ///
    /// # Errors
    /// When the journal cannot be opened.
    pub fn open(dir: &Path, history: usize) -> Result<Self, Error> {
        let (journal, store) = Journal::open(&dir.join("journal.jsonl"), history)?;
        let mut types = Types::builtin();
        for (_, crd) in store.select(CRDS, &Scope::default()) {
            let (group, plural) = names(&crd.value);
            match crd::types(&crd.value) {
                Ok(new) => types.replace(group, plural, new),
                Err(error) => {
                    tracing::error!(%error, "a stored custom resource definition cannot be served")
                }
            }
        }
        let inner = Inner {
            store,
            journal,
            types: Arc::new(types),
            wake: BTreeMap::new(),
        };
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Changes go to the journal first and then to the store in steps that do not panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resources that are served now.
    #[must_use]
    pub fn types(&self) -> Arc<Types> {
        self.lock().types.clone()
    }

    /// One object.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn get(&self, ty: &Type, key: &ObjectKey) -> Result<Arc<Object>, Failure> {
        let found = self.lock().store.get(&ty.id, key);
        found.ok_or_else(|| Failure::not_found(&ty.group, &ty.plural, &key.1))
    }

    /// A page of a list; see [`Store::list`].
    ///
    /// # Errors
    /// 410 and 504 as there.
    pub fn list(
        &self,
        ty: &Type,
        scope: &Scope,
        limit: usize,
        after: Option<&ObjectKey>,
        at: Option<u64>,
    ) -> Result<Page, Failure> {
        self.lock().store.list(&ty.id, scope, limit, after, at)
    }

    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.lock().store.revision()
    }

    /// The changes after `revision`, and the revision up to which these are all; see [`Store::since`].
    ///
    /// # Errors
    /// 410 as there.
    pub fn since(&self, resource: &str, revision: u64) -> Result<(Vec<Arc<Event>>, u64), Failure> {
        let inner = self.lock();
        Ok((
            inner.store.since(resource, revision)?,
            inner.store.revision(),
        ))
    }

    /// Something that changes whenever the collection does.
    #[must_use]
    pub fn subscribe(&self, resource: &ResourceId) -> watch::Receiver<u64> {
        let mut inner = self.lock();
        inner
            .wake
            .entry(resource.clone())
            .or_insert_with(|| watch::channel(0).0)
            .subscribe()
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> std::io::Result<()> {
        let file = self.lock().journal.sync()?;
        file.sync_data()
    }

    /// Removes events (of both groups) that are older than `seconds`, as Kubernetes does after an hour.
    pub fn expire_events(&self, now: jiff::Timestamp, seconds: i64) {
        let mut inner = self.lock();
        for resource in ["events", "events.events.k8s.io"] {
            for (key, object) in inner.store.select(resource, &Scope::default()) {
                let made =
                    metadata::text(&object.value, "creationTimestamp").parse::<jiff::Timestamp>();
                if made.is_ok_and(|made| now.as_second() - made.as_second() > seconds)
                    && let Err(error) =
                        inner.commit(vec![(resource.into(), key, object.value.clone(), true)])
                {
                    tracing::warn!(%error, "an old event cannot be removed");
                    return;
                }
            }
        }
    }
}

impl Inner {
    /// Journals and makes changes, in order, and wakes who watches; gives the new versions.
    fn commit(
        &mut self,
        wanted: Vec<(ResourceId, ObjectKey, Value, bool)>,
    ) -> Result<Vec<Arc<Object>>, Failure> {
        let mut changes = Vec::new();
        let mut revision = self.store.revision();
        for (resource, key, mut value, delete) in wanted {
            revision += 1;
            value["metadata"]["resourceVersion"] = json!(revision.to_string());
            changes.push(Change {
                resource,
                key,
                object: Object::new(value),
                delete,
                revision,
            });
        }
        self.journal.append(&changes).map_err(|error| {
            tracing::error!(%error, "the journal cannot be written: the change is refused");
            Failure::internal("the change cannot be stored")
        })?;
        let mut made = Vec::new();
        for change in changes {
            let (resource, revision) = (change.resource.clone(), change.revision);
            made.push(change.object.clone());
            self.store.commit(change);
            if let Some(sender) = self.wake.get(&resource) {
                sender.send_replace(revision);
            }
        }
        if let Err(error) = self.journal.compact(&self.store) {
            tracing::warn!(%error, "the journal cannot be compacted");
        }
        Ok(made)
    }
}

/// Group and plural name that a definition defines.
fn names(crd: &Value) -> (&str, &str) {
    let spec = &crd["spec"];
    (
        spec["group"].as_str().unwrap_or_default(),
        spec["names"]["plural"].as_str().unwrap_or_default(),
    )
}

fn refuse_foreign(
    permit: &Permit,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Result<(), Failure> {
    if permit.allows(old, new) {
        Ok(())
    } else {
        Err(Failure::forbidden(
            "the object does not carry, before and after the write, the label that this user's objects must carry",
        ))
    }
}
