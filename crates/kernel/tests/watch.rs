//! Events: what others do is told, and what was lost is told as lost.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use strait_host::{Change, Route, RouteKind};
use strait_kernel::{Event, Kernel, Watch};
use strait_netns::Namespace;

/// The event, or a panic if it does not come within 5 s.
async fn wait(watch: &mut Watch, wanted: &Event) {
    let found = async { while watch.next().await != *wanted {} };
    let found = tokio::time::timeout(Duration::from_secs(5), found).await;
    assert!(found.is_ok(), "{wanted:?} was not told");
}

/// Runs a tool while the watch listens, and waits for its event.
async fn told(ns: &Namespace, watch: &mut Watch, command: &str, event: Event) {
    watch.drain();
    run(ns, command);
    wait(watch, &event).await;
}

#[test]
fn every_kind_of_change_is_told_with_the_link_s_name() {
    let ns = namespace();
    ns.run_async(|| async {
        let kernel = Kernel::connect().await.unwrap();
        let mut w = kernel.watch().unwrap();
        let link = |name: &str| Event::Link(name.to_owned());
        let up0 = || Some("up0".to_owned());
        let vx = || Some(VXLAN.to_owned());
        told(&ns, &mut w, "ip link set up0 mtu 1400", link("up0")).await;
        told(
            &ns,
            &mut w,
            "ip addr add 192.0.2.11/24 dev up0",
            Event::Address(up0()),
        )
        .await;
        told(
            &ns,
            &mut w,
            "ip -6 addr add 2001:db8::11/64 dev up0",
            Event::Address(up0()),
        )
        .await;
        told(
            &ns,
            &mut w,
            "ip route add 10.0.0.0/8 via 192.0.2.1",
            Event::Route,
        )
        .await;
        told(
            &ns,
            &mut w,
            "ip -6 route add unreachable fd00::/8",
            Event::Route,
        )
        .await;
        told(&ns, &mut w, "ip route del 10.0.0.0/8", Event::Route).await;
        told(&ns, &mut w, "ip rule add pref 7 lookup 7", Event::Rule).await;
        told(&ns, &mut w, "ip -6 rule add pref 7 lookup 7", Event::Rule).await;
        told(
            &ns,
            &mut w,
            "ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev up0 nud permanent",
            Event::Neighbour(up0()),
        )
        .await;
        for path in [
            "ipv4.conf.up0.rp_filter",
            "ipv4.conf.all.rp_filter",
            "ipv4.conf.up0.forwarding",
            "ipv6.conf.all.forwarding",
        ] {
            // Whatever it was, one of these changes it.
            run(&ns, &format!("sysctl -qw net.{path}=0"));
            let set = format!("sysctl -qw net.{path}=1");
            told(&ns, &mut w, &set, Event::Sysctl).await;
        }
        told(&ns, &mut w, "nft add table inet somebody", Event::Nft).await;
        // Links that came after the watch began, and one that goes.
        let add = "ip link add vx-submariner type vxlan id 100 dstport 4800 local 192.0.2.10";
        told(&ns, &mut w, add, link(VXLAN)).await;
        let append = "bridge fdb append 00:00:00:00:00:00 dev vx-submariner dst 192.0.2.9";
        told(&ns, &mut w, append, Event::Neighbour(vx())).await;
        told(&ns, &mut w, "ip link del vx-submariner", link(VXLAN)).await;
        // Before 6.2 a link that is up keeps its name.
        told(&ns, &mut w, "ip link set up1 down", link("up1")).await;
        told(&ns, &mut w, "ip link set up1 name renamed", link("renamed")).await;
        let renamed = Event::Address(Some("renamed".to_owned()));
        told(
            &ns,
            &mut w,
            "ip addr add 198.51.100.1/24 dev renamed",
            renamed,
        )
        .await;
    })
    .unwrap();
}

#[test]
fn a_transaction_of_many_steps_is_one_event_and_silence_is_silence() {
    let ns = namespace();
    ns.run_async(|| async {
        let kernel = Kernel::connect().await.unwrap();
        let mut watch = kernel.watch().unwrap();
        // Router solicitations and the like go on for a moment after a link came up.
        tokio::time::sleep(Duration::from_millis(100)).await;
        watch.drain();
        let quiet = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        run(
            &ns,
            "nft add table inet a ; add table inet b ; add chain inet b c",
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(watch.next().await, Event::Nft);
        assert_eq!(watch.try_next(), None);
    })
    .unwrap();
}

#[test]
fn what_was_lost_is_told_and_the_watch_goes_on() {
    let ns = namespace();
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        let mut watch = kernel.watch().unwrap();
        let route = |n: u32| Route {
            table: 1000,
            dst: ipnet::IpNet::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 32)
                .unwrap(),
            metric: 0,
            protocol: ROUTES,
            kind: RouteKind::Blackhole,
        };
        let all: Vec<Change> = (0..20_000).map(|n| Change::SetRoute(route(n))).collect();
        assert_eq!(kernel.apply(&all).await, []);
        wait(&mut watch, &Event::Overrun).await;
        assert!(watch.drain() < 20_000);
        // Whole again.
        told(
            &ns,
            &mut watch,
            "ip link set up0 mtu 1300",
            Event::Link("up0".to_owned()),
        )
        .await;
        let host = kernel.observe(&BTreeSet::new()).await.unwrap();
        let ours = host.routes.iter().filter(|r| r.protocol == ROUTES).count();
        assert_eq!(ours, 20_000);
    })
    .unwrap();
}

#[test]
fn a_wait_that_is_given_up_loses_no_event() {
    let ns = namespace();
    ns.run_async(|| async {
        let kernel = Kernel::connect().await.unwrap();
        let mut watch = kernel.watch().unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        watch.drain();
        let mut told = Vec::new();
        for table in 100..130 {
            run(&ns, &format!("ip rule add pref 9 lookup {table}"));
            // Given up at once: at times in the middle.
            let wait = tokio::time::timeout(Duration::ZERO, watch.next());
            told.extend(wait.await.ok());
        }
        told.extend(std::iter::from_fn(|| watch.try_next()));
        told.retain(|event| *event == Event::Rule);
        assert_eq!(told.len(), 30);
    })
    .unwrap();
}

#[test]
fn without_a_runtime_it_is_an_error_and_no_panic() {
    let ns = Namespace::new().unwrap();
    let kernel = ns
        .run_async(|| async { Kernel::connect().await.unwrap() })
        .unwrap();
    assert_eq!(kernel.watch().unwrap_err().kind(), "open");
}
