//! What stands in the way and is left alone.

use std::collections::BTreeMap;

use strait_host::nft::{Chain, Table};
use strait_host::{Change, Conflict, Hop, Host, Owned, Route, RouteKind, Wanted, diff};

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

fn table(comment: &str, chains: &[&str]) -> Table {
    Table {
        comment: comment.into(),
        chains: chains
            .iter()
            .map(|name| ((*name).to_owned(), Chain::default()))
            .collect(),
        sets: BTreeMap::new(),
    }
}

#[test]
fn a_foreign_table_of_our_name_is_a_conflict_and_nothing_is_opened_without_ours() {
    let id = table_id("strait");
    let way = Route {
        table: 254,
        dst: net(2),
        metric: 0,
        protocol: OURS,
        kind: RouteKind::Unicast {
            hops: vec![Hop {
                dev: Some("eth0".into()),
                via: None,
                onlink: false,
            }],
            src: None,
        },
    };
    let guard = Route {
        metric: u32::MAX,
        kind: RouteKind::Unreachable,
        ..way.clone()
    };
    let wanted = Wanted {
        nft: Owned::Set([(id.clone(), table("strait", &["source"]))].into()),
        routes: Owned::Set([way, guard.clone()].into()),
        sysctls: [("net/ipv4/conf/eth0/forwarding".into(), "1".into())].into(),
        ..Wanted::default()
    };
    for theirs in [
        table("", &["theirs"]),
        table("", &["source"]),
        table("somebody's", &["source", "extra"]),
    ] {
        let mut host = Host::default();
        host.nft.insert(id.clone(), theirs);
        let d = diff(&host, &wanted, &owner());
        assert_eq!(d.conflicts, [Conflict::Table(id.clone())]);
        assert_eq!(d.changes, [Change::SetRoute(guard.clone())]);
        assert_eq!(diff(&host, &Wanted::nothing(), &owner()).changes, []);
    }
}

#[test]
fn a_table_of_a_former_version_is_taken_over_in_one_transaction_and_an_empty_one_is_nobodys() {
    let id = table_id("strait");
    let new = table("strait", &["source"]);
    let wanted = Wanted {
        nft: Owned::Set([(id.clone(), new.clone())].into()),
        ..Wanted::default()
    };
    for before in [
        table("", &["source", "extra", "other"]),
        table("", &[]),
        table("strait", &["theirs"]),
    ] {
        let mut host = Host::default();
        host.nft.insert(id.clone(), before);
        let d = diff(&host, &wanted, &owner());
        assert_eq!(d.conflicts, []);
        assert_eq!(d.changes.len(), 1, "{:?}", d.changes);
        host.apply(&d.changes[0]);
        assert_eq!(host.nft[&id], new);
    }
}
