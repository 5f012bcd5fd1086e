//! Removing all that one owner has on a host.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use strait_host::{Change, Host, Owned, Owner, Wanted};
use strait_kernel::{Error, Kernel, Outcome, Reconciler};

use crate::Settings;

/// The setting that asks for it; Submariner's operator sets it.
const ASKED: &str = "SUBMARINER_UNINSTALL";
/// How long it is tried again while somebody else changes things.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long after a try it is seen whether anything came back.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often what came back is removed again: more would only be a fight.
const TRIES: u32 = 2;
/// The pause between two tries that achieve nothing.
const PAUSE: Duration = Duration::from_millis(10);

/// Why not all could be removed.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The kernel can't be spoken with.
    #[error("the kernel's state can't be read: {0}")]
    Kernel(#[from] Error),
    /// The kernel refused.
    #[error("not all could be removed: {0}")]
    Refused(String),
    /// It is there again after each try.
    #[error("these come back each time that they are removed (does the process still run?): {0}")]
    Back(String),
}

/// Whether `SUBMARINER_UNINSTALL` or its flag asks for it.
#[must_use]
pub fn is_asked(settings: &mut Settings) -> bool {
    settings.bool(ASKED).unwrap_or(false)
}

/// Sets back what `back` says (path below `/proc/sys`, and value), then removes all that is the owner's, and looks
/// whether it is gone. Gives a line for each thing that was done, also where not all could be.
pub async fn clean(
    owner: Owner,
    back: fn(&Host) -> BTreeMap<String, String>,
) -> (Vec<String>, Result<(), UninstallError>) {
    let begun = Instant::now();
    let mut done = Vec::new();
    let mut reconciler = match Kernel::connect().await {
        Ok(kernel) => Reconciler::new(kernel, owner),
        Err(error) => return (done, Err(error.into())),
    };
    let mut came_back = 0;
    loop {
        let last = begun.elapsed() > PATIENCE || came_back == TRIES;
        let removed = done.len();
        let outcome = match pass(&mut reconciler, back, last, &mut done).await {
            Ok(made) if made && !last => {
                // Whoever still runs has put it back by then.
                tokio::time::sleep(LOOK_AGAIN).await;
                left(&mut reconciler).await
            }
            Ok(_) => left(&mut reconciler).await,
            Err(error) => Err(error),
        };
        if last || outcome.is_ok() {
            return (done, outcome);
        }
        if matches!(outcome, Err(UninstallError::Back(_))) {
            came_back += 1;
        } else if removed == done.len() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// One try; whether there was anything to do.
async fn pass(
    reconciler: &mut Reconciler,
    back: fn(&Host) -> BTreeMap<String, String>,
    last: bool,
    done: &mut Vec<String>,
) -> Result<bool, UninstallError> {
    let sysctls = back(&*reconciler.observe().await?);
    // First what others had: what it was is remembered in our table.
    let first = Wanted {
        sysctls,
        ..Wanted::default()
    };
    let first = reconciler.make(first).await;
    let mut failed = note(&first, done);
    let mut rest = Wanted::nothing();
    if !failed.is_empty() && !last {
        rest.nft = Owned::Keep;
    }
    let second = reconciler.make(rest).await;
    failed.extend(note(&second, done));
    if failed.is_empty() {
        Ok(!first.made.is_empty() || !second.made.is_empty())
    } else {
        Err(UninstallError::Refused(failed.join("; ")))
    }
}

/// Whether nothing is left.
async fn left(reconciler: &mut Reconciler) -> Result<(), UninstallError> {
    reconciler.observe().await?;
    let pending = reconciler.pending(&Wanted::nothing()).unwrap_or_default();
    let left = pending
        .changes
        .iter()
        .map(|left| left.subject().to_string());
    let left: Vec<String> = left.collect();
    if left.is_empty() {
        Ok(())
    } else {
        Err(UninstallError::Back(left.join(", ")))
    }
}

fn note(outcome: &Outcome, done: &mut Vec<String>) -> Vec<String> {
    for change in &outcome.made {
        let line = if let Change::SetSysctl(path, value) = change {
            format!("set sysctl {path} back to {value}")
        } else {
            format!("removed {}", change.subject())
        };
        if !done.contains(&line) {
            done.push(line);
        }
    }
    let failures = outcome.failures.iter();
    failures
        .map(|f| format!("{}: {}", f.change.subject(), f.error))
        .collect()
}
