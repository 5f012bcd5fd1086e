//! What comes from the broker and what goes there, when not all is well with those that share it.

use strait_api::names::ANNOTATION_HEARTBEAT;

use super::*;
use crate::health::{Report, Results, Target, Way};
use strait_host::Family;

fn minutes(minutes: u64) -> Time {
    at(60 * minutes)
}

/// Carries out the plan's changes on the broker, as its API server would; how many there were.
fn settle_broker(s: &mut State, broker: &mut BTreeMap<ObjectKey, Object>) -> usize {
    let changes = s.plan().broker;
    for change in &changes {
        match change {
            ObjectChange::Put(object) => broker.insert(object.key.clone(), object.clone()),
            ObjectChange::Delete(key) | ObjectChange::Supersede { key, .. } => broker.remove(key),
        };
    }
    changes.len()
}

/// Shows a gateway what is on the broker.
fn show(s: &mut State, broker: &BTreeMap<ObjectKey, Object>, now: Time) {
    let of = |kind| broker.values().filter(move |o| o.key.kind == kind).cloned();
    let clusters = of(Kind::Cluster)
        .map(|o| (o.key.name.clone(), Ok(Entry::read(o, Cluster::parse))))
        .collect();
    let endpoints = of(Kind::Endpoint)
        .map(|o| (o.key.name.clone(), Ok(Entry::read(o, Endpoint::parse))))
        .collect();
    s.apply(Input::BrokerClusters(Event::Reset(clusters)), now);
    s.apply(Input::BrokerEndpoints(Event::Reset(endpoints)), now);
}

/// A cluster with the id `east`, another identity and other addresses.
fn twin() -> State {
    let mut settings = settings();
    settings.uid = "uid-twin".into();
    settings.hostname = "twin-gw".into();
    settings.cluster_cidrs = vec!["10.9.0.0/16".parse().unwrap()];
    let mut twin = State::new(settings);
    let mut host = host();
    host.addresses.clear();
    for (link, net) in [("eth0", "172.30.9.11/24"), ("cni0", "10.9.1.1/24")] {
        host.addresses.insert(Address {
            link: link.into(),
            net: net.parse().unwrap(),
            scope: Scope::Global,
        });
    }
    let node = Node {
        internal_ips: vec!["172.30.9.11".parse().unwrap()],
        ..Node::default()
    };
    for input in [
        Input::Clusters(empty()),
        Input::Endpoints(empty()),
        Input::BrokerClusters(empty()),
        Input::BrokerEndpoints(empty()),
        Input::Nodes(Event::Reset([("gw".to_owned(), Ok(node))].into())),
        Input::Host(Arc::new(host)),
        active(1),
    ] {
        twin.apply(input, at(0));
    }
    twin
}

fn uids(broker: &BTreeMap<ObjectKey, Object>) -> Vec<&str> {
    let all = broker.values();
    all.map(|o| o.annotations[ANNOTATION_CLUSTER_UID].as_str())
        .collect()
}

fn said<'a>(plan: &'a Plan, name: &str) -> Option<&'a str> {
    let found = plan.conditions.iter().find(|c| c.name == name)?;
    Some(&found.message)
}

#[test]
fn nothing_from_the_broker_lands_outside_our_namespace_whatever_it_says() {
    let mut s = state();
    for (i, namespace) in ["kube-system", "default", "", "../x", "broker", "ns"]
        .into_iter()
        .enumerate()
    {
        let id = format!("west{i}");
        let mut entry = remote(&id, &id, "vxlan", &format!("10.{}.0.0/16", 20 + i));
        entry.object.key.namespace = namespace.into();
        for (key, value) in [
            ("submariner-io/originatingNamespace", "kube-system"),
            ("lighthouse.submariner.io/sourceNamespace", "kube-system"),
        ] {
            entry.object.labels.insert(key.into(), value.into());
        }
        arrive(&mut s, &entry);
    }
    let local = s.plan().local;
    let copies = local.iter().filter(|c| c.key().name.starts_with("west"));
    assert_eq!(copies.count(), 6);
    for change in &local {
        assert_eq!(change.key().namespace, "ns", "{change:?}");
        assert!(matches!(change.key().kind, Kind::Cluster | Kind::Endpoint));
    }
}

#[test]
fn a_heartbeat_goes_to_the_broker_and_those_of_others_stay_there() {
    let mut s = state();
    s.apply(Input::Beat(1000), at(0));
    let mut broker = BTreeMap::new();
    assert_eq!(settle_broker(&mut s, &mut broker), 2);
    show(&mut s, &broker, at(1));
    assert_eq!(s.plan().broker, vec![]);
    s.apply(Input::Beat(1300), at(300));
    let [ObjectChange::Put(endpoint)] = &s.plan().broker[..] else {
        panic!("{:?}", s.plan().broker)
    };
    assert_eq!(endpoint.annotations[ANNOTATION_HEARTBEAT], "1300");
    let beaten = s.plan().local;
    let of_own = |change: &ObjectChange| match change {
        ObjectChange::Put(object) => object.annotations.contains_key(ANNOTATION_HEARTBEAT),
        ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => false,
    };
    assert!(!beaten.iter().any(of_own), "{beaten:?}");
    // Another cluster's makes no write here, and no event for its nodes.
    let mut west = remote("west", "west", "vxlan", "10.2.0.0/16");
    let beat = |west: &mut Entry<Endpoint>, value: &str| {
        west.object
            .annotations
            .insert(ANNOTATION_HEARTBEAT.into(), value.into());
    };
    beat(&mut west, "1");
    arrive(&mut s, &west);
    settle_local(&mut s);
    beat(&mut west, "2");
    arrive(&mut s, &west);
    assert_eq!(s.plan().local, vec![]);
}

#[test]
fn a_cluster_that_is_gone_is_removed_here_and_comes_back_when_it_is_heard() {
    let mut s = state();
    let mut broker = BTreeMap::new();
    let put = |s: &mut State, broker: &mut BTreeMap<ObjectKey, Object>, minute: u64| {
        s.apply(Input::Beat(minute), minutes(minute));
        settle_broker(s, broker);
        show(s, broker, minutes(minute));
    };
    let mut west = remote("west", "west", "vxlan", "10.2.0.0/16").object;
    let mut spec: EndpointSpec = west.section("spec").unwrap();
    spec.health_check_ip = "10.2.1.1".into();
    west = west.with("spec", &spec);
    west.annotations
        .insert(ANNOTATION_HEARTBEAT.into(), "1".into());
    let mut of_west = Object::new(Kind::Cluster, "broker", "west").with(
        "spec",
        &strait_api::ClusterSpec {
            cluster_id: "west".into(),
            color_codes: Vec::new(),
            service_cidr: Vec::new(),
            cluster_cidr: vec!["10.2.0.0/16".into()],
            global_cidr: Vec::new(),
        },
    );
    of_west
        .labels
        .insert(LABEL_CLUSTER_ID.into(), "west".into());
    for object in [&west, &of_west] {
        broker.insert(object.key.clone(), object.clone());
    }
    let target = Target {
        endpoint: west.key.name.clone(),
        family: Family::V4,
        cluster: "west".parse().unwrap(),
        address: "10.2.1.1".parse().unwrap(),
        source: None,
        way: Way::Cluster,
    };
    let report = Report {
        status: ConnectionStatus::Error,
        message: "dead".into(),
        rtt: None,
        sent: 10,
        received: 0,
        answered: None,
        silent: None,
    };
    s.apply(Input::Health(Results::from([(target, report)])), minutes(0));
    for minute in 0..=20 {
        put(&mut s, &mut broker, minute);
        settle_local(&mut s);
        let here = s.endpoints.get("west-cable").is_some();
        assert_eq!(here, minute < 16, "at {minute} min");
        assert_eq!(s.clusters.get("west").is_some(), here);
        let plan = s.plan();
        assert_eq!(said(&plan, "ClusterGone").is_none(), here, "{minute}");
        assert!(plan.broker.is_empty(), "what is there is its own business");
    }
    west.annotations
        .insert(ANNOTATION_HEARTBEAT.into(), "2".into());
    broker.insert(west.key.clone(), west);
    put(&mut s, &mut broker, 21);
    settle_local(&mut s);
    assert!(s.endpoints.get("west-cable").is_some() && s.clusters.get("west").is_some());
    assert_eq!(said(&s.plan(), "ClusterGone"), None);
}

#[test]
fn a_cluster_of_which_any_gateway_is_heard_under_any_key_is_not_gone() {
    let [current, next, former, standby] = [5, 6, 7, 8].map(|n| strait_host::Key([n; 32]));
    for alive in [None, Some(current), Some(next), Some(former), Some(standby)] {
        let mut s = wireguard::gateway();
        let peer = wireguard::peer("west", Some(&current.to_string()), "10.2.0.0/16");
        let mut west = peer.object;
        let standbys = serde_json::json!([{
            "hostname": "west-2", "cableName": "west-2", "backend": "wireguard", "privateIPs": ["172.30.2.12"],
            "backendConfig": {"publicKey": standby.to_string()},
        }]);
        west.annotations.extend([
            (ANNOTATION_HEARTBEAT.to_owned(), "1".to_owned()),
            ("strait.io/next-public-key".to_owned(), next.to_string()),
            ("strait.io/former-public-key".to_owned(), former.to_string()),
            ("strait.io/standbys".to_owned(), standbys.to_string()),
        ]);
        let mut broker = BTreeMap::from([(west.key.clone(), west)]);
        let mut peers = BTreeMap::from([(current, Tunnel::Dead)]);
        peers.extend(alive.map(|key| (key, Tunnel::Connected(None))));
        let tunnels = Tunnels {
            peers,
            ..Tunnels::default()
        };
        s.apply(Input::Tunnels(tunnels), minutes(0));
        for minute in 0..=20 {
            s.apply(Input::Beat(minute), minutes(minute));
            settle_broker(&mut s, &mut broker);
            show(&mut s, &broker, minutes(minute));
            settle_local(&mut s);
        }
        let here = s.endpoints.get("west-cable").is_some();
        assert_eq!(here, alive.is_some(), "{alive:?}");
    }
}

#[test]
fn of_two_clusters_with_one_id_the_later_steps_back_and_both_are_named() {
    let (mut first, mut second, mut broker) = (state(), twin(), BTreeMap::new());
    assert_eq!(settle_broker(&mut first, &mut broker), 2);
    show(&mut second, &broker, at(1));
    assert_eq!(second.plan().broker, vec![]);
    let plan = second.plan();
    let message = said(&plan, "DuplicateClusterId").unwrap();
    for part in ["gateway gw (172.30.1.11)", "gateway twin-gw (172.30.9.11)"] {
        assert!(message.contains(part), "{message}");
    }
    show(&mut first, &broker, at(1));
    assert_eq!(first.plan().broker, vec![]);
    assert_eq!(said(&first.plan(), "DuplicateClusterId"), None);
    // Its other work goes on.
    assert_eq!(second.plan().local.len(), 2);
}

#[test]
fn clusters_with_one_id_that_start_at_once_come_to_rest_in_every_order() {
    // Each step: who looks, who writes. An order is a number of base four.
    for order in 0..4_u32.pow(6) {
        let (mut states, mut broker) = ([state(), twin()], BTreeMap::new());
        let mut order = order;
        // What each has decided on, and not yet written.
        let mut pending: [Vec<ObjectChange>; 2] =
            [states[0].plan().broker, states[1].plan().broker];
        let write = |pending: &mut Vec<ObjectChange>, broker: &mut BTreeMap<ObjectKey, Object>| {
            for change in std::mem::take(pending) {
                match change {
                    ObjectChange::Put(object) => broker.insert(object.key.clone(), object),
                    ObjectChange::Delete(key) | ObjectChange::Supersede { key, .. } => {
                        broker.remove(&key)
                    }
                };
            }
        };
        for _ in 0..6 {
            let who = (order & 1) as usize;
            if order & 2 == 0 {
                show(&mut states[who], &broker, at(1));
                pending[who] = states[who].plan().broker;
            } else {
                write(&mut pending[who], &mut broker);
            }
            order >>= 2;
        }
        for _ in 0..3 {
            for who in 0..2 {
                write(&mut pending[who], &mut broker);
                show(&mut states[who], &broker, at(2));
                pending[who] = states[who].plan().broker;
            }
        }
        assert!(pending.iter().all(Vec::is_empty), "{pending:?}");
        assert_eq!(broker.len(), 2, "{broker:?}");
        let uids = uids(&broker);
        assert_eq!(uids[0], uids[1]);
    }
}

#[test]
fn the_id_of_a_cluster_that_is_silent_is_taken_and_it_does_not_take_it_back() {
    let (mut old, mut new, mut broker) = (state(), twin(), BTreeMap::new());
    old.apply(Input::Beat(1), at(0));
    settle_broker(&mut old, &mut broker);
    show(&mut new, &broker, at(0));
    // The broker is fresh: somebody else beats.
    let mut minute = 0;
    while settle_broker(&mut new, &mut broker) == 0 {
        assert!(minute < 30);
        let mut north = remote("north", "north", "vxlan", "10.5.0.0/16").object;
        let beat = minute.to_string();
        north.annotations.insert(ANNOTATION_HEARTBEAT.into(), beat);
        north
            .annotations
            .insert(ANNOTATION_CLUSTER_UID.into(), "uid-north".into());
        broker.insert(north.key.clone(), north);
        show(&mut new, &broker, minutes(minute));
        minute += 1;
    }
    assert!((15..=18).contains(&minute), "{minute}");
    show(&mut new, &broker, minutes(minute));
    assert_eq!(new.plan().broker, vec![]);
    assert_eq!(uids(&broker), ["uid-twin", "uid-twin", "uid-north"]);
    show(&mut old, &broker, minutes(minute));
    assert_eq!(old.plan().broker, vec![]);
    assert!(said(&old.plan(), "DuplicateClusterId").is_some());
}

#[test]
fn a_gateway_of_the_same_cluster_has_the_identity_that_stands_in_the_cluster() {
    let mut one = state();
    settle_local(&mut one);
    let mut other = twin();
    let own = one.clusters.get("east").unwrap().clone();
    other.apply(
        Input::Clusters(Event::Applied("east".into(), Ok(own))),
        at(1),
    );
    let plan = other.plan();
    let ObjectChange::Put(endpoint) = &plan.broker[1] else {
        panic!()
    };
    assert_eq!(endpoint.annotations[ANNOTATION_CLUSTER_UID], "uid-east");
    // Somebody removes it: it comes back as it was.
    other.apply(Input::Clusters(Event::Deleted("east".into())), at(2));
    let local = other.plan().local;
    let ObjectChange::Put(cluster) = &local[0] else {
        panic!()
    };
    assert_eq!(cluster.annotations[ANNOTATION_CLUSTER_UID], "uid-east");
}

#[test]
fn a_standby_takes_nobody_for_gone_whatever_its_own_tunnels_do() {
    for (standing, gone) in [
        (Input::Standing(Standing::Standby), false),
        (active(1), true),
    ] {
        let mut s = state();
        s.apply(standing, at(0));
        // A driver that does not match is a tunnel that never works.
        let mut west = remote("west", "west", "wireguard", "10.2.0.0/16");
        let beat = (ANNOTATION_HEARTBEAT.to_owned(), "1".to_owned());
        west.object.annotations.extend([beat]);
        arrive(&mut s, &west);
        for minute in 1..=20 {
            let mut north = remote("north", "north", "vxlan", "10.5.0.0/16");
            let beat = (ANNOTATION_HEARTBEAT.to_owned(), minute.to_string());
            north.object.annotations.extend([beat]);
            let name = north.object.key.name.clone();
            let beaten = Event::Applied(name, Ok(north));
            s.apply(Input::BrokerEndpoints(beaten), minutes(minute));
        }
        let said = said(&s.plan(), "ClusterGone").map(str::to_owned);
        assert_eq!(said.is_some(), gone, "{said:?}");
    }
}

#[test]
fn the_turns_of_another_cluster_with_our_id_are_none_of_our_elections_business() {
    let (mut ours, mut other) = (state(), twin());
    other.apply(active(99), at(0));
    let mut broker = BTreeMap::new();
    settle_broker(&mut other, &mut broker);
    show(&mut ours, &broker, at(1));
    assert_eq!(ours.plan().election.unwrap().seen, None);
    // The same Endpoint would count if it were of another gateway of this cluster.
    for object in broker.values_mut() {
        let own = "uid-east".to_owned();
        object
            .annotations
            .insert(ANNOTATION_CLUSTER_UID.into(), own);
    }
    show(&mut ours, &broker, at(2));
    assert_eq!(ours.plan().election.unwrap().seen.unwrap().term.lease, 99);
}

#[test]
fn what_the_broker_does_not_take_is_named_until_it_does() {
    let mut s = state();
    let key = ObjectKey {
        kind: Kind::Endpoint,
        namespace: "broker".into(),
        name: "east-cable".into(),
    };
    let why = "403 Forbidden: admission webhook denied the request";
    let unwritten = |broker, keys: &[&ObjectKey]| Input::Unwritten {
        broker,
        failures: keys
            .iter()
            .map(|k| ((*k).clone(), why.to_owned()))
            .collect(),
    };
    let names = ["WriteRefused", "BrokerWriteRefused"];
    for (broker, name, other) in [(false, names[0], names[1]), (true, names[1], names[0])] {
        s.apply(unwritten(broker, &[&key]), at(1));
        let plan = s.plan();
        let message = said(&plan, name).unwrap();
        assert!(
            message.contains("east-cable") && message.contains(why),
            "{message}"
        );
        assert_eq!(said(&plan, other), None);
        let status: GatewayStatus = plan.gateway.unwrap().section("status").unwrap();
        assert!(status.status_failure.contains(name));
        // It is one reason, however many objects there are.
        let more: Vec<ObjectKey> = (0..9)
            .map(|n| ObjectKey {
                name: format!("e{n}"),
                ..key.clone()
            })
            .collect();
        s.apply(unwritten(broker, &more.iter().collect::<Vec<_>>()), at(1));
        assert!(said(&s.plan(), name).unwrap().contains("and 5 more"));
        s.apply(unwritten(broker, &[]), at(1));
        assert_eq!(said(&s.plan(), name), None);
    }
    // One that is away is said to be so.
    s.apply(unwritten(true, &[&key]), at(1));
    s.apply(
        Input::BrokerEndpoints(Event::Failed("refused".into())),
        at(1),
    );
    assert_eq!(said(&s.plan(), "BrokerWriteRefused"), None);
    assert!(said(&s.plan(), "BrokerUnreachable").is_some());
}
