//! The client of a process's own cluster, and what every client is made with.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

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
///
/// No network access happens here; the service account's token and CA are read anew when they change.
///
/// # Errors
/// If the configuration is wrong; never because the server is away.
pub async fn cluster_client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        None => Config::incluster().map_err(ClientError::InCluster)?,
        Some(path) => {
            let failed = |source| ClientError::Kubeconfig {
                path: path.display().to_string(),
                source,
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
    };
    set_timeouts(&mut config);
    client(config)
}

pub(super) fn set_timeouts(config: &mut Config) {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    config.write_timeout = Some(WRITE);
}

pub(super) fn client(config: Config) -> Result<Client, ClientError> {
    static PROVIDER: Once = Once::new();
    // Fails only if somebody else chose one before, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let server = config.cluster_url.to_string();
    transport::connect(config).map_err(|source| ClientError::Client { server, source })
}
