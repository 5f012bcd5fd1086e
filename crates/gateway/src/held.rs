//! A gateway that serves WireGuard itself is two processes: a small parent holds the TUN device and the sockets, so that they
//! outlive the one that does the work.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, exit};

use anyhow::Context;
use strait_cable::Kind;
use strait_daemon::Heartbeat;
use strait_daemon::holder::{self, Holder, Slate};

use crate::cable;

/// The name under which the parent has what the election writes down.
const ELECTION: &str = "election";

/// What this process is.
pub(crate) enum Part {
    /// The gateway. With a holder if it serves WireGuard itself.
    Gateway(Option<Held>),
    /// The parent of one that has ended.
    Ended(ExitCode),
}

/// What a parent holds for this process.
#[derive(Debug)]
pub(crate) struct Held {
    /// The way to it.
    pub(crate) holder: Parent,
    /// What it has of a predecessor's cable.
    pub(crate) descriptors: BTreeMap<String, OwnedFd>,
    /// What a predecessor's election has written down, and this one's does.
    pub(crate) slate: Option<Slate>,
}

/// The heart of a loop, which a parent feels if there is one.
///
/// # Errors
/// If there is no descriptor left.
pub(crate) fn heart(held: Option<&Held>, part: &'static str) -> io::Result<Heartbeat> {
    let pulse = held.map(|held| held.holder.0.pulse(part)).transpose()?;
    Ok(Heartbeat::new(Heartbeat::DEADLINE).felt(pulse))
}

/// The way to the parent.
#[derive(Debug)]
pub(crate) struct Parent(Holder);

impl strait_cable::Holder for Parent {
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.0.keep(name, descriptor)
    }

    fn release(&self, name: &str) -> io::Result<()> {
        self.0.release(name)
    }
}

/// Finds out which of the two this process is. The parent stays here until its child has ended.
///
/// # Errors
/// If no child can be started, or the parent can't be spoken to.
pub(crate) async fn part(settings: &cable::Settings) -> anyhow::Result<Part> {
    let holder = Holder::of_this_process().context("the way to the parent process")?;
    let Some(holder) = holder else {
        return match cable::kind(settings, false) {
            Kind::Kernel => Ok(Part::Gateway(None)),
            Kind::Process => {
                let ended = holder::hold()
                    .await
                    .context("a process that does the work")?;
                Ok(Part::Ended(code(ended)))
            }
        };
    };
    cable::kind(settings, true);
    let mut descriptors = holder.held().context("what the parent process holds")?;
    let slate = descriptors.remove(ELECTION).map(Slate::from);
    let slate = slate.or_else(|| match new_slate(&holder) {
        Ok(slate) => Some(slate),
        Err(error) => {
            tracing::warn!(%error, "nothing of the election can be left to a process that comes after this one");
            None
        }
    });
    // It has ended, or was killed: somebody may start another pair.
    let alone = || exit(1);
    holder
        .when_gone(alone)
        .context("a thread that watches it")?;
    Ok(Part::Gateway(Some(Held {
        holder: Parent(holder),
        descriptors,
        slate,
    })))
}

fn new_slate(holder: &Holder) -> io::Result<Slate> {
    let slate = Slate::new()?;
    holder.keep(ELECTION, slate.as_fd())?;
    Ok(slate)
}

/// As a shell has it: a signal is 128 and its number.
fn code(ended: ExitStatus) -> ExitCode {
    let signal = || ended.signal().map(|signal| signal + 128);
    let code = ended
        .code()
        .or_else(signal)
        .and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
