//! Calico's IPPools: which are wanted where, and how they get there.

use serde_json::json;
use strait_api::{IpPool, Kind, Object};

use super::*;
use crate::{Entry, ObjectChange, Severity};

type There = BTreeMap<String, Entry<IpPool>>;

fn gateway() -> State {
    state(GATEWAY, host_with_cni("172.30.1.11", "10.1.1.1"))
}

fn entry(object: Object) -> Entry<IpPool> {
    Entry::read(object, IpPool::parse)
}

fn foreign(name: &str, spec: &serde_json::Value) -> (String, Entry<IpPool>) {
    let object = Object::new(Kind::IpPool, "", name).with("spec", spec);
    (name.to_owned(), entry(object))
}

fn list(s: &mut State, there: &There) {
    let list = there.iter().map(|(n, e)| (n.clone(), Ok(e.clone())));
    s.apply(Input::Pools(Some(Event::Reset(list.collect()))), at(5));
}

/// Lets a server that takes everything carry out what is planned, until there is nothing left.
fn settle(s: &mut State, there: &mut There) -> usize {
    let mut writes = 0;
    loop {
        let changes = s.plan().pools;
        if changes.is_empty() {
            return writes;
        }
        for change in changes {
            writes += 1;
            assert!(writes < 50, "no end");
            let name = change.key().name.clone();
            let event = match change {
                ObjectChange::Put(object) => {
                    there.insert(name.clone(), entry(object.clone()));
                    Event::Applied(name, Ok(entry(object)))
                }
                ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => {
                    assert!(there[&name].object.is_ours(), "{name}");
                    there.remove(&name);
                    Event::Deleted(name)
                }
            };
            s.apply(Input::Pools(Some(event)), at(6));
        }
    }
}

fn names(there: &There) -> Vec<&str> {
    there.keys().map(String::as_str).collect()
}

fn west(s: &mut State, subnets: &[&str]) {
    let west = endpoint("west", "west-1", "172.30.2.11", subnets);
    s.apply(
        Input::Endpoints(Event::Applied(west.name.clone(), Ok(west))),
        at(7),
    );
}

const WEST: [&str; 2] = [
    "submariner-west-10.102.0.0-16",
    "submariner-west-10.2.0.0-16",
];

#[test]
fn the_gateways_node_keeps_a_pool_for_each_remote_subnet_and_follows_them() {
    let (mut s, mut there) = (gateway(), There::new());
    list(&mut s, &there);
    assert_eq!(settle(&mut s, &mut there), 2);
    assert_eq!(names(&there), WEST);
    for (entry, cidr) in there.values().zip(["10.102.0.0/16", "10.2.0.0/16"]) {
        assert_eq!(
            entry.object.content["spec"],
            json!({"cidr": cidr, "disabled": true, "natOutgoing": false, "disableBGPExport": true})
        );
        assert!(entry.object.is_ours());
    }
    west(&mut s, &["10.2.0.0/16", "10.3.0.0/16", "fd10::/48"]);
    assert_eq!(settle(&mut s, &mut there), 2, "one goes, one comes");
    assert_eq!(
        names(&there),
        ["submariner-west-10.2.0.0-16", "submariner-west-10.3.0.0-16"]
    );
    s.apply(Input::Endpoints(Event::Deleted("west-cable".into())), at(8));
    settle(&mut s, &mut there);
    assert_eq!(names(&there), [""; 0]);
    assert_eq!(s.plan().conditions, []);
}

#[test]
fn nothing_is_done_elsewhere_or_before_all_is_known_or_where_calico_is_not() {
    let wanted = |s: &State| s.plan().pools;
    let mut s = gateway();
    assert!(s.plan().keeps_pools);
    assert_eq!(wanted(&s), [], "the pools are not known");
    s.apply(Input::Pools(Some(Event::Absent)), at(5));
    assert_eq!((wanted(&s), s.plan().conditions), (vec![], vec![]));
    list(&mut s, &There::new());
    assert_eq!(wanted(&s).len(), 2, "Calico has come");
    s.apply(Input::Pools(None), at(6));
    assert_eq!(wanted(&s), [], "and is not looked at");

    let mut unknown = State::new(settings(GATEWAY));
    unknown.apply(Input::Nodes(nodes()), at(0));
    unknown.apply(Input::Agents(agents()), at(0));
    let host = Arc::new(host_with_cni("172.30.1.11", "10.1.1.1"));
    unknown.apply(Input::Host(host), at(0));
    let left = There::from([{
        let (name, mut left) = foreign(WEST[0], &json!({"cidr": "10.102.0.0/16"}));
        left.object
            .labels
            .insert("submariner.io/ippool".into(), "true".into());
        (name, left)
    }]);
    list(&mut unknown, &left);
    assert_eq!(wanted(&unknown), [], "the Endpoints are not known");

    let mut worker = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    list(&mut worker, &There::new());
    assert!(!worker.plan().keeps_pools);
    assert_eq!(wanted(&worker), []);
}

#[test]
fn when_the_gateway_moves_nothing_goes_and_comes_back() {
    let (mut old, mut there) = (gateway(), There::new());
    list(&mut old, &there);
    settle(&mut old, &mut there);
    let mut new = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    let mut moved = endpoint(
        "east",
        WORKER,
        "172.30.1.12",
        &["10.101.0.0/16", "10.1.0.0/16"],
    );
    moved.created = 9;
    moved.name = "east-cable-2".into();
    for s in [&mut old, &mut new] {
        let event = Event::Applied(moved.name.clone(), Ok(moved.clone()));
        s.apply(Input::Endpoints(event), at(8));
        list(s, &there);
    }
    assert_eq!((old.plan().pools, old.plan().keeps_pools), (vec![], false));
    assert!(new.plan().keeps_pools);
    assert_eq!(
        settle(&mut new, &mut there),
        0,
        "it finds them as they should be"
    );
    west(&mut old, &["10.2.0.0/16"]);
    west(&mut new, &["10.2.0.0/16"]);
    assert_eq!(old.plan().pools, []);
    assert_eq!(settle(&mut new, &mut there), 1);
}

#[test]
fn a_pool_of_ours_that_somebody_changed_is_mended_and_keeps_what_calico_added() {
    let (mut s, mut there) = (gateway(), There::new());
    list(&mut s, &there);
    settle(&mut s, &mut there);
    let change = |there: &mut There, name: &str, key: &str, value: serde_json::Value| {
        let mut object = there[name].object.clone();
        object.content["spec"][key] = value;
        there.insert(name.to_owned(), entry(object));
    };
    change(&mut there, WEST[0], "natOutgoing", json!(true));
    change(&mut there, WEST[0], "blockSize", json!(26));
    change(&mut there, WEST[1], "blockSize", json!(26));
    list(&mut s, &there);
    assert_eq!(settle(&mut s, &mut there), 1);
    let spec = &there[WEST[0]].object.content["spec"];
    assert_eq!(
        (&spec["natOutgoing"], &spec["blockSize"]),
        (&json!(false), &json!(26))
    );
    // Its prefix can't be changed, and what can't be read has none.
    for bad in [json!("10.9.0.0/16"), json!("x")] {
        change(&mut there, WEST[1], "cidr", bad);
        list(&mut s, &there);
        assert_eq!(settle(&mut s, &mut there), 2);
        assert_eq!(
            there[WEST[1]].parsed.as_ref().unwrap().cidr,
            net("10.2.0.0/16")
        );
    }
}

#[test]
fn others_pools_are_not_touched_and_named_where_they_are_in_the_way() {
    let others = [
        // The name, without the label.
        foreign(WEST[0], &json!({"cidr": "10.102.0.0/16"})),
        // In use, and it overlaps.
        foreign(
            "default-ipv4-ippool",
            &json!({"cidr": "10.2.128.0/17", "natOutgoing": true}),
        ),
        foreign("broken", &json!({"cidr": "?"})),
        foreign("apart", &json!({"cidr": "192.168.0.0/16"})),
    ];
    let (mut s, mut there) = (gateway(), There::from(others.clone()));
    list(&mut s, &there);
    assert_eq!(settle(&mut s, &mut there), 0);
    assert_eq!(there, There::from(others));
    let problem = condition(&s.plan(), "CalicoPoolsIncomplete")
        .unwrap()
        .clone();
    assert_eq!(problem.severity, Severity::Degraded);
    for part in [
        "submariner-west-10.102.0.0-16: somebody else has a pool of that name",
        "submariner-west-10.2.0.0-16: it would overlap pool default-ipv4-ippool (10.2.128.0/17)",
    ] {
        assert!(problem.message.contains(part), "{}", problem.message);
    }
    // Made by hand, as upstream's documents tell: it does what ours would.
    let by_hand = |name: &str, cidr: &str| {
        foreign(
            name,
            &json!({"cidr": cidr, "disabled": true, "natOutgoing": false}),
        )
    };
    let mut there = There::from([
        by_hand("west-services", "10.102.0.0/16"),
        by_hand(WEST[1], "10.2.0.0/15"),
    ]);
    list(&mut s, &there);
    assert_eq!(settle(&mut s, &mut there), 0);
    assert_eq!(s.plan().conditions, []);
}

#[test]
fn pools_of_subnets_that_hold_each_other_do_not_overlap_and_what_is_in_the_way_goes_first() {
    let (mut s, mut there) = (gateway(), There::new());
    list(&mut s, &there);
    west(
        &mut s,
        &["10.2.0.0/24", "10.2.0.0/25", "10.2.1.0/24", "10.3.0.1/32"],
    );
    settle(&mut s, &mut there);
    let narrow = [
        "submariner-west-10.2.0.0-24",
        "submariner-west-10.2.1.0-24",
        "submariner-west-10.3.0.1-32",
    ];
    assert_eq!(names(&there), narrow);
    west(
        &mut s,
        &["10.2.0.0/24", "10.2.0.0/16", "10.2.1.0/24", "10.3.0.1/32"],
    );
    let verbs: Vec<bool> = s
        .plan()
        .pools
        .iter()
        .map(|c| matches!(c, ObjectChange::Delete(_)))
        .collect();
    assert_eq!(verbs, [true, true, false]);
    settle(&mut s, &mut there);
    assert_eq!(
        names(&there),
        ["submariner-west-10.2.0.0-16", "submariner-west-10.3.0.1-32"]
    );
}

#[test]
fn what_can_not_be_read_or_written_is_named_until_it_can() {
    let mut s = gateway();
    let forbidden = "cannot list: ippools.projectcalico.org is forbidden (403)";
    s.apply(Input::Pools(Some(Event::Failed(forbidden.into()))), at(5));
    let told = |s: &State| condition(&s.plan(), "CalicoPoolsIncomplete").map(|c| c.message.clone());
    assert!(told(&s).unwrap().contains(forbidden));
    list(&mut s, &There::new());
    assert_eq!(told(&s), None);
    let failures = BTreeMap::from([
        (WEST[0].to_owned(), "admission refused it".to_owned()),
        ("submariner-gone-10.7.0.0-16".to_owned(), "old".to_owned()),
    ]);
    s.apply(Input::PoolFailures(failures), at(6));
    let message = told(&s).unwrap();
    assert!(
        message.contains("10.102.0.0-16: admission refused it"),
        "{message}"
    );
    assert!(
        !message.contains("old"),
        "it is wanted no longer: {message}"
    );
    settle(&mut s, &mut There::new());
    assert_eq!(told(&s), None, "it is there");
}
