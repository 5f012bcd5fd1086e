//! The processes of a lab: the real binary, one process a place and role.

mod residents;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::faults::{Fault, Impaired};
use crate::netns;
use crate::state::INSIDE;
use crate::usage::Usage;
use residents::{child_at, inhabitants, residents, space_of};

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A cluster's or the broker's API server.
    Apiserver,
    /// `strait route-agent`, on every node.
    RouteAgent,
    /// `strait gateway`, on the node with the gateway's label.
    Gateway,
    /// What listens in a pod.
    Pod,
}

impl Role {
    /// Where it answers `/readyz` on its node's loopback interface, if it does.
    #[must_use]
    pub fn admin_port(self) -> Option<u16> {
        match self {
            Self::Gateway => Some(32780),
            Self::RouteAgent => Some(32782),
            Self::Apiserver | Self::Pod => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apiserver => "apiserver",
            Self::RouteAgent => "route-agent",
            Self::Gateway => "gateway",
            Self::Pod => "pod",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "apiserver" => Ok(Self::Apiserver),
            "route-agent" => Ok(Self::RouteAgent),
            "gateway" => Ok(Self::Gateway),
            "pod" => Ok(Self::Pod),
            other => Err(format!(
                "no process '{other}': expected route-agent, gateway, apiserver or pod"
            )),
        }
    }
}

/// A process as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The node, pod or machine on which it runs.
    pub place: String,
    /// What it is for.
    pub role: Role,
    /// Its number within the lab.
    pub pid: u32,
    /// How it ended, if it did, such as `exit status: 1`.
    pub ended: Option<String>,
    /// Whether it was made to stand still.
    #[serde(default)]
    pub stopped: bool,
    /// What its `/readyz` says; `None` when it has none or does not answer.
    pub readiness: Option<Readiness>,
}

/// The body of `/readyz?format=json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Why the process is not ready; `None` when it is.
    #[serde(default)]
    pub not_ready: Option<String>,
    /// Message by condition.
    #[serde(default)]
    pub degraded: BTreeMap<String, String>,
}

type Table = BTreeMap<(String, Role), Process>;

/// All processes of a lab that were started and not stopped on purpose.
#[derive(Debug, Default, Clone)]
pub(crate) struct Processes {
    table: Arc<(Mutex<Table>, Condvar)>,
}

#[derive(Debug, Clone)]
struct Process {
    pid: u32,
    ended: Option<String>,
    /// On purpose.
    killed: bool,
    stopped: bool,
}

impl Process {
    fn new(pid: u32) -> Self {
        Self {
            pid,
            ended: None,
            killed: false,
            stopped: false,
        }
    }

    fn answers(&self) -> bool {
        self.ended.is_none() && !self.stopped
    }
}

impl Processes {
    /// Starts `PROGRAM ARGUMENTS` in `place`, with nothing but the given environment; what it writes goes to the log.
    pub(crate) fn start(
        &self,
        place: &str,
        role: Role,
        program: &Path,
        arguments: &[&str],
        environment: &[(String, String)],
    ) -> Result<()> {
        let key = (place.to_owned(), role);
        if self
            .lock()
            .get(&key)
            .is_some_and(|process| process.ended.is_none())
        {
            bail!("{role} on {place} is already running");
        }
        let log = log_file(place, role)?;
        let mut command: Command = netns::command(place, program)?;
        command
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root");
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {role} on {place}"))?;
        let pid = child.id();
        self.lock().insert(key.clone(), Process::new(pid));
        let table = self.table.clone();
        std::thread::Builder::new()
            .name(format!("{place} {role}"))
            .spawn(move || {
                let ended = match child.wait() {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                let (processes, changed) = &*table;
                let mut processes = processes.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(process) = processes.get_mut(&key).filter(|process| process.pid == pid)
                {
                    process.ended = Some(ended);
                }
                changed.notify_all();
            })?;
        Ok(())
    }

    /// Sends a signal to a process and waits until it has ended.
    pub(crate) fn stop(&self, place: &str, role: Role, signal: Signal) -> Result<()> {
        let key = (place.to_owned(), role);
        let mut processes = self.lock();
        let Some(process) = processes.get_mut(&key) else {
            bail!("no {role} on {place}")
        };
        if process.ended.is_some() {
            return Ok(());
        }
        process.killed = signal == Signal::SIGKILL;
        let child = if process.stopped {
            child_at(place, process.pid)?
        } else {
            None
        };
        // Its waiter needs the lock to take note of the end, so the number is still this process's.
        send(process.pid, signal)?;
        if process.stopped {
            if let Some(child) = child {
                send(child, Signal::SIGCONT)?;
            }
            send(process.pid, Signal::SIGCONT)?;
            process.stopped = false;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while processes
            .get(&key)
            .is_some_and(|process| process.ended.is_none())
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{role} on {place} has not ended 10 s after {signal}");
            }
            processes = self
                .table
                .1
                .wait_timeout(processes, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// Ends the child that does a process's work with SIGKILL; says whether it has one.
    pub(crate) fn crash(&self, place: &str, role: Role) -> Result<bool> {
        let key = (place.to_owned(), role);
        let Some(parent) = self.lock().get(&key).map(|process| process.pid) else {
            bail!("no {role} on {place}")
        };
        let Some(child) = child_at(place, parent)? else {
            return Ok(false);
        };
        send(child, Signal::SIGKILL)?;
        Ok(true)
    }

    /// Makes a process stand still, and the child that does its work, if it has one.
    pub(crate) fn pause(&self, place: &str, role: Role) -> Result<()> {
        self.signal(place, role, Signal::SIGSTOP)
    }

    /// Lets a process that stands still go on.
    pub(crate) fn go_on(&self, place: &str, role: Role) -> Result<()> {
        self.signal(place, role, Signal::SIGCONT)
    }

    fn signal(&self, place: &str, role: Role, signal: Signal) -> Result<()> {
        let mut processes = self.lock();
        match processes.get_mut(&(place.to_owned(), role)) {
            // As above: the number is still this process's.
            Some(process) if process.ended.is_none() => {
                process.stopped = signal == Signal::SIGSTOP;
                // The parent first: it might take a child that stands still for dead.
                send(process.pid, signal)?;
                child_at(place, process.pid)?.map_or(Ok(()), |child| send(child, signal))
            }
            Some(_) => bail!("{role} on {place} has ended"),
            None => bail!("no {role} on {place}"),
        }
    }

    /// Those that were killed or made to stand still.
    pub(crate) fn impaired(&self) -> Vec<Impaired> {
        let of = |((place, role), process): (&(String, Role), &Process)| {
            let fault = if process.ended.is_some() {
                process.killed.then_some(Fault::Killed)
            } else {
                process.stopped.then_some(Fault::Stopped)
            };
            fault.map(|fault| Impaired {
                what: place.clone(),
                process: Some(*role),
                fault,
            })
        };
        self.lock().iter().filter_map(of).collect()
    }

    /// All of them, by where and what they are.
    pub(crate) fn all(&self) -> Vec<(String, Role)> {
        self.lock().keys().cloned().collect()
    }

    /// Kills every process in the namespaces of `places`, those started by `exec` too, and forgets them.
    pub(crate) fn kill_all(&self, places: &[&str]) -> Result<()> {
        let mut spaces = Vec::new();
        for place in places {
            if let Ok(namespace) = netns::find(place) {
                spaces.extend(namespace.inode().map(|inode| format!("net:[{inode}]")));
            }
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let inside = inhabitants(&spaces)?;
            if inside.is_empty() {
                break;
            }
            for pid in inside {
                send(pid, Signal::SIGKILL)?;
            }
            if Instant::now() > deadline {
                bail!("processes on {} outlive SIGKILL", places.join(", "));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.lock()
            .retain(|(place, _), _| !places.contains(&place.as_str()));
        Ok(())
    }

    /// Where processes of `role` were started.
    pub(crate) fn places(&self, role: Role) -> Vec<String> {
        self.lock()
            .keys()
            .filter(|(_, r)| *r == role)
            .map(|(place, _)| place.clone())
            .collect()
    }

    /// The processes with what they say of themselves.
    pub(crate) fn status(&self) -> Vec<ProcessStatus> {
        let processes: Vec<_> = self
            .lock()
            .iter()
            .map(|(key, process)| (key.clone(), process.clone()))
            .collect();
        let ask = |((place, role), process): ((String, Role), Process)| {
            let readiness = process.answers().then(|| readiness(&place, role)).flatten();
            ProcessStatus {
                place,
                role,
                pid: process.pid,
                ended: process.ended,
                stopped: process.stopped,
                readiness,
            }
        };
        processes.into_iter().map(ask).collect()
    }

    /// What they take, those of pods aside; each with its child, if it has one.
    pub(crate) fn usage(&self) -> Result<Vec<Usage>> {
        let alive: Vec<((String, Role), u32)> = self
            .lock()
            .iter()
            .filter(|((_, role), process)| *role != Role::Pod && process.ended.is_none())
            .map(|(key, process)| (key.clone(), process.pid))
            .collect();
        let mut spaces = Vec::new();
        for ((place, _), _) in &alive {
            spaces.push(space_of(place)?);
        }
        let all = residents(&spaces)?;
        let mut usage = Vec::new();
        for ((place, role), pid) in alive {
            let Some(own) = all.iter().find(|one| one.pid == pid) else {
                continue;
            };
            let of = all.iter().filter(|one| one.parent == own.shown);
            for one in [own].into_iter().chain(of) {
                // It may have ended just now.
                if let Some(taken) = Usage::read(&place, role, one.pid != pid, one.pid, one.shown) {
                    usage.push(taken);
                }
            }
        }
        Ok(usage)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What processes of the lab find programs by.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn log_file(place: &str, role: Role) -> Result<File> {
    let dir = PathBuf::from(INSIDE).join("logs");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{place}-{role}.log"));
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(i32::try_from(pid)?), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot send {signal} to {pid}")),
    }
}

/// Asks a process on its node's loopback interface.
fn readiness(place: &str, role: Role) -> Option<Readiness> {
    let port = role.admin_port()?;
    let body = netns::find(place)
        .ok()?
        .run(|| get(port, "/readyz?format=json"))
        .ok()?
        .ok()?;
    serde_json::from_str(&body).ok()
}

/// The body that a process gives for `path`.
pub(crate) fn get(port: u16, path: &str) -> Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(1 << 22).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("not an HTTP answer")?;
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return unchunk(body);
    }
    Ok(body.to_owned())
}

fn unchunk(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (length, more) = rest.split_once("\r\n").context("not a chunk")?;
        let length = usize::from_str_radix(length.trim(), 16).context("not a chunk's length")?;
        if length == 0 {
            return Ok(body);
        }
        body.push_str(more.get(..length).context("a chunk is cut off")?);
        rest = more.get(length + 2..).context("a chunk is cut off")?;
    }
}
