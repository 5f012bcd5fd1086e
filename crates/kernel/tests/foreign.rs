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
