//! What the route agent wants, in the situations that matter; orders of arrival; the plan on a virtual kernel.

mod health;
mod pools;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;
use strait_api::names::{BACKEND_INTERFACE, CABLE_VXLAN, NODE_VXLAN};
use strait_api::route_agent::AgentInfo;
use strait_api::{Endpoint, EndpointSpec, Node};
use strait_host::nft::{Element, Statement};
use strait_host::{
    Address, Family, Hop, Host, Link, LinkKind, Mac, Route, RouteKind, Scope, TABLE_MAIN, diff,
    rp_filter_path,
};

use super::flows::Flow;
use super::*;
use crate::Severity;

const WORKER: &str = "worker";
const GATEWAY: &str = "gateway";

fn settings(node: &str) -> Settings {
    Settings {
        node: node.into(),
        hostname: node.into(),
        namespace: "ns".into(),
        cluster: "east".parse().unwrap(),
        cluster_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.101.0.0/16".parse().unwrap()],
        health_check: true,
        version: "test".into(),
    }
}

fn endpoint(cluster: &str, hostname: &str, private: &str, subnets: &[&str]) -> Endpoint {
    let spec = EndpointSpec {
        cluster_id: cluster.into(),
        cable_name: format!("submariner-cable-{cluster}"),
        hostname: hostname.into(),
        subnets: subnets.iter().map(|s| (*s).to_owned()).collect(),
        private_ip: private.into(),
        backend: "vxlan".into(),
        backend_config: BTreeMap::from([(BACKEND_INTERFACE.into(), CABLE_VXLAN.into())]),
        ..EndpointSpec::default()
    };
    let name = format!("{cluster}-cable");
    let object =
        strait_api::Object::new(strait_api::Kind::Endpoint, "ns", &name).with("spec", &spec);
    Endpoint::parse(&object).unwrap()
}

fn endpoints() -> Event<Endpoint> {
    let list = [
        endpoint(
            "east",
            GATEWAY,
            "172.30.1.11",
            &["10.101.0.0/16", "10.1.0.0/16"],
        ),
        endpoint(
            "west",
            "west-1",
            "172.30.2.11",
            &["10.102.0.0/16", "10.2.0.0/16"],
        ),
    ];
    Event::Reset(list.into_iter().map(|e| (e.name.clone(), Ok(e))).collect())
}

fn nodes() -> Event<Node> {
    let node = |ip: &str| {
        Ok(Node {
            internal_ips: vec![ip.parse().unwrap()],
            clamp_mss: None,
        })
    };
    Event::Reset(
        [
            (GATEWAY.to_owned(), node("172.30.1.11")),
            (WORKER.to_owned(), node("172.30.1.12")),
        ]
        .into(),
    )
}

fn agents() -> Event<AgentInfo> {
    let agent = |last| {
        Ok(AgentInfo {
            vtep_mac: Some([2, 0x64, 172, 30, 1, last]),
        })
    };
    Event::Reset(
        [
            (GATEWAY.to_owned(), agent(11)),
            (WORKER.to_owned(), agent(12)),
        ]
        .into(),
    )
}

fn link(kind: LinkKind) -> Link {
    Link {
        kind,
        mtu: 1500,
        up: true,
        mac: None,
        alias: None,
        master: None,
    }
}

fn address(link: &str, net: &str) -> Address {
    Address {
        link: link.into(),
        net: net.parse().unwrap(),
        scope: Scope::Global,
    }
}

/// A host with its address on the nodes' network and a strict reverse-path filter; no CNI.
fn bare_host(ip: &str) -> Host {
    let mut host = Host::default();
    host.links.insert("eth0".into(), link(LinkKind::Veth));
    host.addresses.insert(address("eth0", &format!("{ip}/24")));
    host.routes.insert(route("0.0.0.0/0", "172.30.1.1", "eth0"));
    host.sysctls.insert(rp_filter_path("all"), "0".into());
    host.sysctls.insert(rp_filter_path("eth0"), "1".into());
    host
}

fn route(dst: &str, via: &str, dev: &str) -> Route {
    let hops = vec![Hop {
        dev: Some(dev.into()),
        via: Some(via.parse().unwrap()),
        onlink: false,
    }];
    Route {
        table: TABLE_MAIN,
        dst: dst.parse().unwrap(),
        metric: 0,
        protocol: 3,
        kind: RouteKind::Unicast { hops, src: None },
    }
}

/// The same with a tunnel of a CNI, as Calico has it.
fn host_with_cni(ip: &str, cni: &str) -> Host {
    let mut host = bare_host(ip);
    host.links
        .insert("tunl0".into(), link(LinkKind::Other("ipip".into())));
    host.addresses
        .insert(address("tunl0", &format!("{cni}/32")));
    host.routes
        .insert(route("10.1.9.0/24", "172.30.1.19", "tunl0"));
    host.sysctls.insert(rp_filter_path("tunl0"), "1".into());
    host
}

fn state(node: &str, host: Host) -> State {
    let mut s = State::new(settings(node));
    for input in [
        Input::Endpoints(endpoints()),
        Input::Nodes(nodes()),
        Input::Agents(agents()),
        Input::Host(Arc::new(host)),
    ] {
        s.apply(input, at(0));
    }
    s
}

fn at(ms: u64) -> Time {
    Time(Duration::from_millis(ms))
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn routes(plan: &Plan) -> &BTreeSet<Route> {
    plan.wanted.routes.get().unwrap()
}

fn table_of(plan: &Plan) -> &strait_host::nft::Table {
    &plan.wanted.nft.get().unwrap()[&table()]
}

fn host_source(plan: &Plan) -> Option<std::net::IpAddr> {
    let rules = &table_of(plan).chains["source"].rules;
    let mut sources = rules.iter().flat_map(|r| &r.statements).filter_map(|s| {
        if let Statement::SnatTo(ip) = s {
            Some(*ip)
        } else {
            None
        }
    });
    sources.next_back()
}

fn condition<'a>(plan: &'a Plan, name: &str) -> Option<&'a crate::Condition> {
    plan.conditions.iter().find(|c| c.name == name)
}

#[test]
fn nothing_is_touched_before_all_inputs_are_known() {
    let all = [
        Input::Endpoints(endpoints()),
        Input::Nodes(nodes()),
        Input::Agents(agents()),
        Input::Host(Arc::new(bare_host("172.30.1.12"))),
    ];
    for missing in 0..all.len() {
        let mut s = State::new(settings(WORKER));
        for (_, input) in all.iter().enumerate().filter(|(i, _)| *i != missing) {
            s.apply(input.clone(), at(0));
        }
        let plan = s.plan();
        assert_eq!(
            plan.wanted,
            strait_host::Wanted::default(),
            "without input {missing}"
        );
        assert_eq!(
            condition(&plan, "InputsUnknown").unwrap().severity,
            Severity::NotReady
        );
    }
}

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
fn a_worker_without_a_cni_address_borrows_the_gateways_and_says_so() {
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    let before = s.plan();
    assert_eq!(
        host_source(&before),
        Some("240.30.1.12".parse().unwrap()),
        "its own address in the nodes' VXLAN"
    );
    let said = condition(&before, "CniInterfaceNotFound").unwrap();
    assert_eq!(said.severity, Severity::Degraded);
    for part in [
        "Error discovering the CNI interface",
        "10.1.0.0/16",
        "eth0 [172.30.1.12/24]",
    ] {
        assert!(said.message.contains(part), "{}", said.message);
    }
    // It appears, changes, goes: each is one more event.
    for (host, source) in [
        (host_with_cni("172.30.1.12", "10.1.2.1"), "10.1.2.1"),
        (host_with_cni("172.30.1.12", "10.1.7.1"), "10.1.7.1"),
        (bare_host("172.30.1.12"), "240.30.1.12"),
    ] {
        s.apply(Input::Host(Arc::new(host)), at(1));
        let plan = s.plan();
        assert_eq!(host_source(&plan), Some(source.parse().unwrap()));
        assert_eq!(
            routes(&plan),
            routes(&before),
            "pods' routes do not depend on it"
        );
    }
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
    let rule = plan.wanted.rules.get().unwrap().first().unwrap();
    assert_eq!((rule.priority, rule.table), (100, 100));
    let peers: Vec<_> = table_of(&plan).sets["peers4"]
        .elements
        .keys()
        .cloned()
        .collect();
    assert_eq!(peers, [Element::Ip("172.30.2.11".parse().unwrap())]);
}

#[test]
fn a_gateway_without_a_cni_address_lets_no_host_through_halfway_and_pods_as_ever() {
    let plan = state(GATEWAY, bare_host("172.30.1.11")).plan();
    let rules = &table_of(&plan).chains["source"].rules;
    let (last, others) = rules.split_last().unwrap();
    assert_eq!(last.statements.last(), Some(&Statement::Drop), "{last:?}");
    assert_eq!(others.len(), 2, "pods' own, there and back: {others:?}");
    assert!(condition(&plan, "CniInterfaceNotFound").is_some());
    let wrong = |src: &str, reply: &str| {
        plan.flows.as_ref().unwrap().wrong(&Flow {
            tcp: false,
            src: src.parse().unwrap(),
            dst: "10.2.0.1".parse().unwrap(),
            reply_src: "10.2.0.1".parse().unwrap(),
            reply_dst: reply.parse().unwrap(),
        })
    };
    assert!(wrong("240.30.1.12", "240.30.1.12") && wrong("172.30.1.11", "172.30.1.11"));
    assert!(!wrong("10.1.2.5", "10.1.2.5"));
    // Once there is one, nothing is dropped.
    let plan = state(GATEWAY, host_with_cni("172.30.1.11", "10.1.1.1")).plan();
    let rules = &table_of(&plan).chains["source"].rules;
    let drop = |r: &strait_host::nft::Rule| r.statements.contains(&Statement::Drop);
    assert!(!rules.iter().any(drop), "{rules:?}");
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
            [(GATEWAY.to_owned(), Ok(AgentInfo { vtep_mac: None }))].into(),
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
fn a_hostile_or_overlapping_subnet_is_named_and_hurts_no_other() {
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    let bad = endpoint(
        "aaa",
        "x",
        "172.30.3.11",
        &[
            "0.0.0.0/0",
            "10.1.128.0/17",
            "127.0.0.0/8",
            "240.0.0.0/4",
            "10.3.0.0/16",
        ],
    );
    s.apply(
        Input::Endpoints(Event::Applied("bad".into(), Ok(bad))),
        at(0),
    );
    let rival = endpoint("zzz", "y", "172.30.4.11", &["10.3.7.0/24", "10.4.0.0/16"]);
    s.apply(
        Input::Endpoints(Event::Applied("rival".into(), Ok(rival))),
        at(0),
    );
    s.apply(
        Input::Endpoints(Event::Applied("broken".into(), Err("spec: missing".into()))),
        at(0),
    );
    let plan = s.plan();
    let dsts: BTreeSet<String> = routes(&plan).iter().map(|r| r.dst.to_string()).collect();
    assert_eq!(
        dsts,
        ["10.102.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"]
            .map(str::to_owned)
            .into()
    );
    let said = &condition(&plan, "OverlappingSubnets").unwrap().message;
    for part in [
        "0.0.0.0/0",
        "10.1.128.0/17",
        "127.0.0.0/8",
        "240.0.0.0/4",
        "10.3.7.0/24",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(
        condition(&plan, "InvalidObject")
            .unwrap()
            .message
            .contains("broken: spec: missing")
    );
}

#[test]
fn the_cni_address_is_one_of_this_node_on_a_link_that_is_up() {
    let mut host = bare_host("172.30.1.12");
    for (name, kind, up, ip) in [
        ("veth1", LinkKind::Veth, true, "10.1.2.9/24"),
        ("br0", LinkKind::Bridge, true, "10.1.2.8/24"),
        (
            "tunl0",
            LinkKind::Other("ipip".into()),
            false,
            "10.1.2.7/32",
        ),
        ("cni0", LinkKind::Bridge, true, "10.1.2.1/24"),
    ] {
        host.links.insert(name.into(), Link { up, ..link(kind) });
        host.addresses.insert(address(name, ip));
    }
    let mut s = state(WORKER, host.clone());
    assert_eq!(
        host_source(&s.plan()),
        Some("10.1.2.1".parse().unwrap()),
        "a known link goes first, one that is down never"
    );
    host.links.remove("cni0");
    host.addresses.retain(|a| a.link != "cni0");
    s.apply(Input::Host(Arc::new(host.clone())), at(0));
    assert_eq!(
        host_source(&s.plan()),
        Some("10.1.2.8".parse().unwrap()),
        "then a bridge, a pod's veth last"
    );
    let other = Node {
        internal_ips: vec!["172.30.1.13".parse().unwrap(), "10.1.2.8".parse().unwrap()],
        clamp_mss: None,
    };
    s.apply(
        Input::Nodes(Event::Applied("other".into(), Ok(other))),
        at(0),
    );
    assert_eq!(
        host_source(&s.plan()),
        Some("10.1.2.9".parse().unwrap()),
        "never one of another node"
    );
}

#[test]
fn nodes_with_one_inner_address_are_named() {
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    let twin = Node {
        internal_ips: vec!["10.30.1.11".parse().unwrap()],
        clamp_mss: None,
    };
    s.apply(Input::Nodes(Event::Applied("twin".into(), Ok(twin))), at(0));
    let said = s.plan();
    assert!(
        condition(&said, "VtepCollision")
            .unwrap()
            .message
            .contains("240.30.1.11"),
        "{:?}",
        said.conditions
    );
}

#[test]
fn connections_with_a_binding_that_nothing_comes_back_to_are_told() {
    let plan = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1")).plan();
    let rules = plan.flows.unwrap();
    let wrong = |src: &str, dst: &str, reply_dst: &str| {
        let ip = |t: &str| t.parse().unwrap();
        rules.wrong(&Flow {
            tcp: false,
            src: ip(src),
            dst: ip(dst),
            reply_src: ip(dst),
            reply_dst: ip(reply_dst),
        })
    };
    assert!(
        !wrong("10.1.2.5", "10.2.0.1", "10.1.2.5"),
        "a pod with its own address"
    );
    assert!(
        wrong("10.1.2.5", "10.2.0.1", "172.30.1.12"),
        "a pod that was masqueraded"
    );
    assert!(
        !wrong("240.30.1.12", "10.2.0.1", "10.1.2.1"),
        "the host with its CNI address"
    );
    assert!(
        !wrong("240.30.1.12", "10.2.0.1", "240.30.1.12"),
        "one that began through the gateway lives on"
    );
    assert!(
        wrong("172.30.1.12", "10.2.0.1", "172.30.1.12"),
        "the host with its node address"
    );
    assert!(
        wrong("10.2.0.1", "10.1.2.5", "172.30.1.11"),
        "a remote pod that was masqueraded"
    );
    assert!(!wrong("172.30.1.12", "8.8.8.8", "172.30.1.12"), "not ours");
}

#[test]
fn connections_of_an_address_that_is_gone_are_ended_and_of_one_that_is_still_there_are_not() {
    let mut host = host_with_cni("172.30.1.12", "10.1.2.1");
    host.addresses.insert(address("tunl0", "10.1.2.9/32"));
    for (name, cni) in [(WORKER, true), (WORKER, false), (GATEWAY, false)] {
        let mut host = host.clone();
        if !cni {
            host.addresses.retain(|a| a.link != "tunl0");
        }
        let rules = state(name, host).plan().flows.unwrap();
        let ip = |t: &str| t.parse().unwrap();
        let wrong = |tcp, reply_dst: &str| {
            rules.wrong(&Flow {
                tcp,
                src: ip("172.30.1.12"),
                dst: ip("10.2.0.1"),
                reply_src: ip("10.2.0.1"),
                reply_dst: ip(reply_dst),
            })
        };
        assert_eq!(wrong(true, "10.1.2.1"), !cni, "{name}");
        assert_eq!(wrong(true, "10.1.2.9"), !cni, "{name}");
        assert_eq!(wrong(false, "10.1.2.1"), !cni, "{name}");
        assert!(
            !cni || wrong(false, "10.1.2.9"),
            "datagrams move to the new address"
        );
        assert!(wrong(true, "10.1.2.77"), "{name}: an old one");
        assert!(wrong(false, "10.1.2.77"), "{name}: an old one");

        let stranded = |local: &str, remote: &str| rules.stranded(ip(local), ip(remote));
        assert_eq!(stranded("10.1.2.9", "10.2.0.1"), !cni);
        assert!(stranded("10.1.2.77", "10.2.0.1"));
        assert!(!stranded("10.1.2.77", "8.8.8.8"), "not ours");
        assert!(!stranded("172.30.1.12", "10.2.0.1"), "the node's own");
    }
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
        clamp_mss: None,
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
fn every_set_that_a_rule_looks_up_is_there() {
    for (node, host) in [
        (WORKER, bare_host("172.30.1.12")),
        (GATEWAY, host_with_cni("172.30.1.11", "10.1.1.1")),
    ] {
        let plan = state(node, host).plan();
        let table = table_of(&plan);
        for set in strait_host::nft::sets_used(table) {
            assert!(table.sets.contains_key(set), "{set}");
        }
    }
}

/// Everything that can happen to a worker.
fn event() -> impl Strategy<Value = Input> {
    let host = prop_oneof![
        Just(bare_host("172.30.1.12")),
        (1u8..4).prop_map(|n| host_with_cni("172.30.1.12", &format!("10.1.{n}.1"))),
    ];
    let remote = (1u8..5, 1u8..9).prop_map(|(c, s)| {
        let e = endpoint(
            &format!("c{c}"),
            "x",
            &format!("172.30.9.{c}"),
            &[&format!("10.{}.0.0/16", 20 + s)],
        );
        Event::Applied(e.name.clone(), Ok(e))
    });
    prop_oneof![
        host.prop_map(|h| Input::Host(Arc::new(h))),
        remote.prop_map(Input::Endpoints),
        (1u8..5).prop_map(|c| Input::Endpoints(Event::Deleted(format!("c{c}-cable")))),
        Just(Input::Endpoints(endpoints())),
        Just(Input::Endpoints(Event::Deleted("east-cable".into()))),
        Just(Input::Endpoints(Event::Reset(BTreeMap::new()))),
        Just(Input::Endpoints(Event::Failed("away".into()))),
        prop::sample::select(vec![WORKER, GATEWAY]).prop_map(|gateway| {
            let e = endpoint("east", gateway, "172.30.1.11", &["10.1.0.0/16"]);
            Input::Endpoints(Event::Applied(e.name.clone(), Ok(e)))
        }),
        Just(Input::Nodes(nodes())),
        Just(Input::Nodes(Event::Deleted(GATEWAY.into()))),
        Just(Input::Agents(agents())),
        Just(Input::Agents(Event::Deleted(GATEWAY.into()))),
        Just(Input::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A virtual kernel follows the plan after every event; foreign objects stay; a second pass changes nothing.
    #[test]
    fn whatever_happens_the_kernel_follows_and_settles(events in prop::collection::vec(event(), 1..25)) {
        let mut s = State::new(settings(WORKER));
        let mut kernel = Host::default();
        for (i, event) in events.into_iter().enumerate() {
            if let Input::Host(host) = &event {
                // What others have on the host changes; what is ours stays.
                let (o, old) = (owner(), kernel);
                kernel = (**host).clone();
                kernel.links.extend(old.links.into_iter().filter(|(n, l)| o.owns_link(n, l)));
                kernel.addresses.extend(old.addresses.into_iter().filter(|a| o.links.contains(&a.link)));
                kernel.routes.extend(old.routes.into_iter().filter(|r| o.owns_route(r)));
                kernel.rules.extend(old.rules);
                kernel.neighbours = old.neighbours;
                kernel.fdb = old.fdb;
                kernel.nft = old.nft;
                s.apply(Input::Host(Arc::new(kernel.clone())), at(i as u64 * 900));
            } else {
                s.apply(event, at(i as u64 * 900));
            }
            let plan = s.plan();
            prop_assert_eq!(&plan, &s.plan(), "the same state gives the same plan");
            let d = diff(&kernel, &plan.wanted, &owner());
            prop_assert!(d.conflicts.is_empty(), "{:?}", d.conflicts);
            for change in &d.changes {
                kernel.apply(change);
            }
            prop_assert!(diff(&kernel, &plan.wanted, &owner()).changes.is_empty());
            if s.host.is_none() {
                continue;
            }
            // What we put on the host is no input of ours.
            let mut again = s.clone();
            again.apply(Input::Host(Arc::new(kernel.clone())), at(i as u64 * 900));
            prop_assert_eq!(again.plan().wanted, plan.wanted);
        }
    }

    /// The last word of each source counts, not the order in which they came.
    #[test]
    fn no_order_of_arrival_matters(order in Just((0..4usize).collect::<Vec<_>>()).prop_shuffle()) {
        let all = [
            Input::Endpoints(endpoints()),
            Input::Nodes(nodes()),
            Input::Agents(agents()),
            Input::Host(Arc::new(host_with_cni("172.30.1.12", "10.1.2.1"))),
        ];
        let mut s = State::new(settings(WORKER));
        for i in order {
            s.apply(all[i].clone(), at(0));
        }
        prop_assert_eq!(s.plan(), state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1")).plan());
    }
}

#[test]
fn a_nodes_annotation_forces_the_segment_size_and_a_bad_one_is_named() {
    let clamp = |plan: &Plan| {
        table_of(plan).chains["mss"].rules[0]
            .statements
            .last()
            .cloned()
    };
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    assert_eq!(clamp(&s.plan()), Some(Statement::ClampMss));
    for (asked, clamped, named) in [
        (Ok(1300), Statement::SetMss(1300), false),
        (
            Err("'x' is no segment size".to_owned()),
            Statement::ClampMss,
            true,
        ),
    ] {
        let node = Node {
            internal_ips: vec!["172.30.1.12".parse().unwrap()],
            clamp_mss: Some(asked),
        };
        s.apply(Input::Nodes(Event::Applied(WORKER.into(), Ok(node))), at(0));
        let plan = s.plan();
        assert_eq!(clamp(&plan), Some(clamped));
        assert_eq!(condition(&plan, "InvalidAnnotation").is_some(), named);
    }
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
