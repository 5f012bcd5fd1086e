//! The subcommands that other crates provide: one entry each.

use std::future::Future;
use std::pin::Pin;
#[cfg(feature = "lab")]
use std::process::ExitCode;

use clap::{ArgMatches, Command};

/// What a subcommand's `async fn` gives.
type Ending<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// How a subcommand runs.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "the agents and the lab are being written")]
pub(crate) enum Run {
    /// On one thread: an agent of a node, where memory counts.
    Agent(for<'a> fn(&'a ArgMatches) -> Ending<'a>),
    /// On a thread per processor.
    #[cfg(feature = "lab")]
    Server(for<'a> fn(&'a ArgMatches) -> Ending<'a>),
    /// Without a runtime: it forks.
    #[cfg(feature = "lab")]
    Plain(fn(&ArgMatches) -> anyhow::Result<ExitCode>),
}

/// A subcommand.
#[derive(Clone, Copy)]
pub(crate) struct Process {
    /// Its name and flags.
    pub(crate) command: fn() -> Command,
    /// The name of Submariner's program that it stands in for, when started under that name.
    pub(crate) stands_in_for: Option<&'static str>,
    /// What it does.
    pub(crate) run: Run,
}

/// All of them, in the order in which help shows them.
pub(crate) const PROCESSES: &[Process] = &[
    #[cfg(feature = "lab")]
    Process {
        command: strait_apiserver::command,
        stands_in_for: None,
        run: Run::Server(|matches| Box::pin(strait_apiserver::run(matches))),
    },
];
