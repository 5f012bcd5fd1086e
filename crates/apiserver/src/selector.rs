//! Label and field selectors (`labelSelector`, `fieldSelector`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::failure::Failure;

/// A parsed selector over an object's labels and fields. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<(String, Test)>,
    fields: Vec<(Vec<String>, Test)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
}

impl Test {
    /// `NotIn` also holds for an absent value, as in Kubernetes.
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(set) => value.is_some_and(|v| set.contains(v)),
            Self::NotIn(set) => value.is_none_or(|v| !set.contains(v)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

impl Selector {
    /// Parses both texts; empty texts match everything.
    ///
    /// # Errors
    /// 400 when a text is not a selector.
    pub fn parse(labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self {
            labels: parse_labels(labels)?,
            fields: parse_fields(fields)?,
        })
    }

    /// Whether this selector matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether `object` matches. In a field selector an absent field counts as the empty string.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        self.labels
            .iter()
            .all(|(key, test)| test.holds(labels.and_then(|l| l.get(key)).and_then(Value::as_str)))
            && self.fields.iter().all(|(path, test)| {
                let found = path.iter().try_fold(object, |value, step| value.get(step));
                test.holds(Some(&text(found)))
            })
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => String::new(),
    }
}

fn bad(text: &str) -> Failure {
    Failure::bad_request(format!("unable to parse requirement: {text:?}"))
}

/// Splits at commas that are not inside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
        .into_iter()
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .collect()
}

fn parse_labels(text: &str) -> Result<Vec<(String, Test)>, Failure> {
    split(text).into_iter().map(parse_label).collect()
}

fn parse_label(part: &str) -> Result<(String, Test), Failure> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let (key, test) = if let Some(key) = part.strip_prefix('!') {
        (key.trim(), Test::Absent)
    } else if let Some((key, value)) = part.split_once("!=") {
        (key.trim(), Test::NotIn(one(value)))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key.trim(), Test::In(one(value)))
    } else if let Some((head, tail)) = part.split_once('(') {
        let list = tail.strip_suffix(')').ok_or_else(|| bad(part))?;
        let values = list.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => (key, Test::In(values)),
            (Some(key), Some("notin"), None) => (key, Test::NotIn(values)),
            _ => return Err(bad(part)),
        }
    } else {
        (part, Test::Exists)
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if key.is_empty() || !key.chars().all(legal) {
        return Err(bad(part));
    }
    let values_legal = match &test {
        Test::In(set) | Test::NotIn(set) => {
            set.iter().all(|v| v.chars().all(|c| legal(c) && c != '/'))
        }
        Test::Exists | Test::Absent => true,
    };
    if values_legal {
        Ok((key.to_owned(), test))
    } else {
        Err(bad(part))
    }
}

fn parse_fields(text: &str) -> Result<Vec<(Vec<String>, Test)>, Failure> {
    let mut tests = Vec::new();
    for part in split_escaped(text) {
        let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
            (path, value, false)
        } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
            (path, value, true)
        } else {
            return Err(Failure::bad_request(format!(
                "invalid field selector {part:?}"
            )));
        };
        let steps = path
            .trim()
            .trim_start_matches('.')
            .split('.')
            .map(str::to_owned)
            .collect::<Vec<_>>();
        if steps.iter().any(String::is_empty) {
            return Err(Failure::bad_request(format!(
                "invalid field selector {part:?}"
            )));
        }
        let set = BTreeSet::from([unescape(value)]);
        tests.push((
            steps,
            if equal {
                Test::In(set)
            } else {
                Test::NotIn(set)
            },
        ));
    }
    Ok(tests)
}

fn split_escaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut escaped, mut start) = (false, 0);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().filter(|p| !p.trim().is_empty()).collect()
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(labels: &str, fields: &str) -> bool {
        let object = json!({
            "metadata": {"name": "a", "namespace": "n", "labels": {"app": "web", "tier": "front", "example.com/x": ""}},
            "spec": {"nodeName": "w,1", "replicas": 3},
        });
        Selector::parse(labels, fields).unwrap().matches(&object)
    }

    #[test]
    fn label_selectors_follow_kubernetes() {
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (db, web)", true),
            ("app in (db),tier", false),
            ("app notin (db,web)", false),
            ("other notin (x)", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("example.com/x", true),
            ("example.com/x=", true),
        ] {
            assert_eq!(holds(text, ""), want, "{text}");
        }
    }

    #[test]
    fn field_selectors_reach_any_dotted_path() {
        for (text, want) in [
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=n", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=w\\,1", true),
            ("spec.replicas=3", true),
            ("status.phase=", true),
            ("status.phase=Running", false),
        ] {
            assert_eq!(holds("", text), want, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "a in (b",
            "a foo (b)",
            "=x",
            "a b",
            "in (x)",
            "a=(",
            "$=1",
            "é=(",
        ] {
            assert_eq!(Selector::parse(text, "").unwrap_err().code, 400, "{text}");
        }
        for text in ["a", "=b", "a..b=c"] {
            assert_eq!(Selector::parse("", text).unwrap_err().code, 400, "{text}");
        }
    }
}
