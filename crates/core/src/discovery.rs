//! NAT discovery: by which of its addresses another gateway is reached, and whether somebody rewrites packets in between.
//!
//! Gateways ask each other over UDP, at their private and at their public address, and say in the request where they send
//! from and to; who answers compares that with what arrived. The protocol is Submariner's, in both its dialects: before
//! 0.21 an endpoint is called by its cable name, since then with `-v4` or `-v6` behind it. We ask in both until one is
//! answered, and answer in the one in which we are asked.
//!
//! [`targets`] says whom to ask; a [`Finder`] says when, takes what arrives, and answers others. Whoever has the sockets
//! feeds it: it does no I/O, reads no clock and rolls no dice.

mod answer;
mod check;
mod finder;
mod limit;
mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

pub use finder::Finder;
pub use message::Verdict;
use serde::Serialize;
use strait_api::gateway::ConnectionStatus;
use strait_api::{ClusterId, Endpoint};
use strait_host::Family;

use crate::health;
use crate::net::ip_of;
use crate::remote::Remote;

/// The longest datagram that is looked at, in bytes (upstream's buffer). Ours have some 300.
pub const LONGEST: usize = 2048;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Own {
    /// This cluster.
    pub cluster: ClusterId,
    /// Our Endpoint's cable name.
    pub cable_name: String,
    /// The UDP port on which we ask and are asked; not 0.
    pub port: u16,
    /// Our private addresses, from which we ask.
    pub addresses: BTreeMap<Family, IpAddr>,
}

/// Which way it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// The other cluster.
    pub cluster: ClusterId,
    /// Its Endpoint's cable name.
    pub cable_name: String,
    /// The family outside.
    pub family: Family,
}

/// Whom to ask, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    /// Which way it is about.
    pub key: Key,
    /// Its private address.
    pub private: Option<IpAddr>,
    /// Its public address, if that is another one.
    pub public: Option<IpAddr>,
    /// The UDP port on which it is asked; `None` if it is not.
    pub port: Option<u16>,
    /// Whether it says that there may be a NAT in front of it.
    pub nat_enabled: bool,
    /// Whether it is behind a load balancer.
    pub load_balancer: bool,
    /// The way that was found does not work: look for one again.
    pub dead: bool,
    /// Nothing else tells whether the way that was found still works: look again from time to time.
    pub unwatched: bool,
}

impl Target {
    /// A remote gateway in a family.
    #[must_use]
    pub fn new(endpoint: &Endpoint, family: Family, dead: bool) -> Self {
        let private = ip_of(&endpoint.private_ips, family);
        Self {
            key: Key {
                cluster: endpoint.cluster.clone(),
                cable_name: endpoint.cable_name.clone(),
                family,
            },
            private,
            public: ip_of(&endpoint.public_ips, family).filter(|ip| private != Some(*ip)),
            port: endpoint.natt_port,
            nat_enabled: endpoint.spec.nat_enabled,
            load_balancer: endpoint.load_balancer,
            dead,
            unwatched: false,
        }
    }

    /// What is assumed without an answer: the public address and a NAT if the other side says that there may be one, else
    /// the private one (upstream's rule for peers without discovery). `None` if it publishes no address.
    #[must_use]
    pub fn assumed(&self) -> Option<Path> {
        let nat = self.nat_enabled || self.load_balancer;
        let ip = if nat {
            self.public.or(self.private)
        } else {
            self.private.or(self.public)
        };
        Some(Path {
            ip: ip?,
            nat,
            state: PathState::Assumed,
            comes_from: None,
        })
    }
}

/// How a gateway is reached in a family: as was found, or as is assumed until then.
#[must_use]
pub fn reached(endpoint: &Endpoint, family: Family, found: &Results) -> Option<Path> {
    let target = Target::new(endpoint, family, false);
    if let Some(path) = found.get(&target.key) {
        return Some(*path);
    }
    let state = target
        .port
        .map_or(PathState::Assumed, |_| PathState::Asking);
    Some(Path {
        state,
        ..target.assumed()?
    })
}

/// What is to be found out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Who asks; `None` while nobody does, and nobody is answered.
    pub own: Option<Own>,
    /// Whom to ask.
    pub targets: BTreeSet<Target>,
}

/// How another gateway is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// By this address.
    pub ip: IpAddr,
    /// Whether somebody in between rewrites addresses or ports.
    pub nat: bool,
    /// How that is known.
    pub state: PathState,
    /// Where its own requests come from, if that is not where it says that it sends from. Anybody can send such a request,
    /// so it counts only where there is no answer.
    pub comes_from: Option<SocketAddr>,
}

impl Path {
    /// What may be the reason that a cable which passes NATs has not come about. `None` while there was no time for an answer,
    /// or if there is one.
    #[must_use]
    pub fn unanswered(&self) -> Option<String> {
        let Self { ip, .. } = self;
        match (self.state, self.comes_from) {
            (PathState::Silent, Some(from)) => Some(format!(
                "{ip} does not answer NAT discovery either, and what the other side sends arrives from {from}: a NAT there takes another port for each destination (symmetric), or lets in only whom it has sent to"
            )),
            (PathState::Silent, None) => Some(format!(
                "{ip} does not answer NAT discovery either: UDP is dropped on the way, or a NAT on one side takes another port for each destination (symmetric) while the other side's lets in only whom it has sent to"
            )),
            (PathState::Answered | PathState::Asking | PathState::Assumed, _) => None,
        }
    }

    /// Why a cable can't be used that takes no NAT in between.
    #[must_use]
    pub fn rewritten(&self) -> Option<String> {
        let Self { ip, .. } = self;
        match (self.state, self.comes_from) {
            (PathState::Answered, _) if self.nat => Some(format!(
                "a NAT was found between here and {ip}: addresses or ports are rewritten on the way"
            )),
            (PathState::Silent, Some(from)) => Some(format!(
                "a NAT was found on the way from the other side: what it sends arrives from {from}, and {ip} does not answer"
            )),
            (
                PathState::Answered | PathState::Silent | PathState::Asking | PathState::Assumed,
                _,
            ) => None,
        }
    }
}

/// How a path is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathState {
    /// It is assumed, since nobody is asked.
    Assumed,
    /// It is assumed until there is an answer.
    Asking,
    /// It is assumed, since nobody answered.
    Silent,
    /// The other side answered.
    Answered,
}

impl PathState {
    /// Its name, as a label of metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Assumed => "assumed",
            Self::Asking => "asking",
            Self::Silent => "silent",
            Self::Answered => "answered",
        }
    }
}

/// What was found.
pub type Results = BTreeMap<Key, Path>;

/// Why a datagram did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// It has no bytes.
    Empty,
    /// It has more than [`LONGEST`] bytes, or a name or address in it is longer than any can be.
    TooLong,
    /// It is no message of the protocol.
    Unreadable,
    /// It is neither a request nor a response.
    NoBody,
    /// Nobody is asked or answered here.
    Off,
    /// A request from where too many came from.
    TooMany,
    /// A response to what was not asked, or was answered, or is too old.
    NotAsked,
    /// A response without sender or receiver.
    NoParties,
    /// A response of somebody else, or for somebody else.
    WrongParties,
    /// A response for a private address from another one.
    WrongAddress,
    /// A response that says that the request was wrong: it may have been in the dialect that the other side does not speak.
    Refusal(Verdict),
    /// A response with a verdict that there is not.
    UnknownVerdict,
}

impl Dropped {
    /// Its name, as a label of metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::TooLong => "TooLong",
            Self::Unreadable => "Unreadable",
            Self::NoBody => "NoBody",
            Self::Off => "Off",
            Self::TooMany => "TooMany",
            Self::NotAsked => "NotAsked",
            Self::NoParties => "NoParties",
            Self::WrongParties => "WrongParties",
            Self::WrongAddress => "WrongAddress",
            Self::Refusal(verdict) => match verdict {
                Verdict::UnknownCluster => "RefusedUnknownCluster",
                Verdict::UnknownEndpoint => "RefusedUnknownEndpoint",
                Verdict::Malformed | Verdict::Ok | Verdict::NatDetected => "RefusedMalformed",
            },
            Self::UnknownVerdict => "UnknownVerdict",
        }
    }
}

/// A datagram to send, from [`Own::port`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Where to.
    pub to: SocketAddr,
    /// From which of our addresses; `None` leaves it to the route.
    pub from: Option<IpAddr>,
}

/// What became of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A request, with the answer to send.
    Request(Datagram, Verdict),
    /// A response that was waited for.
    Response,
    /// Nothing.
    Dropped(Dropped),
}

/// Whom to ask: every remote gateway that can be reached, and those that may take its place, in the families in which `own` can ask. How a standby is
/// reached is known then before it is needed: it answers under the name that it is going to publish.
///
/// `up` says whether there is a session with a gateway; `None` if nobody knows. It tells of ways that nobody pings.
#[must_use]
pub fn targets(
    remotes: &[Remote<'_>],
    families: &[Family],
    health: &health::Results,
    up: impl Fn(&Endpoint) -> Option<bool>,
) -> BTreeSet<Target> {
    let of_remote = |remote: &Remote<'_>| {
        let dead = |family| {
            let report = health::target(remote, family)
                .and_then(Result::ok)
                .and_then(|target| health.get(&target));
            match report.map(|report| report.status) {
                Some(ConnectionStatus::Error) => true,
                Some(ConnectionStatus::Connected) => false,
                Some(ConnectionStatus::Connecting | ConnectionStatus::None) | None => {
                    up(remote.endpoint) == Some(false)
                }
            }
        };
        let mut names = BTreeSet::from([&remote.endpoint.cable_name]);
        let mut all = Vec::new();
        for family in families {
            all.push(Target::new(remote.endpoint, *family, dead(*family)));
        }
        // Of several with one name, which nobody but a forger writes, the first counts.
        let standbys = remote.endpoint.standbys.iter();
        for standby in standbys.filter(|standby| names.insert(&standby.cable_name)) {
            // No ping tells whether its way works; a session, if there is one.
            let up = up(standby);
            let of = |family: &Family| Target {
                unwatched: up.is_none(),
                ..Target::new(standby, *family, up == Some(false))
            };
            all.extend(families.iter().map(of));
        }
        all.retain(|target| target.private.is_some() || target.public.is_some());
        all
    };
    remotes.iter().flat_map(of_remote).collect()
}
