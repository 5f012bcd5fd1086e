//! The end of a process: one line that says why, and a status that scripts can tell apart.

use std::io::{self, Write};
use std::process::ExitCode;

use strait_daemon::SettingsError;

/// Status for wrong flags and settings, as clap has it.
const USAGE: u8 = 2;

/// Marks an error that ends with status 2, where 1 is an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble;

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no answer")
    }
}

/// Reports an error as `NAME: what failed: caused by` on standard error. Status 2 is for what the user can correct on
/// the command line or in the environment, 1 for the rest.
pub(crate) fn code(name: &str, outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is gone too there is nobody to tell.
            let _ = writeln!(io::stderr(), "{name}: {error:#}");
            let usage = error.chain().any(|cause| cause.is::<SettingsError>());
            if usage || error.is::<Trouble>() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
