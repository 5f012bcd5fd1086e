//! What the Gateway object says of health checks.

use strait_api::gateway::Connection;

use super::*;
use crate::health::{Report, Rtt};

fn with_west(health: &str, backend: &str) -> State {
    let mut s = state();
    let mut west = remote("west", "west", backend, "10.2.0.0/16");
    west.object.content["spec"]["healthCheckIP"] = health.into();
    west.parsed = Endpoint::parse(&west.object);
    arrive(&mut s, &west);
    settle_local(&mut s);
    s
}

fn connection(s: &State) -> Connection {
    let status: GatewayStatus = s.plan().gateway.unwrap().section("status").unwrap();
    status.connections[0].clone()
}

fn hear(s: &mut State, status: ConnectionStatus, message: &str) {
    let ms = Duration::from_millis;
    let report = Report {
        status,
        message: message.to_owned(),
        rtt: Some(Rtt {
            last: ms(4),
            min: ms(1),
            average: ms(2),
            max: ms(5),
            std_dev: ms(1),
        }),
        sent: 9,
        received: 3,
        answered: None,
        silent: None,
    };
    let targets = s.plan().health.into_iter();
    let results = targets.map(|t| (t, report.clone())).collect();
    s.apply(Input::Health(results), at(2));
}

#[test]
fn a_connection_is_what_pings_say_of_it_and_the_cable_until_they_do() {
    let mut s = with_west("10.2.1.1", "vxlan");
    assert_eq!(s.plan().health.len(), 1);
    let first = connection(&s);
    assert_eq!(first.status, ConnectionStatus::Connected);
    assert_eq!(first.latency_rtt, None);
    hear(&mut s, ConnectionStatus::Connecting, "");
    assert_eq!(connection(&s).status, ConnectionStatus::Connected);
    hear(&mut s, ConnectionStatus::Error, "Failed");
    let error = connection(&s);
    assert_eq!(
        (error.status, error.status_message.as_str()),
        (ConnectionStatus::Error, "Failed")
    );
    assert_eq!(error.using_ip, "172.30.2.11");
    assert_eq!(error.latency_rtt.unwrap().max, "5ms");
    let conditions = s.plan().conditions;
    assert!(conditions.iter().any(|c| c.name == "RemoteUnreachable"));
    hear(&mut s, ConnectionStatus::Connected, "");
    let healed = connection(&s);
    assert_eq!(
        (healed.status, healed.status_message.as_str()),
        (ConnectionStatus::Connected, "")
    );
    assert_eq!(healed.latency_rtt.unwrap().last, "4ms");
    assert_eq!(healed.endpoint.health_check_ip, "10.2.1.1");
    assert!(s.plan().conditions.is_empty(), "{:?}", s.plan().conditions);
}

#[test]
fn without_a_cable_pings_change_nothing() {
    let mut s = with_west("10.2.1.1", "libreswan");
    let before = connection(&s);
    assert_eq!(before.status, ConnectionStatus::Error);
    hear(&mut s, ConnectionStatus::Connected, "");
    assert_eq!(connection(&s), before);
}

#[test]
fn nothing_is_pinged_where_there_is_no_address_or_no_wish() {
    let mut s = with_west("10.2.1.1", "vxlan");
    s.settings.health_check = false;
    assert!(s.plan().health.is_empty());
    let s = with_west("", "vxlan");
    assert!(s.plan().health.is_empty());
    assert_eq!(connection(&s).status, ConnectionStatus::Connected);
    let s = with_west("198.51.100.1", "vxlan");
    assert!(s.plan().health.is_empty(), "not the other cluster's");
    let error = connection(&s);
    assert_eq!(error.status, ConnectionStatus::Error);
    assert!(error.status_message.contains("198.51.100.1"));
}

#[test]
fn a_gateway_that_no_other_can_answer_does_not_say_that_they_do_not_answer() {
    let mut s = with_west("10.2.1.1", "vxlan");
    hear(&mut s, ConnectionStatus::Error, "Failed");
    let mut routed = host();
    routed.addresses.retain(|address| address.link != "cni0");
    s.apply(Input::Host(Arc::new(routed)), at(3));
    assert!(s.plan().health.is_empty());
    assert_eq!(connection(&s).status, ConnectionStatus::Connected);
    let names: Vec<&str> = s.plan().conditions.iter().map(|c| c.name).collect();
    assert_eq!(names, ["CniInterfaceNotFound"]);
    s.apply(Input::Host(Arc::new(host())), at(4));
    assert_eq!(s.plan().health.len(), 1);
}
