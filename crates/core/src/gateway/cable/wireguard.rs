//! The WireGuard cable: one device for both families, and a peer for each other cluster.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use strait_api::names::{
    ANNOTATION_FORMER_KEY, ANNOTATION_NEXT_KEY, ANNOTATION_STANDBYS, BACKEND_PUBLIC_KEY,
    CABLE_WIREGUARD, LINK_ALIAS, UNDERLAY_MARK, WIREGUARD_KEEPALIVE, WIREGUARD_OVERHEAD_V4,
    WIREGUARD_OVERHEAD_V6,
};
use strait_api::vtep::Vxlan;
use strait_api::{ClusterId, Endpoint};
use strait_host::{
    Address, Family, Host, Key, Link, LinkKind, Owned, Peer, PeerStatus, Scope, Wanted, WireGuard,
};

use crate::discovery::{Path, PathState, Results as Paths, reached};
use crate::driver::Driver;
use crate::local::Underlay;
use crate::remote::Remote;

use super::standbys;

/// The device of a WireGuard cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its public key, which peers must know.
    pub public_key: Key,
    /// The public key of one that it is to have instead, once peers know it.
    pub next: Option<Key>,
    /// That of the one which it had before, while sessions of that may go on.
    pub former: Option<Key>,
    /// Whether it is the kernel's. Otherwise this process holds the other end of a TUN device.
    pub kernel: bool,
}

impl Device {
    /// All its keys.
    pub(in crate::gateway) fn keys(&self) -> impl Iterator<Item = Key> {
        [Some(self.public_key), self.next, self.former]
            .into_iter()
            .flatten()
    }
}

/// What became of the tunnel to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// There was no handshake yet.
    Connecting,
    /// There is a session, with a peer that was heard from here.
    Connected(Option<SocketAddr>),
    /// The last session is over, and there is no other.
    Dead,
}

/// What became of all tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// By the peer's public key.
    pub peers: BTreeMap<Key, Tunnel>,
    /// Whether this process holds the other end of a TUN device with the cable's name.
    pub held: bool,
    /// Whole minutes, and the one that is begun, by which the clock lies before the last handshakes: peers refuse ours until then. 0: it does not.
    pub behind: u64,
    /// Why the device is not as it is wanted.
    pub failure: Option<String>,
}

impl Tunnel {
    /// What a device says of a peer, at a time in Unix seconds.
    #[must_use]
    pub fn of(status: &PeerStatus, now: u64) -> Self {
        match status.handshake {
            None => Self::Connecting,
            Some(_) if status.is_alive(now) => Self::Connected(status.endpoint),
            Some(_) => Self::Dead,
        }
    }
}

/// The other gateways' public keys, and why there is none.
pub(in crate::gateway) type Keys<'a> = BTreeMap<&'a ClusterId, Result<Key, String>>;

/// Of two clusters with one key, the first has it.
pub(in crate::gateway) fn keys<'a>(own: Device, remotes: &[Remote<'a>]) -> Keys<'a> {
    let ours = own.keys().map(|key| (key, "this gateway".to_owned()));
    let mut taken: BTreeMap<Key, String> = ours.collect();
    let wireguard = remotes
        .iter()
        .filter(|r| r.endpoint.backend == Driver::WireGuard.name());
    wireguard
        .map(|remote| {
            let cluster = &remote.endpoint.cluster;
            let key = public_key(remote.endpoint).and_then(|key| {
                if let Some(other) = taken.get(&key) {
                    return Err(format!("its public key {key} is that of {other}"));
                }
                taken.insert(key, format!("cluster {cluster}"));
                Ok(key)
            });
            (cluster, key)
        })
        .collect()
}

/// Other keys of gateways that change theirs, and which of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Beside {
    /// It is going to have this one.
    Next(Key),
    /// It had this one until a moment ago.
    Former(Key),
}

impl Beside {
    pub(in crate::gateway) fn key(self) -> Key {
        match self {
            Self::Next(key) | Self::Former(key) => key,
        }
    }
}

/// By cluster; and what is said of such keys, or of those of standbys, and can't be used, or is said of two clusters. The keys that count go
/// before all of these, whoever claims them. Of others nobody can say whose they are: each claim holds for its own cluster's prefixes, and
/// takes nothing from anybody.
pub(in crate::gateway) fn beside<'a>(
    own: Device,
    keys: &Keys<'a>,
    remotes: &[Remote<'a>],
) -> (BTreeMap<&'a ClusterId, Vec<Beside>>, Vec<String>) {
    let mut claims = Claims::new(own, keys);
    let (mut all, mut unusable) = (BTreeMap::<_, Vec<Beside>>::new(), Vec::new());
    for Remote { endpoint, .. } in remotes {
        let (cluster, name) = (&endpoint.cluster, &endpoint.name);
        let (Some(Ok(current)), Some(others)) = (keys.get(cluster), endpoint.other_keys.as_deref())
        else {
            continue;
        };
        let next = Beside::Next as fn(Key) -> Beside;
        let kinds = [
            (ANNOTATION_NEXT_KEY, &others.next, next),
            (ANNOTATION_FORMER_KEY, &others.former, Beside::Former),
        ];
        for (annotation, text, kind) in kinds {
            let Some(text) = text else { continue };
            let why = match text.parse::<Key>() {
                // Of two copies of an Endpoint the later may be of before.
                Ok(key) if key == *current => continue,
                Ok(key) => {
                    let (usable, why) = claims.claim(cluster, key);
                    if usable {
                        all.entry(cluster).or_default().push(kind(key));
                    }
                    why
                }
                Err(why) => Some(why.to_string()),
            };
            let said = |why| format!("Endpoint {name}: annotation {annotation}: '{text}' {why}");
            unusable.extend(why.map(said));
        }
    }
    for (remote, standby) in standbys(remotes, Driver::WireGuard) {
        let (cluster, name) = (&remote.endpoint.cluster, &remote.endpoint.name);
        let Ok(key) = public_key(standby) else {
            continue;
        };
        let said =
            |why| format!("Endpoint {name}: annotation {ANNOTATION_STANDBYS}: '{key}' {why}");
        unusable.extend(claims.claim(cluster, key).1.map(said));
    }
    (all, unusable)
}

/// Who says of which keys that they are his.
struct Claims<'a> {
    ours: BTreeSet<Key>,
    counting: BTreeMap<Key, &'a ClusterId>,
    others: BTreeMap<Key, &'a ClusterId>,
}

impl<'a> Claims<'a> {
    fn new(own: Device, keys: &Keys<'a>) -> Self {
        let counting = |(cluster, key): (&&'a ClusterId, &Result<Key, String>)| {
            Some((*key.as_ref().ok()?, *cluster))
        };
        Self {
            ours: own.keys().collect(),
            counting: keys.iter().filter_map(counting).collect(),
            others: BTreeMap::new(),
        }
    }

    /// Whether a cluster may have such a key, and what is wrong with it.
    fn claim(&mut self, cluster: &'a ClusterId, key: Key) -> (bool, Option<String>) {
        if self.ours.contains(&key) {
            return (false, Some("is a key of this gateway".to_owned()));
        }
        match self.counting.get(&key) {
            Some(other) if *other == cluster => return (true, None),
            Some(other) => return (false, Some(format!("is the key of cluster {other}"))),
            None => {}
        }
        let first = *self.others.entry(key).or_insert(cluster);
        let why = || format!("is a key that cluster {first} tells of, too; each is let use it");
        (true, (first != cluster).then(why))
    }
}

fn public_key(endpoint: &Endpoint) -> Result<Key, String> {
    let config = &endpoint.spec.backend_config;
    let Some(text) = config.get(BACKEND_PUBLIC_KEY) else {
        return Err(format!(
            "the other side publishes no public key (backend_config {BACKEND_PUBLIC_KEY})"
        ));
    };
    text.parse()
        .map_err(|why| format!("backend_config {BACKEND_PUBLIC_KEY} of the other side {why}"))
}

/// How a peer is reached: over IPv4 where both sides have it, unless nobody answers there and there is another way.
pub(in crate::gateway) fn reach(
    underlays: &BTreeMap<Family, Underlay>,
    endpoint: &Endpoint,
    paths: &Paths,
) -> Option<Path> {
    let all = || {
        underlays
            .keys()
            .filter_map(|f| reached(endpoint, *f, paths))
    };
    all()
        .find(|path| path.state != PathState::Silent)
        .or_else(|| all().next())
}

/// What the device is to have, also of a gateway that does not carry the traffic: others send to it and take from it when they know that
/// it does, each at its own time, and until then nobody sends anything through it.
///
/// Those who may take the place of another cluster's gateway have sessions already. Ours in this process takes packets from them, too: who
/// takes over may begin before we hear of it. It sends to the one who carries the traffic only. In the kernel a prefix belongs to one peer.
///
/// A gateway that changes its key is two peers for a while. Ours in this process takes packets from either, and sends to the one whose
/// session is newer. In the kernel the prefixes go to the next key as soon as its session is the newer one.
pub(in crate::gateway) fn tunnels(
    underlays: &BTreeMap<Family, Underlay>,
    remotes: &[Remote<'_>],
    paths: &Paths,
    (own, keys, beside): (Device, &Keys<'_>, &BTreeMap<&ClusterId, Vec<Beside>>),
    port: u16,
) -> WireGuard {
    let families: BTreeSet<Family> = underlays.keys().copied().collect();
    let usable = |net: &&IpNet| families.contains(&Family::of_net(net));
    let subnets = |remote: &Remote<'_>| remote.subnets.iter().filter(usable).copied().collect();
    let peers = remotes.iter().filter_map(|remote| {
        let key = *keys.get(&remote.endpoint.cluster)?.as_ref().ok()?;
        let at = |path: Path| SocketAddr::new(path.ip, remote.endpoint.udp_port);
        let peer = Peer {
            endpoint: reach(underlays, remote.endpoint, paths).map(at),
            allowed: subnets(remote),
            accepted: BTreeSet::new(),
            succeeds: BTreeSet::new(),
            keepalive: WIREGUARD_KEEPALIVE,
        };
        Some((key, peer))
    });
    let counting: BTreeMap<Key, Peer> = peers.collect();
    let mut peers = counting.clone();
    // Of those who don't count yet, each brings what is its own cluster's: who claims a key takes nothing from another.
    let mut add = |key: Key, peer: Peer| {
        if counting.contains_key(&key) || own.keys().any(|own| own == key) {
            return;
        }
        match peers.entry(key) {
            Entry::Vacant(free) => drop(free.insert(peer)),
            Entry::Occupied(mut there) => {
                let there = there.get_mut();
                there.endpoint = there.endpoint.or(peer.endpoint);
                there.allowed.extend(peer.allowed);
                there.accepted.extend(peer.accepted);
                there.succeeds.extend(peer.succeeds);
            }
        }
    };
    for (cluster, other) in beside
        .iter()
        .flat_map(|(cluster, all)| all.iter().map(move |other| (*cluster, *other)))
    {
        let Some(Ok(current)) = keys.get(cluster) else {
            continue;
        };
        let Some(mut peer) = counting.get(current).cloned() else {
            continue;
        };
        match (own.kernel, other) {
            (false, Beside::Next(_) | Beside::Former(_)) => {}
            (true, Beside::Next(_)) => {
                peer.allowed.clear();
                peer.succeeds.insert(*current);
            }
            (true, Beside::Former(_)) => continue,
        }
        add(other.key(), peer);
    }
    for (remote, standby) in standbys(remotes, Driver::WireGuard) {
        let Ok(key) = public_key(standby) else {
            continue;
        };
        let at = |path: Path| SocketAddr::new(path.ip, standby.udp_port);
        let peer = Peer {
            endpoint: reach(underlays, standby, paths).map(at),
            allowed: BTreeSet::new(),
            accepted: subnets(remote),
            succeeds: BTreeSet::new(),
            keepalive: WIREGUARD_KEEPALIVE,
        };
        add(key, peer);
    }
    WireGuard {
        port,
        mark: UNDERLAY_MARK,
        mtu: mtu(underlays),
        peers,
    }
}

/// The largest packet inside, in bytes.
fn mtu(underlays: &BTreeMap<Family, Underlay>) -> u32 {
    let overhead = |ip: IpAddr| match ip {
        IpAddr::V4(_) => WIREGUARD_OVERHEAD_V4,
        IpAddr::V6(_) => WIREGUARD_OVERHEAD_V6,
    };
    let mtu = underlays
        .values()
        .map(|underlay| underlay.mtu.saturating_sub(overhead(underlay.ip)));
    mtu.min().unwrap_or_default()
}

/// What the gateway owns on its host. A TUN device comes from who holds its other end; its mark, MTU and state are kept
/// here as the kernel's device is. One that somebody else holds is left alone.
///
/// The device has an address that is nobody's source: a loose reverse-path filter (`fib_validate_source` in net/ipv4/fib_frontend.c) drops
/// what arrives by an interface without an IPv4 address, unless the way back leads there. That of a node on standby leads to the gateway.
pub(in crate::gateway) fn wanted(
    host: &Host,
    underlays: &BTreeMap<Family, Underlay>,
    device: Device,
    held: bool,
) -> Wanted {
    let kind = if device.kernel {
        LinkKind::Wireguard
    } else {
        LinkKind::Tun
    };
    let there = host.links.get(CABLE_WIREGUARD).is_some_and(|link| {
        link.kind == kind && (held || link.alias.as_deref() == Some(LINK_ALIAS))
    });
    let link = Link {
        kind,
        mtu: mtu(underlays),
        up: true,
        mac: None,
        alias: Some(LINK_ALIAS.to_owned()),
        master: None,
    };
    let links = (device.kernel || there).then(|| (CABLE_WIREGUARD.to_owned(), link));
    let underlay = underlays.get(&Family::V4).filter(|_| links.is_some());
    let address = underlay.map(|underlay| Address {
        link: CABLE_WIREGUARD.to_owned(),
        net: Vxlan::Gateways.inner(underlay.ip).into(),
        scope: Scope::Host,
    });
    Wanted {
        links: Owned::Set(links.into_iter().collect()),
        addresses: Owned::Set(address.into_iter().collect()),
        neighbours: Owned::Set(BTreeSet::new()),
        fdb: Owned::Set(BTreeSet::new()),
        ..Wanted::default()
    }
}
