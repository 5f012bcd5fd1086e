//! A running lab, from outside.

mod faults;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::{Answer, CniChange, Request, Status};
use crate::options::{Cni, Options};
use crate::probe::{Probe, Seen};
use crate::process::Role;
use crate::sandbox::{self, Starting};
use crate::state::StateDir;
use crate::topology::Topology;
use crate::usage::Usage;

/// A running lab. One that was started by [`Lab::up`] ends when this is dropped, or when the process ends.
#[derive(Debug)]
pub struct Lab {
    dir: StateDir,
    binary: PathBuf,
    topology: Topology,
    /// Whether nodes have clocks of their own.
    clocks: bool,
    lifeline: Option<Starting>,
}

impl Lab {
    /// Starts a lab that ends with the calling process, with `binary`, a `strait` with its lab, and tells `step` of its progress.
    ///
    /// It returns when all processes are started; see [`Lab::wait_until_ready`].
    ///
    /// # Errors
    /// Why the lab cannot be; nothing of it is left.
    pub fn up(options: &Options, binary: &Path, mut step: impl FnMut(&str)) -> Result<Self> {
        let mut lifeline = sandbox::start(options, true, binary)?;
        while let Some(text) = lifeline.next()? {
            step(&text);
        }
        Ok(Self {
            dir: StateDir::new(&options.name)?,
            binary: binary.to_owned(),
            topology: Topology::new(options),
            clocks: options.clocks,
            lifeline: Some(lifeline),
        })
    }

    /// Starts a lab that goes on until [`down`].
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_detached(options: &Options, binary: &Path, step: impl FnMut(&str)) -> Result<Self> {
        let mut starting = sandbox::start(options, false, binary)?;
        let mut step = step;
        while let Some(text) = starting.next()? {
            step(&text);
        }
        Self::find(&options.name, binary)
    }

    /// The user's running lab `name`.
    ///
    /// # Errors
    /// A sentence that says which labs are running.
    pub fn find(name: &str, binary: &Path) -> Result<Self> {
        let dir = StateDir::new(name)?;
        if !dir.is_running()? {
            let mut running = Vec::new();
            for other in StateDir::all()? {
                if other.is_running()? {
                    running.push(other.name);
                }
            }
            if running.is_empty() {
                bail!(
                    "no lab '{name}' is running, and no other either; 'strait lab up' starts one"
                );
            }
            bail!(
                "no lab '{name}' is running; there are {}",
                running.join(", ")
            );
        }
        let status = status_of(&dir)?;
        Ok(Self {
            dir,
            binary: binary.to_owned(),
            topology: status.topology,
            clocks: status.options.clocks,
            lifeline: None,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.dir.name
    }

    /// Who is where.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Whether nodes have wall clocks of their own.
    pub(crate) fn clocks(&self) -> bool {
        self.clocks
    }

    /// The directory with the logs, one file a process, such as `east-1-route-agent.log`.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.path.join("logs")
    }

    /// The administrator's kubeconfig of a cluster, or of `broker`; its server is reached from inside the lab only.
    #[must_use]
    pub fn kubeconfig(&self, cluster: &str) -> PathBuf {
        let server = if cluster == "broker" {
            cluster.to_owned()
        } else {
            format!("control-{cluster}")
        };
        self.dir.path.join(server).join("admin.kubeconfig")
    }

    /// The lab as it is now.
    ///
    /// # Errors
    /// When the lab does not answer.
    pub fn status(&self) -> Result<Status> {
        status_of(&self.dir)
    }

    /// One try to reach a listener. The inner error is why it was not reached.
    ///
    /// # Errors
    /// When there is no such place or target, or the lab does not answer.
    pub fn probe(&self, probe: &Probe) -> Result<Result<Seen, String>> {
        self.ask(&Request::Probe(probe.clone()))
    }

    /// Tries again and again until `good` holds of what was seen, for at most `limit`.
    ///
    /// # Errors
    /// When `limit` is over: what the last try gave.
    pub fn probe_until(
        &self,
        probe: &Probe,
        limit: Duration,
        good: impl Fn(&Seen) -> bool,
    ) -> Result<Seen> {
        let deadline = Instant::now() + limit;
        loop {
            let last = match self.probe(probe)? {
                Ok(seen) if good(&seen) => return Ok(seen),
                Ok(seen) => format!("the listener saw {}", seen.source),
                Err(error) => error,
            };
            ensure!(
                Instant::now() < deadline,
                "{} → {} after {limit:?}: {last}",
                probe.from,
                probe.to
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every agent is alive and ready, with no condition if `healthy`, for at most `limit`.
    ///
    /// # Errors
    /// When `limit` is over: what is missing.
    pub fn wait_until_ready(&self, limit: Duration, healthy: bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let missing: Vec<String> = self
                .status()?
                .processes
                .iter()
                .filter_map(|process| {
                    crate::status::missing(process, healthy, self.expected(&process.place))
                })
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not ready after {limit:?}: {}",
                missing.join("; ")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Conditions that a place has for good: with a routed CNI there is no CNI address.
    fn expected(&self, place: &str) -> &'static [&'static str] {
        let node = self.topology.nodes().find(|node| node.name == place);
        match node.map(|node| node.cni) {
            Some(Cni::Routed) => &["CniInterfaceNotFound"],
            Some(Cni::Bridge | Cni::Calico | Cni::Plugin { .. }) | None => &[],
        }
    }

    /// Waits until every agent is ready with no condition, and every node, or its pod where a routed CNI gives nodes no address,
    /// reaches a pod of every other cluster in every family, for at most `limit`.
    ///
    /// # Errors
    /// When `limit` is over: what is missing.
    pub fn wait_until_joined(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.wait_until_ready(limit, true)?;
        for node in self.topology.nodes() {
            for other in self
                .topology
                .clusters
                .iter()
                .filter(|other| other.name != node.cluster)
            {
                let pod = other.pods().next().context("a cluster without pods")?;
                for family in self.topology.families.all() {
                    let own = node.pods.first().context("a node without pods")?;
                    let from = node.cni_ip(*family).map_or(&own.name, |_| &node.name);
                    let probe = Probe {
                        timeout_ms: 500,
                        ..Probe::tcp(from, &pod.name).over(*family)
                    };
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.probe_until(&probe, left, |_| true)?;
                }
            }
        }
        Ok(())
    }

    /// Boots a node anew: its processes end, its network is thrown away; its agents start at once, its CNI and pods `cni_after` later.
    ///
    /// # Errors
    /// When there is no such node, or a step failed.
    pub fn reboot(&self, node: &str, cni_after: Duration) -> Result<()> {
        let cni_after_ms = u64::try_from(cni_after.as_millis()).context("that is too late")?;
        self.ask(&Request::Reboot {
            node: node.to_owned(),
            cni_after_ms,
        })
    }

    /// Changes the CNI of a node.
    ///
    /// # Errors
    /// When there is no such node, or a step failed.
    pub fn cni(&self, node: &str, change: CniChange) -> Result<()> {
        self.ask(&Request::Cni {
            node: node.to_owned(),
            change,
        })
    }

    /// Ends a process with SIGTERM, if it runs, and starts it again; a gateway may be started on any node.
    ///
    /// # Errors
    /// When there is none, or it does not end within 10 s.
    pub fn restart(&self, place: &str, role: Role) -> Result<()> {
        self.restart_with(place, role, &[])
    }

    /// The same with these variables besides, for an agent, until it is started again.
    ///
    /// # Errors
    /// As [`Lab::restart`].
    pub fn restart_with(
        &self,
        place: &str,
        role: Role,
        environment: &[(&str, &str)],
    ) -> Result<()> {
        self.ask(&Request::Restart {
            place: place.to_owned(),
            role,
            environment: owned(environment),
        })
    }

    /// Runs an agent's program once more, with its environment and these variables, until it ends; gives what it printed.
    ///
    /// # Errors
    /// When there is none, or it does not end with status 0: what it printed.
    pub fn run(&self, place: &str, role: Role, environment: &[(&str, &str)]) -> Result<String> {
        self.ask(&Request::Run {
            place: place.to_owned(),
            role,
            environment: owned(environment),
        })
    }

    /// What its processes take, those of pods aside; a gateway that has a child is two.
    ///
    /// # Errors
    /// When the lab does not answer.
    pub fn usage(&self) -> Result<Vec<Usage>> {
        self.ask(&Request::Usage)
    }

    /// A page of an agent, such as `/metrics`.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub fn page(&self, place: &str, role: Role, path: &str) -> Result<String> {
        self.ask(&Request::Get {
            place: place.to_owned(),
            role,
            path: path.to_owned(),
        })
    }

    /// Sends a request to the API server of a cluster, or to that of `broker`, as their administrator. `body` is an
    /// object, or null for none; a PATCH is a merge patch.
    ///
    /// # Errors
    /// What the server says, when it is no success.
    pub fn api(&self, place: &str, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.ask(&Request::Api {
            place: place.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            body: body.clone(),
        })
    }

    /// A command that will run on a node, in a pod, or on another machine of the lab.
    #[must_use]
    pub fn command<'a>(&self, place: &str, command: impl IntoIterator<Item = &'a str>) -> Command {
        let mut outer = Command::new(&self.binary);
        outer
            .args(["lab", "exec", "--name", self.name(), place, "--"])
            .args(command);
        outer
    }

    /// Runs a command in the lab, and gives what it printed.
    ///
    /// # Errors
    /// When it does not end with status 0: what it printed as errors.
    pub fn exec(&self, place: &str, command: &[&str]) -> Result<String> {
        let output = self.command(place, command.iter().copied()).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{} on {place}: {}: {}",
            command.join(" "),
            output.status,
            errors.trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        ask(&self.dir, request)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.lifeline.take().is_some()
            && let Err(error) = down(&self.dir.name)
        {
            tracing::warn!(%error, "the lab's remains could not be removed");
        }
    }
}

/// Ends the user's lab `name`, and removes all that it left. Whether it ran.
///
/// # Errors
/// When its directory cannot be removed.
pub fn down(name: &str) -> Result<bool> {
    let dir = StateDir::new(name)?;
    if !dir.is_running()? {
        return Ok(false);
    }
    // The answer to this is the end of the connection; one that does not answer is killed.
    let _ = ask::<()>(&dir, &Request::Down);
    if !ends_within(&dir, Duration::from_millis(500))? {
        kill(Pid::from_raw(i32::try_from(dir.pid()?)?), Signal::SIGKILL)
            .context("cannot kill the lab")?;
        ensure!(
            ends_within(&dir, Duration::from_secs(10))?,
            "lab '{name}' outlives SIGKILL"
        );
    }
    Ok(true)
}

fn ends_within(dir: &StateDir, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    while dir.is_running()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}

fn owned(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    environment.iter().map(owned).collect()
}

fn status_of(dir: &StateDir) -> Result<Status> {
    ask(dir, &Request::Status)
}

fn ask<T: DeserializeOwned>(dir: &StateDir, request: &Request) -> Result<T> {
    let path = dir.path.join("control.sock");
    let stream = UnixStream::connect(&path)
        .with_context(|| format!("lab '{}' does not answer at {}", dir.name, path.display()))?;
    writeln!(&stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let answer: Answer = serde_json::from_str(&line)
        .with_context(|| format!("lab '{}' ended while it was asked", dir.name))?;
    let content = answer.map_err(anyhow::Error::msg)?;
    serde_json::from_value(content).context("the lab is another version of strait")
}
