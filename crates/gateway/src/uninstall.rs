//! Removes all that is the gateway's: the cable from this node, and what it has published.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;
use kube::Client;
use strait_api::names::{GATEWAY_LEASE, HELLO_SECRET, NAMESPACE};
use strait_api::{ClusterId, Kind, Object, ObjectKey, valid_name};
use strait_cable::remove_state;
use strait_core::gateway::{other_gateways, owner, uninstalled};
use strait_daemon::hello::remove_secret;
use strait_daemon::kube::{Access, BrokerSettings, broker_client, cluster_client};
use strait_daemon::lock::GatewayLock;
use strait_daemon::member::hostname;
use strait_daemon::objects::{delete, list};
use strait_daemon::{Settings, lease, logs, uninstall};
use tokio::time::timeout;

use crate::settings::{TABLE, state_directory};

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
    let (mut done, outcome) = uninstall::clean(owner(), |_| BTreeMap::new()).await;
    let files = remove_files(matches, &mut done);
    let mut out = std::io::stdout().lock();
    for line in &done {
        writeln!(out, "{line}")?;
    }
    if done.is_empty() && outcome.is_ok() && files.is_ok() {
        writeln!(out, "nothing of the gateway was on this node")?;
    }
    // The cluster knows which objects on the broker are its own, if another has its id, and whether another gateway keeps them.
    let cluster = from_cluster(&mut settings).await;
    let broker = if cluster.others {
        Vec::new()
    } else {
        from_broker(matches, cluster.identity).await
    };
    for line in cluster.lines.into_iter().chain(broker) {
        writeln!(out, "{line}")?;
    }
    outcome?;
    files
}

/// Removes the keys of a WireGuard cable and what else outlives the process; a line for each file.
fn remove_files(matches: &ArgMatches, done: &mut Vec<String>) -> anyhow::Result<()> {
    let (removed, left) = remove_state(&state_directory(matches)?);
    let removed = removed
        .iter()
        .map(|path| format!("removed {}", path.display()));
    done.extend(removed);
    let left = left
        .iter()
        .map(|(path, why)| format!("{}: {why}", path.display()));
    let left: Vec<String> = left.collect();
    anyhow::ensure!(left.is_empty(), "not removed: {}", left.join("; "));
    Ok(())
}

/// What became of the objects in the cluster.
#[derive(Default)]
struct Removed {
    /// A line for each that was removed, and one for what was left.
    lines: Vec<String>,
    /// This cluster's identity.
    identity: Option<String>,
    /// Whether the cluster has other gateways.
    others: bool,
}

/// The Gateway object of this node. Clusters, Endpoints, the Lease and the secret are all gateways': the last one takes them with it.
async fn from_cluster(settings: &mut Settings) -> Removed {
    let mut removed = Removed::default();
    let access = match Access::read(settings) {
        Ok(access) => access,
        Err(_) => {
            tracing::warn!(
                "objects in the cluster can't be removed: KUBECONFIG or HTTPS_PROXY is wrong"
            );
            return removed;
        }
    };
    // Whoever calls it by hand may mean the node only.
    if access.kubeconfig.is_none() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        return removed;
    }
    let namespace = settings.raw("SUBMARINER_NAMESPACE").unwrap_or(NAMESPACE);
    let client = match cluster_client(&access).await {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "objects in the cluster can't be removed");
            return removed;
        }
    };
    let own = ObjectKey {
        kind: Kind::Gateway,
        namespace: namespace.to_owned(),
        name: hostname().map_or_else(String::new, |name| valid_name(&name)),
    };
    let left = vec![
        own.to_string(),
        "if no other gateway is left, Clusters and Endpoints".to_owned(),
        shared(namespace),
    ];
    let mut sweep = Sweep::new("cluster", client, namespace, left);
    let Removed {
        identity, others, ..
    } = &mut removed;
    let work = async |sweep: &mut Sweep| {
        let there = sweep
            .list(&[Kind::Gateway, Kind::Endpoint, Kind::Cluster])
            .await?;
        *identity = strait_core::gateway::identity(&there).map(str::to_owned);
        let names = other_gateways(&there, &own).join(", ");
        *others = !names.is_empty();
        let (gateways, rest): (Vec<Object>, Vec<Object>) = there
            .into_iter()
            .partition(|object| object.key.kind == Kind::Gateway);
        let mut keys: Vec<ObjectKey> = gateways.into_iter().map(|object| object.key).collect();
        keys.retain(|key| *key == own);
        if *others {
            let line = format!("left what is of the cluster's other gateways too: {names}");
            sweep.lines.push(line);
            return sweep.delete(keys, None).await;
        }
        keys.extend(uninstalled(&rest, None, None));
        sweep.delete(keys, Some(shared(namespace))).await?;
        sweep.delete_shared().await
    };
    removed.lines = sweep.run(work).await;
    removed
}

/// This cluster's objects, if it is told where the broker is.
async fn from_broker(matches: &ArgMatches, identity: Option<String>) -> Vec<String> {
    let mut settings = Settings::read(matches, &TABLE);
    let cluster = settings.parse("SUBMARINER_CLUSTERID", str::parse::<ClusterId>);
    let (Ok(broker), Ok(cluster)) = (BrokerSettings::read(&mut settings), cluster) else {
        return Vec::new();
    };
    let client = match broker_client(&broker) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "objects on the broker can't be removed");
            return Vec::new();
        }
    };
    let left = vec![format!("Clusters and Endpoints of {cluster}")];
    let mut sweep = Sweep::new("broker", client, &broker.namespace, left);
    let work = async |sweep: &mut Sweep| {
        let there = sweep.list(&[Kind::Endpoint, Kind::Cluster]).await?;
        let keys = uninstalled(&there, Some(&cluster), identity.as_deref());
        sweep.delete(keys, None).await
    };
    sweep.run(work).await
}

/// What gateways of a cluster have together, beside Clusters and Endpoints.
fn shared(namespace: &str) -> String {
    format!("Lease {namespace}/{GATEWAY_LEASE} and Secret {namespace}/{HELLO_SECRET}")
}

/// Removes objects from a server.
struct Sweep {
    server: &'static str,
    client: Client,
    namespace: String,
    /// What was removed.
    lines: Vec<String>,
    /// What is still to go.
    left: Vec<String>,
}

impl Sweep {
    fn new(server: &'static str, client: Client, namespace: &str, left: Vec<String>) -> Self {
        Self {
            server,
            client,
            namespace: namespace.to_owned(),
            lines: Vec::new(),
            left,
        }
    }

    /// Does this, as far as the server answers in time; what was done, and what was not.
    async fn run(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> Vec<String> {
        let why = match timeout(API_PATIENCE, work(self)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer within {API_PATIENCE:?}")),
        };
        let mut lines = std::mem::take(&mut self.lines);
        lines.extend(why.map(|why| {
            let (server, left) = (self.server, self.left.join("; "));
            format!("not removed from the {server} ({why}): {left}")
        }));
        lines
    }

    async fn list(&self, kinds: &[Kind]) -> anyhow::Result<Vec<Object>> {
        let mut there = Vec::new();
        for kind in kinds {
            there.extend(list(&self.client, *kind, &self.namespace).await?);
        }
        Ok(there)
    }

    /// Removes these; `after` is what is to go after them.
    async fn delete(&mut self, keys: Vec<ObjectKey>, after: Option<String>) -> anyhow::Result<()> {
        self.left = keys.iter().map(ToString::to_string).chain(after).collect();
        for key in keys {
            let there_was = delete(&self.client, &key).await?;
            self.gone(&key.to_string(), there_was);
        }
        Ok(())
    }

    /// Removes the Lease and the secret.
    async fn delete_shared(&mut self) -> anyhow::Result<()> {
        let lease = format!("Lease {}/{GATEWAY_LEASE}", self.namespace);
        let secret = format!("Secret {}/{HELLO_SECRET}", self.namespace);
        self.left = vec![lease.clone(), secret.clone()];
        let there_was = lease::remove(&self.client, &self.namespace).await?;
        self.gone(&lease, there_was);
        let there_was = remove_secret(&self.client, &self.namespace).await?;
        self.gone(&secret, there_was);
        Ok(())
    }

    fn gone(&mut self, what: &str, there_was: bool) {
        self.left.retain(|left| left != what);
        if there_was {
            self.lines
                .push(format!("removed {what} from the {}", self.server));
        }
    }
}
