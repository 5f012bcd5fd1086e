//! What the RouteAgent object says of health checks.

use strait_api::gateway::ConnectionStatus;
use strait_api::route_agent::{RemoteEndpoint, RouteAgentStatus};

use strait_host::Family;

use super::*;
use crate::Severity;
use crate::health::{Report, Rtt, Target, Way};

fn remote(name: &str, subnets: &[&str], health: &[&str]) -> Endpoint {
    let mut e = endpoint(name, "x", "172.30.2.11", subnets);
    e.health_check_ips = health.iter().map(|ip| ip.parse().unwrap()).collect();
    e
}

fn with_west(node: &str, subnets: &[&str], health: &[&str]) -> State {
    let mut s = state(node, host_with_cni("172.30.1.12", "10.1.2.1"));
    let west = remote("west", subnets, health);
    s.apply(
        Input::Endpoints(Event::Applied(west.name.clone(), Ok(west))),
        at(1),
    );
    s
}

fn worker() -> State {
    with_west(WORKER, &["10.2.0.0/16"], &["10.2.1.1"])
}

fn told(s: &State) -> Vec<RemoteEndpoint> {
    let object = s.plan().account.unwrap().object();
    let status: RouteAgentStatus = object.section("status").unwrap();
    status.remote_endpoints
}

fn report(status: ConnectionStatus, message: &str) -> Report {
    let ms = Duration::from_millis(2);
    Report {
        status,
        message: message.to_owned(),
        rtt: Some(Rtt {
            last: ms,
            min: ms,
            average: ms,
            max: ms,
            std_dev: Duration::ZERO,
        }),
        sent: 9,
        received: 1,
        answered: None,
        silent: None,
    }
}

fn results(s: &State, report: &Report) -> Input {
    let targets = s.plan().health.into_iter();
    Input::Health(targets.map(|t| (t, report.clone())).collect())
}

#[test]
fn a_worker_pings_other_gateways_and_tells_what_comes_of_it() {
    let mut s = worker();
    let target = Target {
        endpoint: "west-cable".into(),
        family: Family::V4,
        cluster: "west".parse().unwrap(),
        address: "10.2.1.1".parse().unwrap(),
        source: None,
        way: Way::Cluster,
    };
    assert_eq!(s.plan().health, BTreeSet::from([target]));
    let first = told(&s).remove(0);
    assert_eq!(first.status, ConnectionStatus::Connecting);
    assert_eq!(
        (first.status_message.as_str(), first.latency_rtt),
        ("", None)
    );
    s.apply(results(&s, &report(ConnectionStatus::Connected, "")), at(2));
    let connected = told(&s).remove(0);
    assert_eq!(connected.status, ConnectionStatus::Connected);
    assert_eq!(connected.latency_rtt.unwrap().average, "2ms");
    assert!(condition(&s.plan(), "RemoteUnreachable").is_none());
    s.apply(
        results(&s, &report(ConnectionStatus::Error, "Failed")),
        at(3),
    );
    let error = told(&s).remove(0);
    assert_eq!(error.status, ConnectionStatus::Error);
    assert_eq!(
        (error.status_message.as_str(), error.latency_rtt),
        ("Failed", None)
    );
    let plan = s.plan();
    let unreachable = condition(&plan, "RemoteUnreachable").unwrap();
    assert_eq!(unreachable.severity, Severity::Degraded);
    assert_eq!(
        unreachable.message,
        "the IPv4 way to cluster west does not work: Failed"
    );
}

#[test]
fn results_of_another_address_or_endpoint_say_nothing() {
    let mut s = worker();
    s.apply(
        results(&s, &report(ConnectionStatus::Error, "Failed")),
        at(2),
    );
    let moved = remote("west", &["10.2.0.0/16"], &["10.2.1.99"]);
    s.apply(
        Input::Endpoints(Event::Applied(moved.name.clone(), Ok(moved))),
        at(3),
    );
    assert_eq!(told(&s)[0].status, ConnectionStatus::Connecting);
    assert!(condition(&s.plan(), "RemoteUnreachable").is_none());
}

#[test]
fn who_does_not_ping_says_why() {
    let mut disabled = worker();
    disabled.settings.health_check = false;
    let gateway = with_west(GATEWAY, &["10.2.0.0/16"], &["10.2.1.1"]);
    let without = with_west(WORKER, &["10.2.0.0/16"], &[]);
    for (s, why) in [
        (disabled, "Health check is not enabled"),
        (gateway, "Health check is not performed on gateway nodes"),
        (without, "Health checker IP is not configured"),
    ] {
        assert!(s.plan().health.is_empty(), "{why}");
        let none = told(&s).remove(0);
        assert_eq!(
            (none.status, none.status_message.as_str()),
            (ConnectionStatus::None, why)
        );
    }
}

/// That this cluster's gateway publishes these addresses for health checks: it has a CNI address.
fn gateway_with(health: &[&str]) -> Input {
    let mut e = endpoint("east", GATEWAY, "172.30.1.11", &["10.1.0.0/16"]);
    e.health_check_ips = health.iter().map(|ip| ip.parse().unwrap()).collect();
    Input::Endpoints(Event::Applied(e.name.clone(), Ok(e)))
}

#[test]
fn a_host_that_no_other_cluster_can_answer_does_not_say_that_they_do_not_answer() {
    let mut s = worker();
    s.apply(
        results(&s, &report(ConnectionStatus::Error, "Failed")),
        at(2),
    );
    s.apply(Input::Host(Arc::new(bare_host("172.30.1.12"))), at(3));
    assert!(s.plan().health.is_empty());
    assert!(condition(&s.plan(), "RemoteUnreachable").is_none());
    let none = told(&s).remove(0);
    assert_eq!(none.status, ConnectionStatus::None);
    assert!(none.status_message.contains("CNI address"), "{none:?}");
    // The gateway lends its own.
    s.apply(gateway_with(&["10.1.1.1"]), at(4));
    assert_eq!(s.plan().health.len(), 1);
    assert_eq!(told(&s)[0].status, ConnectionStatus::Error);
}

#[test]
fn an_address_outside_the_remote_subnets_is_not_pinged() {
    // 10.1.0.0/16 is this cluster's, so that it is not routed to the other one.
    for address in ["8.8.8.8", "224.0.0.1", "10.1.2.1", "127.0.0.1"] {
        let s = with_west(WORKER, &["10.2.0.0/16", "10.1.0.0/16"], &[address]);
        assert!(s.plan().health.is_empty(), "{address}");
        let error = told(&s).remove(0);
        assert_eq!(error.status, ConnectionStatus::Error);
        assert!(error.status_message.contains(address), "{error:?}");
    }
}

#[test]
fn there_is_one_entry_for_each_family_that_both_clusters_have() {
    let mut s = with_west(
        WORKER,
        &["10.2.0.0/16", "fd00:2::/48"],
        &["10.2.1.1", "fd00:2::1"],
    );
    assert_eq!((told(&s).len(), s.plan().health.len()), (1, 1));
    s.settings.cluster_cidrs.push(net("fd00:1::/48"));
    s.apply(gateway_with(&["fd00:1::1"]), at(1));
    assert_eq!((told(&s).len(), s.plan().health.len()), (2, 2));
    let mut half = results(&s, &report(ConnectionStatus::Error, "Failed"));
    if let Input::Health(results) = &mut half {
        results.retain(|target, _| target.family == Family::V6);
    }
    s.apply(half, at(2));
    let statuses: Vec<ConnectionStatus> = told(&s).iter().map(|e| e.status).collect();
    assert_eq!(
        statuses,
        [ConnectionStatus::Connecting, ConnectionStatus::Error]
    );
    s.settings.health_check = false;
    assert_eq!(told(&s).len(), 2);
}
