//! `strait lab exec`: runs a command inside a lab, as if it had been started there.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, chdir};

use strait_netns::Inside;

use crate::client::Lab;
use crate::clock;
use crate::netns;
use crate::state::StateDir;

/// Runs a command in `place`, with the caller's terminal, and gives its status: 128 + the signal's number if one ended it.
///
/// The calling process moves into the lab for good, and must have one thread only.
pub(crate) fn exec(lab: &Lab, place: &str, command: &[OsString]) -> Result<ExitCode> {
    let names = lab.topology().names();
    ensure!(
        names.iter().any(|name| name == place),
        "no '{place}' in lab '{}'; it has {}",
        lab.name(),
        names.join(", ")
    );
    let (program, arguments) = command
        .split_first()
        .context("no command: strait lab exec PLACE -- COMMAND…")?;
    let directory = std::env::current_dir();
    enter(&StateDir::new(lab.name())?)?;
    // The lab's mounts are the machine's, but for a few: the directory is most likely there.
    if directory.is_err() || directory.is_ok_and(|directory| chdir(&directory).is_err()) {
        chdir("/")?;
    }
    netns::host_name(place)?.enter()?;
    netns::find(place)?.enter()?;
    // Ctrl-C on the terminal reaches the command itself; the rest is passed on. A
    // thread that waits would be simpler, but who has left for another pid namespace gets no more threads.
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let mut child = Command::new(program);
    child.args(arguments).env("STRAIT_LAB", lab.name());
    if lab.clocks() && lab.topology().nodes().any(|node| node.name == place) {
        child.envs(clock::environment(place)?);
    }
    let child = child.bound_to_parent().spawn();
    let mut child =
        child.with_context(|| format!("cannot run {} on {place}", program.display()))?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        let signal = signals.wait()?;
        if signal == Signal::SIGCHLD {
            if let Some(status) = child.try_wait()? {
                return Ok(code(status));
            }
        } else if matches!(signal, Signal::SIGTERM | Signal::SIGHUP) {
            // It may have ended just now.
            let _ = kill(pid, signal);
        }
    }
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Moves the calling process into the lab's namespaces; processes that it starts are the lab's.
fn enter(dir: &StateDir) -> Result<()> {
    let namespaces = PathBuf::from(format!("/proc/{}/ns", dir.pid()?));
    let open = |name: &str| {
        let path = namespaces.join(name);
        File::open(&path)
            .with_context(|| format!("lab '{}' cannot be entered by {}", dir.name, path.display()))
    };
    let user = open("user")?;
    let own = std::fs::metadata("/proc/self/ns/user")?;
    let rest = [
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
    ];
    let rest = rest.map(|(name, flag)| Ok((name, open(name)?, flag)));
    if user.metadata()?.ino() != own.ino() {
        setns(&user, CloneFlags::CLONE_NEWUSER).context("cannot enter the lab's user namespace")?;
    }
    for opened in rest {
        let (name, file, flag) = opened.map_err(|error: anyhow::Error| error)?;
        setns(&file, flag).with_context(|| format!("cannot enter the lab's {name} namespace"))?;
    }
    Ok(())
}
