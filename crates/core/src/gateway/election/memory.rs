//! What outlives a gateway's process in the hands of its parent: the turn in which it carries the traffic, and what the next
//! process needs to be heard in that at once, before any API server has answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Election, Role, Settings};
use crate::Time;
use crate::hello::{Claim, PeerId, Timing, Turn};

/// A gateway whose process has died so often within [`OFTEN`] does not go on: another one is to carry the traffic.
const DEATHS: usize = 3;
/// See [`DEATHS`].
const OFTEN: Duration = Duration::from_secs(10);
/// It listens for so long, lest it be quicker than another one on a busy machine: the Lease is in its name.
const PENANCE: Duration = Duration::from_secs(3);

/// What one process leaves to the next. The cluster's secret is in it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// What it says of itself, with the term of its turn; `None` unless it carries the traffic, and is going to.
    claim: Option<Claim>,
    secret: Vec<u8>,
    nodes: BTreeMap<String, (Vec<IpAddr>, bool)>,
    /// Where peers were heard: agents have any port.
    places: BTreeSet<(PeerId, SocketAddr)>,
    /// When processes have died, since the host began.
    deaths: Vec<Duration>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("claim", &self.claim)
            .field("nodes", &self.nodes.len())
            .field("places", &self.places.len())
            .field("deaths", &self.deaths)
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// What the next process may make of it. `beat` is when the one before was surely there, `now` when the next one begins, both
    /// since the host began: after as much silence as others take for its end it has no turn any more.
    #[must_use]
    pub fn at(mut self, beat: Duration, now: Duration, timing: Timing) -> Self {
        self.deaths.retain(|death| now < *death + OFTEN);
        self.deaths.push(beat);
        if now >= beat + timing.detection() || self.deaths.len() >= DEATHS {
            self.claim = None;
        }
        self
    }

    /// Whether who has this goes on in the turn of the one before.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.claim.is_some()
    }
}

/// What of the memory is out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outdated {
    /// What helps to be heard: it may be written a little later.
    Peers,
    /// Whether it carries the traffic, and as what: to be written before anything is sent.
    Turn,
}

impl Election {
    /// One that goes on where a process before it died, if the memory of that one says so; else as [`Election::new`].
    #[must_use]
    pub fn after(settings: Settings, random: u64, memory: Memory) -> Self {
        let mut election = Self::new(settings, random);
        let begun = Time::default();
        if memory.deaths.len() >= DEATHS {
            election.listens = PENANCE;
        }
        election.deaths = memory.deaths;
        election.outdated = Some(Outdated::Turn);
        let Some(claim) = memory.claim else {
            return election;
        };
        election.begun = Some(begun);
        if !memory.secret.is_empty() {
            election.mesh.secret(&memory.secret, begun);
            election.secret = memory.secret;
        }
        election.mesh.nodes(&memory.nodes, begun);
        election.mesh.go_on(memory.places, begun);
        election.nodes = memory.nodes;
        let turn = Turn {
            term: claim.term,
            holder: election.settings.hostname.clone(),
        };
        election.witness.learn(&turn);
        election.role = Role::Active(claim.term);
        election.claim = Some(claim);
        election
    }

    /// The cluster's Nodes, as far as it knows them.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<String, (Vec<IpAddr>, bool)> {
        &self.nodes
    }

    /// What of [`Election::memory`] has changed since [`Election::memorised`] was called last.
    #[must_use]
    pub fn outdated(&self) -> Option<Outdated> {
        self.outdated
            .max(self.mesh.has_moved().then_some(Outdated::Peers))
    }

    /// The memory was written.
    pub fn memorised(&mut self) {
        self.outdated = None;
        self.mesh.moves_are_known();
    }

    /// What the next process needs, should this one die now.
    #[must_use]
    pub fn memory(&self) -> Memory {
        Memory {
            claim: self.turn_to_keep(),
            secret: self.secret.clone(),
            nodes: self.nodes.clone(),
            places: self.mesh.places().collect(),
            deaths: self.deaths.clone(),
        }
    }

    /// What it says of itself if it carries the traffic, and goes on.
    pub(super) fn turn_to_keep(&self) -> Option<Claim> {
        match self.role {
            Role::Active(term) if self.leaving.is_none() => {
                self.claim.clone().map(|claim| Claim { term, ..claim })
            }
            Role::Active(_) | Role::Standby => None,
        }
    }
}
