//! The direct watch between the gateways of a cluster, and between them and its nodes: who is there, who carries the
//! traffic, and who may take over.
//!
//! A [`Mesh`] keeps one session with each peer, after the state machine of RFC 5880 (BFD), with datagrams of our own: they are
//! authenticated, and say more. A [`Follower`] is a node's part: it follows the newest gateway, and bears witness.

mod follower;
mod mesh;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub(crate) use follower::Witness;
pub use follower::{Follower, Following};
pub use mesh::{Mesh, Received};
use serde::{Deserialize, Serialize};
pub use strait_api::Term;
pub use wire::{KeyRing, MAX_DATAGRAM, Refusal};

/// A turn, and whose it is. The order decides which one counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Turn {
    /// When it began.
    pub term: Term,
    /// Host name of the gateway.
    pub holder: String,
}

/// What somebody on the other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A gateway, active or not.
    Gateway,
    /// A node: its route agent.
    Node,
}

/// Which peer: its kind, and the name of its Node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerId {
    /// What it is.
    pub kind: Kind,
    /// Name of its Node.
    pub node: String,
}

/// Session states, with RFC 5880's meanings (section 6.2). AdminDown is not used: who ends says so ([`Hello::leaving`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// The other is not heard.
    Down,
    /// The other is heard, and does not say yet that it hears us.
    Init,
    /// Both hear each other.
    Up,
}

/// What nodes need to know of the gateway that carries the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Since which term.
    pub term: Term,
    /// Its addresses on the nodes' network, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Its cable's name.
    pub cable: String,
    /// The cable's driver.
    pub backend: String,
    /// The cable's device.
    pub interface: String,
}

/// The answer to one who asks for votes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What was asked.
    pub term: Term,
    /// Whether the term is granted.
    pub granted: bool,
    /// Whether the gateway that carries the traffic is heard by the one who answers: then nobody may take its place.
    pub hears: bool,
}

/// What is the same to every peer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Word {
    /// Of a gateway that carries the traffic: what nodes need to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// The newest turn that is known of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Turn>,
    /// Whether it ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// To whom it hands over, by host name, with the term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Turn>,
    /// The term for which it asks for votes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<Term>,
}

/// A datagram's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who speaks.
    pub from: PeerId,
    /// Its host name.
    pub hostname: String,
    /// The session's state as it sees it.
    pub state: SessionState,
    /// Its number of this session (RFC 5880's discriminator): another for each try.
    pub mine: u64,
    /// The number that it has heard from us; 0 for none.
    pub yours: u64,
    /// Counts its datagrams of this session.
    pub sequence: u64,
    /// Milliseconds until its next one, at most.
    pub interval: u32,
    /// So many intervals of silence mean that it is gone.
    pub multiplier: u8,
    /// The answer to what we asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// What it says to all.
    #[serde(flatten)]
    pub word: Word,
}

/// A datagram to send, to each of these addresses: peers take only the first copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Where to.
    pub to: Vec<SocketAddr>,
    /// What.
    pub bytes: Vec<u8>,
}

/// How often peers hear from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two datagrams of gateways, and of the one that carries traffic to nodes.
    pub interval: Duration,
    /// So many intervals of silence mean that a peer is gone.
    pub multiplier: u8,
}

impl Timing {
    /// After so much silence a gateway is gone.
    #[must_use]
    pub fn detection(&self) -> Duration {
        self.interval * u32::from(self.multiplier)
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            multiplier: 3,
        }
    }
}
