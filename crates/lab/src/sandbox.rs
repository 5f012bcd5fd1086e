//! The sandbox in which a lab lives: namespaces of its own for processes, mounts, network, host name, and, for a user who
//! is not root, users. When its first process ends, for whatever reason, the kernel ends all others and everything that they made.
//!
//! ```text
//! strait lab up          takes the directory; starts the next one with the lock as its standard input, and as standard output
//!  └ strait lab sandbox    a pipe for reports; it leaves the old namespaces, starts the next one, and ends
//!     └ strait lab init      process 1: mounts; collects orphans; ends with the next one
//!        └ strait lab supervisor    the lab itself
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid, setsid};

use crate::options::Options;
use crate::state::{ALL_INSIDE, INSIDE, StateDir};
use crate::supervisor::Report;

/// The binary that runs now, also when its file was replaced since.
pub(crate) const SELF: &str = "/proc/self/exe";

/// What a sandbox is started with.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Order {
    /// The lab's directory.
    pub(crate) dir: PathBuf,
    /// The lab.
    pub(crate) options: Options,
    /// Whether the lab ends with the process that started it.
    pub(crate) attached: bool,
    /// The caller's variables that the agents get too.
    pub(crate) environment: Vec<(String, String)>,
}

/// The end of the pipe on which a starting lab reports. An attached lab ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Starting {
    reports: BufReader<ChildStdout>,
    dir: StateDir,
}

/// Starts a lab's sandbox.
pub(crate) fn start(options: &Options, attached: bool, binary: &Path) -> Result<Starting> {
    options.check()?;
    let dir = StateDir::new(&options.name)?;
    let lock = dir.take()?;
    let environment = std::env::vars()
        .filter(|(name, _)| name.starts_with("STRAIT_") || name == "RUST_BACKTRACE")
        .collect();
    let order = Order {
        dir: dir.path.clone(),
        options: options.clone(),
        attached,
        environment,
    };
    let log =
        fs::File::create(dir.path.join("supervisor.log")).context("cannot make supervisor.log")?;
    let child = Command::new(binary)
        .args(["lab", "sandbox", &serde_json::to_string(&order)?])
        .stdin(lock)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn();
    let mut child: Child = match child {
        Ok(child) => child,
        Err(error) => {
            dir.remove()?;
            return Err(error).with_context(|| format!("cannot start {}", binary.display()));
        }
    };
    let reports = BufReader::new(child.stdout.take().context("no pipe")?);
    child.wait().context("cannot wait for the sandbox")?;
    Ok(Starting { reports, dir })
}

impl Starting {
    /// The next report; `None` once the lab is up.
    pub(crate) fn next(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        self.reports
            .read_line(&mut line)
            .context("cannot read the lab's reports")?;
        match serde_json::from_str(&line) {
            Ok(Report::Step(text)) => Ok(Some(text)),
            Ok(Report::Up) => Ok(None),
            Ok(Report::Failed(text)) => {
                self.end();
                bail!("{text}")
            }
            Err(_) => {
                let log =
                    fs::read_to_string(self.dir.path.join("supervisor.log")).unwrap_or_default();
                let last = log
                    .lines()
                    .last()
                    .unwrap_or("it left no message")
                    .to_owned();
                self.end();
                bail!("the lab ended while it started: {last}")
            }
        }
    }

    fn end(&self) {
        if let Err(error) = crate::client::down(&self.dir.name) {
            tracing::warn!(%error, "the lab's remains could not be removed");
        }
    }
}

/// `strait lab sandbox`: leaves the caller's namespaces.
pub(crate) fn sandbox(order: &str) -> Result<ExitCode> {
    let Order { dir, .. } = serde_json::from_str(order).context("not an order for a sandbox")?;
    // The caller may have blocked signals, and children inherit that.
    SigSet::empty().thread_set_mask()?;
    // The first process of a session and group of its own: Ctrl-C in the caller's terminal is not for it.
    let _ = setsid();
    let spaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let (user, group) = (geteuid(), getegid());
    if !user.is_root() || unshare(spaces) == Err(Errno::EPERM) {
        unshare(spaces | CloneFlags::CLONE_NEWUSER).context(
            "cannot make namespaces: run as root, or allow user namespaces (sysctl user.max_user_namespaces, \
             kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
        )?;
        fs::write("/proc/self/setgroups", "deny").context("cannot deny setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {user} 1")).context("cannot map the user")?;
        fs::write("/proc/self/gid_map", format!("0 {group} 1")).context("cannot map the group")?;
    }
    let init = Command::new(SELF)
        .args(["lab", "init", order])
        .spawn()
        .context("cannot start the sandbox's first process")?;
    fs::write(dir.join("pid"), init.id().to_string()).context("cannot write the process number")?;
    Ok(ExitCode::SUCCESS)
}

/// `strait lab init`: process 1 of the sandbox.
pub(crate) fn init(order: &str) -> Result<ExitCode> {
    let Order { dir, options, .. } =
        serde_json::from_str(order).context("not an order for a sandbox")?;
    mounts(&dir)?;
    if options.clocks {
        // libfaketime has something in there for each process, by its number, and leaves it there when that is killed.
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("lab"),
            "/dev/shm",
            Some("tmpfs"),
            safe,
            Some("mode=1777"),
        )
        .context("cannot mount /dev/shm")?;
    }
    let supervisor = Command::new(SELF)
        .args(["lab", "supervisor", order])
        .spawn()
        .context("cannot start the supervisor")?;
    let supervisor = Pid::from_raw(i32::try_from(supervisor.id())?);
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == supervisor => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            Ok(WaitStatus::Signaled(pid, ..)) if pid == supervisor => return Ok(ExitCode::FAILURE),
            Ok(_) | Err(Errno::EINTR) => (),
            Err(error) => return Err(error).context("cannot wait for the supervisor"),
        }
    }
}

/// Private mounts: nothing of them is seen outside. `/run` is empty but for the lab's directory, so that `ip netns` names are the
/// lab's own.
fn mounts(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    let open = |path: &Path| {
        fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))
    };
    let held = [
        (INSIDE, open(dir)?),
        (
            ALL_INSIDE,
            open(
                dir.parent()
                    .context("the lab's directory is no directory")?,
            )?,
        ),
    ];
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("lab"), "/run", Some("tmpfs"), safe, Some("mode=755"))
        .context("cannot mount /run")?;
    for (path, held) in held {
        fs::create_dir_all(path)?;
        let source = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        mount(Some(&source), path, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot mount {path}"))?;
    }
    let plain = safe | MsFlags::MS_NOEXEC;
    // A container may hide parts of /proc and /sys and then allows no new ones: the old ones do, /proc/self and /proc/sys are right.
    if let Err(error) = mount(Some("proc"), "/proc", Some("proc"), plain, none) {
        let _ = writeln!(std::io::stderr(), "keeping the machine's /proc: {error}");
    }
    if let Err(error) = mount(Some("sysfs"), "/sys", Some("sysfs"), plain, none) {
        let _ = writeln!(std::io::stderr(), "keeping the machine's /sys: {error}");
    }
    Ok(())
}
