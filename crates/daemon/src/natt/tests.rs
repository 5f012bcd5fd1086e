//! The sockets, with a gateway that has several addresses.

use std::collections::BTreeMap;
use std::process::Command;

use strait_core::discovery::{Key, Own, Path, PathState, Target};
use strait_netns::Namespace;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::*;
use crate::engine::{Arrivals, channel};

const PATIENCE: Duration = Duration::from_secs(5);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(cluster: &str, port: u16, addresses: &[&str]) -> Own {
    let addresses = addresses.iter().map(|text| ip(text));
    Own {
        cluster: cluster.parse().unwrap(),
        cable_name: format!("cable-{cluster}"),
        port,
        addresses: addresses.map(|ip| (Family::of(ip), ip)).collect(),
    }
}

fn target(cluster: &str, port: u16, private: &str) -> Target {
    Target {
        key: Key {
            cluster: cluster.parse().unwrap(),
            cable_name: format!("cable-{cluster}"),
            family: Family::of(ip(private)),
        },
        private: Some(ip(private)),
        public: None,
        port: Some(port),
        nat_enabled: false,
        load_balancer: false,
        dead: false,
        unwatched: false,
    }
}

/// Runs a test in a namespace of its own, whose loopback interface has these addresses too.
fn within<F: Future<Output = ()>>(addresses: &[&str], test: impl FnOnce() -> F + Send) {
    let namespace = Namespace::new().unwrap();
    namespace
        .run(|| {
            for address in addresses {
                let words = ["address", "add", address, "dev", "lo", "nodad"];
                let words = &words[..if address.contains(':') { 6 } else { 5 }];
                assert!(Command::new("ip").args(words).status().unwrap().success());
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(test());
        })
        .unwrap();
}

/// Waits for results that hold these addresses, each with an answer and without a NAT.
async fn answered(results: &mut Arrivals<Results>, ips: &[&str]) {
    let ips: Vec<IpAddr> = ips.iter().map(|text| ip(text)).collect();
    let good = |path: &Path| path.state == PathState::Answered && !path.nat;
    timeout(PATIENCE, async {
        loop {
            let found: BTreeMap<_, _> = results.recv().await.unwrap();
            let found: Vec<IpAddr> = found.values().filter(|p| good(p)).map(|p| p.ip).collect();
            if found == ips {
                return;
            }
        }
    })
    .await
    .unwrap();
}

#[test]
fn two_gateways_find_each_other_in_both_families_from_the_addresses_that_they_name() {
    let addresses = ["10.0.1.1/32", "10.0.2.1/32", "fd00::1/128", "fd00::2/128"];
    within(&addresses, || async {
        let [(to_east, mut east), (to_west, mut west)] = [0, 1].map(|_| channel(16));
        let wants = start(&Metrics::new("east"), to_east, |results| results);
        let metrics = Metrics::new("west");
        let too = start(&metrics, to_west, |results| results);
        // Both are on one host, so one asks and is asked on another port.
        wants.send_replace(Wanted {
            own: Some(own("east", 4490, &["10.0.1.1", "fd00::1"])),
            targets: [
                target("west", 4491, "10.0.2.1"),
                target("west", 4491, "fd00::2"),
            ]
            .into(),
        });
        too.send_replace(Wanted {
            own: Some(own("west", 4491, &["10.0.2.1", "fd00::2"])),
            targets: [
                target("east", 4490, "10.0.1.1"),
                target("east", 4490, "fd00::1"),
            ]
            .into(),
        });
        answered(&mut east, &["10.0.2.1", "fd00::2"]).await;
        answered(&mut west, &["10.0.1.1", "fd00::1"]).await;
        let text = metrics.text();
        let path = "strait_discovery_path{cluster=\"east\",family=\"v6\",state=\"answered\",nat=\"false\"} 1";
        assert!(text.contains(path), "{text}");
        // The other is gone: its series goes too.
        too.send_replace(Wanted {
            own: Some(own("west", 4491, &["10.0.2.1"])),
            ..Wanted::default()
        });
        timeout(PATIENCE, async {
            while metrics.text().contains(path) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    });
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked_and_junk_stops_nothing() {
    within(
        &["10.0.1.1/32", "10.0.1.2/32", "fd00::1/128", "fd00::3/128"],
        || async {
            let (to, _results) = channel(16);
            let metrics = Metrics::new("east");
            let wants = start(&metrics, to, |results| results);
            wants.send_replace(Wanted {
                own: Some(own("east", 4490, &["10.0.1.1", "fd00::1"])),
                ..Wanted::default()
            });
            for (peer, asked) in [
                ("127.0.0.1:0", "10.0.1.2:4490"),
                ("[::1]:0", "[fd00::3]:4490"),
            ] {
                let peer = UdpSocket::bind(peer).await.unwrap();
                let asked: SocketAddr = asked.parse().unwrap();
                let mut answer = [0; 512];
                let answered = async {
                    loop {
                        for junk in [&[][..], &[0xff; 3000], &[0x1a, 2, 8, 7]] {
                            let _ = peer.send_to(junk, asked).await;
                        }
                        // An empty request: it is malformed, and says so.
                        let _ = peer.send_to(&[0x12, 0], asked).await;
                        let waited =
                            timeout(Duration::from_millis(200), peer.recv_from(&mut answer));
                        if let Ok(Ok((length, from))) = waited.await {
                            return (length, from);
                        }
                    }
                };
                let (length, from) = timeout(PATIENCE, answered).await.unwrap();
                assert_eq!(from, asked);
                // Field 3, a response, in which field 2 is 4.
                assert_eq!(answer[0], 0x1a);
                assert!(answer[..length].windows(2).any(|pair| pair == [0x10, 4]));
            }
            let text = metrics.text();
            for reason in ["Empty", "TooLong", "NotAsked"] {
                assert!(
                    text.contains(&format!(
                        "strait_discovery_dropped_total{{reason=\"{reason}\"}}"
                    )),
                    "{text}"
                );
            }
        },
    );
}

#[test]
fn a_port_that_somebody_else_has_is_tried_again_and_another_one_is_taken_at_once() {
    within(&["10.0.1.1/32"], || async {
        let taken = UdpSocket::bind("0.0.0.0:4490").await.unwrap();
        let (to, _results) = channel(16);
        let metrics = Metrics::new("east");
        let wants = start(&metrics, to, |results| results);
        let want = |port| {
            wants.send_replace(Wanted {
                own: Some(own("east", port, &["10.0.1.1"])),
                ..Wanted::default()
            });
        };
        want(4490);
        timeout(PATIENCE, async {
            while !metrics
                .text()
                .contains("strait_errors_total{kind=\"DiscoverySocket\"}")
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            want(4492);
            let mut answer = [0; 512];
            loop {
                taken.send_to(&[0x12, 0], "10.0.1.1:4492").await.unwrap();
                let waited = timeout(Duration::from_millis(50), taken.recv_from(&mut answer));
                if waited.await.is_ok() {
                    return;
                }
            }
        })
        .await
        .unwrap();
    });
}
