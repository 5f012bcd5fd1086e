//! Datagrams that nobody should send.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use common::until;
use strait_fuzz::Dice;
use strait_netns::Namespace;
use strait_wg::{Config, Device, Options, PeerConfig, PrivateKey, Sockets, Tun};

/// A device whose host is this test: frames are read and written here.
struct End {
    device: Device,
    host: UnixDatagram,
    port: u16,
    key: PrivateKey,
}

impl End {
    fn new(ns: &Namespace) -> Self {
        let (host, tun) = UnixDatagram::pair().unwrap();
        tun.set_nonblocking(true).unwrap();
        host.set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let sockets = ns.run(|| Sockets::bind(0, None, 1).unwrap()).unwrap();
        let port = sockets.port().unwrap();
        let tun = Tun::from_fds(vec![OwnedFd::from(tun)]);
        let device = Device::start(tun, sockets, Options::default()).unwrap();
        let key = PrivateKey::generate().unwrap();
        Self {
            device,
            host,
            port,
            key,
        }
    }

    /// Knows the other at this port, and lets it send from 10.0.0.0/8.
    fn know(&self, other: &Self, port: u16) {
        let peer = PeerConfig {
            endpoint: Some(SocketAddr::from(([127, 0, 0, 1], port))),
            allowed: ["10.0.0.0/8".parse().unwrap()].into(),
            ..PeerConfig::default()
        };
        let peers = [(other.key.public().unwrap(), peer)].into();
        let private_key = self.key.clone();
        self.device
            .configure(Config { private_key, peers })
            .unwrap();
    }

    fn send(&self, packet: &[u8]) {
        self.host.send(&[&[0; 10], packet].concat()).unwrap();
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        let length = self.host.recv(&mut frame).ok()?;
        Some(frame[10..length].to_vec())
    }
}

/// An IPv4 packet of a protocol for tests (RFC 3692), with a number in it.
fn packet(from: [u8; 4], number: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend(from);
    packet.extend([10, 0, 0, 9]);
    packet.extend([number; 4]);
    packet
}

/// Two ends, and one between them who sees and holds every datagram: what the first sends arrives there.
fn tapped() -> (Namespace, End, End, UdpSocket) {
    let ns = Namespace::new().expect("network namespaces need root");
    let (a, b) = (End::new(&ns), End::new(&ns));
    let tap = ns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    tap.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    b.know(&a, tap.local_addr().unwrap().port());
    a.know(&b, tap.local_addr().unwrap().port());
    (ns, a, b, tap)
}

/// Passes datagrams on until both have a session; gives all that passed.
fn join(a: &End, b: &End, tap: &UdpSocket) -> Vec<Vec<u8>> {
    let mut passed = Vec::new();
    let mut buffer = [0; 2048];
    let done = |end: &End| {
        end.device
            .status()
            .values()
            .all(|peer| peer.last_handshake.is_some())
    };
    while !done(a) || !done(b) {
        let (length, from) = tap.recv_from(&mut buffer).expect("datagrams");
        let to = if from.port() == a.port {
            b.port
        } else {
            a.port
        };
        tap.send_to(&buffer[..length], ("127.0.0.1", to)).unwrap();
        passed.push(buffer[..length].to_vec());
        std::thread::sleep(Duration::from_millis(20));
    }
    tap.set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    while tap.recv_from(&mut buffer).is_ok() {}
    passed
}

/// The datagrams of so many packets, kept back.
fn hold(a: &End, tap: &UdpSocket, count: u8) -> Vec<Vec<u8>> {
    let mut held = Vec::new();
    for number in 0..count {
        a.send(&packet([10, 0, 0, 1], number));
        let mut buffer = [0; 2048];
        let (length, _) = tap.recv_from(&mut buffer).unwrap();
        held.push(buffer[..length].to_vec());
    }
    held
}

#[test]
fn what_was_replayed_changed_or_cut_is_counted_and_dropped() {
    let (_ns, a, b, tap) = tapped();
    let handshake = join(&a, &b, &tap);
    let held = hold(&a, &tap, 10);
    let send = |datagram: &[u8]| tap.send_to(datagram, ("127.0.0.1", b.port)).unwrap();
    // Backwards: late is not lost.
    for (number, datagram) in (0..10).zip(&held).rev() {
        send(datagram);
        assert_eq!(b.receive(), Some(packet([10, 0, 0, 1], number)));
    }
    let before = b.device.dropped();
    held.iter().for_each(|datagram| {
        send(datagram);
    });
    until("replays", || {
        b.device.dropped().replayed == before.replayed + 10
    });
    let fresh = &hold(&a, &tap, 1)[0];
    for at in 16..fresh.len() {
        let mut changed = fresh.clone();
        changed[at] ^= 1;
        send(&changed);
    }
    let forged = before.forged + fresh.len() as u64 - 16;
    until("forged ones", || b.device.dropped().forged == forged);
    (0..fresh.len()).for_each(|length| {
        send(&fresh[..length]);
    });
    handshake.iter().for_each(|datagram| {
        send(datagram);
    });
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(b.receive(), None);
    send(fresh);
    assert_eq!(b.receive(), Some(packet([10, 0, 0, 1], 0)));
}

#[test]
fn a_source_that_is_not_the_peers_is_dropped() {
    let (_ns, a, b, tap) = tapped();
    join(&a, &b, &tap);
    let mut buffer = [0; 2048];
    for (from, allowed) in [([192, 0, 2, 1], false), ([10, 0, 0, 1], true)] {
        a.send(&packet(from, 1));
        let (length, _) = tap.recv_from(&mut buffer).unwrap();
        tap.send_to(&buffer[..length], ("127.0.0.1", b.port))
            .unwrap();
        assert_eq!(b.receive().is_some(), allowed);
    }
    assert_eq!(b.device.dropped().not_allowed, 1);
}

#[test]
fn random_datagrams_stop_nothing() {
    let (_ns, a, b, tap) = tapped();
    let mut seeds = join(&a, &b, &tap);
    seeds.extend(hold(&a, &tap, 3));
    let mut dice = Dice::new(77);
    for round in 0..8_000 {
        let datagram = strait_fuzz::change(&mut dice, &seeds);
        let _ = tap.send_to(&datagram, ("127.0.0.1", b.port));
        if round % 100 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    while b.receive().is_some() {}
    let fresh = &hold(&a, &tap, 1)[0];
    tap.send_to(fresh, ("127.0.0.1", b.port)).unwrap();
    assert_eq!(b.receive(), Some(packet([10, 0, 0, 1], 0)));
    let dropped = b.device.dropped();
    assert!(
        dropped.malformed > 400 && dropped.replayed > 0,
        "{dropped:?}"
    );
}

#[test]
fn frames_of_the_host_that_contradict_themselves_stop_nothing() {
    let (_ns, a, b, tap) = tapped();
    join(&a, &b, &tap);
    let mut dice = Dice::new(5);
    let tcp = |gso: u8, size: u16| {
        let mut frame = vec![1, gso, 0, 0];
        frame.extend(size.to_ne_bytes());
        frame.extend(20u16.to_ne_bytes());
        frame.extend(16u16.to_ne_bytes());
        let mut packet = packet([10, 0, 0, 1], 1);
        packet.extend((0..2000).map(|n| n as u8));
        packet[9] = 6;
        packet[32] = 0x50;
        frame.extend(packet);
        frame
    };
    let seeds = [tcp(1, 1000), tcp(4, 500), tcp(5, 1), tcp(0, 0)];
    for _ in 0..8_000 {
        let frame = strait_fuzz::change(&mut dice, &seeds);
        if !frame.is_empty() {
            let _ = a.host.send(&frame);
        }
    }
    tap.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut buffer = [0; 70_000];
    while tap.recv_from(&mut buffer).is_ok() {}
    assert_eq!(hold(&a, &tap, 1).len(), 1);
}

#[test]
fn in_a_flood_of_handshakes_senders_are_asked_to_prove_their_address() {
    let (ns, a, b, tap) = tapped();
    let handshake = join(&a, &b, &tap);
    let initiation = handshake
        .iter()
        .find(|message| message.len() == 148)
        .unwrap();
    let flood = ns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    flood
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    for end in [&a, &b] {
        for _ in 0..3000 {
            flood.send_to(initiation, ("127.0.0.1", end.port)).unwrap();
        }
    }
    let mut reply = [0; 2048];
    let (length, _) = flood.recv_from(&mut reply).expect("a cookie");
    assert_eq!((length, reply[0]), (64, 3));
    let dropped = a.device.dropped().deferred + b.device.dropped().deferred;
    assert!(dropped > 100, "{dropped}");
}

#[test]
fn a_port_that_is_taken_is_told() {
    let ns = Namespace::new().expect("network namespaces need root");
    let (first, second) = ns
        .run(|| {
            let first = Sockets::bind(0, None, 1).unwrap();
            let second = Sockets::bind(first.port().unwrap(), None, 1);
            (first, second)
        })
        .unwrap();
    let error = second.expect_err("it is taken").to_string();
    assert!(error.contains("binding"), "{error}");
    drop(first);
}
