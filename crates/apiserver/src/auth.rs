//! Who may do what: bearer tokens and their rules, kept in `tokens.json`.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// The file of tokens in the state directory.
pub const FILE: &str = "tokens.json";

/// Grants some verbs on some resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or `*`.
    pub verbs: Vec<String>,
    /// API groups, `""` for the core group, or `*`.
    pub groups: Vec<String>,
    /// Plural names; a subresource is named as `endpoints/status`. `*` is all of both.
    pub resources: Vec<String>,
    /// Namespaces, or `*` for all of them, and for cluster-scoped resources.
    pub namespaces: Vec<String>,
    /// When set, the rule lets only such objects be written as carry this label, before and after the write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_label: Option<OwnLabel>,
}

impl Rule {
    /// Grants everything.
    #[must_use]
    pub fn all() -> Self {
        let all = || vec!["*".to_owned()];
        Self {
            verbs: all(),
            groups: all(),
            resources: all(),
            namespaces: all(),
            own_label: None,
        }
    }
}

/// A label that marks the objects of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnLabel {
    /// The label's key, such as `submariner-io/clusterID`.
    pub key: String,
    /// Its value, such as the cluster's ID.
    pub value: String,
}

impl OwnLabel {
    fn is_on(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        labels
            .and_then(|l| l.get(&self.key))
            .and_then(Value::as_str)
            == Some(&self.value)
    }
}

/// One token and what its bearer may do.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The secret.
    pub token: String,
    /// The name that messages and logs show.
    pub user: String,
    /// What is granted; any one rule suffices.
    pub rules: Vec<Rule>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("user", &self.user)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// The tokens of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens {
    list: Vec<Token>,
}

impl Tokens {
    /// Reads the tokens of the state directory `dir`; none if there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or is not a list of tokens.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        match std::fs::read(&path) {
            // The text of the error is left out: it could quote a token.
            Ok(text) => serde_json::from_slice(&text).map_err(|e| Error::Tokens {
                path,
                line: e.line(),
                column: e.column(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::file(&path, error)),
        }
    }

    /// Writes the tokens to the state directory `dir`, in one step, readable by the owner only.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(&path, e.into()))?;
        write_private(&path, text.as_bytes())
    }

    /// Loads, changes and saves the tokens of `dir`, alone among those that do it this way. A server that runs on `dir` takes
    /// the change up with its next request.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn change<T>(
        dir: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = dir.join("tokens.lock");
        let lock = File::create(&path).map_err(|e| Error::file(&path, e))?;
        lock.lock().map_err(|e| Error::file(&path, e))?;
        let mut tokens = Self::load(dir)?;
        let result = change(&mut tokens)?;
        tokens.save(dir)?;
        Ok(result)
    }

    /// Adds a fresh token for `user` with `rules`, and returns it. Other tokens of the user stay.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn add(&mut self, user: &str, rules: Vec<Rule>) -> Result<String, Error> {
        let token = crate::random::token()?;
        self.list.push(Token {
            token: token.clone(),
            user: user.to_owned(),
            rules,
        });
        Ok(token)
    }

    /// Removes every token of `user`, and tells whether there was one.
    pub fn remove(&mut self, user: &str) -> bool {
        let before = self.list.len();
        self.list.retain(|t| t.user != user);
        self.list.len() != before
    }

    /// The tokens, in the order of the file.
    #[must_use]
    pub fn list(&self) -> &[Token] {
        &self.list
    }

    /// Finds a token; the time this takes tells nothing about the tokens but their number and lengths.
    fn find(&self, token: &str) -> Option<&Token> {
        let mut found = None;
        for candidate in &self.list {
            if equal(candidate.token.as_bytes(), token.as_bytes()) {
                found = Some(candidate);
            }
        }
        found
    }
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.is_empty() || a.len() != b.len() {
        return false;
    }
    let difference = a
        .iter()
        .zip(b)
        .fold(0_u8, |acc, (x, y)| std::hint::black_box(acc | (x ^ y)));
    std::hint::black_box(difference) == 0
}

/// Writes `content` to `path` in one step, with mode 0600.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|error| Error::file(path, error))
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Such as `list`.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource; may be empty.
    pub subresource: &'a str,
    /// Namespace; empty for cluster-scoped resources and for all namespaces.
    pub namespace: &'a str,
}

/// Someone who showed a valid token.
#[derive(Clone, Debug)]
pub struct User {
    /// The name.
    pub name: String,
    rules: Vec<Rule>,
}

/// On which objects something is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    /// On all.
    All,
    /// On those that carry one of these labels, before and after.
    Labelled(Vec<OwnLabel>),
}

impl Permit {
    /// Whether a write that turns `old` into `new` is granted.
    #[must_use]
    pub fn allows(&self, old: Option<&Value>, new: Option<&Value>) -> bool {
        match self {
            Self::All => true,
            Self::Labelled(labels) => labels
                .iter()
                .any(|label| old.into_iter().chain(new).all(|object| label.is_on(object))),
        }
    }
}

impl User {
    /// What the user's rules grant for `ask`, if anything. Reads are not limited by labels.
    #[must_use]
    pub fn permit(&self, ask: &Attributes<'_>) -> Option<Permit> {
        let read = matches!(ask.verb, "get" | "list" | "watch");
        let full = if ask.subresource.is_empty() {
            ask.resource.to_owned()
        } else {
            format!("{}/{}", ask.resource, ask.subresource)
        };
        let has = |list: &[String], want: &str| list.iter().any(|x| x == "*" || x == want);
        let mut labels = Vec::new();
        for rule in &self.rules {
            let namespace = if ask.namespace.is_empty() {
                "*"
            } else {
                ask.namespace
            };
            if !(has(&rule.verbs, ask.verb)
                && has(&rule.groups, ask.group)
                && has(&rule.resources, &full)
                && has(&rule.namespaces, namespace))
            {
                continue;
            }
            match &rule.own_label {
                Some(label) if !read => labels.push(label.clone()),
                Some(_) | None => return Some(Permit::All),
            }
        }
        (!labels.is_empty()).then_some(Permit::Labelled(labels))
    }
}

#[derive(Debug, Default)]
struct Loaded {
    tokens: Tokens,
    stamp: Option<(i64, i64, u64, u64)>,
}

/// Checks tokens against the file, which is read again whenever it changed.
#[derive(Debug)]
pub struct Authenticator {
    dir: PathBuf,
    admin: Token,
    loaded: Mutex<Loaded>,
}

impl Authenticator {
    /// Checks against the tokens in `dir`, and against the administrator's.
    #[must_use]
    pub fn new(dir: &Path, admin: String) -> Self {
        let admin = Token {
            token: admin,
            user: "admin".to_owned(),
            rules: vec![Rule::all()],
        };
        Self {
            dir: dir.to_owned(),
            admin,
            loaded: Mutex::default(),
        }
    }

    /// Who shows the header `Authorization: HEADER`, if its token is valid.
    #[must_use]
    pub fn user(&self, header: &str) -> Option<User> {
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let token = token.trim();
        let user = |t: &Token| User {
            name: t.user.clone(),
            rules: t.rules.clone(),
        };
        if equal(self.admin.token.as_bytes(), token.as_bytes()) {
            return Some(user(&self.admin));
        }
        let mut loaded = self
            .loaded
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        self.refresh(&mut loaded);
        loaded.tokens.find(token).map(user)
    }

    fn refresh(&self, loaded: &mut Loaded) {
        let stamp = std::fs::metadata(self.dir.join(FILE))
            .ok()
            .map(|m| (m.mtime(), m.mtime_nsec(), m.ino(), m.len()));
        if stamp == loaded.stamp {
            return;
        }
        loaded.stamp = stamp;
        match Tokens::load(&self.dir) {
            Ok(tokens) => loaded.tokens = tokens,
            Err(error) => {
                tracing::error!(%error, "the tokens cannot be read again: the former ones stay valid")
            }
        }
    }
}

#[cfg(test)]
mod tests;
