//! The subcommands that other crates provide: one entry each.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use clap::{ArgMatches, Command};

/// What a subcommand's `async fn` gives.
type Ending<'a> = Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>> + 'a>>;

/// How a subcommand runs.
#[derive(Clone, Copy)]
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

/// The ending of what either succeeds or fails.
fn ending<'a>(run: impl Future<Output = anyhow::Result<()>> + 'a) -> Ending<'a> {
    Box::pin(async { run.await.map(|()| ExitCode::SUCCESS) })
}

/// All of them, in the order in which help shows them.
pub(crate) const PROCESSES: &[Process] = &[
    Process {
        command: strait_route_agent::command,
        stands_in_for: Some("submariner-route-agent"),
        run: Run::Agent(|matches| ending(strait_route_agent::run(matches))),
    },
    Process {
        command: strait_gateway::command,
        stands_in_for: Some("submariner-gateway"),
        run: Run::Agent(|matches| Box::pin(strait_gateway::run(matches))),
    },
    Process {
        command: strait_route_agent::plan_command,
        stands_in_for: None,
        run: Run::Agent(|matches| ending(strait_route_agent::plan(matches))),
    },
    Process {
        command: strait_route_agent::diff_command,
        stands_in_for: None,
        run: Run::Agent(|matches| {
            // As diff(1) has it: 1 for a difference, 2 for trouble.
            Box::pin(async {
                match strait_route_agent::diff(matches).await {
                    Ok(differs) => Ok(ExitCode::from(u8::from(differs))),
                    Err(error) => Err(error.context(crate::exit::Trouble)),
                }
            })
        }),
    },
    #[cfg(feature = "lab")]
    Process {
        command: strait_apiserver::command,
        stands_in_for: None,
        run: Run::Server(|matches| ending(strait_apiserver::run(matches))),
    },
    #[cfg(feature = "lab")]
    Process {
        command: strait_lab::command,
        stands_in_for: None,
        run: Run::Plain(strait_lab::main),
    },
];
