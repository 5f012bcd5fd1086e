//! The route agent as a process: its state in the main loop, and what becomes of a plan beside the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use clap::ArgMatches;
use strait_core::health::Target;
use strait_core::route_agent::flows::FlowRules;
use strait_core::route_agent::leftovers::Leftover;
use strait_core::route_agent::{Account, Input, Plan, State, owner};
use strait_daemon::engine::{Engine, Pass, replace};
use strait_daemon::events::{self, Reporter};
use strait_daemon::http::Admin;
use strait_daemon::kube::cluster_client;
use strait_daemon::{Drain, Heartbeat, Memory, Metrics, Readiness, ping};
use strait_host::Change;
use strait_kernel::Outcome;
use tokio::sync::watch;

use crate::reap::{self, Reaping};
use crate::settings::Configuration;
use crate::{adopt, firewall, flows, follow, inputs, pools, status, uninstall, wait};

/// How often round-trip times are written at most (upstream `routeagent_driver/handlers/healthchecker`).
const HEALTH_REFRESH: Duration = Duration::from_secs(60);

/// Runs until SIGTERM or SIGINT. What it has put into the kernel stays.
///
/// # Errors
/// Wrong settings, or a kernel without netlink; never the absence of an API server, a CNI or a route.
pub async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    if wait::is_asked(matches) {
        return wait::run(matches).await;
    }
    if uninstall::is_asked(matches) {
        return uninstall::run(matches).await;
    }
    let configuration = Configuration::read(matches)?;
    let drain = Drain::on_signals().context("signals can't be received")?;
    let metrics = Metrics::new("route-agent");
    let readiness = Readiness::new("starting", &metrics);
    let heartbeat = Heartbeat::new(Heartbeat::DEADLINE);
    let admin = Admin {
        heartbeat: heartbeat.clone(),
        others: Vec::new(),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
    };
    admin.start(configuration.admin, &drain);
    let client = cluster_client(&configuration.access)
        .await
        .context("client of the cluster's API")?;
    let (sender, inputs) = inputs::start(&client, &configuration.core);
    events::start(
        client.clone(),
        &readiness,
        metrics.clone(),
        Reporter {
            component: "strait-route-agent",
            node: configuration.core.node.clone(),
        },
    );
    firewall::start(configuration.verify, sender.clone(), metrics.clone());
    let leftovers = adopt::start(configuration.verify, sender.clone(), metrics.clone());
    let memory = Memory::start().context("a thread for memory")?;
    let follow = follow::start(&configuration.core, &client, &metrics, sender.clone())?;
    let mut agent = Agent {
        follow,
        pools: pools::start(&client, &sender, metrics.clone()),
        reap: reap::start(sender.clone()),
        health: ping::start(
            configuration.health.pings,
            HEALTH_REFRESH,
            &metrics,
            sender,
            Input::Health,
        )
        .context("a thread for pings")?,
        status: status::start(
            client,
            configuration.verify,
            metrics.clone(),
            memory.clone(),
        ),
        flows: flows::start(metrics.clone()).context("a thread for connections")?,
        leftovers,
        told: Told::default(),
        memory,
    };
    Engine::new(
        State::new(configuration.core),
        owner(),
        inputs,
        readiness,
        metrics,
        heartbeat,
        configuration.verify,
    )
    .await
    .context("netlink")?
    .run(&drain, |pass| agent.carry_out(pass))
    .await;
    Ok(())
}

struct Agent {
    follow: watch::Sender<Option<follow::Nodes>>,
    pools: pools::Pools,
    reap: watch::Sender<Reaping>,
    health: watch::Sender<BTreeSet<Target>>,
    status: watch::Sender<Option<Account>>,
    flows: watch::Sender<Option<FlowRules>>,
    leftovers: watch::Sender<Vec<Leftover>>,
    told: Told,
    memory: Memory,
}

/// What was logged last, so that each change is logged once.
#[derive(Default)]
struct Told {
    role: &'static str,
    cni: BTreeMap<String, String>,
}

impl Agent {
    fn carry_out(&mut self, pass: Pass<Plan>) {
        let Pass {
            mut plan,
            outcome,
            conditions,
        } = pass;
        self.told.tell(&plan);
        replace(&self.follow, plan.nodes);
        replace(&self.health, plan.health);
        replace(&self.pools.keeps, plan.keeps_pools);
        replace(&self.pools.changes, plan.pools);
        replace(
            &self.reap,
            Reaping {
                wanted: !plan.dead_cables.is_empty(),
                counted_on: plan.locked,
            },
        );
        let new_rules = outcome.made.iter().any(|c| matches!(c, Change::Nft(_)));
        if new_rules || *self.flows.borrow() != plan.flows {
            self.flows.send_replace(plan.flows);
        }
        if is_clean(&outcome) {
            for what in &plan.inherited {
                tracing::info!(%what, "taken over from Submariner's route agent");
            }
            replace(&self.leftovers, plan.leftovers);
        }
        if let Some(account) = &mut plan.account {
            account.tell(&conditions);
        }
        replace(&self.status, plan.account);
        self.memory.freed();
    }
}

/// Whether all that was wanted stands: only then what did its work before may go.
fn is_clean(outcome: &Outcome) -> bool {
    outcome.failures.is_empty() && outcome.conflicts.is_empty() && outcome.contended.is_empty()
}

impl Told {
    /// One line for each change of what this node is and has.
    fn tell(&mut self, plan: &Plan) {
        if plan.role != self.role {
            tracing::info!(from = self.role, to = plan.role, "this node's role");
            self.role = plan.role;
        }
        let cni: BTreeMap<String, String> = plan
            .cni
            .iter()
            .map(|(family, (ip, link))| (family.to_string(), format!("{ip} on {link}")))
            .collect();
        if plan.role == "unknown" || cni == self.cni {
            return;
        }
        for (family, address) in &cni {
            match self.cni.get(family) {
                None => tracing::info!(%family, %address, "CNI interface found"),
                Some(old) if old != address => {
                    tracing::info!(%family, %old, %address, "CNI interface changed");
                }
                Some(_) => {}
            }
        }
        for (family, old) in self.cni.iter().filter(|(f, _)| !cni.contains_key(*f)) {
            tracing::warn!(%family, %old, "CNI interface is gone");
        }
        self.cni = cni;
    }
}
