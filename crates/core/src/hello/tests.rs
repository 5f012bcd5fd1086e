//! Sessions between two: what counts, and what is a recording.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::Time;

const PORT: u16 = 4801;
const SECRET: &[u8] = b"a secret that is long enough....";

fn at(ms: u64) -> Time {
    Time(Duration::from_millis(ms))
}

fn id(kind: Kind, node: &str) -> PeerId {
    PeerId {
        kind,
        node: node.into(),
    }
}

fn source(node: &str) -> SocketAddr {
    let last = if node == "a" { 1 } else { 2 };
    SocketAddr::from(([10, 0, 0, last], PORT))
}

fn mesh(node: &str, random: u64) -> Mesh {
    let mut mesh = Mesh::new(
        id(Kind::Gateway, node),
        node,
        Timing::default(),
        PORT,
        random,
    );
    mesh.secret(SECRET, at(0));
    let nodes = ["a", "b"].map(|n| (n.to_owned(), (vec![source(n).ip()], true)));
    mesh.nodes(&BTreeMap::from(nodes), at(0));
    mesh
}

fn due(mesh: &mut Mesh, now: Time) -> Vec<Vec<u8>> {
    let all = mesh.due(&Word::default(), &BTreeMap::new(), now);
    all.into_iter().map(|d| d.bytes).collect()
}

/// Lets both speak for a while; all that `a` said.
fn talk(a: &mut Mesh, b: &mut Mesh, from: u64, to: u64) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    for ms in (from..to).step_by(10) {
        for bytes in due(a, at(ms)) {
            let _ = b.receive(&bytes, source("a"), at(ms));
            said.push(bytes);
        }
        for bytes in due(b, at(ms)) {
            let _ = a.receive(&bytes, source("b"), at(ms));
        }
        a.look(at(ms));
        b.look(at(ms));
    }
    said
}

fn hears(mesh: &Mesh, ms: u64) -> bool {
    mesh.alive(at(ms)).next().is_some()
}

#[test]
fn both_hear_each_other_within_a_moment_and_silence_ends_that_in_three_tenths_of_a_second() {
    let (mut a, mut b) = (mesh("a", 1), mesh("b", 2));
    talk(&mut a, &mut b, 0, 40);
    let (of_a, of_b) = (id(Kind::Gateway, "a"), id(Kind::Gateway, "b"));
    assert!(a.is_up(&of_b, at(40)) && b.is_up(&of_a, at(40)));
    talk(&mut a, &mut b, 40, 2000);
    assert!(b.is_up(&of_a, at(2000)));
    for ms in (2000..2300).step_by(10) {
        b.look(at(ms));
    }
    assert!(!hears(&b, 2300));
}

#[test]
fn a_recording_is_no_sign_of_life() {
    let (mut a, mut b) = (mesh("a", 1), mesh("b", 2));
    let said = talk(&mut a, &mut b, 0, 1000);
    for bytes in &said {
        assert_eq!(b.receive(bytes, source("a"), at(1000)), Err(Refusal::Old));
    }
    // Nor after the session is over, nor to one that began anew.
    let mut anew = mesh("b", 3);
    for ms in (1000..3000).step_by(10) {
        b.look(at(ms));
        for bytes in &said {
            assert_eq!(b.receive(bytes, source("a"), at(ms)).ok().flatten(), None);
            assert_eq!(
                anew.receive(bytes, source("a"), at(ms)).ok().flatten(),
                None
            );
        }
    }
    assert!(!hears(&b, 3000) && !hears(&anew, 3000));
    // And who was played to hears the real one again.
    talk(&mut a, &mut b, 3000, 3100);
    assert!(hears(&b, 3100));
}

#[test]
fn what_one_said_before_it_began_anew_is_old() {
    let (mut a, mut b) = (mesh("a", 1), mesh("b", 2));
    let said = talk(&mut a, &mut b, 0, 1000);
    let mut anew = mesh("a", 4);
    talk(&mut anew, &mut b, 1000, 1050);
    assert!(b.is_up(&id(Kind::Gateway, "a"), at(1050)));
    for bytes in &said {
        assert_eq!(b.receive(bytes, source("a"), at(1050)), Err(Refusal::Old));
    }
}

#[test]
fn one_that_begins_anew_again_and_again_is_never_taken_for_silent_if_it_is_quick() {
    let (mut a, mut b) = (mesh("a", 1), mesh("b", 2));
    talk(&mut a, &mut b, 0, 1000);
    let mut now = 1000;
    for number in 10..60 {
        let places = a.places().collect();
        a = Mesh::new(id(Kind::Gateway, "a"), "a", Timing::default(), PORT, number);
        a.secret(SECRET, at(now));
        a.go_on(places, at(now));
        let begun = now;
        while !a.is_up(&id(Kind::Gateway, "b"), at(now)) {
            let nodes = ["a", "b"].map(|n| (n.to_owned(), (vec![source(n).ip()], true)));
            a.nodes(&BTreeMap::from(nodes), at(now));
            talk(&mut a, &mut b, now, now + 10);
            now += 10;
            assert!(hears(&b, now), "{number}");
            assert!(now < begun + 100, "{number}");
        }
        talk(&mut a, &mut b, now, now + 400);
        now += 400;
        assert!(hears(&b, now) && hears(&a, now), "{number}");
    }
}

#[test]
fn one_that_goes_on_speaks_first_to_who_is_no_gateway_and_soon_again_if_that_is_lost() {
    let node = "10.0.0.2:50000".parse().unwrap();
    let mut a = mesh("a", 1);
    let nobody = "10.0.0.3:50000".parse().unwrap();
    let places = [
        (id(Kind::Node, "b"), node),
        (id(Kind::Node, "gone"), nobody),
    ];
    a.go_on(places.into(), at(0));
    let mut said: Vec<u64> = Vec::new();
    for ms in 0..300 {
        let all = a.due(&Word::default(), &BTreeMap::new(), at(ms));
        assert!(!all.iter().any(|d| d.to.contains(&nobody)));
        let to_node = all.iter().filter(|d| d.to == [node]);
        said.extend(to_node.map(|_| ms));
    }
    let soon = said.windows(2).all(|pair| pair[1] - pair[0] <= 250);
    assert!(said[0] == 0 && said.len() >= 2 && soon, "{said:?}");
}

#[test]
fn only_who_has_the_secret_and_is_a_gateway_is_heard() {
    let mut b = mesh("b", 2);
    let mut stranger = mesh("a", 1);
    stranger.secret(b"another secret, as long as theirs", at(0));
    let other = stranger.due(&Word::default(), &BTreeMap::new(), at(0));
    // It has the right one too, as long as that is valid.
    let [first, second] = &other[..] else {
        panic!("{other:?}")
    };
    assert_eq!(
        b.receive(&second.bytes, source("a"), at(0)),
        Err(Refusal::UnknownKey)
    );
    assert_eq!(b.receive(&first.bytes, source("a"), at(0)), Ok(None));
    let mut changed = first.bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(
        b.receive(&changed, source("a"), at(0)),
        Err(Refusal::WrongSeal)
    );
    let late = at(601_000);
    assert_eq!(
        due(&mut stranger, late).len(),
        1,
        "the old secret is void after 10 min"
    );

    b.nodes(
        &BTreeMap::from([("a".to_owned(), (Vec::new(), false))]),
        at(0),
    );
    assert_eq!(
        b.receive(&first.bytes, source("a"), at(0)),
        Err(Refusal::UnknownPeer)
    );
}

/// The corpus: datagrams, and what may stand in one, which must be sealed first.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hello-corpus");

/// A datagram with this content, of one that has the secret.
fn sealed(content: &[u8]) -> Vec<u8> {
    let id = &ring::digest::digest(&ring::digest::SHA256, SECRET);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    let tag = ring::hmac::sign(&key, content);
    [b"sth\x01", &id.as_ref()[..4], tag.as_ref(), content].concat()
}

#[test]
fn no_bytes_make_it_panic_even_from_one_that_has_the_secret() {
    let (mut a, mut b) = (mesh("a", 1), mesh("b", 2));
    talk(&mut a, &mut b, 0, 500);
    let b = std::cell::RefCell::new(b);
    strait_fuzz::fuzz(CORPUS, 20_000, |bytes| {
        let mut b = b.borrow_mut();
        let _ = b.receive(bytes, source("a"), at(500));
        let _ = b.receive(&sealed(bytes), source("a"), at(500));
        // Sealed anew, so that the content is read.
        if let Some(content) = bytes.get(40..) {
            let _ = b.receive(&sealed(content), source("a"), at(500));
        }
    });
    // Who has the secret can disturb a session, but not for long.
    let mut b = b.into_inner();
    talk(&mut a, &mut b, 2000, 4000);
    assert!(hears(&b, 4000));
}

#[test]
fn the_corpus_holds_what_is_taken_and_what_is_refused_for_each_reason() {
    let mut seen = std::collections::BTreeSet::new();
    for bytes in strait_fuzz::corpus(CORPUS) {
        for datagram in [bytes.clone(), sealed(&bytes)] {
            let mut b = mesh("b", 2);
            seen.insert(b.receive(&datagram, source("a"), at(0)).err());
        }
    }
    let refusals = [
        Refusal::NotHello,
        Refusal::Version,
        Refusal::UnknownKey,
        Refusal::WrongSeal,
        Refusal::Malformed,
        Refusal::UnknownPeer,
    ];
    let missing: Vec<_> = refusals
        .into_iter()
        .map(Some)
        .chain([None])
        .filter(|wanted| !seen.contains(wanted))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn who_slept_does_not_take_that_for_silence() {
    let (mut a, mut b) = (mesh("a", 1), mesh("b", 2));
    talk(&mut a, &mut b, 0, 1000);
    b.look(at(60_000));
    assert!(hears(&b, 60_000));
    b.look(at(60_100));
    assert!(hears(&b, 60_100));
    b.look(at(60_200));
    b.look(at(60_310));
    assert!(!hears(&b, 60_310));
}

#[test]
fn terms_are_read_as_they_are_written() {
    let term = Term {
        lease: 7,
        ballot: 2,
    };
    assert_eq!(term.to_string().parse(), Ok(term));
    for bad in [
        "",
        "7",
        "7.",
        ".2",
        "+7.2",
        "7.-2",
        "7.2.1",
        "99999999999999999999.0",
    ] {
        assert!(bad.parse::<Term>().is_err(), "{bad}");
    }
}
