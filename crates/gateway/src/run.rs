//! The gateway as a process: its state in the main loop, and what it does with a plan beside the kernel.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::ArgMatches;
use strait_cable::Rotation;
use strait_core::ObjectChange;
use strait_core::discovery::Wanted;
use strait_core::gateway::public::Ask;
use strait_core::gateway::{Input, Known, Plan, State, owner, tell};
use strait_core::health::Target;
use strait_daemon::engine::{Engine, Pass, channel, replace};
use strait_daemon::events::{self, Reporter};
use strait_daemon::http::Admin;
use strait_daemon::kube::{broker_client, cluster_client};
use strait_daemon::{Drain, Metrics, Readiness, lock, natt, ping};
use strait_host::Change;
use tokio::sync::watch;

use crate::cable::Cable;
use crate::gauges::Gauges;
use crate::held::{self, Part};
use crate::settings::{Configuration, ROTATE_KEY, state_directory};
use crate::written::{self, Server};
use crate::{election, inputs, pod, public, status, uninstall};

/// How many inputs wait for the main loop before the watches wait.
const QUEUE: usize = 1024;
/// Time between two passes over the kernel when nothing happens.
const VERIFY: Duration = Duration::from_secs(60);
/// How often round-trip times are told.
const HEALTH_REFRESH: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. What is published for others stays, and so does a cable of the kernel's: a restart leaves no gap. A WireGuard
/// device in this process outlives only the process's death, in the hands of a parent, which also runs this.
///
/// # Errors
/// Wrong settings, or a kernel without netlink; never the absence of an API server, of the broker or of a route.
pub async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    if uninstall::is_asked(matches) {
        return uninstall::run(matches).await.map(|()| ExitCode::SUCCESS);
    }
    if matches.get_flag(ROTATE_KEY) {
        return rotate_key(matches).map(|()| ExitCode::SUCCESS);
    }
    let configuration = Configuration::read(matches)?;
    let mut held = match &configuration.cable {
        Some(settings) => match held::part(settings).await? {
            Part::Gateway(held) => held,
            Part::Ended(code) => return Ok(code),
        },
        None => None,
    };
    let drain = Drain::on_signals().context("signals can't be received")?;
    let metrics = Metrics::new("gateway");
    let readiness = Readiness::new("starting", &metrics);
    let heart = |part| held::heart(held.as_ref(), part).context("the way to the parent process");
    let heartbeat = heart("main loop")?;
    let cable_heart = heart("cable")?;
    let has_cable = configuration.cable.is_some();
    let admin = Admin {
        heartbeat: heartbeat.clone(),
        others: has_cable
            .then(|| ("cable", cable_heart.clone()))
            .into_iter()
            .collect(),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
    };
    admin.start(configuration.admin, &drain);
    let cluster = cluster_client(&configuration.access)
        .await
        .context("client of the cluster's API")?;
    let proxies = configuration.access.proxies;
    let broker = broker_client(&configuration.broker).context("client of the broker's API")?;
    let (sender, inputs) = channel(QUEUE);
    inputs::start(&cluster, &broker, &configuration.core, &sender);
    events::start(
        cluster.clone(),
        &readiness,
        metrics.clone(),
        Reporter {
            component: "strait-gateway",
            node: configuration.core.node.clone(),
        },
    );
    let health_results = sender.clone();
    let to_cable = sender.clone();
    let discovery = natt::start(&metrics, sender.clone(), Input::Paths);
    let namespace = configuration.core.namespace.clone();
    // The process goes on until it has handed over.
    let over = Drain::new();
    let election = election::start(
        configuration.election,
        &cluster,
        &namespace,
        &metrics,
        election::Process {
            drain: &drain,
            over: &over,
            heart: heartbeat.clone(),
            slate: held.as_mut().and_then(|held| held.slate.take()),
        },
        sender.clone(),
    )?;
    let pod = configuration.pod.map(|pod| {
        let node = configuration.core.node.clone();
        pod::start(cluster.clone(), &namespace, pod, node, metrics.clone())
    });
    let public = public::start(cluster.clone(), namespace, proxies, sender.clone());
    let writer = |server, client| written::start(server, client, metrics.clone(), sender.clone());
    let gauges = Gauges::start(&metrics);
    let gateway = Gateway {
        election,
        pod,
        discovery,
        public,
        health: ping::start(
            configuration.health.pings,
            HEALTH_REFRESH,
            &metrics,
            health_results,
            Input::Health,
        )
        .context("a thread for pings")?,
        status: status::start(cluster.clone(), metrics.clone(), gauges.clone()),
        local: writer(Server::Cluster, cluster),
        broker: writer(Server::Broker, broker),
        // Before anything is in the kernel, lest the route agent take it for what a dead gateway left.
        cable: {
            lock::hold().await;
            let start = |settings| {
                Cable::start(
                    settings,
                    held,
                    cable_heart,
                    metrics.clone(),
                    gauges,
                    to_cable,
                )
            };
            let cable = configuration.cable.map(start);
            cable.transpose().context("a thread for the cable")?
        },
    };
    Engine::new(
        State::new(configuration.core),
        owner(),
        inputs,
        readiness,
        metrics,
        heartbeat,
        VERIFY,
    )
    .await
    .context("netlink")?
    .run(&over, |pass| gateway.carry_out(pass))
    .await;
    gateway.status.remove().await;
    Ok(ExitCode::SUCCESS)
}

/// Asks the gateway of this node for another WireGuard key, whether it runs just now or not.
fn rotate_key(matches: &ArgMatches) -> anyhow::Result<()> {
    let directory = state_directory(matches)?;
    let next = Rotation::ask(&directory)?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "the next public key is {next}; the gateway takes it when other clusters have been told"
    )?;
    Ok(())
}

struct Gateway {
    election: watch::Sender<Option<Known>>,
    pod: Option<watch::Sender<Option<bool>>>,
    discovery: watch::Sender<Wanted>,
    public: watch::Sender<Ask>,
    health: watch::Sender<BTreeSet<Target>>,
    status: status::Status,
    local: watch::Sender<Vec<ObjectChange>>,
    broker: watch::Sender<Vec<ObjectChange>>,
    cable: Option<Cable>,
}

impl Gateway {
    fn carry_out(&self, pass: Pass<Plan>) {
        let mut plan = pass.plan;
        if let Some(cable) = &self.cable {
            let made = |change: &Change| matches!(change, Change::CreateLink(..));
            cable.want(
                plan.tunnels,
                plan.key_step,
                pass.outcome.made.iter().any(made),
            );
        }
        replace(&self.election, plan.election);
        if let Some(pod) = &self.pod {
            replace(pod, plan.active);
        }
        if let Some(wanted) = plan.discovery {
            replace(&self.discovery, wanted);
        }
        replace(&self.public, plan.public);
        replace(&self.health, plan.health);
        replace(&self.local, plan.local);
        replace(&self.broker, plan.broker);
        if let Some(object) = &mut plan.gateway {
            tell(object, &pass.conditions);
            replace(&self.status.wanted, plan.gateway);
        }
    }
}
