//! The main loop of every process that keeps a plan true on a host: events in, one pass, changes out.

mod arrivals;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrivals::Waiting;
pub use arrivals::{Arrivals, Inputs, NotTaken, channel};
use strait_core::condition::{by_name, some};
use strait_core::{Condition, Machine, Planned, Time, path};
use strait_host::{Owner, Remade};
use strait_kernel::{Error, Event, Kernel, Outcome, Reconciler, Watch};
use tokio::sync::watch;

use crate::{Drain, Heartbeat, Metrics, Readiness};

/// A pass over the kernel follows this long after a change that was made without reading it first.
const VERIFY_SOON: Duration = Duration::from_millis(200);
/// Events of the kernel come in bursts: this is the least time between two readings.
const GATHER: Duration = Duration::from_millis(5);
/// How often the loop shows that it lives when nothing happens.
const BEAT: Duration = Duration::from_secs(1);
/// How often there is a pass when nothing happens.
const IDLE: Duration = Duration::from_secs(5);
/// The longest pause before a failed change is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How long it is said that a device was made anew: who looks for what was lost should find it.
const SAID: Duration = Duration::from_secs(60);

/// The loop, with what it needs.
pub struct Engine<M: Machine> {
    state: M,
    inputs: Arrivals<M::Input>,
    waiting: Waiting,
    reconciler: Reconciler,
    events: Watch,
    readiness: Readiness,
    metrics: Metrics,
    heartbeat: Heartbeat,
    verify: Duration,
    begun: Instant,
    read_at: Instant,
    retry: Duration,
    /// Devices that were made anew, by name: until when that is said, and what.
    remade: BTreeMap<String, (Instant, String)>,
}

/// A pass that was made.
#[derive(Debug)]
pub struct Pass<P> {
    /// What is wanted.
    pub plan: P,
    /// What became of the part that the kernel holds.
    pub outcome: Outcome,
    /// What is not as it should be: the plan's conditions, and those that came of carrying it out.
    pub conditions: Vec<Condition>,
}

impl<M: Machine> Engine<M> {
    /// For the network namespace of the calling thread; `verify` is the time between two passes over the kernel
    /// when nothing happens.
    ///
    /// # Errors
    /// If the kernel has no netlink or the process no descriptors left.
    pub async fn new(
        state: M,
        owner: Owner,
        inputs: Arrivals<M::Input>,
        readiness: Readiness,
        metrics: Metrics,
        heartbeat: Heartbeat,
        verify: Duration,
    ) -> Result<Self, Error> {
        let kernel = Kernel::connect().await?;
        Ok(Self {
            state,
            inputs,
            waiting: Waiting::default(),
            events: kernel.watch()?,
            reconciler: Reconciler::new(kernel, owner),
            readiness,
            metrics,
            heartbeat,
            verify,
            begun: Instant::now(),
            read_at: Instant::now(),
            retry: Duration::ZERO,
            remade: BTreeMap::new(),
        })
    }

    /// Runs until `drain` ends. What is in the kernel stays. What `carry_out` gets after each pass the kernel holds, as
    /// far as it can: the rest is its own.
    pub async fn run(mut self, drain: &Drain, mut carry_out: impl FnMut(Pass<M::Plan>)) {
        let mut last_read = Instant::now();
        let mut last_pass = Instant::now();
        loop {
            self.heartbeat.beat();
            let beat = Instant::now() + BEAT;
            let mut wake = self.read_at.min(last_pass + IDLE);
            if let Some(Time(at)) = self.state.deadline() {
                wake = wake.min(self.begun + at);
            }
            tokio::select! {
                () = drain.ended() => return,
                Some((at, input)) = self.inputs.next() => {
                    self.waiting.input(at);
                    self.fold(input);
                }
                event = self.events.next() => {
                    if !self.reconciler.concerns(&event) {
                        continue;
                    }
                    self.waiting.kernel(Instant::now());
                    if matches!(event, Event::Overrun) {
                        tracing::info!("kernel events were lost: reading everything anew");
                    }
                    self.read_at = self.read_at.min(last_read + GATHER);
                }
                () = tokio::time::sleep_until(wake.min(beat).into()) => {
                    if wake > beat {
                        continue;
                    }
                    self.fold(M::tick());
                }
            }
            while let Ok((at, input)) = self.inputs.try_next() {
                self.waiting.input(at);
                self.fold(input);
            }
            let reading = self.read_at <= Instant::now();
            if reading {
                if self.events.drain() > 0 {
                    self.waiting.kernel(Instant::now());
                }
                last_read = Instant::now();
                self.read_at = last_read + self.verify;
                if !self.read().await {
                    self.read_at = Instant::now() + self.next_retry();
                    continue;
                }
            }
            let pass = self.pass(reading).await;
            last_pass = Instant::now();
            if reading && pass.outcome.made.is_empty() && pass.outcome.failures.is_empty() {
                self.metrics.verified(last_read.elapsed());
            }
            carry_out(pass);
        }
    }

    fn fold(&mut self, input: M::Input) {
        self.state.apply(input, Time(self.begun.elapsed()));
    }

    async fn read(&mut self) -> bool {
        match self.reconciler.observe().await {
            Ok(host) => {
                self.fold(M::host(host));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel's state can't be read; it is tried again");
                self.metrics.error(error.kind());
                false
            }
        }
    }

    async fn pass(&mut self, verified: bool) -> Pass<M::Plan> {
        let arrived = self.waiting.take(verified);
        let mut plan = self.state.plan();
        let outcome = self.reconciler.make(plan.take_wanted()).await;
        self.metrics.pass();
        self.count(&outcome);
        if outcome.failures.is_empty() {
            self.retry = Duration::ZERO;
        } else {
            let retry = self.next_retry();
            self.read_at = self.read_at.min(Instant::now() + retry);
        }
        if let Some(after) = outcome.retry_after {
            self.read_at = self.read_at.min(Instant::now() + after);
        }
        if !outcome.made.is_empty() {
            if let Some(arrived) = arrived {
                self.metrics.event_to_kernel(arrived.elapsed());
            }
            if !verified {
                self.read_at = self.read_at.min(Instant::now() + VERIFY_SOON);
            }
        }
        let conditions = with_outcome(&plan, &outcome, self.remade(&outcome));
        self.readiness.conditions(by_name(&conditions));
        Pass {
            plan,
            outcome,
            conditions,
        }
    }

    fn count(&self, outcome: &Outcome) {
        let mut by_object: BTreeMap<&str, u64> = BTreeMap::new();
        for change in &outcome.made {
            tracing::debug!(?change, "made");
            *by_object.entry(change.object()).or_default() += 1;
        }
        for (object, count) in &by_object {
            self.metrics.changed(object, *count);
        }
        for (object, count) in &outcome.repaired {
            self.metrics.repaired(object, *count);
        }
        if !by_object.is_empty() {
            tracing::info!(changes = ?by_object, "the kernel was changed");
        }
        for failure in &outcome.failures {
            tracing::warn!(change = ?failure.change, error = %failure.error, "a change failed; it is tried again");
            self.metrics.error(failure.error.kind());
        }
    }

    /// What is said of devices that were made anew, in this pass or a while ago.
    fn remade(&mut self, outcome: &Outcome) -> Option<Condition> {
        let now = Instant::now();
        self.remade.retain(|_, (until, _)| *until > now);
        for Remade { link, why } in &outcome.remade {
            tracing::warn!(
                link,
                why,
                "a device was made anew; what was sent through it in that moment is lost"
            );
            let said = format!(
                "{link} was removed and made anew, since it can't be changed in place: {why}"
            );
            self.remade.insert(link.clone(), (now + SAID, said));
        }
        let all: Vec<&str> = self
            .remade
            .values()
            .map(|(_, said)| said.as_str())
            .collect();
        let said = all.join("; ");
        (!all.is_empty()).then(|| {
            let message = format!("{said}; what was sent through it in that moment is lost");
            Condition::degraded("DeviceMadeAnew", message)
        })
    }

    fn next_retry(&mut self) -> Duration {
        self.retry = (self.retry * 2).clamp(Duration::from_millis(100), LONGEST_RETRY);
        self.retry
    }
}

/// The plan's conditions, and what came of carrying it out.
fn with_outcome(
    plan: &impl Planned,
    outcome: &Outcome,
    remade: Option<Condition>,
) -> Vec<Condition> {
    let weighed = |needed, name, message| {
        if needed {
            Condition::not_ready(name, message)
        } else {
            Condition::degraded(name, message)
        }
    };
    let mut all = plan.conditions().to_vec();
    all.extend(remade);
    for conflict in &outcome.conflicts {
        let message = format!("{conflict}; it is not touched: remove or rename it");
        all.push(weighed(path::blocks(conflict), "ForeignObject", message));
    }
    let contended = &outcome.contended;
    let (needed, others): (Vec<_>, Vec<_>) = contended.iter().partition(|c| plan.needs(c));
    if !contended.is_empty() {
        // What matters most is named first.
        let named = needed.iter().chain(&others).map(|c| c.subject());
        let message = format!(
            "somebody else changes these again and again; they are tried again after 30 s: {}",
            some(named, ", ")
        );
        let condition = weighed(!needed.is_empty(), "Contended", message);
        all.push(condition.of(contended.len()));
    }
    for failure in &outcome.failures {
        let message = format!(
            "{} can't be changed: {}",
            failure.change.subject(),
            failure.error
        );
        all.push(weighed(plan.needs(&failure.change), "ApplyFailed", message));
    }
    all
}

/// Sends what differs from what was sent before.
pub fn replace<T: PartialEq>(to: &watch::Sender<T>, new: T) {
    to.send_if_modified(|old| {
        let changed = *old != new;
        *old = new;
        changed
    });
}

/// Forwards a stream of events into the loop, until either end is gone.
pub fn forward<I: Send + 'static>(
    stream: impl futures::Stream<Item = I> + Send + 'static,
    to: &Inputs<I>,
) {
    let to = to.clone();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(input) = futures::StreamExt::next(&mut stream).await {
            if to.send(input).await.is_err() {
                return;
            }
        }
    });
}
