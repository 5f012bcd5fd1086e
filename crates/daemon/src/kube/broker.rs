//! The broker's API: its settings, and a client that follows what is in a mounted Secret.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tower::service_fn;

use super::client::{ClientError, client, set_timeouts};
use super::proxy::Proxies;
use crate::settings::{Noted, Setting, go_bool};
use crate::{Secret, Settings};

/// Where the operator mounts Secrets (upstream admiral `syncer/broker`).
const SECRETS: &str = "/run/secrets/submariner.io";

/// The least time between two looks at the files, which come with requests.
const LOOK: Duration = Duration::from_secs(1);

/// The broker's settings, for a process's table.
pub static BROKER: [Setting; 6] = [
    Setting::new(
        "BROKER_K8S_APISERVER",
        "Host and port of the broker's API server",
        "HOST:PORT without a scheme, such as broker.example.com:6443",
    )
    .required(),
    Setting::new(
        "BROKER_K8S_APISERVERTOKEN",
        "Token for the broker's API; required without BROKER_K8S_SECRET",
        "a bearer token",
    )
    .secret(),
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
    Setting::new(
        "BROKER_K8S_SECRET",
        "Where token and certificate authority (ca.crt) of the broker are kept, which are read anew when they change; goes before the \
         variables",
        "the name of a Secret that is mounted below /run/secrets/submariner.io, or the path of a directory",
    ),
];

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// `https://HOST:PORT`.
    pub server: http::Uri,
    /// The directory of a mounted Secret, whose files `token` and `ca.crt` go before the two below.
    pub files: Option<PathBuf>,
    /// The bearer token; there is one without a directory.
    pub token: Option<Secret>,
    /// PEM certificates to trust; `None` for the system's.
    pub ca: Option<Vec<u8>>,
    /// Whether to take any certificate.
    pub insecure: bool,
    /// Where the clusterset's objects are.
    pub namespace: String,
    /// The proxies.
    pub proxies: Proxies,
}

impl BrokerSettings {
    /// Reads the settings of [`BROKER`], which the process's table must hold.
    ///
    /// # Errors
    /// [`Noted`] if any of them is wrong.
    pub fn read(settings: &mut Settings) -> Result<Self, Noted> {
        let server = settings.parse("BROKER_K8S_APISERVER", server);
        let files = settings.optional("BROKER_K8S_SECRET", directory);
        let name = "BROKER_K8S_APISERVERTOKEN";
        let token = match &files {
            Ok(Some(_)) => settings.optional(name, token),
            Ok(None) | Err(_) => settings.parse(name, token).map(Some),
        };
        let namespace = settings.text("BROKER_K8S_REMOTENAMESPACE");
        let ca = settings.optional("BROKER_K8S_CA", certificates);
        let insecure = settings.optional("BROKER_K8S_INSECURE", go_bool);
        let proxies = Proxies::read(settings);
        Ok(Self {
            server: server?,
            files: files?,
            token: token?,
            ca: ca?,
            insecure: insecure?.unwrap_or(false),
            namespace: namespace?,
            proxies: proxies?,
        })
    }
}

/// A client of the broker's API. No network access happens here. Of a mounted Secret, token and CA are read anew when they change; a
/// watch that is under way goes on with what it began with.
///
/// # Errors
/// If the configuration is wrong; never because the server is away.
pub fn broker_client(broker: &BrokerSettings) -> Result<Client, ClientError> {
    let Some(files) = broker.files.clone() else {
        return connect(broker, &Credentials::literal(broker));
    };
    let used = match Credentials::read(broker, &files) {
        Ok(there) => there,
        Err(why) => {
            tracing::warn!(%why, "the broker's Secret can't be used; it is tried again");
            Credentials::literal(broker)
        }
    };
    let current = Current {
        broker: broker.clone(),
        files,
        client: connect(broker, &used)?,
        used,
        looked: Instant::now(),
        told: None,
    };
    let current = Arc::new(Mutex::new(current));
    let send = move |request: http::Request<Body>| {
        let client = current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .client();
        async move { client.send(request).await }
    };
    Ok(Client::new(service_fn(send), broker.namespace.clone()))
}

/// What the broker's API server wants to see, and shows.
#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    token: Option<Secret>,
    ca: Option<Vec<u8>>,
}

impl Credentials {
    fn literal(broker: &BrokerSettings) -> Self {
        Self {
            token: broker.token.clone(),
            ca: broker.ca.clone(),
        }
    }

    /// What is in a Secret's directory, completed by the variables.
    fn read(broker: &BrokerSettings, files: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = files.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some((path, text))),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(format!("{}: {error}", path.display())),
            }
        };
        let wrong = |path: &Path, why: String| format!("{} {why}", path.display());
        let mut there = Self::literal(broker);
        if let Some((path, text)) = read("token")? {
            there.token = Some(token(&text).map_err(|why| wrong(&path, why))?);
        }
        if let Some((path, text)) = read("ca.crt")? {
            let pem = text.into_bytes();
            there.ca = Some(checked(pem).map_err(|why| wrong(&path, why))?);
        }
        match there.token {
            Some(_) => Ok(there),
            None => Err(format!("{} has no token", files.display())),
        }
    }
}

/// The client that is used at present.
struct Current {
    broker: BrokerSettings,
    files: PathBuf,
    used: Credentials,
    client: Client,
    looked: Instant,
    told: Option<String>,
}

impl Current {
    fn client(&mut self) -> Client {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            let why = self.look().err();
            if let Some(why) = why.as_ref().filter(|why| self.told.as_ref() != Some(why)) {
                tracing::warn!(%why, "the broker's Secret can't be used; what was read before is");
            }
            self.told = why;
        }
        self.client.clone()
    }

    fn look(&mut self) -> Result<(), String> {
        let there = Credentials::read(&self.broker, &self.files)?;
        if there != self.used {
            self.client = connect(&self.broker, &there).map_err(|error| error.to_string())?;
            self.used = there;
            tracing::info!("the broker's token or certificate authority changed");
        }
        Ok(())
    }
}

fn connect(broker: &BrokerSettings, with: &Credentials) -> Result<Client, ClientError> {
    let mut config = Config::new(broker.server.clone());
    config.default_namespace.clone_from(&broker.namespace);
    config.accept_invalid_certs = broker.insecure;
    config.root_cert = with.ca.as_deref().map(|pem| {
        CertificateDer::pem_slice_iter(pem)
            .filter_map(Result::ok)
            .map(|certificate| certificate.to_vec())
            .collect()
    });
    let token = with.token.as_ref();
    config.auth_info = AuthInfo {
        token: token.map(|token| token.expose().to_owned().into()),
        ..AuthInfo::default()
    };
    set_timeouts(&mut config);
    client(config, &broker.proxies)
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
    checked(pem)
}

/// PEM that holds certificates.
fn checked(pem: Vec<u8>) -> Result<Vec<u8>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Err(error) => Err(format!("is not PEM: {error}")),
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate".to_owned()),
        Ok(_) => Ok(pem),
    }
}

fn directory(value: &str) -> Result<PathBuf, String> {
    mounted(Path::new(SECRETS), value)
}

/// The directory of a mounted Secret: by its name, below where such are mounted, or by its path.
///
/// # Errors
/// If it is neither.
pub fn mounted(below: &Path, value: &str) -> Result<PathBuf, String> {
    let path = Path::new(value);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    if value.contains('/') || value.starts_with('.') {
        return Err("is no name of a Secret".to_owned());
    }
    Ok(below.join(value))
}

#[cfg(test)]
mod tests;
