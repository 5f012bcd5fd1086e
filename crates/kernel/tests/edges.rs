//! What the kernel does beside what was asked, what it refuses, and what is not ours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use ipnet::IpNet;
use nix::errno::Errno;
use serde_json::json;
use strait_host::{
    Address, Change, Family, Fdb, Hop, LinkKind, Mac, Neighbour, Owned, Route, RouteKind, Rule,
    Scope, Wanted,
};
use strait_kernel::{Failure, Kernel};
use strait_netns::Namespace;

fn apply(ns: &Namespace, changes: &[Change]) -> Vec<Failure> {
    ns.run_async(|| async { Kernel::connect().await.unwrap().apply(changes).await })
        .unwrap()
}

fn fine(ns: &Namespace, changes: &[Change]) {
    assert_eq!(apply(ns, changes), []);
}

/// The one failure of the one change.
fn refused(ns: &Namespace, change: Change) -> strait_kernel::Error {
    let mut failures = apply(ns, &[change]);
    assert_eq!(failures.len(), 1, "{failures:?}");
    failures.remove(0).error
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn address(text: &str) -> Address {
    Address {
        link: VXLAN.to_owned(),
        net: net(text),
        scope: Scope::Global,
    }
}

fn create(local: &str) -> Change {
    Change::CreateLink(VXLAN.to_owned(), vxlan(local))
}

fn unicast(dst: &str, metric: u32, hop: Hop) -> Route {
    Route {
        table: 254,
        dst: net(dst),
        metric,
        protocol: ROUTES,
        kind: RouteKind::Unicast {
            hops: vec![hop],
            src: None,
        },
    }
}

fn hop(dev: &str, via: &str, onlink: bool) -> Hop {
    Hop {
        dev: Some(dev.to_owned()),
        via: Some(via.parse().unwrap()),
        onlink,
    }
}

#[test]
fn a_link_is_never_up_without_its_mark() {
    let ns = namespace();
    let mut monitor = ns
        .command("ip")
        .args(["-d", "-o", "monitor", "link"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs ip");
    std::thread::sleep(std::time::Duration::from_millis(200));
    fine(&ns, &[create("192.0.2.10")]);
    fine(&ns, &[Change::RemoveLink(VXLAN.to_owned())]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    monitor.kill().unwrap();
    let mut told = String::new();
    monitor
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    monitor.wait().unwrap();
    let of_ours: Vec<&str> = told.lines().filter(|l| l.contains(VXLAN)).collect();
    let up = |line: &&&str| line.contains("UP");
    assert!(of_ours.iter().filter(up).count() > 0, "{told}");
    for line in of_ours.iter().filter(up) {
        assert!(line.contains("alias strait"), "{line}");
    }
}

#[test]
fn a_link_that_can_t_be_finished_is_not_left_behind() {
    let ns = namespace();
    let mut link = vxlan("192.0.2.10");
    link.alias = Some("x".repeat(300));
    let error = refused(&ns, Change::CreateLink(VXLAN.to_owned(), link));
    assert!(
        error.to_string().starts_with("mark link vx-submariner: E"),
        "{error}"
    );
    assert!(!run(&ns, "ip link").contains(VXLAN));
}

#[test]
fn the_kernel_s_own_words_reach_the_error() {
    let ns = namespace();
    run(
        &ns,
        "ip link add other type vxlan id 100 dstport 4800 local 192.0.2.10",
    );
    let error = refused(&ns, create("192.0.2.10"));
    assert_eq!(error.errno(), Some(Errno::EEXIST));
    assert_eq!(error.kind(), "kernel");
    let text = error.to_string();
    assert!(text.contains("VNI already exists"), "{text}");
}

#[test]
fn a_vtep_over_ipv6_is_made_as_ip_makes_it() {
    let ns = namespace();
    let mut link = vxlan("2001:db8::10");
    link.mtu = 1380;
    fine(&ns, &[Change::CreateLink(VXLAN.to_owned(), link)]);
    run(
        &ns,
        "ip link add theirs type vxlan id 101 dstport 4801 local 2001:db8::10 nolearning",
    );
    let data = |name: &str| {
        let mut link = json(&ns, &format!("ip -j -d link show {name}")).remove(0);
        let data = link["linkinfo"]["info_data"].as_object_mut().unwrap();
        data.remove("id");
        data.remove("port");
        data.clone()
    };
    assert_eq!(data(VXLAN), data("theirs"));
    assert_eq!(observe(&ns).links[VXLAN].mtu, 1380);
}

#[test]
fn only_vxlan_devices_are_made() {
    let ns = namespace();
    let mut link = vxlan("192.0.2.10");
    link.kind = LinkKind::Bridge;
    let error = refused(&ns, Change::CreateLink(VXLAN.to_owned(), link));
    assert_eq!(error.kind(), "unsupported");
}

#[test]
fn a_new_vtep_address_survives_the_removal_of_the_old_one() {
    let ns = namespace();
    let want = |texts: &[&str]| Wanted {
        links: links(&[(VXLAN, vxlan("192.0.2.10"))]),
        addresses: Owned::Set(texts.iter().map(|t| address(t)).collect()),
        routes: Owned::Set(BTreeSet::from([unicast(
            "10.2.0.0/16",
            0,
            hop(VXLAN, "240.0.2.1", false),
        )])),
        ..nothing()
    };
    settle(&ns, &want(&["240.0.2.10/8", "fd00:240::1/64"]));
    // The old one is the first of its prefix; the kernel would take the new one with it.
    settle(&ns, &want(&["240.0.9.9/8", "fd00:240::1/64"]));
    // IPv6 has one address at a time, whatever its prefix length.
    settle(&ns, &want(&["240.0.9.9/8", "fd00:240::1/80"]));
    let shown = run(&ns, "ip -o addr show dev vx-submariner scope global");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(
        shown.contains("240.0.9.9/8") && shown.contains("fd00:240::1/80"),
        "{shown}"
    );
    assert!(
        !shown.contains("tentative") && !shown.contains("secondary"),
        "{shown}"
    );
}

#[test]
fn an_address_of_another_scope_is_replaced() {
    let ns = namespace();
    let mut wanted = Wanted {
        links: links(&[(VXLAN, vxlan("192.0.2.10"))]),
        addresses: Owned::Set(BTreeSet::from([address("240.0.2.10/8")])),
        ..nothing()
    };
    settle(&ns, &wanted);
    let link = Address {
        scope: Scope::Link,
        ..address("240.0.2.10/8")
    };
    wanted.addresses = Owned::Set(BTreeSet::from([link]));
    settle(&ns, &wanted);
    assert!(run(&ns, "ip addr show dev vx-submariner").contains("240.0.2.10/8 scope link"));
}

#[test]
fn a_new_ethernet_address_keeps_the_neighbours() {
    let ns = namespace();
    let mut wanted = Wanted {
        links: links(&[(VXLAN, vxlan("192.0.2.10"))]),
        addresses: Owned::Set(BTreeSet::from([address("240.0.2.10/8")])),
        neighbours: Owned::Set(BTreeSet::from([Neighbour {
            link: VXLAN.to_owned(),
            ip: "240.0.2.1".parse().unwrap(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
        }])),
        ..nothing()
    };
    settle(&ns, &wanted);
    let mut link = vxlan("192.0.2.10");
    link.mac = Some(Mac([2, 0, 0x5e, 0, 0, 2]));
    wanted.links = links(&[(VXLAN, link)]);
    let changes = settle(&ns, &wanted);
    assert!(
        matches!(changes.as_slice(), [Change::ChangeLink(..)]),
        "{changes:?}"
    );
    assert!(
        run(&ns, "ip neigh show dev vx-submariner").contains("240.0.2.1 lladdr 02:00:00:00:00:01")
    );
}

#[test]
fn removing_a_route_of_ours_never_hits_another_s() {
    let ns = namespace();
    run(
        &ns,
        "ip route add 10.5.0.0/16 via 192.0.2.1 metric 10 proto 4",
    );
    run(
        &ns,
        "ip -6 route add fd05::/16 via 2001:db8::1 metric 10 proto 4",
    );
    run(
        &ns,
        "ip route add unreachable 10.6.0.0/16 metric 10 proto 181",
    );
    let before = (run(&ns, "ip route"), run(&ns, "ip -6 route"));
    let gone = [
        unicast("10.5.0.0/16", 10, hop("up0", "192.0.2.1", false)),
        unicast("fd05::/16", 10, hop("up0", "2001:db8::1", false)),
        // Ours, but of another kind, metric, table or next hop.
        unicast("10.6.0.0/16", 10, hop("up0", "192.0.2.1", false)),
        unicast("10.7.0.0/16", 10, hop("no-such-link", "192.0.2.1", false)),
        Route {
            kind: RouteKind::Unreachable,
            metric: 11,
            ..unicast("10.6.0.0/16", 11, hop("up0", "192.0.2.1", false))
        },
        Route {
            kind: RouteKind::Unreachable,
            table: 150,
            ..unicast("10.6.0.0/16", 10, hop("up0", "192.0.2.1", false))
        },
    ];
    fine(&ns, &gone.map(Change::RemoveRoute));
    assert_eq!((run(&ns, "ip route"), run(&ns, "ip -6 route")), before);
}

#[test]
fn a_route_replaces_its_like_and_says_what_it_is() {
    let ns = namespace();
    let far = unicast("10.8.0.0/16", 20, hop("up0", "203.0.113.1", true));
    let source = Route {
        kind: RouteKind::Unicast {
            hops: vec![
                hop("up0", "192.0.2.1", false),
                hop("up0", "192.0.2.2", false),
            ],
            src: Some("192.0.2.10".parse().unwrap()),
        },
        ..far.clone()
    };
    fine(&ns, &[Change::SetRoute(far.clone())]);
    let shown = json(&ns, "ip -j -d route show 10.8.0.0/16");
    assert_eq!(shown[0]["gateway"], "203.0.113.1");
    assert_eq!(shown[0]["flags"], json!(["onlink"]));
    assert!(observe(&ns).routes.contains(&far));
    fine(&ns, &[Change::SetRoute(source.clone())]);
    let shown = json(&ns, "ip -j -d route show 10.8.0.0/16");
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["prefsrc"], "192.0.2.10");
    assert_eq!(shown[0]["nexthops"].as_array().unwrap().len(), 2);
    assert!(observe(&ns).routes.contains(&source));
    fine(&ns, &[Change::RemoveRoute(source)]);
    assert_eq!(run(&ns, "ip route show 10.8.0.0/16"), "");
    // Not reachable by any address.
    let bad = unicast("10.8.0.0/16", 20, hop("up0", "203.0.113.1", false));
    let text = refused(&ns, Change::SetRoute(bad)).to_string();
    assert!(
        text.contains("set route 10.8.0.0/16 via 203.0.113.1 dev up0"),
        "{text}"
    );
    assert!(
        text.contains("ENETUNREACH") && text.contains("invalid gateway"),
        "{text}"
    );
}

#[test]
fn a_wide_rule_goes_without_the_narrow_one_in_front_of_it() {
    let ns = namespace();
    let wide = Rule {
        family: Family::V4,
        priority: 150,
        from: None,
        to: None,
        link: None,
        mark: None,
        table: 150,
        protocol: RULES,
    };
    let narrow = Rule {
        from: Some(net("10.1.0.0/16")),
        mark: Some((1, 0xff)),
        ..wide.clone()
    };
    let by_link = Rule {
        link: Some("up0".to_owned()),
        ..wide.clone()
    };
    fine(
        &ns,
        &[by_link.clone(), narrow, wide.clone()].map(Change::AddRule),
    );
    fine(&ns, &[Change::RemoveRule(wide.clone())]);
    let shown = run(&ns, "ip rule show pref 150");
    let mut lines: Vec<&str> = shown.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "150:\tfrom 10.1.0.0/16 fwmark 0x1/0xff lookup 150 proto 182",
            "150:\tfrom all iif up0 lookup 150 proto 182"
        ]
    );
    fine(&ns, &[Change::RemoveRule(by_link)]);
    // The same of another owner does not stand for ours.
    run(&ns, "ip rule add pref 150 lookup 150 protocol 4");
    fine(
        &ns,
        &[Change::AddRule(wide.clone()), Change::AddRule(wide.clone())],
    );
    assert_eq!(run(&ns, "ip rule show pref 150").lines().count(), 3);
    fine(
        &ns,
        &[Change::RemoveRule(wide.clone()), Change::RemoveRule(wide)],
    );
    let shown = run(&ns, "ip rule show pref 150");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(
        shown.contains("150:\tfrom all lookup 150 proto static"),
        "{shown}"
    );
}

#[test]
fn a_reverse_path_filter_becomes_loose_only_where_it_was_strict() {
    let ns = namespace();
    run(&ns, "sysctl -w net.ipv4.conf.up0.rp_filter=1");
    run(&ns, "sysctl -w net.ipv4.conf.up1.rp_filter=0");
    run(&ns, "sysctl -w net.ipv4.conf.all.rp_filter=0");
    let mut wanted = nothing();
    wanted.loose_reverse_path = BTreeSet::from(["up0".to_owned(), "up1".to_owned()]);
    wanted
        .sysctls
        .insert("net/ipv4/ip_forward".to_owned(), "1".to_owned());
    settle(&ns, &wanted);
    let value = |name: &str| run(&ns, &format!("sysctl -n {name}")).trim().to_owned();
    assert_eq!(value("net.ipv4.conf.up0.rp_filter"), "2");
    assert_eq!(value("net.ipv4.conf.up1.rp_filter"), "0");
    assert_eq!(value("net.ipv4.ip_forward"), "1");
    let host = observe(&ns);
    assert_eq!(host.sysctl("net/ipv4/conf/up0/rp_filter"), Some(2));
    for key in [
        "net/ipv4/conf/all/forwarding",
        "net/ipv6/conf/up1/disable_ipv6",
        "net/ipv4/conf/lo/send_redirects",
    ] {
        assert!(host.sysctl(key).is_some(), "{key}");
    }
    let absent = Change::SetSysctl("net/ipv4/conf/gone/rp_filter".to_owned(), "2".to_owned());
    assert_eq!(refused(&ns, absent).kind(), "no_sysctl");
    let bad = Change::SetSysctl("net/ipv4/conf/up0/rp_filter".to_owned(), "many".to_owned());
    assert_eq!(refused(&ns, bad).kind(), "sysctl");
}

#[test]
fn on_a_link_that_is_gone_adding_fails_and_removing_does_not() {
    let ns = namespace();
    let neighbour = Neighbour {
        link: VXLAN.to_owned(),
        ip: "240.0.2.1".parse().unwrap(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
    };
    let entry = Fdb {
        link: VXLAN.to_owned(),
        mac: Mac::ZERO,
        dst: "192.0.2.1".parse().unwrap(),
        port: None,
    };
    let route = unicast("10.2.0.0/16", 0, hop(VXLAN, "240.0.2.1", false));
    let adding = [
        Change::AddAddress(address("240.0.2.10/8")),
        Change::SetNeighbour(neighbour.clone()),
        Change::SetFdb(entry.clone()),
        Change::SetRoute(route.clone()),
        Change::ChangeLink(VXLAN.to_owned(), vxlan("192.0.2.10")),
    ];
    let failures = apply(&ns, &adding);
    assert_eq!(failures.len(), 5, "{failures:?}");
    assert!(
        failures.iter().all(|f| f.error.kind() == "no_link"),
        "{failures:?}"
    );
    fine(
        &ns,
        &[
            Change::RemoveAddress(address("240.0.2.10/8")),
            Change::RemoveNeighbour(neighbour),
            Change::RemoveFdb(entry),
            Change::RemoveRoute(route),
            Change::RemoveLink(VXLAN.to_owned()),
        ],
    );
}

#[test]
fn what_others_have_is_read_as_far_as_it_can_be_said() {
    let ns = namespace();
    run(&ns, "ip link add br0 type bridge");
    run(&ns, "ip link set up1 master br0 alias somebody");
    run(&ns, "ip tuntap add tun0 mode tun");
    run(
        &ns,
        "ip route add 10.9.0.0/16 via inet6 2001:db8::1 dev up0",
    );
    run(&ns, "ip nexthop add id 7 via 192.0.2.1 dev up0");
    run(&ns, "ip route add 10.10.0.0/16 nhid 7");
    run(
        &ns,
        "ip route add 10.11.0.0/16 dev up0 mtu 1300 advmss 1200",
    );
    run(
        &ns,
        "ip -6 route add fd11::/16 nexthop via 2001:db8::1 weight 2 nexthop via 2001:db8::2",
    );
    run(&ns, "ip rule add pref 5 oif up0 lookup 100");
    run(&ns, "ip rule add pref 6 not from 10.0.0.0/8 lookup 100");
    run(&ns, "ip rule add pref 7 ipproto tcp dport 80 lookup 100");
    run(
        &ns,
        "ip rule add pref 8 from 10.0.0.0/8 iif up0 fwmark 0x10/0xf0 lookup 100",
    );
    run(&ns, "ip rule add pref 9 from 10.0.0.0/8 goto 32766");
    run(&ns, "ip rule add pref 10 from 10.0.0.0/8 unreachable");
    run(
        &ns,
        "ip rule add pref 11 lookup main suppress_prefixlength 0",
    );
    run(&ns, "ip -6 rule add pref 12 uidrange 0-0 lookup 100");
    let host = observe(&ns);
    assert_eq!(host.links["br0"].kind, LinkKind::Bridge);
    assert_eq!(host.links["up1"].kind, LinkKind::Veth);
    assert_eq!(host.links["up1"].master.as_deref(), Some("br0"));
    assert_eq!(host.links["up1"].alias.as_deref(), Some("somebody"));
    assert_eq!(host.links["tun0"].kind, LinkKind::Tun);
    assert_eq!(
        (host.links["tun0"].up, host.links["tun0"].mac),
        (false, None)
    );
    let hops = |dst: &str| {
        host.routes
            .iter()
            .find(|r| r.dst == net(dst))
            .unwrap()
            .hops()
    };
    assert_eq!(hops("10.9.0.0/16"), [hop("up0", "2001:db8::1", false)]);
    assert_eq!(hops("10.10.0.0/16"), [hop("up0", "192.0.2.1", false)]);
    assert_eq!(hops("10.11.0.0/16").len(), 1);
    assert_eq!(hops("fd11::/16").len(), 2);
    assert!(
        host.routes.iter().all(|r| r.table != 255),
        "{:?}",
        host.routes
    );
    let ours: Vec<u32> = host
        .rules
        .iter()
        .map(|r| r.priority)
        .filter(|p| (1..100).contains(p))
        .collect();
    assert_eq!(ours, [8], "{:?}", host.rules);
    let mut links = host.rules.iter().filter_map(|r| r.link.as_deref());
    assert_eq!(links.next(), Some("up0"), "{:?}", host.rules);
}

#[test]
fn the_host_is_read_while_it_changes() {
    let ns = namespace();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                run(&ns, "ip link add churn type veth peer name churn2");
                run(&ns, "nft add table inet strait");
                run(&ns, "ip addr add 198.51.100.1/24 dev churn");
                run(&ns, "ip link del churn");
                run(&ns, "nft delete table inet strait");
            }
        });
        let result = std::panic::catch_unwind(|| {
            for _ in 0..60 {
                let host = observe(&ns);
                assert!(host.links.contains_key("up0"));
                assert!(host.addresses_of("up0").count() >= 2);
            }
        });
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}
