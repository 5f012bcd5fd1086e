//! What a node does with the cable of a gateway that stands by, or has been replaced: all that a gateway does, for what others send.

use strait_api::Term;
use strait_api::names::{CABLE_VXLAN_VNI, CABLE_WIREGUARD, NODE_VXLAN, TABLE_VXLAN_CABLE};
use strait_host::nft::Element;
use strait_host::{Rule, Vxlan};

use super::*;
use crate::hello::{Claim, Following};

const OTHER: &str = "other";

fn cable(host: &mut Host, port: u16) {
    let kind = LinkKind::Vxlan(Vxlan {
        vni: CABLE_VXLAN_VNI,
        port,
        local: None,
        remote: None,
        learning: false,
    });
    device(host, CABLE_VXLAN, kind);
}

fn device(host: &mut Host, name: &str, kind: LinkKind) {
    let cable = Link {
        alias: Some("strait".into()),
        ..link(kind)
    };
    host.links.insert(name.into(), cable);
    host.sysctls.insert(rp_filter_path(name), "1".into());
}

/// A node that could be the gateway, with a cable.
fn standby(node: &str, ip: &str, make: impl FnOnce(&mut Host)) -> State {
    let mut host = host_with_cni(ip, "10.1.3.1");
    make(&mut host);
    let mut s = state(node, host);
    let third = Node {
        internal_ips: vec!["172.30.1.13".parse().unwrap()],
        ..Node::default()
    };
    s.apply(Input::Nodes(Event::Applied(OTHER.into(), Ok(third))), at(0));
    s
}

fn takes_over(hostname: &str, address: &str, backend: &str) -> Input {
    let claim = Claim {
        term: Term {
            lease: 9,
            ballot: 0,
        },
        addresses: vec![address.parse().unwrap()],
        cable: format!("submariner-cable-{hostname}"),
        backend: backend.into(),
        interface: match backend {
            "vxlan" => CABLE_VXLAN.into(),
            _ => CABLE_WIREGUARD.into(),
        },
    };
    let following = Some(Following {
        hostname: hostname.into(),
        claim,
    });
    Input::Heard(Heard {
        following,
        now: true,
    })
}

/// What a plan has for whatever comes to the node: entries, what the filters let in, and the table of the cable.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Has {
    Entry(String),
    Sysctl(String, String),
    Loose(String),
    Element(String, Element),
    Route(Box<Route>),
}

fn for_others(plan: &Plan, own: &str) -> BTreeSet<Has> {
    let itself = &Element::Ip(own.parse().unwrap());
    let wanted = &plan.wanted;
    let mut all = BTreeSet::new();
    let neighbours = wanted.neighbours.get().unwrap().iter();
    all.extend(neighbours.map(|n| Has::Entry(format!("{} {} {}", n.link, n.ip, n.mac))));
    let fdb = wanted.fdb.get().unwrap().iter();
    all.extend(fdb.map(|f| Has::Entry(format!("{} {} {}", f.link, f.mac, f.dst))));
    let sysctls = wanted.sysctls.iter();
    all.extend(sysctls.map(|(path, value)| Has::Sysctl(path.clone(), value.clone())));
    all.extend(wanted.loose_reverse_path.iter().cloned().map(Has::Loose));
    for (name, set) in &table_of(plan).sets {
        // The gateway names itself among the nodes, which speak to it.
        let of_itself = |e: &&Element| name == "nodes4" && *e == itself;
        let elements = set.elements.keys().filter(|e| !of_itself(e)).cloned();
        all.extend(elements.map(|element| Has::Element(name.clone(), element)));
    }
    let of_cable = |r: &&Route| r.table == TABLE_VXLAN_CABLE;
    let of_cable = routes(plan).iter().filter(of_cable).cloned();
    all.extend(of_cable.map(|route| Has::Route(Box::new(route))));
    all
}

fn missing(there: &BTreeSet<Has>, wanted: BTreeSet<Has>) -> Vec<Has> {
    let missing = wanted.into_iter().filter(|has| !there.contains(has));
    missing.collect()
}

/// The rules by which something goes out by a cable: the links from which, of which none is all.
fn rules(plan: &Plan) -> Vec<Option<&str>> {
    let rules = plan.wanted.rules.get().unwrap().iter();
    let of_cable = rules.filter(|r: &&Rule| r.mark.is_none());
    of_cable.map(|r| r.link.as_deref()).collect()
}

/// Where the node's own packets for the other cluster go, by the main table.
fn way(plan: &Plan) -> Option<String> {
    let to_west = routes(plan)
        .iter()
        .find(|r| r.table == TABLE_MAIN && r.dst == net("10.2.0.0/16") && !r.hops().is_empty());
    Some(to_west?.hops()[0].via?.to_string())
}

#[test]
fn one_that_stands_by_serves_whoever_comes_early_and_changes_nothing_of_that_when_it_takes_over() {
    let mut s = standby(OTHER, "172.30.1.13", |host| cable(host, 4500));
    let before = s.plan();
    assert_eq!(before.role, "worker");
    assert_eq!(way(&before).as_deref(), Some("240.30.1.11"));
    assert_eq!(rules(&before), [Some(NODE_VXLAN)]);
    let ready = for_others(&before, "172.30.1.13");
    let cable = Element::Name(CABLE_VXLAN.into());
    assert!(ready.contains(&Has::Element("ways".into(), cable)));
    let peer = Element::Ip("172.30.2.11".parse().unwrap());
    assert!(ready.contains(&Has::Element("peers4".into(), peer)));
    let out = |has: &Has| matches!(has, Has::Route(r) if r.dst == net("10.2.0.0/16") && !r.hops().is_empty());
    assert_eq!(ready.iter().filter(|has| out(has)).count(), 2);

    s.apply(takes_over(OTHER, "172.30.1.13", "vxlan"), at(1));
    let after = s.plan();
    assert_eq!((after.role, way(&after)), ("gateway", None));
    assert_eq!(rules(&after), [None]);
    assert_eq!(missing(&ready, for_others(&after, "172.30.1.13")), []);
}

#[test]
fn one_that_was_replaced_serves_whoever_comes_late_until_its_cable_is_gone() {
    let mut s = standby(GATEWAY, "172.30.1.11", |host| cable(host, 4501));
    s.apply(Input::GatewayLock(true), at(0));
    let mut own = endpoint("east", GATEWAY, "172.30.1.11", &["10.1.0.0/16"]);
    own.udp_port = 4501;
    s.apply(
        Input::Endpoints(Event::Applied("east-cable".into(), Ok(own))),
        at(0),
    );
    let before = s.plan();
    assert_eq!((before.role, rules(&before)), ("gateway", vec![None]));
    s.apply(takes_over(OTHER, "172.30.1.13", "vxlan"), at(1000));
    let after = s.plan();
    assert_eq!(after.role, "worker");
    assert_eq!(way(&after).as_deref(), Some("240.30.1.13"));
    assert_eq!(rules(&after), [Some(NODE_VXLAN)]);
    let kept = for_others(&after, "172.30.1.11");
    assert_eq!(missing(&kept, for_others(&before, "172.30.1.11")), []);
    let chain = &table_of(&after).chains["tunnels"];
    assert_eq!(chain, &table_of(&before).chains["tunnels"]);

    // Its process is gone, so the cable goes, and all that belongs to it.
    s.apply(Input::Tick, at(6000));
    let last = s.plan();
    assert_eq!(rules(&last), Vec::<Option<&str>>::new());
    assert!(routes(&last).iter().all(|r| r.table == TABLE_MAIN));
    assert_eq!(way(&last).as_deref(), Some("240.30.1.13"));
    assert!(last.wanted.reaped.contains(CABLE_VXLAN));
}

#[test]
fn a_cable_that_is_down_or_not_ours_or_of_another_driver_serves_nobody() {
    let spoiled: [fn(&mut Host); 5] = [
        |host| {
            cable(host, 4500);
            host.links.get_mut(CABLE_VXLAN).unwrap().up = false;
        },
        |host| {
            cable(host, 4500);
            host.links.get_mut(CABLE_VXLAN).unwrap().alias = None;
        },
        |host| device(host, CABLE_VXLAN, LinkKind::Other("dummy".into())),
        |host| device(host, CABLE_WIREGUARD, LinkKind::Tun),
        |_| (),
    ];
    for (n, make) in spoiled.into_iter().enumerate() {
        let plan = standby(OTHER, "172.30.1.13", make).plan();
        assert_eq!(rules(&plan), Vec::<Option<&str>>::new(), "{n}");
        assert!(routes(&plan).iter().all(|r| r.table == TABLE_MAIN), "{n}");
        assert_eq!(plan.wanted.fdb.get().unwrap().len(), 1, "{n}");
    }
}
