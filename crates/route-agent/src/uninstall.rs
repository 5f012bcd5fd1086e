//! Removes all that is the route agent's from this node.

use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;
use strait_api::names::NAMESPACE;
use strait_api::{Kind, ObjectKey};
use strait_core::route_agent::{owner, set_back};
use strait_daemon::kube::{Access, cluster_client};
use strait_daemon::objects::{delete, delete_marked};
use strait_daemon::{Settings, logs, uninstall};
use tokio::time::timeout;

use crate::settings::TABLE;

/// How long the API server may take to remove the RouteAgent object, and Calico's IPPools: the node itself is clean by then.
const API_PATIENCE: Duration = Duration::from_secs(2);

/// Whether `SUBMARINER_UNINSTALL` or its flag asks for it. Nothing else needs to be set, or right.
pub(crate) fn is_asked(matches: &ArgMatches) -> bool {
    uninstall::is_asked(&mut Settings::read(matches, &TABLE))
}

/// Removes the node's state, says what it removed, then removes the RouteAgent object and Calico's IPPools for remote
/// subnets if the API server can be reached.
///
/// # Errors
/// What could not be removed; all else is.
pub(crate) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let mut settings = Settings::read(matches, &TABLE);
    logs::init(&mut settings);
    let (done, outcome) = uninstall::clean(owner(), set_back).await;
    let mut out = std::io::stdout().lock();
    for line in &done {
        writeln!(out, "{line}")?;
    }
    if done.is_empty() && outcome.is_ok() {
        writeln!(out, "nothing of the route agent was there")?;
    }
    outcome?;
    let node = settings.raw("NODE_NAME").filter(|n| !n.is_empty());
    let Some(node) = node else { return Ok(()) };
    let key = ObjectKey {
        kind: Kind::RouteAgent,
        namespace: settings
            .raw("SUBMARINER_NAMESPACE")
            .unwrap_or(NAMESPACE)
            .to_owned(),
        name: node.to_owned(),
    };
    let Ok(access) = Access::read(&mut settings) else {
        tracing::warn!(object = %key, "can't be removed: KUBECONFIG or HTTPS_PROXY is wrong");
        return Ok(());
    };
    let client = match cluster_client(&access).await {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, object = %key, "can't be removed");
            return Ok(());
        }
    };
    let own = async {
        let was_there = delete(&client, &key).await?;
        Ok(was_there.then(|| key.clone()).into_iter().collect())
    };
    let pools = delete_marked(&client, Kind::IpPool);
    let (own, pools) = tokio::join!(timeout(API_PATIENCE, own), timeout(API_PATIENCE, pools));
    for (what, gone) in [(key.to_string(), own), ("IPPools".to_owned(), pools)] {
        match gone {
            Ok(Ok(removed)) => {
                for key in removed {
                    writeln!(out, "removed {key}")?;
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, object = what, "can't be removed"),
            Err(_) => {
                tracing::warn!(
                    object = what,
                    "can't be removed: the API server does not answer"
                );
            }
        }
    }
    Ok(())
}
