//! What the gateway publishes, what travels, and the cable.

mod adopted;
mod broker;
mod claims;
mod discovery;
mod health;
mod rotation;
mod turns;
mod wireguard;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use strait_api::gateway::{ConnectionStatus, GatewayStatus};
use strait_api::names::{
    ANNOTATION_CLUSTER_UID, ANNOTATION_VTEP_MAC, CABLE_VXLAN, LABEL_CLUSTER_ID,
};
use strait_api::{EndpointSpec, Kind, Term};
use strait_host::{Address, Link, LinkKind, Mac, Scope};

use super::*;
use crate::ObjectChange;

fn settings() -> Settings {
    Settings {
        node: "gw".into(),
        hostname: "gw".into(),
        namespace: "ns".into(),
        broker_namespace: "broker".into(),
        cluster: "east".parse().unwrap(),
        cluster_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.101.0.0/16".parse().unwrap()],
        driver: Driver::Vxlan,
        port: 4500,
        nat_enabled: false,
        public_ip: String::new(),
        air_gapped: false,
        health_check: true,
        version: "test".into(),
        uid: "uid-east".into(),
    }
}

fn host() -> Host {
    let link = |kind| Link {
        kind,
        mtu: 1500,
        up: true,
        mac: None,
        alias: None,
        master: None,
    };
    let mut host = Host::default();
    host.links.insert("eth0".into(), link(LinkKind::Veth));
    host.links.insert("cni0".into(), link(LinkKind::Bridge));
    for (link, net) in [("eth0", "172.30.1.11/24"), ("cni0", "10.1.1.1/24")] {
        host.addresses.insert(Address {
            link: link.into(),
            net: net.parse().unwrap(),
            scope: Scope::Global,
        });
    }
    host
}

fn empty<T>() -> Event<T> {
    Event::Reset(BTreeMap::new())
}

fn state() -> State {
    let mut s = State::new(settings());
    let node = Node {
        internal_ips: vec!["172.30.1.11".parse().unwrap()],
        ..Node::default()
    };
    for input in [
        Input::Clusters(empty()),
        Input::Endpoints(empty()),
        Input::BrokerClusters(empty()),
        Input::BrokerEndpoints(empty()),
        Input::Nodes(Event::Reset([("gw".to_owned(), Ok(node))].into())),
        Input::Host(Arc::new(host())),
        active(1),
    ] {
        s.apply(input, at(0));
    }
    s
}

fn active(lease: u64) -> Input {
    Input::Standing(Standing::Active(Term { lease, ballot: 0 }))
}

fn at(seconds: u64) -> Time {
    Time(Duration::from_secs(seconds))
}

fn remote(cluster: &str, label: &str, backend: &str, subnet: &str) -> Entry<Endpoint> {
    let spec = EndpointSpec {
        cluster_id: cluster.into(),
        cable_name: format!("submariner-cable-{cluster}"),
        hostname: "x".into(),
        subnets: vec![subnet.into()],
        private_ip: "172.30.2.11".into(),
        backend: backend.into(),
        ..EndpointSpec::default()
    };
    let mut object =
        Object::new(Kind::Endpoint, "broker", &format!("{cluster}-cable")).with("spec", &spec);
    object.labels.insert(LABEL_CLUSTER_ID.into(), label.into());
    object
        .annotations
        .insert(ANNOTATION_VTEP_MAC.into(), "02:e8:ac:1e:02:0b".into());
    let parsed = Endpoint::parse(&object);
    Entry { object, parsed }
}

fn arrive(s: &mut State, entry: &Entry<Endpoint>) {
    s.apply(
        Input::BrokerEndpoints(Event::Applied(
            entry.object.key.name.clone(),
            Ok(entry.clone()),
        )),
        at(1),
    );
}

/// Carries out the plan's changes of local objects, as the cluster's API server would.
fn settle_local(s: &mut State) {
    for change in s.plan().local {
        let name = change.key().name.clone();
        let input = match (change.key().kind, change) {
            (Kind::Endpoint, ObjectChange::Put(object)) => {
                let parsed = Endpoint::parse(&object);
                Input::Endpoints(Event::Applied(name, Ok(Entry { object, parsed })))
            }
            (Kind::Cluster, ObjectChange::Put(object)) => {
                let parsed = Cluster::parse(&object);
                Input::Clusters(Event::Applied(name, Ok(Entry { object, parsed })))
            }
            (Kind::Endpoint, ObjectChange::Delete(_) | ObjectChange::Supersede { .. }) => {
                Input::Endpoints(Event::Deleted(name))
            }
            (_, _) => Input::Clusters(Event::Deleted(name)),
        };
        s.apply(input, at(1));
    }
}

#[test]
fn it_publishes_its_cluster_and_endpoint_here_and_on_the_broker() {
    let plan = state().plan();
    let names: Vec<String> = plan.local.iter().map(|c| c.key().to_string()).collect();
    assert_eq!(
        names,
        [
            "Cluster ns/east",
            "Endpoint ns/east-submariner-cable-east-172-30-1-11"
        ]
    );
    let ObjectChange::Put(endpoint) = &plan.local[1] else {
        panic!()
    };
    assert!(endpoint.labels.is_empty(), "only copies carry the label");
    let parsed = Endpoint::parse(endpoint).unwrap();
    assert_eq!(
        parsed.spec.subnets,
        ["10.101.0.0/16", "10.1.0.0/16"],
        "services first"
    );
    assert_eq!(parsed.spec.health_check_ip, "10.1.1.1");
    assert_eq!(parsed.spec.backend_config["natt-discovery-port"], "4490");
    assert_eq!(parsed.interface.as_deref(), Some(CABLE_VXLAN));
    assert!(parsed.vtep_mac.is_some());
    let ObjectChange::Put(copy) = &plan.broker[1] else {
        panic!()
    };
    assert_eq!(
        (
            copy.key.namespace.as_str(),
            copy.labels[LABEL_CLUSTER_ID].as_str()
        ),
        ("broker", "east")
    );
    let mut annotations = copy.annotations.clone();
    assert_eq!(
        annotations.remove(ANNOTATION_CLUSTER_UID).as_deref(),
        Some("uid-east")
    );
    assert_eq!(
        (&copy.content, &annotations),
        (&endpoint.content, &endpoint.annotations)
    );
}

#[test]
fn nothing_is_written_twice() {
    let mut s = state();
    settle_local(&mut s);
    assert_eq!(s.plan().local, vec![]);
    // A server whose definition of the resource is older drops fields: that is as good as it gets.
    let ObjectChange::Put(wanted) = state().plan().local.remove(1) else {
        panic!()
    };
    let mut stored = wanted.clone();
    stored.content["spec"]
        .as_object_mut()
        .unwrap()
        .remove("private_ips");
    let entry = Entry {
        object: stored.clone(),
        parsed: Endpoint::parse(&stored),
    };
    s.apply(
        Input::Endpoints(Event::Applied(stored.key.name.clone(), Ok(entry))),
        at(1),
    );
    assert_eq!(s.plan().local.len(), 1);
    s.apply(Input::Stored { wanted, stored }, at(1));
    assert_eq!(s.plan().local, vec![]);
}

#[test]
fn another_clusters_endpoint_comes_from_the_broker_and_gets_a_cable() {
    let mut s = state();
    arrive(&mut s, &remote("west", "west", "vxlan", "10.2.0.0/16"));
    settle_local(&mut s);
    let plan = s.plan();
    assert_eq!(plan.local, vec![], "settled");
    let fdb: Vec<_> = plan.wanted.fdb.get().unwrap().iter().collect();
    assert_eq!(
        (fdb[0].mac, fdb[0].dst),
        (
            Mac([2, 0xe8, 0xac, 0x1e, 2, 0x0b]),
            "172.30.2.11".parse().unwrap()
        )
    );
    let neighbour = plan.wanted.neighbours.get().unwrap().first().unwrap();
    assert_eq!(
        neighbour.ip,
        "241.30.2.11".parse::<std::net::IpAddr>().unwrap()
    );
    let link = &plan.wanted.links.get().unwrap()[CABLE_VXLAN];
    assert_eq!(link.mtu, 1450);
    let status: GatewayStatus = plan.gateway.unwrap().section("status").unwrap();
    assert_eq!(status.connections[0].status, ConnectionStatus::Connected);
    assert_eq!(status.connections[0].using_ip, "172.30.2.11");
    // And when it goes, so does the copy.
    s.apply(
        Input::BrokerEndpoints(Event::Deleted("west-cable".into())),
        at(2),
    );
    assert!(matches!(&s.plan().local[..], [ObjectChange::Delete(key)] if key.name == "west-cable"));
}

#[test]
fn who_publishes_another_gateways_addresses_gets_nothing_that_is_sent_to_it() {
    let mut s = state();
    arrive(&mut s, &remote("west", "west", "vxlan", "10.2.0.0/16"));
    settle_local(&mut s);
    let honest = s.plan().wanted;
    // The same Ethernet address from elsewhere, and the same address inside the cable from elsewhere.
    for (address, mac) in [
        ("172.30.3.11", "02:e8:ac:1e:02:0b"),
        ("10.30.2.11", "02:e8:0a:1e:02:0b"),
        ("172.30.2.11", "02:e8:ac:1e:02:0b"),
    ] {
        let mut thief = remote("zzz", "zzz", "vxlan", "10.3.0.0/16").object;
        let mut spec: EndpointSpec = thief.section("spec").unwrap();
        spec.private_ip = address.into();
        thief = thief.with("spec", &spec);
        thief
            .annotations
            .insert(ANNOTATION_VTEP_MAC.into(), mac.into());
        let parsed = Endpoint::parse(&thief);
        arrive(
            &mut s,
            &Entry {
                object: thief,
                parsed,
            },
        );
        settle_local(&mut s);
        let plan = s.plan();
        let named = plan.conditions.iter().map(|c| c.name);
        assert!(
            named.clone().any(|n| n == "CableAddressConflict"),
            "{address}"
        );
        let neighbours = plan.wanted.neighbours.get().unwrap();
        assert_eq!(Some(neighbours), honest.neighbours.get(), "{address}");
        let fdb = plan.wanted.fdb.get().unwrap().iter();
        let exact: Vec<_> = fdb.filter(|f| f.mac != Mac::ZERO).collect();
        let before: Vec<_> = honest.fdb.get().unwrap().iter().collect();
        assert_eq!(exact, before, "{address}");
    }
}

#[test]
fn what_is_forged_or_overlaps_is_refused_by_name_and_hurts_no_other() {
    let mut s = state();
    arrive(&mut s, &remote("west", "west", "vxlan", "10.2.0.0/16"));
    arrive(&mut s, &remote("forged", "liar", "vxlan", "10.3.0.0/16"));
    arrive(&mut s, &remote("clash", "clash", "vxlan", "10.1.3.0/24"));
    let mut broken = remote("broken", "broken", "vxlan", "10.5.0.0/16");
    broken.object.content["spec"]["subnets"] = "no list".into();
    broken.parsed = Endpoint::parse(&broken.object);
    arrive(&mut s, &broken);
    let plan = s.plan();
    let put: Vec<_> = plan.local.iter().map(|c| c.key().name.as_str()).collect();
    assert!(
        put.contains(&"west-cable")
            && !put
                .iter()
                .any(|n| ["forged-cable", "clash-cable", "broken-cable"].contains(n))
    );
    let said = &plan
        .conditions
        .iter()
        .find(|c| c.name == "RejectedObject")
        .unwrap()
        .message;
    for part in [
        "forged-cable",
        "label of cluster 'liar'",
        "clash-cable",
        "OverlappingSubnets",
        "broken-cable",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_peer_with_another_driver_is_named_and_gets_no_cable() {
    let mut s = state();
    arrive(&mut s, &remote("west", "west", "libreswan", "10.2.0.0/16"));
    settle_local(&mut s);
    let plan = s.plan();
    assert!(plan.wanted.fdb.get().unwrap().is_empty());
    let status: GatewayStatus = plan.gateway.unwrap().section("status").unwrap();
    assert_eq!(status.connections[0].status, ConnectionStatus::Error);
    assert!(status.connections[0].status_message.contains("libreswan"));
}

#[test]
fn a_broker_that_is_away_takes_nothing_down() {
    let mut s = State::new(settings());
    let full = state();
    s.host.clone_from(&full.host);
    s.nodes = full.nodes.clone();
    s.apply(Input::Clusters(empty()), at(0));
    let mut copy = remote("west", "west", "vxlan", "10.2.0.0/16");
    copy.object.key.namespace = "ns".into();
    s.apply(
        Input::Endpoints(Event::Reset([("west-cable".to_owned(), Ok(copy))].into())),
        at(0),
    );
    s.apply(
        Input::BrokerEndpoints(Event::Failed("refused".into())),
        at(0),
    );
    let plan = s.plan();
    assert!(
        plan.local.iter().all(|c| matches!(c, ObjectChange::Put(_))),
        "{:?}",
        plan.local
    );
    assert_eq!(plan.broker, vec![]);
    assert_eq!(
        plan.wanted.fdb.get().unwrap().len(),
        1,
        "the cable to the known peer"
    );
    assert!(
        plan.conditions
            .iter()
            .any(|c| c.name == "BrokerUnreachable" && c.message.contains("refused"))
    );
}

#[test]
fn an_uninstallation_removes_all_copies_here_and_on_the_broker_only_what_is_ours() {
    let object = |kind, name: &str, label: Option<&str>| {
        let mut object = Object::new(kind, "ns", name);
        let label = label.map(|l| (strait_api::names::LABEL_CLUSTER_ID.to_owned(), l.to_owned()));
        object.labels.extend(label);
        object
    };
    let mut twins = object(Kind::Endpoint, "twins-cable", Some("east"));
    twins
        .annotations
        .insert(ANNOTATION_CLUSTER_UID.into(), "uid-twin".into());
    let there = [
        twins,
        object(Kind::Cluster, "east", Some("east")),
        object(Kind::Cluster, "west", Some("west")),
        object(Kind::Endpoint, "east-cable", Some("east")),
        object(Kind::Endpoint, "west-cable", Some("west")),
        object(Kind::Endpoint, "own", None),
    ];
    let names = |own: Option<&str>| -> Vec<String> {
        let own = own.map(|id| id.parse().unwrap());
        let keys = uninstalled(&there, own.as_ref(), Some("uid-east")).into_iter();
        keys.map(|key| key.name).collect()
    };
    assert_eq!(
        names(None),
        [
            "twins-cable",
            "east-cable",
            "west-cable",
            "own",
            "east",
            "west"
        ]
    );
    assert_eq!(names(Some("east")), ["east-cable", "east"]);
}
