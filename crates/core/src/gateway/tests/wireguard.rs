//! The WireGuard cable.

use std::net::SocketAddr;

use strait_api::names::{BACKEND_PUBLIC_KEY, CABLE_WIREGUARD, UNDERLAY_MARK};
use strait_host::{Key, Owned, Peer, PeerStatus, WireGuard};

use super::*;
use crate::discovery::{Path, PathState};
use crate::health::Report;

const OWN: Key = Key([1; 32]);
const WEST: Key = Key([2; 32]);

fn own(kernel: bool) -> Input {
    let device = Device {
        public_key: OWN,
        next: None,
        former: None,
        kernel,
    };
    Input::Device(Ok(device))
}

pub(super) fn gateway() -> State {
    let mut s = state();
    s.settings.driver = Driver::WireGuard;
    s.apply(own(true), at(0));
    s
}

/// Another cluster with a key, or with what is none.
pub(super) fn peer(cluster: &str, key: Option<&str>, subnet: &str) -> Entry<Endpoint> {
    let mut entry = remote(cluster, cluster, "wireguard", subnet);
    let spec = entry.object.content.get_mut("spec").unwrap();
    let config = spec
        .as_object_mut()
        .unwrap()
        .entry("backend_config")
        .or_insert_with(|| serde_json::json!({}));
    if let Some(key) = key {
        config[BACKEND_PUBLIC_KEY] = key.into();
    }
    entry.parsed = Endpoint::parse(&entry.object);
    entry
}

fn with(peers: &[Entry<Endpoint>]) -> State {
    let mut s = gateway();
    for peer in peers {
        arrive(&mut s, peer);
    }
    settle_local(&mut s);
    s
}

pub(super) fn status(s: &State) -> GatewayStatus {
    s.plan().gateway.unwrap().section("status").unwrap()
}

#[test]
fn a_tunnel_that_does_not_come_about_says_why_if_discovery_knows_also_where_pings_are_lost() {
    let mut west = peer("west", Some(&WEST.to_string()), "10.2.0.0/16");
    west.object.content["spec"]["healthCheckIP"] = "10.2.1.1".into();
    west.parsed = Endpoint::parse(&west.object);
    let mut s = with(&[west]);
    let key = s.plan().discovery.unwrap().targets.pop_first().unwrap().key;
    let from: SocketAddr = "198.51.100.7:40000".parse().unwrap();
    let mut said = |state, comes_from, tunnel| {
        let path = Path {
            ip: "198.51.100.2".parse().unwrap(),
            nat: true,
            state,
            comes_from,
        };
        s.apply(Input::Paths([(key.clone(), path)].into()), at(3));
        told(&mut s, WEST, tunnel);
        status(&s).connections.remove(0).status_message
    };
    assert_eq!(
        said(PathState::Asking, None, Tunnel::Connecting),
        "no initial handshake yet"
    );
    let silent = said(PathState::Silent, None, Tunnel::Connecting);
    assert!(
        silent.contains("198.51.100.2") && silent.contains("(symmetric)"),
        "{silent}"
    );
    let seen = said(PathState::Silent, Some(from), Tunnel::Dead);
    assert!(seen.contains("198.51.100.7:40000"), "{seen}");
    assert_eq!(said(PathState::Silent, None, Tunnel::Connected(None)), "");

    told(&mut s, WEST, Tunnel::Connecting);
    let report = Report {
        status: ConnectionStatus::Error,
        message: "lost".into(),
        rtt: None,
        sent: 9,
        received: 0,
        answered: None,
        silent: None,
    };
    let targets = s.plan().health.into_iter();
    let results = targets.map(|target| (target, report.clone())).collect();
    s.apply(Input::Health(results), at(4));
    let connection = status(&s).connections.remove(0);
    assert_eq!(connection.status, ConnectionStatus::Error);
    assert_eq!(connection.status_message, format!("lost; {silent}"));
}

pub(super) fn told(s: &mut State, key: Key, tunnel: Tunnel) {
    let tunnels = Tunnels {
        peers: [(key, tunnel)].into(),
        ..Tunnels::default()
    };
    s.apply(Input::Tunnels(tunnels), at(2));
}

#[test]
fn what_it_publishes_is_what_upstream_reads() {
    let plan = gateway().plan();
    let endpoint = plan.local.iter().find_map(|change| match change {
        ObjectChange::Put(object) if object.key.kind == Kind::Endpoint => Some(object.clone()),
        ObjectChange::Put(_) | ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => None,
    });
    let spec: EndpointSpec = endpoint.unwrap().section("spec").unwrap();
    assert_eq!(spec.backend, "wireguard");
    assert_eq!(spec.backend_config["publicKey"], OWN.to_string());
    assert_eq!(spec.backend_config["interface-name"], "submariner");
    assert_eq!(spec.backend_config["udp-port"], "4500");
}

#[test]
fn nothing_is_published_before_its_key_is_known_and_the_reason_is_named() {
    let mut s = state();
    s.settings.driver = Driver::WireGuard;
    for (input, why) in [
        (None, "not set up yet"),
        (
            Some(Input::Device(Err("no such directory".into()))),
            "no such directory",
        ),
    ] {
        if let Some(input) = input {
            s.apply(input, at(1));
        }
        let plan = s.plan();
        assert_eq!(plan.local, []);
        assert_eq!(plan.broker, []);
        let named = plan.conditions.iter().find(|c| c.name == "CableFailed");
        assert!(
            named.is_some_and(|c| c.message.contains(why)),
            "{:?}",
            plan.conditions
        );
    }
}

#[test]
fn a_peer_gets_its_subnets_and_a_packet_every_ten_seconds() {
    let s = with(&[peer("west", Some(&WEST.to_string()), "10.2.0.0/16")]);
    let west = Peer {
        endpoint: Some("172.30.2.11:4500".parse().unwrap()),
        allowed: ["10.2.0.0/16".parse().unwrap()].into(),
        accepted: BTreeSet::new(),
        succeeds: BTreeSet::new(),
        keepalive: 10,
    };
    let wanted = WireGuard {
        port: 4500,
        mark: UNDERLAY_MARK,
        mtu: 1440,
        peers: [(WEST, west)].into(),
    };
    assert_eq!(s.plan().tunnels, Some(wanted));
}

#[test]
fn a_standby_is_as_ready_as_the_gateway_and_keeps_what_is_there_until_it_knows() {
    let mut s = with(&[peer("west", Some(&WEST.to_string()), "10.2.0.0/16")]);
    let before = s.plan().tunnels.unwrap();
    assert_eq!(before.peers[&WEST].allowed.len(), 1);
    s.apply(Input::Standing(Standing::Standby), at(2));
    assert_eq!(s.plan().tunnels, Some(before));
    s.apply(Input::Standing(Standing::Unknown("why".into())), at(2));
    assert_eq!(s.plan().tunnels, None);
}

#[test]
fn another_clusters_standby_is_listened_to_and_sent_nothing() {
    let second = Key([3; 32]);
    let with_standby = |key: Key| {
        let spec = EndpointSpec {
            cluster_id: "west".into(),
            cable_name: "cable-west-2".into(),
            hostname: "west-2".into(),
            private_ip: "172.30.2.12".into(),
            backend: "wireguard".into(),
            backend_config: BTreeMap::from([(BACKEND_PUBLIC_KEY.into(), key.to_string())]),
            ..EndpointSpec::default()
        };
        let mut entry = peer("west", Some(&WEST.to_string()), "10.2.0.0/16");
        let text = serde_json::to_string(&[strait_api::Standby::of(&spec)]).unwrap();
        let annotations = &mut entry.object.annotations;
        annotations.insert("strait.io/standbys".into(), text);
        entry.parsed = Endpoint::parse(&entry.object);
        with(&[entry]).plan().tunnels.unwrap().peers
    };
    let peers = with_standby(second);
    assert_eq!(peers.len(), 2);
    assert_eq!(
        peers[&second].endpoint,
        Some("172.30.2.12:4500".parse().unwrap())
    );
    assert_eq!(
        (peers[&second].allowed.len(), peers[&WEST].allowed.len()),
        (0, 1)
    );
    assert_eq!(peers[&second].accepted, peers[&WEST].allowed);
    assert!(peers[&WEST].accepted.is_empty());
    // One that claims another's key, or ours, changes nothing.
    for key in [WEST, OWN] {
        let peers = with_standby(key);
        assert_eq!((peers.len(), peers[&WEST].allowed.len()), (1, 1));
        assert_eq!(
            peers[&WEST].endpoint,
            Some("172.30.2.11:4500".parse().unwrap())
        );
    }
}

#[test]
fn another_clusters_newer_turn_counts_once_the_broker_tells_of_it_also_while_the_api_server_is_away()
 {
    let second = Key([3; 32]);
    let of_turn = |name: &str, key: Key, term: &str, subnet: &str| {
        let mut entry = peer("west", Some(&key.to_string()), subnet);
        entry.object.key.name = name.to_owned();
        let annotations = &mut entry.object.annotations;
        annotations.insert("strait.io/term".into(), term.to_owned());
        entry.parsed = Endpoint::parse(&entry.object);
        entry
    };
    let carries = |s: &State| {
        let peers = s.plan().tunnels.unwrap().peers.into_iter();
        let carrying = peers.filter(|(_, peer)| !peer.allowed.is_empty());
        carrying.map(|(key, _)| key).collect::<Vec<_>>()
    };
    let before = of_turn("west-1", WEST, "3.0", "10.2.0.0/16");
    let s = with(std::slice::from_ref(&before));
    assert_eq!(carries(&s), [WEST]);
    let told = |entry: Entry<Endpoint>| {
        let mut s = s.clone();
        arrive(&mut s, &entry);
        s
    };
    let newer = told(of_turn("west-2", second, "3.1", "10.2.0.0/16"));
    assert_eq!(carries(&newer), [second]);
    // The same gateway once more, with another key.
    assert_eq!(
        carries(&told(of_turn("west-1", second, "4.0", "10.2.0.0/16"))),
        [second]
    );
    // An older turn, one that says nothing of turns, and one that is refused, for it has a subnet of ours.
    let older = of_turn("west-2", second, "2.9", "10.2.0.0/16");
    let mut silent = older.clone();
    silent.object.annotations.remove("strait.io/term");
    silent.parsed = Endpoint::parse(&silent.object);
    for entry in [
        older,
        silent,
        of_turn("west-2", second, "3.1", "10.1.0.0/16"),
    ] {
        assert_eq!(carries(&told(entry)), [WEST]);
    }
    // The copy changes nothing more.
    let mut settled = newer.clone();
    settle_local(&mut settled);
    assert_eq!(settled.plan().tunnels, newer.plan().tunnels);
}

#[test]
fn the_kernels_device_is_made_and_a_tun_device_is_waited_for() {
    let links = |s: &State| match s.plan().wanted.links {
        Owned::Set(links) => links,
        Owned::Keep => panic!("links are known"),
    };
    let mut s = gateway();
    let link = links(&s)[CABLE_WIREGUARD].clone();
    assert_eq!(
        (link.kind, link.mtu, link.up),
        (LinkKind::Wireguard, 1440, true)
    );
    // A loose reverse-path filter drops all where there is none.
    let address = s.plan().wanted.addresses.get().unwrap().first().cloned();
    let address = address.map(|address| (address.net.to_string(), address.scope));
    assert_eq!(address, Some(("241.30.1.11/32".into(), Scope::Host)));
    s.apply(own(false), at(1));
    assert!(links(&s).is_empty());
    let tun = |alias: Option<&str>| {
        let mut host = host();
        let link = Link {
            kind: LinkKind::Tun,
            mtu: 1500,
            up: false,
            mac: None,
            alias: alias.map(str::to_owned),
            master: None,
        };
        host.links.insert(CABLE_WIREGUARD.into(), link);
        Input::Host(Arc::new(host))
    };
    s.apply(tun(None), at(2));
    assert!(links(&s).is_empty(), "somebody else holds it");
    let held = Tunnels {
        held: true,
        ..Tunnels::default()
    };
    let mut known = s.clone();
    known.apply(Input::Tunnels(held), at(3));
    // That of a process that died just now.
    s.apply(tun(Some("strait")), at(3));
    for s in [&known, &s] {
        let link = links(s)[CABLE_WIREGUARD].clone();
        assert_eq!((link.kind, link.mtu, link.up), (LinkKind::Tun, 1440, true));
    }
}

#[test]
fn each_bad_key_is_named_and_the_other_clusters_are_joined() {
    let s = with(&[
        peer("a-none", None, "10.2.0.0/16"),
        peer("b-bad", Some("not a key"), "10.3.0.0/16"),
        peer("c-ours", Some(&OWN.to_string()), "10.4.0.0/16"),
        peer("d-good", Some(&WEST.to_string()), "10.5.0.0/16"),
        peer("e-double", Some(&WEST.to_string()), "10.6.0.0/16"),
    ]);
    let said: Vec<(String, ConnectionStatus, String)> = status(&s)
        .connections
        .into_iter()
        .map(|c| (c.endpoint.cluster_id, c.status, c.status_message))
        .collect();
    let expected = [
        ("a-none", ConnectionStatus::Error, "publishes no public key"),
        ("b-bad", ConnectionStatus::Error, "44 characters"),
        ("c-ours", ConnectionStatus::Error, "that of this gateway"),
        (
            "d-good",
            ConnectionStatus::Connecting,
            "no initial handshake",
        ),
        (
            "e-double",
            ConnectionStatus::Error,
            "that of cluster d-good",
        ),
    ];
    assert_eq!(said.len(), expected.len());
    for ((cluster, state, message), (wanted, wanted_state, part)) in said.iter().zip(expected) {
        assert_eq!((cluster.as_str(), *state), (wanted, wanted_state));
        assert!(message.contains(part), "{message}");
    }
    let peers = s.plan().tunnels.unwrap().peers;
    assert_eq!(peers.keys().copied().collect::<Vec<_>>(), [WEST]);
}

#[test]
fn a_connection_is_what_its_last_handshake_says() {
    let mut s = with(&[peer("west", Some(&WEST.to_string()), "10.2.0.0/16")]);
    let roamed: SocketAddr = "198.51.100.7:40000".parse().unwrap();
    for (tunnel, state, using) in [
        (
            Tunnel::Connecting,
            ConnectionStatus::Connecting,
            "172.30.2.11",
        ),
        (
            Tunnel::Connected(Some(roamed)),
            ConnectionStatus::Connected,
            "198.51.100.7",
        ),
        (Tunnel::Dead, ConnectionStatus::Error, "172.30.2.11"),
    ] {
        told(&mut s, WEST, tunnel);
        let connection = status(&s).connections.remove(0);
        assert_eq!(
            (connection.status, connection.using_ip.as_str()),
            (state, using)
        );
    }
    let of = |handshake, now| {
        let status = PeerStatus {
            handshake,
            ..PeerStatus::default()
        };
        Tunnel::of(&status, now)
    };
    assert_eq!(of(None, 1000), Tunnel::Connecting);
    assert_eq!(of(Some(820), 1000), Tunnel::Connected(None));
    assert_eq!(of(Some(819), 1000), Tunnel::Dead);
    // A clock that was set back.
    assert_eq!(of(Some(2000), 1000), Tunnel::Connected(None));
}
