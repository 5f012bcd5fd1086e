//! Cables: the tunnels to other clusters' gateways.

pub(super) mod vxlan;
pub(super) mod wireguard;

use std::collections::BTreeMap;
use std::net::IpAddr;

use strait_api::Endpoint;
use strait_api::gateway::{Connection, ConnectionStatus};
use strait_host::{Family, Key};

use super::health::Health;
use crate::driver::Driver;
use crate::local::Underlay;
use crate::net::ip_of;
use crate::remote::Remote;
use wireguard::{Keys, Tunnel};

/// Where a peer is reached in a family: its public address if there may be a NAT in front of it, else the private one.
fn outer(endpoint: &Endpoint, family: Family) -> Option<IpAddr> {
    let private = ip_of(&endpoint.private_ips, family);
    let public = ip_of(&endpoint.public_ips, family);
    if endpoint.spec.nat_enabled {
        public.or(private)
    } else {
        private.or(public)
    }
}

/// What is known of the tunnels of this gateway's cable.
pub(super) enum Known<'a> {
    /// Nothing: VXLAN has no session.
    Vxlan,
    /// Which keys the others have, and what became of the tunnels.
    WireGuard {
        /// By cluster.
        keys: Keys<'a>,
        /// By key.
        tunnels: &'a BTreeMap<Key, Tunnel>,
    },
}

impl Known<'_> {
    fn driver(&self) -> Driver {
        match self {
            Self::Vxlan => Driver::Vxlan,
            Self::WireGuard { .. } => Driver::WireGuard,
        }
    }

    /// What becomes of a connection in a family: its state, why, and which address is used.
    fn state(
        &self,
        remote: &Remote<'_>,
        underlays: &BTreeMap<Family, Underlay>,
        family: Family,
    ) -> (ConnectionStatus, String, Option<IpAddr>) {
        let endpoint = remote.endpoint;
        let error = |message: String| (ConnectionStatus::Error, message, None);
        match self {
            Self::Vxlan if remote.indistinct.contains(&family) => error(format!(
                "its {family} address inside the cable is another gateway's: see CableAddressConflict"
            )),
            Self::Vxlan => match outer(endpoint, family) {
                Some(ip) => (ConnectionStatus::Connected, String::new(), Some(ip)),
                None => error(format!("the other side publishes no {family} address")),
            },
            Self::WireGuard { keys, tunnels } => {
                let key = match keys.get(&endpoint.cluster) {
                    Some(Ok(key)) => key,
                    Some(Err(why)) => return error(why.clone()),
                    None => return error("the other side has no public key".to_owned()),
                };
                let expected = wireguard::endpoint(underlays, endpoint).map(|at| at.ip());
                match tunnels.get(key) {
                    Some(Tunnel::Connected(from)) => {
                        let ip = from.map(|at| at.ip()).or(expected);
                        (ConnectionStatus::Connected, String::new(), ip)
                    }
                    Some(Tunnel::Dead) => {
                        let message = "no handshake for more than three minutes".to_owned();
                        (ConnectionStatus::Error, message, expected)
                    }
                    Some(Tunnel::Connecting) | None => {
                        let message = "no initial handshake yet".to_owned();
                        (ConnectionStatus::Connecting, message, expected)
                    }
                }
            }
        }
    }
}

/// What the Gateway object says of each peer, one entry per family.
pub(super) fn connections(
    underlays: &BTreeMap<Family, Underlay>,
    remotes: &[Remote<'_>],
    known: &Known<'_>,
    health: &Health<'_>,
) -> Vec<Connection> {
    let mut connections = Vec::new();
    let driver = known.driver().name();
    for remote in remotes {
        let endpoint = remote.endpoint;
        let connection = |status, message: String, using: Option<IpAddr>| Connection {
            status,
            status_message: message,
            endpoint: (*endpoint.spec).clone(),
            using_ip: using.map(|ip| ip.to_string()).unwrap_or_default(),
            using_nat: false,
            latency_rtt: None,
        };
        if endpoint.backend != driver {
            let message = format!(
                "cable driver '{}' of the other side does not match ours, '{driver}'",
                endpoint.backend
            );
            connections.push(connection(ConnectionStatus::Error, message, None));
            continue;
        }
        let families = underlays
            .keys()
            .filter(|f| remote.subnets.iter().any(|s| Family::of_net(s) == **f));
        let before = connections.len();
        for family in families {
            let (status, message, using) = known.state(remote, underlays, *family);
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
    }
    connections
}
