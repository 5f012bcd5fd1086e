//! Which gateway of a cluster carries its traffic: the Lease that Submariner's gateways share, and the direct watch.
//!
//! `docs/failover.md` states the invariant that this keeps, and why each rule is as it is. An [`Election`] is fed datagrams,
//! what the API server says of the Lease, and time; it gives datagrams and operations on the Lease.

mod lease;
mod memory;
mod vacancy;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use lease::{Answered, Lease, LeaseOperation, Record};
pub use memory::{Memory, Outdated};
use vacancy::Asking;

use super::Standing;
use crate::Time;
use crate::hello::Witness;
use crate::hello::{
    Claim, Datagram, Kind, Mesh, PeerId, Received, Refusal, Term, Timing, Turn, Word,
};

/// How long one that ends waits until its successor says that it carries the traffic.
const HAND_OVER: Duration = Duration::from_millis(500);
/// How long it waits for the API server after that.
const RELEASE: Duration = Duration::from_secs(2);

/// What does not change while the process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of the Node.
    pub node: String,
    /// Host name, by which the Lease's holder is told.
    pub hostname: String,
    /// How long a Lease holds that is not renewed (`LEADERSHIP_LEASEDURATION`).
    pub lease_duration: Duration,
    /// After so long without a renewal it is said that there is none (`LEADERSHIP_RENEWDEADLINE`).
    pub renew_deadline: Duration,
    /// Between two renewals, and two looks at the Lease (`LEADERSHIP_RETRYPERIOD`).
    pub retry_period: Duration,
    /// The direct watch.
    pub timing: Timing,
    /// UDP port of the direct watch.
    pub port: u16,
}

impl Settings {
    /// The Lease's holder, as Submariner's gateways name themselves.
    #[must_use]
    pub fn identity(&self) -> String {
        identity(&self.hostname)
    }
}

/// What comes after the host name in a Lease's holder.
const IDENTITY: &str = "-submariner-gateway";

/// The Lease's holder on a host.
#[must_use]
pub fn identity(hostname: &str) -> String {
    format!("{hostname}{IDENTITY}")
}

/// The host name of a Lease's holder.
fn hostname_of(identity: &str) -> &str {
    identity.strip_suffix(IDENTITY).unwrap_or(identity)
}

/// What a gateway is among those of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It is ready to carry the traffic.
    Standby,
    /// It carries the traffic, since this term.
    Active(Term),
}

/// An event.
#[derive(Debug, Clone)]
pub enum Input {
    /// The cluster's secret.
    Secret(Vec<u8>),
    /// The cluster's Nodes by name: addresses, and whether each may be a gateway.
    Nodes(BTreeMap<String, (Vec<IpAddr>, bool)>),
    /// What this gateway says of itself when it carries the traffic; the term is filled in.
    Ready(Claim),
    /// A datagram.
    Datagram(Vec<u8>, SocketAddr),
    /// One that was dropped before.
    Refused(Refusal),
    /// What became of the operation on the Lease.
    Lease(Answered),
    /// A newer turn is told of by an Endpoint of this cluster, here or on the broker.
    Seen(Turn),
    /// This process is to end, or can't follow what happens: another gateway is to carry the traffic.
    Leave,
    /// It can again, and does not end.
    Stay,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Send(Datagram),
    /// Do this with the Lease; one at a time, and what became of it is an input.
    Lease(LeaseOperation),
}

/// A gateway's part in the election.
#[derive(Debug, Clone)]
pub struct Election {
    settings: Settings,
    mesh: Mesh,
    begun: Option<Time>,
    role: Role,
    claim: Option<Claim>,
    witness: Witness,
    /// The holder of the newest turn was heard to carry the traffic, in that turn.
    heard_holder: bool,
    lease: lease::View,
    asking: Option<Asking>,
    nodes: BTreeMap<String, (Vec<IpAddr>, bool)>,
    secret: Vec<u8>,
    /// So long it listens, from its beginning, before it may begin a turn.
    listens: Duration,
    leaving: Option<Time>,
    released: bool,
    /// When processes before this one died, since the host began.
    deaths: Vec<Duration>,
    outdated: Option<Outdated>,
}

impl Election {
    /// Nothing is known yet. `random` is a number that nobody can guess, another for each process.
    #[must_use]
    pub fn new(settings: Settings, random: u64) -> Self {
        let me = PeerId {
            kind: Kind::Gateway,
            node: settings.node.clone(),
        };
        Self {
            mesh: Mesh::new(
                me,
                &settings.hostname,
                settings.timing,
                settings.port,
                random,
            ),
            listens: settings.timing.detection() * 2,
            settings,
            begun: None,
            role: Role::Standby,
            claim: None,
            witness: Witness::default(),
            heard_holder: false,
            lease: lease::View::default(),
            asking: None,
            nodes: BTreeMap::new(),
            secret: Vec::new(),
            leaving: None,
            released: false,
            deaths: Vec::new(),
            outdated: None,
        }
    }

    /// What this gateway is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The newest turn that is known of.
    #[must_use]
    pub fn newest(&self) -> Option<&Turn> {
        self.witness.newest.as_ref()
    }

    /// What this gateway is, as far as that is known.
    #[must_use]
    pub fn standing(&self, now: Time) -> Standing {
        match self.role {
            Role::Active(term) => Standing::Active(term),
            Role::Standby if self.is_superseded() => Standing::Standby,
            Role::Standby => Standing::Unknown(if self.leaving.is_some() {
                "this one ends, or its main loop stands still".to_owned()
            } else if self.claim.is_none() {
                "this one is not ready to".to_owned()
            } else if self.lease_lost(now).is_some() {
                "the Lease can't be read or written".to_owned()
            } else {
                "it is being found out".to_owned()
            }),
        }
    }

    /// Other gateways that are heard, by Node, and whether both sides hear each other.
    pub fn heard(&self, now: Time) -> impl Iterator<Item = (&str, bool)> {
        self.mesh
            .alive(now)
            .filter(|(id, _)| id.kind == Kind::Gateway)
            .map(move |(id, _)| (id.node.as_str(), self.mesh.is_up(id, now)))
    }

    /// Host names of the other gateways that are heard, and go on.
    #[must_use]
    pub fn companions(&self, now: Time) -> BTreeSet<String> {
        let others = self.others(now).into_iter();
        others.map(|(_, hostname)| hostname.to_owned()).collect()
    }

    /// How many datagrams were dropped, by reason.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<Refusal, u64> {
        self.mesh.refused()
    }

    /// Whether the Lease could not be read or renewed for too long; then this says since when.
    #[must_use]
    pub fn lease_lost(&self, now: Time) -> Option<Time> {
        let last = self.lease.answered_at.or(self.begun)?;
        (last + self.settings.renew_deadline <= now).then_some(last)
    }

    /// Whether one that was asked to leave has nothing left to do.
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        self.leaving.is_some_and(|since| {
            let done = self.released || self.is_superseded() || !self.holds_lease();
            (self.role == Role::Standby && done) || since + HAND_OVER + RELEASE <= now
        })
    }

    /// Whether another gateway's turn is the newest.
    fn is_superseded(&self) -> bool {
        self.newest()
            .is_some_and(|newest| newest.holder != self.settings.hostname)
    }

    /// Folds an event in, and says what is to be done.
    pub fn apply(&mut self, input: Input, now: Time) -> Vec<Output> {
        self.begun.get_or_insert(now);
        let kept = self.turn_to_keep();
        self.mesh.look(now);
        match input {
            Input::Secret(secret) => {
                self.mesh.secret(&secret, now);
                self.secret = secret;
                self.outdated = self.outdated.max(Some(Outdated::Peers));
            }
            Input::Nodes(nodes) => {
                self.mesh.nodes(&nodes, now);
                self.nodes = nodes;
                self.outdated = self.outdated.max(Some(Outdated::Peers));
            }
            Input::Ready(claim) => {
                if self.claim.as_ref() != Some(&claim) {
                    self.claim = Some(claim);
                    self.mesh.hurry(now);
                    self.lease.next_at = self.lease.next_at.min(now);
                }
            }
            // A refusal is counted, and that is all.
            Input::Datagram(bytes, from) => {
                if let Ok(Some(received)) = self.mesh.receive(&bytes, from, now) {
                    self.hear(received, now);
                }
            }
            Input::Refused(why) => self.mesh.refuse(why),
            Input::Lease(answered) => self.lease_answered(answered, now),
            Input::Seen(turn) => self.learn(&turn, now),
            Input::Leave => {
                if self.leaving.is_none() {
                    self.leaving = Some(now);
                    self.mesh.hurry(now);
                }
            }
            Input::Stay => {
                if self.leaving.take().is_some() {
                    self.released = false;
                    self.mesh.hurry(now);
                    self.lease.next_at = self.lease.next_at.min(now);
                }
            }
            Input::Tick => {}
        }
        let outputs = self.step(now);
        if kept != self.turn_to_keep() {
            self.outdated = Some(Outdated::Turn);
        }
        outputs
    }

    /// When the event that time has passed has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        [
            self.mesh.deadline(),
            self.lease_deadline(),
            self.asking.as_ref().map(|asking| asking.next),
            self.leaving
                .filter(|_| self.role != Role::Standby)
                .map(|since| since + HAND_OVER),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn step(&mut self, now: Time) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.seek(now);
        self.withdraw(now);
        if let Some(operation) = self.lease_operation(now) {
            outputs.push(Output::Lease(operation));
        }
        let word = self.word(now);
        let datagrams = self.mesh.due(&word, self.witness.answers(), now);
        outputs.extend(datagrams.into_iter().map(Output::Send));
        outputs
    }

    fn word(&self, now: Time) -> Word {
        let claim = match self.role {
            Role::Active(term) => self.claim.clone().map(|claim| Claim { term, ..claim }),
            Role::Standby => None,
        };
        let grant = match (self.role, self.leaving) {
            (Role::Active(term), Some(_)) => self.successor(now).map(|holder| Turn {
                term: term.next_ballot(),
                holder,
            }),
            (Role::Active(_) | Role::Standby, _) => None,
        };
        Word {
            claim,
            newest: self.witness.newest.clone(),
            leaving: self.leaving.is_some(),
            grant,
            asks: self.asking.as_ref().and_then(|asking| asking.term()),
        }
    }

    fn me(&self, term: Term) -> Turn {
        Turn {
            term,
            holder: self.settings.hostname.clone(),
        }
    }

    fn begin(&mut self, term: Term, now: Time) {
        let turn = self.me(term);
        self.witness.learn(&turn);
        self.role = Role::Active(term);
        self.asking = None;
        self.heard_holder = false;
        self.mesh.hurry(now);
        self.lease.next_at = now;
    }

    /// A turn that is told of: whoever carries the traffic in an older one ends.
    fn learn(&mut self, turn: &Turn, now: Time) {
        if !self.witness.learn(turn) {
            return;
        }
        self.heard_holder = false;
        self.asking = None;
        if turn.holder != self.settings.hostname {
            self.end(now);
        } else if self.role != Role::Standby {
            // The process before this one died, or an answer was lost, after the Lease had been written.
            self.role = Role::Active(turn.term);
            self.mesh.hurry(now);
        }
    }

    fn end(&mut self, now: Time) {
        if self.role != Role::Standby {
            self.role = Role::Standby;
            self.mesh.hurry(now);
        }
    }

    fn hear(&mut self, received: Received, now: Time) {
        let Received { from, hello } = received;
        let word = hello.word;
        if let Some(newest) = &word.newest {
            self.learn(newest, now);
        }
        if from.kind == Kind::Gateway
            && let Some(claim) = &word.claim
        {
            let turn = Turn {
                term: claim.term,
                holder: hello.hostname.clone(),
            };
            self.learn(&turn, now);
            if self.witness.newest.as_ref() == Some(&turn) {
                self.heard_holder = true;
            }
        }
        if from.kind == Kind::Gateway {
            match word.asks {
                Some(term) => {
                    let hears = self.carried(now);
                    self.witness.answer(&from, &hello.hostname, term, hears);
                    self.mesh.hurry_to(&from, now);
                }
                None => self.witness.forget(&from),
            }
        }
        if let Some(answer) = hello.answer {
            self.answered(&from, &answer, now);
        }
        let granted = word.grant.filter(|grant| {
            let by_newest = self.witness.newest.as_ref().is_some_and(|newest| {
                newest.holder == hello.hostname && newest.term.next_ballot() == grant.term
            });
            word.leaving && by_newest && grant.holder == self.settings.hostname
        });
        if let Some(grant) = granted
            && self.may_begin()
        {
            self.begin(grant.term, now);
        }
    }

    /// Whether this gateway could carry the traffic now.
    fn may_begin(&self) -> bool {
        self.leaving.is_none() && self.claim.is_some()
    }

    /// Whether somebody carries the traffic, as far as can be heard here, and goes on.
    fn carried(&self, now: Time) -> bool {
        if self.role != Role::Standby {
            return self.leaving.is_none();
        }
        self.witness.newest.as_ref().is_some_and(|newest| {
            let said = self.mesh.hears(&newest.holder, now);
            said.is_some_and(|said| said.word.claim.is_some() && !said.word.leaving)
        })
    }

    /// The other gateways that are heard and go on, by host name, in the order of their Nodes.
    fn others(&self, now: Time) -> Vec<(&str, &str)> {
        self.mesh
            .alive(now)
            .filter(|(id, said)| id.kind == Kind::Gateway && !said.word.leaving)
            .map(|(id, said)| (id.node.as_str(), said.hostname.as_str()))
            .collect()
    }

    fn successor(&self, now: Time) -> Option<String> {
        let others = self.others(now);
        others.first().map(|(_, hostname)| (*hostname).to_owned())
    }

    /// How many gateways go before this one.
    fn rank(&self, now: Time) -> u32 {
        let gone = self.witness.newest.as_ref().map(|n| n.holder.as_str());
        let before = self
            .others(now)
            .into_iter()
            .filter(|(node, hostname)| {
                *node < self.settings.node.as_str() && Some(*hostname) != gone
            })
            .count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// One that ends and finds no successor ends all the same.
    fn withdraw(&mut self, now: Time) {
        let over = |since| since + HAND_OVER <= now || !self.mesh.has_gateways();
        if self.leaving.is_some_and(over) {
            self.end(now);
        }
    }
}
