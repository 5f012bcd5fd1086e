//! What a request asks for: paths and query parameters, parsed.

use std::collections::BTreeMap;

use crate::failure::Failure;
use crate::selector::Selector;
use crate::store::{ObjectKey, Scope};

/// A path of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`
    Health,
    /// `/api`
    Core,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources(String, String),
    /// A collection, an object or a subresource.
    Objects(Place),
}

/// A collection, an object or a subresource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name of the resource.
    pub plural: String,
    /// The namespace in the path, if there is one.
    pub namespace: Option<String>,
    /// The object's name, if the path names one.
    pub name: Option<String>,
    /// The subresource, if the path names one.
    pub subresource: Option<String>,
}

impl Route {
    /// Parses a path; nothing if it is none of the API's.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let trimmed = path.strip_prefix('/')?.trim_end_matches('/');
        let steps = trimmed.split('/').map(decode).collect::<Option<Vec<_>>>()?;
        let words = steps.iter().map(String::as_str).collect::<Vec<_>>();
        if words.iter().any(|w| w.is_empty()) {
            return None;
        }
        let text = |t: &&str| (*t).to_owned();
        match words.as_slice() {
            ["version"] => Some(Self::Version),
            ["healthz" | "livez" | "readyz"] => Some(Self::Health),
            ["api"] => Some(Self::Core),
            ["apis"] => Some(Self::Groups),
            ["apis", group] => Some(Self::Group(text(group))),
            ["api", version] => Some(Self::Resources(String::new(), text(version))),
            ["apis", group, version] => Some(Self::Resources(text(group), text(version))),
            ["api", version, rest @ ..] => Place::parse("", version, rest).map(Self::Objects),
            ["apis", group, version, rest @ ..] => {
                Place::parse(group, version, rest).map(Self::Objects)
            }
            _ => None,
        }
    }
}

impl Place {
    fn parse(group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        let (namespace, rest) = match rest {
            // `/namespaces/NAME/status` is a namespace's own subresource.
            ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
                (Some((*namespace).to_owned()), rest)
            }
            _ => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(name), None),
            [plural, name, sub] => (plural, Some(name), Some(sub)),
            _ => return None,
        };
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: (*plural).to_owned(),
            namespace,
            name: name.map(|n| (*n).to_owned()),
            subresource: subresource.map(|s| (*s).to_owned()),
        })
    }
}

/// Decodes `%XX`; nothing if that is malformed or not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Query parameters; of a repeated one the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Parses the part of the URL after `?`.
    ///
    /// # Errors
    /// 400 when it is malformed.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut map = BTreeMap::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |t: &str| {
                decode(&t.replace('+', " ")).ok_or_else(|| Failure::bad_request("malformed query"))
            };
            map.insert(plain(key)?, plain(value)?);
        }
        Ok(Self(map))
    }

    /// The parameter `name`, or an empty text.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Whether `name` is set to something true.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.0
            .get(name)
            .is_some_and(|v| !matches!(v.as_str(), "false" | "0" | "f" | "F" | "FALSE" | "False"))
    }

    /// The number `name`; none if it is absent or empty.
    ///
    /// # Errors
    /// 400 when it is not a number that is zero or more.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse()
            .map(Some)
            .map_err(|_| Failure::bad_request(format!("invalid {name}: {text:?}")))
    }

    /// Whether nothing shall change (`dryRun=All`).
    ///
    /// # Errors
    /// 400 for another value.
    pub fn dry_run(&self) -> Result<bool, Failure> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(Failure::bad_request(format!(
                "unsupported dryRun value {other:?}: supported values: \"All\""
            ))),
        }
    }

    /// The objects that `place` and the selectors name.
    ///
    /// # Errors
    /// 400 for malformed selectors.
    pub fn scope(&self, place: &Place) -> Result<Scope, Failure> {
        let mut fields = self.text("fieldSelector").to_owned();
        if let Some(name) = &place.name {
            // A list or watch of one object, as by `?watch=1` on its path.
            fields = format!(
                "metadata.name={name}{}{fields}",
                if fields.is_empty() { "" } else { "," }
            );
        }
        let selector = Selector::parse(self.text("labelSelector"), &fields)?;
        Ok(Scope {
            namespace: place.namespace.clone(),
            selector,
        })
    }
}

/// Where a list goes on: what a client holds as the `continue` token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continue {
    /// The moment that all pages show.
    pub revision: u64,
    /// The last object of the page before.
    pub after: ObjectKey,
}

impl Continue {
    /// The token, which has no meaning for clients.
    #[must_use]
    pub fn encode(&self) -> String {
        use base64::Engine as _;
        let text = format!("{}/{}/{}", self.revision, self.after.0, self.after.1);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 400 when it is not one of ours.
    pub fn decode(token: &str) -> Result<Self, Failure> {
        use base64::Engine as _;
        let parse = || {
            let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(token)
                .ok()?;
            let text = String::from_utf8(bytes).ok()?;
            let mut parts = text.splitn(3, '/');
            let revision = parts.next()?.parse().ok()?;
            Some(Self {
                revision,
                after: (parts.next()?.to_owned(), parts.next()?.to_owned()),
            })
        };
        parse().ok_or_else(|| Failure::bad_request("continue key is not valid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> String {
        match Route::parse(path) {
            Some(Route::Objects(p)) => format!(
                "{}/{} {} ns={} name={} sub={}",
                p.group,
                p.version,
                p.plural,
                p.namespace.unwrap_or_default(),
                p.name.unwrap_or_default(),
                p.subresource.unwrap_or_default()
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_name_collections_objects_and_subresources() {
        assert_eq!(place("/api/v1/nodes"), "/v1 nodes ns= name= sub=");
        assert_eq!(place("/api/v1/namespaces"), "/v1 namespaces ns= name= sub=");
        assert_eq!(
            place("/api/v1/namespaces/a"),
            "/v1 namespaces ns= name=a sub="
        );
        assert_eq!(
            place("/api/v1/namespaces/a/status"),
            "/v1 namespaces ns= name=a sub=status"
        );
        assert_eq!(
            place("/api/v1/namespaces/a/pods"),
            "/v1 pods ns=a name= sub="
        );
        assert_eq!(
            place("/apis/g.io/v1/namespaces/a/things/b/status"),
            "g.io/v1 things ns=a name=b sub=status"
        );
        assert_eq!(
            place("/apis/g.io/v1/namespaces/a%62/things/"),
            "g.io/v1 things ns=ab name= sub="
        );
        assert_eq!(
            Route::parse("/apis/g.io/v1"),
            Some(Route::Resources("g.io".into(), "v1".into()))
        );
        for path in [
            "",
            "/",
            "/x",
            "/api//pods",
            "/api/v1/a/b/c/d",
            "/api/%",
            "/api/%zz",
            "/api/%ff",
        ] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query =
            Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=true&limit=5&x=0").unwrap();
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch") && !query.flag("x") && !query.flag("y"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(
            Query::parse("limit=-1")
                .unwrap()
                .number("limit")
                .unwrap_err()
                .code,
            400
        );
        assert_eq!(Query::parse("a=%g0").unwrap_err().code, 400);
        assert_eq!(
            Query::parse("dryRun=Some")
                .unwrap()
                .dry_run()
                .unwrap_err()
                .code,
            400
        );
    }

    #[test]
    fn continue_tokens_survive_the_round_trip() {
        let token = Continue {
            revision: 7,
            after: ("ns".into(), "a.b".into()),
        };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        assert_eq!(Continue::decode("?").unwrap_err().code, 400);
        assert_eq!(Continue::decode("YQ").unwrap_err().code, 400);
    }
}
