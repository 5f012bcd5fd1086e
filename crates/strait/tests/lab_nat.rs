//! The lab's NATs, as hosts on both sides see them: which source they show, and whom they let in.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{binary, name};
use strait_lab::{Families, Family, Lab, Nat, Options};

/// A UDP socket at a port. A line `ADDRESS PORT TEXT` is sent; what comes is printed in the same way.
const PEER: &str = r#"
use IO::Socket::IP; use IO::Select; $| = 1;
my $s = IO::Socket::IP->new(Proto => "udp", LocalHost => $ARGV[0], LocalPort => $ARGV[1]) or die "$@";
my $all = IO::Select->new($s, \*STDIN); print "ready\n";
while (1) {
  for my $it ($all->can_read) {
    if ($it == $s) {
      # An ICMP error about what was sent is nothing that came.
      defined $s->recv(my $text, 1000) or next;
      print join(" ", $s->peerhost, $s->peerport, $text), "\n";
    } else {
      sysread(STDIN, my $lines, 10000) or exit;
      for (split /\n/, $lines) {
        my ($ip, $port, $text) = split / /;
        my ($e, $to) = Socket::getaddrinfo($ip, $port, {socktype => Socket::SOCK_DGRAM, flags => Socket::AI_NUMERICHOST});
        $s->send($text, 0, $to->{addr});
      }
    }
  }
}
"#;

struct Peer {
    child: Child,
    input: ChildStdin,
    heard: Receiver<String>,
    at: SocketAddr,
}

impl Peer {
    fn new(lab: &Lab, place: &str, at: SocketAddr) -> Self {
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let mut child = lab
            .command(place, ["perl", "-e", PEER, &ip, &port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("perl runs");
        let input = child.stdin.take().expect("its input");
        let lines: Lines<BufReader<ChildStdout>> =
            BufReader::new(child.stdout.take().expect("its output")).lines();
        let (sender, heard) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let peer = Self {
            child,
            input,
            heard,
            at,
        };
        assert_eq!(peer.heard.recv().expect("it starts"), "ready");
        peer
    }

    fn send(&mut self, to: SocketAddr, text: &str) {
        let (ip, port) = (to.ip(), to.port());
        // In one piece: the other end takes what it reads for whole lines.
        let line = format!("{ip} {port} {text}\n");
        self.input.write_all(line.as_bytes()).expect("it reads");
    }

    /// Where a datagram with this text came from; `None` if none comes.
    fn hears(&self, text: &str, patience: Duration) -> Option<SocketAddr> {
        let line = self.heard.recv_timeout(patience).ok()?;
        let words: Vec<&str> = line.split(' ').collect();
        let [ip, port, said] = words[..] else {
            panic!("{line}")
        };
        assert_eq!(said, text);
        let ip: IpAddr = ip.parse().expect("an address");
        Some((ip, port.parse().expect("a port")).into())
    }

    /// Sends, and tells where the other one saw it come from.
    fn seen_by(&mut self, other: &Self, to: SocketAddr, text: &str) -> Option<SocketAddr> {
        self.send(to, text);
        other.hears(text, Duration::from_millis(400))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lab(nat: Nat) -> Lab {
    let options = Options {
        name: name(&nat.to_string()),
        nodes: 2,
        gateways: 2,
        families: Families::Dual,
        nat,
        agents: false,
        ..Options::default()
    };
    Lab::up(&options, binary(), |_| ()).expect("the lab starts")
}

/// The Internet's and the broker's addresses.
fn outside(family: Family) -> [IpAddr; 2] {
    let texts = match family {
        Family::V4 => ["198.51.100.254", "198.51.100.250"],
        Family::V6 => ["2001:db8:100::254", "2001:db8:100::250"],
    };
    texts.map(|text| text.parse().expect("an address"))
}

/// What a gateway's socket at the cable's port shows to three sockets outside, and which of their datagrams, sent to what the first one
/// saw, get in.
struct Behaviour {
    /// As the Internet's first and second socket see it, and one at another address.
    seen: [SocketAddr; 3],
    /// From where an answer is expected; from another port of the same host; from another host; all three were sent to.
    let_in: [bool; 3],
    /// From a port that was not sent to.
    stranger: bool,
}

fn behaviour(lab: &Lab, family: Family, port: u16) -> Behaviour {
    let [internet, _] = outside(family);
    let inside = lab.topology().node("east-1").expect("a node").1.ip(family);
    let mut gateway = Peer::new(lab, "east-1", (inside, port).into());
    // The broker's machine has one family; another cluster's router has both.
    let router = lab
        .topology()
        .cluster("west")
        .expect("a cluster")
        .wan_ip(family);
    // It answers on ports that a NAT gives to nobody: the router's rules are loosened for them.
    lab.exec(
        "router-west",
        &[
            "nft",
            "insert rule inet nat-filter input udp dport 7003 accept",
        ],
    )
    .expect("nft runs");
    let mut peers = [
        Peer::new(lab, "internet", (internet, 7001).into()),
        Peer::new(lab, "internet", (internet, 7002).into()),
        Peer::new(lab, "router-west", (router, 7003).into()),
    ];
    let seen = [0, 1, 2].map(|n| {
        let (peer, text) = (&peers[n], format!("out{n}"));
        gateway.seen_by(peer, peer.at, &text).expect("the way out")
    });
    let let_in = [0, 1, 2].map(|n| {
        let text = format!("in{n}");
        peers[n].seen_by(&gateway, seen[0], &text) == Some(peers[n].at)
    });
    let mut stranger = Peer::new(lab, "internet", (internet, 7004).into());
    let stranger = stranger.seen_by(&gateway, seen[0], "stranger").is_some();
    // The router's own book has the same: the reply comes to what was seen outside.
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let book = [
        "conntrack",
        "-L",
        "-f",
        family,
        "-p",
        "udp",
        "--dport",
        "7001",
    ];
    let book = lab.exec("router-east", &book).expect("conntrack runs");
    let reply = format!("dst={} sport=7001 dport={}", seen[0].ip(), seen[0].port());
    assert!(book.contains(&reply), "{reply} is not in {book}");
    Behaviour {
        seen,
        let_in,
        stranger,
    }
}

#[test]
fn a_full_cone_shows_one_port_and_lets_everybody_in_each_gateway_at_its_own_address() {
    let lab = lab(Nat::FullCone);
    let (east, _) = lab.topology().node("east-1").unwrap();
    for family in Family::ALL {
        for port in [4500, 4490] {
            let it = behaviour(&lab, family, port);
            let shown = SocketAddr::from((east.wan_ip(family), port));
            assert_eq!(it.seen, [shown; 3]);
            assert_eq!((it.let_in, it.stranger), ([true; 3], true), "{family:?}");
        }
        let (east, second) = lab.topology().node("east-2").unwrap();
        let mut gateway = Peer::new(&lab, "east-2", (second.ip(family), 4500).into());
        let mut stranger = Peer::new(&lab, "internet", (outside(family)[0], 7005).into());
        let shown = (lab.topology().public_ip(east, second, family), 4500).into();
        let from = stranger.seen_by(&gateway, shown, "hello");
        assert_eq!(from, Some(stranger.at), "{family:?}");
        assert_eq!(gateway.seen_by(&stranger, stranger.at, "hi"), Some(shown));
    }
}

#[test]
fn a_port_restricted_cone_shows_one_port_and_lets_in_who_was_sent_to() {
    let lab = lab(Nat::PortRestricted);
    let (east, first) = lab.topology().node("east-1").unwrap();
    let (west, other) = lab.topology().node("west-1").unwrap();
    for family in Family::ALL {
        let it = behaviour(&lab, family, 4500);
        let shown = SocketAddr::from((east.wan_ip(family), 4500));
        assert_eq!(it.seen, [shown; 3]);
        assert_eq!((it.let_in, it.stranger), ([true; 3], false), "{family:?}");

        // Two gateways, each behind such a NAT, open the way for each other.
        let mut one = Peer::new(&lab, "east-1", (first.ip(family), 4500).into());
        let mut two = Peer::new(&lab, "west-1", (other.ip(family), 4500).into());
        let far = SocketAddr::from((west.wan_ip(family), 4500));
        assert_eq!(one.seen_by(&two, far, "first"), None);
        assert_eq!(two.seen_by(&one, shown, "second"), Some(far));
        assert_eq!(one.seen_by(&two, far, "third"), Some(shown));
    }
}

#[test]
fn a_symmetric_nat_shows_a_port_for_each_destination_and_lets_in_its_answers_only() {
    let lab = lab(Nat::Symmetric);
    let (east, _) = lab.topology().node("east-1").unwrap();
    for family in Family::ALL {
        let it = behaviour(&lab, family, 4500);
        let [a, b, c] = it.seen.map(|seen| {
            assert_eq!(seen.ip(), east.wan_ip(family));
            seen.port()
        });
        assert!(a != b && b != c && a != c, "{a} {b} {c}");
        assert_eq!(
            (it.let_in, it.stranger),
            ([true, false, false], false),
            "{family:?}"
        );
    }
}

#[test]
fn nobody_outside_reaches_what_is_behind_a_nat_by_its_own_address() {
    let lab = lab(Nat::PortRestricted);
    let (_, node) = lab.topology().node("east-1").unwrap();
    for family in Family::ALL {
        let inside = node.ip(family).to_string();
        let router = lab
            .topology()
            .cluster("east")
            .unwrap()
            .wan_ip(family)
            .to_string();
        // Not even a neighbour of the router who guesses the address.
        let net = format!("{inside}/{}", if inside.contains(':') { 128 } else { 32 });
        lab.exec("router-west", &["ip", "route", "add", &net, "via", &router])
            .unwrap();
        let ping = |place: &str, to: &str| {
            lab.exec(place, &["ping", "-n", "-c", "1", "-W", "1", to])
                .is_ok()
        };
        assert!(
            ping("router-west", &router),
            "{family:?}: the WAN is broken"
        );
        assert!(!ping("router-west", &inside), "{family:?}");
        assert!(
            ping("east-1", &outside(family)[0].to_string()),
            "{family:?}"
        );
    }
}
