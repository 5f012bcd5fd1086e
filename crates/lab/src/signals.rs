//! Ctrl-C ends a lab before it ends the command.

use std::process::exit;

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

use crate::client::down;

/// On SIGINT, SIGTERM or SIGHUP, ends the lab `name` and then the process, with 128 + the signal's number. To be called before other
/// threads are started.
pub(crate) fn end_with(name: &str) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let name = name.to_owned();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let Ok(signal) = signals.wait() else { exit(1) };
            // The lab ends with the process in any case.
            let _ = down(&name);
            exit(128 + signal as i32)
        })?;
    Ok(())
}
