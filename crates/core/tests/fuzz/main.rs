//! Objects that somebody else wrote: whatever is in them, they are parsed or refused with a reason that can be read, and no
//! plan routes what must not be routed.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail the test"
)]

mod gateway;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use strait_api::gateway::GatewayStatus;
use strait_api::route_agent::{AgentInfo, RouteAgentStatus};
use strait_api::standby::MOST_STANDBYS;
use strait_api::{ClusterSpec, Endpoint, IpPool, Kind, Node, Object};
use strait_core::gateway::public::Ask;
use strait_core::machine::Machine;
use strait_core::net::{never_remote, overlap};
use strait_core::route_agent::{Input, Settings, State};
use strait_core::{Entry, Event, ObjectChange, Time};
use strait_fuzz::{Dice, fuzz_with};
use strait_host::{Address, Family, Host, Link, LinkKind, Scope, TABLE_MAIN};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");

/// What parsers stumble over.
fn odd(dice: &mut Dice) -> Value {
    const TEXTS: [&str; 30] = [
        "",
        " ",
        "0.0.0.0/0",
        "::/0",
        "10.1.0.0/16",
        "10.2.0.0/16",
        "10.2.3.4/16",
        "172.30.1.0/24",
        "172.30.1.11",
        "172.30.1.12",
        "10.30.1.11",
        "::ffff:10.0.0.1",
        "::ffff:10.2.0.0/112",
        "10.0.0.0/33",
        "fe80::1%eth0",
        "fd00:100:100::1",
        "127.0.0.1",
        "255.255.255.255",
        "east",
        "West",
        "gateway",
        "worker",
        "../../x",
        "a\u{0}b",
        "\u{1b}[31m",
        "é\u{301}\u{202e}",
        "65536",
        "-1",
        "vxlan",
        "02:64:ac:1e:01:0c",
    ];
    match dice.below(8) {
        0 => Value::Null,
        1 => json!(dice.pick(&[0i64, -1, i64::MAX, i64::MIN])),
        2 => json!([]),
        3 => json!({}),
        4 => json!("x".repeat(*dice.pick(&[63, 64, 200, 201, 253, 254, 100_000]))),
        5 => json!([*dice.pick(&TEXTS), *dice.pick(&TEXTS)]),
        _ => json!(*dice.pick(&TEXTS)),
    }
}

/// Changes up to three values of an object, or its bytes.
fn changed(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    if dice.below(8) == 0 {
        return strait_fuzz::change(dice, corpus);
    }
    let mut value: Value = {
        let original: &Vec<u8> = dice.pick(corpus);
        serde_json::from_slice(original).unwrap()
    };
    for _ in 0..=dice.below(3) {
        let count = places(&value);
        let mut at = dice.below(count);
        let inside = dice.below(2) == 0;
        let new = odd(dice);
        replace(dice, &mut value, &mut at, inside, new);
    }
    value.to_string().into_bytes()
}

fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(all) => all.iter().map(places).sum(),
        Value::Object(all) => all.values().map(places).sum(),
        _ => 0,
    }
}

/// Replaces the value at a place; where that is a text that holds JSON, such as an annotation, or a value `inside` it.
fn replace(dice: &mut Dice, value: &mut Value, at: &mut usize, inside: bool, new: Value) {
    if *at == 0 {
        let text = value.as_str().filter(|_| inside);
        let held = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
        *value = match held.filter(|held| places(held) > 1) {
            Some(mut held) => {
                let mut at = dice.below(places(&held));
                replace(dice, &mut held, &mut at, false, new);
                held.to_string().into()
            }
            None => new,
        };
        *at = usize::MAX;
        return;
    }
    *at -= 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(all) => all.iter_mut().collect(),
        Value::Object(all) => all.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        if *at == usize::MAX {
            return;
        }
        replace(dice, child, at, inside, new.clone());
    }
}

/// A reason can be read, on one line, and is not as long as its author likes.
fn readable<T>(parsed: &Result<T, String>) {
    if let Err(why) = parsed {
        assert!(!why.is_empty() && why.chars().count() < 1000, "{why}");
        assert!(!why.chars().any(char::is_control), "{why:?}");
    }
}

fn settings() -> Settings {
    Settings {
        node: "gateway".into(),
        hostname: "gateway".into(),
        namespace: "submariner-operator".into(),
        cluster: "east".parse().unwrap(),
        cluster_cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd01::/48".parse().unwrap()],
        service_cidrs: vec!["10.101.0.0/16".parse().unwrap()],
        hello_port: 4801,
        health_check: true,
        self_test: false,
        adopt: false,
        version: "test".into(),
    }
}

fn host() -> Host {
    let mut host = Host::default();
    for (name, net) in [
        ("eth0", "172.30.1.11/24"),
        ("cni0", "10.1.1.1/24"),
        ("vxlan-tunnel", "241.30.1.11/8"),
    ] {
        let link = Link {
            kind: LinkKind::Bridge,
            mtu: 1500,
            up: true,
            mac: None,
            alias: None,
            master: None,
        };
        host.links.insert(name.into(), link);
        host.addresses.insert(Address {
            link: name.into(),
            net: net.parse().unwrap(),
            scope: Scope::Global,
        });
    }
    host
}

/// The objects of the corpus, and one more that was changed.
fn state(changed: Object) -> State {
    let mut endpoints = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    let mut agents = BTreeMap::new();
    let mut pools = BTreeMap::new();
    let originals = strait_fuzz::corpus(CORPUS);
    let originals = originals.iter().filter_map(|bytes| object(bytes));
    for object in originals.chain([changed]) {
        let name = object.key.name.clone();
        match object.key.kind {
            Kind::Endpoint => {
                endpoints.insert(name, Endpoint::parse(&object));
            }
            Kind::Node => {
                nodes.insert(name, Node::parse(&object));
            }
            Kind::RouteAgent => {
                agents.insert(name, AgentInfo::parse(&object));
            }
            Kind::IpPool => {
                pools.insert(name, Ok(Entry::read(object, IpPool::parse)));
            }
            _ => {}
        }
    }
    let mut state = State::new(settings());
    for input in [
        Input::Endpoints(Event::Reset(endpoints)),
        Input::Nodes(Event::Reset(nodes)),
        Input::Agents(Event::Reset(agents)),
        Input::Pools(Some(Event::Reset(pools))),
        Input::Host(std::sync::Arc::new(host())),
    ] {
        state.apply(input, Time::default());
    }
    state
}

fn object(bytes: &[u8]) -> Option<Object> {
    let dynamic: DynamicObject = serde_json::from_slice(bytes).ok()?;
    let kind = match dynamic.types.as_ref()?.kind.as_str() {
        "Endpoint" => Kind::Endpoint,
        "Node" => Kind::Node,
        "RouteAgent" => Kind::RouteAgent,
        "Cluster" => Kind::Cluster,
        "Gateway" => Kind::Gateway,
        "IPPool" => Kind::IpPool,
        _ => return None,
    };
    Some(Object::read(kind, &dynamic))
}

#[test]
fn no_object_makes_a_parser_panic_or_a_plan_route_what_is_ours() {
    let ours: Vec<IpNet> = [
        "10.1.0.0/16",
        "10.101.0.0/16",
        "fd01::/48",
        "172.30.1.11/32",
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect();
    fuzz_with(CORPUS, 3000, changed, |bytes| {
        let Some(object) = object(bytes) else { return };
        readable(&Endpoint::parse(&object));
        readable(&Node::parse(&object));
        readable(&AgentInfo::parse(&object));
        readable(&IpPool::parse(&object));
        readable(&object.section::<ClusterSpec>("spec"));
        readable(&object.section::<GatewayStatus>("status"));
        readable(&object.section::<RouteAgentStatus>("status"));
        for hints in Node::parse(&object).into_iter().map(|node| node.gateway) {
            let list = hints.public_ip.unwrap_or_default();
            let (_, problems) = Ask::configured(&list, &Family::ALL.into(), false);
            let problems = problems.into_iter().chain(hints.problems);
            problems.for_each(|problem| readable::<()>(&Err(problem)));
        }
        if let Ok(endpoint) = Endpoint::parse(&object) {
            let again = Object::new(Kind::Endpoint, "ns", "again").with("spec", &endpoint.spec);
            assert_eq!(Endpoint::parse(&again).unwrap().subnets, endpoint.subnets);
            assert!(endpoint.standbys.len() <= MOST_STANDBYS);
            for standby in &endpoint.standbys {
                let (of, subnets) = (&standby.cluster, &standby.subnets);
                assert_eq!((of, &subnets[..]), (&endpoint.cluster, &[][..]));
            }
            endpoint
                .bad_standbys
                .into_iter()
                .for_each(|why| readable::<()>(&Err(why)));
        }
        let foreign =
            (object.key.kind == Kind::IpPool && !object.is_ours()).then(|| object.key.name.clone());
        let plan = state(object).plan();
        for change in &plan.pools {
            let name = &change.key().name;
            assert!(
                name != "default-ipv4-ippool" && Some(name) != foreign.as_ref(),
                "{change:?}"
            );
            if let ObjectChange::Put(pool) = change {
                let pool = IpPool::parse(pool).unwrap();
                assert!(!ours.iter().any(|own| overlap(own, &pool.cidr)), "{pool:?}");
                assert!(pool.disabled && !pool.nat_outgoing, "{pool:?}");
            }
        }
        for route in plan.wanted.routes.get().unwrap() {
            assert_eq!(never_remote(&route.dst), None, "{route:?}");
            assert!(
                !ours.iter().any(|own| overlap(own, &route.dst)),
                "{route:?}"
            );
            assert!([100, 150, TABLE_MAIN].contains(&route.table));
        }
        let neighbours = plan.wanted.neighbours.get().unwrap();
        let ips: BTreeSet<_> = neighbours.iter().map(|n| (&n.link, n.ip)).collect();
        assert_eq!(ips.len(), neighbours.len(), "{neighbours:?}");
        let exact = plan.wanted.fdb.get().unwrap().iter();
        let exact: Vec<_> = exact.filter(|f| f.mac.is_unicast()).collect();
        let macs: BTreeSet<_> = exact.iter().map(|f| (&f.link, f.mac)).collect();
        assert_eq!(macs.len(), exact.len(), "{exact:?}");
        // What else there is does not suffer.
        assert!(plan.cni.contains_key(&Family::V4));
    });
}
