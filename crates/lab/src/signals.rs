//! Ctrl-C ends a lab before it ends the command.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};

use crate::client::down;

/// On SIGINT, SIGTERM or SIGHUP during `work`, ends the lab `name` and then the process, with 128 + the signal's number. To be
/// called before other threads are started.
pub(crate) fn ending<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let name = name.to_owned();
    let ending = Arc::new(AtomicBool::new(false));
    let begun = ending.clone();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let Ok(signal) = signals.wait() else { exit(1) };
            begun.store(true, Ordering::SeqCst);
            // The lab ends with the process in any case.
            let _ = down(&name);
            exit(128 + signal as i32)
        })?;
    let result = work();
    // What fails because the lab is being ended is not what ends the command.
    while ending.load(Ordering::SeqCst) {
        std::thread::park();
    }
    result
}
