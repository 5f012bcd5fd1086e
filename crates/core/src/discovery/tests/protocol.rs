//! One of ours and a peer that is made by hand.

use prost::Message;

use super::super::message::{Body, EndpointDetails, Envelope, IpPort, Request, Response};
use super::*;

const WEST: &str = "10.0.2.1:4490";

/// One of ours that asks west, with what it sends at once.
struct Asking {
    finder: Finder,
    numbers: u64,
}

impl Asking {
    fn new(target: &Target) -> Self {
        let mut finder = Finder::default();
        let own = own("east", &["10.0.1.1", "fd00::1"]);
        finder.set(&wanted(own, target), at(0));
        Self {
            finder,
            numbers: 1000,
        }
    }

    fn due(&mut self, now: u64) -> Vec<(SocketAddr, Request)> {
        let numbers = &mut self.numbers;
        let random = || {
            *numbers += 1;
            *numbers
        };
        let due = self.finder.due(at(now), random);
        due.iter()
            .map(|datagram| {
                assert_eq!(datagram.from.unwrap().is_ipv6(), datagram.to.is_ipv6());
                (datagram.to, request(&datagram.bytes))
            })
            .collect()
    }

    fn hear(&mut self, response: Response, from: &str, now: u64) -> Heard {
        let bytes = bytes(Body::Response(response));
        self.finder.received(&bytes, address(from), None, at(now))
    }
}

fn request(bytes: &[u8]) -> Request {
    let Some(Body::Request(request)) = Envelope::decode(bytes).unwrap().body else {
        panic!("no request")
    };
    request
}

fn bytes(body: Body) -> Vec<u8> {
    let body = Some(body);
    Envelope { version: 1, body }.encode_to_vec()
}

/// The answer of whoever is called so.
fn ok(request: &Request) -> Response {
    Response {
        request_number: request.request_number,
        response: Verdict::Ok.into(),
        sender: request.receiver.clone(),
        receiver: request.sender.clone(),
        ..Response::default()
    }
}

fn west() -> Target {
    target("west", "10.0.2.1", Some("198.51.100.2"))
}

/// The request to this address in this dialect.
fn to<'a>(all: &'a [(SocketAddr, Request)], ip: &str, suffixed: bool) -> &'a Request {
    let good = |(to, request): &&(SocketAddr, Request)| {
        let id = &request.receiver.as_ref().unwrap().endpoint_id;
        to.ip() == super::ip(ip) && (id.ends_with("-v4") || id.ends_with("-v6")) == suffixed
    };
    &all.iter().find(good).unwrap().1
}

#[test]
fn both_addresses_are_asked_in_both_dialects_and_again_when_the_way_dies() {
    let mut a = Asking::new(&west());
    let first = a.due(0);
    assert_eq!(first.len(), 4);
    let plain = to(&first, "10.0.2.1", false);
    assert_eq!(
        plain.receiver.as_ref().unwrap().endpoint_id,
        "submariner-cable-west"
    );
    assert_eq!(
        plain.sender.as_ref().unwrap().endpoint_id,
        "submariner-cable-east"
    );
    let suffixed = to(&first, "198.51.100.2", true);
    assert_eq!(
        suffixed.receiver.as_ref().unwrap().endpoint_id,
        "submariner-cable-west-v4"
    );
    assert_eq!(
        suffixed.sender.as_ref().unwrap().endpoint_id,
        "submariner-cable-east-v4"
    );
    assert_eq!(
        suffixed.using_src,
        Some(IpPort {
            ip: "10.0.1.1".into(),
            port: 4490
        })
    );
    // The other dialect is unknown to it: that is not its last word.
    let mut unknown = ok(to(&first, "10.0.2.1", true));
    unknown.response = Verdict::UnknownEndpoint.into();
    let heard = a.hear(unknown, WEST, 10);
    assert_eq!(
        heard,
        Heard::Dropped(Dropped::Refusal(Verdict::UnknownEndpoint))
    );
    assert_eq!(a.hear(ok(plain), WEST, 20), Heard::Response);
    assert_eq!(
        (path(&a.finder).ip, path(&a.finder).nat),
        (ip("10.0.2.1"), false)
    );
    // Its way dies: it is asked again, as one that may have been upgraded.
    let dead = Target {
        dead: true,
        ..west()
    };
    let own = own("east", &["10.0.1.1", "fd00::1"]);
    a.finder.set(&wanted(own, &dead), at(5000));
    let again = a.due(5000);
    assert_eq!(again.len(), 4);
    assert_eq!(path(&a.finder).state, PathState::Answered, "kept meanwhile");
}

#[test]
fn the_private_address_has_a_second_more_than_the_public_one() {
    let answers = |private_at: Option<u64>| {
        let mut a = Asking::new(&west());
        let first = a.due(0);
        let mut public = ok(to(&first, "198.51.100.2", true));
        public.response = Verdict::NatDetected.into();
        assert_eq!(a.hear(public, "198.51.100.2:4490", 100), Heard::Response);
        assert_eq!(path(&a.finder).state, PathState::Asking, "not decided yet");
        let second = a.due(100);
        assert_eq!(second.len(), 1, "the private one may only have been lost");
        to(&second, "10.0.2.1", true);
        if let Some(now) = private_at {
            a.hear(ok(&second[0].1), WEST, now);
        }
        a.due(1100);
        path(&a.finder)
    };
    let private = answers(Some(1050));
    assert_eq!((private.ip, private.nat), (ip("10.0.2.1"), false));
    let public = answers(None);
    assert_eq!((public.ip, public.nat), (ip("198.51.100.2"), true));
    assert!(public.rewritten().is_some());
}

#[test]
fn silence_means_upstreams_rule_after_a_minute_and_six_seconds_behind_a_load_balancer() {
    let after = |target: &Target, now: u64| {
        let mut a = Asking::new(target);
        let mut sent = 0;
        for second in 0..=now / 1000 {
            sent += usize::from(!a.due(second * 1000).is_empty());
        }
        a.due(now);
        (
            path(&a.finder).state,
            path(&a.finder).ip.to_string(),
            path(&a.finder).nat,
            sent,
        )
    };
    let public = "198.51.100.2".to_owned();
    assert_eq!(
        after(&west(), 59_900),
        (PathState::Asking, public.clone(), true, 30)
    );
    assert_eq!(after(&west(), 60_000).0, PathState::Silent);
    let balanced = Target {
        load_balancer: true,
        ..west()
    };
    assert_eq!(after(&balanced, 6000), (PathState::Silent, public, true, 3));
    let private = Target {
        nat_enabled: false,
        ..west()
    };
    assert_eq!(
        after(&private, 60_000),
        (PathState::Silent, "10.0.2.1".into(), false, 30)
    );
    // Nobody is asked who has no port for it.
    let off = Target {
        port: None,
        ..west()
    };
    assert_eq!(
        after(&off, 60_000),
        (PathState::Assumed, "198.51.100.2".into(), true, 0)
    );
}

#[test]
fn a_silent_peer_is_asked_again_after_a_minute_then_more_seldom_and_when_it_asks_us() {
    let mut a = Asking::new(&west());
    let mut begun = Vec::new();
    let mut quiet = 10;
    for second in 0..1200 {
        let sent = !a.due(second * 1000).is_empty();
        if sent && quiet > 4 {
            begun.push(second);
        }
        quiet = if sent { 0 } else { quiet + 1 };
    }
    assert_eq!(begun, [0, 120, 300, 600, 1140]);
    let mut a = Asking::new(&west());
    (0..=61).for_each(|second| drop(a.due(second * 1000)));
    assert_eq!(path(&a.finder).state, PathState::Silent);
    let asks = Request {
        request_number: 1,
        sender: Some(EndpointDetails {
            cluster_id: "west".into(),
            endpoint_id: "submariner-cable-west".into(),
        }),
        receiver: Some(EndpointDetails {
            cluster_id: "east".into(),
            endpoint_id: "submariner-cable-east".into(),
        }),
        using_src: Some(IpPort {
            ip: "10.0.2.1".into(),
            port: 4490,
        }),
        using_dst: Some(IpPort {
            ip: "10.0.1.1".into(),
            port: 4490,
        }),
    };
    let heard = a.finder.received(
        &bytes(Body::Request(asks)),
        address(WEST),
        Some(ip("10.0.1.1")),
        at(62_000),
    );
    assert!(matches!(heard, Heard::Request(_, Verdict::Ok)), "{heard:?}");
    assert!(!a.due(62_000).is_empty());
}

#[test]
fn an_endpoint_that_changes_is_asked_again_and_keeps_a_way_that_it_still_has() {
    let mut a = Asking::new(&west());
    let first = a.due(0);
    a.hear(ok(to(&first, "10.0.2.1", true)), WEST, 10);
    let set = |a: &mut Asking, target: &Target, now| {
        a.finder
            .set(&wanted(own("east", &["10.0.1.1"]), target), at(now));
    };
    let mut moved = target("west", "10.0.2.1", Some("198.51.100.3"));
    set(&mut a, &moved, 20);
    assert_eq!(path(&a.finder).state, PathState::Answered);
    let asked: BTreeSet<IpAddr> = a.due(20).iter().map(|(to, _)| to.ip()).collect();
    assert_eq!(asked, [ip("10.0.2.1"), ip("198.51.100.3")].into());
    // An old answer does not count for the new one.
    let heard = a.hear(
        ok(to(&first, "198.51.100.2", true)),
        "198.51.100.2:4490",
        30,
    );
    assert_eq!(heard, Heard::Dropped(Dropped::NotAsked));
    moved.private = Some(ip("10.0.2.9"));
    set(&mut a, &moved, 40);
    assert_eq!(
        path(&a.finder).state,
        PathState::Asking,
        "that address is gone"
    );
    // The same again is no news.
    assert!(a.finder.take_changed());
    set(&mut a, &moved, 50);
    assert!(!a.finder.take_changed());
    a.finder.set(&Wanted::default(), at(60));
    assert!(a.finder.results().is_empty() && a.finder.take_changed());
}

#[test]
fn answers_that_are_not_wests_to_us_are_dropped_with_the_reason() {
    let mut a = Asking::new(&west());
    let first = a.due(0);
    let private = ok(to(&first, "10.0.2.1", true));
    let with = |change: fn(&mut Response)| {
        let mut response = private.clone();
        change(&mut response);
        response
    };
    for (response, from, why) in [
        (with(|r| r.request_number = 7), WEST, Dropped::NotAsked),
        (with(|r| r.sender = None), WEST, Dropped::NoParties),
        (with(|r| r.receiver = None), WEST, Dropped::NoParties),
        (with(|r| r.response = 9), WEST, Dropped::UnknownVerdict),
        (
            with(|r| r.response = 4),
            WEST,
            Dropped::Refusal(Verdict::Malformed),
        ),
        (
            with(|r| r.response = 2),
            WEST,
            Dropped::Refusal(Verdict::UnknownCluster),
        ),
        (
            with(|r| r.sender.as_mut().unwrap().cluster_id = "north".into()),
            WEST,
            Dropped::WrongParties,
        ),
        (
            with(|r| r.sender.as_mut().unwrap().endpoint_id = "submariner-cable-west-v6".into()),
            WEST,
            Dropped::WrongParties,
        ),
        (
            with(|r| r.receiver.as_mut().unwrap().cluster_id = "north".into()),
            WEST,
            Dropped::WrongParties,
        ),
        (
            with(|r| r.receiver.as_mut().unwrap().endpoint_id = "other".into()),
            WEST,
            Dropped::WrongParties,
        ),
        (private.clone(), "10.0.2.2:4490", Dropped::WrongAddress),
    ] {
        assert_eq!(a.hear(response, from, 10), Heard::Dropped(why));
    }
    assert_eq!(path(&a.finder).state, PathState::Asking);
    for (junk, why) in [
        (&[][..], Dropped::Empty),
        (&[0; LONGEST + 1], Dropped::TooLong),
        (&[0xff; 64], Dropped::Unreadable),
        (&[8, 1], Dropped::NoBody),
    ] {
        let heard = a.finder.received(junk, address(WEST), None, at(10));
        assert_eq!(heard, Heard::Dropped(why));
    }
    // After all that the true answer counts, once.
    assert_eq!(a.hear(private.clone(), WEST, 20), Heard::Response);
    assert_eq!(a.hear(private, WEST, 20), Heard::Dropped(Dropped::NotAsked));
}

#[test]
fn an_ipv6_peer_of_0_21_that_takes_every_destination_for_rewritten_is_not_behind_a_nat() {
    let mut a = Asking::new(&target("west", "fd00::2", None));
    let first = a.due(0);
    let mut answer = ok(to(&first, "fd00::2", true));
    answer.response = Verdict::NatDetected.into();
    answer.dst_ip_nat_detected = true;
    let mut rewritten = answer.clone();
    a.hear(answer, "[fd00::2]:4490", 10);
    assert!(!path(&a.finder).nat);
    rewritten.src_port_nat_detected = true;
    let mut a = Asking::new(&target("west", "fd00::2", None));
    a.due(0);
    a.hear(rewritten, "[fd00::2]:4490", 10);
    assert!(path(&a.finder).nat);
}

fn asks_east(receiver: &str, src: &str, dst: &str) -> Request {
    let details = |cluster: &str, id: &str| {
        Some(EndpointDetails {
            cluster_id: cluster.into(),
            endpoint_id: id.into(),
        })
    };
    let pair = |text: &str| {
        let of = address(text);
        Some(IpPort {
            ip: of.ip().to_string(),
            port: of.port().into(),
        })
    };
    Request {
        request_number: 42,
        sender: details("north", "submariner-cable-north-v4"),
        receiver: details("east", receiver),
        using_src: pair(src),
        using_dst: pair(dst),
    }
}

/// East's answer.
fn answer(finder: &mut Finder, request: Request, from: &str, to: &str) -> Response {
    let bytes = bytes(Body::Request(request));
    let heard = finder.received(&bytes, address(from), Some(ip(to)), at(0));
    let Heard::Request(datagram, _) = heard else {
        panic!("{heard:?}")
    };
    assert_eq!((datagram.to, datagram.from), (address(from), Some(ip(to))));
    let Some(Body::Response(response)) = Envelope::decode(&datagram.bytes[..]).unwrap().body else {
        panic!("no response")
    };
    response
}

#[test]
fn a_request_is_answered_in_the_dialect_in_which_it_asks_and_says_what_was_rewritten() {
    let (src, dst) = ("192.0.2.1:4490", "10.0.1.1:4490");
    let mut east = Asking::new(&west()).finder;
    let mut asked = |receiver: &str, from: &str, said_src: &str, said_dst: &str| {
        let r = answer(
            &mut east,
            asks_east(receiver, said_src, said_dst),
            from,
            "10.0.1.1",
        );
        assert_eq!(r.request_number, 42);
        assert_eq!(
            r.receiver.unwrap().endpoint_id,
            "submariner-cable-north-v4",
            "echoed"
        );
        let flags = (
            r.src_ip_nat_detected,
            r.src_port_nat_detected,
            r.dst_ip_nat_detected,
        );
        (
            Verdict::try_from(r.response).unwrap(),
            r.sender.unwrap().endpoint_id,
            flags,
        )
    };
    let none = (false, false, false);
    let (plain, v4) = ("submariner-cable-east", "submariner-cable-east-v4");
    assert_eq!(
        asked(plain, src, src, dst),
        (Verdict::Ok, plain.into(), none)
    );
    assert_eq!(asked(v4, src, src, dst), (Verdict::Ok, v4.into(), none));
    let v6 = "submariner-cable-east-v6";
    assert_eq!(
        asked(v6, src, src, dst).0,
        Verdict::UnknownEndpoint,
        "it came by IPv4"
    );
    assert_eq!(asked("another", src, src, dst).0, Verdict::UnknownEndpoint);
    let nat = Verdict::NatDetected;
    assert_eq!(
        asked(v4, "203.0.113.7:4490", src, dst),
        (nat, v4.into(), (true, false, false))
    );
    assert_eq!(
        asked(v4, "192.0.2.1:999", src, dst),
        (nat, v4.into(), (false, true, false))
    );
    assert_eq!(
        asked(v4, src, src, "198.51.100.1:4490"),
        (nat, v4.into(), (false, false, true))
    );
    let mut other = asks_east(v4, src, dst);
    other.receiver.as_mut().unwrap().cluster_id = "west".into();
    let r = answer(&mut east, other, src, "10.0.1.1");
    assert_eq!(r.response, 2);
    // Peers end that look into a sender or receiver that is not there.
    for broken in [
        Request::default(),
        Request {
            using_dst: None,
            ..asks_east(v4, src, dst)
        },
    ] {
        let r = answer(&mut east, broken, src, "10.0.1.1");
        assert_eq!(r.response, 4);
        assert!(r.sender.is_some() && r.receiver.is_some());
    }
}

#[test]
fn strangers_get_few_answers_and_peers_theirs() {
    let mut east = Asking::new(&west()).finder;
    let request = bytes(Body::Request(asks_east(
        "submariner-cable-east",
        "192.0.2.1:4490",
        "10.0.1.1:4490",
    )));
    let mut answered = |from: &str, now| {
        let heard = east.received(&request, address(from), None, at(now));
        matches!(heard, Heard::Request(..))
    };
    let count = (0..1000).filter(|_| answered("192.0.2.1:4490", 0)).count();
    assert_eq!(count, 20);
    assert!(answered("192.0.2.1:4490", 200), "one more after a while");
    for n in 0..2000u32 {
        let [_, _, c, d] = n.to_be_bytes();
        answered(&format!("10.9.{c}.{d}:4490"), 200);
    }
    assert!(!answered("10.10.0.1:4490", 200), "too many strangers");
    assert!(answered(WEST, 200) && answered("198.51.100.2:1", 200));
    assert!(answered("10.10.0.1:4490", 60_000));
    let mut long = asks_east("submariner-cable-east", "192.0.2.1:4490", "10.0.1.1:4490");
    long.sender.as_mut().unwrap().cluster_id = "x".repeat(254);
    let heard = east.received(&bytes(Body::Request(long)), address(WEST), None, at(0));
    assert_eq!(heard, Heard::Dropped(Dropped::TooLong));
}

#[test]
fn many_targets_are_asked_some_at_a_time() {
    let targets = (0..200).map(|n| target(&format!("c{n}"), &format!("10.1.0.{n}"), None));
    let mut finder = Finder::default();
    let own = Some(own("east", &["10.0.1.1"]));
    finder.set(
        &Wanted {
            own,
            targets: targets.collect(),
        },
        at(0),
    );
    let mut number = 0;
    let mut asked = BTreeSet::new();
    for now in 0..100 {
        let due = finder.due(at(now), || {
            number += 1;
            number
        });
        assert!(due.len() <= 64);
        asked.extend(due.iter().map(|datagram| datagram.to));
        assert!(finder.deadline().unwrap() > at(now));
    }
    assert_eq!(asked.len(), 200);
}

#[test]
fn a_way_that_nothing_watches_is_looked_for_again_from_time_to_time_and_kept_meanwhile() {
    let seconds = |n: u64| n * 1000;
    let target = Target {
        unwatched: true,
        ..west()
    };
    let mut a = Asking::new(&target);
    let first = a.due(0);
    assert_eq!(
        a.hear(ok(to(&first, "10.0.2.1", true)), WEST, 10),
        Heard::Response
    );
    assert!(a.due(seconds(299)).is_empty());
    // It is found where it is now: it has moved behind its NAT, say.
    let again = a.due(seconds(301));
    assert!(!again.is_empty());
    assert_eq!(path(&a.finder).state, PathState::Answered);
    let mut public = ok(to(&again, "198.51.100.2", true));
    public.response = Verdict::NatDetected.into();
    a.hear(public, "198.51.100.2:4490", seconds(301));
    a.due(seconds(303));
    assert_eq!(path(&a.finder).ip, ip("198.51.100.2"));
    assert!(!a.due(seconds(603)).is_empty(), "and so on");
}

#[test]
fn a_way_that_works_again_is_not_looked_for_any_more() {
    for revives in [false, true] {
        let dead = Target {
            dead: true,
            ..west()
        };
        let mut a = Asking::new(&dead);
        let first = a.due(0);
        assert_eq!(
            a.hear(ok(to(&first, "10.0.2.1", true)), WEST, 10),
            Heard::Response
        );
        let own = own("east", &["10.0.1.1", "fd00::1"]);
        let now = if revives { west() } else { dead };
        a.finder.set(&wanted(own, &now), at(1000));
        assert_eq!(a.due(61_000).is_empty(), revives);
    }
}
