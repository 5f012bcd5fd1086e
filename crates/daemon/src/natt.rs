//! NAT discovery: carries out what a [`Finder`] says, with one UDP socket per family for all peers.

mod gauges;
mod socket;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use strait_core::Time;
use strait_core::discovery::{Finder, Heard, Results, Wanted};
use strait_host::Family;
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::Metrics;
use crate::engine::Inputs;
use gauges::Gauges;
use socket::Sockets;

/// Paths come in bursts: this is the least time between two results.
const GATHER: Duration = Duration::from_millis(100);
/// How long the loop sleeps at most.
const LONG: Duration = Duration::from_secs(3600);

/// Finds out what was wanted last, and answers others, from the network namespace of the calling thread, until the sender
/// is dropped or nobody listens to results any more. `to` gets all results as an `input` when any changes.
pub fn start<I: Send + 'static>(
    metrics: &Metrics,
    to: Inputs<I>,
    input: fn(Results) -> I,
) -> watch::Sender<Wanted> {
    let (sender, wanted) = watch::channel(Wanted::default());
    let driver = Driver {
        finder: Finder::default(),
        sockets: Sockets::new(metrics.clone()),
        begun: Instant::now(),
        gauges: Gauges::new(metrics),
        errors: metrics.clone(),
        told: Results::new(),
        to,
        input,
    };
    tokio::spawn(driver.run(wanted));
    sender
}

struct Driver<I> {
    finder: Finder,
    sockets: Sockets,
    begun: Instant,
    gauges: Gauges,
    errors: Metrics,
    told: Results,
    to: Inputs<I>,
    input: fn(Results) -> I,
}

impl<I> Driver<I> {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        let mut told_at: Option<Instant> = None;
        let mut changed = false;
        loop {
            let tell_at = changed.then(|| told_at.map_or_else(Instant::now, |at| at + GATHER));
            if tell_at.is_some_and(|at| at <= Instant::now()) {
                if !self.tell().await {
                    return;
                }
                told_at = Some(Instant::now());
                changed = false;
                continue;
            }
            let next = self.finder.deadline().map(|Time(at)| self.begun + at);
            let wakes = [tell_at, next, self.sockets.retry_at()];
            let wake = wakes.into_iter().flatten().min();
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = wanted.borrow_and_update().clone();
                    self.sockets.set(wanted.own.as_ref());
                    self.finder.set(&wanted, self.now());
                }
                () = self.sockets.readable() => {}
                () = sleep_until(wake.unwrap_or_else(|| Instant::now() + LONG).into()) => {}
            }
            self.sockets.open();
            self.receive();
            self.send();
            changed |= self.finder.take_changed();
        }
    }

    fn now(&self) -> Time {
        Time(self.begun.elapsed())
    }

    fn receive(&mut self) {
        let Self {
            finder,
            gauges,
            errors,
            begun,
            ..
        } = self;
        self.sockets.receive(
            |bytes: &[u8], from: SocketAddr, to: Option<IpAddr>, answer: &mut dyn FnMut(_) -> _| {
                match finder.received(bytes, from, to, Time(begun.elapsed())) {
                    Heard::Request(datagram, verdict) => {
                        gauges.answered(verdict);
                        if let Err(error) = answer(datagram) {
                            tracing::debug!(%from, %error, "a discovery request can't be answered");
                            errors.error("DiscoverySend");
                        }
                    }
                    Heard::Response => tracing::trace!(%from, "a discovery answer"),
                    Heard::Dropped(reason) => {
                        tracing::trace!(%from, ?reason, "a discovery datagram is dropped");
                        gauges.dropped(reason);
                    }
                }
            },
        );
    }

    fn send(&mut self) {
        for datagram in self.finder.due(self.now(), random) {
            if let Err(error) = self.sockets.send(&datagram) {
                tracing::debug!(to = %datagram.to, %error, "a discovery request can't be sent");
                self.errors.error("DiscoverySend");
            }
        }
    }

    /// Gives the results to whoever wants them; whether somebody listens.
    async fn tell(&mut self) -> bool {
        let results = self.finder.results();
        for (key, path) in &results {
            if self.told.get(key) != Some(path) {
                let (cluster, cable, family) = (&key.cluster, &key.cable_name, key.family);
                let (ip, nat, state) = (path.ip, path.nat, path.state.name());
                tracing::info!(%cluster, cable, %family, %ip, nat, state, "the way to another gateway");
            }
        }
        self.gauges.set(&self.told, &results);
        self.told.clone_from(&results);
        self.to.send((self.input)(results)).await.is_ok()
    }
}

/// A number that nobody can guess: the hash of nothing under keys of the system's random source.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The name of a family as a label's value.
const fn label(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
