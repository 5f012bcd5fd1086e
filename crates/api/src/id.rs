//! Names that are checked once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A cluster's identifier: a DNS-1123 label of 1 to 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(String);

/// Text that names no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no cluster ID; expected 1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit"
)]
pub struct BadClusterId(String);

impl ClusterId {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterId {
    type Err = BadClusterId;

    fn from_str(text: &str) -> Result<Self, BadClusterId> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = (1..=63).contains(&text.len())
            && text.chars().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadClusterId(crate::object::shown(text, 80)))
        }
    }
}

impl TryFrom<String> for ClusterId {
    type Error = BadClusterId;

    fn try_from(text: String) -> Result<Self, BadClusterId> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object name made of any text, as Submariner's `EnsureValidName` (admiral `resource/util.go`) makes it: lower
/// case, every other character than letters, digits, `-` and `.` becomes `-`, and none stands at either end.
#[must_use]
pub fn valid_name(text: &str) -> String {
    let name: String = text
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_lowercase() || c.is_ascii_digit() || c == '-' || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_is_a_dns_label() {
        for good in ["a", "east", "c-1", &"x".repeat(63)] {
            assert_eq!(good.parse::<ClusterId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "East", "a.b", "a_b", "é", &"x".repeat(64)] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_made_valid_as_upstream_does() {
        assert_eq!(
            valid_name("c1-submariner-cable-c1-10-0-0-5"),
            "c1-submariner-cable-c1-10-0-0-5"
        );
        assert_eq!(valid_name("-Node_1.Example:2-"), "node-1.example-2");
    }
}
