//! A list and its changes, for ever.

use std::fmt;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use kube::api::{DynamicObject, ListParams, ObjectList, WatchEvent, WatchParams};
use kube::core::{ApiResource, Request, Resource};
use kube::{Client, Error};
use tokio::time::Instant;

use super::lenient::Lenient;
use super::pauses::Pauses;
use super::{describe, distrusted, serves};

/// What happened to the objects that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// The complete list. What is not in it is gone.
    Reset(Vec<Item<T>>),
    /// An object is new or changed.
    Applied(Item<T>),
    /// An object is gone; this is its last state.
    Deleted(Item<T>),
    /// The API can't be read, for this reason. What was known still holds; it is tried again.
    Failed(String),
    /// After a failure, changes come again from where they ended: there may be none for a while.
    Resumed,
    /// The server does not know the resource, of a watch that began with [`Watch::where_served`].
    Absent,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<T> {
    /// The object's name.
    pub name: String,
    /// Its namespace; empty for what has none.
    pub namespace: String,
    /// The object, or why it was rejected.
    pub parsed: Result<T, String>,
}

/// What to watch.
///
/// An object that can't be parsed is an [`Item`] like any other, with the reason in it: it stops nothing.
#[derive(Clone)]
pub struct Watch {
    client: Client,
    resource: ApiResource,
    namespace: Option<String>,
    labels: Option<String>,
    fields: Option<String>,
    metadata_only: bool,
    where_served: bool,
}

impl Watch {
    /// All objects of a type, in all namespaces. Only the type's name is used, never its `Deserialize`.
    #[must_use]
    pub fn of<K: Resource<DynamicType = ()>>(client: &Client) -> Self {
        Self::of_resource(client, ApiResource::erase::<K>(&()))
    }

    /// All objects of a resource, in all namespaces.
    #[must_use]
    pub fn of_resource(client: &Client, resource: ApiResource) -> Self {
        Self {
            client: client.clone(),
            resource,
            namespace: None,
            labels: None,
            fields: None,
            metadata_only: false,
            where_served: false,
        }
    }

    /// Only those in one namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Only those whose labels match, such as `submariner.io/gateway=true`.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Only those whose fields match, such as `metadata.name=east-1`.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    /// Only their metadata, where the rest is large and not looked at.
    #[must_use]
    pub fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    /// A server that does not know the resource is no failure: it is told once, and the resource is looked for again
    /// every 30 s.
    #[must_use]
    pub fn where_served(mut self) -> Self {
        self.where_served = true;
        self
    }

    /// Begins to watch. The stream never ends; every change comes as soon as it is read.
    ///
    /// The first item is a `Reset` or a `Failed`. After failures it is tried again with growing pauses of up to 5 s.
    pub fn start<T, F>(self, parse: F) -> BoxStream<'static, Change<T>>
    where
        T: Send + 'static,
        F: Fn(&DynamicObject) -> Result<T, String> + Send + 'static,
    {
        let Self {
            client,
            resource,
            namespace,
            labels,
            fields,
            metadata_only,
            where_served,
        } = self;
        let sought = where_served.then(|| resource.clone());
        let watching = Watching {
            collection: Collection {
                path: Lenient::url_path(&resource, namespace.as_deref()),
                client,
                metadata_only,
            },
            labels,
            fields,
            parse,
            phase: match &sought {
                Some(_) => Phase::Seek { told: false },
                None => Phase::List,
            },
            sought,
            pauses: Pauses::default(),
            failing: false,
        };
        stream::unfold(watching, |mut watching| async move {
            loop {
                if let Some(change) = watching.step().await {
                    watching.failing = matches!(change, Change::Failed(_));
                    return Some((change, watching));
                }
            }
        })
        .boxed()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client: _,
            resource,
            namespace,
            labels,
            fields,
            metadata_only,
            where_served,
        } = self;
        let mut debug = f.debug_struct("Watch");
        debug
            .field("resource", &resource.plural)
            .field("namespace", namespace);
        debug
            .field("labels", labels)
            .field("fields", fields)
            .field("metadata_only", metadata_only)
            .field("where_served", where_served)
            .finish()
    }
}

/// How many objects a page of a list holds.
const PAGE: u32 = 500;

/// After how many seconds the server is asked to end a watch, which is then begun again where it ended.
const TIMEOUT: u32 = 290;

/// After how long without a word, not even the end of the watch, a connection counts as dead.
const SILENCE: Duration = Duration::from_secs(295);

/// How long until a resource that the server does not know is looked for again.
const SEEK: Duration = Duration::from_secs(30);

type Events = BoxStream<'static, kube::Result<WatchEvent<Lenient>>>;

enum Phase {
    /// Whether the server knows the resource must be asked; `told` that it does not.
    Seek { told: bool },
    /// Nothing is known.
    List,
    /// The list is known up to this version.
    Start { version: String },
    /// Changes are read.
    Read {
        version: String,
        events: Events,
        since: Instant,
    },
}

/// The collection, as requests name it.
struct Collection {
    client: Client,
    path: String,
    metadata_only: bool,
}

struct Watching<F> {
    collection: Collection,
    labels: Option<String>,
    fields: Option<String>,
    parse: F,
    phase: Phase,
    /// The resource, where a server need not know it.
    sought: Option<ApiResource>,
    pauses: Pauses,
    /// Whether the last thing that was told is a failure.
    failing: bool,
}

impl Collection {
    async fn page(&self, params: &ListParams) -> kube::Result<ObjectList<Lenient>> {
        let request = Request::new(&self.path);
        let request = if self.metadata_only {
            request.list_metadata(params)
        } else {
            request.list(params)
        };
        self.client
            .request(request.map_err(Error::BuildRequest)?)
            .await
    }

    async fn events(&self, params: &WatchParams, version: &str) -> kube::Result<Events> {
        let request = Request::new(&self.path);
        let request = if self.metadata_only {
            request.watch_metadata(params, version)
        } else {
            request.watch(params, version)
        };
        let request = request.map_err(Error::BuildRequest)?;
        Ok(self.client.request_events(request).await?.boxed())
    }
}

impl<T, F: Fn(&DynamicObject) -> Result<T, String>> Watching<F> {
    /// Goes on by one request or one event; `None` if there is nothing to tell.
    async fn step(&mut self) -> Option<Change<T>> {
        self.pauses.take().await;
        // Whatever fails from here on begins anew with a list, unless it says otherwise.
        let anew = match self.sought {
            Some(_) => Phase::Seek { told: false },
            None => Phase::List,
        };
        match std::mem::replace(&mut self.phase, anew) {
            Phase::Seek { told } => self.seek(told).await,
            Phase::List => match self.list().await {
                Ok((version, items)) => {
                    self.phase = Phase::Start { version };
                    Some(Change::Reset(items))
                }
                Err(reason) => Some(self.failed(reason)),
            },
            Phase::Start { version } => self.begin(version).await,
            Phase::Read {
                version,
                events,
                since,
            } => self.read(version, events, since).await,
        }
    }

    async fn seek(&mut self, told: bool) -> Option<Change<T>> {
        let Some(resource) = &self.sought else {
            self.phase = Phase::List;
            return None;
        };
        if told {
            tokio::time::sleep(SEEK).await;
        }
        match serves(&self.collection.client, resource).await {
            Ok(true) => {
                self.phase = Phase::List;
                None
            }
            Ok(false) => {
                self.phase = Phase::Seek { told: true };
                (!told).then_some(Change::Absent)
            }
            Err(error) => Some(self.failed(format!("cannot find out: {}", describe(&error)))),
        }
    }

    async fn list(&mut self) -> Result<(String, Vec<Item<T>>), String> {
        let mut items = Vec::new();
        let mut params = ListParams {
            limit: Some(PAGE),
            ..ListParams::default()
        };
        params.label_selector.clone_from(&self.labels);
        params.field_selector.clone_from(&self.fields);
        loop {
            let page = self
                .collection
                .page(&params)
                .await
                .map_err(|error| format!("cannot list: {}", describe(&error)))?;
            items.extend(page.items.into_iter().map(|object| self.item(object)));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                let version = page
                    .metadata
                    .resource_version
                    .filter(|version| !version.is_empty());
                return Ok((
                    version.ok_or("cannot list: the answer has no resource version")?,
                    items,
                ));
            }
        }
    }

    async fn begin(&mut self, version: String) -> Option<Change<T>> {
        let mut params = WatchParams {
            timeout: Some(TIMEOUT),
            bookmarks: true,
            ..WatchParams::default()
        };
        params.label_selector.clone_from(&self.labels);
        params.field_selector.clone_from(&self.fields);
        match self.collection.events(&params, &version).await {
            Ok(events) => {
                self.phase = Phase::Read {
                    version,
                    events,
                    since: Instant::now(),
                };
                self.failing.then_some(Change::Resumed)
            }
            // What the server has forgotten must be listed again; that is no failure.
            Err(Error::Api(status)) if status.code == 410 => None,
            // So must a resource that the server no longer knows.
            Err(Error::Api(status)) if status.code == 404 && self.sought.is_some() => {
                self.pauses.grow();
                None
            }
            Err(error) => {
                // One that shows another certificate is another server: versions of the one before mean nothing there.
                if !distrusted(&error) {
                    self.phase = Phase::Start { version };
                }
                Some(self.failed(format!("cannot watch: {}", describe(&error))))
            }
        }
    }

    async fn read(
        &mut self,
        version: String,
        mut events: Events,
        since: Instant,
    ) -> Option<Change<T>> {
        let Ok(event) = tokio::time::timeout(SILENCE, events.next()).await else {
            self.phase = Phase::Start { version };
            return None;
        };
        let change = match event {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                (object.version(), Some(Change::Applied(self.item(object))))
            }
            Some(Ok(WatchEvent::Deleted(object))) => {
                (object.version(), Some(Change::Deleted(self.item(object))))
            }
            Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                (Some(bookmark.metadata.resource_version), None)
            }
            Some(Ok(WatchEvent::Error(status))) => {
                if status.code == 410 {
                    return None;
                }
                self.phase = Phase::Start { version };
                return Some(self.failed(format!(
                    "watch failed: {} ({})",
                    status.message, status.code
                )));
            }
            Some(Err(error)) => {
                self.phase = Phase::Start { version };
                return Some(self.failed(format!("watch failed: {}", describe(&error))));
            }
            None => {
                // A server that ends every watch at once must not be asked in a tight loop.
                if since.elapsed() < Duration::from_secs(1) {
                    self.pauses.grow();
                }
                self.phase = Phase::Start { version };
                return None;
            }
        };
        self.pauses.reset();
        let (newer, change) = change;
        self.phase = Phase::Read {
            version: newer.unwrap_or(version),
            events,
            since,
        };
        change
    }

    fn failed(&mut self, reason: String) -> Change<T> {
        self.pauses.grow();
        Change::Failed(reason)
    }

    fn item(&self, object: Lenient) -> Item<T> {
        let Lenient(object) = object;
        let parsed = (self.parse)(&object);
        Item {
            name: object.metadata.name.unwrap_or_default(),
            namespace: object.metadata.namespace.unwrap_or_default(),
            parsed,
        }
    }
}

#[cfg(test)]
mod tests;
