//! The table of a process's settings, its flags, and the reading of raw values.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::{Origin, Problem, Settings};

/// One setting of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The variable's name, such as `SUBMARINER_CLUSTERID`.
    pub name: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// What a right value looks like; completes the sentence "expected …".
    pub expected: &'static str,
    /// The value when nothing is set.
    pub default: Option<&'static str>,
    /// Never shown, and never taken from the command line, where other users see it: its flag names a file.
    pub secret: bool,
    /// The process can't do without.
    pub required: bool,
    /// Of a truth value, another name of its flag, which may stand without a value.
    pub switch: Option<&'static str>,
}

impl Setting {
    /// A setting that is optional, has no default and is not secret.
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str, expected: &'static str) -> Self {
        Self {
            name,
            help,
            expected,
            default: None,
            secret: false,
            required: false,
            switch: None,
        }
    }

    /// The same, for a truth value, with another name for its flag, which alone stands for `true`.
    #[must_use]
    pub const fn switch(mut self, name: &'static str) -> Self {
        self.switch = Some(name);
        self
    }

    /// The same with a default.
    #[must_use]
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// The same, but secret.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The same, but required.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// The settings that every process has, whatever its own table.
pub static COMMON: &[Setting] = &[
    Setting::new(
        "STRAIT_LOG",
        "What to log: a level, or levels per module",
        "a level (error, warn, info, debug, trace) or a list such as info,strait_core=debug",
    )
    .default("info"),
    Setting::new(
        "STRAIT_LOG_FORMAT",
        "How to log: text on a terminal, else JSON",
        "auto, text or json",
    )
    .default("auto"),
    Setting::new(
        "STRAIT_LISTEN_ADDRESS",
        "Address of the admin server (/livez, /readyz, /metrics)",
        "an IP address of this host, such as 127.0.0.1 or ::",
    )
    .default("127.0.0.1"),
    Setting::new(
        "KUBECONFIG",
        "Path of the kubeconfig of this cluster's API; unset: the pod's service account",
        "the path of a readable kubeconfig file",
    ),
    Setting::new(
        "HTTPS_PROXY",
        "Proxy by which API servers and sites are reached; a kubeconfig's proxy-url goes before it for the cluster's own",
        "http://[USER:PASSWORD@]HOST[:PORT]",
    )
    .secret(),
    Setting::new(
        "NO_PROXY",
        "What is reached without the proxy",
        "names, which stand for what ends with them too, IP addresses and CIDRs, with commas in between; * for all",
    ),
];

/// Variables that Submariner's operator gives its processes and that have no meaning in ours: no warning for them.
const MEANINGLESS: &[&str] = &[
    "SUBMARINER_BROKER",
    "SUBMARINER_COLORCODES",
    "SUBMARINER_DEBUG",
    "SUBMARINER_TOKEN",
    "SUBMARINER_VERBOSITY",
];

/// The flag of a variable: `submariner-clusterid` for `SUBMARINER_CLUSTERID`.
#[must_use]
pub fn flag(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// A command with a flag for each of the table's settings and of [`COMMON`].
#[must_use]
pub fn command(name: &'static str, about: &'static str, table: &'static [Setting]) -> Command {
    let command = Command::new(name).about(about).next_line_help(true);
    COMMON
        .iter()
        .chain(table)
        .fold(command, |command, setting| command.arg(argument(setting)))
}

fn argument(setting: &'static Setting) -> Arg {
    let mut help = format!("{} [env: {}]", setting.help, setting.name);
    if let Some(default) = setting.default {
        help.push_str(&format!(" [default: {default}]"));
    }
    if setting.required {
        help.push_str(" [required]");
    }
    let arg = Arg::new(setting.name);
    let arg = if setting.secret {
        arg.long(format!("{}-file", flag(setting.name)))
            .value_name("PATH")
    } else if let Some(switch) = setting.switch {
        arg.long(switch)
            .alias(flag(setting.name))
            .value_name("VALUE")
            .num_args(0..=1)
            .default_missing_value("true")
    } else {
        // Values are parsed by `Settings`, so that all that is wrong is told at once.
        arg.long(flag(setting.name))
            .value_name("VALUE")
            .allow_hyphen_values(true)
    };
    arg.help(help)
}

impl Settings {
    /// As [`Settings::read`], from an environment that is given: names with their values.
    #[must_use]
    pub fn read_from(
        matches: &ArgMatches,
        table: &'static [Setting],
        environment: impl IntoIterator<Item = (String, OsString)>,
    ) -> Self {
        let mut environment: BTreeMap<String, OsString> = environment.into_iter().collect();
        let mut values = BTreeMap::new();
        let mut problems = Vec::new();
        for setting in COMMON.iter().chain(table) {
            let mut variable = environment.remove(setting.name);
            if setting.name.ends_with("_PROXY") {
                // These are written in either case.
                let lower = environment.remove(&setting.name.to_ascii_lowercase());
                variable = variable.or(lower);
            }
            let on_command_line = matches.try_contains_id(setting.name).unwrap_or(false)
                && matches.value_source(setting.name) == Some(ValueSource::CommandLine);
            let given = on_command_line
                .then(|| matches.get_one::<String>(setting.name))
                .flatten();
            let problem = |origin, problem: String| Problem {
                name: setting.name.to_owned(),
                value: Some("***".to_owned())
                    .filter(|_| setting.secret)
                    .or_else(|| given.cloned()),
                origin,
                problem,
                expected: setting.expected.to_owned(),
            };
            if let Some(given) = given {
                if !setting.secret {
                    values.insert(setting.name, (given.clone(), Origin::Flag));
                    continue;
                }
                match std::fs::read_to_string(given) {
                    Ok(secret) => {
                        values.insert(setting.name, (secret, Origin::File));
                    }
                    Err(error) => problems.push(problem(
                        Origin::File,
                        format!("cannot read {given}: {error}"),
                    )),
                }
            } else if let Some(variable) = variable {
                match variable.into_string() {
                    Ok(value) => {
                        values.insert(setting.name, (value, Origin::Environment));
                    }
                    Err(_) => {
                        problems.push(problem(Origin::Environment, "is not UTF-8".to_owned()))
                    }
                }
            } else if let Some(default) = setting.default {
                values.insert(setting.name, (default.to_owned(), Origin::Default));
            }
        }
        let unknown: BTreeSet<String> = environment
            .into_keys()
            .filter(|name| looks_like_ours(name))
            .collect();
        Self {
            table,
            values,
            unknown,
            problems,
        }
    }
}

/// Whether a variable that no setting claimed was probably meant for us. Kubernetes itself sets variables for each
/// Service of the namespace (`SUBMARINER_GATEWAY_SERVICE_HOST`, `…_PORT_8080_TCP_ADDR`): those were not.
fn looks_like_ours(name: &str) -> bool {
    let ours = ["SUBMARINER_", "STRAIT_", "BROKER_K8S_"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    let of_a_service = name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_TCP")
        || name.contains("_UDP");
    ours && !of_a_service && !MEANINGLESS.contains(&name)
}
