//! The lab itself: builds the machines, starts the processes, and does what it is asked to over the control socket.

mod faults;
mod nodes;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::{Answer, Request, Status};
use crate::faults::Links;
use crate::process::{Processes, Role};
use crate::sandbox::{Order, SELF};
use crate::state::{ALL_INSIDE, INSIDE};
use crate::topology::{Cluster, Node, POD_PORT, Topology};
use crate::{build, clock, cni, environment, netns, objects, probe, process};

use nodes::Boot;

/// What a starting lab reports to whoever started it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Step(String),
    Up,
    Failed(String),
}

#[derive(Debug)]
struct Lab {
    order: Order,
    topology: Topology,
    processes: Processes,
    broker: Mutex<BTreeMap<String, String>>,
    /// The nodes' boots; held while a node is changed.
    boots: Mutex<BTreeMap<String, Boot>>,
    links: Mutex<Links>,
    /// The nodes whose wall clocks are off: seconds before the machine's.
    clocks: Mutex<BTreeMap<String, i64>>,
}

/// `strait lab supervisor`.
pub(crate) fn run(order: &str) -> Result<ExitCode> {
    let order: Order = serde_json::from_str(order).context("not an order for a lab")?;
    let topology = Topology::new(&order.options);
    let attached = order.attached;
    let lab = Arc::new(Lab {
        order,
        topology,
        processes: Processes::default(),
        broker: Mutex::default(),
        boots: Mutex::default(),
        links: Mutex::default(),
        clocks: Mutex::default(),
    });
    if attached {
        std::thread::Builder::new()
            .name("lifeline".to_owned())
            .spawn({
                let remains = Path::new(ALL_INSIDE).join(&lab.order.options.name);
                move || end_with_the_caller(&remains)
            })?;
    }
    let listener = UnixListener::bind(Path::new(INSIDE).join("control.sock"))
        .context("cannot make the control socket")?;
    match lab.up() {
        Ok(()) => report(&Report::Up)?,
        Err(error) => {
            report(&Report::Failed(format!("{error:#}")))?;
            return Ok(ExitCode::FAILURE);
        }
    }
    for stream in listener.incoming() {
        let (stream, lab) = (stream.context("the control socket broke")?, lab.clone());
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || lab.serve(stream))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(report: &Report) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(report)?)?;
    Ok(output.flush()?)
}

/// The pipe to the caller breaks when the caller ends, however it ends.
fn end_with_the_caller(remains: &Path) {
    let output = std::io::stdout();
    loop {
        let mut waited = [PollFd::new(output.as_fd(), PollFlags::empty())];
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) => {
                // The caller may have removed it already.
                let _ = std::fs::remove_dir_all(remains);
                std::process::exit(0)
            }
            Err(nix::errno::Errno::EINTR) => (),
            Err(_) => std::process::exit(1),
        }
    }
}

impl Lab {
    fn up(&self) -> Result<()> {
        let start = Instant::now();
        let step = |text: &str| {
            report(&Report::Step(format!(
                "{text} ({:.2} s)",
                start.elapsed().as_secs_f64()
            )))
        };
        cni::check(&self.topology)?;
        if self.order.options.clocks {
            clock::prepare(self.topology.nodes().map(|node| node.name.as_str()))?;
        }
        build::internet(&self.topology)?;
        let tokens = self
            .topology
            .clusters
            .iter()
            .map(|cluster| Ok((cluster.name.clone(), objects::broker_token(cluster)?)));
        *self.broker.lock().unwrap_or_else(PoisonError::into_inner) =
            tokens.collect::<Result<_>>()?;
        self.api_server("broker")?;
        for cluster in &self.topology.clusters {
            self.api_server(&cluster.control())?;
        }
        for cluster in &self.topology.clusters {
            for node in &cluster.nodes {
                build::node(cluster, node, &self.order.options)?;
                self.pods(cluster, node)?;
            }
        }
        step(&format!(
            "{} nodes and {} pods are connected",
            self.topology.nodes().count(),
            self.topology.pods().count()
        ))?;
        self.objects()?;
        step("the API servers answer")?;
        if self.order.options.agents {
            for node in self.topology.nodes() {
                self.agents(node)?;
            }
        }
        for pod in self.topology.pods() {
            wait_for_pod(&pod.name)?;
        }
        step("the processes are started")
    }

    /// Puts the first objects on all API servers at once.
    fn objects(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let broker = scope.spawn(|| objects::broker("broker"));
            let clusters: Vec<_> = self
                .topology
                .clusters
                .iter()
                .map(|cluster| (cluster, scope.spawn(move || objects::cluster(cluster))))
                .collect();
            let mut done = vec![ended(broker.join()).context("the broker")];
            for (cluster, thread) in clusters {
                let name = &cluster.name;
                done.push(ended(thread.join()).with_context(|| format!("cluster {name}")));
            }
            done.into_iter().collect()
        })
    }

    /// Starts the API server of `place`.
    fn api_server(&self, place: &str) -> Result<()> {
        let cluster = self
            .topology
            .clusters
            .iter()
            .find(|cluster| cluster.control() == place);
        let broker = self.topology.broker();
        let listen = cluster.map_or(broker, Cluster::api_server).to_string();
        let dir = objects::dir(place).display().to_string();
        self.processes.start(
            place,
            Role::Apiserver,
            Path::new(SELF),
            &["apiserver", "--listen", &listen, "--dir", &dir],
            &self.order.environment,
        )
    }

    fn agents(&self, node: &Node) -> Result<()> {
        self.agent(node, Role::RouteAgent, Vec::new())?;
        if node.gateway {
            self.agent(node, Role::Gateway, Vec::new())
        } else {
            Ok(())
        }
    }

    /// That of route agents and gateways.
    fn program(&self) -> &Path {
        let program = self.order.options.program.as_deref();
        program.unwrap_or(Path::new(SELF))
    }

    /// Starts an agent, with these variables besides.
    fn agent(&self, node: &Node, role: Role, more: Vec<(String, String)>) -> Result<()> {
        let mut environment = self.environment(node, role)?;
        environment.extend(more);
        let arguments: &[&str] = &[&role.to_string()];
        self.processes
            .start(&node.name, role, self.program(), arguments, &environment)
    }

    /// Runs an agent's program once more, until it ends.
    fn run(&self, place: &str, role: Role, more: Vec<(String, String)>) -> Result<String> {
        let mut environment = self.environment(self.topology.node(place)?.1, role)?;
        environment.extend(more);
        let mut command = netns::command(place, self.program())?;
        let output = command
            .arg(role.to_string())
            .env_clear()
            .envs(environment)
            .output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        let status = output.status;
        ensure!(
            status.success(),
            "{role} on {place}: {status}: {printed}{errors}"
        );
        Ok(printed)
    }

    fn environment(&self, node: &Node, role: Role) -> Result<Vec<(String, String)>> {
        let cluster = self.topology.cluster(&node.cluster)?;
        let mut environment = self.order.environment.clone();
        environment.extend(environment::of_member(cluster, node));
        match role {
            Role::RouteAgent => environment.extend(environment::of_route_agent()),
            Role::Gateway => {
                let tokens = self.broker.lock().unwrap_or_else(PoisonError::into_inner);
                let broker = environment::Broker {
                    server: self.topology.broker(),
                    token: tokens.get(&cluster.name).cloned().unwrap_or_default(),
                    ca: objects::broker_ca()?,
                };
                environment.extend(environment::of_gateway(
                    &self.order.options,
                    &self.topology,
                    cluster,
                    node,
                    broker,
                ));
            }
            Role::Apiserver | Role::Pod => (),
        }
        if self.order.options.clocks {
            environment.extend(clock::environment(&node.name)?);
        }
        environment.extend(self.order.options.environment.iter().cloned());
        Ok(environment)
    }

    /// The node's CNI and pods come up.
    fn pods(&self, cluster: &Cluster, node: &Node) -> Result<()> {
        build::pods(cluster, node)?;
        node.pods.iter().try_for_each(|pod| self.pod(&pod.name))
    }

    fn pod(&self, name: &str) -> Result<()> {
        let (program, arguments) = (Path::new(SELF), ["lab", "pod-server"]);
        self.processes
            .start(name, Role::Pod, program, &arguments, &[])
    }

    fn start_again(&self, place: &str, role: Role) -> Result<()> {
        self.start_with(place, role, Vec::new())
    }

    fn start_with(&self, place: &str, role: Role, more: Vec<(String, String)>) -> Result<()> {
        match role {
            Role::Apiserver => self.api_server(place),
            Role::Pod => self.pod(place),
            Role::RouteAgent | Role::Gateway => {
                self.agent(self.topology.node(place)?.1, role, more)
            }
        }
    }

    fn known(&self, place: &str, role: Role) -> Result<()> {
        let places = self.processes.places(role);
        ensure!(
            places.iter().any(|known| known == place),
            "no {role} on '{place}'; there is one on {}",
            places.join(", ")
        );
        Ok(())
    }

    /// Where the API server of a cluster is; other names stay as they are.
    fn server_of(&self, name: &str) -> String {
        let cluster = self.topology.clusters.iter().find(|c| c.name == name);
        cluster.map_or_else(|| name.to_owned(), Cluster::control)
    }

    fn answer(self: &Arc<Self>, request: Request) -> Result<Value> {
        match request {
            Request::Status => Ok(serde_json::to_value(Status {
                options: self.order.options.clone(),
                topology: self.topology.clone(),
                broker: self.topology.broker(),
                processes: self.processes.status(),
                impaired: self.impaired(),
            })?),
            Request::Probe(probe) => {
                let names = self.topology.names();
                ensure!(
                    names.contains(&probe.from),
                    "no '{}' in the lab; there are {}",
                    probe.from,
                    names.join(", ")
                );
                let family = probe
                    .family
                    .unwrap_or_else(|| self.topology.families.first());
                let to = self.topology.target_in(family, &probe.to)?;
                // A pod of a node whose CNI is late is not there yet.
                let seen = match netns::find(&probe.from) {
                    Ok(namespace) => namespace.run(|| probe::run(&probe, to))?,
                    Err(error) => Err(error.context(format!("{} does not run", probe.from))),
                };
                Ok(serde_json::to_value(
                    seen.map_err(|error| format!("{error:#}")),
                )?)
            }
            Request::Reboot { node, cni_after_ms } => {
                self.reboot(&node, Duration::from_millis(cni_after_ms))?;
                Ok(Value::Null)
            }
            Request::Cni { node, change } => {
                self.cni(&node, change)?;
                Ok(Value::Null)
            }
            Request::Restart {
                place,
                role,
                environment,
            } => {
                // Any node may become a gateway.
                let becomes = role == Role::Gateway
                    && self.topology.nodes().any(|node| node.name == place)
                    && !self.processes.places(role).contains(&place);
                if !becomes {
                    self.known(&place, role)?;
                    self.processes.stop(&place, role, Signal::SIGTERM)?;
                }
                self.start_with(&place, role, environment)?;
                Ok(Value::Null)
            }
            Request::Kill { what, process } => self.told(self.kill(&what, process)),
            Request::Crash { place, role } => self.told(self.crash(&place, role)),
            Request::Stop { what, process } => self.told(self.stop(&what, process)),
            Request::Trouble { what, trouble } => self.told(self.trouble(&what, &trouble)),
            Request::Clock { node, ahead_s } => self.told(self.clock(&node, ahead_s)),
            Request::Heal { what, process } => self.told(self.heal(what.as_deref(), process)),
            Request::Run {
                place,
                role,
                environment,
            } => {
                self.known(&place, role)?;
                Ok(Value::String(self.run(&place, role, environment)?))
            }
            Request::Usage => Ok(serde_json::to_value(self.processes.usage()?)?),
            Request::Get { place, role, path } => {
                self.known(&place, role)?;
                let port = role
                    .admin_port()
                    .with_context(|| format!("{role} has no pages"))?;
                Ok(Value::String(
                    netns::find(&place)?.run(|| process::get(port, &path))??,
                ))
            }
            Request::Api {
                place,
                method,
                path,
                body,
            } => {
                let place = self.server_of(&place);
                self.known(&place, Role::Apiserver)?;
                objects::request(&place, &method, &path, &body)
            }
            Request::Down => std::process::exit(0),
        }
    }

    fn serve(self: Arc<Self>, stream: UnixStream) {
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        // One connection serves many requests: a client that measures does not pay for connecting.
        while matches!(reader.read_line(&mut line), Ok(length) if length > 0) {
            let answer = serde_json::from_str(&line)
                .context("not a request")
                .and_then(|request| self.answer(request));
            let answer: Answer = answer.map_err(|error| format!("{error:#}"));
            let Ok(text) = serde_json::to_string(&answer) else {
                return;
            };
            if (&stream).write_all(format!("{text}\n").as_bytes()).is_err() {
                return;
            }
            line.clear();
        }
    }
}

fn ended(thread: std::thread::Result<Result<()>>) -> Result<()> {
    thread.map_err(|_| anyhow!("its thread panicked"))?
}

/// Waits until a pod listens.
fn wait_for_pod(name: &str) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, POD_PORT));
    netns::find(name)?.run(|| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            ensure!(
                Instant::now() < deadline,
                "pod {name} does not listen: {error}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    })?
}
