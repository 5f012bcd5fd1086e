//! Several gateways of a cluster: who writes what, and what may go when.

use strait_api::gateway::HaStatus;

use super::*;
use crate::hello::Turn;

const OWN: &str = "east-submariner-cable-east-172-30-1-11";

fn term(lease: u64) -> Term {
    Term { lease, ballot: 0 }
}

/// The Endpoint of another gateway of this cluster.
fn sibling(lease: Option<u64>) -> Entry<Endpoint> {
    let mut old = remote("east", "east", "vxlan", "10.1.0.0/16").object;
    old.labels.clear();
    old.key.namespace = "ns".into();
    if let Some(lease) = lease {
        let text = term(lease).to_string();
        old.annotations.insert("strait.io/term".into(), text);
    }
    let parsed = Endpoint::parse(&old);
    Entry {
        object: old,
        parsed,
    }
}

fn with_sibling(lease: Option<u64>) -> State {
    let mut s = state();
    let entry = sibling(lease);
    let event = Event::Applied("east-cable".into(), Ok(entry.clone()));
    s.apply(Input::Endpoints(event), at(1));
    let mut entry = entry;
    let labels = &mut entry.object.labels;
    labels.insert(LABEL_CLUSTER_ID.into(), "east".into());
    arrive(&mut s, &entry);
    s
}

/// Names of Endpoints that are to be written, and of those that are to go.
fn endpoints(changes: &[ObjectChange]) -> (Vec<&str>, Vec<&str>) {
    let of_endpoints = changes.iter().filter(|c| c.key().kind == Kind::Endpoint);
    let (puts, rest): (Vec<_>, Vec<_>) =
        of_endpoints.partition(|c| matches!(c, ObjectChange::Put(_)));
    (
        puts.into_iter().map(|c| c.key().name.as_str()).collect(),
        rest.into_iter().map(|c| c.key().name.as_str()).collect(),
    )
}

/// The own Endpoint is on the broker, as it is wanted now.
fn settle_broker(s: &mut State) {
    for change in s.plan().broker {
        if let ObjectChange::Put(object) = change
            && object.key.kind == Kind::Endpoint
        {
            let parsed = Endpoint::parse(&object);
            arrive(s, &Entry { object, parsed });
        }
    }
}

#[test]
fn a_predecessors_endpoint_goes_once_the_own_one_stands() {
    for older in [None, Some(0), Some(1)] {
        let mut s = with_sibling(older);
        let plan = s.plan();
        for changes in [&plan.local, &plan.broker] {
            assert_eq!(endpoints(changes), (vec![OWN], vec![]), "{older:?}");
        }
        settle_local(&mut s);
        assert_eq!(endpoints(&s.plan().broker), (vec![OWN], vec![]));
        settle_broker(&mut s);
        let plan = s.plan();
        for changes in [&plan.local, &plan.broker] {
            let goes = (vec![], vec!["east-cable"]);
            // Of one term the host name decides: "x" comes after "gw".
            let expected = if older == Some(1) {
                (vec![], vec![])
            } else {
                goes
            };
            assert_eq!(endpoints(changes), expected, "{older:?}");
        }
    }
}

#[test]
fn an_endpoint_of_a_newer_turn_is_not_touched_and_the_election_hears_of_it() {
    let mut s = with_sibling(Some(7));
    settle_local(&mut s);
    settle_broker(&mut s);
    let plan = s.plan();
    assert_eq!(endpoints(&plan.local), (vec![], vec![]));
    assert_eq!(endpoints(&plan.broker), (vec![], vec![]));
    let newer = Turn {
        term: term(7),
        holder: "x".into(),
    };
    assert_eq!(plan.election.unwrap().seen, Some(newer));
}

#[test]
fn a_standby_writes_nothing_but_its_gateway_and_keeps_its_cable() {
    let mut s = with_sibling(Some(7));
    arrive(&mut s, &remote("west", "west", "vxlan", "10.2.0.0/16"));
    let active = s.plan();
    for standing in [Standing::Standby, Standing::Unknown("why".into())] {
        s.apply(Input::Standing(standing.clone()), at(2));
        let plan = s.plan();
        assert!(plan.local.is_empty() && plan.broker.is_empty());
        assert_eq!(plan.wanted, active.wanted, "{standing:?}");
        assert!(plan.health.is_empty());
        match standing {
            Standing::Standby => {
                let status: GatewayStatus = plan.gateway.unwrap().section("status").unwrap();
                assert_eq!(status.ha_status, HaStatus::Passive);
                assert_eq!(status.connections, []);
                assert_eq!(plan.active, Some(false));
            }
            Standing::Unknown(_) | Standing::Active(_) => {
                assert_eq!((plan.gateway, plan.active), (None, None));
                let named = plan.conditions.iter().map(|c| (c.name, c.message.as_str()));
                assert!(
                    named.into_iter().any(|(name, message)| {
                        name == "InputsUnknown" && message.contains("why")
                    })
                );
            }
        }
    }
}

#[test]
fn it_can_be_elected_once_it_knows_what_to_say_and_what_is_published() {
    let mut s = State::new(settings());
    assert_eq!(s.plan().election, None);
    let node = Node {
        internal_ips: vec!["172.30.1.11".parse().unwrap()],
        may_be_gateway: true,
        ..Node::default()
    };
    let nodes = [("gw".to_owned(), Ok(node))].into();
    s.apply(Input::Nodes(Event::Reset(nodes)), at(0));
    s.apply(Input::Host(Arc::new(host())), at(0));
    let known = s.plan().election.unwrap();
    assert_eq!(known.ready, None, "the Endpoints are not known");
    let own: std::net::IpAddr = "172.30.1.11".parse().unwrap();
    assert_eq!(known.nodes["gw"], (vec![own], true));
    s.apply(Input::Endpoints(empty()), at(0));
    let claim = s.plan().election.unwrap().ready.unwrap();
    assert_eq!(claim.addresses, [own]);
    assert_eq!(claim.interface, CABLE_VXLAN);
}

fn spec_of(hostname: &str, ip: &str, backend: &str) -> EndpointSpec {
    EndpointSpec {
        cluster_id: "east".into(),
        cable_name: format!("cable-{hostname}"),
        hostname: hostname.into(),
        private_ip: ip.into(),
        private_ips: vec![ip.into()],
        backend: backend.into(),
        ..EndpointSpec::default()
    }
}

/// Host names of the standbys of which the own Endpoint tells.
fn told(s: &State) -> Vec<String> {
    let told = s.plan().local.into_iter().find_map(|change| match change {
        ObjectChange::Put(object) if object.key.kind == Kind::Endpoint => {
            Some(Endpoint::parse(&object).unwrap())
        }
        ObjectChange::Put(_) | ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => None,
    });
    let told = told.unwrap();
    assert_eq!(told.bad_standbys, None);
    told.standbys.into_iter().map(|e| e.hostname).collect()
}

fn node(s: &mut State, name: &str, ip: &str, may_be_gateway: bool, second: u64) {
    let node = Node {
        internal_ips: vec![ip.parse().unwrap()],
        may_be_gateway,
        ..Node::default()
    };
    let event = Event::Applied(name.into(), Ok(node));
    s.apply(Input::Nodes(event), at(second));
}

fn gateways(specs: impl IntoIterator<Item = EndpointSpec>) -> Input {
    let all = specs
        .into_iter()
        .map(|spec| (spec.hostname.clone(), Ok(spec)));
    Input::Gateways(Event::Reset(all.collect()))
}

#[test]
fn the_active_one_tells_of_those_that_may_take_its_place() {
    let mut s = state();
    node(&mut s, "b", "172.30.1.12", true, 1);
    node(&mut s, "c", "172.30.1.13", false, 1);
    let all = [
        spec_of("gw", "172.30.1.11", "vxlan"),
        spec_of("b", "172.30.1.12", "vxlan"),
        spec_of("c", "172.30.1.13", "vxlan"),
        spec_of("gone", "172.30.1.14", "vxlan"),
        spec_of("other", "172.30.1.12", "wireguard"),
    ];
    s.apply(gateways(all), at(1));
    assert_eq!(told(&s), ["b"]);
}

#[test]
fn one_that_has_ended_is_told_of_for_five_seconds_after_those_that_are_there() {
    let mut s = state();
    let ip = |number: usize| format!("172.30.1.{}", 20 + number);
    let names = ["b", "c", "d", "e", "f", "g"];
    for (number, name) in names.iter().enumerate() {
        node(&mut s, name, &ip(number), true, 1);
    }
    let spec = |name: &str| {
        let number = names.iter().position(|n| *n == name).unwrap();
        spec_of(name, &ip(number), "vxlan")
    };
    let ends = |s: &mut State, name: &str, second| {
        s.apply(Input::Gateways(Event::Deleted(name.into())), at(second));
    };
    s.apply(gateways(["b", "c", "d"].map(spec)), at(1));
    assert_eq!(told(&s), ["b", "c", "d"]);
    ends(&mut s, "b", 10);
    assert_eq!(told(&s), ["c", "d", "b"]);
    // It is no gateway any more.
    node(&mut s, "c", &ip(1), false, 12);
    assert_eq!(told(&s), ["d", "c", "b"]);
    assert_eq!(s.deadline(), Some(at(15)));
    s.apply(Input::Tick, at(15));
    assert_eq!(told(&s), ["d", "c"]);
    s.apply(Input::Tick, at(17));
    assert_eq!(told(&s), ["d"]);
    assert_eq!(s.deadline(), None);

    // One that is back is there; the last that ended come first where there are too many.
    s.apply(gateways(["b", "d", "e", "f", "g"].map(spec)), at(20));
    ends(&mut s, "b", 20);
    ends(&mut s, "d", 21);
    ends(&mut s, "e", 22);
    assert_eq!(told(&s), ["f", "g", "e", "d"]);
    let back = Event::Applied("d".into(), Ok(spec("d")));
    s.apply(Input::Gateways(back), at(23));
    assert_eq!(told(&s), ["d", "f", "g", "e"]);
    // Another host with the same cable has taken its place.
    let heir = spec_of("h", &ip(3), "vxlan");
    let heir = EndpointSpec {
        cable_name: spec("e").cable_name,
        ..heir
    };
    s.apply(
        Input::Gateways(Event::Applied("h".into(), Ok(heir))),
        at(23),
    );
    assert_eq!(told(&s), ["d", "f", "g", "h"]);
    ends(&mut s, "f", 24);
    ends(&mut s, "g", 24);
    assert_eq!(told(&s), ["d", "h", "f", "g"]);
    s.apply(Input::Tick, at(29));
    assert_eq!(told(&s), ["d", "h"]);
}

#[test]
fn one_that_has_just_begun_leaves_what_is_told_of_standbys_until_it_knows_of_them() {
    let mut s = state();
    node(&mut s, "b", "172.30.1.12", true, 1);
    let spec = spec_of("b", "172.30.1.12", "vxlan");
    s.apply(gateways([spec.clone()]), at(1));
    settle_local(&mut s);
    let published = s.endpoints.get(OWN).unwrap().clone();
    assert!(
        published
            .object
            .annotations
            .contains_key("strait.io/standbys")
    );

    let mut anew = state();
    node(&mut anew, "b", "172.30.1.12", true, 1);
    let event = Event::Applied(OWN.into(), Ok(published));
    anew.apply(Input::Endpoints(event), at(1));
    assert_eq!(endpoints(&anew.plan().local), (vec![], vec![]));
    anew.apply(gateways([]), at(2));
    assert_eq!(told(&anew), [""; 0]);
}

/// Cluster west, with a standby at this address.
fn west(standby: &str) -> Entry<Endpoint> {
    let mut entry = remote("west", "west", "vxlan", "10.2.0.0/16");
    let spec = spec_of("west-2", standby, "vxlan");
    let text = serde_json::to_string(&[strait_api::Standby::of(&spec)]).unwrap();
    let annotations = &mut entry.object.annotations;
    annotations.insert("strait.io/standbys".into(), text);
    entry.parsed = Endpoint::parse(&entry.object);
    entry
}

#[test]
fn the_cable_is_ready_for_another_clusters_standby_unless_that_is_in_somebodys_way() {
    let ways = |standby: &str| -> Vec<String> {
        let mut s = state();
        arrive(&mut s, &west(standby));
        settle_local(&mut s);
        let wanted = s.plan().wanted;
        let neighbours = wanted.neighbours.get().unwrap().iter();
        let fdb = wanted.fdb.get().unwrap().iter();
        let fdb = fdb.map(|f| format!("{} {}", f.mac, f.dst));
        let all = neighbours.map(|n| format!("{} {}", n.ip, n.mac)).chain(fdb);
        all.collect()
    };
    let active = [
        "241.30.2.11 02:e8:ac:1e:02:0b",
        "02:e8:ac:1e:02:0b 172.30.2.11",
    ];
    let warm = ways("172.30.2.12");
    for way in active {
        assert!(warm.contains(&way.to_owned()), "{warm:?}");
    }
    assert!(
        warm.contains(&"241.30.2.12 02:e8:ac:1e:02:0c".to_owned()),
        "{warm:?}"
    );
    assert!(
        warm.contains(&"02:e8:ac:1e:02:0c 172.30.2.12".to_owned()),
        "{warm:?}"
    );
    // Inside the cable it would be our own gateway, or the active one.
    for taken in ["172.30.1.11", "99.30.1.11", "172.30.2.11", "99.30.2.11"] {
        assert_eq!(ways(taken), active, "{taken}");
    }
}

#[test]
fn the_one_that_carries_the_traffic_removes_what_gateways_left_that_are_gone() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let removed = |s: &State| -> Vec<String> {
        let gateways = s.plan().local.into_iter();
        let gateways = gateways.filter(|c| c.key().kind == Kind::Gateway);
        gateways
            .map(|change| match change {
                ObjectChange::Delete(key) => key.to_string(),
                ObjectChange::Put(_) | ObjectChange::Supersede { .. } => panic!("{change:?}"),
            })
            .collect()
    };
    let mut s = state();
    assert_eq!(removed(&s), [""; 0]);
    s.apply(Input::Silent(names(&["gw", "gw-2", "gw-3"])), at(1));
    s.apply(Input::Heard(names(&["GW-3"])), at(1));
    assert_eq!(
        removed(&s),
        ["Gateway ns/gw-2"],
        "not its own, and not one that is heard"
    );
    s.apply(Input::Heard(names(&[])), at(2));
    assert_eq!(removed(&s), ["Gateway ns/gw-2", "Gateway ns/gw-3"]);
    s.apply(Input::Standing(Standing::Standby), at(3));
    assert_eq!(removed(&s), [""; 0]);
}
