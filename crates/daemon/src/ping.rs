//! Pings: carries out what a [`Checker`] says, with one socket per family for all targets.
//!
//! It runs on a thread of its own, so that round-trip times do not hold the main loop's work.

mod filter;
mod gauges;
mod packet;
mod settings;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use strait_api::gateway::ConnectionStatus;
use strait_core::Time;
use strait_core::health::{Checker, Report, Results, Settings, Target, Way};
use strait_host::Family;
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::Metrics;
use crate::engine::Inputs;
use gauges::Gauges;
pub use settings::{HEALTH, HealthSettings, SELF_TEST};
use socket::Sockets;

/// Changes of status come in bursts: this is the least time between two results.
const GATHER: Duration = Duration::from_millis(200);
/// How long the loop sleeps at most.
const LONG: Duration = Duration::from_secs(3600);

/// Pings the newest targets that were sent, from the network namespace of the calling thread, until the sender is
/// dropped or nobody listens to results any more.
///
/// `to` gets all results as an `input` at once when a status changes, and every `refresh` for the sake of the
/// round-trip times.
///
/// # Errors
/// If there can be no further thread.
pub fn start<I: Send + 'static>(
    settings: Settings,
    refresh: Duration,
    metrics: &Metrics,
    to: Inputs<I>,
    input: fn(Results) -> I,
) -> io::Result<watch::Sender<BTreeSet<Target>>> {
    let (sender, targets) = watch::channel(BTreeSet::new());
    let driver = Driver {
        checker: Checker::new(settings),
        sockets: Sockets::new(packet::nonce()),
        begun: Instant::now(),
        refresh,
        gauges: Gauges::new(metrics),
        errors: metrics.clone(),
        told: Results::new(),
        to,
        input,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("ping".to_owned())
        .spawn(move || runtime.block_on(driver.run(targets)))?;
    Ok(sender)
}

struct Driver<I> {
    checker: Checker,
    sockets: Sockets,
    begun: Instant,
    refresh: Duration,
    gauges: Gauges,
    errors: Metrics,
    told: Results,
    to: Inputs<I>,
    input: fn(Results) -> I,
}

impl<I> Driver<I> {
    async fn run(mut self, mut targets: watch::Receiver<BTreeSet<Target>>) {
        let mut told_at: Option<Instant> = None;
        let mut changed = false;
        loop {
            let now = Instant::now();
            let tell_at = match (told_at, changed) {
                (None, true) => Some(now),
                (Some(at), true) => Some(at + GATHER),
                (Some(at), false) if !self.told.is_empty() => Some(at + self.refresh),
                (_, false) => None,
            };
            if tell_at.is_some_and(|at| at <= now) {
                if !self.tell().await {
                    return;
                }
                told_at = Some(now);
                changed = false;
                continue;
            }
            let next_ping = self.checker.deadline().map(|Time(at)| self.begun + at);
            let wake = [tell_at, next_ping].into_iter().flatten().min();
            let wake = wake.unwrap_or(now + LONG);
            tokio::select! {
                changed = targets.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = targets.borrow_and_update().clone();
                    self.checker.set_targets(&wanted, self.now());
                }
                () = self.sockets.readable() => {}
                () = sleep_until(wake.into()) => {}
            }
            // Replies that came before a ping is taken for lost count.
            self.receive();
            self.send();
            changed |= self.checker.take_changed();
        }
    }

    fn now(&self) -> Time {
        Time(self.begun.elapsed())
    }

    fn receive(&mut self) {
        let (checker, begun) = (&mut self.checker, self.begun);
        self.sockets.receive(|token, from, at| {
            let at = Time(at.saturating_duration_since(begun));
            if !checker.reply(token, from, at) {
                tracing::trace!(%from, "a reply that was not waited for");
            }
        });
    }

    fn send(&mut self) {
        for ping in self.checker.due(self.now()) {
            if let Err(error) = self.sockets.send(&ping) {
                tracing::debug!(to = %ping.to, %error, "a ping can't be sent");
                self.errors.error("PingSend");
                self.checker.failed(ping.token, &error.to_string());
            }
        }
    }

    /// Gives the results to whoever wants them, and to the gauges; whether somebody listens.
    async fn tell(&mut self) -> bool {
        let results = self.checker.results();
        // That one is in error is a condition, which is told elsewhere.
        let connected = |results: &Results, target| {
            results
                .get(target)
                .is_some_and(|report: &Report| report.status == ConnectionStatus::Connected)
        };
        for target in results.keys().filter(|t| t.way == Way::Cluster) {
            if connected(&results, target) && !connected(&self.told, target) {
                let (cluster, address) = (&target.cluster, target.address);
                tracing::info!(%cluster, %address, "the other cluster's gateway answers pings");
            }
        }
        self.gauges.set(&self.told, &results);
        self.told.clone_from(&results);
        self.to.send((self.input)(results)).await.is_ok()
    }
}

/// The name of a family as a label's value.
const fn label(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}
