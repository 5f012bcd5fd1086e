//! A node's part: it follows the newest gateway, also while the API server is away, and bears witness to who is heard.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::{
    Answer, Claim, Datagram, Kind, Mesh, PeerId, Received, Refusal, Term, Timing, Turn, Word,
};
use crate::Time;

/// The gateway that carries the traffic, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// Its host name.
    pub hostname: String,
    /// What it says.
    pub claim: Claim,
}

/// What a node knows of its cluster's gateways.
#[derive(Debug, Clone)]
pub struct Follower {
    mesh: Mesh,
    following: Option<Following>,
    witness: Witness,
}

/// Who is said to carry the traffic, and for whom it was voted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness {
    /// The newest turn that is known of.
    pub newest: Option<Turn>,
    voted: Option<Turn>,
    answers: BTreeMap<PeerId, Answer>,
}

impl Witness {
    /// Takes in which turns a hello tells of; whether there is a newer one.
    pub(crate) fn learn(&mut self, turn: &Turn) -> bool {
        let newer = self.newest.as_ref().is_none_or(|known| known < turn);
        if newer {
            self.newest = Some(turn.clone());
        }
        newer
    }

    /// Answers one who asks for votes. `hears`: whether the gateway that carries the traffic is heard now.
    ///
    /// A term is granted once, only if it is newer than all that is known of, and only if nobody carries the traffic as far
    /// as can be heard.
    pub(crate) fn answer(&mut self, from: &PeerId, hostname: &str, term: Term, hears: bool) {
        let asked = Turn {
            term,
            holder: hostname.to_owned(),
        };
        let newer = self.newest.as_ref().is_none_or(|known| known.term < term);
        let free = self
            .voted
            .as_ref()
            .is_none_or(|voted| voted.term < term || *voted == asked);
        let granted = newer && free && !hears;
        if granted {
            self.voted = Some(asked);
        }
        let answer = Answer {
            term,
            granted,
            hears,
        };
        self.answers.insert(from.clone(), answer);
    }

    pub(crate) fn answers(&self) -> &BTreeMap<PeerId, Answer> {
        &self.answers
    }

    /// Whoever asks no more gets no answer.
    pub(crate) fn forget(&mut self, from: &PeerId) {
        self.answers.remove(from);
    }
}

impl Follower {
    /// Of the node with this name; see [`Mesh::new`].
    #[must_use]
    pub fn new(node: &str, hostname: &str, port: u16, random: u64) -> Self {
        let me = PeerId {
            kind: Kind::Node,
            node: node.to_owned(),
        };
        Self {
            mesh: Mesh::new(me, hostname, Timing::default(), port, random),
            following: None,
            witness: Witness::default(),
        }
    }

    /// Takes the cluster's secret in.
    pub fn secret(&mut self, secret: &[u8], now: Time) {
        self.mesh.secret(secret, now);
    }

    /// The cluster's Nodes by name: addresses, and whether each may be a gateway.
    pub fn nodes(&mut self, nodes: &BTreeMap<String, (Vec<IpAddr>, bool)>, now: Time) {
        self.mesh.nodes(nodes, now);
    }

    /// A datagram came.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn receive(&mut self, bytes: &[u8], from: SocketAddr, now: Time) -> Result<(), Refusal> {
        let Some(Received { from, hello }) = self.mesh.receive(bytes, from, now)? else {
            return Ok(());
        };
        if let Some(newest) = &hello.word.newest {
            self.witness.learn(newest);
        }
        if let Some(claim) = hello.word.claim {
            let turn = Turn {
                term: claim.term,
                holder: hello.hostname.clone(),
            };
            self.witness.learn(&turn);
            if self.turn().is_none_or(|followed| followed <= turn) {
                self.following = Some(Following {
                    hostname: hello.hostname.clone(),
                    claim,
                });
            }
        }
        match hello.word.asks {
            Some(term) => {
                let hears = self.hears(now);
                self.witness.answer(&from, &hello.hostname, term, hears);
                self.mesh.hurry_to(&from, now);
            }
            None => self.witness.forget(&from),
        }
        Ok(())
    }

    fn turn(&self) -> Option<Turn> {
        let Following { hostname, claim } = self.following.as_ref()?;
        Some(Turn {
            term: claim.term,
            holder: hostname.clone(),
        })
    }

    /// Whether the gateway that is followed is heard, and goes on.
    #[must_use]
    pub fn hears(&self, now: Time) -> bool {
        self.following.as_ref().is_some_and(|following| {
            let said = self.mesh.hears(&following.hostname, now);
            said.is_some_and(|said| said.word.claim.is_some() && !said.word.leaving)
        })
    }

    /// The newest gateway that said that it carries the traffic; it need not be heard any longer.
    #[must_use]
    pub fn following(&self) -> Option<&Following> {
        self.following.as_ref()
    }

    /// How many datagrams were dropped, by reason.
    #[must_use]
    pub fn refused(&self) -> &BTreeMap<Refusal, u64> {
        self.mesh.refused()
    }

    /// Counts a datagram that is dropped.
    pub fn refuse(&mut self, why: Refusal) {
        self.mesh.refuse(why);
    }

    /// Time has passed: what is to be sent.
    pub fn tick(&mut self, now: Time) -> Vec<Datagram> {
        self.mesh.look(now);
        let word = Word {
            newest: self.witness.newest.clone(),
            ..Word::default()
        };
        self.mesh.due(&word, self.witness.answers(), now)
    }

    /// When [`Follower::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.mesh.deadline()
    }
}
