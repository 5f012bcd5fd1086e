//! The two clients of a process: its own cluster's API and the broker's.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::transport;
use crate::settings::{Noted, Setting, go_bool};
use crate::{Secret, Settings};

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

/// The broker's settings, for a process's table.
pub static BROKER: [Setting; 5] = [
    Setting::new(
        "BROKER_K8S_APISERVER",
        "Host and port of the broker's API server",
        "HOST:PORT without a scheme, such as broker.example.com:6443",
    )
    .required(),
    Setting::new(
        "BROKER_K8S_APISERVERTOKEN",
        "Token for the broker's API",
        "a bearer token",
    )
    .secret()
    .required(),
    Setting::new(
        "BROKER_K8S_REMOTENAMESPACE",
        "Namespace of the clusterset's objects at the broker",
        "the name of a namespace, such as submariner-k8s-broker",
    )
    .required(),
    Setting::new(
        "BROKER_K8S_CA",
        "Certificate authority of the broker's API server; unset: the system's",
        "PEM certificates in base64",
    ),
    Setting::new(
        "BROKER_K8S_INSECURE",
        "Do not verify the broker's certificate",
        "true or false",
    )
    .default("false"),
];

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// `https://HOST:PORT`.
    pub server: http::Uri,
    /// The bearer token.
    pub token: Secret,
    /// PEM certificates to trust; `None` for the system's.
    pub ca: Option<Vec<u8>>,
    /// Whether to take any certificate.
    pub insecure: bool,
    /// Where the clusterset's objects are.
    pub namespace: String,
}

impl BrokerSettings {
    /// Reads the settings of [`BROKER`], which the process's table must hold.
    ///
    /// # Errors
    /// [`Noted`] if any of them is wrong.
    pub fn read(settings: &mut Settings) -> Result<Self, Noted> {
        let server = settings.parse("BROKER_K8S_APISERVER", server);
        let token = settings.parse("BROKER_K8S_APISERVERTOKEN", token);
        let namespace = settings.text("BROKER_K8S_REMOTENAMESPACE");
        let ca = settings.optional("BROKER_K8S_CA", certificates);
        let insecure = settings.optional("BROKER_K8S_INSECURE", go_bool);
        Ok(Self {
            server: server?,
            token: token?,
            ca: ca?,
            insecure: insecure?.unwrap_or(false),
            namespace: namespace?,
        })
    }
}

/// A client of the broker's API. No network access happens here.
///
/// # Errors
/// If the configuration is wrong; never because the server is away.
pub fn broker_client(broker: &BrokerSettings) -> Result<Client, ClientError> {
    let mut config = Config::new(broker.server.clone());
    config.default_namespace.clone_from(&broker.namespace);
    config.accept_invalid_certs = broker.insecure;
    config.root_cert = broker.ca.as_deref().map(|pem| {
        CertificateDer::pem_slice_iter(pem)
            .filter_map(Result::ok)
            .map(|certificate| certificate.to_vec())
            .collect()
    });
    config.auth_info = AuthInfo {
        token: Some(broker.token.expose().to_owned().into()),
        ..AuthInfo::default()
    };
    set_timeouts(&mut config);
    client(config)
}

fn set_timeouts(config: &mut Config) {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    config.write_timeout = Some(WRITE);
}

fn client(config: Config) -> Result<Client, ClientError> {
    static PROVIDER: Once = Once::new();
    // Fails only if somebody else chose one before, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let server = config.cluster_url.to_string();
    transport::connect(config).map_err(|source| ClientError::Client { server, source })
}

fn server(value: &str) -> Result<http::Uri, String> {
    let host = value
        .strip_prefix("https://")
        .unwrap_or(value)
        .trim_end_matches('/');
    if host.contains("://") {
        return Err("only https can reach a broker".to_owned());
    }
    let uri: http::Uri = format!("https://{host}")
        .parse()
        .map_err(|error| format!("is no address: {error}"))?;
    match uri.host() {
        Some(host) if !host.is_empty() => Ok(uri),
        Some(_) | None => Err("has no host".to_owned()),
    }
}

fn token(value: &str) -> Result<Secret, String> {
    let token = value.trim_end();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is no token".to_owned());
    }
    Ok(Secret::new(token))
}

fn certificates(value: &str) -> Result<Vec<u8>, String> {
    let blankless: String = value.split_ascii_whitespace().collect();
    let pem = STANDARD
        .decode(blankless)
        .map_err(|error| format!("is not base64: {error}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Err(error) => Err(format!("is not PEM: {error}")),
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate".to_owned()),
        Ok(_) => Ok(pem),
    }
}

#[cfg(test)]
mod tests;
