//! A string that cannot be shown by accident.

use std::fmt;

/// A secret: a token, a key, a passphrase. `Debug` and `Display` give `***`, whatever its length.
///
/// It has no `Serialize`, so it can't reach a log or a status by derivation either.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the secret in.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn neither_its_text_nor_its_length_shows() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {secret:>1}"), "*** *** ***");
        assert_eq!(format!("{:?}", Some(Secret::new(""))), "Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
