//! What Submariner left: what is taken for that, when it goes, and what is said.

use strait_host::leftovers::{Backend, Found, XtTable};
use strait_host::{Family, Rule, Vxlan};

use super::super::leftovers::Leftover;
use super::*;
use crate::Severity;

fn adopting(node: &str, host: Host) -> State {
    let mut settings = settings(node);
    settings.adopt = true;
    let mut s = State::new(settings);
    for input in [
        Input::Endpoints(endpoints()),
        Input::Nodes(nodes()),
        Input::Agents(agents()),
        Input::Host(Arc::new(host)),
        Input::Leftovers(Found::default()),
    ] {
        s.apply(input, at(0));
    }
    s
}

/// A host with an IPv6 address too.
fn dual(mut host: Host) -> Host {
    host.addresses.insert(address("eth0", "fd00:30:1::1:12/64"));
    host.routes.insert(route("::/0", "fd00:30:1::1", "eth0"));
    host
}

fn dual_state(host: Host) -> State {
    let mut settings = settings(WORKER);
    settings.cluster_cidrs.push(net("fd10:101::/48"));
    let mut s = State::new(settings);
    for input in [
        Input::Endpoints(endpoints()),
        Input::Nodes(nodes()),
        Input::Agents(agents()),
        Input::Host(Arc::new(host)),
    ] {
        s.apply(input, at(0));
    }
    s
}

fn going(state: &State) -> Vec<String> {
    let plan = state.plan();
    plan.leftovers.iter().map(ToString::to_string).collect()
}

fn rule(priority: u32, table: u32, protocol: u8) -> Rule {
    Rule {
        family: Family::V4,
        priority,
        from: None,
        to: None,
        link: None,
        mark: None,
        table,
        protocol,
    }
}

fn by(table: u32, dst: &str, dev: &str, via: Option<&str>, protocol: u8) -> Route {
    // As a gateway's have it.
    let src = via.is_none().then(|| "10.1.2.1".parse().unwrap());
    let hops = vec![Hop {
        dev: Some(dev.into()),
        via: via.map(|ip| ip.parse().unwrap()),
        onlink: false,
    }];
    Route {
        table,
        dst: net(dst),
        metric: 0,
        protocol,
        kind: RouteKind::Unicast { hops, src },
    }
}

fn table(name: &str) -> XtTable {
    XtTable {
        backend: Backend::Legacy,
        family: Family::V4,
        name: name.into(),
    }
}

fn found(chains: &[(&str, &[&str])]) -> Found {
    let chains = chains.iter().map(|(name, all)| {
        let all = all.iter().map(|chain| (*chain).to_owned()).collect();
        (table(name), all)
    });
    Found {
        chains: chains.collect(),
        ..Found::default()
    }
}

/// A worker on which upstream's agent ran, first as a gateway's.
fn worker() -> Host {
    let mut host = host_with_cni("172.30.1.12", "10.1.2.1");
    host.rules.extend([
        rule(150, 150, 0),
        rule(100, 100, 0),
        rule(32766, 254, 2),
        rule(150, 151, 0),
        rule(150, 150, 17),
    ]);
    host.routes.extend([
        by(254, "10.2.0.0/16", NODE_VXLAN, Some("240.30.1.11"), 4),
        by(254, "10.88.0.0/16", NODE_VXLAN, Some("240.30.1.11"), 4),
        by(254, "10.89.0.0/16", NODE_VXLAN, Some("240.30.1.11"), 17),
        by(254, "10.90.0.0/16", "eth0", Some("172.30.1.1"), 4),
        by(150, "10.88.0.0/16", "eth0", None, 4),
        by(100, "10.2.0.0/16", CABLE_VXLAN, Some("241.30.2.11"), 4),
        by(151, "10.2.0.0/16", "eth0", None, 4),
    ]);
    host
}

#[test]
fn what_has_upstreams_numbers_and_shape_goes_and_nothing_else() {
    let host = worker();
    let s = adopting(WORKER, host.clone());
    let all = [
        "route 10.2.0.0/16 in table 100 by vxlan-tunnel",
        "route 10.88.0.0/16 in table 150 by eth0",
        "route 10.88.0.0/16 in table 254 by vx-submariner",
        "IPv4 rule 100 to table 100",
        "IPv4 rule 150 to table 150",
    ];
    assert_eq!(going(&s), all);
    assert_eq!(
        s.plan().inherited.into_iter().collect::<Vec<_>>(),
        ["route 10.2.0.0/16 in table 254 by vx-submariner"],
        "what is wanted there takes its place"
    );
    // Somebody else uses the tables, and the rules that look them up, too.
    for (theirs, rule) in [
        (by(150, "0.0.0.0/0", "eth0", Some("172.30.1.1"), 3), all[4]),
        (by(150, "10.88.0.0/24", "eth0", None, 17), all[4]),
        (
            by(100, "10.88.0.0/24", "eth0", Some("172.30.1.1"), 4),
            all[3],
        ),
    ] {
        let mut host = host.clone();
        host.routes.insert(theirs);
        let mut left = all.to_vec();
        left.retain(|what| *what != rule);
        assert_eq!(going(&adopting(WORKER, host)), left);
    }
}

#[test]
fn nothing_goes_before_what_replaces_it_is_wanted_and_that_is_said() {
    let waits = |s: &State| {
        assert_eq!(going(s), [] as [&str; 0]);
        condition(&s.plan(), "SubmarinerLeftovers")
            .unwrap()
            .message
            .clone()
    };
    // The gateway has no cable yet.
    let mut s = adopting(GATEWAY, worker());
    assert!(waits(&s).contains("it goes once there is a way of ours to each remote cluster"));
    let mut host = worker();
    host.links.insert(CABLE_VXLAN.into(), link(LinkKind::Veth));
    s.apply(Input::Host(Arc::new(host)), at(1));
    assert!(!going(&s).is_empty());
    // There is no gateway: upstream's way may still carry.
    let mut s = adopting(WORKER, worker());
    s.apply(Input::Endpoints(Event::Reset([].into())), at(1));
    s.apply(Input::Tick, at(60_000));
    assert!(waits(&s).contains("it goes once this cluster has a gateway"));
    // Nobody asked for it.
    let mut s = state(WORKER, worker());
    s.apply(
        Input::Leftovers(found(&[("nat", &["SUBMARINER-POSTROUTING"])])),
        at(1),
    );
    let said = waits(&s);
    assert!(said.contains("`strait route-agent --adopt` removes it"));
    assert!(said.contains("chain SUBMARINER-POSTROUTING of iptables-legacy -t nat"));
    let severity = condition(&s.plan(), "SubmarinerLeftovers")
        .unwrap()
        .severity;
    assert_eq!(severity, Severity::Degraded);
}

#[test]
fn what_comes_back_is_another_agents_and_gets_time() {
    let mut s = adopting(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    let nat = found(&[("nat", &["SUBMARINER-POSTROUTING"])]);
    assert!(condition(&s.plan(), "SubmarinerLeftovers").is_none());
    s.apply(Input::Leftovers(nat.clone()), at(1_000));
    let plan = s.plan();
    let said = &condition(&plan, "ForeignAgent").unwrap().message;
    assert!(said.contains("chain SUBMARINER-POSTROUTING"), "{said}");
    assert!(plan.leftovers.is_empty(), "not at once");
    assert_eq!(s.deadline(), Some(at(31_000)));
    s.apply(Input::Tick, at(31_000));
    assert_eq!(going(&s).len(), 1);
    s.apply(Input::Leftovers(Found::default()), at(31_100));
    assert!(condition(&s.plan(), "ForeignAgent").is_some());
    s.apply(Input::Tick, at(301_000));
    assert!(condition(&s.plan(), "ForeignAgent").is_none());
    assert_eq!(
        s.plan().conditions,
        adopting(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"))
            .plan()
            .conditions
    );
}

#[test]
fn routes_and_rules_that_come_back_are_another_agents_too() {
    let said = |s: &State| condition(&s.plan(), "ForeignAgent").map(|c| c.message.clone());
    // What was there when we came is left; that some of it goes is no news.
    let mut s = adopting(WORKER, worker());
    assert_eq!(said(&s), None);
    s.apply(
        Input::Host(Arc::new(host_with_cni("172.30.1.12", "10.1.2.1"))),
        at(1_000),
    );
    assert_eq!(said(&s), None);
    // What only looks so, and what a Submariner gateway writes, says nothing of a route agent.
    let mut others = host_with_cni("172.30.1.12", "10.1.2.1");
    let via = |table, dst: &str, dev: &str| by(table, dst, dev, Some("172.30.1.1"), 4);
    others.routes.extend([
        via(150, "10.90.0.0/16", "eth0"),
        via(254, "10.2.0.0/16", "eth0"),
        by(100, "10.2.0.0/16", CABLE_VXLAN, Some("241.30.2.11"), 4),
    ]);
    others.rules.insert(rule(100, 100, 0));
    s.apply(Input::Host(Arc::new(others.clone())), at(2_000));
    assert_eq!(said(&s), None);
    for (back, name) in [
        (
            by(254, "10.2.0.0/16", NODE_VXLAN, Some("240.30.1.11"), 4),
            "route 10.2.0.0/16 in table 254 by vx-submariner",
        ),
        (
            by(150, "10.2.0.0/16", "eth0", None, 4),
            "route 10.2.0.0/16 in table 150 by eth0",
        ),
    ] {
        let mut s = s.clone();
        let mut host = others.clone();
        host.routes.insert(back);
        s.apply(Input::Host(Arc::new(host)), at(3_000));
        let message = said(&s).unwrap();
        assert!(message.contains(name), "{message}");
        assert_eq!(going(&s), [] as [&str; 0], "not at once");
        s.apply(Input::Tick, at(33_000));
        assert!(!going(&s).is_empty());
        s.apply(Input::Tick, at(303_000));
        assert_eq!(said(&s), None);
    }
    let mut host = host_with_cni("172.30.1.12", "10.1.2.1");
    host.rules.insert(rule(150, 150, 0));
    s.apply(Input::Host(Arc::new(host)), at(3_000));
    let message = said(&s).unwrap();
    assert!(message.contains("IPv4 rule 150 to table 150"), "{message}");
}

#[test]
fn globalnets_and_what_a_dropping_legacy_firewall_needs_stay() {
    let mut all = found(&[
        ("nat", &["SUBMARINER-GN-EGRESS", "SUBMARINER-POSTROUTING"]),
        ("filter", &["SUBMARINER-FORWARD", "SUBMARINER-INPUT"]),
        ("mangle", &["SUBMARINER-POSTROUTING", "SUBMARINER-MINE"]),
    ]);
    let dropping = BTreeSet::from(["FORWARD".to_owned()]);
    all.dropping.insert(table("filter"), dropping);
    all.sets.insert("SUBMARINER-LOCALCIDRS".into());
    let mut s = adopting(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    s.apply(Input::Leftovers(all), at(0));
    s.apply(Input::Tick, at(30_000));
    let chain = |table: &str, name: &str| Leftover::Chain(self::table(table), name.into());
    assert_eq!(
        s.plan().leftovers,
        [
            chain("filter", "SUBMARINER-INPUT"),
            chain("mangle", "SUBMARINER-POSTROUTING"),
            Leftover::Set("SUBMARINER-LOCALCIDRS".into())
        ]
    );
    let plan = s.plan();
    let said = &condition(&plan, "SubmarinerLeftovers").unwrap().message;
    for part in [
        "Globalnet hangs on it (SUBMARINER-GN-EGRESS)",
        "iptables-legacy -t filter -I FORWARD -o vx-submariner -j ACCEPT",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_predecessors_device_keeps_the_ethernet_address_that_others_have_learned() {
    let device = |mac, alias: Option<&str>| Link {
        mac: Some(Mac(mac)),
        alias: alias.map(str::to_owned),
        ..link(LinkKind::Vxlan(Vxlan {
            vni: 100,
            port: 4800,
            local: None,
            remote: None,
            learning: false,
        }))
    };
    let learned = [0xba, 1, 2, 3, 4, 5];
    let derived = [2, 0x64, 172, 30, 1, 12];
    let mac = |s: &State| {
        let plan = s.plan();
        let object = plan.account.unwrap().object();
        let published = object.annotations["strait.io/vtep-mac"].clone();
        let mac = plan.wanted.links.get().unwrap()[NODE_VXLAN].mac.unwrap();
        assert_eq!(published, mac.to_string());
        mac.0
    };
    let with = |device: Link| {
        let mut host = host_with_cni("172.30.1.12", "10.1.2.1");
        host.links.insert(NODE_VXLAN.into(), device);
        host
    };
    let mut s = state(WORKER, with(device(learned, None)));
    assert_eq!(mac(&s), learned);
    s.apply(
        Input::Host(Arc::new(with(device(learned, Some("strait"))))),
        at(1),
    );
    assert_eq!(mac(&s), learned, "it is ours by now");
    // After a restart, the object remembers.
    let mut s = state(WORKER, with(device(learned, Some("strait"))));
    assert_eq!(mac(&s), derived);
    let own = AgentInfo {
        ours: true,
        vtep_mac: Some(learned),
        ..AgentInfo::default()
    };
    s.apply(Input::Agents(Event::Applied(WORKER.into(), Ok(own))), at(1));
    assert_eq!(mac(&s), learned);
    // Each of two devices has its own.
    let other = [0xba, 9, 9, 9, 9, 9];
    let mut host = dual(with(device(learned, None)));
    host.links.insert(NODE_VXLAN_6.into(), device(other, None));
    let macs = |s: &State| {
        let links = s.plan().wanted.links.get().unwrap().clone();
        let macs = [NODE_VXLAN, NODE_VXLAN_6].map(|name| links[name].mac.unwrap().0);
        let object = s.plan().account.unwrap().object();
        (macs, AgentInfo::parse(&object).unwrap())
    };
    let own = AgentInfo {
        ours: true,
        vtep_mac: Some(learned),
        vtep_mac_6: Some(other),
    };
    let agents = |own: &AgentInfo| Event::Applied(WORKER.into(), Ok(own.clone()));
    let mut s = dual_state(host);
    assert_eq!(macs(&s), ([learned, other], own.clone()));
    s = dual_state(dual(host_with_cni("172.30.1.12", "10.1.2.1")));
    s.apply(Input::Agents(agents(&own)), at(1));
    assert_eq!(macs(&s), ([learned, other], own), "the object remembers");
    // One that was made by us has the same as the other.
    s = dual_state(dual(with(device(learned, None))));
    let own = AgentInfo {
        ours: true,
        vtep_mac: Some(learned),
        vtep_mac_6: None,
    };
    assert_eq!(macs(&s), ([learned; 2], own.clone()));
    s.apply(Input::Agents(agents(&own)), at(1));
    assert_eq!(macs(&s), ([learned; 2], own));
    // One of our own making follows the node's address.
    let s = state(WORKER, with(device([2, 0x64, 1, 2, 3, 4], None)));
    assert_eq!(mac(&s), derived);
}
