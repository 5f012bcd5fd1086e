//! What is remembered of others' sysctls, and set back.

use strait_api::names::NODE_VXLAN;
use strait_host::diff;
use strait_host::nft::{Element, Set};

use super::*;

fn map<'a>(plan: &'a Plan, name: &str) -> &'a Set {
    &table_of(plan).sets[name]
}

fn elements(plan: &Plan, name: &str) -> Vec<(String, u32)> {
    let elements = map(plan, name).elements.iter();
    elements
        .map(|(link, value)| match (link, value) {
            (Element::Name(link), Some(Element::Mark(value))) => (link.clone(), *value),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn pairs(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
    let pairs = expected.iter();
    pairs
        .map(|(link, value)| ((*link).to_owned(), *value))
        .collect()
}

const MAP: &str = "before-rp_filter";

/// Carries the plan out on plain data, lets the state see it, and gives it.
fn settle(s: &mut State, now: u64) -> Host {
    let mut host = s.host.clone().unwrap();
    for change in diff(&host, &s.plan().wanted, &owner()).changes {
        host.apply(&change);
    }
    s.apply(Input::Host(Arc::new(host.clone())), at(now));
    host
}

fn value(s: &State, link: &str) -> String {
    s.host.as_ref().unwrap().sysctls[&rp_filter_path(link)].clone()
}

#[test]
fn what_a_link_had_is_remembered_before_it_is_changed_and_by_who_comes_after() {
    let mut s = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    let both = pairs(&[("eth0", 1), ("tunl0", 1)]);
    assert_eq!(elements(&s.plan(), MAP), both);
    let changes = diff(s.host.as_ref().unwrap(), &s.plan().wanted, &owner()).changes;
    let first = |wanted: fn(&strait_host::Change) -> bool| changes.iter().position(wanted);
    let nft = first(|c| matches!(c, strait_host::Change::Nft(_)));
    let sysctl = first(
        |c| matches!(c, strait_host::Change::SetSysctl(path, _) if path.ends_with("rp_filter")),
    );
    assert!(nft.unwrap() < sysctl.unwrap(), "{changes:?}");
    let left = settle(&mut s, 1);
    assert_eq!(
        (value(&s, "eth0"), value(&s, "tunl0")),
        ("2".into(), "2".into())
    );
    assert_eq!(elements(&s.plan(), MAP), both);
    // Another process sees what this one left.
    let next = state(WORKER, left.clone());
    assert_eq!(elements(&next.plan(), MAP), both);
    assert_eq!(diff(&left, &next.plan().wanted, &owner()).changes, []);
    let back = set_back(&left);
    let path = rp_filter_path;
    let expected = [(path("eth0"), "1".into()), (path("tunl0"), "1".into())];
    assert_eq!(back, BTreeMap::from(expected));
    // Somebody empties the table: who runs knows still.
    let mut flushed = left;
    flushed.nft.clear();
    s.apply(Input::Host(Arc::new(flushed.clone())), at(2));
    assert_eq!(elements(&s.plan(), MAP), both);
    assert_eq!(set_back(&flushed), BTreeMap::new());
}

#[test]
fn what_was_loose_or_off_or_is_ours_is_not_remembered() {
    for (all, own) in [("0", "0"), ("0", "2"), ("1", "2"), ("2", "0")] {
        let mut host = bare_host("172.30.1.12");
        host.sysctls.insert(rp_filter_path("all"), all.into());
        host.sysctls.insert(rp_filter_path("eth0"), own.into());
        let mut s = state(WORKER, host);
        settle(&mut s, 1);
        assert_eq!(elements(&s.plan(), MAP), [], "{all} {own}");
        assert_eq!(value(&s, "eth0"), own);
    }
    // It is strict by way of `all`: what the link itself had comes back.
    let mut host = bare_host("172.30.1.12");
    host.sysctls.insert(rp_filter_path("all"), "1".into());
    host.sysctls.insert(rp_filter_path("eth0"), "0".into());
    let mut s = state(WORKER, host);
    settle(&mut s, 1);
    assert_eq!(elements(&s.plan(), MAP), pairs(&[("eth0", 0)]));
    let mut host = bare_host("172.30.1.11");
    host.links.insert(
        NODE_VXLAN.into(),
        Link {
            alias: Some("strait".into()),
            ..link(LinkKind::Bridge)
        },
    );
    host.sysctls.insert(rp_filter_path(NODE_VXLAN), "1".into());
    let s = state(GATEWAY, host);
    assert!(s.plan().wanted.loose_reverse_path.contains(NODE_VXLAN));
    assert_eq!(elements(&s.plan(), MAP), pairs(&[("eth0", 1)]));
}

#[test]
fn a_link_of_our_name_is_left_alone_where_we_want_none() {
    let mut host = bare_host("172.30.1.99");
    host.routes.clear();
    host.links.insert(NODE_VXLAN.into(), link(LinkKind::Bridge));
    host.sysctls.insert(rp_filter_path(NODE_VXLAN), "1".into());
    let plan = state(GATEWAY, host).plan();
    assert_eq!(plan.role, "gateway");
    assert!(!plan.wanted.loose_reverse_path.contains(NODE_VXLAN));
    assert_eq!(elements(&plan, MAP), []);
}

#[test]
fn what_somebody_else_changed_since_is_his() {
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    settle(&mut s, 1);
    for (theirs, remembered) in [("0", vec![]), ("1", pairs(&[("eth0", 1)]))] {
        let mut s = s.clone();
        let mut host = s.host.clone().unwrap();
        host.sysctls.insert(rp_filter_path("eth0"), theirs.into());
        assert_eq!(set_back(&host), BTreeMap::new());
        s.apply(Input::Host(Arc::new(host)), at(2));
        settle(&mut s, 3);
        assert_eq!(elements(&s.plan(), MAP), remembered, "{theirs}");
    }
}

#[test]
fn a_link_that_carries_no_pods_traffic_any_more_is_set_back_after_a_minute() {
    let mut s = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    settle(&mut s, 1);
    let mut without = s.host.clone().unwrap();
    without.addresses.retain(|a| a.link != "tunl0");
    without
        .routes
        .retain(|r| r.hops().iter().all(|h| h.dev.as_deref() != Some("tunl0")));
    let with = s.host.clone().unwrap();
    // It comes back within the minute: nothing happens.
    let mut flap = s.clone();
    flap.apply(Input::Host(Arc::new(without.clone())), at(1_000));
    assert_eq!(flap.deadline(), Some(at(61_000)));
    flap.apply(Input::Host(Arc::new(with)), at(60_000));
    flap.apply(Input::Tick, at(70_000));
    settle(&mut flap, 70_001);
    assert_eq!(value(&flap, "tunl0"), "2");
    assert_eq!(flap.deadline(), None);
    s.apply(Input::Host(Arc::new(without)), at(1_000));
    s.apply(Input::Tick, at(60_999));
    settle(&mut s, 60_999);
    assert_eq!(value(&s, "tunl0"), "2");
    s.apply(Input::Tick, at(61_000));
    settle(&mut s, 61_001);
    assert_eq!(
        (value(&s, "tunl0"), value(&s, "eth0")),
        ("1".into(), "2".into())
    );
    let settled = settle(&mut s, 61_002);
    assert_eq!(elements(&s.plan(), MAP), pairs(&[("eth0", 1)]));
    assert_eq!(s.deadline(), None);
    let after = diff(&settled, &s.plan().wanted, &owner()).changes;
    assert_eq!(after, []);
}

#[test]
fn a_cable_of_somebody_else_is_set_back_too() {
    let mut host = bare_host("172.30.1.11");
    let name = CABLE_VXLAN;
    host.links.insert(name.into(), link(LinkKind::Bridge));
    for (key, value) in [
        ("rp_filter", "1"),
        ("forwarding", "0"),
        ("send_redirects", "1"),
    ] {
        let path = format!("net/ipv4/conf/{name}/{key}");
        host.sysctls.insert(path, value.into());
    }
    let mut s = state(GATEWAY, host);
    settle(&mut s, 1);
    let plan = s.plan();
    assert_eq!(elements(&plan, MAP), pairs(&[("eth0", 1), (name, 1)]));
    assert_eq!(elements(&plan, "before-forwarding"), pairs(&[(name, 0)]));
    assert_eq!(
        elements(&plan, "before-send_redirects"),
        pairs(&[(name, 1)])
    );
    assert_eq!(set_back(s.host.as_ref().unwrap()).len(), 4);
}

#[test]
fn forwarding_of_ipv6_is_set_back_if_it_was_off_and_is_as_we_left_it() {
    const PATH: &str = "net/ipv6/conf/all/forwarding";
    const MAP_6: &str = "before-forwarding6";
    let start = |value: &str| {
        let mut host = bare_host("172.30.1.12");
        host.addresses.insert(address("eth0", "fd00:30:1::1:12/64"));
        host.sysctls.insert(PATH.into(), value.into());
        let mut s = state(WORKER, host.clone());
        s.settings.cluster_cidrs.push(net("fd10:101::/48"));
        s.apply(Input::Host(Arc::new(host)), at(0));
        settle(&mut s, 1);
        s
    };
    let now = |s: &State| s.host.as_ref().unwrap().sysctls[PATH].clone();
    let back = |s: &State| set_back(s.host.as_ref().unwrap()).get(PATH).cloned();
    let s = start("1");
    assert_eq!((elements(&s.plan(), MAP_6), back(&s)), (vec![], None));
    let mut s = start("0");
    assert_eq!(now(&s), "1");
    assert_eq!(elements(&s.plan(), MAP_6), pairs(&[("all", 0)]));
    assert_eq!(back(&s), Some("0".into()));
    // A route by an advertisement may come later: that is no reason to stop forwarding.
    let mut host = s.host.as_ref().cloned().unwrap();
    let by = route("::/0", "fd00:30:1::1:1", "eth0");
    host.routes.insert(Route { protocol: 9, ..by });
    s.apply(Input::Host(Arc::new(host)), at(1_000));
    s.apply(Input::Tick, at(70_000));
    settle(&mut s, 70_001);
    assert_eq!((now(&s), back(&s)), ("1".into(), Some("0".into())));
    // Without IPv6 it is set back by the agent itself.
    let mut without = s.clone();
    without.settings.cluster_cidrs.pop();
    without.apply(
        Input::Host(Arc::new(without.host.clone().unwrap())),
        at(80_000),
    );
    without.apply(Input::Tick, at(140_000));
    settle(&mut without, 140_001);
    assert_eq!(now(&without), "0");
    // Somebody has set it to something else since.
    let mut host = s.host.as_ref().cloned().unwrap();
    host.sysctls.insert(PATH.into(), "2".into());
    assert_eq!(set_back(&host).get(PATH), None);
}

#[test]
fn what_the_map_holds_is_checked() {
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    settle(&mut s, 1);
    let mut host = s.host.clone().unwrap();
    let map = host
        .nft
        .get_mut(&table())
        .unwrap()
        .sets
        .get_mut(MAP)
        .unwrap();
    map.elements
        .insert(Element::Name("eth0".into()), Some(Element::Mark(7)));
    map.elements
        .insert(Element::Name("../../all".into()), Some(Element::Mark(1)));
    map.elements
        .insert(Element::Name("all".into()), Some(Element::Mark(1)));
    map.elements
        .insert(Element::Name("gone".into()), Some(Element::Mark(1)));
    assert_eq!(set_back(&host), BTreeMap::new());
}
