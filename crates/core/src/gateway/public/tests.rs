//! Whom a gateway asks for its address, and what it believes.

use std::time::Duration;

use super::*;
use crate::Time;

fn at(seconds: u64) -> Time {
    Time(Duration::from_secs(seconds))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn v4() -> BTreeSet<Family> {
    [Family::V4].into()
}

fn asking(list: &str, families: &BTreeSet<Family>) -> Resolver {
    let (ask, problems) = Ask::configured(list, families, false);
    assert_eq!(problems, Vec::<String>::new());
    let mut resolver = Resolver::new();
    resolver.set(ask, 0, at(0));
    resolver
}

fn get(url: &str) -> Option<Query> {
    Some(Query::Get { url: url.into() })
}

fn text(text: &str) -> Result<Answer, String> {
    Ok(Answer::Text(text.into()))
}

fn v4_of(resolver: &Resolver) -> Option<String> {
    let ip = resolver.public().addresses.get(&Family::V4);
    ip.map(ToString::to_string)
}

#[test]
fn the_first_method_that_answers_wins_and_is_asked_again_each_minute() {
    let mut r = asking("api:one.example/ip, dns:two.example,ipv4:192.0.2.3", &v4());
    assert_eq!(r.next(at(0)), get("one.example/ip"));
    r.answered(Err("no route to it".into()));
    assert_eq!(r.next(at(0)), Some(Query::Name("two.example".into())));
    let addresses = ["192.0.2.9", "192.0.2.2", "fd00::1", "127.0.0.1"].map(ip);
    r.answered(Ok(Answer::Addresses(addresses.into())));
    assert_eq!(r.next(at(0)), None);
    assert_eq!(
        v4_of(&r).as_deref(),
        Some("192.0.2.2"),
        "the first by value"
    );
    assert_eq!(r.deadline(), Some(at(60)));
    assert_eq!(r.next(at(59)), None);
    // Nobody answers any more: the third way remains.
    assert!(r.next(at(60)).is_some());
    r.answered(Err("gone".into()));
    assert!(r.next(at(60)).is_some());
    r.answered(Err("gone".into()));
    assert_eq!(r.next(at(60)), None);
    assert_eq!(v4_of(&r).as_deref(), Some("192.0.2.3"));
}

#[test]
fn what_was_learned_stays_while_nobody_answers_and_the_first_time_it_is_tried_again_soon() {
    let mut r = asking("api:one.example", &v4());
    assert!(r.next(at(0)).is_some());
    r.answered(Err("timed out".into()));
    assert_eq!(r.next(at(0)), None);
    assert_eq!(
        r.public().failures[&Family::V4],
        "api:one.example: timed out"
    );
    assert_eq!(r.deadline(), Some(at(5)));
    assert!(r.next(at(5)).is_some());
    r.answered(text("<b>Your address is 192.0.2.1.</b>"));
    assert_eq!(r.next(at(5)), None);
    assert_eq!(
        (v4_of(&r).as_deref(), r.public().failures.len()),
        (Some("192.0.2.1"), 0)
    );
    assert!(r.next(at(65)).is_some());
    r.answered(text("nothing here, 999.1.1.1, 0.0.0.0, 127.0.0.1"));
    assert_eq!(r.next(at(65)), None);
    assert_eq!(v4_of(&r).as_deref(), Some("192.0.2.1"));
    assert!(r.public().failures[&Family::V4].contains("no address that a host can have"));
}

#[test]
fn a_load_balancer_has_an_address_or_a_name() {
    let mut r = asking("lb:submariner-gateway", &v4());
    assert_eq!(
        r.next(at(0)),
        Some(Query::Service("submariner-gateway".into()))
    );
    r.answered(Ok(Answer::Name("lb.example".into())));
    assert_eq!(r.next(at(0)), Some(Query::Name("lb.example".into())));
    r.answered(Ok(Answer::Addresses(vec![ip("192.0.2.5")])));
    assert_eq!(r.next(at(0)), None);
    assert_eq!(v4_of(&r).as_deref(), Some("192.0.2.5"));
}

#[test]
fn one_site_that_nobody_chose_is_not_believed_alone_when_it_says_something_new() {
    let mut r = Resolver::new();
    r.set(Ask::built_in(&v4()), 3, at(0));
    assert_eq!(
        r.next(at(0)),
        get("ipinfo.io/ip"),
        "not always the same first"
    );
    r.answered(text("192.0.2.1\n"));
    assert_eq!(r.next(at(0)), None);
    assert_eq!(v4_of(&r).as_deref(), Some("192.0.2.1"));
    // One lies: the next one says what is known.
    assert_eq!(r.next(at(60)), get("ipinfo.io/ip"));
    r.answered(text("203.0.113.66"));
    assert_eq!(r.next(at(60)), get("4.ident.me"));
    r.answered(text("192.0.2.1"));
    assert_eq!(r.next(at(60)), None);
    assert_eq!(v4_of(&r).as_deref(), Some("192.0.2.1"));
    // Two say it: it has changed.
    assert_eq!(
        r.next(at(120)),
        get("4.ident.me"),
        "who answered last is asked first"
    );
    r.answered(text("192.0.2.7"));
    r.next(at(120));
    r.answered(text("192.0.2.7"));
    assert_eq!(r.next(at(120)), None);
    assert_eq!(v4_of(&r).as_deref(), Some("192.0.2.7"));
    // Only one can be reached: it is believed after all.
    while r.next(at(180)).is_some() {
        let first = v4_of(&r).is_some() && r.next(at(180)) == get("checkip.amazonaws.com");
        r.answered(if first {
            text("192.0.2.8")
        } else {
            Err("no route".into())
        });
    }
    assert_eq!(v4_of(&r).as_deref(), Some("192.0.2.8"));
}

#[test]
fn air_gapped_nobody_is_asked() {
    let list = "api:one.example,lb:x,dns:y.example,ipv4:192.0.2.3";
    let (ask, _) = Ask::configured(list, &v4(), true);
    assert_eq!(ask.methods, [Method::Fixed(ip("192.0.2.3"))]);
    let mut r = Resolver::new();
    r.set(ask, 0, at(0));
    assert_eq!(r.next(at(0)), None);
    assert_eq!(v4_of(&r).as_deref(), Some("192.0.2.3"));
}

#[test]
fn both_families_have_an_address_each() {
    let families = Family::ALL.into();
    let mut r = asking("ipv4:192.0.2.3,ipv6:2001:db8::3", &families);
    assert_eq!(r.next(at(0)), None);
    assert_eq!(r.public().addresses.len(), 2);
    let Ask { methods, .. } = Ask::built_in(&families);
    assert_eq!(methods.len(), 12);
}

#[test]
fn entries_that_cannot_be_used_are_named_and_the_others_count() {
    let list =
        "192.0.2.1,ipv4:fd00::1,what:x,api:,dns:a b,api:\u{1b}[31m,ipv4:127.0.0.1,dns:good.example";
    let (ask, problems) = Ask::configured(list, &v4(), false);
    assert_eq!(ask.methods, [Method::Dns("good.example".into())]);
    assert_eq!(problems.len(), 7, "{problems:?}");
    assert!(problems.iter().all(|p| !p.chars().any(char::is_control)));
}
