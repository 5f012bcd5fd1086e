//! What others have in nftables and iptables, and what our rules have counted: judged by `nft` and `iptables`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use strait_host::nft::Hook;
use strait_host::{Family, Filtering};
use strait_kernel::Kernel;
use strait_netns::Namespace;

fn filtering(ns: &Namespace) -> Filtering {
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        kernel.filtering(&table()).await.unwrap()
    })
    .unwrap()
}

#[test]
fn counters_are_read_as_nft_shows_them() {
    let ns = namespace();
    run(&ns, "ip link set lo up");
    assert_eq!(filtering(&ns), Filtering::default());
    let script = "table inet strait {
        chain one { type filter hook output priority 2147483647; policy accept;
            ip daddr 127.0.0.1 counter comment \"both\"
            ip daddr 127.0.0.1 counter comment \"both\"
            ip6 daddr ::1 counter comment \"none\"
            ip daddr 127.0.0.1 accept comment \"no counter\"
        }
    }
    table inet other {
        chain one { type filter hook output priority 0; policy accept;
            counter comment \"not ours\"
        }
    }";
    let file = std::env::temp_dir().join(format!("strait-counters-{}", std::process::id()));
    std::fs::write(&file, script).unwrap();
    run(&ns, &format!("nft -f {}", file.display()));
    std::fs::remove_file(file).unwrap();
    run(&ns, "ping -c 3 -i 0.01 127.0.0.1");
    let shown = run(&ns, "nft list table inet strait");
    assert_eq!(shown.matches("counter packets 6").count(), 2, "{shown}");
    let key = |comment: &str| ("one".to_owned(), comment.to_owned());
    assert_eq!(
        filtering(&ns).counted,
        BTreeMap::from([(key("both"), 12), (key("none"), 0)])
    );
}

#[test]
fn firewalls_are_told_apart() {
    let ns = namespace();
    run(&ns, "iptables-nft -P FORWARD DROP");
    run(&ns, "ip6tables-nft -A INPUT -p udp -j ACCEPT");
    run(&ns, "nft add table bridge b");
    run(
        &ns,
        "nft add chain bridge b c { type filter hook forward priority 0 ; }",
    );
    run(&ns, "nft add table inet t");
    run(&ns, "nft add chain inet t unhooked");
    let found = filtering(&ns);
    let seen: Vec<_> = found
        .chains
        .iter()
        .map(|c| (c.family, c.table.as_str(), c.name.as_str(), c.hook, c.drops))
        .collect();
    assert_eq!(
        seen,
        [
            ("ip", "filter", "FORWARD", Hook::Forward, true),
            ("ip6", "filter", "INPUT", Hook::Input, false),
        ]
    );
    assert_eq!(found.legacy, BTreeSet::new());
    run(&ns, "iptables-legacy -P FORWARD DROP");
    assert_eq!(filtering(&ns).legacy, BTreeSet::from([Family::V4]));
}

#[test]
fn nat_chains_are_told_with_their_priority_as_nft_shows_it() {
    let ns = namespace();
    run(&ns, "iptables-nft -t nat -A POSTROUTING -j MASQUERADE");
    run(&ns, "nft add table inet early");
    let chain = "{ type nat hook postrouting priority -199 ; }";
    run(&ns, &format!("nft add chain inet early post {chain}"));
    let chain = "{ type filter hook postrouting priority -200 ; }";
    run(&ns, &format!("nft add chain inet early look {chain}"));
    let shown: serde_json::Value =
        serde_json::from_str(&run(&ns, "nft -j list chains")).expect("JSON");
    let mut shown: Vec<(String, String, i64, bool)> = shown["nftables"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|object| &object["chain"])
        .filter(|chain| chain["hook"] == "postrouting")
        .map(|chain| {
            let text = |key: &str| chain[key].as_str().expect("text").to_owned();
            let priority = chain["prio"].as_i64().expect("a number");
            (text("table"), text("name"), priority, text("type") == "nat")
        })
        .collect();
    shown.sort();
    let found = filtering(&ns).chains;
    let mut read: Vec<(String, String, i64, bool)> = found
        .into_iter()
        .filter(|chain| chain.hook == Hook::Postrouting)
        .map(|chain| (chain.table, chain.name, chain.priority.into(), chain.nat))
        .collect();
    read.sort();
    assert_eq!(read, shown);
    assert!(read.contains(&("early".to_owned(), "post".to_owned(), -199, true)));
    assert!(read.contains(&("early".to_owned(), "look".to_owned(), -200, false)));
    assert_eq!(read.len(), 3, "{read:?}");
}

/// Families in which a reverse-path filter is seen.
fn checks(ns: &Namespace) -> Vec<Family> {
    observe(ns).source_checks.into_iter().collect()
}

fn load(ns: &Namespace, script: &str) {
    // Tests of one process run side by side.
    let name = format!("strait-{}-{}", std::process::id(), script.len());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, script).unwrap();
    run(ns, &format!("nft -f {}", file.display()));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn reverse_path_filters_of_every_kind_are_seen_and_nothing_else_is_taken_for_one() {
    let others = "table inet t {
        chain first { type filter hook prerouting priority -200;
            fib daddr type local accept
            fib saddr type local accept
            fib daddr . iif oif missing drop
        }
        chain nat { type nat hook prerouting priority -100; fib saddr . iif oif missing accept; }
        chain through { type filter hook forward priority 0; fib saddr . iif oif missing drop; }
        chain unused { fib saddr . iif oif missing drop; }
        chain policies { type filter hook prerouting priority -150; jump cali-pods; }
        chain cali-pods { iifname \"cali*\" fib saddr . mark . iif oif missing drop; }
    }";
    let firewalld = "table inet firewalld {
        chain filter_PREROUTING { type filter hook prerouting priority filter + 10;
            icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
            meta nfproto ipv6 fib saddr . mark . iif oif missing drop
        }
    }";
    let jumped = "table ip a {
        chain one { type filter hook prerouting priority raw; jump two; }
        chain two { iifname \"eth0\" goto three; }
        chain three { fib saddr . iif oif 0 drop; }
    }";
    let turned = "table inet b {
        chain rpfilter { type filter hook prerouting priority mangle + 10; policy drop;
            fib saddr . mark . iif oif exists accept
        }
    }";
    let ns = namespace();
    assert_eq!(checks(&ns), []);
    load(&ns, others);
    assert_eq!(checks(&ns), []);
    for (script, table, seen) in [
        (firewalld, "inet firewalld", &[Family::V6][..]),
        (jumped, "ip a", &[Family::V4]),
        (turned, "inet b", &Family::ALL),
    ] {
        load(&ns, script);
        assert_eq!(checks(&ns), seen, "{script}");
        run(&ns, &format!("nft delete table {table}"));
        assert_eq!(checks(&ns), []);
    }
    for tool in [
        "iptables-nft",
        "ip6tables-nft",
        "iptables-legacy",
        "ip6tables-legacy",
    ] {
        let family = if tool.starts_with("ip6") {
            Family::V6
        } else {
            Family::V4
        };
        for table in ["mangle", "raw"] {
            run(&ns, &format!("{tool} -t {table} -A PREROUTING -j ACCEPT"));
            assert_eq!(checks(&ns), []);
            let rule = "PREROUTING -m rpfilter --validmark --invert -j DROP";
            run(&ns, &format!("{tool} -t {table} -I {rule}"));
            assert_eq!(checks(&ns), [family], "{tool} {table}");
            run(&ns, &format!("{tool} -t {table} -D {rule}"));
            assert_eq!(checks(&ns), []);
        }
    }
    let legacy =
        [Family::V4, Family::V6].map(|f| [(f, "mangle".to_owned()), (f, "raw".to_owned())]);
    assert_eq!(
        filtering(&ns).legacy_early,
        legacy.concat().into_iter().collect()
    );
}
