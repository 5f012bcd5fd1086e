//! All sessions of a process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::session::Session;
use super::wire::derived;
use super::{Answer, Datagram, Hello, KeyRing, Kind, PeerId, Refusal, SessionState, Timing, Word};
use crate::Time;

/// Between two datagrams to whom nothing hangs on: a gateway that carries no traffic to nodes, and nodes to gateways.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// Datagrams per second that all nodes together are sent at most, in the long run.
const NODE_RATE: u32 = 1000;

/// Sessions with gateways and nodes of the cluster.
#[derive(Debug, Clone)]
pub struct Mesh {
    me: PeerId,
    hostname: String,
    timing: Timing,
    port: u16,
    random: u64,
    numbers: u64,
    keys: KeyRing,
    /// All Nodes of the cluster, by name, and whether each may be a gateway.
    nodes: BTreeMap<String, bool>,
    sessions: BTreeMap<PeerId, Session>,
    looked: Time,
    refused: BTreeMap<Refusal, u64>,
    /// Until then whoever does not answer yet is spoken to more often: this process is to be heard before its silence is noticed.
    haste: Option<Time>,
    /// A peer is somewhere else than before.
    moved: bool,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Who said it.
    pub from: PeerId,
    /// What.
    pub hello: Hello,
}

impl Mesh {
    /// Without sessions. `random` is a number that nobody can guess, another for each process; `port` is where gateways listen.
    #[must_use]
    pub fn new(me: PeerId, hostname: &str, timing: Timing, port: u16, random: u64) -> Self {
        Self {
            me,
            hostname: hostname.to_owned(),
            timing,
            port,
            random,
            numbers: 0,
            keys: KeyRing::default(),
            nodes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            looked: Time::default(),
            refused: BTreeMap::new(),
            haste: None,
            moved: false,
        }
    }

    /// Takes the cluster's secret in.
    pub fn secret(&mut self, secret: &[u8], now: Time) {
        self.keys.add(secret, now);
    }

    /// Whether there is a secret.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The cluster's Nodes by name: addresses, and whether each may be a gateway. Gateways are spoken to, nodes only answered.
    pub fn nodes(&mut self, nodes: &BTreeMap<String, (Vec<IpAddr>, bool)>, now: Time) {
        self.nodes = nodes
            .iter()
            .map(|(name, (_, gateway))| (name.clone(), *gateway))
            .collect();
        let all = &self.nodes;
        self.sessions.retain(|id, _| match id.kind {
            Kind::Gateway => all.get(&id.node).is_some_and(|gateway| *gateway),
            Kind::Node => all.contains_key(&id.node),
        });
        for (name, (addresses, gateway)) in nodes {
            let id = PeerId {
                kind: Kind::Gateway,
                node: name.clone(),
            };
            if !gateway || id == self.me {
                continue;
            }
            let port = self.port;
            let session = self.session(id, now);
            session.addresses = addresses
                .iter()
                .map(|ip| SocketAddr::new(*ip, port))
                .collect();
        }
    }

    /// Goes on where another process of this host died: its peers may not have noticed, and were heard at these places.
    pub fn go_on(&mut self, places: BTreeSet<(PeerId, SocketAddr)>, now: Time) {
        self.haste = Some(now + self.timing.detection());
        for (id, place) in places {
            let known = match id.kind {
                Kind::Gateway => self.sessions.contains_key(&id),
                Kind::Node => self.nodes.contains_key(&id.node),
            };
            if known {
                self.session(id, now).heard_from = Some(place);
            }
        }
    }

    /// Where peers were heard.
    pub fn places(&self) -> impl Iterator<Item = (PeerId, SocketAddr)> {
        let all = self.sessions.iter();
        all.filter_map(|(id, session)| Some((id.clone(), session.heard_from?)))
    }

    /// Whether [`Mesh::places`] has changed since [`Mesh::moves_are_known`] was called.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.moved
    }

    /// See [`Mesh::has_moved`].
    pub fn moves_are_known(&mut self) {
        self.moved = false;
    }

    /// Whether there may be another gateway.
    #[must_use]
    pub fn has_gateways(&self) -> bool {
        self.sessions.keys().any(|id| id.kind == Kind::Gateway)
    }

    fn session(&mut self, id: PeerId, now: Time) -> &mut Session {
        let (random, numbers) = (self.random, &mut self.numbers);
        self.sessions.entry(id).or_insert_with(|| {
            *numbers += 1;
            Session::new(derived(random, *numbers), now)
        })
    }

    /// Time has passed: sessions with the silent end. Whoever was himself not awake has not heard what was said: silence is
    /// counted from then on.
    pub fn look(&mut self, now: Time) {
        // Until then there was nothing to do.
        let awaited = self.deadline().unwrap_or(now).max(self.looked);
        let slept = Duration::saturating_sub(now.0, awaited.0);
        self.looked = now;
        let asleep = slept > self.timing.detection() / 2;
        for session in self.sessions.values_mut() {
            if asleep && let Some(heard) = &mut session.heard {
                *heard = (*heard + slept).min(now);
            }
            if session.heard.is_some() && !session.is_alive(now) {
                self.numbers += 1;
                session.time_out(derived(self.random, self.numbers), now);
            } else if session.is_worn() {
                self.numbers += 1;
                session.renumber(derived(self.random, self.numbers), now);
            }
        }
    }

    /// A datagram came; `None` if what it says does not count yet.
    ///
    /// # Errors
    /// Why it is dropped; it is counted too.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        now: Time,
    ) -> Result<Option<Received>, Refusal> {
        self.look(now);
        let result = self.take(bytes, from, now);
        if let Err(why) = &result {
            self.refuse(*why);
        }
        result
    }

    /// Counts a datagram that is dropped.
    pub fn refuse(&mut self, why: Refusal) {
        *self.refused.entry(why).or_default() += 1;
    }

    /// How many datagrams were dropped, by reason.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<Refusal, u64> {
        &self.refused
    }

    fn take(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        now: Time,
    ) -> Result<Option<Received>, Refusal> {
        let hello = self.keys.open(bytes, now)?;
        let id = hello.from.clone();
        let known = self.nodes.get(&id.node).copied();
        let expected = match (id.kind, self.me.kind) {
            (Kind::Gateway, _) => known == Some(true),
            (Kind::Node, Kind::Gateway) => known.is_some(),
            (Kind::Node, Kind::Node) => false,
        };
        if !expected || id == self.me {
            return Err(Refusal::UnknownPeer);
        }
        let session = self.session(id.clone(), now);
        let before = session.heard_from;
        let counts = session.receive(&hello, from, now)?;
        let moved = session.heard_from != before;
        self.moved |= moved;
        Ok(counts.then_some(Received { from: id, hello }))
    }

    /// Peers that are heard, and what each said last.
    pub fn alive(&self, now: Time) -> impl Iterator<Item = (&PeerId, &Hello)> {
        self.sessions.iter().filter_map(move |(id, session)| {
            let said = session.last.as_ref().filter(|_| session.is_alive(now))?;
            Some((id, said))
        })
    }

    /// Whether a gateway is heard, by its host name.
    #[must_use]
    pub fn hears(&self, hostname: &str, now: Time) -> Option<&Hello> {
        self.alive(now)
            .find(|(id, said)| id.kind == Kind::Gateway && said.hostname == hostname)
            .map(|(_, said)| said)
    }

    /// Whether both sides hear each other, by kind and Node.
    #[must_use]
    pub fn is_up(&self, id: &PeerId, now: Time) -> bool {
        self.sessions
            .get(id)
            .is_some_and(|s| s.state == SessionState::Up && s.is_alive(now))
    }

    /// Says something new to everybody at once.
    pub fn hurry(&mut self, now: Time) {
        for session in self.sessions.values_mut() {
            session.due = now;
        }
    }

    /// Says something new to one at once.
    pub fn hurry_to(&mut self, id: &PeerId, now: Time) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.due = now;
        }
    }

    fn interval(&self, to: Kind, carries: bool) -> Duration {
        let nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        match (self.me.kind, to) {
            (Kind::Gateway, Kind::Gateway) => self.timing.interval,
            (Kind::Gateway, Kind::Node) if carries => self
                .timing
                .interval
                .max(Duration::from_secs(1) * nodes / NODE_RATE),
            (Kind::Gateway, Kind::Node) | (Kind::Node, _) => SLOW.max(self.timing.interval),
        }
    }

    /// What is due. `answers` are for those who asked.
    pub fn due(
        &mut self,
        word: &Word,
        answers: &BTreeMap<PeerId, Answer>,
        now: Time,
    ) -> Vec<Datagram> {
        let mut datagrams = Vec::new();
        if self.keys.is_empty() {
            return datagrams;
        }
        let carries = word.claim.is_some();
        let intervals = [Kind::Gateway, Kind::Node].map(|kind| self.interval(kind, carries));
        for (id, session) in self.sessions.iter_mut().filter(|(_, s)| s.due <= now) {
            let [gateways, nodes] = intervals;
            let interval = match id.kind {
                Kind::Gateway => gateways,
                Kind::Node => nodes,
            };
            session.sent += 1;
            let hello = Hello {
                from: self.me.clone(),
                hostname: self.hostname.clone(),
                state: session.state,
                mine: session.mine,
                yours: session.challenger.take().unwrap_or(session.theirs),
                sequence: session.sent,
                interval: u32::try_from(interval.as_millis()).unwrap_or(u32::MAX),
                multiplier: self.timing.multiplier,
                answer: answers.get(id).cloned(),
                word: word.clone(),
            };
            // RFC 5880, section 6.8.7: up to a quarter earlier, so that senders don't fall into step.
            let jitter = u32::try_from(derived(session.mine, session.sent) % 25).unwrap_or(0);
            // Nobody there: not as often as to one whose silence would mean something.
            let pace = match (id.kind, session.heard) {
                (_, None) if self.haste.is_some_and(|until| now < until) => interval / 4,
                (Kind::Gateway, None) if session.state == SessionState::Down => {
                    interval.max(SLOW / 4)
                }
                (_, _) => interval,
            };
            session.due = now + pace * (100 - jitter) / 100;
            let mut to = session.addresses.clone();
            if let Some(from) = session.heard_from.filter(|from| !to.contains(from)) {
                to.push(from);
            }
            if !to.is_empty() {
                let sealed = self.keys.seal(&hello, now).into_iter();
                datagrams.extend(sealed.map(|bytes| Datagram {
                    to: to.clone(),
                    bytes,
                }));
            }
        }
        datagrams
    }

    /// When something is due, or somebody's silence means something.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if self.keys.is_empty() {
            return None;
        }
        let due = self.sessions.values().map(|s| s.due);
        let silence = self
            .sessions
            .values()
            .filter_map(|s| Some(s.heard? + s.detection));
        due.chain(silence).min()
    }
}
