//! Objects of an API server: read as events for a state, written where they differ.

use futures::{Stream, StreamExt};
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::{Client, Error};
use strait_api::{Kind, Object, ObjectKey};
use strait_core::Event;

use crate::kube::{Change, Item, Watch};

/// Who writes, as `managedFields` names it.
const MANAGER: &str = "strait";

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
        })
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

/// Makes the object on the server, or makes it equal to this one; an equal one is not written.
///
///
/// # Errors
/// What the server says; a conflict with somebody else's write is tried again a few times first.
pub async fn put(client: &Client, object: &Object, annotations: Annotations) -> Result<Put, Error> {
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
            None => api.create(&params, &object.write()).await,
            Some(there) => {
                let have = Object::read(kind, &there);
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
                let mut new = want.write();
                new.metadata.resource_version = there.metadata.resource_version;
                api.replace(&object.key.name, &params, &new).await
            }
        };
        match written {
            Ok(stored) => {
                return Ok(Put {
                    stored: Object::read(kind, &stored),
                    written: true,
                });
            }
            Err(Error::Api(status)) if status.code == 409 && attempts < 5 => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes the object; one that is not there is no error.
///
/// # Errors
/// What the server says.
pub async fn delete(client: &Client, key: &ObjectKey) -> Result<(), Error> {
    match api(client, key)
        .delete(&key.name, &DeleteParams::default())
        .await
    {
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
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
