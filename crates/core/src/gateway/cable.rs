//! Cables: the tunnels to other clusters' gateways.

pub(super) mod vxlan;
pub(super) mod wireguard;

use std::collections::BTreeMap;

use strait_api::gateway::{Connection, ConnectionStatus};
use strait_api::{ClusterId, Endpoint};
use strait_host::{Family, Key};

use super::copies::Refused;
use super::health::Health;
use crate::condition::readable;
use crate::discovery::{Path, Results as Paths, reached};
use crate::driver::Driver;
use crate::local::Underlay;
use crate::remote::Remote;
use wireguard::{Beside, Keys, Tunnel};

/// What is known of the tunnels of this gateway's cable.
pub(super) enum Known<'a> {
    /// Nothing: VXLAN has no session.
    Vxlan {
        /// UDP port of our device.
        port: u16,
    },
    /// Which keys the others have, and what became of the tunnels.
    WireGuard {
        /// By cluster.
        keys: Keys<'a>,
        /// Others of those who change theirs.
        beside: BTreeMap<&'a ClusterId, Vec<Beside>>,
        /// By key.
        tunnels: &'a BTreeMap<Key, Tunnel>,
    },
}

impl Known<'_> {
    fn driver(&self) -> Driver {
        match self {
            Self::Vxlan { .. } => Driver::Vxlan,
            Self::WireGuard { .. } => Driver::WireGuard,
        }
    }

    /// What becomes of a connection in a family: its state, why, and which address is used.
    fn state(
        &self,
        remote: &Remote<'_>,
        underlays: &BTreeMap<Family, Underlay>,
        paths: &Paths,
        family: Family,
    ) -> (ConnectionStatus, String, Option<Path>) {
        let endpoint = remote.endpoint;
        let error = |message: String| (ConnectionStatus::Error, message, None);
        match self {
            Self::Vxlan { .. } if remote.indistinct.contains(&family) => error(format!(
                "its {family} address inside the cable is another gateway's: see CableAddressConflict"
            )),
            Self::Vxlan { port } => {
                let port = vxlan::port_of(endpoint, *port);
                match (reached(endpoint, family, paths), port) {
                    (_, Err(why)) => error(why),
                    (Some(path), Ok(_)) => match path.rewritten() {
                        None => (ConnectionStatus::Connected, String::new(), Some(path)),
                        Some(why) => error(format!("a VXLAN cable can't pass a NAT: {why}")),
                    },
                    (None, Ok(_)) => error(format!("the other side publishes no {family} address")),
                }
            }
            Self::WireGuard {
                keys,
                beside,
                tunnels,
            } => {
                let key = match keys.get(&endpoint.cluster) {
                    Some(Ok(key)) => key,
                    Some(Err(why)) => return error(why.clone()),
                    None => return error("the other side has no public key".to_owned()),
                };
                let expected = wireguard::reach(underlays, endpoint, paths);
                let because = |message: &str| {
                    let why = expected.and_then(|path| path.unanswered());
                    why.map_or(message.to_owned(), |why| format!("{message}: {why}"))
                };
                let up = |key: &Key| matches!(tunnels.get(key), Some(Tunnel::Connected(_)));
                let others = beside.get(&endpoint.cluster).into_iter().flatten();
                let others: Vec<Key> = others.map(|other| other.key()).collect();
                let other = others.iter().find(|key| up(key)).filter(|_| !up(key));
                match tunnels.get(other.unwrap_or(key)) {
                    Some(Tunnel::Connected(from)) => {
                        let path = expected.map(|path| Path {
                            ip: from.map_or(path.ip, |at| at.ip()),
                            ..path
                        });
                        (ConnectionStatus::Connected, String::new(), path)
                    }
                    Some(Tunnel::Dead) => {
                        let message = because("no handshake for more than three minutes");
                        (ConnectionStatus::Error, message, expected)
                    }
                    Some(Tunnel::Connecting) | None => {
                        let message = because("no initial handshake yet");
                        (ConnectionStatus::Connecting, message, expected)
                    }
                }
            }
        }
    }
}

/// The gateways that may take the place of one of these, with this driver.
fn standbys<'a, 'r>(
    remotes: &'a [Remote<'r>],
    driver: Driver,
) -> impl Iterator<Item = (&'a Remote<'r>, &'a Endpoint)> + 'a {
    let of = |remote: &'a Remote<'r>| remote.endpoint.standbys.iter().map(move |s| (remote, s));
    let all = remotes.iter().flat_map(of);
    all.filter(move |(_, standby)| standby.backend == driver.name())
}

/// So many reasons why something of an Endpoint is not used are told in a connection.
const MOST_REASONS: usize = 8;
/// So many characters of a driver that we do not know are shown.
const LONGEST_DRIVER: usize = 64;

/// What somebody else's Endpoint is the reason of, in a text of limited length.
fn reasons(all: &[String]) -> String {
    let some: Vec<&str> = all.iter().take(MOST_REASONS).map(String::as_str).collect();
    let rest = all.len().saturating_sub(MOST_REASONS);
    let more = if rest > 0 {
        format!("; and {rest} more")
    } else {
        String::new()
    };
    readable(some.join("; ") + &more)
}

/// What the Gateway object says of each peer, one entry per family, in the order of their identifiers, and then of those that are refused. What
/// is not used of a peer's Endpoint stands behind what else there is to say, whatever becomes of the rest.
pub(super) fn connections(
    underlays: &BTreeMap<Family, Underlay>,
    remotes: &[Remote<'_>],
    refused: &[Refused],
    known: &Known<'_>,
    paths: &Paths,
    health: &Health<'_>,
) -> Vec<Connection> {
    let mut connections: Vec<Connection> = Vec::new();
    let driver = known.driver().name();
    let mut remotes: Vec<&Remote<'_>> = remotes.iter().collect();
    remotes.sort_by_key(|remote| &remote.endpoint.cluster);
    for remote in remotes {
        let endpoint = remote.endpoint;
        let connection = |status, message: String, using: Option<Path>| Connection {
            status,
            status_message: message,
            endpoint: (*endpoint.spec).clone(),
            using_ip: using.map(|path| path.ip.to_string()).unwrap_or_default(),
            using_nat: using.is_some_and(|path| path.nat),
            latency_rtt: None,
        };
        if endpoint.backend != driver {
            let theirs: String = endpoint.backend.chars().take(LONGEST_DRIVER).collect();
            let message = readable(format!(
                "cable driver '{theirs}' of the other side does not match ours, '{driver}'"
            ));
            connections.push(connection(ConnectionStatus::Error, message, None));
            continue;
        }
        let families = underlays
            .keys()
            .filter(|f| remote.subnets.iter().any(|s| Family::of_net(s) == **f));
        let before = connections.len();
        for family in families {
            let (status, message, using) = known.state(remote, underlays, paths, *family);
            let connection = connection(status, message, using);
            connections.push(if status == ConnectionStatus::Error && using.is_none() {
                connection
            } else {
                health.merged(connection, remote, *family)
            });
        }
        if connections.len() == before {
            let message = "the other side has no subnet that can be reached from here".to_owned();
            connections.push(connection(ConnectionStatus::Error, message, None));
        }
        if !remote.refused.is_empty() {
            let reasons = reasons(&remote.refused);
            for connection in connections.iter_mut().skip(before) {
                let said = &mut connection.status_message;
                if !said.is_empty() {
                    said.push_str("; ");
                }
                said.push_str(&reasons);
            }
        }
    }
    let refused = refused.iter().map(|refused| Connection {
        status: ConnectionStatus::Error,
        status_message: readable(refused.why.clone()),
        endpoint: refused.spec.clone(),
        using_ip: String::new(),
        using_nat: false,
        latency_rtt: None,
    });
    connections.extend(refused);
    connections
}
