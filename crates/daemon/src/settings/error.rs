//! What is wrong with the settings, all of it.

use std::fmt;

use super::{Origin, Setting, flag};

/// One setting that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable's name, such as `SUBMARINER_CLUSTERID`.
    pub name: String,
    /// The value as it may be shown (`***` for a secret); `None` if unset.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong with it.
    pub problem: String,
    /// What was expected, with an example.
    pub expected: String,
}

impl Problem {
    pub(super) fn new(
        name: &str,
        setting: Option<Setting>,
        value: Option<String>,
        origin: Origin,
        problem: &str,
    ) -> Self {
        let secret = setting.is_some_and(|setting| setting.secret);
        // A parser's words may quote what it was given.
        let hide = secret && value.as_ref().is_some_and(|value| !value.is_empty());
        Self {
            name: name.to_owned(),
            value: value.map(|value| if secret { "***".to_owned() } else { value }),
            origin,
            problem: if hide {
                "is not valid".to_owned()
            } else {
                problem.to_owned()
            },
            expected: setting
                .map(|setting| setting.expected.to_owned())
                .unwrap_or_default(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            value,
            origin,
            problem,
            expected,
        } = self;
        match (value, origin) {
            (None, _) => write!(f, "{name} {problem}")?,
            (Some(value), Origin::Flag) => {
                write!(f, "{name}={value:?} (flag --{}): {problem}", flag(name))?
            }
            (Some(value), Origin::File) => {
                write!(f, "{name}={value} (flag --{}-file): {problem}", flag(name))?
            }
            (Some(value), origin) => write!(f, "{name}={value:?} ({origin}): {problem}")?,
        }
        if !expected.is_empty() {
            write!(f, "; expected {expected}")?;
        }
        Ok(())
    }
}

/// Every setting that is wrong, one per line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    problems: Vec<Problem>,
}

impl SettingsError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// The problems, in the order in which the settings were read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [] => f.write_str("a setting is wrong"),
            [problem] => write!(f, "a setting is wrong: {problem}"),
            problems => {
                write!(f, "{} settings are wrong:", problems.len())?;
                problems
                    .iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
