//! nftables: judged by nft.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;
mod ruleset;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use common::*;
use ipnet::IpNet;
use ruleset::*;
use serde_json::json;
use strait_host::nft::{Element, Field, Op, Set, Statement, Table};
use strait_host::{Change, Family, Owned, RouteKind, Wanted};
use strait_kernel::Kernel;
use strait_netns::Namespace;

fn wanting(table_: &Table) -> Wanted {
    Wanted {
        nft: Owned::Set(BTreeMap::from([(table(), table_.clone())])),
        ..nothing()
    }
}

fn ruleset(ns: &Namespace) -> String {
    run(ns, "nft list ruleset")
}

#[test]
fn a_ruleset_of_every_statement_reads_back_as_written_and_nft_shows_it() {
    let ns = Namespace::new().unwrap();
    settle(&ns, &wanting(&everything()));
    let read = observe(&ns).nft.remove(&table()).unwrap();
    assert_eq!(read, everything());

    let shown = ruleset(&ns);
    for line in [
        "type filter hook forward priority filter - 10; policy accept;",
        "type nat hook postrouting priority -199; policy accept;",
        "type route hook output priority mangle; policy accept;",
        "tcp flags syn / syn,rst tcp option maxseg size set rt mtu tcp option maxseg size set 1360 comment \"clamp\"",
        "icmp type redirect oifname @links drop comment \"redirects\"",
        "icmpv6 type nd-redirect drop comment \"redirects6\"",
        "ct state established,related accept comment \"replies\"",
        "iifname != \"vx-submariner\" ip saddr @remote4 counter packets 0 bytes 0 drop comment \"spoofed\"",
        "oifname != \"eth0\" ip6 saddr != @remote6 ip6 daddr != @peers return comment \"spoofed6\"",
        "iifname @links jump more",
        "meta mark @marks meta mark set 0x12345678",
        "meta mark != @marks meta mark set meta mark & 0xffffdff2 | 0x00001032",
        "iifname != @links meta mark set meta mark & 0xffffcfc0",
        "fib saddr type local counter packets 0 bytes 0 comment \"local\"",
        "udp sport 4500 udp dport @ports",
        "meta mark & 0x00ff0000 == 0x000c0000 accept comment \"exactly this mark\"",
        "ip daddr @remote4 snat ip to ip saddr comment \"keep the pod's address\"",
        "ip6 daddr @remote6 snat ip6 to ip6 saddr",
        "oifname != \"lo\" snat ip to 10.1.0.9",
        "meta mark 0x00000007 snat ip6 to fd00:1::9",
        "snat ip to oifname map @sources",
        "snat ip6 to ip6 daddr map @by-net",
        "elements = { 0x000c0000 }",
        "elements = { 1, 4800 }",
        "elements = { 0.0.0.0/0 }",
        "elements = { ::/0 }",
    ] {
        assert!(shown.contains(line), "{line} is not in:\n{shown}");
    }
    assert!(
        !shown.contains("@nh,") && !shown.contains("@th,"),
        "raw payload in:\n{shown}"
    );

    settle(&ns, &nothing());
    assert_eq!(ruleset(&ns), "");
}

#[test]
fn nft_can_load_what_it_lists_of_ours_and_we_read_it_as_the_same() {
    let ns = Namespace::new().unwrap();
    settle(&ns, &wanting(&everything()));
    let listed = ruleset(&ns);
    let other = Namespace::new().unwrap();
    let file = std::env::temp_dir().join(format!("strait-kernel-{}.nft", std::process::id()));
    std::fs::write(&file, listed).unwrap();
    let loaded = other.command("nft").arg("-f").arg(&file).output();
    std::fs::remove_file(&file).unwrap();
    let loaded = loaded.expect("this test needs nft");
    let stderr = String::from_utf8_lossy(&loaded.stderr);
    assert!(loaded.status.success(), "{stderr}");
    let read = observe(&other).nft.remove(&table()).unwrap();
    // nft leaves out matches that follow from others, so rules may differ; sets and hooks may not.
    assert_eq!(read.sets, everything().sets);
    for (name, chain) in &everything().chains {
        assert_eq!(read.chains[name].base, chain.base, "{name}");
    }
    settle(&other, &wanting(&everything()));
}

#[test]
fn elements_come_and_go_without_touching_rules() {
    let ns = Namespace::new().unwrap();
    let mut wanted = everything();
    settle(&ns, &wanting(&wanted));
    for (set, content) in [
        (
            "remote4",
            nets(Family::V4, &["10.2.0.0/17", "10.3.0.0/16", "10.4.0.0/14"]),
        ),
        ("remote4", nets(Family::V4, &["0.0.0.0/0"])),
        ("remote4", nets(Family::V4, &[])),
        ("remote4", nets(Family::V4, &["128.0.0.0/1"])),
        (
            "remote4",
            nets(Family::V4, &["255.255.255.255/32", "0.0.0.0/1"]),
        ),
        (
            "remote6",
            nets(Family::V6, &["fd00:2::/49", "fd00:2:8000::/49", "ff00::/8"]),
        ),
        (
            "adjacent4",
            nets(Family::V4, &["10.0.2.0/23", "10.0.4.0/24", "10.0.1.0/25"]),
        ),
        ("links", Set::of_names(["eth1", "eth2"])),
    ] {
        wanted.sets.insert(set.to_owned(), content);
        let changes = settle(&ns, &wanting(&wanted));
        let [Change::Nft(ops)] = changes.as_slice() else {
            panic!("{changes:?}");
        };
        let only = |op: &Op| matches!(op, Op::AddElements(..) | Op::DeleteElements(..));
        assert!(ops.iter().all(only), "{ops:?}");
    }
    // The value of an entry that stays.
    let map = wanted.sets.get_mut("sources").unwrap();
    let key = Element::Name("eth0".to_owned());
    map.elements
        .insert(key, Some(Element::Ip([10, 1, 0, 77].into())));
    settle(&ns, &wanting(&wanted));
    assert!(ruleset(&ns).contains("\"eth0\" : 10.1.0.77"));
}

#[test]
fn five_thousand_prefixes_go_in_one_transaction() {
    let ns = Namespace::new().unwrap();
    let many = |step: u32| -> Vec<IpNet> {
        let net = |i: u32| IpNet::new(Ipv4Addr::from(0x0a00_0000 + i * step).into(), 24).unwrap();
        (0..5000).map(net).collect()
    };
    let mut wanted = everything();
    let insert = |t: &mut Table, step| {
        let set = Set::of_nets(Family::V4, &many(step));
        assert_eq!(set.elements.len(), 5000);
        t.sets.insert("remote4".to_owned(), set);
    };
    insert(&mut wanted, 512);
    settle(&ns, &wanting(&wanted));
    let listed = json(&ns, "nft -j list set inet strait remote4");
    let elements = &listed[0]["nftables"][1]["set"]["elem"];
    assert_eq!(elements.as_array().unwrap().len(), 5000);
    assert_eq!(
        elements[4999],
        json!({"prefix": {"addr": "10.39.14.0", "len": 24}})
    );
    // All of them change at once.
    insert(&mut wanted, 768);
    settle(&ns, &wanting(&wanted));
    settle(&ns, &nothing());
}

#[test]
fn a_transaction_that_fails_changes_nothing_and_keeps_routes_back() {
    let ns = namespace();
    settle(&ns, &wanting(&everything()));
    let before = ruleset(&ns);
    let id = table();
    let ops = vec![
        Op::AddSet(id.clone(), "new".to_owned(), nets(Family::V4, &[])),
        Op::FlushChain(id.clone(), "forward".to_owned()),
        Op::AddRule(
            id.clone(),
            "forward".to_owned(),
            rule(
                "no such set",
                vec![in_set(Field::Source(Family::V4), "absent", false)],
            ),
        ),
        Op::AddChain(id.clone(), "new-chain".to_owned(), None),
    ];
    let route = |kind| {
        Change::SetRoute(strait_host::Route {
            table: 254,
            dst: "10.2.0.0/16".parse().unwrap(),
            metric: 7,
            protocol: ROUTES,
            kind,
        })
    };
    let hop = strait_host::Hop {
        dev: Some("up0".to_owned()),
        via: None,
        onlink: false,
    };
    let changes = [
        Change::Nft(ops),
        route(RouteKind::Unicast {
            hops: vec![hop],
            src: None,
        }),
        route(RouteKind::Unreachable),
    ];
    let failures = ns
        .run_async(|| async {
            let mut kernel = Kernel::connect().await.unwrap();
            let failures = kernel.apply(&changes).await;
            // The socket is as good as new.
            kernel.observe(&BTreeSet::from([table()])).await.unwrap();
            failures
        })
        .unwrap();
    assert_eq!(failures.len(), 2, "{failures:#?}");
    let text = failures[0].error.to_string();
    assert!(
        text.contains("nft add rule inet strait forward (no such set): ENOENT"),
        "{text}"
    );
    assert_eq!(failures[1].error.kind(), "skipped");
    assert_eq!(failures[1].change, changes[1]);
    assert_eq!(ruleset(&ns), before);
    let routes = run(&ns, "ip route show proto 181");
    assert!(
        routes.contains("unreachable 10.2.0.0/16") && !routes.contains("dev"),
        "{routes}"
    );
}

#[test]
fn a_transaction_that_fails_in_every_step_is_answered_with_the_first() {
    let ns = Namespace::new().unwrap();
    let one = |i: u32| {
        let counting = rule(&format!("no {i}"), vec![Statement::Counter]);
        Op::AddRule(table(), "forward".to_owned(), counting)
    };
    for steps in [1, 100, 20_000] {
        let changes = [Change::Nft((0..steps).map(one).collect())];
        let failures = ns
            .run_async(|| async {
                let mut kernel = Kernel::connect().await.unwrap();
                let failures = kernel.apply(&changes).await;
                // Nothing of it is left over for the next request.
                settle_with(&mut kernel).await;
                failures
            })
            .unwrap();
        let text = failures[0].error.to_string();
        assert_eq!(
            text,
            "nft add rule inet strait forward (no 0): ENOENT: No such file or directory"
        );
        settle(&ns, &nothing());
    }
}

/// Makes the ruleset with this very socket, and reads it back.
async fn settle_with(kernel: &mut Kernel) {
    let ids = BTreeSet::from([table()]);
    let host = kernel.observe(&ids).await.unwrap();
    let difference = strait_host::diff(&host, &wanting(&everything()), &owner());
    assert_eq!(kernel.apply(&difference.changes).await, []);
    let host = kernel.observe(&ids).await.unwrap();
    assert_eq!(host.nft[&table()], everything());
}

#[test]
fn what_others_did_to_our_table_is_undone_and_their_tables_stay() {
    let ns = Namespace::new().unwrap();
    run(&ns, "nft add table ip other");
    run(
        &ns,
        "nft add chain ip other c { type nat hook postrouting priority 95 ; }",
    );
    run(&ns, "nft add rule ip other c masquerade");
    let others = run(&ns, "nft list table ip other");
    settle(&ns, &wanting(&everything()));
    let ours = run(&ns, "nft list table inet strait");
    for damage in [
        "nft insert rule inet strait forward tcp dport 22 log prefix \"x\" accept",
        "nft flush chain inet strait postrouting",
        "nft add element inet strait links { \"eth9\" }",
        "nft delete element inet strait remote4 { 10.2.0.0/15 }",
        "nft add set inet strait extra { type ipv4_addr . inet_service ; }",
        "nft add map inet strait verdicts { type ifname : verdict ; }",
        "nft add chain inet strait extra { type filter hook ingress device lo priority 0 ; }",
        "nft add chain inet strait forward { policy drop ; }",
        "nft add table inet strait { flags dormant ; }",
        "nft flush ruleset inet",
        "nft add set inet strait aged { type ipv4_addr ; timeout 1h ; }",
        "nft add rule inet strait output meta mark set mark or 0x1",
        "nft add rule inet strait output goto more",
        "nft add rule inet strait output ip saddr 10.0.0.0/8 counter",
        "nft add rule inet strait output iifname \"eth*\" counter",
        "nft add rule inet strait output ct direction reply counter",
        "nft add rule inet strait output ip daddr { 10.0.0.1, 10.0.0.2 } counter",
    ] {
        run(&ns, damage);
        let changes = settle(&ns, &wanting(&everything()));
        assert!(!changes.is_empty(), "not seen: {damage}");
        assert_eq!(
            run(&ns, "nft list table inet strait"),
            ours,
            "after {damage}"
        );
        assert_eq!(
            run(&ns, "nft list table ip other"),
            others,
            "after {damage}"
        );
    }
}

#[test]
fn a_table_without_our_mark_is_left_alone_and_one_of_a_former_version_is_taken_over() {
    let ns = Namespace::new().unwrap();
    run(&ns, "nft add table inet strait");
    run(&ns, "nft add chain inet strait theirs");
    run(&ns, "nft add rule inet strait theirs counter accept");
    let theirs = ruleset(&ns);
    let difference = strait_host::diff(&observe(&ns), &wanting(&everything()), &owner());
    assert_eq!(
        difference.conflicts,
        [strait_host::Conflict::Table(table())]
    );
    assert_eq!(difference.changes, []);
    let difference = strait_host::diff(&observe(&ns), &nothing(), &owner());
    assert_eq!(difference.changes, []);
    assert_eq!(ruleset(&ns), theirs);

    // As it was before tables had a comment.
    run(&ns, "nft flush ruleset");
    let former = Table {
        comment: String::new(),
        ..everything()
    };
    let ops = strait_host::nft::diff_table(&table(), None, Some(&former));
    let failures = ns
        .run_async(|| async {
            let mut kernel = Kernel::connect().await.unwrap();
            kernel.apply(&[Change::Nft(ops)]).await
        })
        .unwrap();
    assert_eq!(failures, []);
    let marked = || ruleset(&ns).contains("table inet strait {\n\tcomment \"strait\"\n");
    assert!(!marked());
    settle(&ns, &wanting(&everything()));
    assert!(marked(), "{}", ruleset(&ns));
    settle(&ns, &nothing());
    assert_eq!(ruleset(&ns), "");
}
