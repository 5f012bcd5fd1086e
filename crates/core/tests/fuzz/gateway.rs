//! What other clusters put on the broker: whatever it is, another cluster's traffic goes where it went, nobody gets what is ours, and the gateway
//! comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use strait_api::gateway::GatewayStatus;
use strait_api::names::{ANNOTATION_STANDBYS, LABEL_CLUSTER_ID};
use strait_api::{
    Cluster, ClusterSpec, Endpoint, EndpointSpec, Kind, Node, Object, ObjectKey, Term,
};
use strait_core::gateway::{Device, Input, Plan, Settings, Standing, State, Tunnel, Tunnels};
use strait_core::machine::Machine;
use strait_core::net::{never_remote, overlap};
use strait_core::{Driver, Entry, Event, ObjectChange, Time};
use strait_fuzz::{Dice, fuzz_with};
use strait_host::{Host, Key, Mac};

use super::{changed, object};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway-corpus");
const OWN: [Key; 3] = [Key([1; 32]), Key([2; 32]), Key([3; 32])];
/// A cluster that was there before all others.
const NORTH: Key = Key([5; 32]);
const NORTHS: &str = "10.5.0.0/16";
const PORT: u16 = 4500;

/// Standbys are JSON within a text.
fn deeper(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let original: &Vec<u8> = dice.pick(corpus);
    let mut value: Value = serde_json::from_slice(original).unwrap();
    let inside = value.pointer_mut("/metadata/annotations");
    let inside = inside.and_then(|all| all.get_mut(ANNOTATION_STANDBYS));
    match inside {
        Some(text) if dice.below(2) == 0 => {
            let bytes = text.as_str().unwrap_or_default().as_bytes().to_vec();
            let new = changed(dice, &[bytes]);
            *text = String::from_utf8_lossy(&new).into_owned().into();
            value.to_string().into_bytes()
        }
        Some(_) | None => changed(dice, corpus),
    }
}

fn settings(driver: Driver) -> Settings {
    Settings {
        node: "gateway".into(),
        hostname: "gateway".into(),
        namespace: "submariner-operator".into(),
        broker_namespace: "submariner-k8s-broker".into(),
        cluster: "east".parse().unwrap(),
        cluster_cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd01::/48".parse().unwrap()],
        service_cidrs: vec!["10.101.0.0/16".parse().unwrap()],
        driver,
        port: PORT,
        nat_enabled: false,
        public_ip: String::new(),
        air_gapped: true,
        health_check: true,
        version: "test".into(),
        uid: "uid-east".into(),
    }
}

fn north(driver: Driver) -> [Object; 2] {
    let labelled = |mut object: Object| {
        object
            .labels
            .insert(LABEL_CLUSTER_ID.into(), "north".into());
        object.created = 1;
        object
    };
    let cluster = ClusterSpec {
        cluster_id: "north".into(),
        cluster_cidr: vec![NORTHS.into()],
        ..ClusterSpec::default()
    };
    let config = [
        ("udp-port".to_owned(), "4500".to_owned()),
        ("publicKey".to_owned(), NORTH.to_string()),
    ];
    let endpoint = EndpointSpec {
        cluster_id: "north".into(),
        cable_name: "submariner-cable-north-172-30-5-11".into(),
        hostname: "north-1".into(),
        subnets: vec![NORTHS.into()],
        private_ip: "172.30.5.11".into(),
        backend: driver.name().into(),
        backend_config: config.into(),
        ..EndpointSpec::default()
    };
    let broker = "submariner-k8s-broker";
    let mut endpoint = Object::new(Kind::Endpoint, broker, "north-cable").with("spec", &endpoint);
    let mac = (
        "strait.io/vtep-mac".to_owned(),
        "02:e8:ac:1e:05:0b".to_owned(),
    );
    endpoint.annotations.extend([mac]);
    [
        labelled(Object::new(Kind::Cluster, broker, "north").with("spec", &cluster)),
        labelled(endpoint),
    ]
}

/// Two API servers, and the gateway between them.
struct World {
    state: State,
    local: BTreeMap<ObjectKey, Object>,
    broker: BTreeMap<ObjectKey, Object>,
}

impl World {
    fn new(driver: Driver, broker: impl IntoIterator<Item = Object>) -> Self {
        let node = |ip: &str| {
            Ok(Node {
                internal_ips: vec![ip.parse().unwrap()],
                may_be_gateway: true,
                ..Node::default()
            })
        };
        let nodes = [("gateway", "172.30.1.11"), ("worker", "172.30.1.12")];
        let nodes = nodes.map(|(name, ip)| (name.to_owned(), node(ip)));
        let mut state = State::new(settings(driver));
        let host: Host = super::host();
        let term = Term {
            lease: 4,
            ballot: 0,
        };
        let [public_key, next, former] = OWN;
        let device = Device {
            public_key,
            next: Some(next),
            former: Some(former),
            kernel: true,
        };
        for input in [
            Input::Nodes(Event::Reset(nodes.into())),
            Input::Gateways(Event::Reset(BTreeMap::new())),
            Input::Host(Arc::new(host)),
            Input::Standing(Standing::Active(term)),
            Input::Device(Ok(device)),
            Input::Beat(1),
        ] {
            state.apply(input, Time::default());
        }
        let broker = broker.into_iter().map(|o| (o.key.clone(), o)).collect();
        Self {
            state,
            local: BTreeMap::new(),
            broker,
        }
    }

    fn show(&mut self, minute: u64) {
        let now = Time(Duration::from_secs(60 * minute));
        let of = |all: &BTreeMap<ObjectKey, Object>, kind| {
            let some = all.values().filter(move |o| o.key.kind == kind);
            some.cloned().collect::<Vec<_>>()
        };
        for (all, broker) in [(&self.local, false), (&self.broker, true)] {
            let clusters = of(all, Kind::Cluster).into_iter();
            let clusters =
                clusters.map(|o| (o.key.name.clone(), Ok(Entry::read(o, Cluster::parse))));
            let clusters = Event::Reset(clusters.collect());
            let endpoints = of(all, Kind::Endpoint).into_iter();
            let endpoints =
                endpoints.map(|o| (o.key.name.clone(), Ok(Entry::read(o, Endpoint::parse))));
            let endpoints = Event::Reset(endpoints.collect());
            let inputs = if broker {
                [
                    Input::BrokerClusters(clusters),
                    Input::BrokerEndpoints(endpoints),
                ]
            } else {
                [Input::Clusters(clusters), Input::Endpoints(endpoints)]
            };
            for input in inputs {
                self.state.apply(input, now);
            }
        }
    }

    /// Carries out what is planned, until there is no more to do.
    fn settle(&mut self, minute: u64) -> Plan {
        for _ in 0..5 {
            self.show(minute);
            let plan = self.state.plan();
            if plan.local.is_empty() && plan.broker.is_empty() {
                return plan;
            }
            allowed(&plan, &self.broker);
            for (changes, all) in [
                (&plan.local, &mut self.local),
                (&plan.broker, &mut self.broker),
            ] {
                for change in changes {
                    match change {
                        ObjectChange::Put(object) => {
                            let mut object = object.clone();
                            let there = all.get(&object.key).map(|o| o.created);
                            object.created = there.unwrap_or(2_000_000_000);
                            all.insert(object.key.clone(), object);
                        }
                        ObjectChange::Delete(key) | ObjectChange::Supersede { key, .. } => {
                            all.remove(key);
                        }
                    }
                }
            }
        }
        panic!("it writes for ever: {:#?}", self.state.plan());
    }
}

/// Copies land in our namespace, own objects are nobody's copies, and on the broker only what is ours is touched.
fn allowed(plan: &Plan, broker: &BTreeMap<ObjectKey, Object>) {
    let own = ["east", "east-submariner-cable-east-172-30-1-11"];
    for change in &plan.local {
        let key = change.key();
        assert_eq!(key.namespace, "submariner-operator", "{change:?}");
        if let ObjectChange::Put(object) = change {
            let copy = object.labels.contains_key(LABEL_CLUSTER_ID);
            assert_eq!(copy, !own.contains(&key.name.as_str()), "{object:?}");
        }
    }
    for change in &plan.broker {
        let there = broker.get(change.key());
        let after = match change {
            ObjectChange::Put(object) => Some(object),
            ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => None,
        };
        // One of our own name that somebody else put there is in our way.
        let there = there.filter(|_| after.is_none());
        for object in there.into_iter().chain(after) {
            assert_eq!(object.labels[LABEL_CLUSTER_ID], "east", "{change:?}");
        }
    }
}

fn harmless(plan: &Plan, driver: Driver, honest: bool) {
    let ours: Vec<IpNet> = ["10.1.0.0/16", "10.101.0.0/16", "fd01::/48", "172.30.1.0/28"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let norths: IpNet = NORTHS.parse().unwrap();
    if driver == Driver::WireGuard {
        let peers = &plan.tunnels.as_ref().unwrap().peers;
        assert!(OWN.iter().all(|own| !peers.contains_key(own)), "{peers:?}");
        let mut all: Vec<IpNet> = Vec::new();
        for net in peers.values().flat_map(|peer| &peer.allowed) {
            assert_eq!(never_remote(net), None, "{net}");
            assert!(!ours.iter().any(|own| overlap(own, net)), "{net}");
            all.push(*net);
        }
        // In the kernel the last one would have it.
        all.sort_unstable();
        let before = all.len();
        all.dedup();
        assert_eq!(all.len(), before, "{peers:?}");
        if honest {
            assert!(peers[&NORTH].allowed.contains(&norths), "{peers:?}");
            let mut others = peers.iter().filter(|(key, _)| **key != NORTH);
            assert!(others.all(|(_, peer)| {
                let mut nets = peer.allowed.iter().chain(&peer.accepted);
                nets.all(|net| !overlap(net, &norths))
            }));
        }
    } else {
        let (fdb, neighbours) = (&plan.wanted.fdb, &plan.wanted.neighbours);
        let (fdb, neighbours) = (fdb.get().unwrap(), neighbours.get().unwrap());
        let exact: Vec<_> = fdb.iter().filter(|f| f.mac != Mac::ZERO).collect();
        let macs: BTreeSet<_> = exact.iter().map(|f| (&f.link, f.mac)).collect();
        assert_eq!(macs.len(), exact.len(), "{fdb:?}");
        let ips: BTreeSet<_> = neighbours.iter().map(|n| (&n.link, n.ip)).collect();
        assert_eq!(ips.len(), neighbours.len(), "{neighbours:?}");
        assert!(
            fdb.iter()
                .all(|f| f.port != Some(PORT) && f.port != Some(0)),
            "{fdb:?}"
        );
        if honest {
            let mac: Mac = "02:e8:ac:1e:05:0b".parse().unwrap();
            let to: IpAddr = "172.30.5.11".parse().unwrap();
            let of_north = exact.iter().filter(|f| f.mac == mac);
            let of_north: Vec<_> = of_north.map(|f| (f.dst, f.port)).collect();
            assert_eq!(of_north, [(to, None)], "{fdb:?}");
        }
    }
    let targets = &plan.discovery.as_ref().unwrap().targets;
    let keys: BTreeSet<_> = targets.iter().map(|t| &t.key).collect();
    assert_eq!(keys.len(), targets.len(), "{targets:?}");
    assert!(keys.iter().all(|key| key.cluster.as_str() != "east"));
    for condition in &plan.conditions {
        assert!(
            !condition.message.chars().any(char::is_control),
            "{condition:?}"
        );
    }
    let status: GatewayStatus = plan.gateway.as_ref().unwrap().section("status").unwrap();
    for connection in &status.connections {
        let (spec, text) = (&connection.endpoint, &connection.status_message);
        assert!(
            (1..=63).contains(&spec.cluster_id.chars().count()),
            "{spec:?}"
        );
        assert!(!spec.cable_name.is_empty(), "{spec:?}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}

#[test]
fn nothing_on_the_broker_takes_another_clusters_traffic_or_keeps_a_gateway_from_coming_to_rest() {
    fuzz_with(CORPUS, 1500, deeper, |bytes| {
        let Some(mut new) = object(bytes) else { return };
        // Nobody but the broker says when something was made.
        new.created = new.created.max(1_700_000_000);
        for driver in [Driver::WireGuard, Driver::Vxlan] {
            let north = north(driver);
            let honest = north.iter().all(|o| o.key.name != new.key.name)
                && new
                    .labels
                    .get(LABEL_CLUSTER_ID)
                    .is_none_or(|l| l != "north");
            let mut new = new.clone();
            "submariner-k8s-broker".clone_into(&mut new.key.namespace);
            let corpus = strait_fuzz::corpus(CORPUS);
            let corpus = corpus.iter().filter_map(|bytes| object(bytes));
            let mut world = World::new(driver, corpus.chain(north).chain([new]));
            harmless(&world.settle(0), driver, honest);
            // Sessions end, so that what nobody keeps expires, and keys change.
            let peers = [NORTH, Key([20; 32])].map(|key| (key, Tunnel::Dead));
            let tunnels = Tunnels {
                peers: peers.into(),
                ..Tunnels::default()
            };
            world.state.apply(Input::Tunnels(tunnels), Time::default());
            for minute in [5, 10, 15, 20] {
                world
                    .state
                    .apply(Input::Beat(minute), Time(Duration::from_secs(60 * minute)));
                harmless(&world.settle(minute), driver, honest);
            }
        }
    });
}
