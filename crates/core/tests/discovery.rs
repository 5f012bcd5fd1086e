//! Datagrams that somebody else wrote: whatever is in them, nothing panics, an answer is not longer than what asked for it allows, and nobody
//! but who was asked decides by which address another gateway is reached.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use strait_core::Time;
use strait_core::discovery::{Finder, Heard, Key, Own, PathState, Target, Wanted};
use strait_fuzz::fuzz;
use strait_host::Family;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/discovery-corpus");

/// East, which has asked west: as the corpus has it, its requests have the numbers 1 to 4.
fn east() -> Finder {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let target = Target {
        key: Key {
            cluster: "west".parse().unwrap(),
            cable_name: "submariner-cable-west".into(),
            family: Family::V4,
        },
        private: Some(ip("10.0.2.1")),
        public: Some(ip("198.51.100.2")),
        port: Some(4490),
        nat_enabled: true,
        load_balancer: false,
        dead: false,
        unwatched: false,
    };
    let own = Own {
        cluster: "east".parse().unwrap(),
        cable_name: "submariner-cable-east".into(),
        port: 4490,
        addresses: [(Family::V4, ip("10.0.1.1"))].into(),
    };
    let mut finder = Finder::default();
    let wanted = Wanted {
        own: Some(own),
        targets: [target].into(),
    };
    finder.set(&wanted, Time::default());
    let mut number = 0;
    let due = finder.due(Time::default(), || {
        number += 1;
        number
    });
    assert_eq!(due.len(), 4);
    finder
}

#[test]
fn no_datagram_makes_discovery_panic_or_choose_an_address_that_was_not_asked() {
    let fresh = east();
    fuzz(CORPUS, 20_000, |bytes| {
        for from in ["10.0.2.1:4490", "198.51.100.2:4490", "203.0.113.9:7"] {
            let from: SocketAddr = from.parse().unwrap();
            let mut finder = fresh.clone();
            let heard = finder.received(bytes, from, None, Time::default());
            if let Heard::Request(answer, _) = &heard {
                assert_eq!(answer.to, from);
                assert!(
                    answer.bytes.len() <= bytes.len() + 200,
                    "{}",
                    answer.bytes.len()
                );
            }
            finder.due(Time(Duration::from_secs(1)), || 99);
            let results = finder.results();
            let path = results.values().next().unwrap();
            let asked = ["10.0.2.1", "198.51.100.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
            assert!(asked.contains(&path.ip));
            if path.state == PathState::Answered {
                assert_eq!(heard, Heard::Response);
                let private = path.ip == asked[0];
                assert!(!private || from.ip() == path.ip);
            }
        }
    });
}

#[test]
fn the_corpus_holds_what_is_answered_and_what_answers() {
    let heard: Vec<Heard> = strait_fuzz::corpus(CORPUS)
        .iter()
        .map(|bytes| {
            let from = "10.0.2.1:4490".parse().unwrap();
            east().received(bytes, from, None, Time::default())
        })
        .collect();
    let count = |good: fn(&Heard) -> bool| heard.iter().filter(|h| good(h)).count();
    assert!(count(|h| matches!(h, Heard::Response)) >= 2, "{heard:?}");
    assert!(count(|h| matches!(h, Heard::Request(..))) >= 2, "{heard:?}");
    assert!(count(|h| matches!(h, Heard::Dropped(_))) >= 3, "{heard:?}");
}
