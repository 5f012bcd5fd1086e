//! Routes, links, entries and rules: who goes which way in which role.

use strait_api::names::{CABLE_WIREGUARD, NODE_VXLAN};
use strait_host::nft::Element;
use strait_host::{Family, Mac};

use super::*;

#[test]
fn a_worker_reaches_remote_subnets_by_way_of_the_gateway_and_fails_closed() {
    let plan = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1")).plan();
    for subnet in ["10.2.0.0/16", "10.102.0.0/16"] {
        let to: Vec<_> = routes(&plan)
            .iter()
            .filter(|r| r.dst == net(subnet))
            .collect();
        assert_eq!(to.len(), 2, "{to:?}");
        let way = to.iter().find(|r| r.metric == 0).unwrap();
        assert_eq!(way.hops()[0].via, Some("240.30.1.11".parse().unwrap()));
        assert_eq!(way.hops()[0].dev.as_deref(), Some(NODE_VXLAN));
        let guard = to.iter().find(|r| r.metric == u32::MAX).unwrap();
        assert_eq!(
            (guard.table, &guard.kind),
            (TABLE_MAIN, &RouteKind::Unreachable)
        );
    }
    let vx = &plan.wanted.links.get().unwrap()[NODE_VXLAN];
    assert_eq!(
        (vx.mtu, vx.mac),
        (1450, Some(Mac([2, 0x64, 172, 30, 1, 12])))
    );
    let fdb = plan.wanted.fdb.get().unwrap();
    assert_eq!(fdb.len(), 1, "exact, no flooding: {fdb:?}");
    assert_eq!(fdb.first().unwrap().mac, Mac([2, 0x64, 172, 30, 1, 11]));
    assert_eq!(host_source(&plan), Some("10.1.2.1".parse().unwrap()));
    assert!(
        plan.wanted.loose_reverse_path.contains("tunl0")
            && plan.wanted.loose_reverse_path.contains("eth0")
    );
    assert!(plan.conditions.is_empty(), "{:?}", plan.conditions);
}

#[test]
fn the_gateway_sends_over_its_cable_from_its_cni_address() {
    let mut host = host_with_cni("172.30.1.11", "10.1.1.1");
    host.links
        .insert(CABLE_VXLAN.into(), link(LinkKind::Other("vxlan".into())));
    let plan = state(GATEWAY, host).plan();
    let to: Vec<_> = routes(&plan)
        .iter()
        .filter(|r| r.dst == net("10.2.0.0/16"))
        .collect();
    let shape: Vec<_> = to.iter().map(|r| (r.table, r.metric)).collect();
    assert_eq!(shape, [(100, 10), (100, 20), (100, u32::MAX)]);
    assert!(
        matches!(&to[0].kind, RouteKind::Unicast { src: Some(src), .. } if src.to_string() == "10.1.1.1")
    );
    assert!(matches!(&to[1].kind, RouteKind::Unicast { src: None, .. }));
    assert_eq!(to[0].hops()[0].via, Some("241.30.2.11".parse().unwrap()));
    let rules = plan.wanted.rules.get().unwrap().iter();
    let rules: Vec<_> = rules.map(|r| (r.priority, r.mark, r.table)).collect();
    let underlay = (99, Some((0x53, u32::MAX)), TABLE_MAIN);
    assert_eq!(rules, [underlay, (100, None, 100)]);
    let peers: Vec<_> = table_of(&plan).sets["peers4"]
        .elements
        .keys()
        .cloned()
        .collect();
    assert_eq!(peers, [Element::Ip("172.30.2.11".parse().unwrap())]);
}

#[test]
fn a_gateway_without_its_cable_has_guards_only() {
    let plan = state(GATEWAY, host_with_cni("172.30.1.11", "10.1.1.1")).plan();
    assert!(
        routes(&plan)
            .iter()
            .all(|r| r.kind == RouteKind::Unreachable)
            && routes(&plan).len() == 2
    );
}

#[test]
fn the_way_through_a_lost_gateway_stays_for_five_seconds() {
    let mut s = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    s.apply(
        Input::Endpoints(Event::Deleted("east-cable".into())),
        at(1000),
    );
    assert_eq!(s.deadline(), Some(at(6000)));
    assert_eq!(routes(&s.plan()).len(), 4);
    assert!(condition(&s.plan(), "NoLocalGateway").is_some());
    s.apply(Input::Tick, at(6000));
    let plan = s.plan();
    assert!(
        routes(&plan)
            .iter()
            .all(|r| r.kind == RouteKind::Unreachable),
        "{:?}",
        routes(&plan)
    );
    assert_eq!(routes(&plan).len(), 2, "still closed");
}

#[test]
fn a_peer_that_publishes_no_ethernet_address_gets_flooding_and_arp() {
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    s.apply(
        Input::Agents(Event::Reset(
            [(GATEWAY.to_owned(), Ok(AgentInfo::default()))].into(),
        )),
        at(0),
    );
    let plan = s.plan();
    assert_eq!(
        plan.wanted.fdb.get().unwrap().first().unwrap().mac,
        Mac::ZERO
    );
    assert!(plan.wanted.neighbours.get().unwrap().is_empty());
}

#[test]
fn both_families_are_planned_alike() {
    let mut settings = settings(WORKER);
    settings.cluster_cidrs.push(net("fd01::/48"));
    let mut s = State::new(settings);
    let mut host = host_with_cni("172.30.1.12", "10.1.2.1");
    host.addresses.insert(address("eth0", "fd00::12/64"));
    host.addresses.insert(address("tunl0", "fd01::2:1/128"));
    let mut remote = endpoint(
        "west",
        "west-1",
        "172.30.2.11",
        &["10.2.0.0/16", "fd02::/48"],
    );
    remote.private_ips.push("fd00:2::11".parse().unwrap());
    let mut own = endpoint("east", GATEWAY, "172.30.1.11", &["10.1.0.0/16"]);
    own.private_ips.push("fd00::11".parse().unwrap());
    let list = [remote, own]
        .into_iter()
        .map(|e| (e.name.clone(), Ok(e)))
        .collect();
    let v6 = Node {
        internal_ips: vec!["172.30.1.12".parse().unwrap(), "fd00::12".parse().unwrap()],
        ..Node::default()
    };
    for input in [
        Input::Endpoints(Event::Reset(list)),
        Input::Nodes(nodes()),
        Input::Nodes(Event::Applied(WORKER.into(), Ok(v6))),
        Input::Agents(agents()),
        Input::Host(Arc::new(host)),
    ] {
        s.apply(input, at(0));
    }
    let plan = s.plan();
    let way = routes(&plan)
        .iter()
        .find(|r| r.dst == net("fd02::/48") && r.metric == 1024)
        .unwrap();
    assert_eq!(way.hops()[0].via, Some("fd00:100:100::11".parse().unwrap()));
    assert_eq!(
        plan.cni[&Family::V6].0,
        "fd01::2:1".parse::<std::net::IpAddr>().unwrap()
    );
    assert_eq!(plan.wanted.links.get().unwrap().len(), 2);
}

#[test]
fn ipv6_is_forwarded_unless_router_advertisements_would_be_lost() {
    const PATH: &str = "net/ipv6/conf/all/forwarding";
    let plan = |value: Option<&str>, protocol: u8| {
        let mut host = bare_host("172.30.1.12");
        host.addresses.insert(address("eth0", "fd00:30:1::1:12/64"));
        let by = route("::/0", "fd00:30:1::1:1", "eth0");
        host.routes.insert(Route { protocol, ..by });
        host.sysctls
            .extend(value.map(|v| (PATH.to_owned(), v.to_owned())));
        let mut s = state(WORKER, host);
        s.settings.cluster_cidrs.push(net("fd10:101::/48"));
        s.plan()
    };
    let told = |plan: &Plan| condition(plan, "Ipv6ForwardingOff").is_some();
    for (value, protocol, set, off) in [
        (Some("0"), 3, true, false),
        (Some("1"), 3, true, false),
        (Some("0"), 9, false, true),
        (Some("1"), 9, false, false),
        (None, 3, false, false),
    ] {
        let plan = plan(value, protocol);
        let case = format!("{value:?} with a route of protocol {protocol}");
        assert_eq!(plan.wanted.sysctls.contains_key(PATH), set, "{case}");
        assert_eq!(told(&plan), off, "{case}");
    }
    let v4 = state(WORKER, bare_host("172.30.1.12")).plan();
    assert!(!v4.wanted.sysctls.contains_key(PATH));
}

#[test]
fn the_link_with_the_cni_address_is_loosened_before_its_routes_come_but_never_a_pods_veth() {
    let mut host = host_with_cni("172.30.1.12", "10.1.2.1");
    host.routes.retain(|r| r.dst != net("10.1.9.0/24"));
    let mut s = state(WORKER, host.clone());
    assert!(s.plan().wanted.loose_reverse_path.contains("tunl0"));
    assert!(
        table_of(&s.plan()).sets["ways"]
            .elements
            .contains_key(&Element::Name("tunl0".into()))
    );
    host.links.insert("tunl0".into(), link(LinkKind::Veth));
    s.apply(Input::Host(Arc::new(host)), at(0));
    assert!(!s.plan().wanted.loose_reverse_path.contains("tunl0"));
}

#[test]
fn over_wireguard_the_device_knows_who_has_what_and_speaks_with_anybody() {
    let mut host = host_with_cni("172.30.1.11", "10.1.1.1");
    host.links
        .insert(CABLE_WIREGUARD.into(), link(LinkKind::Wireguard));
    let mut s = state(GATEWAY, host);
    let Event::Reset(all) = endpoints() else {
        unreachable!("it is a list");
    };
    let over = |(name, endpoint): (String, Result<Endpoint, String>)| {
        let endpoint = endpoint.map(|e| Endpoint {
            backend: "wireguard".into(),
            interface: Some(CABLE_WIREGUARD.into()),
            ..e
        });
        (name, endpoint)
    };
    let all = all.into_iter().map(over).collect();
    s.apply(Input::Endpoints(Event::Reset(all)), at(1));
    let plan = s.plan();
    let to: Vec<_> = routes(&plan)
        .iter()
        .filter(|r| r.dst == net("10.2.0.0/16"))
        .collect();
    let shape: Vec<_> = to.iter().map(|r| (r.table, r.metric)).collect();
    assert_eq!(shape, [(150, 10), (150, 20), (150, u32::MAX)]);
    for way in &to[..2] {
        let hop = &way.hops()[0];
        assert_eq!((hop.via, hop.dev.as_deref()), (None, Some(CABLE_WIREGUARD)));
    }
    let rule = plan.wanted.rules.get().unwrap().last().unwrap();
    assert_eq!((rule.priority, rule.table), (150, 150));
    // What fits the one device fits the other.
    let links = plan.wanted.links.get().unwrap();
    assert_eq!(links["vx-submariner"].mtu, 1440);
    // Who speaks is known by the key, wherever it is.
    assert!(!table_of(&plan).sets.contains_key("peers4"));
}

#[test]
fn a_worker_whose_node_has_another_address_says_that_the_gateway_takes_nothing_from_it() {
    let node = |ips: &[&str]| Node {
        internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..Node::default()
    };
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    assert_eq!(condition(&s.plan(), "VtepMismatch"), None);
    for (ips, said) in [
        (
            &["192.0.2.7"][..],
            "Node worker says 192.0.2.7, which this host does not have",
        ),
        (&[], "Node worker has no IPv4 InternalIP"),
    ] {
        s.apply(
            Input::Nodes(Event::Applied(WORKER.into(), Ok(node(ips)))),
            at(1),
        );
        let plan = s.plan();
        let message = &condition(&plan, "VtepMismatch").unwrap().message;
        for part in [said, "sends from 172.30.1.12", "--node-ip"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let good = node(&["192.0.2.7", "172.30.1.12"]);
    s.apply(Input::Nodes(Event::Applied(WORKER.into(), Ok(good))), at(2));
    assert!(
        condition(&s.plan(), "VtepMismatch").is_some(),
        "other nodes go by the first address"
    );
    s.apply(
        Input::Nodes(Event::Applied(WORKER.into(), Ok(node(&["172.30.1.12"])))),
        at(3),
    );
    assert_eq!(condition(&s.plan(), "VtepMismatch"), None);
}
