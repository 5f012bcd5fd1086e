//! The election as a thread: the direct watch's sockets, and the Lease. It has a thread of its own, lest a pass of the main loop
//! be taken for silence.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use kube::Client;
use strait_core::Time;
use strait_core::gateway::election::Answered;
use strait_core::gateway::election::{Election, Input, LeaseOperation, Output, Settings};
use strait_core::gateway::{self, Known, Standing};
use strait_core::hello::Refusal;
use strait_core::silence::{LOOK, Silence};
use strait_daemon::engine::{Inputs, replace};
use strait_daemon::hello::{Dropped, Finding, Sockets, random, secrets};
use strait_daemon::holder::Slate;
use strait_daemon::{Drain, Heartbeat, Metrics, lease};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use crate::notes::Notes;

/// How long one that has handed over goes on: what is under way to it still gets through a device that ends with it.
const LINGER: Duration = Duration::from_secs(1);
/// How long the loop sleeps at most.
const LONG: Duration = Duration::from_secs(3600);
/// A main loop that has not turned for so long publishes and follows nothing: another gateway is to carry the traffic. Less than what a parent
/// process waits for, so that a hand-over comes before a kill.
const STILL: Duration = Duration::from_secs(5);

/// What the election follows of the process that it is a part of.
pub(crate) struct Process<'a> {
    /// When it ends, this gateway hands over.
    pub(crate) drain: &'a Drain,
    /// Is ended when it has.
    pub(crate) over: &'a Drain,
    /// The main loop's. While that stands still, this gateway hands over too.
    pub(crate) heart: Heartbeat,
    /// What goes from one process to the next, where a parent keeps it.
    pub(crate) slate: Option<Slate>,
}

/// Takes part in the election of this cluster, with what was sent last, until the process ends; what comes of it is an input of
/// `to`.
///
/// # Errors
/// If there can be no such thread.
pub(crate) fn start(
    settings: Settings,
    client: &Client,
    namespace: &str,
    metrics: &Metrics,
    process: Process<'_>,
    to: Inputs<gateway::Input>,
) -> anyhow::Result<watch::Sender<Option<Known>>> {
    let (known, orders) = watch::channel(None);
    let (standing, mut told) = watch::channel((Instant::now(), Standing::default()));
    let (heard, mut others) = watch::channel(BTreeSet::new());
    let limit = settings.renew_deadline;
    let beat = settings.timing.interval;
    let notes = Notes::new(process.slate);
    let memory = notes.inherited(settings.timing);
    let goes_on = memory.goes_on();
    let (operations, answers) = lease::start(client.clone(), namespace, limit, metrics.clone());
    let member = Member {
        sockets: Sockets::new(settings.port, metrics.clone()),
        dropped: Dropped::new(metrics.clone()),
        election: Election::after(settings, random(), memory),
        begun: Instant::now(),
        notes,
        beat,
        main_loop: MainLoop::new(process.heart, goes_on),
        operations,
        standing,
        heard,
    };
    let secrets = secrets(client.clone(), namespace, Finding::OrMake);
    let (drain, over) = (process.drain.clone(), process.over.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a runtime for the election")?;
    std::thread::Builder::new()
        .name("election".to_owned())
        .spawn(move || {
            runtime.block_on(member.run(orders, answers, secrets, &drain));
            over.end();
        })
        .context("a thread for the election")?;
    let inputs = to.clone();
    tokio::spawn(async move {
        while others.changed().await.is_ok() {
            let heard = others.borrow_and_update().clone();
            if inputs.send(gateway::Input::Heard(heard)).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while told.changed().await.is_ok() {
            let (at, standing) = told.borrow_and_update().clone();
            let input = gateway::Input::Standing(standing);
            if to.send_since(at, input).await.is_err() {
                return;
            }
        }
    });
    Ok(known)
}

struct Member {
    election: Election,
    sockets: Sockets,
    dropped: Dropped,
    begun: Instant,
    notes: Notes,
    /// How often this process shows that it is there.
    beat: Duration,
    main_loop: MainLoop,
    operations: mpsc::UnboundedSender<LeaseOperation>,
    standing: watch::Sender<(Instant, Standing)>,
    heard: watch::Sender<BTreeSet<String>>,
}

impl Member {
    async fn run(
        mut self,
        mut orders: watch::Receiver<Option<Known>>,
        mut answers: mpsc::UnboundedReceiver<Answered>,
        mut secrets: mpsc::UnboundedReceiver<Vec<u8>>,
        drain: &Drain,
    ) {
        let mut leaving = false;
        let mut known = Known {
            nodes: self.election.nodes().clone(),
            ..Known::default()
        };
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = interval(self.beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let keeps = self.notes.are_kept();
        // One that goes on says so before anything else.
        self.open(&known);
        self.feed(Input::Tick);
        self.tell();
        loop {
            let next = self.election.deadline().map(|Time(at)| self.begun + at);
            let wake = [next, self.sockets.retry_at()].into_iter().flatten().min();
            tokio::select! {
                changed = orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let new = orders.borrow_and_update().clone();
                    if let Some(new) = new {
                        self.learn(&known, &new);
                        known = new;
                    }
                }
                Some(answered) = answers.recv() => self.feed(Input::Lease(answered)),
                Some(secret) = secrets.recv() => self.feed(Input::Secret(secret)),
                () = drain.ended(), if !leaving => {
                    leaving = true;
                    self.feed(Input::Leave);
                }
                _ = looks.tick(), if !leaving => {
                    let input = self.main_loop.look();
                    input.into_iter().for_each(|input| self.feed(input));
                }
                _ = beats.tick(), if keeps => {}
                () = self.sockets.readable() => {}
                () = sleep_until(wake.unwrap_or_else(|| Instant::now() + LONG).into()) => {}
            }
            self.sockets.open();
            self.receive();
            self.feed(Input::Tick);
            self.notes.beat();
            self.tell();
            if leaving && self.election.is_over(self.now()) {
                if self.standing.borrow().1 == Standing::Standby {
                    sleep(LINGER).await;
                }
                return;
            }
        }
    }

    fn now(&self) -> Time {
        Time(self.begun.elapsed())
    }

    /// The turns that are told of come first: whoever is ready may begin one.
    fn learn(&mut self, old: &Known, new: &Known) {
        if new.nodes != old.nodes {
            self.open(new);
            self.feed(Input::Nodes(new.nodes.clone()));
        }
        if let Some(seen) = new.seen.clone().filter(|_| new.seen != old.seen) {
            self.feed(Input::Seen(seen));
        }
        if let Some(ready) = new.ready.clone().filter(|_| new.ready != old.ready) {
            self.feed(Input::Ready(ready));
        }
    }

    fn open(&mut self, known: &Known) {
        let own = known.nodes.values().flat_map(|(addresses, _)| addresses);
        self.sockets.want(own);
    }

    fn receive(&mut self) {
        let mut arrived = Vec::new();
        self.sockets.receive(|bytes, from, near| {
            arrived.push(if near {
                Input::Datagram(bytes.to_vec(), from)
            } else {
                Input::Refused(Refusal::TooFar)
            });
        });
        for input in arrived {
            self.feed(input);
        }
    }

    fn feed(&mut self, input: Input) {
        let outputs = self.election.apply(input, self.now());
        // Before anybody hears of it: the next process must not go on in a turn that this one has given away.
        self.notes.write(&mut self.election);
        for output in outputs {
            match output {
                Output::Send(datagram) => self.sockets.send(&datagram),
                Output::Lease(operation) => {
                    // Who is gone has ended the process.
                    let _ = self.operations.send(operation);
                }
            }
        }
    }

    fn tell(&mut self) {
        self.dropped.tell(self.election.refused());
        replace(&self.heard, self.election.companions(self.now()));
        let standing = self.election.standing(self.now());
        let newest = self.election.newest();
        self.standing.send_if_modified(|told| {
            let changed = told.1 != standing;
            if changed {
                let kind = |s: &Standing| match s {
                    Standing::Unknown(_) => None,
                    Standing::Standby => Some("standby"),
                    Standing::Active(_) => Some("active"),
                };
                if let Some(kind) = kind(&standing) {
                    let (holder, term) = newest.map_or_else(Default::default, |n| {
                        (n.holder.as_str(), n.term.to_string())
                    });
                    tracing::info!(holder, term, "this gateway is {kind}");
                }
                *told = (Instant::now(), standing);
            }
            changed
        });
    }
}

/// Whether the main loop turns.
struct MainLoop {
    heart: Heartbeat,
    turns: u64,
    silence: Silence,
    still: bool,
    /// It is to turn: it has begun to, or this gateway carries the traffic already.
    awaited: bool,
}

impl MainLoop {
    fn new(heart: Heartbeat, awaited: bool) -> Self {
        Self {
            heart,
            turns: 0,
            silence: Silence::default(),
            still: false,
            awaited,
        }
    }

    /// What follows for the election, once a [`LOOK`]. One that has not begun yet stands for nothing, unless it is waited for.
    fn look(&mut self) -> Option<Input> {
        let turns = self.heart.turns();
        if turns != self.turns {
            self.turns = turns;
            self.awaited = true;
            self.silence.heard();
            if std::mem::take(&mut self.still) {
                tracing::info!("the main loop turns again");
                return Some(Input::Stay);
            }
        } else if self.awaited && self.silence.look() >= STILL && !self.still {
            self.still = true;
            tracing::warn!(
                "the main loop has not turned for {STILL:?}: this gateway hands over, and carries no traffic until it turns again"
            );
            return Some(Input::Leave);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_loop_that_stands_still_hands_over_once_and_stays_when_it_turns_again() {
        let heart = Heartbeat::default();
        let mut main_loop = MainLoop::new(heart.clone(), false);
        let mut looks = |count| {
            let inputs: Vec<Input> = (0..count).filter_map(|_| main_loop.look()).collect();
            format!("{inputs:?}")
        };
        assert_eq!(looks(20), "[]", "it has not begun");
        for _ in 0..20 {
            heart.beat();
            assert_eq!(looks(1), "[]");
        }
        assert_eq!(looks(4), "[]");
        assert_eq!(looks(1), "[Leave]");
        assert_eq!(looks(20), "[]");
        heart.beat();
        assert_eq!(looks(1), "[Stay]");
        assert_eq!(looks(4), "[]");
        assert_eq!(looks(1), "[Leave]");
    }

    #[test]
    fn one_that_carries_the_traffic_from_its_start_is_waited_for_no_longer() {
        let mut main_loop = MainLoop::new(Heartbeat::default(), true);
        let inputs: Vec<Input> = (0..20).filter_map(|_| main_loop.look()).collect();
        assert_eq!(format!("{inputs:?}"), "[Leave]");
    }
}
