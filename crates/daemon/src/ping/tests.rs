//! Pings on real sockets, in namespaces of the tests' own: this kernel's replies are the judge.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use strait_core::health::{Pace, Report};
use strait_netns::Namespace;
use tokio::time::timeout;

use super::*;
use crate::engine::{Arrivals, channel};

const PACE: Pace = Pace {
    interval: Duration::from_millis(20),
    retry: None,
    max_losses: 3,
};
const SETTINGS: Settings = Settings {
    clusters: PACE,
    gateway: PACE,
};
const PATIENCE: Duration = Duration::from_secs(10);

fn target(cluster: &str, address: &str) -> Target {
    let address: IpAddr = address.parse().unwrap();
    Target {
        endpoint: format!("{cluster}-cable"),
        family: Family::of(address),
        cluster: cluster.parse().unwrap(),
        address,
        source: None,
        way: Way::Cluster,
    }
}

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

/// A namespace with a loopback that is up, and addresses on it.
fn namespace(ping_group_range: &str) -> Namespace {
    let namespace = Namespace::new().unwrap();
    namespace
        .run(|| {
            sh("ip link set lo up; ip address add 10.2.1.1/32 dev lo; ip address add fd00:2::1/128 dev lo nodad");
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", ping_group_range).unwrap();
        })
        .unwrap();
    namespace
}

/// Waits for results in which `good` holds of every target.
async fn until(
    results: &mut Arrivals<Results>,
    good: impl Fn(&Target, &Report) -> bool,
) -> Results {
    timeout(PATIENCE, async {
        loop {
            let results = results.recv().await.unwrap();
            if results.iter().all(|(target, report)| good(target, report)) {
                return results;
            }
        }
    })
    .await
    .unwrap()
}

fn connected(_: &Target, report: &Report) -> bool {
    report.status == ConnectionStatus::Connected
}

fn in_error(_: &Target, report: &Report) -> bool {
    report.status == ConnectionStatus::Error
}

/// The sockets of the namespace's kind that `ss` sees: `(datagram, raw)`.
fn sockets() -> (usize, usize) {
    let count = |file: &str| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        text.lines().count() - 1
    };
    (count("icmp") + count("icmp6"), count("raw") + count("raw6"))
}

fn both_families_are_pinged_and_losses_are_seen(ping_group_range: &str, raw: bool) {
    let metrics = Metrics::new("test");
    namespace(ping_group_range)
        .run_async(async || {
            let (to, mut results) = channel(16);
            let refresh = Duration::from_millis(300);
            let targets = start(SETTINGS, refresh, &metrics, to, |results| results).unwrap();
            let all: BTreeSet<Target> = [
                target("west", "10.2.1.1"),
                target("north", "fd00:2::1"),
            ]
            .into();
            targets.send_replace(all.clone());
            let first = until(&mut results, connected).await;
            assert_eq!(first.keys().cloned().collect::<BTreeSet<_>>(), all);
            for report in first.values() {
                let rtt = report.rtt.unwrap();
                assert!(rtt.min > Duration::ZERO && rtt.max < Duration::from_secs(1), "{rtt:?}");
            }
            assert_eq!(sockets(), if raw { (0, 2) } else { (1, 1) });
            let text = metrics.text();
            for (cluster, family) in [("west", "v4"), ("north", "v6")] {
                let labels = format!("{{cluster=\"{cluster}\",family=\"{family}\"}}");
                assert!(text.contains(&format!("strait_health_connected{labels} 1\n")), "{text}");
                assert!(text.contains(&format!("strait_health_rtt_seconds{labels} 0.")), "{text}");
            }
            // Figures are told anew though no status changes.
            let later = until(&mut results, |_, report| report.received > 10).await;
            assert!(later.values().all(|report| report.status == ConnectionStatus::Connected));
            sh("nft 'table inet cut { chain input { type filter hook input priority 0; meta l4proto { icmp, icmpv6 } drop; }; }'");
            let cut = until(&mut results, in_error).await;
            assert_eq!(
                cut[&target("west", "10.2.1.1")].message,
                "Failed to successfully ping the remote endpoint IP \"10.2.1.1\""
            );
            sh("nft delete table inet cut");
            until(&mut results, connected).await;
            targets.send_replace(BTreeSet::from([target("west", "10.2.1.1")]));
            let one = timeout(PATIENCE, async {
                loop {
                    let results = results.recv().await.unwrap();
                    if results.len() == 1 {
                        return results;
                    }
                }
            });
            one.await.unwrap();
            assert!(!metrics.text().contains("north"), "{}", metrics.text());
        })
        .unwrap();
}

#[test]
fn with_raw_sockets_both_families_are_pinged_and_losses_are_seen() {
    both_families_are_pinged_and_losses_are_seen("1 0", true);
}

#[test]
fn where_the_kernel_allows_it_datagram_sockets_do_the_same() {
    both_families_are_pinged_and_losses_are_seen("0 0", false);
}

fn pings_leave_from_the_address_that_is_asked_for(ping_group_range: &str) {
    let metrics = Metrics::new("test");
    namespace(ping_group_range)
        .run_async(async || {
            sh("ip address add 10.2.1.2/32 dev lo; ip address add fd00:2::2/128 dev lo nodad");
            sh(
                "nft 'table inet only { chain input { type filter hook input priority 0; \
                icmp type echo-request ip saddr != 10.2.1.2 drop; \
                icmpv6 type echo-request ip6 saddr != fd00:2::2 drop; }; }'",
            );
            let (to, mut results) = channel(16);
            let targets = start(SETTINGS, PATIENCE, &metrics, to, |results| results).unwrap();
            let from = |way, source: &str, target| Target {
                way,
                source: Some(source.parse().unwrap()),
                ..target
            };
            let (v4, v6) = (target("east", "10.2.1.1"), target("east", "fd00:2::1"));
            let good = [
                from(Way::Round, "10.2.1.2", v4.clone()),
                from(Way::Round, "fd00:2::2", v6.clone()),
            ];
            let bad = [
                from(Way::Tunnel, "10.2.1.1", v4.clone()),
                from(Way::Tunnel, "fd00:2::1", v6.clone()),
                from(Way::Cni, "10.2.1.99", v4.clone()),
                from(Way::Cni, "fd00:2::99", v6.clone()),
            ];
            targets.send_replace(good.iter().chain(&bad).cloned().collect());
            let seen = until(&mut results, |target, report| {
                let wanted = if good.contains(target) {
                    connected
                } else {
                    in_error
                };
                wanted(target, report)
            })
            .await;
            assert_eq!(seen.len(), 6);
            for target in bad.iter().filter(|target| target.way == Way::Cni) {
                assert_ne!(
                    seen[target].message, "",
                    "the kernel says that this is not ours"
                );
            }
            let text = metrics.text();
            for family in ["v4", "v6"] {
                for (path, value) in [("round", 1), ("tunnel", 0), ("cni", 0)] {
                    let gauge = format!(
                        "strait_selftest_up{{path=\"{path}\",family=\"{family}\"}} {value}\n"
                    );
                    assert!(text.contains(&gauge), "{gauge} {text}");
                }
            }
            targets.send_replace(BTreeSet::new());
            timeout(PATIENCE, async {
                while !results.recv().await.unwrap().is_empty() {}
            })
            .await
            .unwrap();
            assert!(
                !metrics.text().contains("selftest_up{"),
                "{}",
                metrics.text()
            );
        })
        .unwrap();
}

#[test]
fn pings_of_both_kinds_of_socket_leave_from_the_address_that_is_asked_for() {
    for ping_group_range in ["1 0", "0 0"] {
        pings_leave_from_the_address_that_is_asked_for(ping_group_range);
    }
}

#[test]
fn pings_that_the_kernel_refuses_are_an_error_with_its_words() {
    let metrics = Metrics::new("test");
    namespace("1 0")
        .run_async(async || {
            let (to, mut results) = channel(16);
            let targets = start(SETTINGS, PATIENCE, &metrics, to, |results| results).unwrap();
            targets.send_replace(BTreeSet::from([target("west", "10.9.9.9")]));
            let cut = until(&mut results, in_error).await;
            let message = &cut[&target("west", "10.9.9.9")].message;
            assert!(message.contains("Network is unreachable"), "{message}");
            sh("ip address add 10.9.9.9/32 dev lo");
            until(&mut results, connected).await;
        })
        .unwrap();
}
