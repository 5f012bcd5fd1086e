//! The client of a process's own cluster, and what every client is made with.

use std::sync::Once;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::proxy::{Access, Proxies};
use super::transport;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may be silent. A watch is asked to end after 290 s, so this is longer.
const READ: Duration = Duration::from_secs(300);

/// How long a write may take.
const WRITE: Duration = Duration::from_secs(30);

/// Why a client could not be made. None of these is a server that is away.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig can't be read or lacks something.
    #[error("cannot use the kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// No kubeconfig was named, and this is no pod with a service account.
    #[error("KUBECONFIG is not set and there is no service account of a pod: {0}")]
    InCluster(#[source] kube::config::InClusterError),
    /// The proxy that a kubeconfig names can't be used.
    #[error("proxy-url in {path} {problem}; expected http://[USER:PASSWORD@]HOST[:PORT]")]
    Proxy {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The client can't be made from what is configured, such as a CA that is no certificate.
    #[error("cannot make a client for {server}: {source}")]
    Client {
        /// The server's URL.
        server: String,
        /// What is wrong.
        source: kube::Error,
    },
}

/// A client of this cluster's API: by the kubeconfig file if there is one, else by the pod's service account.
/// A proxy that the kubeconfig names goes before those of the process.
///
/// No network access happens here; the service account's token and CA are read anew when they change.
///
/// # Errors
/// If the configuration is wrong; never because the server is away.
pub async fn cluster_client(access: &Access) -> Result<Client, ClientError> {
    let mut proxies = access.proxies.clone();
    let mut config = match &access.kubeconfig {
        None => Config::incluster().map_err(ClientError::InCluster)?,
        Some(path) => {
            let failed = |source| ClientError::Kubeconfig {
                path: path.display().to_string(),
                source,
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            if let Some(url) = proxy_url(&file) {
                let wrong = |problem| ClientError::Proxy {
                    path: path.display().to_string(),
                    problem,
                };
                proxies = Proxies::new(url, "").map_err(wrong)?;
            }
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
    };
    set_timeouts(&mut config);
    client(config, &proxies)
}

/// The proxy of the cluster that is the current one in a kubeconfig.
fn proxy_url(file: &Kubeconfig) -> Option<&str> {
    let context = file.current_context.as_deref()?;
    let named = file.contexts.iter().find(|one| one.name == context)?;
    let cluster = &named.context.as_ref()?.cluster;
    let named = file.clusters.iter().find(|one| one.name == *cluster)?;
    named.cluster.as_ref()?.proxy_url.as_deref()
}

/// A client of any site that speaks HTTP over TLS, `https://HOST[:PORT]`; `roots` are certificates to trust (DER), or the system's. Nothing is tried
/// twice, and it is for the caller to wait no longer than he wants.
///
/// # Errors
/// If the configuration is wrong; never because the site is away.
pub fn site_client(
    site: http::Uri,
    roots: Option<Vec<Vec<u8>>>,
    proxies: &Proxies,
) -> Result<Client, ClientError> {
    let mut config = Config::new(site);
    config.root_cert = roots;
    config.default_retry = false;
    client(config, proxies)
}

pub(super) fn set_timeouts(config: &mut Config) {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    config.write_timeout = Some(WRITE);
}

pub(super) fn client(config: Config, proxies: &Proxies) -> Result<Client, ClientError> {
    static PROVIDER: Once = Once::new();
    // Fails only if somebody else chose one before, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let server = config.cluster_url.to_string();
    transport::connect(config, proxies).map_err(|source| ClientError::Client { server, source })
}
