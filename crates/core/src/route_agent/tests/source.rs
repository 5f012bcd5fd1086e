//! Source addresses: the CNI address, what stands in for it, and connections with a binding of before.

use super::*;
use crate::Severity;
use crate::route_agent::flows::Flow;

#[test]
fn a_worker_without_a_cni_address_borrows_the_gateways_and_says_so() {
    let mut s = state(WORKER, bare_host("172.30.1.12"));
    let before = s.plan();
    assert_eq!(
        host_source(&before),
        Some("240.30.1.12".parse().unwrap()),
        "its own address in the nodes' VXLAN"
    );
    let said = condition(&before, "CniInterfaceNotFound").unwrap();
    assert_eq!(said.severity, Severity::Degraded);
    for part in [
        "Error discovering the CNI interface",
        "10.1.0.0/16",
        "eth0 [172.30.1.12/24]",
    ] {
        assert!(said.message.contains(part), "{}", said.message);
    }
    // It appears, changes, goes: each is one more event.
    for (host, source) in [
        (host_with_cni("172.30.1.12", "10.1.2.1"), "10.1.2.1"),
        (host_with_cni("172.30.1.12", "10.1.7.1"), "10.1.7.1"),
        (bare_host("172.30.1.12"), "240.30.1.12"),
    ] {
        s.apply(Input::Host(Arc::new(host)), at(1));
        let plan = s.plan();
        assert_eq!(host_source(&plan), Some(source.parse().unwrap()));
        assert_eq!(
            routes(&plan),
            routes(&before),
            "pods' routes do not depend on it"
        );
    }
}

#[test]
fn a_gateway_without_a_cni_address_lets_no_host_through_halfway_and_pods_as_ever() {
    let plan = state(GATEWAY, bare_host("172.30.1.11")).plan();
    let rules = &table_of(&plan).chains["source"].rules;
    let (last, others) = rules.split_last().unwrap();
    assert_eq!(last.statements.last(), Some(&Statement::Drop), "{last:?}");
    assert_eq!(others.len(), 2, "pods' own, there and back: {others:?}");
    assert!(condition(&plan, "CniInterfaceNotFound").is_some());
    let wrong = |src: &str, reply: &str| {
        plan.flows.as_ref().unwrap().wrong(&Flow {
            tcp: false,
            src: src.parse().unwrap(),
            dst: "10.2.0.1".parse().unwrap(),
            reply_src: "10.2.0.1".parse().unwrap(),
            reply_dst: reply.parse().unwrap(),
        })
    };
    assert!(wrong("240.30.1.12", "240.30.1.12") && wrong("172.30.1.11", "172.30.1.11"));
    assert!(!wrong("10.1.2.5", "10.1.2.5"));
    // Once there is one, nothing is dropped.
    let plan = state(GATEWAY, host_with_cni("172.30.1.11", "10.1.1.1")).plan();
    let rules = &table_of(&plan).chains["source"].rules;
    let drop = |r: &strait_host::nft::Rule| r.statements.contains(&Statement::Drop);
    assert!(!rules.iter().any(drop), "{rules:?}");
}

#[test]
fn the_cni_address_is_one_of_this_node_on_a_link_that_is_up() {
    let mut host = bare_host("172.30.1.12");
    for (name, kind, up, ip) in [
        ("veth1", LinkKind::Veth, true, "10.1.2.9/24"),
        ("br0", LinkKind::Bridge, true, "10.1.2.8/24"),
        (
            "tunl0",
            LinkKind::Other("ipip".into()),
            false,
            "10.1.2.7/32",
        ),
        ("cni0", LinkKind::Bridge, true, "10.1.2.1/24"),
    ] {
        host.links.insert(name.into(), Link { up, ..link(kind) });
        host.addresses.insert(address(name, ip));
    }
    let mut s = state(WORKER, host.clone());
    assert_eq!(
        host_source(&s.plan()),
        Some("10.1.2.1".parse().unwrap()),
        "a known link goes first, one that is down never"
    );
    host.links.remove("cni0");
    host.addresses.retain(|a| a.link != "cni0");
    s.apply(Input::Host(Arc::new(host.clone())), at(0));
    assert_eq!(
        host_source(&s.plan()),
        Some("10.1.2.8".parse().unwrap()),
        "then a bridge, a pod's veth last"
    );
    let other = Node {
        internal_ips: vec!["172.30.1.13".parse().unwrap(), "10.1.2.8".parse().unwrap()],
        ..Node::default()
    };
    s.apply(
        Input::Nodes(Event::Applied("other".into(), Ok(other))),
        at(0),
    );
    assert_eq!(
        host_source(&s.plan()),
        Some("10.1.2.9".parse().unwrap()),
        "never one of another node"
    );
}

#[test]
fn connections_with_a_binding_that_nothing_comes_back_to_are_told() {
    let plan = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1")).plan();
    let rules = plan.flows.unwrap();
    let wrong = |src: &str, dst: &str, reply_dst: &str| {
        let ip = |t: &str| t.parse().unwrap();
        rules.wrong(&Flow {
            tcp: false,
            src: ip(src),
            dst: ip(dst),
            reply_src: ip(dst),
            reply_dst: ip(reply_dst),
        })
    };
    assert!(
        !wrong("10.1.2.5", "10.2.0.1", "10.1.2.5"),
        "a pod with its own address"
    );
    assert!(
        wrong("10.1.2.5", "10.2.0.1", "172.30.1.12"),
        "a pod that was masqueraded"
    );
    assert!(
        !wrong("240.30.1.12", "10.2.0.1", "10.1.2.1"),
        "the host with its CNI address"
    );
    assert!(
        !wrong("240.30.1.12", "10.2.0.1", "240.30.1.12"),
        "one that began through the gateway lives on"
    );
    assert!(
        wrong("172.30.1.12", "10.2.0.1", "172.30.1.12"),
        "the host with its node address"
    );
    assert!(
        wrong("10.2.0.1", "10.1.2.5", "172.30.1.11"),
        "a remote pod that was masqueraded"
    );
    assert!(!wrong("172.30.1.12", "8.8.8.8", "172.30.1.12"), "not ours");
}

#[test]
fn connections_of_an_address_that_is_gone_are_ended_and_of_one_that_is_still_there_are_not() {
    let mut host = host_with_cni("172.30.1.12", "10.1.2.1");
    host.addresses.insert(address("tunl0", "10.1.2.9/32"));
    for (name, cni) in [(WORKER, true), (WORKER, false), (GATEWAY, false)] {
        let mut host = host.clone();
        if !cni {
            host.addresses.retain(|a| a.link != "tunl0");
        }
        let rules = state(name, host).plan().flows.unwrap();
        let ip = |t: &str| t.parse().unwrap();
        let wrong = |tcp, reply_dst: &str| {
            rules.wrong(&Flow {
                tcp,
                src: ip("172.30.1.12"),
                dst: ip("10.2.0.1"),
                reply_src: ip("10.2.0.1"),
                reply_dst: ip(reply_dst),
            })
        };
        assert_eq!(wrong(true, "10.1.2.1"), !cni, "{name}");
        assert_eq!(wrong(true, "10.1.2.9"), !cni, "{name}");
        assert_eq!(wrong(false, "10.1.2.1"), !cni, "{name}");
        assert!(
            !cni || wrong(false, "10.1.2.9"),
            "datagrams move to the new address"
        );
        assert!(wrong(true, "10.1.2.77"), "{name}: an old one");
        assert!(wrong(false, "10.1.2.77"), "{name}: an old one");

        let stranded = |local: &str, remote: &str| rules.stranded(ip(local), ip(remote));
        assert_eq!(stranded("10.1.2.9", "10.2.0.1"), !cni);
        assert!(stranded("10.1.2.77", "10.2.0.1"));
        assert!(!stranded("10.1.2.77", "8.8.8.8"), "not ours");
        assert!(!stranded("172.30.1.12", "10.2.0.1"), "the node's own");
    }
}
