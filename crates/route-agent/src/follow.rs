//! A node's part in the direct watch: it hears which gateway carries the traffic, also while the API server is away. It has a
//! thread of its own, lest a pass of the main loop be taken for silence.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use kube::Client;
use strait_core::Time;
use strait_core::hello::{Follower, Refusal};
use strait_core::route_agent::{Heard, Input, Settings};
use strait_daemon::Metrics;
use strait_daemon::engine::Inputs;
use strait_daemon::hello::{Dropped, Finding, Sockets, random, secrets};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

/// How long the loop sleeps at most.
const LONG: Duration = Duration::from_secs(3600);

/// The cluster's Nodes by name: addresses, and whether each may be a gateway.
pub(crate) type Nodes = BTreeMap<String, (Vec<IpAddr>, bool)>;

/// Listens to the gateways among the Nodes that were sent last, until the process ends; what is heard is an input of `to`.
///
/// # Errors
/// If there can be no such thread.
pub(crate) fn start(
    settings: &Settings,
    client: &Client,
    metrics: &Metrics,
    to: Inputs<Input>,
) -> anyhow::Result<watch::Sender<Option<Nodes>>> {
    let (nodes, orders) = watch::channel(None);
    let (heard, mut told) = watch::channel((Instant::now(), Heard::default()));
    let listener = Listener {
        follower: Follower::new(
            &settings.node,
            &settings.hostname,
            settings.hello_port,
            random(),
        ),
        // Gateways answer to wherever a node speaks from.
        sockets: Sockets::new(0, metrics.clone()),
        dropped: Dropped::new(metrics.clone()),
        begun: Instant::now(),
        heard,
    };
    let secrets = secrets(client.clone(), &settings.namespace, Finding::Only);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime for the direct watch")?;
    std::thread::Builder::new()
        .name("follow".to_owned())
        .spawn(move || runtime.block_on(listener.run(orders, secrets)))
        .context("a thread for the direct watch")?;
    tokio::spawn(async move {
        while told.changed().await.is_ok() {
            let (at, heard) = told.borrow_and_update().clone();
            if to.send_since(at, Input::Heard(heard)).await.is_err() {
                return;
            }
        }
    });
    Ok(nodes)
}

struct Listener {
    follower: Follower,
    sockets: Sockets,
    dropped: Dropped,
    begun: Instant,
    heard: watch::Sender<(Instant, Heard)>,
}

impl Listener {
    async fn run(
        mut self,
        mut nodes: watch::Receiver<Option<Nodes>>,
        mut secrets: mpsc::UnboundedReceiver<Vec<u8>>,
    ) {
        loop {
            let next = self.follower.deadline().map(|Time(at)| self.begun + at);
            let wake = [next, self.sockets.retry_at()].into_iter().flatten().min();
            tokio::select! {
                changed = nodes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let new = nodes.borrow_and_update().clone();
                    if let Some(new) = new {
                        self.sockets.want(new.values().flat_map(|(addresses, _)| addresses));
                        self.follower.nodes(&new, self.now());
                    }
                }
                Some(secret) = secrets.recv() => self.follower.secret(&secret, self.now()),
                () = self.sockets.readable() => {}
                () = sleep_until(wake.unwrap_or_else(|| Instant::now() + LONG).into()) => {}
            }
            self.sockets.open();
            self.receive();
            for datagram in self.follower.tick(self.now()) {
                self.sockets.send(&datagram);
            }
            self.tell();
        }
    }

    fn now(&self) -> Time {
        Time(self.begun.elapsed())
    }

    fn receive(&mut self) {
        let (follower, begun) = (&mut self.follower, self.begun);
        self.sockets.receive(|bytes, from, near| {
            if !near {
                follower.refuse(Refusal::TooFar);
            } else if let Err(why) = follower.receive(bytes, from, Time(begun.elapsed())) {
                tracing::trace!(%from, %why, "a hello is dropped");
            }
        });
    }

    fn tell(&mut self) {
        self.dropped.tell(self.follower.refused());
        let heard = Heard {
            following: self.follower.following().cloned(),
            now: self.follower.hears(self.now()),
        };
        self.heard.send_if_modified(|told| {
            let changed = told.1 != heard;
            if let Some(following) = heard.following.as_ref().filter(|_| changed) {
                let (gateway, term) = (&following.hostname, following.claim.term);
                tracing::debug!(%gateway, %term, heard = heard.now, "who carries the traffic");
            }
            if changed {
                *told = (Instant::now(), heard);
            }
            changed
        });
    }
}
