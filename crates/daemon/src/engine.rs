//! The main loop of every process that keeps a plan true on a host: events in, one pass, changes out.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::{Duration, Instant};

use strait_core::condition::by_name;
use strait_core::{Condition, Machine, Planned, Time};
use strait_host::Owner;
use strait_kernel::{Error, Event, Kernel, Outcome, Reading, Reconciler, Seen, Watch};
use tokio::sync::{mpsc, watch};

use crate::{Drain, Heartbeat, Metrics, Readiness};

/// A pass over the kernel follows this long after a change that was made without reading it first.
const VERIFY_SOON: Duration = Duration::from_millis(200);
/// Events of the kernel come in bursts: this is the least time between two readings.
const GATHER: Duration = Duration::from_millis(5);
/// How often the loop shows that it lives when nothing happens.
const BEAT: Duration = Duration::from_secs(5);
/// How often in a row a reading may be of no use, since something was changed meanwhile, before all else waits for the next.
const USELESS: u32 = 2;
/// The longest pause before a failed change is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The loop, with what it needs.
pub struct Engine<M: Machine> {
    state: M,
    inputs: mpsc::Receiver<M::Input>,
    reconciler: Reconciler,
    events: Watch,
    readiness: Readiness,
    metrics: Metrics,
    heartbeat: Heartbeat,
    verify: Duration,
    begun: Instant,
    read_at: Instant,
    /// When the kernel told first of what is to be read.
    told: Option<Instant>,
    reading: Option<Look>,
    useless: u32,
    retry: Duration,
}

/// A reading of the host that is under way: passes for other reasons do not wait for it.
struct Look {
    reading: Reading,
    begun: Instant,
    told: Option<Instant>,
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
        inputs: mpsc::Receiver<M::Input>,
        readiness: Readiness,
        metrics: Metrics,
        heartbeat: Heartbeat,
        verify: Duration,
    ) -> Result<Self, Error> {
        let kernel = Kernel::connect().await?;
        Ok(Self {
            state,
            inputs,
            events: kernel.watch()?,
            reconciler: Reconciler::new(kernel, owner),
            readiness,
            metrics,
            heartbeat,
            verify,
            begun: Instant::now(),
            read_at: Instant::now(),
            told: None,
            reading: None,
            useless: 0,
            retry: Duration::ZERO,
        })
    }

    /// Runs until `drain` ends. What is in the kernel stays. What `carry_out` gets after each pass the kernel holds, as
    /// far as it can: the rest is its own.
    pub async fn run(mut self, drain: &Drain, mut carry_out: impl FnMut(Pass<M::Plan>)) {
        let mut last_read = Instant::now();
        loop {
            self.heartbeat.beat();
            let mut wake = Instant::now() + BEAT;
            if self.reading.is_none() {
                wake = wake.min(self.read_at);
            }
            if let Some(Time(at)) = self.state.deadline() {
                wake = wake.min(self.begun + at);
            }
            let mut arrived = None;
            // When the reading began that this turn makes a pass of.
            let mut read = None;
            let mut changed = true;
            tokio::select! {
                () = drain.ended() => return,
                Some(input) = self.inputs.recv() => {
                    arrived = Some(Instant::now());
                    self.fold(input);
                }
                event = self.events.next() => {
                    if !self.reconciler.concerns(&event) {
                        continue;
                    }
                    if matches!(event, Event::Overrun) {
                        tracing::info!("kernel events were lost: reading everything anew");
                    }
                    self.told.get_or_insert_with(Instant::now);
                    self.read_at = self.read_at.min(last_read + GATHER);
                    changed = false;
                }
                seen = end(&mut self.reading) => {
                    let Some(Look { begun, told, .. }) = self.reading.take() else {
                        continue;
                    };
                    if self.accept(seen, told) {
                        arrived = told;
                        read = Some(begun);
                    } else {
                        changed = false;
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    self.fold(M::tick());
                    // The pass is made of what will be read.
                    changed = self.reading.is_some() || self.read_at > Instant::now();
                }
            }
            while let Ok(input) = self.inputs.try_recv() {
                arrived = arrived.or_else(|| Some(Instant::now()));
                self.fold(input);
                changed = true;
            }
            if read.is_none() && self.reading.is_none() && self.read_at <= Instant::now() {
                self.events.drain();
                last_read = Instant::now();
                self.read_at = last_read + self.verify;
                let told = self.told.take();
                if self.reconciler.has_read() && self.useless < USELESS {
                    if !self.begin(told) {
                        self.read_at = Instant::now() + self.next_retry();
                    }
                } else if self.read_now().await {
                    arrived = told.or(arrived);
                    read = Some(last_read);
                    changed = true;
                } else {
                    self.read_at = Instant::now() + self.next_retry();
                    continue;
                }
            }
            if !changed {
                continue;
            }
            let pass = self.pass(arrived, read.is_some()).await;
            if let Some(begun) = read
                && pass.outcome.made.is_empty()
                && pass.outcome.failures.is_empty()
            {
                self.metrics.verified(begun.elapsed());
            }
            carry_out(pass);
        }
    }

    fn fold(&mut self, input: M::Input) {
        self.state.apply(input, Time(self.begun.elapsed()));
    }

    /// Reads the host while all else waits.
    async fn read_now(&mut self) -> bool {
        self.useless = 0;
        match self.reconciler.observe().await {
            Ok(host) => {
                self.fold(M::host(host));
                true
            }
            Err(error) => {
                self.unread(&error);
                false
            }
        }
    }

    /// Begins to read the host; `told`: when the kernel told of what is to be read.
    fn begin(&mut self, told: Option<Instant>) -> bool {
        let begun = Instant::now();
        match self.reconciler.read() {
            Ok(reading) => {
                self.reading = Some(Look {
                    reading,
                    begun,
                    told,
                });
                true
            }
            Err(error) => {
                self.unread(&error);
                false
            }
        }
    }

    /// Takes what was read, if it is of any use; else it is read again.
    fn accept(&mut self, seen: Seen, told: Option<Instant>) -> bool {
        let pause = match self.reconciler.accept(seen) {
            Ok(Some(host)) => {
                self.useless = 0;
                self.fold(M::host(host));
                return true;
            }
            Ok(None) => {
                self.useless += 1;
                if told.is_none() {
                    // The change has its own turn.
                    return false;
                }
                GATHER
            }
            Err(error) => {
                self.unread(&error);
                self.next_retry()
            }
        };
        self.told = told.or(self.told);
        self.read_at = Instant::now() + pause;
        false
    }

    fn unread(&self, error: &Error) {
        tracing::warn!(%error, "the kernel's state can't be read; it is tried again");
        self.metrics.error(error.kind());
    }

    async fn pass(&mut self, arrived: Option<Instant>, verified: bool) -> Pass<M::Plan> {
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
        let conditions = with_outcome(plan.conditions(), &outcome);
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

    fn next_retry(&mut self) -> Duration {
        self.retry = (self.retry * 2).clamp(Duration::from_millis(100), LONGEST_RETRY);
        self.retry
    }
}

/// The end of a reading; never, if none is under way.
async fn end(look: &mut Option<Look>) -> Seen {
    match look {
        Some(look) => look.reading.end().await,
        None => pending().await,
    }
}

/// The plan's conditions, and what came of carrying it out.
fn with_outcome(conditions: &[Condition], outcome: &Outcome) -> Vec<Condition> {
    let mut all = conditions.to_vec();
    for conflict in &outcome.conflicts {
        let message = format!("{conflict}; it is not touched: remove or rename it");
        all.push(Condition::not_ready("ForeignObject", message));
    }
    if !outcome.contended.is_empty() {
        let message = format!(
            "somebody else changes these again and again; they are tried again after 30 s: {}",
            outcome.contended.join(", ")
        );
        all.push(Condition::not_ready("Contended", message));
    }
    for failure in &outcome.failures {
        let message = format!(
            "{} can't be changed: {}",
            failure.change.subject(),
            failure.error
        );
        all.push(Condition::not_ready("ApplyFailed", message));
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
    to: &mpsc::Sender<I>,
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
