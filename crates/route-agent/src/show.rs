//! `strait plan` and `strait diff`: what the route agent would have, and what it would change, without changing anything.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};
use futures::StreamExt;
use serde::Serialize;
use strait_core::route_agent::leftovers::{Leftover, names};
use strait_core::route_agent::{Input, Plan, State, owner};
use strait_core::{Machine, ObjectChange, Time};
use strait_daemon::kube::cluster_client;
use strait_daemon::settings::command as settings_command;
use strait_host::Difference;
use strait_kernel::{Kernel, Reconciler};

use crate::settings::{Configuration, TABLE};
use crate::{inputs, pools};

/// The command line of `strait plan`.
#[must_use]
pub fn plan_command() -> Command {
    with_options(
        settings_command(
            "plan",
            "Prints what the route agent of this node wants, as JSON",
            &TABLE,
        ),
        "Reads this host and the cluster's API with the settings of `strait route-agent`, and changes nothing.\n\n\
         Example:\n  strait plan --kubeconfig /etc/kubernetes/admin.conf --node-name worker-1 \\\n    \
         --submariner-clusterid east --submariner-clustercidr 10.42.0.0/16",
    )
}

/// The command line of `strait diff`.
#[must_use]
pub fn diff_command() -> Command {
    with_options(
        settings_command(
            "diff",
            "Prints what the route agent of this node would change now",
            &TABLE,
        ),
        "Reads this host and the cluster's API with the settings of `strait route-agent`, and changes nothing.\n\
         Exits with 0 if there is nothing to change, with 1 if there is, with 2 if that can't be told.\n\n\
         Example:\n  strait diff --output json --node-name worker-1 --submariner-clusterid east \\\n    \
         --submariner-clustercidr 10.42.0.0/16",
    )
}

fn with_options(command: Command, help: &'static str) -> Command {
    command
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("SECONDS")
                .default_value("10")
                .value_parser(value_parser!(u64))
                .help("How long to wait for the API's lists"),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_parser(["text", "json"])
                .default_value("text")
                .help("How to print changes; a plan is always JSON"),
        )
        .after_help(help)
}

/// Runs `strait plan`.
///
/// # Errors
/// Wrong settings, an unreadable kernel, or lists that do not come in time.
pub async fn plan(matches: &ArgMatches) -> anyhow::Result<()> {
    let (plan, _) = look(matches).await?;
    print(&json(&plan)?)
}

/// Runs `strait diff`; whether there is a difference.
///
/// # Errors
/// Wrong settings, an unreadable kernel, or lists that do not come in time.
pub async fn diff(matches: &ArgMatches) -> anyhow::Result<bool> {
    let (plan, host) = look(matches).await?;
    let difference = Everything {
        host,
        pools: plan.pools,
        leftovers: plan.leftovers,
    };
    if matches
        .get_one::<String>("output")
        .is_some_and(|o| o == "json")
    {
        print(&json(&difference)?)?;
    } else {
        print(&difference.text()?)?;
    }
    Ok(!difference.is_empty())
}

/// All that would change.
#[derive(Serialize)]
struct Everything {
    #[serde(flatten)]
    host: Difference,
    /// Of Calico's IPPools.
    pools: Vec<ObjectChange>,
    /// What Submariner's route agent left and would go.
    leftovers: Vec<Leftover>,
}

impl Everything {
    fn is_empty(&self) -> bool {
        self.host.changes.is_empty()
            && self.host.conflicts.is_empty()
            && self.pools.is_empty()
            && self.leftovers.is_empty()
    }

    /// A line for each, as it would be done in this order.
    fn text(&self) -> serde_json::Result<String> {
        let mut lines: Vec<(&str, String)> = Vec::new();
        let conflicts = self.host.conflicts.iter();
        lines.extend(conflicts.map(|conflict| ("conflict", conflict.to_string())));
        for change in &self.host.changes {
            lines.push((change.object(), serde_json::to_string(change)?));
        }
        for change in &self.pools {
            lines.push(("ippool", serde_json::to_string(change)?));
        }
        let leftovers = self.leftovers.iter();
        lines.extend(leftovers.map(|what| ("leftover", what.to_string())));
        if lines.is_empty() {
            return Ok("nothing to change\n".to_owned());
        }
        let lines = lines
            .iter()
            .map(|(object, what)| format!("{object:<9} {what}\n"));
        Ok(lines.collect())
    }
}

async fn look(matches: &ArgMatches) -> anyhow::Result<(Plan, Difference)> {
    let configuration = Configuration::read(matches)?;
    let client = cluster_client(&configuration.access)
        .await
        .context("client of the cluster's API")?;
    let begun = Instant::now();
    let (_, mut inputs) = inputs::start(&client, &configuration.core);
    let mut state = State::new(configuration.core);
    let mut kernel = Kernel::connect().await.context("netlink")?;
    match kernel.leftovers(&names()).await {
        Ok(found) => state.apply(Input::Leftovers(found), Time(begun.elapsed())),
        Err(error) => tracing::warn!(%error, "what Submariner left can't be seen"),
    }
    let mut reconciler = Reconciler::new(kernel, owner());
    let host = reconciler.observe().await.context("the kernel's state")?;
    state.apply(Input::Host(host), Time(begun.elapsed()));
    let timeout = Duration::from_secs(matches.get_one("timeout").copied().unwrap_or(10));
    let mut pools_asked = false;
    loop {
        let plan = state.plan();
        if plan.keeps_pools && !pools_asked {
            pools_asked = true;
            let mut pools = std::pin::pin!(pools::events(&client));
            let left = timeout.saturating_sub(begun.elapsed());
            let first = tokio::time::timeout(left, pools.next()).await;
            state.apply(Input::Pools(first.ok().flatten()), Time(begun.elapsed()));
            continue;
        }
        let in_time = begun.elapsed() < timeout;
        if plan.account.is_some() && !(in_time && state.awaits_agents()) {
            let difference = reconciler.pending(&plan.wanted).unwrap_or_default();
            return Ok((plan, difference));
        }
        let left = timeout.saturating_sub(begun.elapsed());
        match tokio::time::timeout(left, inputs.recv()).await {
            Ok(Some(input)) => state.apply(input, Time(begun.elapsed())),
            // What can be told without them is told.
            Err(_) if plan.account.is_some() => {}
            Ok(None) | Err(_) => {
                let why: Vec<String> = plan.conditions.iter().map(ToString::to_string).collect();
                anyhow::bail!(
                    "not all lists came within {} s: {}",
                    timeout.as_secs(),
                    why.join("; ")
                );
            }
        }
    }
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Writes to standard output; a closed pipe is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}
