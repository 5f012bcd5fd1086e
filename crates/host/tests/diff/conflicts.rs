//! What stands in the way and is left alone.

use strait_host::{Host, Owned, Route, RouteKind, Wanted, diff};

use super::*;

#[test]
fn a_foreign_link_of_our_name_is_a_conflict_and_is_left_alone() {
    let host = Host {
        links: [("vx0".to_owned(), other_link())].into(),
        ..Host::default()
    };
    let d = diff(&host, &wanting(plain_link(Some("strait"), 100)), &owner());
    assert!(d.changes.is_empty(), "{:?}", d.changes);
    assert_eq!(d.conflicts.len(), 1);
}

#[test]
fn nothing_is_set_on_a_foreign_link_of_our_name() {
    let path = |key: &str| format!("net/ipv4/conf/vx0/{key}");
    let host = Host {
        links: [("vx0".to_owned(), other_link())].into(),
        sysctls: [(path("rp_filter"), "1".to_owned())].into(),
        ..Host::default()
    };
    let wanted = Wanted {
        sysctls: [(path("forwarding"), "1".to_owned())].into(),
        loose_reverse_path: ["vx0".to_owned()].into(),
        ..wanting(plain_link(Some("strait"), 100))
    };
    let d = diff(&host, &wanted, &owner());
    assert!(d.changes.is_empty(), "{:?}", d.changes);
}

#[test]
fn a_foreign_link_with_our_network_identifier_is_a_conflict_that_names_it() {
    let host = Host {
        links: [("other".to_owned(), plain_link(None, 100))].into(),
        ..Host::default()
    };
    let d = diff(&host, &wanting(plain_link(Some("strait"), 100)), &owner());
    assert!(d.changes.is_empty(), "{:?}", d.changes);
    assert!(
        d.conflicts[0].to_string().contains("other"),
        "{}",
        d.conflicts[0]
    );
}

#[test]
fn a_foreign_route_in_the_place_of_ours_is_a_conflict_and_stays() {
    let route = |protocol| Route {
        table: 254,
        dst: net(1),
        metric: 0,
        protocol,
        kind: RouteKind::Unreachable,
    };
    let host = Host {
        routes: [route(THEIRS)].into(),
        ..Host::default()
    };
    let wanted = Wanted {
        routes: Owned::Set([route(OURS)].into()),
        ..Wanted::default()
    };
    let d = diff(&host, &wanted, &owner());
    assert!(d.changes.is_empty() && d.conflicts.len() == 1, "{d:?}");
}
