//! Links and what hangs on them, routes and rules: judged by iproute2.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::BTreeSet;

use common::*;
use ipnet::IpNet;
use serde_json::{Value, json};
use strait_host::{
    Address, Change, Fdb, Hop, LinkKind, Mac, Neighbour, Owned, Route, RouteKind, Rule, Scope,
    Wanted,
};
use strait_netns::Namespace;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn via(table: u32, dst: &str, metric: u32, dev: &str, via: Option<&str>) -> Route {
    Route {
        table,
        dst: net(dst),
        metric,
        protocol: ROUTES,
        kind: RouteKind::Unicast {
            hops: vec![Hop {
                dev: Some(dev.to_owned()),
                via: via.map(|v| v.parse().unwrap()),
                onlink: false,
            }],
            src: None,
        },
    }
}

fn guard(table: u32, dst: &str, kind: RouteKind) -> Route {
    Route {
        table,
        dst: net(dst),
        metric: u32::MAX,
        protocol: ROUTES,
        kind,
    }
}

fn address(link: &str, text: &str) -> Address {
    Address {
        link: link.to_owned(),
        net: net(text),
        scope: Scope::Global,
    }
}

fn worker() -> Wanted {
    let on = |ip: &str, mac| Neighbour {
        link: VXLAN.to_owned(),
        ip: ip.parse().unwrap(),
        mac: Mac([2, 0, 0, 0, 0, mac]),
    };
    let to = |mac, dst: &str| Fdb {
        link: VXLAN.to_owned(),
        mac,
        dst: dst.parse().unwrap(),
        port: None,
    };
    Wanted {
        links: links(&[(VXLAN, vxlan("192.0.2.10"))]),
        addresses: Owned::Set(BTreeSet::from([
            address(VXLAN, "240.0.2.10/8"),
            address(VXLAN, "fd00:240::10/64"),
        ])),
        neighbours: Owned::Set(BTreeSet::from([on("240.0.2.1", 1), on("fd00:240::1", 1)])),
        fdb: Owned::Set(BTreeSet::from([
            to(Mac([2, 0, 0, 0, 0, 1]), "192.0.2.1"),
            to(Mac::ZERO, "192.0.2.2"),
            to(Mac::ZERO, "192.0.2.3"),
        ])),
        routes: Owned::Set(BTreeSet::from([
            via(254, "10.2.0.0/16", 0, VXLAN, Some("240.0.2.1")),
            via(254, "fd00:2::/48", 1024, VXLAN, Some("fd00:240::1")),
            via(150, "10.3.0.0/16", 20, "up0", None),
            guard(254, "10.2.0.0/16", RouteKind::Unreachable),
            guard(254, "fd00:2::/48", RouteKind::Unreachable),
            guard(254, "192.0.2.77/32", RouteKind::Throw),
            guard(1000, "10.4.0.0/16", RouteKind::Blackhole),
            guard(1000, "fd00:4::/48", RouteKind::Prohibit),
        ])),
        rules: Owned::Set(BTreeSet::from([
            Rule {
                family: strait_host::Family::V4,
                priority: 150,
                from: None,
                to: None,
                link: None,
                mark: None,
                table: 150,
                protocol: RULES,
            },
            Rule {
                family: strait_host::Family::V6,
                priority: 150,
                from: None,
                to: None,
                link: Some(VXLAN.to_owned()),
                mark: None,
                table: 150,
                protocol: RULES,
            },
            Rule {
                family: strait_host::Family::V6,
                priority: 99,
                from: Some(net("fd00:2::/48")),
                to: Some(net("fd00:4::/48")),
                link: None,
                mark: Some((0xc0000, 0xff0000)),
                table: 1000,
                protocol: RULES,
            },
        ])),
        ..nothing()
    }
}

#[test]
fn a_worker_s_plan_becomes_true_and_goes_without_a_trace() {
    let ns = namespace();
    let before = observe(&ns);
    settle(&ns, &worker());

    let link = &json(&ns, "ip -j -d link show vx-submariner")[0];
    assert_eq!(link["ifalias"], "strait");
    assert_eq!(link["mtu"], 1400);
    assert_eq!(link["address"], "02:00:5e:00:00:01");
    let data = &link["linkinfo"]["info_data"];
    assert_eq!(data["id"], 100);
    assert_eq!(data["port"], 4800);
    assert_eq!(data["local"], "192.0.2.10");
    assert_eq!(data["learning"], false);
    assert_eq!(data.get("remote"), None);
    assert!(link["flags"].as_array().unwrap().contains(&json!("UP")));

    let addresses = json(&ns, "ip -j addr show dev vx-submariner");
    let found: BTreeSet<String> = addresses[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["scope"] == "global")
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect();
    assert_eq!(
        found,
        BTreeSet::from(["240.0.2.10/8".to_owned(), "fd00:240::10/64".to_owned()])
    );

    let routes = json(&ns, "ip -j -d route show table all proto 181");
    let of = |dst: &str, kind: &str| {
        let found = routes.iter().find(|r| r["dst"] == dst && r["type"] == kind);
        found.unwrap_or_else(|| panic!("{kind} {dst}: {routes:#?}"))
    };
    assert_eq!(of("10.2.0.0/16", "unicast")["gateway"], "240.0.2.1");
    assert_eq!(of("10.2.0.0/16", "unicast")["dev"], VXLAN);
    assert_eq!(of("10.2.0.0/16", "unreachable")["metric"], u32::MAX);
    assert_eq!(of("10.3.0.0/16", "unicast")["scope"], "link");
    assert_eq!(of("10.3.0.0/16", "unicast")["table"], "150");
    assert_eq!(of("192.0.2.77", "throw")["metric"], u32::MAX);
    assert_eq!(of("10.4.0.0/16", "blackhole")["table"], "1000");
    let routes = json(&ns, "ip -j -6 route show table all proto 181");
    assert_eq!(routes.len(), 3, "{routes:#?}");

    let fdb = json(&ns, "bridge -j fdb show dev vx-submariner");
    let found: BTreeSet<String> = fdb
        .iter()
        .map(|e| format!("{} {} {}", e["mac"], e["dst"], e["state"]).replace('"', ""))
        .collect();
    assert_eq!(
        found,
        BTreeSet::from([
            "00:00:00:00:00:00 192.0.2.2 permanent".to_owned(),
            "00:00:00:00:00:00 192.0.2.3 permanent".to_owned(),
            "02:00:00:00:00:01 192.0.2.1 permanent".to_owned(),
        ])
    );
    let neighbours = json(&ns, "ip -j neigh show dev vx-submariner nud permanent");
    assert_eq!(neighbours.len(), 2, "{neighbours:#?}");
    let rules = run(&ns, "ip rule show");
    assert!(
        rules.contains("150:\tfrom all lookup 150 proto 182"),
        "{rules}"
    );
    let rules = run(&ns, "ip -6 rule show");
    assert!(
        rules.contains(
            "from fd00:2::/48 to fd00:4::/48 fwmark 0xc0000/0xff0000 lookup 1000 proto 182"
        ),
        "{rules}"
    );
    assert!(
        rules.contains("150:\tfrom all iif vx-submariner lookup 150 proto 182"),
        "{rules}"
    );

    settle(&ns, &nothing());
    assert_eq!(observe(&ns), before);
}

#[test]
fn a_predecessor_s_device_is_taken_over_in_use_with_the_routes_by_way_of_it() {
    let ns = namespace();
    run(
        &ns,
        "ip link add vx-submariner address 02:00:5e:00:00:01 type vxlan id 100 dstport 4800 nolearning remote 192.0.2.1",
    );
    run(&ns, "ip addr add 240.0.2.10/8 dev vx-submariner");
    run(&ns, "ip link set vx-submariner up");
    for static_route in [
        "10.2.0.0/16 via 240.0.2.1 dev vx-submariner proto static",
        "10.99.0.0/16 via 240.0.2.1 dev vx-submariner proto static",
    ] {
        run(&ns, &format!("ip route add {static_route}"));
    }
    let index = |ns: &Namespace| json(ns, "ip -j link show vx-submariner")[0]["ifindex"].clone();
    let before = index(&ns);
    let made = settle(&ns, &worker());
    assert_eq!(index(&ns), before, "the same device");
    let place = |what: &dyn Fn(&Change) -> bool| made.iter().position(what);
    let entry = place(&|c| matches!(c, Change::SetFdb(_)));
    let link = place(&|c| matches!(c, Change::ChangeLink(..)));
    assert!(entry < link, "the new way comes before the old one goes");
    let host = observe(&ns);
    let LinkKind::Vxlan(vxlan) = &host.links[VXLAN].kind else {
        panic!("{host:?}");
    };
    assert_eq!(
        (vxlan.remote, vxlan.local),
        (None, Some("192.0.2.10".parse().unwrap()))
    );
    let flooded = run(&ns, "bridge fdb show dev vx-submariner");
    assert!(
        !flooded.contains("00:00:00:00:00:00 dst 192.0.2.1 "),
        "{flooded}"
    );
    let routes = run(&ns, "ip route show proto static");
    assert_eq!(
        routes.trim(),
        "10.99.0.0/16 via 240.0.2.1 dev vx-submariner",
        "what is in our place is ours, the rest is not touched"
    );
    run(&ns, "ip route del 10.99.0.0/16");
    let host = observe(&ns);
    // Someone takes it away: one pass brings it all back.
    run(&ns, "ip link del vx-submariner");
    settle(&ns, &worker());
    assert_eq!(observe(&ns), host);
}

#[test]
fn a_default_destination_that_is_wanted_as_an_entry_stays_until_a_better_entry_is_known() {
    let ns = namespace();
    run(
        &ns,
        "ip link add vx-submariner type vxlan id 100 dstport 4800 nolearning remote 192.0.2.1",
    );
    let flooding = |mac| Wanted {
        fdb: Owned::Set(BTreeSet::from([Fdb {
            link: VXLAN.to_owned(),
            mac,
            dst: "192.0.2.1".parse().unwrap(),
            port: None,
        }])),
        ..worker()
    };
    let entries = |ns: &Namespace| run(ns, "bridge fdb show dev vx-submariner");
    settle(&ns, &flooding(Mac::ZERO));
    assert_eq!(
        entries(&ns),
        "00:00:00:00:00:00 dst 192.0.2.1 self permanent\n"
    );
    settle(&ns, &flooding(Mac([2, 0, 0, 0, 0, 1])));
    assert_eq!(
        entries(&ns),
        "02:00:00:00:00:01 dst 192.0.2.1 self permanent\n"
    );
    settle(&ns, &flooding(Mac::ZERO));
    assert_eq!(
        entries(&ns),
        "00:00:00:00:00:00 dst 192.0.2.1 self permanent\n"
    );
}

#[test]
fn an_entry_may_lead_to_another_port_than_the_device_s_and_gets_another_one_in_place() {
    let ns = namespace();
    let to = |mac, dst: &str, port| Fdb {
        link: VXLAN.to_owned(),
        mac,
        dst: dst.parse().unwrap(),
        port,
    };
    let exact = Mac([2, 0, 0, 0, 0, 1]);
    let with = |port| Wanted {
        fdb: Owned::Set(BTreeSet::from([
            to(exact, "192.0.2.1", port),
            to(Mac::ZERO, "192.0.2.2", port),
            to(Mac::ZERO, "192.0.2.3", None),
        ])),
        ..worker()
    };
    let entries = |ns: &Namespace| -> BTreeSet<String> {
        let fdb = json(ns, "bridge -j fdb show dev vx-submariner");
        let text = |e: &Value| format!("{} {} {}", e["mac"], e["dst"], e["port"]);
        fdb.iter().map(|e| text(e).replace('"', "")).collect()
    };
    // The device's own is not shown.
    for (port, shown) in [(Some(4501), "4501"), (Some(4502), "4502"), (None, "null")] {
        let made = settle(&ns, &with(port));
        let expected = [
            format!("02:00:00:00:00:01 192.0.2.1 {shown}"),
            format!("00:00:00:00:00:00 192.0.2.2 {shown}"),
            "00:00:00:00:00:00 192.0.2.3 null".to_owned(),
        ];
        assert_eq!(entries(&ns), expected.into());
        let gone = made
            .iter()
            .find(|c| matches!(c, Change::RemoveFdb(f) if f.mac == exact));
        assert_eq!(gone, None, "there is no moment without it");
    }
}
