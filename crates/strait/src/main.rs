//! `strait`: every process of Strait in one binary, a subcommand each.

mod cli;
mod exit;
mod processes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let (name, outcome) = cli::run(arguments);
    exit::code(&name, outcome)
}
