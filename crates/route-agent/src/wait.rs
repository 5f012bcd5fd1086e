//! Waits until this Node is ready, and does nothing else: Submariner's operator starts an init container for that.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ArgMatches;
use strait_api::node::not_ready;
use strait_api::{Kind, ObjectKey};
use strait_daemon::kube::{Access, cluster_client, describe};
use strait_daemon::objects::get;
use strait_daemon::{Drain, Settings, SettingsError, logs};
use tokio::time::{sleep, timeout};

use crate::settings::{TABLE, WAIT};

/// Time between two looks at the Node (upstream `routeagent_driver/main.go`).
const PERIOD: Duration = Duration::from_secs(1);
/// How long the API server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is said that nothing has changed.
const REMINDER: Duration = Duration::from_secs(60);

/// Whether `SUBMARINER_WAITFORNODE` or its flag asks for it.
pub(crate) fn is_asked(matches: &ArgMatches) -> bool {
    let mut settings = Settings::read(matches, &TABLE);
    settings.bool(WAIT).unwrap_or(false)
}

/// Asks the API server every second, for ever, until the Node's condition `Ready` is true. An API server that is away is
/// waited for too.
///
/// # Errors
/// No node's name, a kubeconfig that can't be read, or a signal to end before the Node is ready.
pub(crate) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let (node, access) = read(matches)?;
    let drain = Drain::on_signals().context("signals can't be received")?;
    let client = cluster_client(&access)
        .await
        .context("client of the cluster's API")?;
    let key = ObjectKey {
        kind: Kind::Node,
        namespace: String::new(),
        name: node,
    };
    let begun = Instant::now();
    let mut told: Option<(String, Instant)> = None;
    loop {
        let answer = tokio::select! {
            answer = timeout(PATIENCE, get(&client, &key)) => answer,
            () = drain.ended() => bail!("asked to end before {key} was ready"),
        };
        let why = match answer {
            Ok(Ok(Some(object))) => match not_ready(&object) {
                None => break,
                Some(why) => why,
            },
            Ok(Ok(None)) => "it is not there".to_owned(),
            Ok(Err(error)) => format!("it can't be read: {}", describe(&error)),
            Err(_) => format!(
                "the API server did not answer within {} s",
                PATIENCE.as_secs()
            ),
        };
        let known = told
            .as_ref()
            .is_some_and(|(last, at)| *last == why && at.elapsed() < REMINDER);
        if !known {
            tracing::info!(node = key.name, %why, "waiting until the Node is ready");
            told = Some((why, Instant::now()));
        }
        tokio::select! {
            () = sleep(PERIOD) => {}
            () = drain.ended() => bail!("asked to end before {key} was ready"),
        }
    }
    let waited_s = begun.elapsed().as_secs();
    tracing::info!(node = key.name, waited_s, "the Node is ready");
    Ok(())
}

/// All that an init container has: which Node, and how to reach the API server.
fn read(matches: &ArgMatches) -> Result<(String, Access), SettingsError> {
    let mut settings = Settings::read(matches, &TABLE);
    logs::init(&mut settings);
    let node = settings.text("NODE_NAME");
    let access = Access::read(&mut settings);
    settings.finish(|| Ok((node?, access?)))
}
