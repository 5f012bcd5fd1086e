//! Inputs: unknown, in any order, or bad.

use proptest::prelude::*;
use strait_host::{Fdb, Owned, Wanted, diff};

use super::*;
use crate::Severity;

#[test]
fn nothing_is_touched_before_all_inputs_are_known_that_every_part_needs() {
    let all = [
        Input::Endpoints(endpoints()),
        Input::Nodes(nodes()),
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
fn without_the_list_of_agents_all_goes_on_and_what_stands_towards_nodes_stays() {
    for (node, ip, peer) in [
        (WORKER, "172.30.1.12", "172.30.1.11"),
        (GATEWAY, "172.30.1.11", "172.30.1.12"),
    ] {
        let known = state(node, bare_host(ip)).plan().wanted;
        let plan = |host: &Host| {
            let mut s = State::new(settings(node));
            for input in [
                Input::Endpoints(endpoints()),
                Input::Nodes(nodes()),
                Input::Agents(Event::Failed("403: forbidden".into())),
                Input::Host(Arc::new(host.clone())),
            ] {
                s.apply(input, at(0));
            }
            s.plan()
        };
        let flood = Fdb {
            link: "vx-submariner".into(),
            mac: Mac::ZERO,
            dst: peer.parse().unwrap(),
            port: None,
        };
        let mut host = bare_host(ip);
        let fresh = plan(&host);
        assert_eq!(fresh.wanted.neighbours, Owned::Set(BTreeSet::new()));
        assert_eq!(fresh.wanted.fdb, Owned::Set([flood.clone()].into()));
        let all_else = Wanted {
            neighbours: known.neighbours.clone(),
            fdb: known.fdb.clone(),
            ..fresh.wanted.clone()
        };
        assert_eq!(all_else, known, "{node}");
        let said = condition(&fresh, "InputsUnknown").unwrap();
        assert_eq!(said.severity, Severity::Degraded);
        for part in ["RouteAgents", "403: forbidden"] {
            assert!(said.message.contains(part), "{}", said.message);
        }

        // A predecessor knew them: its entries stay.
        for change in diff(&host, &known, &owner()).changes {
            host.apply(&change);
        }
        let taken_over = plan(&host).wanted;
        assert_eq!(taken_over.neighbours, known.neighbours, "{node}");
        assert_eq!(taken_over.fdb, known.fdb, "{node}");
        assert_eq!(taken_over.links, known.links, "{node}");
        // One entry without the other leads nowhere.
        let mut half = host.clone();
        half.neighbours.clear();
        assert_eq!(plan(&half).wanted.fdb, Owned::Set([flood].into()), "{node}");
        // And its device keeps the Ethernet address that others have learned.
        let learned = Mac([0xaa, 1, 2, 3, 4, 5]);
        host.links.get_mut("vx-submariner").unwrap().mac = Some(learned);
        let wanted = plan(&host).wanted;
        let link = &wanted.links.get().unwrap()["vx-submariner"];
        assert_eq!(link.mac, Some(learned), "{node}");
    }
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
fn nodes_with_one_inner_address_are_named() {
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    let twin = Node {
        internal_ips: vec!["10.30.1.11".parse().unwrap()],
        ..Node::default()
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
            ..Node::default()
        };
        s.apply(Input::Nodes(Event::Applied(WORKER.into(), Ok(node))), at(0));
        let plan = s.plan();
        assert_eq!(clamp(&plan), Some(clamped));
        assert_eq!(condition(&plan, "InvalidAnnotation").is_some(), named);
    }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

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
fn nodes_with_another_agent_than_ours_are_named_as_long_as_they_are_there() {
    let mut s = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    let agent = |name: &str, annotations: &[(&str, &str)]| {
        let mut object = strait_api::Object::new(strait_api::Kind::RouteAgent, "ns", name);
        for (key, value) in annotations {
            object.annotations.insert((*key).into(), (*value).into());
        }
        Input::Agents(Event::Applied(name.into(), AgentInfo::parse(&object)))
    };
    let named = |s: &State| condition(&s.plan(), "ForeignAgent").map(|c| c.message.clone());
    assert_eq!(named(&s), None);
    s.apply(agent(GATEWAY, &[]), at(1));
    let message = named(&s).unwrap();
    assert!(message.contains("these nodes: gateway;"), "{message}");
    // Ours says so even while it knows no address to publish.
    let ours = s.plan().account.unwrap().object();
    let mark = ours.annotations.get_key_value("strait.io/agent").unwrap();
    s.apply(agent(GATEWAY, &[(mark.0, mark.1)]), at(2));
    assert_eq!(named(&s), None);
    s.apply(
        agent(GATEWAY, &[("strait.io/vtep-mac", "02:64:ac:1e:01:0b")]),
        at(3),
    );
    assert_eq!(named(&s), None);
    // Its own object is written anew in a moment, and one of a node that is gone says nothing.
    s.apply(agent(WORKER, &[]), at(4));
    s.apply(agent("gone", &[]), at(4));
    assert_eq!(named(&s), None);
}
