//! Failures of requests, as the `Status` objects of the Kubernetes API.

use serde_json::{Value, json};

/// One cause inside a [`Failure`], such as an invalid field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// What an operator reads.
    pub message: String,
    /// Dotted path of the field, such as `spec.backend`.
    pub field: String,
}

impl Cause {
    /// A cause of `reason` at `field`.
    #[must_use]
    pub fn new(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            field: field.into(),
        }
    }
}

/// What a failed request was about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural name, or kind.
    pub kind: String,
    /// Name of the object; may be empty.
    pub name: String,
}

/// A request that was refused: what the client gets as a `Status` with `status: Failure`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason (`metav1.StatusReason`).
    pub reason: &'static str,
    /// What an operator reads.
    pub message: String,
    /// What the request was about, if that is known.
    pub about: Option<Box<About>>,
    /// Details, such as one entry per invalid field.
    pub causes: Vec<Cause>,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            about: None,
            causes: Vec::new(),
        }
    }

    /// Says which object the failure is about.
    #[must_use]
    pub fn about(mut self, group: &str, resource: &str, name: &str) -> Self {
        let (group, kind, name) = (group.to_owned(), resource.to_owned(), name.to_owned());
        self.about = Some(Box::new(About { group, kind, name }));
        self
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: no valid token.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: the user may not do this.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// 404: no such path.
    #[must_use]
    pub fn no_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let resource = qualified(group, plural);
        Self::new(404, "NotFound", format!("{resource} \"{name}\" not found"))
            .about(group, plural, name)
    }

    /// 405: the path exists, the method does not.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 409: an object of that name exists.
    #[must_use]
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let resource = qualified(group, plural);
        Self::new(
            409,
            "AlreadyExists",
            format!("{resource} \"{name}\" already exists"),
        )
        .about(group, plural, name)
    }

    /// 409: the object changed since the client read it, or a precondition failed.
    #[must_use]
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let resource = qualified(group, plural);
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}"),
        )
        .about(group, plural, name)
    }

    /// 409: fields of an apply belong to other managers.
    #[must_use]
    pub fn apply_conflict(causes: Vec<Cause>) -> Self {
        let list = causes
            .iter()
            .map(|c| format!("{}: {}", c.message, c.field))
            .collect::<Vec<_>>()
            .join(", ");
        let plural = if causes.len() == 1 {
            "conflict"
        } else {
            "conflicts"
        };
        let mut failure = Self::new(
            409,
            "Conflict",
            format!("Apply failed with {} {plural}: {list}", causes.len()),
        );
        failure.causes = causes;
        failure
    }

    /// 410: the history that the request needs is gone.
    #[must_use]
    pub fn gone(asked: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {asked} ({oldest})"),
        )
    }

    /// 413: the request or the object is too large.
    #[must_use]
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: the content type is not one that the server reads here.
    #[must_use]
    pub fn media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object breaks the rules of its kind.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let kind_text = qualified(group, kind);
        let list = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect::<Vec<_>>();
        let list = if list.len() == 1 {
            list.concat()
        } else {
            format!("[{}]", list.join(", "))
        };
        let mut failure = Self::new(
            422,
            "Invalid",
            format!("{kind_text} \"{name}\" is invalid: {list}"),
        )
        .about(group, kind, name);
        failure.causes = causes;
        failure
    }

    /// 500: the server failed.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// 504: the client asks for a state that this server has not reached.
    #[must_use]
    pub fn future_version(asked: u64, current: u64) -> Self {
        let mut failure = Self::new(
            504,
            "Timeout",
            format!("Too large resource version: {asked}, current: {current}"),
        );
        failure.causes = vec![Cause::new(
            "ResourceVersionTooLarge",
            "",
            "Too large resource version",
        )];
        failure
    }

    /// The `Status` object for the client.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut details = serde_json::Map::new();
        let about = self.about.as_deref().cloned().unwrap_or_default();
        for (key, value) in [
            ("name", about.name),
            ("group", about.group),
            ("kind", about.kind),
        ] {
            if !value.is_empty() {
                details.insert(key.to_owned(), json!(value));
            }
        }
        if !self.causes.is_empty() {
            let causes = self
                .causes
                .iter()
                .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                .collect::<Vec<_>>();
            details.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.reason == "Timeout" {
            details.insert("retryAfterSeconds".to_owned(), json!(1));
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}
