//! Writes: what a request comes to, decided and made under the lock.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::{Backend, Inner, names, refuse_foreign};
use crate::auth::Permit;
use crate::crd;
use crate::failure::{Cause, Failure};
use crate::metadata;
use crate::objects::{self, Context, Outcome};
use crate::patch;
use crate::store::{Object, ObjectKey, ResourceId, Scope};
use crate::types::{CRDS, Type};

/// What a write is about.
#[derive(Clone, Debug)]
pub struct Target {
    /// The resource.
    pub ty: Arc<Type>,
    /// Namespace (empty for cluster-scoped resources) and name (empty for a creation).
    pub key: ObjectKey,
    /// What the user may do.
    pub permit: Permit,
    /// What the user may create, for an apply that has to.
    pub create: Option<Permit>,
    /// Decide, but change nothing (`dryRun=All`).
    pub dry_run: bool,
}

/// A change to an existing object.
#[derive(Clone, Debug)]
pub enum Body {
    /// The whole new object.
    Full(Value),
    /// A merge patch.
    Merge(Value),
    /// A JSON patch.
    Json(Value),
    /// A server-side apply, by force or not.
    Apply(Value, bool),
}

/// An object that was written.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its new (or last) version.
    pub object: Arc<Object>,
    /// Whether it is new.
    pub created: bool,
    /// Whether it is gone.
    pub gone: bool,
}

/// Conditions of a deletion.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// Only the object with this UID.
    pub uid: Option<String>,
    /// Only this version.
    pub version: Option<String>,
    /// Time, RFC 3339 in whole seconds.
    pub now: String,
}

impl Backend {
    /// Creates an object.
    ///
    /// # Errors
    /// The failure that the client gets.
    pub fn create(
        &self,
        target: &Target,
        mut body: Value,
        context: &Context,
    ) -> Result<Reply, Failure> {
        objects::check_identity(&target.ty, &mut body, &target.key.0, None)?;
        let inner = &mut *self.lock();
        inner.create(target, &target.permit, body, context)
    }

    /// Updates an object; an apply may create it.
    ///
    /// # Errors
    /// The failure that the client gets.
    pub fn update(&self, target: &Target, body: Body, context: &Context) -> Result<Reply, Failure> {
        let ty = &*target.ty;
        let inner = &mut *self.lock();
        let old = inner.store.get(&ty.id, &target.key);
        let old_value = old.as_ref().map(|o| in_version(&o.value, ty));
        let missing = || Failure::not_found(&ty.group, &ty.plural, &target.key.1);
        let name = Some(target.key.1.as_str());
        let new = match body {
            Body::Apply(mut config, force) => {
                objects::check_apply(&config)?;
                objects::check_identity(ty, &mut config, &target.key.0, name)?;
                let Some(old) = &old_value else {
                    if context.writer.status {
                        return Err(missing());
                    }
                    let Some(permit) = &target.create else {
                        return Err(Failure::forbidden("the user may not create this object"));
                    };
                    let merged = objects::apply(ty, None, config, context, force)?;
                    return inner.create(target, permit, merged, context);
                };
                objects::apply(ty, Some(old), config, context, force)?
            }
            Body::Full(mut new) => {
                objects::check_identity(ty, &mut new, &target.key.0, name)?;
                if ty.custom() && metadata::text(&new, "resourceVersion").is_empty() {
                    let message = "Invalid value: 0: must be specified for an update";
                    let cause =
                        Cause::new("FieldValueInvalid", "metadata.resourceVersion", message);
                    return Err(Failure::invalid(
                        &ty.group,
                        &ty.kind,
                        &target.key.1,
                        vec![cause],
                    ));
                }
                new
            }
            Body::Merge(patch) => {
                let mut new = old_value.clone().ok_or_else(missing)?;
                patch::merge(&mut new, &patch);
                objects::check_identity(ty, &mut new, &target.key.0, name)?;
                new
            }
            Body::Json(patch) => {
                let mut new = old_value.clone().ok_or_else(missing)?;
                patch::json_patch(&mut new, &patch)?;
                objects::check_identity(ty, &mut new, &target.key.0, name)?;
                new
            }
        };
        let (Some(old), Some(old_value)) = (old, old_value) else {
            return Err(missing());
        };
        let outcome = objects::update(ty, &old_value, new, context)?;
        let after = match &outcome {
            Outcome::Same => &old_value,
            Outcome::Put(new) | Outcome::Gone(new) => new,
        };
        refuse_foreign(&target.permit, Some(&old_value), Some(after))?;
        match outcome {
            Outcome::Same => Ok(Reply {
                object: old,
                created: false,
                gone: false,
            }),
            Outcome::Put(new) => inner.put(target, new, context, false),
            Outcome::Gone(new) => {
                let object = inner.finish(target, new)?;
                Ok(Reply {
                    object,
                    created: false,
                    gone: true,
                })
            }
        }
    }

    /// Deletes an object, or marks it for deletion while it has finalizers.
    ///
    /// # Errors
    /// The failure that the client gets.
    pub fn delete(&self, target: &Target, deletion: &Deletion) -> Result<Reply, Failure> {
        self.lock().delete(target, deletion)
    }

    /// Deletes every object in `scope`; gives their last versions.
    ///
    /// # Errors
    /// 403, before anything is deleted, when one of them may not be.
    pub fn delete_all(
        &self,
        target: &Target,
        scope: &Scope,
        deletion: &Deletion,
    ) -> Result<Vec<Reply>, Failure> {
        let mut inner = self.lock();
        let found = inner.store.select(&target.ty.id, scope);
        for (_, object) in &found {
            refuse_foreign(&target.permit, Some(&object.value), None)?;
        }
        let each = |(key, _)| {
            inner.delete(
                &Target {
                    key,
                    ..target.clone()
                },
                deletion,
            )
        };
        found.into_iter().map(each).collect()
    }
}

impl Inner {
    fn create(
        &mut self,
        target: &Target,
        permit: &Permit,
        body: Value,
        context: &Context,
    ) -> Result<Reply, Failure> {
        let ty = &*target.ty;
        let new = objects::create(ty, body, context)?;
        refuse_foreign(permit, None, Some(&new))?;
        let name = metadata::text(&new, "name");
        if ty.namespaced {
            let key = (String::new(), target.key.0.clone());
            match self.store.get("namespaces", &key) {
                None => return Err(Failure::not_found("", "namespaces", &key.1)),
                Some(namespace) if metadata::is_deleting(&namespace.value) => {
                    let message = format!(
                        "unable to create new content in namespace {} because it is being terminated",
                        key.1
                    );
                    return Err(Failure::forbidden(message).about(&ty.group, &ty.plural, name));
                }
                Some(_) => {}
            }
        }
        let key = (target.key.0.clone(), name.to_owned());
        if self.store.get(&ty.id, &key).is_some() {
            return Err(Failure::already_exists(&ty.group, &ty.plural, &key.1));
        }
        let target = Target {
            key,
            ..target.clone()
        };
        self.put(&target, new, context, true)
    }

    /// Stores a new version, and takes up the definition that it may be.
    fn put(
        &mut self,
        target: &Target,
        mut new: Value,
        context: &Context,
        created: bool,
    ) -> Result<Reply, Failure> {
        let definition = if *target.ty.id == *CRDS {
            crd::establish(&mut new, &context.writer.now);
            Some(crd::types(&new)?)
        } else {
            None
        };
        if target.dry_run {
            return Ok(Reply {
                object: Object::new(new),
                created,
                gone: false,
            });
        }
        let object = self.commit_one(target, new, false)?;
        if let Some(types) = definition {
            let (group, plural) = names(&object.value);
            Arc::make_mut(&mut self.types).replace(group, plural, types);
        }
        Ok(Reply {
            object,
            created,
            gone: false,
        })
    }

    fn commit_one(
        &mut self,
        target: &Target,
        new: Value,
        delete: bool,
    ) -> Result<Arc<Object>, Failure> {
        let change = (target.ty.id.clone(), target.key.clone(), new, delete);
        let made = self.commit(vec![change])?;
        made.into_iter()
            .next()
            .ok_or_else(|| Failure::internal("nothing was stored"))
    }

    fn delete(&mut self, target: &Target, deletion: &Deletion) -> Result<Reply, Failure> {
        let ty = &*target.ty;
        let missing = || Failure::not_found(&ty.group, &ty.plural, &target.key.1);
        let old = self.store.get(&ty.id, &target.key).ok_or_else(missing)?;
        refuse_foreign(&target.permit, Some(&old.value), None)?;
        let wrong = |what: &str, want: &Option<String>, got: &str| {
            want.as_ref().filter(|want| *want != got).map(|want| {
                let why = format!("Precondition failed: {what} in precondition: {want}, {what} in object meta: {got}");
                Failure::conflict(&ty.group, &ty.plural, &target.key.1, &why)
            })
        };
        let uid = metadata::text(&old.value, "uid");
        let version = metadata::text(&old.value, "resourceVersion");
        if let Some(failure) = wrong("UID", &deletion.uid, uid)
            .or_else(|| wrong("ResourceVersion", &deletion.version, version))
        {
            return Err(failure);
        }
        if objects::is_namespace(ty) {
            return self.delete_namespace(target, &old, deletion);
        }
        if !metadata::has_finalizers(&old.value) {
            let object = self.finish(target, old.value.clone())?;
            return Ok(Reply {
                object,
                created: false,
                gone: true,
            });
        }
        if metadata::is_deleting(&old.value) {
            return Ok(Reply {
                object: old,
                created: false,
                gone: false,
            });
        }
        let new = objects::begin_deletion(ty, &old.value, &deletion.now);
        let object = if target.dry_run {
            Object::new(new)
        } else {
            self.commit_one(target, new, false)?
        };
        Ok(Reply {
            object,
            created: false,
            gone: false,
        })
    }

    /// Removes an object for good; of a definition, everything that it defined; of a namespace's last object, a namespace
    /// that waits for this.
    fn finish(&mut self, target: &Target, last: Value) -> Result<Arc<Object>, Failure> {
        if target.dry_run {
            return Ok(Object::new(last));
        }
        if *target.ty.id == *CRDS {
            // The custom resources go with their definition, without regard to finalizers: nobody could remove these later.
            let resource = ResourceId::from(target.key.1.as_str());
            let all = self.store.select(&resource, &Scope::default());
            let namespaces = all
                .iter()
                .map(|(key, _)| key.0.clone())
                .collect::<BTreeSet<_>>();
            let changes = all
                .into_iter()
                .map(|(key, o)| (resource.clone(), key, o.value.clone(), true));
            self.commit(changes.collect())?;
            let (group, plural) = names(&last);
            Arc::make_mut(&mut self.types).replace(group, plural, Vec::new());
            // Watches look, and end.
            if let Some(sender) = self.wake.get(&resource) {
                sender.send_replace(self.store.revision());
            }
            for namespace in namespaces {
                self.finish_namespace(&namespace)?;
            }
        }
        let object = self.commit_one(target, last, true)?;
        if target.ty.namespaced {
            self.finish_namespace(&target.key.0)?;
        }
        Ok(object)
    }

    fn delete_namespace(
        &mut self,
        target: &Target,
        old: &Arc<Object>,
        deletion: &Deletion,
    ) -> Result<Reply, Failure> {
        if target.dry_run {
            let object = Object::new(objects::begin_deletion(
                &target.ty,
                &old.value,
                &deletion.now,
            ));
            return Ok(Reply {
                object,
                created: false,
                gone: false,
            });
        }
        if !metadata::is_deleting(&old.value) {
            let new = objects::begin_deletion(&target.ty, &old.value, &deletion.now);
            self.commit_one(target, new, false)?;
        }
        let scope = Scope {
            namespace: Some(target.key.1.clone()),
            ..Scope::default()
        };
        for ty in self.types.clone().namespaced() {
            for (key, _) in self.store.select(&ty.id, &scope) {
                let inside = Target {
                    ty: ty.clone(),
                    key,
                    permit: Permit::All,
                    create: None,
                    dry_run: false,
                };
                let plain = Deletion {
                    now: deletion.now.clone(),
                    ..Deletion::default()
                };
                self.delete(&inside, &plain)?;
            }
        }
        self.finish_namespace(&target.key.1)?;
        let left = self.store.get(&target.ty.id, &target.key);
        Ok(Reply {
            gone: left.is_none(),
            object: left.unwrap_or_else(|| old.clone()),
            created: false,
        })
    }

    /// Removes the namespace if it is being deleted and nothing is left in it.
    fn finish_namespace(&mut self, name: &str) -> Result<(), Failure> {
        let key = (String::new(), name.to_owned());
        let Some(namespace) = self.store.get("namespaces", &key) else {
            return Ok(());
        };
        if !metadata::is_deleting(&namespace.value) || metadata::has_finalizers(&namespace.value) {
            return Ok(());
        }
        let scope = Scope {
            namespace: Some(name.to_owned()),
            ..Scope::default()
        };
        let left = self
            .types
            .namespaced()
            .iter()
            .any(|ty| !self.store.select(&ty.id, &scope).is_empty());
        if !left {
            self.commit(vec![(
                "namespaces".into(),
                key,
                namespace.value.clone(),
                true,
            )])?;
        }
        Ok(())
    }
}

/// The object in the version of `ty`.
pub(crate) fn in_version(value: &Value, ty: &Type) -> Value {
    let mut value = value.clone();
    value["apiVersion"] = Value::String(ty.api_version());
    value
}
