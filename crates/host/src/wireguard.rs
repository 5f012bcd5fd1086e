//! WireGuard tunnels as plain data: what one device is to have, and what became of its peers. No secret is in it:
//! private and preshared keys go from where they are kept to the device.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A public key: a point of Curve25519, as base64 of 44 characters where it is text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no public key of WireGuard; expected 32 octets in base64 (44 characters), not all zero"
)]
pub struct BadKey;

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let octets = STANDARD.decode(text).map_err(|_| BadKey)?;
        let key = <[u8; 32]>::try_from(octets).map_err(|_| BadKey)?;
        if key == [0; 32] {
            return Err(BadKey);
        }
        Ok(Self(key))
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What a WireGuard device is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireGuard {
    /// UDP port that it listens on.
    pub port: u16,
    /// Mark of what it sends (`SO_MARK`); 0 for none.
    pub mark: u32,
    /// The largest packet inside, in bytes: what is padded does not become longer.
    pub mtu: u32,
    /// Its peers. Others go.
    pub peers: BTreeMap<Key, Peer>,
}

/// A peer of a WireGuard device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where it is, if that is known: it may be somewhere else by now, which the device finds out by itself.
    pub endpoint: Option<SocketAddr>,
    /// Addresses that are sent to it, and that it may send from. Of none, the tunnel is kept warm only.
    pub allowed: BTreeSet<IpNet>,
    /// Addresses that it may send from though they are another's, to whom they are sent. Only a device in a process of ours takes that: in
    /// the kernel a prefix belongs to one peer.
    #[serde(default)]
    pub accepted: BTreeSet<IpNet>,
    /// Peers whose prefixes go to this one as soon as its session is newer than theirs: it is the same gateway, which changes its key. For a
    /// device in the kernel, where a prefix belongs to one peer.
    #[serde(default)]
    pub succeeds: BTreeSet<Key>,
    /// Seconds between two packets that keep the way open; 0 for never.
    pub keepalive: u16,
}

/// What became of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Where it was heard last, else where it should be.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was completed, in Unix seconds; `None` for never.
    pub handshake: Option<u64>,
    /// Bytes received through the tunnel.
    pub received: u64,
    /// Bytes sent through the tunnel.
    pub sent: u64,
}

/// Seconds after a handshake in which its session lives: then its keys are void (`REJECT_AFTER_TIME` in the protocol's paper).
const SESSION: u64 = 180;

impl PeerStatus {
    /// Whether there is a session, at a time in Unix seconds.
    #[must_use]
    pub fn is_alive(&self, now: u64) -> bool {
        self.handshake
            .is_some_and(|at| now.saturating_sub(at) <= SESSION)
    }
}

/// A WireGuard device, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its public key, once it has a private one.
    pub public_key: Option<Key>,
    /// UDP port that it listens on.
    pub port: u16,
    /// Mark of what it sends.
    pub mark: u32,
    /// Its peers.
    pub peers: BTreeMap<Key, DevicePeer>,
}

/// A peer of a device, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePeer {
    /// Addresses that are sent to it, and that it may send from.
    pub allowed: BTreeSet<IpNet>,
    /// Seconds between two packets that keep the way open; 0 for never.
    pub keepalive: u16,
    /// Whether its preshared key is the one that whoever read the device has: the key itself is not kept here.
    pub shares: bool,
    /// What became of it.
    pub status: PeerStatus,
}

/// What a device was told of a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Since when it has been there, in Unix seconds; or when it was seen to be first.
    pub since: u64,
}

/// Seconds after which one that was heard and has no session is called anew: less than the 5 s after which the kernel calls again
/// (`REKEY_TIMEOUT` in the protocol's paper), and more than a handshake takes.
const CROSSED: u64 = 2;

/// One change of a device's peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A peer is to be there, with these, and with the preshared key of whoever takes the step.
    Set {
        /// Its public key.
        key: Key,
        /// Where it is; `None` leaves that to the device.
        endpoint: Option<SocketAddr>,
        /// Seconds between two packets that keep the way open; 0 for never.
        keepalive: u16,
        /// Prefixes to send to it, which are taken from other peers at once.
        allowed: BTreeSet<IpNet>,
        /// Whether other prefixes that it has go. The device has none of them for a moment then.
        exactly: bool,
    },
    /// A peer goes.
    Remove(Key),
}

impl Device {
    /// The steps from what is to what is wanted: no prefix that stays is without its peer for a moment, unless a peer
    /// loses a prefix that no other gets.
    ///
    /// A peer's place is told where it changed since it was `told` last, or where nothing was told and there is no session that
    /// would go on at the time `now`, in Unix seconds: whoever roams is found by the device.
    ///
    /// Of two of the kernel's devices that call each other at the same time, neither takes the other's answer, and both call again at the same
    /// time, 5 s later. One of the two, whose key is the lesser, begins anew before that.
    #[must_use]
    pub fn steps(&self, wanted: &WireGuard, told: &BTreeMap<Key, Told>, now: u64) -> Vec<Step> {
        let mut have = self.peers.clone();
        let mut steps = Vec::new();
        let mut gain = Vec::new();
        for key in wanted.peers.keys() {
            if self.has_crossed(key, told, now) {
                have.remove(key);
                steps.push(Step::Remove(*key));
            }
        }
        let peers = self.succeeded(wanted);
        for (key, peer) in &peers {
            let known = have.get(key);
            let place = match (known, told.get(key)) {
                (Some(_), Some(told)) => peer.endpoint.filter(|_| told.endpoint != peer.endpoint),
                (Some(known), None) => peer.endpoint.filter(|_| !known.status.is_alive(now)),
                (None, told) => {
                    let crossed = self
                        .peers
                        .get(key)
                        .filter(|_| told.is_some_and(|told| told.endpoint == peer.endpoint));
                    // It was heard there.
                    crossed.and_then(|c| c.status.endpoint).or(peer.endpoint)
                }
            };
            let gained: BTreeSet<IpNet> = match known {
                Some(known) => peer.allowed.difference(&known.allowed).copied().collect(),
                None => peer.allowed.clone(),
            };
            let same = known.is_some_and(|known| known.shares && known.keepalive == peer.keepalive);
            if same && place.is_none() && gained.is_empty() {
                continue;
            }
            gain.extend(gained.iter().map(|net| (*net, *key)));
            steps.push(Step::Set {
                key: *key,
                endpoint: place,
                keepalive: peer.keepalive,
                allowed: gained,
                exactly: false,
            });
        }
        // What one peer gains, another has lost.
        for (net, to) in gain {
            for (key, peer) in &mut have {
                if *key != to {
                    peer.allowed.remove(&net);
                }
            }
        }
        for (key, peer) in &peers {
            let known = have.get(key);
            if known.is_some_and(|known| !known.allowed.is_subset(&peer.allowed)) {
                steps.push(Step::Set {
                    key: *key,
                    endpoint: None,
                    keepalive: peer.keepalive,
                    allowed: peer.allowed.clone(),
                    exactly: true,
                });
            }
        }
        let gone = self.peers.keys().filter(|k| !wanted.peers.contains_key(*k));
        steps.extend(gone.copied().map(Step::Remove));
        steps
    }

    /// Whether our call and a peer's have crossed, and ours is the one to repeat.
    fn has_crossed(&self, key: &Key, told: &BTreeMap<Key, Told>, now: u64) -> bool {
        let (Some(peer), Some(told)) = (self.peers.get(key), told.get(key)) else {
            return false;
        };
        let unanswered = peer.status.handshake.is_none() && peer.status.received > 0;
        let first = self.public_key.is_some_and(|own| own < *key);
        unanswered && first && told.since + CROSSED <= now
    }

    /// The peers that are wanted, with the prefixes of those whose successors have the newer session. Handshakes are told in seconds: of two in
    /// one second the successor's counts.
    fn succeeded(&self, wanted: &WireGuard) -> BTreeMap<Key, Peer> {
        let mut peers = wanted.peers.clone();
        let handshake = |key: &Key| self.peers.get(key)?.status.handshake;
        for (key, successor) in &wanted.peers {
            for before in &successor.succeeds {
                if handshake(key).is_none() || handshake(key) < handshake(before) {
                    continue;
                }
                let left = peers.get_mut(before);
                let left = left.map(|peer| std::mem::take(&mut peer.allowed));
                if let Some(peer) = peers.get_mut(key) {
                    peer.allowed.extend(left.unwrap_or_default());
                }
            }
        }
        peers
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets() -> impl Strategy<Value = BTreeSet<IpNet>> {
        let net = (0u8..6).prop_map(|n| IpNet::from_str(&format!("10.{n}.0.0/16")).unwrap());
        proptest::collection::btree_set(net, 0..4)
    }

    fn peers() -> impl Strategy<Value = BTreeMap<u8, (BTreeSet<IpNet>, u16, u16)>> {
        proptest::collection::btree_map(1u8..5, (nets(), 0u16..2, 1u16..3), 0..4)
    }

    fn key(n: u8) -> Key {
        Key([n; 32])
    }

    /// As the kernel does it: a prefix belongs to one peer.
    fn take(device: &mut Device, step: &Step) {
        match step {
            Step::Remove(key) => drop(device.peers.remove(key)),
            Step::Set {
                key,
                endpoint,
                keepalive,
                allowed,
                exactly,
            } => {
                for peer in device.peers.values_mut() {
                    peer.allowed.retain(|net| !allowed.contains(net));
                }
                let peer = device.peers.entry(*key).or_default();
                if *exactly {
                    peer.allowed.clear();
                }
                peer.allowed.extend(allowed);
                peer.keepalive = *keepalive;
                peer.shares = true;
                peer.status.endpoint = endpoint.or(peer.status.endpoint);
            }
        }
    }

    /// A device can't hold a prefix twice: the first peer of those that want it has it.
    fn wanted(peers: &BTreeMap<u8, (BTreeSet<IpNet>, u16, u16)>) -> WireGuard {
        let mut taken = BTreeSet::new();
        let peer = |(n, (nets, keepalive, port)): (&u8, &(BTreeSet<IpNet>, u16, u16))| {
            let peer = Peer {
                endpoint: Some(SocketAddr::from(([192, 0, 2, *n], *port))),
                allowed: nets
                    .iter()
                    .copied()
                    .filter(|net| taken.insert(*net))
                    .collect(),
                accepted: BTreeSet::new(),
                succeeds: BTreeSet::new(),
                keepalive: *keepalive,
            };
            (key(*n), peer)
        };
        WireGuard {
            peers: peers.iter().map(peer).collect(),
            ..WireGuard::default()
        }
    }

    fn told(wanted: &WireGuard, since: u64) -> BTreeMap<Key, Told> {
        let told = |(key, peer): (&Key, &Peer)| {
            let endpoint = peer.endpoint;
            (*key, Told { endpoint, since })
        };
        wanted.peers.iter().map(told).collect()
    }

    proptest! {
        #[test]
        fn steps_lead_to_what_is_wanted_and_then_there_are_none(before in peers(), after in peers()) {
            let (before, after) = (wanted(&before), wanted(&after));
            let mut device = Device::default();
            for step in device.steps(&before, &BTreeMap::new(), 1000) {
                take(&mut device, &step);
            }
            let kept: BTreeSet<(Key, IpNet)> = before.peers.iter()
                .flat_map(|(k, p)| p.allowed.iter().map(|net| (*k, *net)))
                .filter(|(k, net)| after.peers.get(k).is_some_and(|p| p.allowed.contains(net)))
                .collect();
            for step in device.steps(&after, &told(&before, 1000), 1000) {
                take(&mut device, &step);
                prop_assert!(kept.iter().all(|(k, net)| device.peers[k].allowed.contains(net)));
            }
            let have: BTreeMap<Key, Peer> = device.peers.iter().map(|(k, p)| (*k, Peer {
                endpoint: p.status.endpoint, allowed: p.allowed.clone(), accepted: BTreeSet::new(), succeeds: BTreeSet::new(), keepalive: p.keepalive,
            })).collect();
            prop_assert_eq!(have, after.peers.clone());
            prop_assert_eq!(device.steps(&after, &told(&after, 1000), 1000), vec![]);
        }
    }

    #[test]
    fn who_roams_is_not_called_back() {
        let mut want = WireGuard::default();
        let peer = Peer {
            endpoint: Some("192.0.2.1:4500".parse().unwrap()),
            allowed: BTreeSet::new(),
            accepted: BTreeSet::new(),
            succeeds: BTreeSet::new(),
            keepalive: 10,
        };
        want.peers.insert(key(1), peer);
        let mut device = Device::default();
        let roamed = DevicePeer {
            keepalive: 10,
            shares: true,
            status: PeerStatus {
                endpoint: Some("192.0.2.9:1234".parse().unwrap()),
                handshake: Some(1000),
                ..PeerStatus::default()
            },
            ..DevicePeer::default()
        };
        device.peers.insert(key(1), roamed);
        assert_eq!(device.steps(&want, &BTreeMap::new(), 1000), vec![]);
        // Without a session it is told where the peer should be.
        assert_eq!(device.steps(&want, &BTreeMap::new(), 2000).len(), 1);
        let told = Told {
            endpoint: want.peers[&key(1)].endpoint,
            since: 1000,
        };
        let told = BTreeMap::from([(key(1), told)]);
        assert_eq!(device.steps(&want, &told, 2000), vec![]);
    }

    #[test]
    fn of_two_that_called_each_other_at_once_one_calls_again() {
        let peer = Peer {
            endpoint: Some("192.0.2.1:4500".parse().unwrap()),
            allowed: BTreeSet::from(["10.1.0.0/16".parse().unwrap()]),
            accepted: BTreeSet::new(),
            succeeds: BTreeSet::new(),
            keepalive: 10,
        };
        let want = WireGuard {
            peers: BTreeMap::from([(key(5), peer.clone())]),
            ..WireGuard::default()
        };
        let heard_at = "192.0.2.9:1234".parse().ok();
        let device = |own: u8, received, handshake| {
            let there = DevicePeer {
                allowed: peer.allowed.clone(),
                keepalive: 10,
                shares: true,
                status: PeerStatus {
                    endpoint: heard_at,
                    handshake,
                    received,
                    sent: 148,
                },
            };
            Device {
                public_key: Some(key(own)),
                peers: BTreeMap::from([(key(5), there)]),
                ..Device::default()
            }
        };
        let told = Told {
            endpoint: peer.endpoint,
            since: 1000,
        };
        let told = BTreeMap::from([(key(5), told)]);
        let again = vec![
            Step::Remove(key(5)),
            Step::Set {
                key: key(5),
                endpoint: heard_at,
                keepalive: 10,
                allowed: peer.allowed.clone(),
                exactly: false,
            },
        ];
        assert_eq!(device(1, 148, None).steps(&want, &told, 1002), again);
        // Its answer may be on its way, the other one does it, nothing was heard, there is a session, or it is not known since when.
        assert_eq!(device(1, 148, None).steps(&want, &told, 1001), vec![]);
        assert_eq!(device(9, 148, None).steps(&want, &told, 1002), vec![]);
        assert_eq!(device(1, 0, None).steps(&want, &told, 1002), vec![]);
        let session = device(1, 148, Some(1001));
        assert_eq!(session.steps(&want, &told, 1002), vec![]);
        let anew = device(1, 148, None).steps(&want, &BTreeMap::new(), 1002);
        assert!(!anew.contains(&Step::Remove(key(5))), "{anew:?}");
    }

    #[test]
    fn who_has_another_preshared_key_gets_ours_and_keeps_all_else() {
        let want = wanted(&[(1, ([].into(), 1, 1)), (2, ([].into(), 1, 2))].into());
        let told = told(&want, 1000);
        let mut device = Device::default();
        for step in device.steps(&want, &BTreeMap::new(), 1000) {
            take(&mut device, &step);
        }
        device.peers.entry(key(2)).or_default().shares = false;
        let steps = device.steps(&want, &told, 1000);
        let only = Step::Set {
            key: key(2),
            endpoint: None,
            keepalive: 1,
            allowed: BTreeSet::new(),
            exactly: false,
        };
        assert_eq!(steps, [only]);
        take(&mut device, &steps[0]);
        assert_eq!(device.steps(&want, &told, 1000), vec![]);
    }

    #[test]
    fn prefixes_go_to_whom_a_peer_becomes_when_he_is_heard_and_back_if_he_is_not_any_more() {
        let net: IpNet = "10.2.0.0/16".parse().unwrap();
        let mut want = wanted(&[(1, ([net].into(), 1, 1)), (2, ([].into(), 1, 1))].into());
        want.peers.get_mut(&key(2)).unwrap().succeeds = [key(1), key(3)].into();
        let told = told(&want, 1000);
        let mut device = Device::default();
        let mut holder = |first: Option<u64>, second: Option<u64>| {
            for (number, at) in [(1, first), (2, second)] {
                device
                    .peers
                    .entry(key(number))
                    .or_default()
                    .status
                    .handshake = at;
            }
            let steps = device.steps(&want, &told, 1000);
            let several = steps.len();
            for step in steps {
                take(&mut device, &step);
            }
            assert_eq!(device.steps(&want, &told, 1000), vec![]);
            let has = |n| device.peers[&key(n)].allowed.contains(&net);
            assert!(has(1) != has(2));
            (if has(1) { 1 } else { 2 }, several)
        };
        assert_eq!(holder(None, None).0, 1);
        assert_eq!(holder(Some(900), None), (1, 0));
        // By one step, so that it is never nobody's.
        assert_eq!(holder(Some(900), Some(900)), (2, 1));
        assert_eq!(holder(Some(900), Some(990)), (2, 0));
        assert_eq!(holder(Some(995), Some(990)), (1, 1));
        assert_eq!(holder(None, Some(990)), (2, 1));
    }

    #[test]
    fn a_key_is_read_and_written_alike() {
        let text = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        let key: Key = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        for bad in [
            "",
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg",
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8A==",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "not a key at all, though of the right length",
        ] {
            assert_eq!(bad.parse::<Key>(), Err(BadKey), "{bad}");
        }
    }
}
