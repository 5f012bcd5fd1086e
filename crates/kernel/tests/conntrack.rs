//! Tracked connections: judged by conntrack.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::net::IpAddr;

use common::*;
use strait_host::Family;
use strait_kernel::{Flow, Kernel};
use strait_netns::Namespace;

fn insert(ns: &Namespace, what: &str) {
    run(ns, &format!("conntrack -I -t 600 -u SEEN_REPLY {what}"));
}

fn flows(ns: &Namespace) -> Vec<Flow> {
    let mut flows = ns
        .run_async(|| async { Kernel::connect().await.unwrap().flows().await.unwrap() })
        .unwrap();
    flows.sort();
    flows
}

#[test]
fn connections_are_seen_as_they_are_and_forgotten_one_by_one() {
    let ns = Namespace::new().unwrap();
    assert_eq!(flows(&ns), []);
    insert(
        &ns,
        "-p tcp -s 10.1.0.5 -d 10.2.0.7 --sport 40000 --dport 80 --state ESTABLISHED --src-nat 10.1.0.1 -m 9",
    );
    insert(
        &ns,
        "-p tcp -s 10.1.0.5 -d 10.2.0.7 --sport 40001 --dport 80 --state ESTABLISHED",
    );
    insert(
        &ns,
        "-p udp -s 10.1.0.5 -d 10.2.0.7 --sport 40000 --dport 53",
    );
    insert(
        &ns,
        "-p udp -s fd00:1::5 -d fd00:2::7 --sport 40000 --dport 53",
    );
    insert(
        &ns,
        "-p icmp -s 10.1.0.5 -d 10.2.0.7 --icmp-type 8 --icmp-code 0 --icmp-id 77",
    );
    insert(
        &ns,
        "-p icmpv6 -s fd00:1::5 -d fd00:2::7 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 78",
    );
    insert(
        &ns,
        "-p tcp -s 10.1.0.6 -d 10.2.0.7 --sport 40000 --dport 80 --state ESTABLISHED -w 5",
    );

    let all = flows(&ns);
    assert_eq!(all.len(), 7, "{all:#?}");
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let marked = all.iter().find(|f| f.mark == 9).unwrap();
    assert_eq!((marked.protocol, marked.family), (6, Family::V4));
    assert_eq!(
        (marked.original.src, marked.original.sport),
        (ip("10.1.0.5"), 40000)
    );
    assert_eq!(
        (marked.original.dst, marked.original.dport),
        (ip("10.2.0.7"), 80)
    );
    assert_eq!(
        (marked.reply.src, marked.reply.dst),
        (ip("10.2.0.7"), ip("10.1.0.1"))
    );
    assert!(marked.has_source_nat() && !marked.has_destination_nat() && marked.has_seen_reply());
    let pings: Vec<_> = all
        .iter()
        .filter(|f| [1, 58].contains(&f.protocol))
        .collect();
    assert_eq!(
        (pings[0].original.sport, pings[0].original.dport),
        (77, 8 << 8)
    );
    assert_eq!(
        (pings[1].original.sport, pings[1].original.dport),
        (78, 128 << 8)
    );
    assert_eq!(all.iter().filter(|f| f.family == Family::V6).count(), 2);
    assert_eq!(all.iter().filter(|f| f.zone == Some(5)).count(), 1);

    let mut left = all.clone();
    while let Some(flow) = left.pop() {
        ns.run_async(|| async {
            let mut kernel = Kernel::connect().await.unwrap();
            kernel.delete_flow(&flow).await.unwrap();
            // Gone already.
            kernel.delete_flow(&flow).await.unwrap();
        })
        .unwrap();
        let shown = run(&ns, "conntrack -L");
        assert_eq!(shown.lines().count(), left.len(), "{shown}");
        assert_eq!(flows(&ns), left);
    }
}

#[test]
fn another_entry_of_the_same_ends_is_not_taken_for_the_one_that_was_seen() {
    let ns = Namespace::new().unwrap();
    insert(
        &ns,
        "-p udp -s 10.1.0.5 -d 10.2.0.7 --sport 40000 --dport 53",
    );
    let seen = flows(&ns).remove(0);
    let other = Flow {
        id: seen.id ^ 1,
        ..seen
    };
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        kernel.delete_flow(&other).await.unwrap();
    })
    .unwrap();
    assert_eq!(run(&ns, "conntrack -L").lines().count(), 1);
}

#[test]
fn only_what_is_wanted_of_a_large_table_is_kept() {
    let ns = Namespace::new().unwrap();
    for port in 0..300 {
        insert(
            &ns,
            &format!(
                "-p udp -s 10.1.0.5 -d 10.2.0.7 --sport {} --dport 53",
                1000 + port
            ),
        );
    }
    let some = ns
        .run_async(|| async {
            let mut kernel = Kernel::connect().await.unwrap();
            let some = |f: &Flow| f.original.sport < 1003;
            kernel.flows_if(&Family::ALL.into(), some).await.unwrap()
        })
        .unwrap();
    assert_eq!(some.len(), 3);
    assert_eq!(flows(&ns).len(), 300);
}

#[test]
fn the_kernel_leaves_out_families_that_are_not_asked_for() {
    let ns = Namespace::new().unwrap();
    for port in 1000..1005 {
        let ends = format!("-s 10.1.0.5 -d 10.2.0.7 --sport {port} --dport 53");
        insert(&ns, &format!("-p udp {ends}"));
    }
    for port in 1000..1003 {
        let ends = format!("-s fd00:1::5 -d fd00:2::7 --sport {port} --dport 53");
        insert(&ns, &format!("-p udp {ends}"));
    }
    let shown = |family: &str| {
        run(&ns, &format!("conntrack -L -f {family}"))
            .lines()
            .count()
    };
    assert_eq!((shown("ipv4"), shown("ipv6")), (5, 3));
    for (families, expected) in [
        (vec![], 0),
        (vec![Family::V4], 5),
        (vec![Family::V6], 3),
        (Family::ALL.to_vec(), 8),
    ] {
        // All that came is counted, not only what is kept.
        let came = ns
            .run_async(|| async {
                let families = families.iter().copied().collect();
                let mut came = Vec::new();
                let mut kernel = Kernel::connect().await.unwrap();
                let look = |flow: &Flow| {
                    came.push(flow.family);
                    false
                };
                kernel.flows_if(&families, look).await.unwrap();
                came
            })
            .unwrap();
        assert_eq!(came.len(), expected, "{families:?}");
        assert!(came.iter().all(|family| families.contains(family)));
    }
}
