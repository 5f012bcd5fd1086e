//! Objects of an API server: read as events for a state, written where they differ.

use futures::{Stream, StreamExt};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Client, Error};
use strait_api::{Endpoint, Kind, Object, ObjectKey};
use strait_core::Event;
use strait_core::hello::Turn;

use crate::kube::{Change, Item, Watch, describe, serves};

/// Who writes, as `managedFields` names it.
pub(crate) const MANAGER: &str = "strait";

/// Watches a kind for ever. Each object is parsed once; one that can't be is an event like any other.
pub fn events<T, F>(
    client: &Client,
    kind: Kind,
    namespace: Option<&str>,
    parse: F,
) -> impl Stream<Item = Event<T>> + use<T, F>
where
    T: Send + 'static,
    F: Fn(Object) -> Result<T, String> + Send + 'static,
{
    follow(watch(client, kind, namespace), kind, parse)
}

/// As [`events`], for what is in the objects' metadata: `parse` gets no more of them.
pub fn metadata_events<T, F>(
    client: &Client,
    kind: Kind,
    namespace: Option<&str>,
    parse: F,
) -> impl Stream<Item = Event<T>> + use<T, F>
where
    T: Send + 'static,
    F: Fn(Object) -> Result<T, String> + Send + 'static,
{
    follow(watch(client, kind, namespace).metadata_only(), kind, parse)
}

fn watch(client: &Client, kind: Kind, namespace: Option<&str>) -> Watch {
    let watch = Watch::of_resource(client, kind.resource());
    match namespace {
        Some(namespace) => watch.namespace(namespace),
        None => watch,
    }
}

/// Watches a kind without namespaces that a server need not know. While it doesn't that is no failure, and it is looked for
/// again every 30 s.
pub fn events_where_served<T, F>(
    client: &Client,
    kind: Kind,
    parse: F,
) -> impl Stream<Item = Event<T>> + use<T, F>
where
    T: Send + 'static,
    F: Fn(Object) -> Result<T, String> + Send + 'static,
{
    let watch = Watch::of_resource(client, kind.resource()).where_served();
    follow(watch, kind, parse)
}

fn follow<T, F>(watch: Watch, kind: Kind, parse: F) -> impl Stream<Item = Event<T>> + use<T, F>
where
    T: Send + 'static,
    F: Fn(Object) -> Result<T, String> + Send + 'static,
{
    let named = |item: Item<T>| (item.name, item.parsed);
    watch
        .start(move |object| parse(Object::read(kind, object)))
        .map(move |change| match change {
            Change::Reset(items) => Event::Reset(items.into_iter().map(named).collect()),
            Change::Applied(item) => {
                let (name, parsed) = named(item);
                Event::Applied(name, parsed)
            }
            Change::Deleted(item) => Event::Deleted(item.name),
            Change::Failed(why) => Event::Failed(why),
            Change::Resumed => Event::Resumed,
            Change::Absent => Event::Absent,
        })
}

/// Why an object was not written or removed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// What the server says.
    #[error("{}", describe(.0))]
    Api(#[from] Error),
    /// It lacks the label that makes it ours.
    #[error("{0} is somebody else's, and is not touched")]
    Foreign(ObjectKey),
}

/// What becomes of annotations that somebody else put on an object of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotations {
    /// They go: the object is a copy.
    Exact,
    /// They stay.
    KeepForeign,
}

/// An object as the server has it after [`put`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// It may lack fields that the server's definition of the resource does not know.
    pub stored: Object,
    /// Whether anything had to be written.
    pub written: bool,
}

/// Reads an object; `None` where there is none.
///
/// # Errors
/// What the server says.
pub async fn get(client: &Client, key: &ObjectKey) -> Result<Option<Object>, Error> {
    let there = api(client, key).get_opt(&key.name).await?;
    Ok(there.map(|object| Object::read(key.kind, &object)))
}

/// Makes the object on the server, or makes it equal to this one; an equal one is not written. Finalizers and owners
/// that others gave it stay.
///
/// # Errors
/// What the server says; a conflict with somebody else's write is tried again a few times first. An object that
/// lacks the label of [`Kind::mark`] is not touched.
pub async fn put(
    client: &Client,
    object: &Object,
    annotations: Annotations,
) -> Result<Put, WriteError> {
    let api = api(client, &object.key);
    let kind = object.key.kind;
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let written = match api.get_opt(&object.key.name).await? {
            None => api.create(&params, &object.clone().write()).await,
            Some(there) => {
                let meta = there.metadata.clone();
                let have = Object::take(kind, there);
                if !have.is_ours() {
                    return Err(WriteError::Foreign(object.key.clone()));
                }
                let mut want = object.clone();
                if annotations == Annotations::KeepForeign {
                    for (key, value) in &have.annotations {
                        want.annotations
                            .entry(key.clone())
                            .or_insert_with(|| value.clone());
                    }
                }
                if have.same(&want) {
                    return Ok(Put {
                        stored: have,
                        written: false,
                    });
                }
                // It may be large, and the answer will be so too.
                drop(have);
                let mut new = want.write();
                new.metadata.resource_version = meta.resource_version;
                new.metadata.finalizers = meta.finalizers;
                new.metadata.owner_references = meta.owner_references;
                api.replace(&object.key.name, &params, &new).await
            }
        };
        match written {
            Ok(stored) => {
                return Ok(Put {
                    stored: Object::take(kind, stored),
                    written: true,
                });
            }
            Err(Error::Api(status)) if status.code == 409 && attempts < 5 => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sets an annotation of an object and touches nothing else of it; whether the object was there.
///
/// # Errors
/// What the server says.
pub async fn annotate(
    client: &Client,
    key: &ObjectKey,
    name: &str,
    value: &str,
) -> Result<bool, Error> {
    let patch = serde_json::json!({"metadata": {"annotations": {name: value}}});
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    // The answer is the metadata alone: the object may be large.
    let (api, patch) = (api(client, key), Patch::Merge(&patch));
    match api.patch_metadata(&key.name, &params, &patch).await {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the object; whether it was there.
///
/// # Errors
/// What the server says. An object that lacks the label of [`Kind::mark`] is not touched.
pub async fn delete(client: &Client, key: &ObjectKey) -> Result<bool, WriteError> {
    let api = api(client, key);
    let mut params = DeleteParams::default();
    if key.kind.mark().is_some() {
        let Some(there) = api.get_opt(&key.name).await? else {
            return Ok(false);
        };
        if !Object::read(key.kind, &there).is_ours() {
            return Err(WriteError::Foreign(key.clone()));
        }
        // Not another that has taken its place since.
        params.preconditions = Some(Preconditions {
            uid: there.metadata.uid,
            resource_version: there.metadata.resource_version,
        });
    }
    Ok(there_was(api.delete(&key.name, &params).await)?)
}

/// Removes an Endpoint, unless it tells of a newer turn; whether it was removed.
///
/// # Errors
/// What the server says.
pub async fn supersede(client: &Client, key: &ObjectKey, by: &Turn) -> Result<bool, WriteError> {
    let api = api(client, key);
    let Some(there) = api.get_opt(&key.name).await? else {
        return Ok(false);
    };
    let theirs = Endpoint::parse(&Object::read(key.kind, &there));
    let newer = |theirs: Endpoint| {
        theirs
            .term
            .is_some_and(|term| (term, theirs.hostname.as_str()) > (by.term, by.holder.as_str()))
    };
    if theirs.is_ok_and(newer) {
        return Ok(false);
    }
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: there.metadata.uid,
        resource_version: there.metadata.resource_version,
    });
    Ok(there_was(api.delete(&key.name, &params).await)?)
}

/// Removes all objects of a kind without namespaces that carry the label of [`Kind::mark`], and gives their keys; none where
/// the server does not know the kind.
///
/// # Errors
/// What the server says.
pub async fn delete_marked(client: &Client, kind: Kind) -> Result<Vec<ObjectKey>, WriteError> {
    let resource = kind.resource();
    let Some((label, value)) = kind.mark() else {
        return Ok(Vec::new());
    };
    if !serves(client, &resource).await? {
        return Ok(Vec::new());
    }
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let marked = ListParams::default().labels(&format!("{label}={value}"));
    let removed = api
        .delete_collection(&DeleteParams::default(), &marked)
        .await?;
    let key = |object: &DynamicObject| Object::read(kind, object).key;
    Ok(removed.left().iter().flatten().map(key).collect())
}

/// All objects of a kind in a namespace.
///
/// # Errors
/// What the server says.
pub async fn list(client: &Client, kind: Kind, namespace: &str) -> Result<Vec<Object>, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
    let list = api.list(&ListParams::default()).await?;
    Ok(list.items.iter().map(|o| Object::read(kind, o)).collect())
}

/// Whether there was what was to be removed.
pub(crate) fn there_was<T>(removed: Result<T, Error>) -> Result<bool, Error> {
    match removed {
        Err(Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    }
}

fn api(client: &Client, key: &ObjectKey) -> Api<DynamicObject> {
    let resource = key.kind.resource();
    if key.namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &key.namespace, &resource)
    }
}
