//! Which operation a request is, whether the user may do it, and the answer.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::encoding::Encoding;
use super::{AnyBody, Service, full, json as reply, read, watch};
use crate::auth::{Attributes, Permit, User};
use crate::backend::{Body, Deletion, Reply, Target};
use crate::failure::Failure;
use crate::managed::Writer;
use crate::objects::Context;
use crate::request::{Continue, Place, Query, Route};
use crate::store::Object;
use crate::types::Type;

/// The version of Kubernetes whose API this is a part of.
const KUBERNETES: (&str, &str) = ("1", "34");

pub(super) async fn dispatch(
    service: &Arc<Service>,
    request: Request<Incoming>,
) -> Result<Response<AnyBody>, Failure> {
    let (head, body) = request.into_parts();
    let route = Route::parse(head.uri.path());
    let get = matches!(head.method, Method::GET | Method::HEAD);
    match &route {
        Some(Route::Health) if get => {
            return Ok(full(200, "text/plain", Bytes::from_static(b"ok")));
        }
        Some(Route::Version) if get => return Ok(reply(200, &version())),
        Some(_) | None => {}
    }
    let user = authorization(&head.headers)
        .and_then(|h| service.auth.user(h))
        .ok_or_else(Failure::unauthorized)?;
    let route = route.ok_or_else(Failure::no_path)?;
    let Route::Objects(place) = route else {
        if !get {
            return Err(Failure::method_not_allowed());
        }
        return discovery(service, &route, &head.headers).map(|v| reply(200, &v));
    };
    let query = Query::parse(head.uri.query().unwrap_or_default())?;
    let ty = service
        .backend
        .types()
        .get(&place.group, &place.version, &place.plural)
        .filter(|ty| ty.namespaced || place.namespace.is_none())
        .ok_or_else(Failure::no_path)?;
    let call = Call {
        service: service.clone(),
        user,
        place,
        ty,
        query,
        headers: head.headers,
    };
    call.check_place()?;
    match (head.method, call.place.name.is_some()) {
        (Method::GET | Method::HEAD, named) => call.read(named),
        (Method::POST, false) => call.create(read(body).await?),
        (Method::PUT, true) => call.replace(read(body).await?),
        (Method::PATCH, true) => call.patch(read(body).await?),
        (Method::DELETE, named) => call.delete(named, read(body).await?),
        _ => Err(Failure::method_not_allowed()),
    }
}

fn version() -> Value {
    let (major, minor) = KUBERNETES;
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+strait"), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": "linux",
    })
}

fn discovery(service: &Service, route: &Route, headers: &HeaderMap) -> Result<Value, Failure> {
    let types = service.backend.types();
    let aggregated = accepts(headers, "as=APIGroupDiscoveryList") && accepts(headers, "v=v2");
    match route {
        Route::Core if aggregated => Ok(types.aggregated(true)),
        Route::Groups if aggregated => Ok(types.aggregated(false)),
        Route::Core => Ok(json!({
            "kind": "APIVersions", "apiVersion": "v1", "versions": ["v1"], "serverAddressByClientCIDRs": [],
        })),
        Route::Groups => Ok(types.group_list()),
        Route::Group(group) => types.group(group).ok_or_else(Failure::no_path),
        Route::Resources(group, version) => types
            .resource_list(group, version)
            .ok_or_else(Failure::no_path),
        Route::Version | Route::Health | Route::Objects(_) => Err(Failure::no_path()),
    }
}

fn accepts(headers: &HeaderMap, what: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|h| h.to_str().is_ok_and(|text| text.contains(what)))
}

struct Call {
    service: Arc<Service>,
    user: User,
    place: Place,
    ty: Arc<Type>,
    query: Query,
    headers: HeaderMap,
}

impl Call {
    fn check_place(&self) -> Result<(), Failure> {
        let place = &self.place;
        match place.subresource.as_deref() {
            None => {}
            Some("status") if self.ty.status => {}
            Some(_) => return Err(Failure::no_path()),
        }
        if place.name.is_some() && self.ty.namespaced && place.namespace.is_none() {
            return Err(Failure::no_path());
        }
        Ok(())
    }

    fn status(&self) -> bool {
        self.place.subresource.is_some()
    }

    fn ask<'a>(&'a self, verb: &'a str) -> Attributes<'a> {
        ask(&self.ty, &self.place, verb)
    }

    /// Asks again whether the user may watch: tokens and rules change while a watch goes on.
    fn still_watching(&self) -> watch::Allowed {
        let (service, ty, place) = (self.service.clone(), self.ty.clone(), self.place.clone());
        let header = authorization(&self.headers).unwrap_or_default().to_owned();
        Box::new(move || {
            let user = service.auth.user(&header);
            user.is_some_and(|u| u.permit(&ask(&ty, &place, "watch")).is_some())
        })
    }

    fn permit(&self, verb: &str) -> Result<Permit, Failure> {
        self.user.permit(&self.ask(verb)).ok_or_else(|| {
            let place = &self.place;
            let name = place.name.as_deref().unwrap_or_default();
            let sub = place.subresource.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
            let wher = match &place.namespace {
                Some(namespace) => format!("in the namespace {namespace:?}"),
                None => "at the cluster scope".to_owned(),
            };
            let message = format!(
                "{}.{} {name:?} is forbidden: User {:?} cannot {verb} resource \"{}{sub}\" in API group {:?} {wher}",
                place.plural, place.group, self.user.name, place.plural, place.group
            );
            Failure::forbidden(message).about(&place.group, &place.plural, name)
        })
    }

    fn target(&self, permit: Permit) -> Result<Target, Failure> {
        let key = (
            self.place.namespace.clone().unwrap_or_default(),
            self.place.name.clone().unwrap_or_default(),
        );
        let create = self.user.permit(&self.ask("create"));
        Ok(Target {
            ty: self.ty.clone(),
            key,
            permit,
            create,
            dry_run: self.query.dry_run()?,
        })
    }

    fn context(&self, apply: bool) -> Result<Context, Failure> {
        let random =
            |r: Result<String, crate::Error>| r.map_err(|e| Failure::internal(e.to_string()));
        let agent = self
            .headers
            .get(header::USER_AGENT)
            .and_then(|h| h.to_str().ok())
            .unwrap_or("unknown");
        let manager = match self.query.text("fieldManager") {
            "" if apply => {
                return Err(Failure::bad_request(
                    "fieldManager is required for apply patch",
                ));
            }
            "" => agent.split('/').next().unwrap_or("unknown"),
            name if name.len() > 128 || name.chars().any(char::is_control) => {
                return Err(Failure::bad_request(
                    "fieldManager must be at most 128 printable characters",
                ));
            }
            name => name,
        };
        let manager = if manager.is_empty() {
            "unknown"
        } else {
            manager
        };
        Ok(Context {
            writer: Writer {
                manager: manager.to_owned(),
                apply,
                status: self.status(),
                now: now(),
            },
            strict: self.query.text("fieldValidation") == "Strict",
            uid: random(crate::random::uid())?,
            suffix: random(crate::random::suffix())?,
        })
    }

    fn encoding(&self) -> Encoding {
        let metadata_only = accepts(&self.headers, "as=PartialObjectMetadata");
        Encoding::new(&self.ty, metadata_only)
    }

    fn object(&self, code: u16, object: &Object) -> Response<AnyBody> {
        full(code, "application/json", self.encoding().object(object))
    }

    fn read(&self, named: bool) -> Result<Response<AnyBody>, Failure> {
        if self.query.flag("watch") {
            self.permit("watch")?;
            let scope = self.query.scope(&self.place)?;
            return watch::start(
                &self.service,
                self.ty.clone(),
                scope,
                &self.query,
                self.encoding(),
                self.still_watching(),
            );
        }
        if named {
            let target = self.target(self.permit("get")?)?;
            return Ok(self.object(200, &*self.service.backend.get(&self.ty, &target.key)?));
        }
        self.permit("list")?;
        self.list()
    }

    fn list(&self) -> Result<Response<AnyBody>, Failure> {
        let query = &self.query;
        let scope = query.scope(&self.place)?;
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
        let token = Some(query.text("continue"))
            .filter(|t| !t.is_empty())
            .map(Continue::decode)
            .transpose()?;
        let asked = query.number("resourceVersion")?.filter(|v| *v > 0);
        let backend = &self.service.backend;
        let at = match (&token, query.text("resourceVersionMatch")) {
            (Some(token), _) => Some(token.revision),
            (None, "Exact") => {
                Some(asked.ok_or_else(|| Failure::bad_request("Exact needs a resourceVersion"))?)
            }
            (None, "" | "NotOlderThan") => {
                let current = backend.revision();
                if let Some(future) = asked.filter(|a| *a > current) {
                    return Err(Failure::future_version(future, current));
                }
                None
            }
            (None, other) => {
                return Err(Failure::bad_request(format!(
                    "unknown resourceVersionMatch {other:?}"
                )));
            }
        };
        let page = backend.list(
            &self.ty,
            &scope,
            limit,
            token.as_ref().map(|t| &t.after),
            at,
        )?;
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if let Some(after) = page.more {
            metadata["continue"] = json!(
                Continue {
                    revision: page.revision,
                    after
                }
                .encode()
            );
            // As in Kubernetes, unknown where a selector is at work.
            if scope.selector.is_empty() {
                metadata["remainingItemCount"] = json!(page.remaining);
            }
        }
        Ok(full(
            200,
            "application/json",
            self.encoding().list(&self.ty, &metadata, &page.items),
        ))
    }

    fn create(&self, body: Bytes) -> Result<Response<AnyBody>, Failure> {
        let target = self.target(self.permit("create")?)?;
        if self.ty.namespaced && self.place.namespace.is_none() {
            return Err(Failure::method_not_allowed());
        }
        let made =
            self.service
                .backend
                .create(&target, self.parse(&body)?, &self.context(false)?)?;
        Ok(self.object(201, &made.object))
    }

    fn replace(&self, body: Bytes) -> Result<Response<AnyBody>, Failure> {
        let target = self.target(self.permit("update")?)?;
        let new = Body::Full(self.parse(&body)?);
        let made = self
            .service
            .backend
            .update(&target, new, &self.context(false)?)?;
        Ok(self.object(200, &made.object))
    }

    fn patch(&self, body: Bytes) -> Result<Response<AnyBody>, Failure> {
        let target = self.target(self.permit("patch")?)?;
        let patch = match self.content() {
            "application/merge-patch+json" => Body::Merge(parse_json(&body)?),
            // A strategic merge needs the kinds' Go types; for built-in kinds it is taken as a merge patch.
            "application/strategic-merge-patch+json" if !self.ty.custom() => {
                Body::Merge(parse_json(&body)?)
            }
            "application/json-patch+json" => Body::Json(parse_json(&body)?),
            "application/apply-patch+yaml" => {
                Body::Apply(parse_yaml(&body)?, self.query.flag("force"))
            }
            other => {
                return Err(Failure::media_type(format!(
                    "the body of the request was in an unknown format: {other:?}"
                )));
            }
        };
        let apply = matches!(patch, Body::Apply(..));
        let made = self
            .service
            .backend
            .update(&target, patch, &self.context(apply)?)?;
        Ok(self.object(if made.created { 201 } else { 200 }, &made.object))
    }

    fn delete(&self, named: bool, body: Bytes) -> Result<Response<AnyBody>, Failure> {
        let mut target =
            self.target(self.permit(if named { "delete" } else { "deletecollection" })?)?;
        if self.status() {
            return Err(Failure::method_not_allowed());
        }
        let options = if body.is_empty() {
            Value::Null
        } else {
            self.parse(&body)?
        };
        match options.get("dryRun") {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if list.iter().all(|v| v == "All") => {
                target.dry_run |= !list.is_empty()
            }
            Some(other) => {
                return Err(Failure::bad_request(format!(
                    "unsupported dryRun value {other}"
                )));
            }
        }
        let condition = |key: &str| {
            options
                .get("preconditions")
                .and_then(|p| p.get(key))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let deletion = Deletion {
            uid: condition("uid"),
            version: condition("resourceVersion"),
            now: now(),
        };
        let backend = &self.service.backend;
        if named {
            let gone = backend.delete(&target, &deletion)?;
            return Ok(self.deleted(&gone));
        }
        let scope = self.query.scope(&self.place)?;
        let gone = backend.delete_all(&target, &scope, &deletion)?;
        let items = gone.into_iter().map(|g| g.object).collect::<Vec<_>>();
        let metadata = json!({"resourceVersion": backend.revision().to_string()});
        Ok(full(
            200,
            "application/json",
            self.encoding().list(&self.ty, &metadata, &items),
        ))
    }

    /// An object that only goes later is shown; one that is gone is reported.
    fn deleted(&self, gone: &Reply) -> Response<AnyBody> {
        if !gone.gone {
            return self.object(200, &gone.object);
        }
        let uid = crate::metadata::text(&gone.object.value, "uid");
        let name = crate::metadata::text(&gone.object.value, "name");
        let details =
            json!({"name": name, "group": self.ty.group, "kind": self.ty.plural, "uid": uid});
        reply(
            200,
            &json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            }),
        )
    }

    fn content(&self) -> &str {
        let text = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|h| h.to_str().ok())
            .unwrap_or("application/json");
        text.split(';').next().unwrap_or_default().trim()
    }

    fn parse(&self, body: &Bytes) -> Result<Value, Failure> {
        match self.content() {
            "application/json" | "" => parse_json(body),
            "application/yaml" => parse_yaml(body),
            other => Err(Failure::media_type(format!(
                "the body of the request was in an unknown format: {other:?}"
            ))),
        }
    }
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|h| h.to_str().ok())
}

/// What is asked for. The namespace that it is about is, for namespaces themselves, their own name.
fn ask<'a>(ty: &Type, place: &'a Place, verb: &'a str) -> Attributes<'a> {
    let own = crate::objects::is_namespace(ty)
        .then_some(place.name.as_deref())
        .flatten();
    Attributes {
        verb,
        group: &place.group,
        resource: &place.plural,
        subresource: place.subresource.as_deref().unwrap_or_default(),
        namespace: place.namespace.as_deref().or(own).unwrap_or_default(),
    }
}

/// Now, as objects show it: RFC 3339 in whole seconds.
fn now() -> String {
    let seconds = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_string()
}

fn parse_json(body: &Bytes) -> Result<Value, Failure> {
    serde_json::from_slice(body)
        .map_err(|e| Failure::bad_request(format!("the body is not JSON: {e}")))
}

fn parse_yaml(body: &Bytes) -> Result<Value, Failure> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    serde_saphyr::from_slice(body)
        .map_err(|e| Failure::bad_request(format!("the body is not YAML: {e}")))
}
