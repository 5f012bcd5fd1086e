//! An embedded server of the Kubernetes API: the part that Strait's agents and its lab need, for a broker without
//! Kubernetes and for clusters that are network namespaces on one machine.
//!
//! It serves some [built-in resources](types) and everything that custom resource definitions add, over TLS, to holders of
//! [tokens](auth), and keeps the objects in a [journal] in its state directory. What it does not do: run anything
//! (no controllers, no garbage collection, no allocation of addresses), convert between versions other than by name, admission,
//! impersonation, and protobuf. Events expire after an hour, and a namespace takes what is in it along.
//!
//! The modules from [`store`] to [`objects`] are pure: they get time and randomness as arguments.
//!
//! The state directory holds `ca.crt`, `ca.key`, `server.crt`, `server.key`, `admin.token`, `admin.kubeconfig`,
//! `tokens.json`, `journal.jsonl` and lock files. Secrets in it are readable by their owner only.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub mod auth;
pub mod backend;
pub mod cli;
pub mod crd;
pub mod failure;
mod http;
pub mod journal;
pub mod managed;
pub mod metadata;
pub mod objects;
pub mod patch;
mod random;
pub mod request;
pub mod schema;
pub mod selector;
pub mod store;
pub mod tls;
pub mod types;

pub use auth::{OwnLabel, Rule, Tokens};
pub use cli::{command, run};

/// Changes that a collection remembers for watches and for the pages of lists.
const HISTORY: usize = 4096;
/// How often what was written is brought to the disk.
const SYNC: Duration = Duration::from_secs(1);
/// Rounds of [`SYNC`] between two looks for old events.
const EVENT_ROUNDS: u64 = 60;
/// How long events are kept, seconds (`--event-ttl` of the Kubernetes API server).
const EVENT_SECONDS: i64 = 3600;

/// Why the server cannot start, or its state cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// Another server runs on the same state directory.
    #[error("{0} is in use by another server")]
    InUse(PathBuf),
    /// The journal is damaged elsewhere than at its end.
    #[error("{path}, line {line}: the journal is damaged: {why}")]
    Journal {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The file of tokens is not a list of tokens.
    #[error("{path}, line {line}, column {column}: not a list of tokens")]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// A file holds no certificate or key.
    #[error("{0} holds no usable certificate or key")]
    Certificate(PathBuf),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Random,
    /// A first object cannot be stored.
    #[error("cannot prepare the first objects: {0}")]
    First(failure::Failure),
}

impl Error {
    pub(crate) fn file(path: &Path, error: std::io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            error,
        }
    }
}

/// How to run a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The state directory; made if it is not there.
    pub dir: PathBuf,
    /// Further DNS names and addresses by which clients reach the server. `localhost` and the listening address
    /// are always among the certificate's names.
    pub sans: Vec<String>,
}

/// A server that runs. Dropping it ends the server without waiting.
#[derive(Debug)]
pub struct Running {
    /// The address that is listened on.
    pub local_addr: SocketAddr,
    /// URL of the server, as in the administrator's kubeconfig.
    pub url: String,
    /// The administrator's kubeconfig, a file in the state directory.
    pub admin_kubeconfig: PathBuf,
    dir: PathBuf,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// A kubeconfig for `user` with `token` on this server.
    ///
    /// # Errors
    /// When the server's certificate authority cannot be read.
    pub fn kubeconfig(&self, user: &str, token: &str) -> Result<String, Error> {
        tls::kubeconfig(&self.dir, &self.url, user, token)
    }

    /// Ends watches, waits for the requests under way (5 s at most), and brings everything to the disk.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the server ended badly");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts a server.
///
/// # Errors
/// When the state directory cannot be used or the address cannot be listened on.
pub async fn start(config: Config) -> Result<Running, Error> {
    start_with_history(config, HISTORY).await
}

/// Starts a server whose collections remember only `history` changes: watches from further back get 410 Gone.
///
/// # Errors
/// As [`start`].
pub async fn start_with_history(config: Config, history: usize) -> Result<Running, Error> {
    let dir = config.dir;
    std::fs::create_dir_all(&dir).map_err(|error| Error::file(&dir, error))?;
    let lock_path = dir.join("server.lock");
    let lock = File::create(&lock_path).map_err(|error| Error::file(&lock_path, error))?;
    lock.try_lock().map_err(|_| Error::InUse(dir.clone()))?;

    let listening = |error| Error::Listen {
        address: config.listen,
        error,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
    let local_addr = listener.local_addr().map_err(listening)?;
    let mut names = config.sans.clone();
    if !local_addr.ip().is_unspecified() {
        names.push(local_addr.ip().to_string());
    }
    let tls = tls::prepare(&dir, &names)?;
    let url = tls::server_url(local_addr, &config.sans);
    let token = tls::admin_token(&dir)?;
    let admin_kubeconfig = dir.join("admin.kubeconfig");
    let text = tls::kubeconfig(&dir, &url, "admin", &token)?;
    auth::write_private(&admin_kubeconfig, text.as_bytes())?;

    let backend = Arc::new(backend::Backend::open(&dir, history)?);
    prepare(&backend)?;
    let stop = CancellationToken::new();
    let service = Arc::new(http::Service {
        backend: backend.clone(),
        auth: auth::Authenticator::new(&dir, token),
        stop: stop.clone(),
    });
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let served = tokio::spawn(http::serve(listener, acceptor, service));
    let kept = tokio::spawn(keep(backend, stop.clone(), lock));
    Ok(Running {
        local_addr,
        url,
        admin_kubeconfig,
        dir,
        stop,
        tasks: vec![served, kept],
    })
}

/// Makes the namespaces that every cluster has.
fn prepare(backend: &backend::Backend) -> Result<(), Error> {
    for name in ["default", "kube-system"] {
        let Some(ty) = backend.types().get("", "v1", "namespaces") else {
            continue;
        };
        let now =
            jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
        let writer = managed::Writer {
            manager: "strait-apiserver".to_owned(),
            apply: false,
            status: false,
            now: now.to_string(),
        };
        let context = objects::Context {
            writer,
            strict: false,
            uid: random::uid()?,
            suffix: random::suffix()?,
        };
        let target = backend::Target {
            ty,
            key: (String::new(), String::new()),
            permit: auth::Permit::All,
            create: None,
            dry_run: false,
        };
        match backend.create(&target, json!({"metadata": {"name": name}}), &context) {
            Err(failure) if failure.reason != "AlreadyExists" => return Err(Error::First(failure)),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Brings changes to the disk and lets events expire, until the end; holds the lock of the state directory meanwhile.
async fn keep(backend: Arc<backend::Backend>, stop: CancellationToken, lock: File) {
    let (mut synced, mut rounds) = (0, 0_u64);
    loop {
        let over = tokio::time::timeout(SYNC, stop.cancelled()).await.is_ok();
        if rounds % EVENT_ROUNDS == 0 {
            backend.expire_events(jiff::Timestamp::now(), EVENT_SECONDS);
        }
        rounds += 1;
        let revision = backend.revision();
        if revision != synced {
            let backend = backend.clone();
            match tokio::task::spawn_blocking(move || backend.sync()).await {
                Ok(Ok(())) => synced = revision,
                Ok(Err(error)) => {
                    tracing::error!(%error, "the journal cannot be brought to the disk")
                }
                Err(error) => tracing::error!(%error, "the journal was not brought to the disk"),
            }
        }
        if over {
            break;
        }
    }
    drop(lock);
}
