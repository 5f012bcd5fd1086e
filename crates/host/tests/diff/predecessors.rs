//! What somebody left that was there before, or is another owner's.

use strait_host::{
    Address, Change, Hop, Host, Link, LinkKind, Owned, Route, RouteKind, Scope, Vxlan, Wanted, diff,
};

use super::*;

#[test]
fn a_predecessors_link_of_our_name_and_type_is_adopted_without_being_made_anew() {
    let host = Host {
        links: [("vx0".to_owned(), plain_link(None, 100))].into(),
        ..Host::default()
    };
    let changes = diff(&host, &wanting(plain_link(Some("strait"), 100)), &owner()).changes;
    assert!(
        matches!(
            &changes[..],
            [Change::ChangeLink(..), Change::AddAddress(_)]
        ),
        "{changes:?}"
    );
}

#[test]
fn a_route_that_a_predecessor_left_by_way_of_our_link_gives_way_without_a_gap() {
    let route = |protocol, dev: &str| Route {
        table: 254,
        dst: net(1),
        metric: 0,
        protocol,
        kind: RouteKind::Unicast {
            hops: vec![Hop {
                dev: Some(dev.to_owned()),
                via: Some(ip(9)),
                onlink: false,
            }],
            src: None,
        },
    };
    let wanted = Wanted {
        routes: Owned::Set([route(OURS, "vx0")].into()),
        ..wanting(plain_link(Some("strait"), 100))
    };
    let with = |have: Route| {
        let host = Host {
            links: [("vx0".to_owned(), plain_link(None, 100))].into(),
            routes: [have].into(),
            ..Host::default()
        };
        diff(&host, &wanted, &owner())
    };
    let taken = with(route(THEIRS, "vx0"));
    assert_eq!(taken.conflicts, []);
    assert!(
        taken
            .changes
            .contains(&Change::SetRoute(route(OURS, "vx0")))
    );
    assert!(
        !taken
            .changes
            .iter()
            .any(|c| matches!(c, Change::RemoveRoute(_)))
    );
    // That of a daemon, or by another link, is somebody's.
    for other in [route(17, "vx0"), route(THEIRS, "eth0")] {
        assert_eq!(with(other).conflicts.len(), 1);
    }
}

#[test]
fn an_address_by_way_of_which_a_route_is_to_lead_goes_before_that_comes() {
    let old = Address {
        link: "vx0".into(),
        net: "240.0.0.9/8".parse().unwrap(),
        scope: Scope::Global,
    };
    let host = Host {
        links: [("vx0".to_owned(), plain_link(Some("strait"), 100))].into(),
        addresses: [old.clone()].into(),
        ..Host::default()
    };
    let route = Route {
        table: 254,
        dst: net(1),
        metric: 0,
        protocol: OURS,
        kind: RouteKind::Unicast {
            hops: vec![Hop {
                dev: Some("vx0".into()),
                via: Some(old.net.addr()),
                onlink: false,
            }],
            src: None,
        },
    };
    let wanted = Wanted {
        routes: Owned::Set([route.clone()].into()),
        ..wanting(plain_link(Some("strait"), 100))
    };
    let [new] = wanted.addresses.get().unwrap().iter().collect::<Vec<_>>()[..] else {
        panic!("one address is wanted")
    };
    assert_eq!(
        diff(&host, &wanted, &owner()).changes,
        [
            Change::AddAddress(new.clone()),
            Change::RemoveAddress(old),
            Change::SetRoute(route)
        ]
    );
}

#[test]
fn what_another_owner_left_goes_only_if_it_is_named_and_carries_the_mark() {
    let marked = Link {
        alias: Some("strait".into()),
        ..other_link()
    };
    let mut host = Host::default();
    for (name, link) in [
        ("cable0", marked.clone()),
        ("cable1", other_link()),
        ("cable2", marked),
    ] {
        host.links.insert(name.into(), link);
    }
    let wanted = Wanted {
        reaped: ["cable0", "cable1", "gone"].map(str::to_owned).into(),
        ..Wanted::default()
    };
    let changes = diff(&host, &wanted, &owner()).changes;
    assert_eq!(changes, [Change::RemoveLink("cable0".into())]);
}

#[test]
fn what_can_t_be_changed_in_place_is_told_with_the_reason() {
    let vxlan = |port, local: &str| {
        let mut link = plain_link(Some("strait"), 100);
        link.kind = LinkKind::Vxlan(Vxlan {
            vni: 100,
            port,
            local: local.parse().ok(),
            remote: None,
            learning: false,
        });
        link
    };
    let told = |have: Link, want: Link| {
        let host = Host {
            links: [("vx0".to_owned(), have)].into(),
            ..Host::default()
        };
        let mut difference = diff(&host, &wanting(want), &owner());
        let remade = difference.remade.pop().map(|r| (r.link, r.why));
        assert_eq!(difference.remade, []);
        // It is told if it is so, and only then.
        let anew = |c: &Change| matches!(c, Change::RemoveLink(name) if name == "vx0");
        assert_eq!(remade.is_some(), difference.changes.iter().any(anew));
        remade
    };
    let becomes = |why: &str| Some(("vx0".to_owned(), why.to_owned()));
    let before = || vxlan(4500, "192.0.2.1");
    let cases = [
        (
            vxlan(4501, "192.0.2.1"),
            becomes("its UDP port 4500 becomes 4501"),
        ),
        (
            vxlan(4501, "2001:db8::1"),
            becomes("its UDP port 4500 becomes 4501, it has IPv6 outside instead of IPv4"),
        ),
        (vxlan(4500, "192.0.2.2"), None),
        (before(), None),
    ];
    for (want, expected) in cases {
        assert_eq!(told(before(), want), expected);
    }
    let mut dummy = before();
    dummy.kind = LinkKind::Other("dummy".into());
    assert_eq!(told(dummy, before()), becomes("its type was another"));
}
