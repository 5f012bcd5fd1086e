//! What NAT discovery, the public address and the Node's own wishes change.

use strait_api::gateway::Connection;
use strait_api::node::GatewayHints;

use strait_host::Family;

use super::*;
use crate::discovery::{Path, PathState};
use crate::gateway::public::{Method, Public};
use crate::health::Report;

fn with_west(backend: &str) -> State {
    let mut s = state();
    let mut west = remote("west", "west", backend, "10.2.0.0/16");
    let spec = &mut west.object.content["spec"];
    spec["public_ip"] = "198.51.100.2".into();
    spec["healthCheckIP"] = "10.2.1.1".into();
    spec["backend_config"] = serde_json::json!({"natt-discovery-port": "4490"});
    west.parsed = Endpoint::parse(&west.object);
    arrive(&mut s, &west);
    settle_local(&mut s);
    s
}

fn found(s: &mut State, ip: &str, nat: bool, state: PathState) {
    let wanted = s.plan().discovery.unwrap();
    let target = wanted.targets.first().unwrap();
    let path = Path {
        ip: ip.parse().unwrap(),
        nat,
        state,
        comes_from: None,
    };
    s.apply(Input::Paths([(target.key.clone(), path)].into()), at(2));
}

fn connection(s: &State) -> Connection {
    let status: GatewayStatus = s.plan().gateway.unwrap().section("status").unwrap();
    status.connections[0].clone()
}

fn forwarded(s: &State) -> Vec<String> {
    let fdb = s.plan().wanted.fdb;
    fdb.get()
        .unwrap()
        .iter()
        .map(|f| f.dst.to_string())
        .collect()
}

fn endpoint(s: &State) -> EndpointSpec {
    let put = s.plan().broker.into_iter().find_map(|change| match change {
        ObjectChange::Put(object) if object.key.kind == Kind::Endpoint => Some(object),
        ObjectChange::Put(_) | ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => None,
    });
    put.unwrap().section("spec").unwrap()
}

fn hint(s: &mut State, hints: GatewayHints) {
    let node = Node {
        internal_ips: vec!["172.30.1.11".parse().unwrap()],
        gateway: hints,
        ..Node::default()
    };
    s.apply(Input::Nodes(Event::Applied("gw".into(), Ok(node))), at(3));
}

fn conditions(s: &State) -> Vec<&'static str> {
    s.plan().conditions.iter().map(|c| c.name).collect()
}

#[test]
fn a_gateway_asks_others_and_uses_what_it_finds() {
    let mut s = with_west("vxlan");
    let wanted = s.plan().discovery.unwrap();
    let own = wanted.own.unwrap();
    assert_eq!(
        (own.port, own.cable_name.as_str()),
        (4490, "submariner-cable-east-172-30-1-11")
    );
    let target = wanted.targets.first().unwrap();
    assert_eq!((target.port, target.dead), (Some(4490), false));
    assert_eq!(forwarded(&s), ["172.30.2.11"]);
    found(&mut s, "198.51.100.2", false, PathState::Answered);
    assert_eq!(forwarded(&s), ["198.51.100.2"]);
    assert_eq!(connection(&s).using_ip, "198.51.100.2");
}

#[test]
fn a_vxlan_cable_takes_no_nat_that_was_found_and_one_that_is_only_assumed() {
    let mut s = with_west("vxlan");
    found(&mut s, "198.51.100.2", true, PathState::Answered);
    assert!(forwarded(&s).is_empty());
    let refused = connection(&s);
    assert_eq!(refused.status, ConnectionStatus::Error);
    assert!(
        refused.status_message.contains("NAT"),
        "{}",
        refused.status_message
    );
    found(&mut s, "198.51.100.2", true, PathState::Silent);
    assert_eq!(forwarded(&s), ["198.51.100.2"]);
    assert!(connection(&s).using_nat);
}

#[test]
fn a_way_that_pings_find_dead_is_looked_for_again() {
    let mut s = with_west("vxlan");
    let report = Report {
        status: ConnectionStatus::Error,
        message: "lost".into(),
        rtt: None,
        sent: 9,
        received: 3,
        answered: None,
        silent: None,
    };
    let targets = s.plan().health.into_iter();
    let results = targets.map(|t| (t, report.clone())).collect();
    s.apply(Input::Health(results), at(2));
    assert!(s.plan().discovery.unwrap().targets.first().unwrap().dead);
}

#[test]
fn what_the_node_says_of_its_gateway_is_followed_and_what_cannot_be_is_named() {
    let mut s = with_west("vxlan");
    let hints = GatewayHints {
        udp_port: Some(4501),
        natt_port: Some(0),
        preferred_server: Some(true),
        problems: vec!["gateway.submariner.io/x is not known".into()],
        ..GatewayHints::default()
    };
    hint(&mut s, hints);
    let spec = endpoint(&s);
    assert_eq!(spec.backend_config["udp-port"], "4501");
    assert_eq!(spec.backend_config["natt-discovery-port"], "0");
    assert_eq!(spec.backend_config["preferred-server"], "true");
    assert_eq!(conditions(&s), ["InvalidAnnotation"]);
    let plan = s.plan();
    assert_eq!(plan.discovery.unwrap().own, None);
    let link = &plan.wanted.links.get().unwrap()[CABLE_VXLAN];
    assert!(matches!(&link.kind, LinkKind::Vxlan(vxlan) if vxlan.port == 4501));
}

#[test]
fn the_public_address_is_published_and_stays_while_nobody_tells_it() {
    let mut s = state();
    assert!(
        s.plan().public.methods.is_empty(),
        "nobody needs it without a NAT"
    );
    s.settings.nat_enabled = true;
    assert_eq!(s.plan().public.methods.len(), 10);
    assert!(conditions(&s).is_empty(), "not before somebody was asked");
    let public = |ips: &[&str], failure: Option<&str>| Public {
        addresses: ips
            .iter()
            .map(|ip| (Family::V4, ip.parse().unwrap()))
            .collect(),
        failures: failure
            .map(|why| (Family::V4, why.to_owned()))
            .into_iter()
            .collect(),
    };
    s.apply(Input::Public(public(&[], Some("timed out"))), at(2));
    assert_eq!(conditions(&s), ["PublicAddressUnknown"]);
    s.apply(Input::Public(public(&["192.0.2.1"], None)), at(3));
    let spec = endpoint(&s);
    assert_eq!(
        (spec.public_ip.as_str(), &spec.public_ips),
        ("192.0.2.1", &vec!["192.0.2.1".to_owned()])
    );
    assert!(conditions(&s).is_empty());
    // Another process begins, and knows of nothing but what is published.
    settle_local(&mut s);
    s.apply(Input::Public(Public::default()), at(4));
    assert_eq!(endpoint(&s).public_ip, "192.0.2.1");
    s.settings.air_gapped = true;
    assert_eq!(
        endpoint(&s).public_ip,
        "",
        "nobody says that it is still ours"
    );
    assert_eq!(conditions(&s), ["PublicAddressUnknown"]);
}

#[test]
fn the_nodes_list_goes_before_the_setting_and_a_bad_entry_is_named() {
    let mut s = state();
    s.settings.public_ip = "lb:submariner-gateway".into();
    assert_eq!(
        s.plan().public.methods,
        [Method::LoadBalancer("submariner-gateway".into())]
    );
    assert_eq!(endpoint(&s).backend_config["using-loadbalancer"], "true");
    let public_ip = Some("ipv4:192.0.2.7,ipv4:x".to_owned());
    hint(
        &mut s,
        GatewayHints {
            public_ip,
            ..GatewayHints::default()
        },
    );
    assert_eq!(
        s.plan().public.methods,
        [Method::Fixed("192.0.2.7".parse().unwrap())]
    );
    assert_eq!(conditions(&s), ["InvalidPublicAddress"]);
}

#[test]
fn a_wireguard_peer_is_reached_by_what_was_found_nat_or_not() {
    let mut s = with_west("wireguard");
    s.settings.driver = Driver::WireGuard;
    let key = |n: u8| strait_host::Key([n; 32]);
    s.apply(
        Input::Device(Ok(Device {
            public_key: key(1),
            next: None,
            former: None,
            kernel: true,
        })),
        at(1),
    );
    let mut west = s.broker_endpoints.values().next().unwrap().clone();
    west.object.content["spec"]["backend_config"]["publicKey"] = key(2).to_string().into();
    west.parsed = Endpoint::parse(&west.object);
    arrive(&mut s, &west);
    settle_local(&mut s);
    found(&mut s, "198.51.100.2", true, PathState::Answered);
    let peers = s.plan().tunnels.unwrap().peers;
    assert_eq!(
        peers[&key(2)].endpoint,
        Some("198.51.100.2:4500".parse().unwrap())
    );
    assert!(connection(&s).using_nat);
}

#[test]
fn a_gateway_that_has_just_started_sends_where_the_one_before_it_did_until_it_knows() {
    let mut s = with_west("vxlan");
    let entry = |dst: &str| strait_host::Fdb {
        link: CABLE_VXLAN.into(),
        mac: Mac::ZERO,
        dst: dst.parse().unwrap(),
        port: None,
    };
    let mut host = host();
    host.fdb.insert(entry("198.51.100.2"));
    host.fdb.insert(entry("203.0.113.9"));
    s.apply(Input::Host(Arc::new(host.clone())), at(2));
    assert_eq!(forwarded(&s), ["198.51.100.2"]);
    found(&mut s, "172.30.2.11", false, PathState::Asking);
    assert_eq!(forwarded(&s), ["198.51.100.2"]);
    found(&mut s, "172.30.2.11", false, PathState::Silent);
    assert_eq!(forwarded(&s), ["172.30.2.11"], "nobody answers for it");
    host.fdb.insert(entry("172.30.2.11"));
    s.apply(Input::Host(Arc::new(host)), at(3));
    found(&mut s, "172.30.2.11", false, PathState::Asking);
    assert_eq!(forwarded(&s), ["172.30.2.11"], "one of two says nothing");
}

#[test]
fn standbys_of_another_cluster_are_asked_too_and_reached_as_was_found() {
    let mut s = wireguard::gateway();
    let mut west = remote("west", "west", "wireguard", "10.2.0.0/16");
    let key = strait_host::Key([7; 32]);
    let standby = |name: &str, ip: &str, public: &str| {
        serde_json::json!({
            "hostname": name, "cableName": name, "backend": "wireguard", "privateIPs": [ip], "publicIPs": [public], "natEnabled": true,
            "backendConfig": {"publicKey": key.to_string(), "natt-discovery-port": "4491", "udp-port": "4501"},
        })
    };
    // Nobody but a forger says the last two, under names that others have.
    let active = "submariner-cable-west";
    let standbys = [
        standby("west-2", "172.30.2.12", "198.51.100.3"),
        standby(active, "172.30.2.13", "198.51.100.4"),
        standby("west-2", "172.30.2.14", "198.51.100.5"),
    ];
    let annotation = serde_json::Value::from(standbys.to_vec()).to_string();
    let annotations = &mut west.object.annotations;
    annotations.insert("strait.io/standbys".into(), annotation);
    west.parsed = Endpoint::parse(&west.object);
    arrive(&mut s, &west);
    settle_local(&mut s);
    let targets = s.plan().discovery.unwrap().targets;
    let asked: Vec<(&str, String, Option<u16>)> = targets
        .iter()
        .map(|t| {
            let private = t.private.unwrap().to_string();
            (t.key.cable_name.as_str(), private, t.port)
        })
        .collect();
    let expected = [
        (active, "172.30.2.11".to_owned(), None),
        ("west-2", "172.30.2.12".to_owned(), Some(4491)),
    ];
    assert_eq!(asked, expected);
    // Its tunnel goes where it answered.
    let found = Path {
        ip: "172.30.2.12".parse().unwrap(),
        nat: false,
        state: PathState::Answered,
        comes_from: None,
    };
    let of_standby = |s: &State| s.plan().tunnels.unwrap().peers[&key].endpoint.unwrap();
    let before = of_standby(&s).to_string();
    let target = targets.last().unwrap().key.clone();
    s.apply(Input::Paths([(target, found)].into()), at(2));
    assert_eq!(
        [before, of_standby(&s).to_string()],
        ["198.51.100.3:4501", "172.30.2.12:4501"]
    );
}

#[test]
fn a_vxlan_peer_is_sent_to_at_its_own_port_and_one_that_would_not_do_so_is_named() {
    let mut s = state();
    let with = |s: &mut State, port: u16, annotation: Option<(&str, &str)>| {
        let mut west = remote("west", "west", "vxlan", "10.2.0.0/16");
        west.object.content["spec"]["backend_config"] =
            serde_json::json!({"udp-port": port.to_string()});
        west.object.annotations.clear();
        let annotation = annotation.map(|(name, value)| (name.to_owned(), value.to_owned()));
        west.object.annotations.extend(annotation);
        west.parsed = Endpoint::parse(&west.object);
        arrive(s, &west);
        settle_local(s);
        let fdb = s.plan().wanted.fdb;
        let ports: Vec<_> = fdb.get().unwrap().iter().map(|f| f.port).collect();
        let connection = connection(s);
        (ports, connection.status, connection.status_message)
    };
    let mac = Some((ANNOTATION_VTEP_MAC, "02:e8:ac:1e:02:0b"));
    let connected = |port| (vec![port], ConnectionStatus::Connected, String::new());
    assert_eq!(with(&mut s, 4501, mac), connected(Some(4501)));
    assert_eq!(with(&mut s, 4500, mac), connected(None));
    // One that took a cable over from Submariner publishes no Ethernet address.
    let term = Some(("strait.io/term", "3.0"));
    assert_eq!(with(&mut s, 4501, term), connected(Some(4501)));
    assert_eq!(with(&mut s, 4500, None), connected(None));
    let (entries, status, why) = with(&mut s, 4501, None);
    assert_eq!((entries, status), (vec![], ConnectionStatus::Error));
    assert!(why.contains("UDP port 4501, ours 4500"), "{why}");
    // What is ours is what our Node says.
    let hints = GatewayHints {
        udp_port: Some(4501),
        ..GatewayHints::default()
    };
    hint(&mut s, hints);
    assert_eq!(with(&mut s, 4501, None), connected(None));
    assert_eq!(with(&mut s, 4500, mac), connected(Some(4500)));
}

#[test]
fn a_session_that_is_over_or_never_began_is_a_reason_to_look_for_the_way_where_no_ping_tells() {
    let mut s = wireguard::gateway();
    let key = |n| strait_host::Key([n; 32]);
    let mut west = wireguard::peer("west", Some(&key(2).to_string()), "10.2.0.0/16");
    let standby = serde_json::json!([{
        "hostname": "west-2", "cableName": "west-2", "backend": "wireguard", "privateIPs": ["172.30.2.12"],
        "backendConfig": {"publicKey": key(3).to_string(), "natt-discovery-port": "4490"},
    }]);
    let annotations = &mut west.object.annotations;
    annotations.insert("strait.io/standbys".into(), standby.to_string());
    annotations.insert("strait.io/former-public-key".into(), key(4).to_string());
    west.object.content["spec"]["healthCheckIP"] = "10.2.1.1".into();
    west.parsed = Endpoint::parse(&west.object);
    arrive(&mut s, &west);
    settle_local(&mut s);
    let seen = |s: &State| -> Vec<(bool, bool)> {
        let targets = s.plan().discovery.unwrap().targets.into_iter();
        targets.map(|t| (t.dead, t.unwatched)).collect()
    };
    let (dead, alive) = ((true, false), (false, false));
    assert_eq!(seen(&s), [alive, (false, true)], "nothing is known yet");
    let up = Tunnel::Connected(None);
    for (tunnels, expected) in [
        (vec![(2, Tunnel::Connecting), (3, up)], [dead, alive]),
        (vec![(2, up), (3, up)], [alive, alive]),
        (vec![(2, Tunnel::Dead), (3, up)], [dead, alive]),
        (vec![(2, Tunnel::Dead), (3, up), (4, up)], [alive, alive]),
        (vec![(2, up), (3, Tunnel::Dead)], [alive, dead]),
    ] {
        let peers = tunnels.into_iter().map(|(n, tunnel)| (key(n), tunnel));
        let tunnels = Tunnels {
            peers: peers.collect(),
            ..Tunnels::default()
        };
        s.apply(Input::Tunnels(tunnels.clone()), at(3));
        assert_eq!(seen(&s), expected, "{tunnels:?}");
    }
    // What pings say goes before.
    let tunnels = Tunnels {
        peers: [(key(2), Tunnel::Dead), (key(3), up)].into(),
        ..Tunnels::default()
    };
    s.apply(Input::Tunnels(tunnels), at(4));
    let report = Report {
        status: ConnectionStatus::Connected,
        message: String::new(),
        rtt: None,
        sent: 9,
        received: 9,
        answered: None,
        silent: None,
    };
    let targets = s.plan().health.into_iter();
    s.apply(
        Input::Health(targets.map(|t| (t, report.clone())).collect()),
        at(4),
    );
    assert_eq!(seen(&s), [alive, alive]);
}
