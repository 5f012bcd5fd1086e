//! Removes all that is the gateway's: the cable from this node, and what it has published.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use kube::Client;
use strait_api::names::NAMESPACE;
use strait_api::{ClusterId, Kind, Object, ObjectKey, valid_name};
use strait_core::gateway::{identity, owner, uninstalled};
use strait_daemon::kube::{BrokerSettings, broker_client, cluster_client};
use strait_daemon::lock::GatewayLock;
use strait_daemon::member::hostname;
use strait_daemon::objects::{delete, list};
use strait_daemon::{Settings, logs, uninstall};

use crate::settings::TABLE;

/// How long an API server may take: the node itself is clean by then.
const API_PATIENCE: Duration = Duration::from_secs(2);

/// How long a gateway may take to end.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);

/// Whether `SUBMARINER_UNINSTALL` or its flag asks for it. Nothing else needs to be set, or right.
pub(crate) fn is_asked(matches: &ArgMatches) -> bool {
    uninstall::is_asked(&mut Settings::read(matches, &TABLE))
}

/// Removes the cable, says what it removed, then removes the objects from the API servers that can be reached.
///
/// # Errors
/// What of the node could not be removed, all else is; or that a gateway still runs.
pub(crate) async fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let mut settings = Settings::read(matches, &TABLE);
    logs::init(&mut settings);
    // Held until the end, so that none starts meanwhile.
    let lock = GatewayLock::within(LOCK_PATIENCE).await;
    anyhow::ensure!(
        !matches!(lock, Ok(None)),
        "a gateway still runs on this node: end it first"
    );
    let (done, outcome) = uninstall::clean(owner(), |_| BTreeMap::new()).await;
    let mut out = std::io::stdout().lock();
    for line in &done {
        writeln!(out, "{line}")?;
    }
    if done.is_empty() && outcome.is_ok() {
        writeln!(out, "nothing of the gateway was on this node")?;
    }
    // The cluster knows which objects on the broker are its own, if another has its id.
    let (local, identity) = from_cluster(&settings).await;
    let broker = from_broker(matches, identity.as_deref()).await;
    for line in local.into_iter().chain(broker) {
        writeln!(out, "{line}")?;
    }
    outcome?;
    Ok(())
}

/// The Gateway object of this node, and all Clusters and Endpoints; also this cluster's identity.
async fn from_cluster(settings: &Settings) -> (Vec<String>, Option<String>) {
    let kubeconfig = settings.raw("KUBECONFIG").filter(|k| !k.is_empty());
    // Whoever calls it by hand may mean the node only.
    if kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        return Default::default();
    }
    let namespace = settings.raw("SUBMARINER_NAMESPACE").unwrap_or(NAMESPACE);
    let client = match cluster_client(kubeconfig.map(PathBuf::from).as_deref()).await {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "objects in the cluster can't be removed");
            return Default::default();
        }
    };
    let gateway = hostname().map(|name| ObjectKey {
        kind: Kind::Gateway,
        namespace: namespace.to_owned(),
        name: valid_name(&name),
    });
    let all = |there: &[Object]| uninstalled(there, None, None);
    remove("cluster", &client, namespace, all, gateway).await
}

/// This cluster's objects, if it is told where the broker is.
async fn from_broker(matches: &ArgMatches, identity: Option<&str>) -> Vec<String> {
    let mut settings = Settings::read(matches, &TABLE);
    let cluster = settings.parse("SUBMARINER_CLUSTERID", str::parse::<ClusterId>);
    let (Ok(broker), Ok(cluster)) = (BrokerSettings::read(&mut settings), cluster) else {
        return Vec::new();
    };
    match broker_client(&broker) {
        Ok(client) => {
            let own = |there: &[Object]| uninstalled(there, Some(&cluster), identity);
            let removed = remove("broker", &client, &broker.namespace, own, None);
            removed.await.0
        }
        Err(error) => {
            tracing::warn!(%error, "objects on the broker can't be removed");
            Vec::new()
        }
    }
}

/// Removes objects from a server, as far as it answers in time; a line for each. Also the identity of the cluster that is found there.
async fn remove(
    server: &'static str,
    client: &Client,
    namespace: &str,
    which: impl Fn(&[Object]) -> Vec<ObjectKey>,
    first: Option<ObjectKey>,
) -> (Vec<String>, Option<String>) {
    let mut lines = Vec::new();
    let mut found = None;
    let removed = tokio::time::timeout(API_PATIENCE, async {
        let mut there = Vec::new();
        for kind in [Kind::Gateway, Kind::Endpoint, Kind::Cluster] {
            there.extend(list(client, kind, namespace).await?);
        }
        found = identity(&there).map(str::to_owned);
        let gateway = first.filter(|key| there.iter().any(|o| o.key == *key));
        there.retain(|object| object.key.kind != Kind::Gateway);
        for key in gateway.into_iter().chain(which(&there)) {
            if delete(client, &key).await? {
                lines.push(format!("removed {key} from the {server}"));
            }
        }
        anyhow::Ok(())
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(server, %error, "not all objects can be removed"),
        Err(_) => tracing::warn!(server, "does not answer: not all objects could be removed"),
    }
    (lines, found)
}
