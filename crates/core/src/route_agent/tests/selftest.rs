//! What a node finds out of its own way to the gateway.

use strait_api::gateway::ConnectionStatus;
use strait_api::gateway::ConnectionStatus::{Connected, Connecting, Error};
use strait_host::Family;
use strait_host::nft::{Rule, Value};

use super::*;
use crate::Severity;
use crate::health::{Report, Target, Way};
use crate::route_agent::flows::Flow;

const CNI: &str = "10.1.2.1";
const INNER: &str = "240.30.1.11";

fn gateway(health: &[&str]) -> Endpoint {
    let mut e = endpoint("east", GATEWAY, "172.30.1.11", &["10.1.0.0/16"]);
    e.health_check_ips = health.iter().map(|ip| ip.parse().unwrap()).collect();
    e
}

fn with(node: &str, host: Host, health: &[&str]) -> State {
    let mut s = state(node, host);
    s.settings.self_test = true;
    let gateway = gateway(health);
    s.apply(
        Input::Endpoints(Event::Applied(gateway.name.clone(), Ok(gateway))),
        at(1),
    );
    s
}

fn worker() -> State {
    with(WORKER, host_with_cni("172.30.1.12", CNI), &["10.1.1.1"])
}

fn own(s: &State) -> BTreeMap<Way, Target> {
    let targets = s.plan().health.into_iter();
    targets
        .filter(|t| t.way != Way::Cluster)
        .map(|t| (t.way, t))
        .collect()
}

fn report(status: ConnectionStatus) -> Report {
    Report {
        status,
        message: String::new(),
        rtt: None,
        sent: 9,
        received: u64::from(status != Connecting),
        answered: None,
        silent: None,
    }
}

type Statuses = [(Way, ConnectionStatus)];

fn tell(s: &mut State, statuses: &Statuses, now: u64) {
    let targets = own(s);
    let results = statuses.iter().filter_map(|(way, status)| {
        let target = targets.get(way)?;
        Some((target.clone(), report(*status)))
    });
    let results = results.collect();
    s.apply(Input::Health(results), at(now));
}

fn said(s: &State) -> Vec<(&'static str, String)> {
    let names = [
        "TunnelToGatewayDead",
        "ReturnPathDead",
        "GatewayUnreachable",
    ];
    let conditions = s.plan().conditions.into_iter();
    conditions
        .filter(|c| names.contains(&c.name))
        .inspect(|c| assert_eq!(c.severity, Severity::Degraded))
        .map(|c| (c.name, c.message))
        .collect()
}

fn all(
    tunnel: ConnectionStatus,
    round: ConnectionStatus,
    cni: ConnectionStatus,
) -> [(Way, ConnectionStatus); 3] {
    [(Way::Tunnel, tunnel), (Way::Round, round), (Way::Cni, cni)]
}

/// What is said of these results once they have settled, and the whole message.
fn after(s: &mut State, statuses: &Statuses, now: u64) -> Option<(&'static str, String)> {
    tell(s, statuses, now);
    s.apply(Input::Tick, at(now + 2_000));
    let mut said = said(s);
    assert!(said.len() < 2, "{said:?}");
    said.pop()
}

#[test]
fn a_worker_pings_its_gateway_by_three_ways() {
    let ip = |text: &str| text.parse().unwrap();
    let target = |way, source, address| Target {
        endpoint: "east-cable".into(),
        family: Family::V4,
        cluster: "east".parse().unwrap(),
        address: ip(address),
        source: Some(ip(source)),
        way,
    };
    let tunnel = target(Way::Tunnel, "240.30.1.12", INNER);
    let round = target(Way::Round, CNI, INNER);
    let cni = target(Way::Cni, CNI, "10.1.1.1");
    let by_way = |targets: &[&Target]| targets.iter().map(|t| (t.way, (*t).clone())).collect();
    let all: BTreeMap<Way, Target> = by_way(&[&tunnel, &round, &cni]);
    assert_eq!(own(&worker()), all);
    // A node without a CNI address has the VXLAN only; a gateway that publishes no CNI address, or one that is nobody's
    // business, leaves out the CNI.
    let bare = with(WORKER, bare_host("172.30.1.12"), &["10.1.1.1"]);
    assert_eq!(own(&bare), by_way(&[&tunnel]));
    for health in [&[][..], &["8.8.8.8"], &["10.2.0.1"], &[CNI], &["fd00::1"]] {
        let s = with(WORKER, host_with_cni("172.30.1.12", CNI), health);
        assert_eq!(own(&s), by_way(&[&tunnel, &round]), "{health:?}");
    }
    // Who is the gateway, has none, or is told not to, does not.
    let mut off = worker();
    off.settings.self_test = false;
    let mut silent = worker();
    silent.settings.health_check = false;
    let mut none = worker();
    none.apply(
        Input::Endpoints(Event::Deleted("east-cable".into())),
        at(10),
    );
    none.apply(Input::Tick, at(6_000));
    let itself = with(
        GATEWAY,
        host_with_cni("172.30.1.11", "10.1.1.1"),
        &["10.1.1.1"],
    );
    for s in [off, silent, none, itself] {
        assert_eq!(own(&s), BTreeMap::new());
    }
}

#[test]
fn each_combination_of_results_says_what_is_dead_and_nothing_that_is_not_known() {
    let statuses = [Connected, Error, Connecting];
    let mut seen = BTreeSet::new();
    for tunnel in statuses {
        for round in statuses {
            for cni in statuses {
                let said = after(&mut worker(), &all(tunnel, round, cni), 10).map(|s| s.0);
                let wanted = match (tunnel, round, cni) {
                    (_, Connected | Connecting, _) | (Connecting, _, _) => None,
                    (Connected, _, _) => Some("ReturnPathDead"),
                    (_, _, Error) => Some("GatewayUnreachable"),
                    _ => Some("TunnelToGatewayDead"),
                };
                assert_eq!(said, wanted, "{tunnel:?} {round:?} {cni:?}");
                seen.extend(said);
            }
        }
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_node_without_a_cni_address_knows_of_the_tunnel_only() {
    for (status, wanted) in [
        (Connected, None),
        (Connecting, None),
        (Error, Some("TunnelToGatewayDead")),
    ] {
        let mut s = with(WORKER, bare_host("172.30.1.12"), &["10.1.1.1"]);
        let said = after(&mut s, &[(Way::Tunnel, status)], 10);
        assert_eq!(said.map(|s| s.0), wanted, "{status:?}");
    }
}

#[test]
fn messages_name_addresses_devices_and_what_to_look_at() {
    let message = |statuses: &Statuses| after(&mut worker(), statuses, 10).unwrap().1;
    let contains = |message: String, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "no '{part}' in: {message}");
        }
    };
    contains(
        message(&all(Error, Error, Connected)),
        &[
            "way out",
            "vx-submariner",
            INNER,
            "UDP 4800",
            "172.30.1.12 on eth0",
            "172.30.1.11",
            "it does, at 10.1.1.1",
            GATEWAY,
        ],
    );
    contains(
        message(&all(Connected, Error, Error)),
        &[
            "way back",
            INNER,
            "10.1.2.1 on tunl0",
            "nor does gateway answer by the CNI, at 10.1.1.1",
        ],
    );
    contains(
        message(&all(Connected, Error, Connected)),
        &[
            "way back",
            "10.1.1.1 answers",
            "reverse-path filter of tunl0",
        ],
    );
    contains(
        message(&all(Error, Error, Error)),
        &[
            "neither over vx-submariner, to 240.30.1.11, nor by the CNI, at 10.1.1.1",
            "172.30.1.11",
        ],
    );
}

#[test]
fn a_verdict_is_told_once_it_has_held_for_two_seconds_and_its_end_at_once() {
    let mut s = worker();
    tell(&mut s, &all(Connected, Connected, Connected), 10);
    assert_eq!(s.deadline(), None);
    // The pings that fail together are not found out in the same moment.
    tell(&mut s, &all(Connected, Error, Connected), 1_000);
    assert_eq!(s.deadline(), Some(at(3_000)));
    tell(&mut s, &all(Error, Error, Connected), 1_500);
    s.apply(Input::Tick, at(3_499));
    assert_eq!(said(&s), []);
    s.apply(Input::Tick, at(3_500));
    assert_eq!(said(&s)[0].0, "TunnelToGatewayDead");
    assert_eq!(s.deadline(), None);
    // Nor do they come back in the same moment.
    tell(&mut s, &all(Connected, Error, Connected), 5_000);
    tell(&mut s, &all(Connected, Connected, Connected), 5_200);
    assert_eq!((said(&s), s.deadline()), (vec![], None));
    // The same again later is no news that waits.
    tell(&mut s, &all(Connected, Error, Error), 6_000);
    tell(&mut s, &all(Connected, Error, Error), 7_900);
    s.apply(Input::Tick, at(8_000));
    assert_eq!(said(&s)[0].0, "ReturnPathDead");
}

#[test]
fn what_was_found_out_of_another_gateway_or_address_is_not_told() {
    let mut s = worker();
    assert!(after(&mut s, &all(Connected, Error, Error), 10).is_some());
    let mut moved = s.clone();
    let other = endpoint("east", "third", "172.30.1.13", &["10.1.0.0/16"]);
    moved.apply(
        Input::Endpoints(Event::Applied(other.name.clone(), Ok(other))),
        at(3_000),
    );
    assert_eq!(said(&moved), []);
    s.apply(
        Input::Host(Arc::new(host_with_cni("172.30.1.12", "10.1.2.9"))),
        at(3_000),
    );
    assert_eq!(said(&s), []);
}

#[test]
fn a_gateway_that_never_answers_pings_is_not_dead_while_another_cluster_answers_through_it() {
    let mut s = worker();
    let west = Target {
        endpoint: "west-cable".into(),
        family: Family::V4,
        cluster: "west".parse().unwrap(),
        address: "10.2.1.1".parse().unwrap(),
        source: None,
        way: Way::Cluster,
    };
    let results = |s: &State, received: u64, status| -> Input {
        let targets = own(s).into_values();
        let silent = Report {
            received,
            ..report(Error)
        };
        let own = targets.map(|t| (t, silent.clone()));
        Input::Health(own.chain([(west.clone(), report(status))]).collect())
    };
    for (received, status, wanted) in [
        (0, Connected, None),
        (1, Connected, Some("GatewayUnreachable")),
        (0, Error, Some("GatewayUnreachable")),
    ] {
        let input = results(&s, received, status);
        s.apply(input, at(10));
        s.apply(Input::Tick, at(3_000));
        assert_eq!(
            said(&s).first().map(|s| s.0),
            wanted,
            "{received} {status:?}"
        );
    }
}

#[test]
fn a_gateway_that_stops_to_answer_is_not_dead_if_another_cluster_answers_through_it_since() {
    let west = Target {
        endpoint: "west-cable".into(),
        family: Family::V4,
        cluster: "west".parse().unwrap(),
        address: "10.2.1.1".parse().unwrap(),
        source: None,
        way: Way::Cluster,
    };
    // Silent since 5 s and 6 s: what was sent in between may have been lost with the second.
    for (answered, status, wanted) in [
        (None, Connected, Some("GatewayUnreachable")),
        (Some(4_000), Connected, Some("GatewayUnreachable")),
        (Some(5_500), Connected, Some("GatewayUnreachable")),
        (Some(6_001), Connected, None),
        (Some(6_001), Error, Some("GatewayUnreachable")),
    ] {
        let mut s = worker();
        let own = own(&s).into_values().map(|t| {
            let since = if t.way == Way::Round { 6_000 } else { 5_000 };
            let silent = Report {
                silent: Some(at(since)),
                ..report(Error)
            };
            (t, silent)
        });
        let other = Report {
            answered: answered.map(at),
            ..report(status)
        };
        let results = own.chain([(west.clone(), other)]).collect();
        s.apply(Input::Health(results), at(9_000));
        s.apply(Input::Tick, at(12_000));
        let told = said(&s).first().map(|s| s.0);
        assert_eq!(told, wanted, "{answered:?} {status:?}");
    }
}

#[test]
fn each_family_is_judged_by_itself() {
    let mut host = host_with_cni("172.30.1.12", CNI);
    host.addresses.insert(address("eth0", "fd00:30:1::1:12/64"));
    let mut s = with(WORKER, host, &["10.1.1.1"]);
    s.settings.cluster_cidrs.push(net("fd00:1::/48"));
    let mut both = gateway(&["10.1.1.1"]);
    both.private_ips.push("fd00:30:1::1:11".parse().unwrap());
    s.apply(
        Input::Endpoints(Event::Applied(both.name.clone(), Ok(both))),
        at(2),
    );
    let mut nodes = Input::Nodes(nodes());
    if let Input::Nodes(Event::Reset(nodes)) = &mut nodes {
        for (name, last) in [(WORKER, 12), (GATEWAY, 11)] {
            let node = nodes.get_mut(name).unwrap().as_mut().unwrap();
            node.internal_ips
                .push(format!("fd00:30:1::1:{last}").parse().unwrap());
        }
    }
    s.apply(nodes, at(3));
    let targets = s.plan().health;
    let of = |family| targets.iter().filter(move |t| t.family == family);
    assert_eq!((of(Family::V4).count(), of(Family::V6).count()), (3, 1));
    let results = targets.iter().map(|t| {
        let status = if t.family == Family::V6 {
            Error
        } else {
            Connected
        };
        (t.clone(), report(status))
    });
    s.apply(Input::Health(results.collect()), at(10));
    s.apply(Input::Tick, at(3_000));
    let said = said(&s);
    assert_eq!(said.len(), 1);
    assert!(
        said[0].1.contains("IPv6 way out, over vx-submariner-6"),
        "{said:?}"
    );
    assert!(said[0].1.contains("fd00:100:100::1:11"), "{said:?}");
}

#[test]
fn the_ping_that_comes_back_by_the_cni_keeps_its_address_and_others_do_not_pass_for_it() {
    let s = worker();
    let plan = s.plan();
    let rules = &table_of(&plan).chains["source"].rules;
    let keeps = |rule: &&Rule| rule.comment.contains("self-test");
    let rule = rules.iter().find(keeps).unwrap();
    let source = Statement::Match {
        field: strait_host::nft::Field::Source(Family::V4),
        mask: None,
        negated: false,
        value: Value::Ip(CNI.parse().unwrap()),
    };
    assert!(rule.statements.contains(&source), "{rule:?}");
    assert_eq!(
        rule.statements.last(),
        Some(&Statement::SnatToSelf(Family::V4))
    );
    let flow = |src: &str, dst: &str, reply_dst: &str| Flow {
        tcp: false,
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        reply_src: dst.parse().unwrap(),
        reply_dst: reply_dst.parse().unwrap(),
    };
    let flows = plan.flows.unwrap();
    assert!(flows.wrong(&flow(CNI, INNER, "240.30.1.12")), "masqueraded");
    assert!(!flows.wrong(&flow(CNI, INNER, CNI)));
    assert!(!flows.wrong(&flow("240.30.1.12", INNER, "240.30.1.12")));
    assert!(!flows.wrong(&flow(CNI, "10.1.1.1", "10.1.1.1")), "not ours");
    let mut off = s;
    off.settings.self_test = false;
    let plan = off.plan();
    assert!(
        !table_of(&plan).chains["source"]
            .rules
            .iter()
            .any(|r| keeps(&r))
    );
}
