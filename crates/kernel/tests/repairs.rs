//! What counts as made good: what somebody else did, and nothing that was asked for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use strait_host::{Address, Conflict, Hop, Owned, Route, RouteKind, Scope, TABLE_MAIN, Wanted};
use strait_kernel::{Kernel, Outcome, Reconciler};
use strait_netns::Namespace;

fn wanted(addresses: &[&str]) -> Wanted {
    let address = |net: &&str| Address {
        link: VXLAN.to_owned(),
        net: net.parse().unwrap(),
        scope: Scope::Global,
    };
    Wanted {
        links: links(&[(VXLAN, vxlan("192.0.2.10"))]),
        addresses: Owned::Set(addresses.iter().map(address).collect::<BTreeSet<_>>()),
        sysctls: BTreeMap::from([("net/ipv4/conf/late0/forwarding".to_owned(), "1".to_owned())]),
        ..nothing()
    }
}

/// A verifying pass: what was made and what was made good, by kind of object.
async fn verify(
    reconciler: &mut Reconciler,
    wanted: &Wanted,
) -> (Vec<&'static str>, Vec<(&'static str, u64)>) {
    reconciler.observe().await.unwrap();
    let outcome = reconciler.make(wanted.clone()).await;
    let made = outcome.made.iter().map(strait_host::Change::object);
    (made.collect(), outcome.repaired.into_iter().collect())
}

#[test]
fn what_somebody_takes_away_is_counted_and_what_was_asked_for_is_not() {
    let ns: Namespace = namespace();
    ns.run_async(|| async {
        let mut reconciler = Reconciler::new(Kernel::connect().await.unwrap(), owner());
        let (one, two) = (
            wanted(&["240.0.0.1/8"]),
            wanted(&["240.0.0.1/8", "240.0.0.2/8"]),
        );
        // The link of the sysctl is not there: that change fails until it is.
        let first = verify(&mut reconciler, &one).await;
        assert_eq!(first, (vec!["link", "address"], vec![]));
        assert_eq!(verify(&mut reconciler, &one).await, (vec![], vec![]));
        run(&ns, "ip addr flush dev vx-submariner");
        let repaired = verify(&mut reconciler, &one).await;
        assert_eq!(repaired, (vec!["address"], vec![("address", 1)]));
        // What was asked for before, and can be made only now.
        run(&ns, "ip link add late0 type veth peer name late1");
        run(&ns, "sysctl -qw net.ipv4.conf.late0.forwarding=0");
        assert_eq!(
            verify(&mut reconciler, &one).await,
            (vec!["sysctl"], vec![])
        );
        run(&ns, "sysctl -qw net.ipv4.conf.late0.forwarding=0");
        let repaired = verify(&mut reconciler, &one).await;
        assert_eq!(repaired, (vec!["sysctl"], vec![("sysctl", 1)]));
        // A new wish.
        assert_eq!(
            verify(&mut reconciler, &two).await,
            (vec!["address"], vec![])
        );
        // Everything, by one who takes the link; without reading nothing is known of that.
        run(&ns, "ip link delete vx-submariner");
        assert!(reconciler.make(two.clone()).await.made.is_empty());
        let repaired = verify(&mut reconciler, &two).await;
        assert_eq!(
            repaired,
            (
                vec!["link", "address", "address"],
                vec![("address", 2), ("link", 1)]
            )
        );
        assert_eq!(verify(&mut reconciler, &two).await, (vec![], vec![]));
    })
    .unwrap();
}

const REMOTES: [&str; 2] = ["10.2.0.0/16", "fd02::/48"];

/// A route of each family by way of a link of others.
fn routes(metric: u32) -> Wanted {
    routes_by(metric, ["192.0.2.1", "2001:db8::1"])
}

fn routes_by(metric: u32, vias: [&str; 2]) -> Wanted {
    let route = |(dst, via): (&str, &str)| Route {
        table: TABLE_MAIN,
        dst: dst.parse().unwrap(),
        metric,
        protocol: ROUTES,
        kind: RouteKind::Unicast {
            hops: vec![Hop {
                dev: Some("out0".to_owned()),
                via: Some(via.parse().unwrap()),
                onlink: false,
            }],
            src: None,
        },
    };
    Wanted {
        routes: Owned::Set(REMOTES.into_iter().zip(vias).map(route).collect()),
        ..nothing()
    }
}

/// Links of others, by which ours and theirs lead.
fn two_ways() -> Namespace {
    let ns = namespace();
    for (link, number) in [("out0", 2), ("out1", 3)] {
        run(
            &ns,
            &format!("ip link add {link} type veth peer name {link}p"),
        );
        run(&ns, &format!("ip link set {link} up"));
        run(&ns, &format!("ip link set {link}p up"));
        run(&ns, &format!("ip addr add 192.0.{number}.9/24 dev {link}"));
        let v6 = format!("2001:db8:{}::9/64", if number == 2 { 0 } else { number });
        run(&ns, &format!("ip addr add {v6} dev {link} nodad"));
    }
    ns
}

/// Somebody sends what is for the remote subnets by another link.
fn replace(ns: &Namespace, metric: u32) {
    for (dst, via) in REMOTES.into_iter().zip(["192.0.3.1", "2001:db8:3::1"]) {
        let route = format!("ip route replace {dst} via {via} dev out1 metric {metric}");
        run(ns, &route);
    }
}

/// By which links each subnet is routed, as `ip` shows it.
fn links_of(ns: &Namespace) -> Vec<Vec<String>> {
    let of = |family: &str, dst: &str| {
        let routes = json(ns, &format!("ip -j {family} route show {dst}"));
        let links = routes.iter().map(|r| r["dev"].as_str().unwrap().to_owned());
        links.collect::<Vec<_>>()
    };
    vec![of("-4", REMOTES[0]), of("-6", REMOTES[1])]
}

async fn look(reconciler: &mut Reconciler, wanted: &Wanted) -> Outcome {
    reconciler.observe().await.unwrap();
    reconciler.make(wanted.clone()).await
}

#[test]
fn a_route_that_somebody_alters_is_restored_until_it_is_contended_and_then_later() {
    let ns = two_ways();
    ns.run_async(|| async {
        let mut reconciler = Reconciler::new(Kernel::connect().await.unwrap(), owner());
        let wanted = routes(77);
        assert_eq!(look(&mut reconciler, &wanted).await.made.len(), 2);
        let mut contended = Vec::new();
        for round in 0..6 {
            replace(&ns, 77);
            assert_eq!(links_of(&ns), [["out1"], ["out1"]], "round {round}");
            let outcome = look(&mut reconciler, &wanted).await;
            assert_eq!(outcome.conflicts, [], "round {round}");
            contended = outcome.contended;
            if round < 5 {
                let repaired = BTreeMap::from([("route", 2)]);
                assert_eq!(outcome.repaired, repaired, "round {round}");
                assert_eq!(links_of(&ns), [["out0"], ["out0"]], "round {round}");
            } else {
                // It is left alone for a while.
                assert_eq!(outcome.made, []);
            }
            // Faster ones count as one.
            tokio::time::sleep(std::time::Duration::from_millis(210)).await;
        }
        assert_eq!(contended.len(), 2, "{contended:?}");
        // It is still ours: as soon as it is tried again, for which another wish of it serves here, it is restored.
        let other = routes_by(77, ["192.0.2.2", "2001:db8::2"]);
        look(&mut reconciler, &other).await;
        assert_eq!(links_of(&ns), [["out0"], ["out0"]]);
    })
    .unwrap();
}

#[test]
fn a_route_that_was_there_before_ours_or_where_ours_is_not_wanted_any_more_stays() {
    let ns = two_ways();
    ns.run_async(|| async {
        let mut reconciler = Reconciler::new(Kernel::connect().await.unwrap(), owner());
        let wanted = routes(77);
        replace(&ns, 77);
        for _ in 0..2 {
            let outcome = look(&mut reconciler, &wanted).await;
            assert_eq!(outcome.made, []);
            let named = |c: &Conflict| matches!(c, Conflict::Route { metric: 77, .. });
            assert!(outcome.conflicts.len() == 2 && outcome.conflicts.iter().all(named));
        }
        assert_eq!(links_of(&ns), [["out1"], ["out1"]]);
        // They go, and ours come; then somebody alters ours when they are wanted no more.
        run(&ns, "ip route flush proto boot root 10.2.0.0/16");
        run(&ns, "ip -6 route flush proto boot root fd02::/48");
        assert_eq!(look(&mut reconciler, &wanted).await.made.len(), 2);
        replace(&ns, 77);
        reconciler.make(nothing()).await;
        assert_eq!(links_of(&ns), [["out1"], ["out1"]]);
        let outcome = look(&mut reconciler, &nothing()).await;
        assert_eq!((outcome.made, outcome.conflicts), (vec![], vec![]));
        assert_eq!(links_of(&ns), [["out1"], ["out1"]]);
    })
    .unwrap();
}

#[test]
fn what_somebody_takes_away_again_and_again_is_left_alone_though_other_wishes_change_all_the_time()
{
    let ns: Namespace = namespace();
    ns.run_async(|| async {
        let mut reconciler = Reconciler::new(Kernel::connect().await.unwrap(), owner());
        let wish = |round: u64| wanted(&["240.0.0.1/8", &format!("240.0.1.{round}/8")]);
        verify(&mut reconciler, &wish(0)).await;
        for round in 1..=5 {
            // Not so soon that it would be the same damage.
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            run(&ns, "ip addr flush dev vx-submariner");
            let made = verify(&mut reconciler, &wish(round)).await;
            let both = (vec!["address", "address"], vec![("address", 1)]);
            assert_eq!(made, both, "round {round}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        run(&ns, "ip addr flush dev vx-submariner");
        reconciler.observe().await.unwrap();
        let outcome = reconciler.make(wish(6)).await;
        let held: Vec<String> = outcome
            .contended
            .iter()
            .map(|c| c.subject().to_string())
            .collect();
        assert_eq!(held, ["address 240.0.0.1/8 on vx-submariner"]);
        assert!(outcome.retry_after.is_some());
        // What is wished for anew is made, what is contended is not.
        let shown = run(&ns, "ip -4 -o addr show dev vx-submariner");
        assert!(
            shown.contains("240.0.1.6/8") && !shown.contains("240.0.0.1/8"),
            "{shown}"
        );
        // Another wish for it is carried out at once.
        reconciler.observe().await.unwrap();
        reconciler.make(wanted(&[])).await;
        let made = verify(&mut reconciler, &wish(7)).await;
        assert_eq!(made, (vec!["address", "address"], vec![]));
    })
    .unwrap();
}
