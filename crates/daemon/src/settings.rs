//! Settings: one table per process, read from the environment or from flags of the same name.
//!
//! The environment's names are Submariner's, so that its operator can start our processes. The flag of
//! `SUBMARINER_CLUSTERID` is `--submariner-clusterid`; a flag wins over the environment, and the environment over the
//! default. A variable that is set but empty overrides the default too, as upstream's reader does (envconfig v1.4.0).
//!
//! Every problem is collected, so that whoever runs the process learns of all of them at once:
//!
//! ```
//! use strait_daemon::settings::{Setting, Settings, SettingsError, command};
//!
//! static TABLE: &[Setting] = &[
//!     Setting::new("NODE_NAME", "Name of this node", "the name of a Node").required(),
//!     Setting::new("SUBMARINER_METRICSPORT", "TCP port of the admin server", "a port, 1 to 65535").default("32782"),
//! ];
//! struct Config { node: String, port: u16 }
//!
//! fn config(matches: &clap::ArgMatches) -> Result<Config, SettingsError> {
//!     let mut settings = Settings::read(matches, TABLE);
//!     let node = settings.text("NODE_NAME");
//!     let port = settings.port("SUBMARINER_METRICSPORT");
//!     settings.finish(|| Ok(Config { node: node?, port: port? }))
//! }
//!
//! let matches = command("agent", "An agent", TABLE).get_matches_from(["agent", "--node-name", "east-1"]);
//! assert_eq!(config(&matches).unwrap().node, "east-1");
//! ```

mod error;
mod parse;
mod table;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use clap::ArgMatches;

use crate::Secret;
pub use error::{Problem, SettingsError};
pub use parse::go_bool;
pub use table::{COMMON, Setting, command, flag};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A variable of the environment.
    Environment,
    /// A flag on the command line.
    Flag,
    /// A file that a flag of the command line names (secrets only).
    File,
    /// Nothing was set: the default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "environment",
            Self::Flag => "flag",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}

/// Stands for a value that could not be read: the problem has been noted, and [`Settings::finish`] reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted(());

/// The raw values of one process, and the problems found while they were parsed.
pub struct Settings {
    table: &'static [Setting],
    values: BTreeMap<&'static str, (String, Origin)>,
    unknown: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Settings {
    /// Reads the values of [`COMMON`] and `table` from flags, the process's environment and defaults.
    #[must_use]
    pub fn read(matches: &ArgMatches, table: &'static [Setting]) -> Self {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self::read_from(matches, table, environment)
    }

    /// The setting's value parsed by `parse`, whose error says what is wrong. An unset setting without a default is a
    /// problem only if it is required; use [`Settings::optional`] for one that may be absent.
    pub fn parse<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Noted> {
        match self.values.get(name) {
            None => {
                let secret = self.table_of().any(|it| it.name == name && it.secret);
                let file = if secret { "-file" } else { "" };
                Err(self.note(name, &format!("is not set (nor is --{}{file})", flag(name))))
            }
            Some((value, _)) if value.is_empty() && self.is_required(name) => {
                Err(self.note(name, "is empty"))
            }
            Some((value, _)) => match parse(value) {
                Ok(value) => Ok(value),
                Err(error) => Err(self.note(name, &error.to_string())),
            },
        }
    }

    /// As [`Settings::parse`]; unset or empty is `None`.
    pub fn optional<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Noted> {
        if self.raw(name).is_none_or(str::is_empty) && !self.is_required(name) {
            return Ok(None);
        }
        self.parse(name, parse).map(Some)
    }

    /// Elements separated by commas, each parsed by `parse`, with blanks around them dropped. Unset or empty is no element.
    pub fn list<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnMut(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, Noted> {
        let elements = self.optional(name, |value| {
            value
                .split(',')
                .map(str::trim)
                .filter(|element| !element.is_empty())
                .map(parse)
                .collect()
        })?;
        Ok(elements.unwrap_or_default())
    }

    /// The text as it is.
    pub fn text(&mut self, name: &str) -> Result<String, Noted> {
        self.parse(name, |value| Ok::<_, String>(value.to_owned()))
    }

    /// The text as it is, if there is any.
    pub fn optional_text(&mut self, name: &str) -> Result<Option<String>, Noted> {
        self.optional(name, |value| Ok::<_, String>(value.to_owned()))
    }

    /// A truth value as Go's `strconv.ParseBool` takes it.
    pub fn bool(&mut self, name: &str) -> Result<bool, Noted> {
        self.parse(name, parse::go_bool)
    }

    /// A TCP or UDP port, 1 to 65535.
    pub fn port(&mut self, name: &str) -> Result<u16, Noted> {
        self.parse(name, parse::port)
    }

    /// A whole number of seconds.
    pub fn seconds(&mut self, name: &str) -> Result<Duration, Noted> {
        self.parse(name, |value| value.trim().parse().map(Duration::from_secs))
    }

    /// A secret, if there is any. Blanks at its end are dropped: files end with a newline.
    pub fn secret(&mut self, name: &str) -> Result<Option<Secret>, Noted> {
        self.optional(name, |value| Ok::<_, String>(Secret::new(value.trim_end())))
    }

    /// Notes a problem that only the process can see, such as two settings that exclude each other.
    pub fn note(&mut self, name: &str, problem: &str) -> Noted {
        let setting = self
            .table_of()
            .find(|setting| setting.name == name)
            .copied();
        let (value, origin) = match self.values.get(name) {
            Some((value, origin)) => (Some(value.clone()), *origin),
            None => (None, Origin::Default),
        };
        self.problems
            .push(Problem::new(name, setting, value, origin, problem));
        Noted(())
    }

    /// Builds the process's configuration if every setting was right, else gives one error that lists all problems.
    pub fn finish<T>(self, build: impl FnOnce() -> Result<T, Noted>) -> Result<T, SettingsError> {
        match build() {
            Ok(built) if self.problems.is_empty() => Ok(built),
            Ok(_) | Err(Noted(())) => Err(SettingsError::new(self.problems)),
        }
    }

    /// Logs every setting with its origin, secrets as `***`, and warns of variables that look like settings but are not.
    pub fn log(&self) {
        for (name, value, origin) in self.shown() {
            tracing::info!(setting = name, value, %origin, "setting");
        }
        for name in &self.unknown {
            tracing::warn!(
                variable = name,
                "this variable is not a setting of this process and is ignored"
            );
        }
    }

    /// The raw value, before it is parsed.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(value, _)| value.as_str())
    }

    fn shown(&self) -> impl Iterator<Item = (&'static str, &str, Origin)> {
        self.table_of().filter_map(|setting| {
            let (value, origin) = self.values.get(setting.name)?;
            Some((
                setting.name,
                if setting.secret {
                    "***"
                } else {
                    value.as_str()
                },
                *origin,
            ))
        })
    }

    fn is_required(&self, name: &str) -> bool {
        self.table_of()
            .any(|setting| setting.name == name && setting.required)
    }

    fn table_of(&self) -> impl Iterator<Item = &'static Setting> + use<> {
        COMMON.iter().chain(self.table)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.shown()).finish()
    }
}
