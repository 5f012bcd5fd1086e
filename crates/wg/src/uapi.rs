//! The text by which `wg` asks and sets (www.wireguard.com/xplatform): our door for looking at a device, not the way that it is
//! configured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::{Config, PeerConfig, PeerStatus, PresharedKey, PrivateKey, PublicKey};

/// What somebody wants of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Get,
    Set(Box<Change>),
}

/// What is to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Change {
    private_key: Option<PrivateKey>,
    /// It can't be changed, but may be told.
    pub(crate) listen_port: Option<u16>,
    /// The same.
    pub(crate) mark: Option<u32>,
    replace_peers: bool,
    peers: Vec<PeerChange>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PeerChange {
    key: PublicKey,
    remove: bool,
    update_only: bool,
    preshared: Option<[u8; 32]>,
    endpoint: Option<SocketAddr>,
    keepalive: Option<u16>,
    replace_allowed: bool,
    allowed: Vec<(IpNet, bool)>,
}

/// A request that can't be understood, or not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invalid;

impl Request {
    /// Reads a request; it ends with an empty line, or with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        let mut lines = text.lines().take_while(|line| !line.is_empty());
        match lines.next() {
            Some("get=1") => Ok(Self::Get),
            Some("set=1") => {
                let mut change = Change::default();
                for line in lines {
                    let (key, value) = line.split_once('=').ok_or(Invalid)?;
                    change.line(key, value)?;
                }
                Ok(Self::Set(Box::new(change)))
            }
            Some(_) | None => Err(Invalid),
        }
    }
}

impl Change {
    fn line(&mut self, key: &str, value: &str) -> Result<(), Invalid> {
        if key == "public_key" {
            self.peers.push(PeerChange {
                key: PublicKey(unhex(value)?),
                remove: false,
                update_only: false,
                preshared: None,
                endpoint: None,
                keepalive: None,
                replace_allowed: false,
                allowed: Vec::new(),
            });
            return Ok(());
        }
        let Some(peer) = self.peers.last_mut() else {
            match key {
                "private_key" => self.private_key = Some(PrivateKey::from_bytes(unhex(value)?)),
                "listen_port" => self.listen_port = Some(number(value)?),
                "fwmark" => self.mark = Some(number(value)?),
                "replace_peers" => self.replace_peers = yes(value)?,
                _ => return Err(Invalid),
            }
            return Ok(());
        };
        match key {
            "remove" => peer.remove = yes(value)?,
            "update_only" => peer.update_only = yes(value)?,
            "preshared_key" => peer.preshared = Some(unhex(value)?),
            "endpoint" => peer.endpoint = Some(number(value)?),
            "persistent_keepalive_interval" => peer.keepalive = Some(number(value)?),
            "replace_allowed_ips" => peer.replace_allowed = yes(value)?,
            "allowed_ip" => {
                let (net, add) = value
                    .strip_prefix('-')
                    .map_or((value, true), |net| (net, false));
                peer.allowed.push((number::<IpNet>(net)?.trunc(), add));
            }
            "protocol_version" if value == "1" => {}
            _ => return Err(Invalid),
        }
        Ok(())
    }

    /// The configuration that follows from this one. Without a private key there is none.
    pub(crate) fn apply(self, to: Option<Config>) -> Result<Config, Invalid> {
        let (key, mut peers) = match to {
            Some(config) => (Some(config.private_key), config.peers),
            None => (None, BTreeMap::new()),
        };
        if self.replace_peers {
            peers.clear();
        }
        for change in self.peers {
            if change.remove {
                peers.remove(&change.key);
                continue;
            }
            if change.update_only && !peers.contains_key(&change.key) {
                continue;
            }
            // Here a prefix belongs to one peer.
            for (net, _) in change.allowed.iter().filter(|(_, add)| *add) {
                let others = peers.iter_mut().filter(|(key, _)| **key != change.key);
                others.for_each(|(_, peer)| {
                    peer.allowed.remove(net);
                });
            }
            change.apply(peers.entry(change.key).or_default());
        }
        Ok(Config {
            private_key: self.private_key.or(key).ok_or(Invalid)?,
            peers,
        })
    }
}

impl PeerChange {
    fn apply(&self, peer: &mut PeerConfig) {
        if let Some(bytes) = self.preshared {
            let set = bytes != [0; 32];
            peer.preshared = set.then(|| PresharedKey::from_bytes(bytes));
        }
        if self.endpoint.is_some() {
            peer.endpoint = self.endpoint;
        }
        if let Some(seconds) = self.keepalive {
            peer.keepalive = Some(seconds).filter(|seconds| *seconds > 0);
        }
        if self.replace_allowed {
            peer.allowed.clear();
        }
        for (net, add) in &self.allowed {
            if *add {
                peer.allowed.insert(*net);
            } else {
                peer.allowed.remove(net);
            }
        }
    }
}

/// The answer to `get=1`.
pub(crate) fn show(
    config: Option<&Config>,
    port: Option<u16>,
    status: &BTreeMap<PublicKey, PeerStatus>,
) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}={value}");
    };
    if let Some(config) = config {
        line("private_key", &hex(config.private_key.as_bytes()));
    }
    line("listen_port", &port.unwrap_or_default());
    for (key, peer) in config.iter().flat_map(|config| &config.peers) {
        line("public_key", &hex(&key.0));
        let none = PresharedKey::from_bytes([0; 32]);
        let preshared = peer.preshared.as_ref().unwrap_or(&none);
        line("preshared_key", &hex(preshared.as_bytes()));
        line("protocol_version", &1);
        let status = status.get(key);
        let endpoint = status.and_then(|status| status.endpoint).or(peer.endpoint);
        if let Some(endpoint) = endpoint {
            line("endpoint", &endpoint);
        }
        if let Some(status) = status {
            let since = status
                .last_handshake
                .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            let since = since.unwrap_or_default();
            line("last_handshake_time_sec", &since.as_secs());
            line("last_handshake_time_nsec", &since.subsec_nanos());
            line("tx_bytes", &status.tx_bytes);
            line("rx_bytes", &status.rx_bytes);
        }
        line(
            "persistent_keepalive_interval",
            &peer.keepalive.unwrap_or_default(),
        );
        peer.allowed.iter().for_each(|net| line("allowed_ip", net));
    }
    text
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Result<[u8; 32], Invalid> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Invalid);
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let pair = std::str::from_utf8(pair).map_err(|_| Invalid)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| Invalid)?;
    }
    Ok(bytes)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Invalid> {
    text.parse().map_err(|_| Invalid)
}

fn yes(text: &str) -> Result<bool, Invalid> {
    if text == "true" {
        Ok(true)
    } else {
        Err(Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_requests_are_refused_or_understood_and_what_is_shown_can_be_set() {
        strait_fuzz::fuzz("corpus/uapi", 20_000, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            let Ok(Request::Set(change)) = Request::parse(text) else {
                return;
            };
            let Ok(config) = change.apply(None) else {
                return;
            };
            let shown = show(Some(&config), None, &BTreeMap::new());
            let again = Request::parse(&format!("set=1\n{shown}\n"));
            let Ok(Request::Set(again)) = again else {
                panic!("{shown}")
            };
            assert_eq!(again.apply(None), Ok(config));
        });
    }

    #[test]
    fn a_prefix_goes_from_one_peer_to_the_other() {
        let key = |byte: u8| hex(&[byte; 32]);
        let (secret, one, two) = (key(8), key(1), key(2));
        let set = |text: &str, to| {
            let Ok(Request::Set(change)) = Request::parse(text) else {
                panic!("{text}")
            };
            change.apply(to).unwrap()
        };
        let first = set(
            &format!("set=1\nprivate_key={secret}\npublic_key={one}\nallowed_ip=10.1.2.3/8\n\n"),
            None,
        );
        let net: IpNet = "10.0.0.0/8".parse().unwrap();
        assert!(first.peers[&PublicKey([1; 32])].allowed.contains(&net));
        let then = set(
            &format!(
                "set=1\npublic_key={two}\nallowed_ip=10.0.0.0/8\npublic_key={one}\nupdate_only=true\n\n"
            ),
            Some(first),
        );
        assert!(then.peers[&PublicKey([1; 32])].allowed.is_empty());
        assert!(then.peers[&PublicKey([2; 32])].allowed.contains(&net));
        let gone = set(
            &format!("set=1\npublic_key={one}\nremove=true\n"),
            Some(then),
        );
        assert_eq!(gone.peers.len(), 1);
    }
}
