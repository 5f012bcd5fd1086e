//! What two of ours find out about each other through NATs of every kind, though datagrams are lost, late, doubled and forged.

use std::collections::BTreeSet;

use strait_fuzz::Dice;

use super::*;

/// What stands in front of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    None,
    /// One address and port outside for each inside, open for everybody once it is used.
    FullCone,
    /// The same, open for those to whom something was sent.
    PortRestricted,
    /// Another port outside for everyone to whom something is sent, open for that one.
    Symmetric,
}

struct Gateway {
    finder: Finder,
    own: Own,
    private: SocketAddr,
    outside: IpAddr,
    kind: Kind,
    /// To whom something was sent, from which port outside.
    sent: Vec<(u16, SocketAddr)>,
}

impl Gateway {
    fn new(cluster: &str, private: &str, outside: &str, kind: Kind) -> Self {
        let outside = if kind == Kind::None { private } else { outside };
        Self {
            finder: Finder::default(),
            own: own(cluster, &[private]),
            private: SocketAddr::new(ip(private), PORT),
            outside: ip(outside),
            kind,
            sent: Vec::new(),
        }
    }

    fn target(&self) -> Target {
        let outside = self.outside.to_string();
        let mut target = target(
            self.own.cluster.as_str(),
            &self.private.ip().to_string(),
            None,
        );
        target.public = Some(ip(&outside)).filter(|ip| *ip != self.private.ip());
        target
    }

    /// Where a datagram to somebody seems to come from.
    fn leave(&mut self, to: SocketAddr) -> SocketAddr {
        let port = match self.kind {
            Kind::None => return self.private,
            Kind::FullCone | Kind::PortRestricted => PORT,
            Kind::Symmetric => 50_000 + to.port() % 1000 + u16::from(to.ip() != self.outside),
        };
        self.sent.push((port, to));
        SocketAddr::new(self.outside, port)
    }

    /// Whether one from somewhere gets in.
    fn lets_in(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let mut sent = self.sent.iter().filter(|(port, _)| *port == to.port());
        match self.kind {
            Kind::None => to == self.private,
            // Who can't be reached from outside by its private address.
            _ if to.ip() != self.outside => false,
            Kind::FullCone => sent.next().is_some(),
            Kind::PortRestricted | Kind::Symmetric => sent.any(|(_, whom)| *whom == from),
        }
    }
}

/// How bad the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Good,
    Bad,
}

struct World {
    gateways: [Gateway; 2],
    /// When, to whom, from where, and what.
    under_way: BTreeSet<(u64, u64, usize, SocketAddr, SocketAddr, Vec<u8>)>,
    count: u64,
    dice: Dice,
    weather: Weather,
    now: u64,
}

impl World {
    fn new(a: Kind, b: Kind, weather: Weather, seed: u64) -> Self {
        let mut world = Self {
            gateways: [
                Gateway::new("east", "10.0.1.1", "198.51.100.1", a),
                Gateway::new("west", "10.0.2.1", "198.51.100.2", b),
            ],
            under_way: BTreeSet::new(),
            count: 0,
            dice: Dice::new(seed),
            weather,
            now: 0,
        };
        let targets = [world.gateways[1].target(), world.gateways[0].target()];
        for (gateway, target) in world.gateways.iter_mut().zip(&targets) {
            let wanted = wanted(gateway.own.clone(), target);
            gateway.finder.set(&wanted, at(0));
        }
        world
    }

    fn send(&mut self, who: usize, datagram: Datagram) {
        let from = self.gateways[who].leave(datagram.to);
        let other = 1 - who;
        let copies = match self.weather {
            Weather::Good => 1,
            Weather::Bad => *self.dice.pick(&[0, 0, 1, 1, 1, 2]),
        };
        for _ in 0..copies {
            let delay = match self.weather {
                Weather::Good => 40,
                Weather::Bad => 10 + self.dice.below(1500) as u64,
            };
            self.count += 1;
            let (when, to, bytes) = (self.now + delay, datagram.to, datagram.bytes.clone());
            self.under_way
                .insert((when, self.count, other, from, to, bytes));
        }
        if self.weather == Weather::Bad {
            // Somebody who has seen this one sends it again from elsewhere, changed.
            let seen = [datagram.bytes];
            let bytes = strait_fuzz::change(&mut self.dice, &seen);
            let (count, at) = (self.count + 1_000_000, self.now + 5);
            let to = self.gateways[other].private;
            self.under_way
                .insert((at, count, other, address("203.0.113.9:4490"), to, bytes));
        }
    }

    fn run(&mut self, until: u64) {
        while self.now < until {
            for who in 0..2 {
                let dice = &mut self.dice;
                let random = || dice.below(usize::MAX) as u64;
                let due = self.gateways[who].finder.due(at(self.now), random);
                for datagram in due {
                    self.send(who, datagram);
                }
            }
            while let Some(first) = self.under_way.first().filter(|f| f.0 <= self.now).cloned() {
                self.under_way.remove(&first);
                let (_, _, who, from, to, bytes) = first;
                let gateway = &mut self.gateways[who];
                let forged = from.ip() == ip("203.0.113.9");
                if !forged && !gateway.lets_in(from, to) {
                    continue;
                }
                let inside = Some(gateway.private.ip());
                let heard = gateway.finder.received(&bytes, from, inside, at(self.now));
                if let Heard::Request(answer, _) = heard {
                    self.send(who, answer);
                }
            }
            self.now += 10;
        }
    }

    fn paths(&self) -> [Path; 2] {
        [&self.gateways[0], &self.gateways[1]].map(|gateway| path(&gateway.finder))
    }
}

const ANSWERED: PathState = PathState::Answered;
const SILENT: PathState = PathState::Silent;

/// Where each finds the other, whether through a NAT, and how it knows.
type Found = [(&'static str, bool, PathState); 2];

/// What is found between two kinds.
const TABLE: [(Kind, Kind, Found); 9] = [
    (
        Kind::None,
        Kind::None,
        [("10.0.2.1", false, ANSWERED), ("10.0.1.1", false, ANSWERED)],
    ),
    (
        Kind::None,
        Kind::FullCone,
        [
            ("198.51.100.2", true, ANSWERED),
            ("10.0.1.1", true, ANSWERED),
        ],
    ),
    (
        Kind::FullCone,
        Kind::FullCone,
        [
            ("198.51.100.2", true, ANSWERED),
            ("198.51.100.1", true, ANSWERED),
        ],
    ),
    (
        Kind::None,
        Kind::PortRestricted,
        [
            ("198.51.100.2", true, ANSWERED),
            ("10.0.1.1", true, ANSWERED),
        ],
    ),
    (
        Kind::PortRestricted,
        Kind::PortRestricted,
        [
            ("198.51.100.2", true, ANSWERED),
            ("198.51.100.1", true, ANSWERED),
        ],
    ),
    (
        Kind::FullCone,
        Kind::PortRestricted,
        [
            ("198.51.100.2", true, ANSWERED),
            ("198.51.100.1", true, ANSWERED),
        ],
    ),
    (
        Kind::None,
        Kind::Symmetric,
        [("198.51.100.2", true, SILENT), ("10.0.1.1", true, ANSWERED)],
    ),
    (
        Kind::PortRestricted,
        Kind::Symmetric,
        [
            ("198.51.100.2", true, SILENT),
            ("198.51.100.1", true, SILENT),
        ],
    ),
    (
        Kind::Symmetric,
        Kind::Symmetric,
        [
            ("198.51.100.2", true, SILENT),
            ("198.51.100.1", true, SILENT),
        ],
    ),
];

fn check(world: &World, found: &Found, what: &str) {
    for (path, (ip, nat, state)) in world.paths().iter().zip(found) {
        let seen = (path.ip.to_string(), path.nat, path.state);
        assert_eq!(seen, ((*ip).to_owned(), *nat, *state), "{what}");
    }
}

#[test]
fn each_kind_of_nat_is_found_out() {
    for (a, b, found) in &TABLE {
        let mut world = World::new(*a, *b, Weather::Good, 1);
        world.run(2 * 60_000);
        check(&world, found, &format!("{a:?} and {b:?}"));
    }
}

#[test]
fn loss_delay_doubles_and_forged_datagrams_change_nothing() {
    for (a, b, found) in &TABLE {
        for seed in 1..8 {
            let mut world = World::new(*a, *b, Weather::Bad, seed);
            world.run(2 * 60_000);
            check(&world, found, &format!("{a:?} and {b:?}, seed {seed}"));
        }
    }
}

#[test]
fn where_nothing_is_in_between_the_way_is_known_after_one_round_trip() {
    let mut world = World::new(Kind::None, Kind::None, Weather::Good, 1);
    world.run(90);
    check(&world, &TABLE[0].2, "at once");
    assert_eq!(world.paths().map(|path| path.rewritten()), [None, None]);
}

#[test]
fn one_whose_requests_come_rewritten_and_who_never_answers_is_behind_a_nat() {
    let mut world = World::new(Kind::None, Kind::Symmetric, Weather::Good, 1);
    // Until nobody has answered for so long, it may be on its way.
    world.run(30_000);
    assert_eq!(world.paths()[0].rewritten(), None);
    world.run(70_000);
    let [of_west, of_east] = world.paths().map(|path| path.rewritten().unwrap());
    assert!(of_west.contains("arrives from 198.51.100.2:5"), "{of_west}");
    assert!(of_east.contains("between here and 10.0.1.1"), "{of_east}");
}
