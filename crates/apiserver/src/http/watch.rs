//! Watches: a stream of JSON lines that goes on as the collection changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::encoding::Encoding;
use super::{AnyBody, Service};
use crate::backend::Backend;
use crate::failure::Failure;
use crate::request::Query;
use crate::store::{Object, Scope, Seen};
use crate::types::Type;

/// How long a watch lasts that does not say, and at most.
const LONGEST: u64 = 3600;
/// How often a quiet watch gets a bookmark, seconds (as in Kubernetes).
const BOOKMARK: Duration = Duration::from_secs(60);

/// Whether the user may still watch.
pub(super) type Allowed = Box<dyn Fn() -> bool + Send>;

struct Watch {
    allowed: Allowed,
    service: Arc<Service>,
    ty: Arc<Type>,
    scope: Scope,
    encoding: Encoding,
    bookmarks: bool,
    /// Everything up to here was sent.
    revision: u64,
    wake: tokio::sync::watch::Receiver<u64>,
    end: Instant,
    next_bookmark: Instant,
    first: Option<Bytes>,
    over: bool,
}

/// Begins a watch.
pub(super) fn start(
    service: &Arc<Service>,
    ty: Arc<Type>,
    scope: Scope,
    query: &Query,
    encoding: Encoding,
    allowed: Allowed,
) -> Result<Response<AnyBody>, Failure> {
    let backend = &service.backend;
    let bookmarks = query.flag("allowWatchBookmarks");
    let initial = query.flag("sendInitialEvents");
    let asked = query.number("resourceVersion")?;
    let matching = query.text("resourceVersionMatch");
    if !query.text("sendInitialEvents").is_empty() && matching != "NotOlderThan" {
        return Err(Failure::bad_request(
            "sendInitialEvents needs resourceVersionMatch=NotOlderThan",
        ));
    }
    if initial && !bookmarks {
        return Err(Failure::bad_request(
            "sendInitialEvents needs allowWatchBookmarks=true",
        ));
    }
    let seconds = query
        .number("timeoutSeconds")?
        .filter(|s| *s > 0)
        .unwrap_or(LONGEST)
        .min(LONGEST);
    // Subscribed before the first look, so that no change falls between the two.
    let mut wake = backend.subscribe(&ty.id);
    wake.mark_unchanged();
    let mut first = BytesMut::new();
    let mut over = false;
    let fresh = initial || (query.text("sendInitialEvents").is_empty() && asked.unwrap_or(0) == 0);
    let revision = if fresh {
        let page = backend.list(&ty, &scope, 0, None, None)?;
        if let Some(future) = asked.filter(|a| *a > page.revision) {
            return Err(Failure::future_version(future, page.revision));
        }
        for object in &page.items {
            line(&mut first, "ADDED", &encoding.object(object));
        }
        if initial {
            bookmark(&mut first, &ty, page.revision, true, &encoding);
        }
        page.revision
    } else {
        let revision = match asked {
            Some(revision) if revision > 0 => revision,
            Some(_) | None => backend.revision(),
        };
        match backend.since(&ty.id, revision) {
            Ok((events, now)) => {
                catch_up(&mut first, &scope, &events, &encoding);
                now
            }
            Err(failure) => {
                // Told inside the stream, as Kubernetes does: clients list again only then.
                line(&mut first, "ERROR", &failure.status().to_string().into());
                over = true;
                revision
            }
        }
    };
    let now = Instant::now();
    let watch = Watch {
        allowed,
        service: service.clone(),
        ty,
        scope,
        encoding,
        bookmarks,
        revision,
        wake,
        end: now + Duration::from_secs(seconds),
        next_bookmark: now + BOOKMARK,
        first: Some(first.freeze()).filter(|f| !f.is_empty()),
        over,
    };
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(chunk)), watch))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        while !self.over {
            let mut out = BytesMut::new();
            if !(self.allowed)() {
                break;
            }
            self.wake.mark_unchanged();
            match self.service.backend.since(&self.ty.id, self.revision) {
                Ok((events, now)) => {
                    catch_up(&mut out, &self.scope, &events, &self.encoding);
                    self.revision = now;
                }
                Err(failure) => {
                    // The client was too slow for the history that is kept.
                    line(&mut out, "ERROR", &failure.status().to_string().into());
                    self.over = true;
                }
            }
            if !self.over && !served(&self.service.backend, &self.ty) {
                self.over = true;
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
            if self.over {
                break;
            }
            tokio::select! {
                changed = self.wake.changed() => {
                    if changed.is_err() {
                        self.over = true;
                    }
                }
                () = tokio::time::sleep_until(self.next_bookmark.min(self.end)) => {
                    self.over = Instant::now() >= self.end;
                    self.next_bookmark = Instant::now() + BOOKMARK;
                    if self.bookmarks {
                        // Nothing was pending at `revision`, and what comes now is later than it.
                        bookmark(&mut out, &self.ty, self.revision, false, &self.encoding);
                        return Some(out.freeze());
                    }
                }
                () = self.service.stop.cancelled() => self.over = true,
            }
        }
        None
    }
}

/// Whether the resource is still there: its definition may have gone.
fn served(backend: &Backend, ty: &Type) -> bool {
    !ty.custom()
        || backend
            .types()
            .get(&ty.group, &ty.version, &ty.plural)
            .is_some()
}

fn catch_up(
    out: &mut BytesMut,
    scope: &Scope,
    events: &[Arc<crate::store::Event>],
    encoding: &Encoding,
) {
    for event in events {
        let (kind, object): (_, Arc<Object>) = match scope.see(event) {
            None => continue,
            Some(Seen::Added(object)) => ("ADDED", object),
            Some(Seen::Modified(object)) => ("MODIFIED", object),
            Some(Seen::Deleted(object)) => ("DELETED", object),
        };
        line(out, kind, &encoding.object(&object));
    }
}

fn line(out: &mut BytesMut, kind: &str, object: &Bytes) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

fn bookmark(out: &mut BytesMut, ty: &Type, revision: u64, initial: bool, encoding: &Encoding) {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    // Typed clients read a bookmark as an object of the kind.
    let value: Value =
        json!({"kind": ty.kind, "apiVersion": ty.api_version(), "metadata": metadata});
    line(out, "BOOKMARK", &encoding.object(&Object::new(value)));
}
