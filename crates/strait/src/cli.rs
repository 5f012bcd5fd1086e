//! The command line: which process is meant, and starting it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use crate::processes::{PROCESSES, Process, Run};

const VERSION: &str = env!("CARGO_PKG_VERSION");

const EXAMPLES: &str = "\
Examples:
  strait lab demo                     two clusters on this machine, joined; prints who reaches whom
  strait plan                         what the route agent would want on this node
  strait diff                         what it would change
  strait route-agent --node-name n1   run the agent of a node by hand
  source <(strait completion bash)    completion in this shell

Each process takes its settings from the environment, with Submariner's names, or from flags of the same
name; 'strait PROCESS --help' lists them.";

/// Runs what `arguments` ask for, and gives the name under which to report an error.
pub(crate) fn run(arguments: Vec<OsString>) -> (String, anyhow::Result<ExitCode>) {
    let program = arguments
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let stand_in = PROCESSES
        .iter()
        .find(|process| program.is_some() && process.stands_in_for == program);
    if let (Some(process), Some(program)) = (stand_in, program) {
        let command = (process.command)()
            .name(program.to_owned())
            .version(VERSION);
        return (
            program.to_owned(),
            start(process, &command.get_matches_from(arguments)),
        );
    }
    let mut command = command();
    let matches = match command.try_get_matches_from_mut(arguments) {
        Ok(matches) => matches,
        // Prints help to standard output and mistakes to standard error, with status 0 and 2.
        Err(error) => error.exit(),
    };
    let Some((name, matches)) = matches.subcommand() else {
        return (
            "strait".to_owned(),
            Err(anyhow::anyhow!("no subcommand; see 'strait --help'")),
        );
    };
    let outcome = match PROCESSES
        .iter()
        .find(|process| (process.command)().get_name() == name)
    {
        Some(process) => start(process, matches),
        None if name == "completion" => completion(&mut command, matches),
        None => print(format!("strait {VERSION}\n").as_bytes()),
    };
    (format!("strait {name}"), outcome)
}

/// The whole command line.
pub(crate) fn command() -> Command {
    let completion = Command::new("completion")
        .about("Print a completion script for a shell")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell))
                .help("The shell"),
        );
    Command::new("strait")
        .about("Joins the pod and service networks of Kubernetes clusters")
        .version(VERSION)
        .propagate_version(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(PROCESSES.iter().map(|process| (process.command)()))
        .subcommand(completion.after_help("Example:\n  strait completion zsh > ~/.zfunc/_strait"))
        .subcommand(Command::new("version").about("Print the version"))
        .after_help(EXAMPLES)
}

fn start(process: &Process, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (mut builder, ending) = match process.run {
        #[cfg(feature = "lab")]
        Run::Plain(main) => return main(matches),
        Run::Agent(run) => (tokio::runtime::Builder::new_current_thread(), run(matches)),
        #[cfg(feature = "lab")]
        Run::Server(run) => (tokio::runtime::Builder::new_multi_thread(), run(matches)),
    };
    let runtime = builder
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(ending);
    // A blocking call that hangs must not keep a process that is done.
    runtime.shutdown_background();
    outcome
}

fn completion(command: &mut Command, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let shell = matches
        .get_one::<Shell>("shell")
        .copied()
        .context("which shell?")?;
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "strait", &mut script);
    #[cfg(feature = "lab")]
    if shell == Shell::Bash {
        script.extend_from_slice(strait_lab::BASH_NAMES.as_bytes());
    }
    print(&script)
}

/// Prints to standard output; a reader that went away is no error.
fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write")
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_subcommand_says_what_it_does() {
        let command = command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            assert!(
                subcommand.get_about().is_some(),
                "{} has no help",
                subcommand.get_name()
            );
        }
    }
}
