//! Looks again and again for what Submariner's route agent left in packet filters, and removes what the plan says may go,
//! off the main loop.

use std::collections::BTreeSet;
use std::time::Duration;

use strait_core::route_agent::Input;
use strait_core::route_agent::leftovers::{Leftover, names};
use strait_daemon::Metrics;
use strait_daemon::engine::Inputs;
use strait_host::Change;
use strait_kernel::{Error, Kernel};
use tokio::sync::watch;

/// A set of ipset is in use for a moment longer than the rule that referred to it; iptables may hold its lock.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// Looks at start, every `pause`, and after each removal; removes what the sender sends.
pub(crate) fn start(
    pause: Duration,
    inputs: Inputs<Input>,
    metrics: Metrics,
) -> watch::Sender<Vec<Leftover>> {
    let (sender, receiver) = watch::channel(Vec::new());
    tokio::spawn(async move {
        match Kernel::connect().await {
            Ok(kernel) => {
                let adopter = Adopter {
                    kernel,
                    metrics,
                    told: BTreeSet::new(),
                };
                adopter.run(pause, inputs, receiver).await;
            }
            Err(error) => {
                tracing::error!(%error, "what Submariner left can't be seen");
                metrics.error(error.kind());
            }
        }
    });
    sender
}

struct Adopter {
    kernel: Kernel,
    metrics: Metrics,
    /// Failures that were logged, so that each is once.
    told: BTreeSet<String>,
}

impl Adopter {
    async fn run(
        mut self,
        pause: Duration,
        inputs: Inputs<Input>,
        mut going: watch::Receiver<Vec<Leftover>>,
    ) {
        let mut sent = None;
        let mut retry = FIRST_RETRY;
        let mut pending = Vec::new();
        loop {
            match self.kernel.leftovers(&names()).await {
                Ok(found) if sent.as_ref() != Some(&found) => {
                    let input = Input::Leftovers(found.clone());
                    if inputs.send(input).await.is_err() {
                        return;
                    }
                    sent = Some(found);
                }
                Ok(_) => {}
                Err(error) => self.failed("what Submariner left can't be seen", &error),
            }
            let before = pending.len();
            self.remove(&mut pending).await;
            let wait = if pending.len() < before {
                // What is gone shows in the next look.
                Duration::ZERO
            } else if pending.is_empty() {
                retry = FIRST_RETRY;
                pause
            } else {
                retry = (retry * 2).min(pause);
                retry
            };
            tokio::select! {
                changed = going.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pending.clone_from(&going.borrow_and_update());
                }
                () = tokio::time::sleep(wait) => {
                    if wait == pause {
                        pending.clone_from(&going.borrow());
                    }
                }
            }
        }
    }

    /// Removes it in its order, and goes on after failures, which stay in the list.
    async fn remove(&mut self, pending: &mut Vec<Leftover>) {
        let mut gone = 0;
        for leftover in std::mem::take(pending) {
            match self.remove_one(&leftover).await {
                Ok(()) => {
                    gone += 1;
                    tracing::info!(what = %leftover, "removed what Submariner's route agent left");
                }
                Err(error) => {
                    self.failed(&format!("{leftover} can't be removed"), &error);
                    pending.push(leftover);
                }
            }
        }
        if gone > 0 {
            self.metrics.changed("leftover", gone);
        }
        if pending.is_empty() {
            self.told.clear();
        }
    }

    async fn remove_one(&mut self, leftover: &Leftover) -> Result<(), Error> {
        let change = match leftover {
            Leftover::Route(route) => Change::RemoveRoute(route.clone()),
            Leftover::Rule(rule) => Change::RemoveRule(rule.clone()),
            Leftover::Chain(table, name) => {
                let chains = BTreeSet::from([name.clone()]);
                return self.kernel.remove_chains(table, &chains).await;
            }
            Leftover::Table(id) => return self.kernel.remove_table(id).await,
            Leftover::Set(name) => return self.kernel.remove_set(name).await,
        };
        let failures = self.kernel.apply(&[change]).await;
        failures
            .into_iter()
            .next()
            .map_or(Ok(()), |failure| Err(failure.error))
    }

    fn failed(&mut self, what: &str, error: &Error) {
        self.metrics.error(error.kind());
        if self.told.insert(format!("{what}: {error}")) {
            tracing::warn!(%error, "{what}; it is tried again");
        }
    }
}
