//! The resources that the server knows: the built-in ones, and those that custom resource definitions add.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::schema::Schema;
use crate::store::ResourceId;

/// One resource in one version.
#[derive(Clone, Debug)]
pub struct Type {
    /// API group; empty for the core group.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Plural name, as in paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Short names, for people.
    pub short: Vec<String>,
    /// Kind of one object.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is a subresource; otherwise status is a field like any other.
    pub status: bool,
    /// Whether `metadata.generation` counts changes of the specification.
    pub generation: bool,
    /// The schema of a custom resource; none for the built-in ones, which are stored as they come.
    pub schema: Option<Arc<Schema>>,
    /// The collection that objects of this type are stored in; all versions of a resource share it.
    pub id: ResourceId,
}

impl Type {
    /// `group/version`, or `version` in the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// Whether the resource came with a custom resource definition.
    #[must_use]
    pub fn custom(&self) -> bool {
        self.schema.is_some()
    }

    fn discovery(&self) -> Vec<Value> {
        let mut main = json!({
            "name": self.plural, "singularName": self.singular, "namespaced": self.namespaced, "kind": self.kind,
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        });
        if !self.short.is_empty() {
            main["shortNames"] = json!(self.short);
        }
        let mut all = vec![main];
        if self.status {
            all.push(json!({
                "name": format!("{}/status", self.plural), "singularName": "", "namespaced": self.namespaced,
                "kind": self.kind, "verbs": ["get", "patch", "update"],
            }));
        }
        all
    }

    fn aggregated(&self) -> Value {
        let kind = json!({"group": self.group, "version": self.version, "kind": self.kind});
        let mut resource = json!({
            "resource": self.plural, "responseKind": kind, "singularResource": self.singular,
            "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        });
        if !self.short.is_empty() {
            resource["shortNames"] = json!(self.short);
        }
        if self.status {
            let status = json!({"subresource": "status", "responseKind": kind, "verbs": ["get", "patch", "update"]});
            resource["subresources"] = json!([status]);
        }
        resource
    }
}

/// `group/version`, or `version` in the core group.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// The name of a collection: `plural.group`, or `plural` in the core group.
#[must_use]
pub fn resource_id(group: &str, plural: &str) -> ResourceId {
    if group.is_empty() {
        plural.into()
    } else {
        format!("{plural}.{group}").into()
    }
}

/// The collection of the custom resource definitions themselves.
pub const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

struct Builtin {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static str,
    namespaced: bool,
    status: bool,
    generation: bool,
}

const fn core(plural: &'static str, kind: &'static str, short: &'static str) -> Builtin {
    Builtin {
        group: "",
        version: "v1",
        plural,
        kind,
        short,
        namespaced: true,
        status: false,
        generation: false,
    }
}

const BUILTINS: [Builtin; 15] = [
    Builtin {
        namespaced: false,
        status: true,
        ..core("namespaces", "Namespace", "ns")
    },
    Builtin {
        namespaced: false,
        status: true,
        ..core("nodes", "Node", "no")
    },
    Builtin {
        status: true,
        ..core("pods", "Pod", "po")
    },
    Builtin {
        status: true,
        ..core("services", "Service", "svc")
    },
    core("configmaps", "ConfigMap", "cm"),
    core("secrets", "Secret", ""),
    core("serviceaccounts", "ServiceAccount", "sa"),
    core("events", "Event", "ev"),
    core("endpoints", "Endpoints", "ep"),
    Builtin {
        group: "coordination.k8s.io",
        ..core("leases", "Lease", "")
    },
    Builtin {
        group: "discovery.k8s.io",
        generation: true,
        ..core("endpointslices", "EndpointSlice", "")
    },
    Builtin {
        group: "events.k8s.io",
        ..core("events", "Event", "ev")
    },
    Builtin {
        group: "apps",
        status: true,
        generation: true,
        ..core("daemonsets", "DaemonSet", "ds")
    },
    Builtin {
        group: "apps",
        status: true,
        generation: true,
        ..core("deployments", "Deployment", "deploy")
    },
    Builtin {
        group: "apiextensions.k8s.io",
        namespaced: false,
        status: true,
        generation: true,
        ..core(
            "customresourcedefinitions",
            "CustomResourceDefinition",
            "crd",
        )
    },
];

/// All resources, by group, version and plural name.
#[derive(Clone, Debug)]
pub struct Types {
    all: BTreeMap<(String, String, String), Arc<Type>>,
}

impl Default for Types {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Types {
    /// The built-in resources.
    #[must_use]
    pub fn builtin() -> Self {
        let mut types = Self {
            all: BTreeMap::new(),
        };
        for b in BUILTINS {
            types.add(Type {
                group: b.group.to_owned(),
                version: b.version.to_owned(),
                plural: b.plural.to_owned(),
                singular: b.kind.to_lowercase(),
                short: Some(b.short)
                    .filter(|s| !s.is_empty())
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
                kind: b.kind.to_owned(),
                list_kind: format!("{}List", b.kind),
                namespaced: b.namespaced,
                status: b.status,
                generation: b.generation,
                schema: None,
                id: resource_id(b.group, b.plural),
            });
        }
        types
    }

    fn add(&mut self, new: Type) {
        self.all.insert(
            (new.group.clone(), new.version.clone(), new.plural.clone()),
            Arc::new(new),
        );
    }

    /// The resource `plural` of `group` and `version`.
    #[must_use]
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Type>> {
        self.all
            .get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
            .cloned()
    }

    /// Every resource that is not a custom resource definition's own, and lives in namespaces, once each.
    #[must_use]
    pub fn namespaced(&self) -> Vec<Arc<Type>> {
        let mut by_id = BTreeMap::new();
        for t in self.all.values().filter(|t| t.namespaced) {
            by_id.entry(t.id.clone()).or_insert_with(|| t.clone());
        }
        by_id.into_values().collect()
    }

    /// Whether the server has its own resource of this group and plural.
    #[must_use]
    pub fn is_builtin(group: &str, plural: &str) -> bool {
        BUILTINS
            .iter()
            .any(|b| b.group == group && b.plural == plural)
    }

    /// Replaces what the resource `plural` of `group` was by `types`; none removes it.
    pub fn replace(&mut self, group: &str, plural: &str, types: Vec<Type>) {
        self.all.retain(|(g, _, p), _| g != group || p != plural);
        for new in types {
            self.add(new);
        }
    }

    /// Versions of `group`, the preferred one first.
    fn versions(&self, group: &str) -> Vec<&str> {
        let mut versions = Vec::new();
        for (g, version, _) in self.all.keys() {
            if g == group && !versions.contains(&version.as_str()) {
                versions.push(version.as_str());
            }
        }
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        versions
    }

    fn groups(&self) -> Vec<&str> {
        let mut groups = self
            .all
            .keys()
            .map(|(g, _, _)| g.as_str())
            .filter(|g| !g.is_empty())
            .collect::<Vec<_>>();
        groups.dedup();
        groups
    }

    /// `APIGroupList`, for `/apis`.
    #[must_use]
    pub fn group_list(&self) -> Value {
        let groups = self
            .groups()
            .into_iter()
            .filter_map(|g| self.group(g))
            .collect::<Vec<_>>();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    /// `APIGroup`, for `/apis/GROUP`.
    #[must_use]
    pub fn group(&self, group: &str) -> Option<Value> {
        let versions = self.versions(group);
        let versions = versions
            .iter()
            .map(|v| json!({"groupVersion": api_version(group, v), "version": v}))
            .collect::<Vec<_>>();
        let preferred = versions.first()?.clone();
        Some(json!({
            "kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": versions, "preferredVersion": preferred,
        }))
    }

    /// `APIResourceList`, for `/api/v1` and `/apis/GROUP/VERSION`.
    #[must_use]
    pub fn resource_list(&self, group: &str, version: &str) -> Option<Value> {
        let resources = self
            .of(group, version)
            .flat_map(|t| t.discovery())
            .collect::<Vec<_>>();
        (!resources.is_empty()).then(|| {
            json!({
                "kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": api_version(group, version), "resources": resources,
            })
        })
    }

    /// `APIGroupDiscoveryList` (aggregated discovery), for `/api` (`core`) and `/apis`.
    #[must_use]
    pub fn aggregated(&self, core: bool) -> Value {
        let groups = if core { vec![""] } else { self.groups() };
        let items = groups.into_iter().map(|group| {
            let versions = self.versions(group).into_iter().map(|version| {
                let resources = self
                    .of(group, version)
                    .map(|t| t.aggregated())
                    .collect::<Vec<_>>();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            });
            json!({"metadata": {"name": group}, "versions": versions.collect::<Vec<_>>()})
        });
        json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
            "items": items.collect::<Vec<_>>(),
        })
    }

    fn of<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Type>> {
        self.all
            .values()
            .filter(move |t| t.group == group && t.version == version)
    }
}

/// Kubernetes' order of versions: v2, v1, v1beta2, v1beta1, v1alpha1, anything else.
fn priority(version: &str) -> (u8, u32, u32) {
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (major, tail) = rest.split_at(digits);
        let major = major.parse().ok()?;
        let (stage, minor) = match tail {
            "" => return Some((3, major, 0)),
            _ if tail.starts_with("beta") => (2, &tail[4..]),
            _ if tail.starts_with("alpha") => (1, &tail[5..]),
            _ => return None,
        };
        Some((stage, major, minor.parse().ok()?))
    };
    parse().unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions = ["v1alpha1", "foo", "v1beta1", "v10", "v2", "v1beta2", "v1"];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]
        );
    }

    #[test]
    fn discovery_names_the_status_subresource_only_where_there_is_one() {
        let list = Types::builtin()
            .resource_list("", "v1")
            .unwrap()
            .to_string();
        assert!(list.contains("nodes/status") && !list.contains("configmaps/status"));
    }
}
