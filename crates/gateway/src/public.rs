//! Asks for this gateway's public address what a [`Resolver`] wants to know, in the background: nothing waits for it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use futures::io::AsyncReadExt;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use strait_core::Time;
use strait_core::gateway::Input;
use strait_core::gateway::public::{Answer, Ask, Public, Query, Resolver};
use strait_daemon::engine::Inputs;
use strait_daemon::kube::{Proxies, describe, site_client};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of a site's answer, in bytes.
const LONGEST: u64 = 16 << 10;
/// How long the loop sleeps at most.
const LONG: Duration = Duration::from_secs(3600);

/// Asks what was wanted last, until the sender is dropped. Services are those of `namespace` of the cluster.
pub(crate) fn start(
    cluster: Client,
    namespace: String,
    proxies: Proxies,
    to: Inputs<Input>,
) -> watch::Sender<Ask> {
    let (sender, asks) = watch::channel(Ask::default());
    let asker = Asker {
        cluster,
        namespace,
        proxies,
        roots: None,
    };
    tokio::spawn(run(asker, asks, to));
    sender
}

async fn run(asker: Asker, mut asks: watch::Receiver<Ask>, to: Inputs<Input>) {
    let begun = Instant::now();
    let mut resolver = Resolver::new();
    let mut told = Public::default();
    loop {
        let now = Time(begun.elapsed());
        let query = resolver.next(now);
        if *resolver.public() != told {
            told.clone_from(resolver.public());
            tracing::info!(addresses = ?told.addresses, failures = ?told.failures, "public addresses");
            if to.send(Input::Public(told.clone())).await.is_err() {
                return;
            }
        }
        let sleep = match resolver.deadline() {
            Some(Time(at)) => begun + at,
            None => Instant::now() + LONG,
        };
        tokio::select! {
            changed = asks.changed() => {
                if changed.is_err() {
                    return;
                }
                let ask = asks.borrow_and_update().clone();
                resolver.set(ask, random(), Time(begun.elapsed()));
            }
            answer = asker.ask(query.as_ref()), if query.is_some() => resolver.answered(answer),
            () = sleep_until(sleep.into()), if query.is_none() => {}
        }
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

struct Asker {
    cluster: Client,
    namespace: String,
    /// Those by which sites are reached.
    proxies: Proxies,
    /// Whom sites' certificates must be of, as DER; `None` for the system's.
    roots: Option<Vec<Vec<u8>>>,
}

impl Asker {
    async fn ask(&self, query: Option<&Query>) -> Result<Answer, String> {
        let Some(query) = query else {
            return Err("nothing was asked".to_owned());
        };
        let answer = async {
            match query {
                Query::Name(name) => name_of(name).await,
                Query::Service(name) => self.service(name).await,
                Query::Get { url } => self.get(url).await,
            }
        };
        let seconds = PATIENCE.as_secs();
        timeout(PATIENCE, answer)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {seconds} s")))
    }

    /// What a load balancer has: an address, or a name.
    async fn service(&self, name: &str) -> Result<Answer, String> {
        let api: Api<Service> = Api::namespaced(self.cluster.clone(), &self.namespace);
        let service = api.get(name).await.map_err(|error| describe(&error))?;
        let status = service.status.and_then(|status| status.load_balancer);
        let ingress = status.and_then(|status| status.ingress).unwrap_or_default();
        let Some(first) = ingress.into_iter().next() else {
            return Err("the Service's load balancer has no address yet".to_owned());
        };
        match (first.ip.as_deref().map(str::parse), first.hostname) {
            (Some(Ok(ip)), _) => Ok(Answer::Addresses(vec![ip])),
            (_, Some(name)) => Ok(Answer::Name(name)),
            (_, None) => {
                Err("the Service's load balancer has no address that can be read".to_owned())
            }
        }
    }

    /// The client of API servers does all that is needed of one for sites: TLS with the system's roots, and time-outs.
    async fn get(&self, url: &str) -> Result<Answer, String> {
        let (host, path) = url.split_once('/').unwrap_or((url, ""));
        let server = format!("https://{host}");
        let server = server
            .parse()
            .map_err(|error| format!("{server}: {error}"))?;
        let failed = |error: kube::Error| describe(&error);
        let client = site_client(server, self.roots.clone(), &self.proxies)
            .map_err(|error| error.to_string())?;
        let request = http::Request::get(format!("/{path}"))
            .header("User-Agent", concat!("strait/", env!("CARGO_PKG_VERSION")))
            .body(Vec::new())
            .map_err(|error| error.to_string())?;
        let answer = client.request_stream(request).await.map_err(failed)?;
        let mut body = Vec::new();
        let mut answer = Box::pin(answer).take(LONGEST);
        answer
            .read_to_end(&mut body)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Answer::Text(String::from_utf8_lossy(&body).into_owned()))
    }
}

async fn name_of(name: &str) -> Result<Answer, String> {
    let addresses = lookup_host((name, 0))
        .await
        .map_err(|error| error.to_string())?;
    Ok(Answer::Addresses(addresses.map(|a| a.ip()).collect()))
}

#[cfg(test)]
mod tests;
