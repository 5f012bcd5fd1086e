//! What a predecessor left in packet filters is found and goes, and all that stands beside it stays as it is: judged by
//! `iptables-save`, `ip6tables-save`, `ipset` and `nft`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::collections::BTreeSet;

use common::*;
use strait_host::Family;
use strait_host::leftovers::{Backend, Found, Names, XtTable};
use strait_kernel::Kernel;
use strait_netns::Namespace;

fn names() -> Names {
    let set = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
    Names {
        chains: "SUBMARINER-".to_owned(),
        tables: set(&["submariner", "submariner-ipv4"]),
        sets: set(&["SUBMARINER-LOCALCIDRS", "SUBMARINER-REMOTECIDRS"]),
    }
}

fn find(ns: &Namespace) -> Found {
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        kernel.leftovers(&names()).await.unwrap()
    })
    .unwrap()
}

fn table(backend: Backend, family: Family, name: &str) -> XtTable {
    XtTable {
        backend,
        family,
        name: name.to_owned(),
    }
}

/// Removes all that was found.
fn remove(ns: &Namespace, found: &Found) {
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        for (table, chains) in &found.chains {
            kernel.remove_chains(table, chains).await.unwrap();
        }
        for table in found.tables.keys() {
            kernel.remove_table(table).await.unwrap();
        }
        for set in &found.sets {
            // The kernel lets go of a set a moment after the rule.
            while let Err(error) = kernel.remove_set(set).await {
                assert!(error.to_string().contains("remove ipset"), "{error}");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    })
    .unwrap();
}

/// Other people's rules, in which what is to go is strewn; `%` is `iptables-nft`, `ip6tables-legacy` and so on.
const OTHERS: &[&str] = &[
    "-t nat -N THEIRS",
    "-t nat -A THEIRS -p tcp -m tcp --dport 80 -m comment --comment web -j RETURN",
    "-t nat -N EMPTY",
    "-t nat -A POSTROUTING -j THEIRS",
    "-t nat -A POSTROUTING -j EMPTY",
    "-t nat -A POSTROUTING -o up0 -j MASQUERADE",
    "-t nat -A PREROUTING -i up0 -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353",
    "-t filter -N LATER",
    "-t filter -N FIRST",
    "-t filter -A FIRST -g LATER",
    "-t filter -A LATER -p udp",
    "-t filter -A LATER -m mark --mark 0x8000 -j DROP",
    "-t filter -A FORWARD -j FIRST",
    "-t filter -A FORWARD -i up0",
    "-t filter -A INPUT -p udp -m udp --dport 9 -j DROP",
    "-t filter -P FORWARD DROP",
    "-t mangle -A POSTROUTING -p tcp -j MARK --set-xmark 0x1/0x1",
];
/// As upstream's route agent writes it.
const UPSTREAM: &[&str] = &[
    "-t nat -N SUBMARINER-POSTROUTING",
    "-t nat -I POSTROUTING 1 -j SUBMARINER-POSTROUTING",
    "-t nat -A SUBMARINER-POSTROUTING -o vx-submariner -j ACCEPT",
    "-t filter -N SUBMARINER-INPUT",
    "-t filter -A INPUT -p udp -m udp -j SUBMARINER-INPUT",
    "-t filter -A SUBMARINER-INPUT -p udp -m udp --dport 4800 -j ACCEPT",
    "-t filter -N SUBMARINER-FORWARD",
    "-t filter -I FORWARD 1 -j SUBMARINER-FORWARD",
    "-t filter -I FIRST 1 -j SUBMARINER-FORWARD",
    "-t filter -A SUBMARINER-FORWARD -o vx-submariner -j ACCEPT",
    "-t mangle -N SUBMARINER-POSTROUTING",
    "-t mangle -I POSTROUTING 1 -j SUBMARINER-POSTROUTING",
    "-t mangle -A SUBMARINER-POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN -m set --match-set SUBMARINER-LOCALCIDRS src -m set --match-set SUBMARINER-REMOTECIDRS dst -j TCPMSS --clamp-mss-to-pmtu",
];

/// The rules with their counters.
fn saved(ns: &Namespace, tool: &str) -> Vec<String> {
    let text = run(ns, &format!("{tool}-save -c"));
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// The same without counters.
fn plain(lines: &[String]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| match line.split_once("] -A ") {
            Some((_, rule)) => rule,
            None => line.split(" [").next().unwrap_or(line),
        })
        .collect()
}

fn fill(ns: &Namespace, tool: &str, rules: &[&str]) {
    for rule in rules {
        run(ns, &format!("{tool} {rule}"));
    }
}

/// Packets that rules count: to a closed port of this host, and from it.
fn traffic(ns: &Namespace) {
    ns.run(|| {
        for (bind, to) in [
            ("0.0.0.0:0", "192.0.2.99:7"),
            ("[::]:0", "[2001:db8::99]:7"),
        ] {
            let socket = std::net::UdpSocket::bind(bind).unwrap();
            for _ in 0..7 {
                let _ = socket.send_to(b"x", to);
            }
        }
    })
    .unwrap();
}

/// The rules with their counters, once nothing is counted any more: IPv6 looks for neighbours and routers for seconds.
fn silent(ns: &Namespace, tool: &str) -> Vec<String> {
    run(ns, "ip link set up0 down");
    let mut last = saved(ns, tool);
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = saved(ns, tool);
        if now == last {
            return now;
        }
        last = now;
    }
    panic!("packets come all the time: {last:#?}")
}

fn comes_and_goes(tool: &str, backend: Backend, family: Family) {
    let ns = namespace();
    let inet = match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    for set in names().sets {
        run(&ns, &format!("ipset create {set} hash:net family {inet}"));
    }
    run(&ns, "ipset create THEIRS hash:net");
    fill(&ns, tool, OTHERS);
    let rules = saved(&ns, tool);
    fill(&ns, tool, UPSTREAM);
    traffic(&ns);
    let others = silent(&ns, tool).into_iter();
    let before: Vec<String> = others
        .filter(|line| !line.contains("SUBMARINER-"))
        .collect();
    assert_eq!(plain(&before), plain(&rules));
    assert!(
        before
            .iter()
            .any(|line| line.contains("MASQUERADE") && !line.starts_with("[0:0]")),
        "something was counted: {before:#?}"
    );
    let found = find(&ns);
    let chains = |table_name: &str| {
        let names = found.chains.get(&table(backend, family, table_name));
        names
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(chains("nat"), ["SUBMARINER-POSTROUTING"]);
    assert_eq!(chains("filter"), ["SUBMARINER-FORWARD", "SUBMARINER-INPUT"]);
    assert_eq!(chains("mangle"), ["SUBMARINER-POSTROUTING"]);
    assert_eq!(found.sets, names().sets);
    if backend == Backend::Legacy {
        let dropping = &found.dropping[&table(backend, family, "filter")];
        assert_eq!(
            dropping.iter().collect::<Vec<_>>(),
            ["FORWARD"],
            "the rule in INPUT comes first"
        );
    }
    remove(&ns, &found);
    assert_eq!(saved(&ns, tool), before, "counters too");
    assert_eq!(run(&ns, "ipset list -n"), "THEIRS\n");
    let again = find(&ns);
    assert!(
        again.chains.is_empty() && again.sets.is_empty(),
        "{again:?}"
    );
    // Once more: nothing is there, and nothing changes.
    remove(&ns, &found);
    assert_eq!(saved(&ns, tool), before);
    // And the tool still works with it; it does not keep the counters of policies itself.
    run(&ns, &format!("{tool} -A FORWARD -j LATER"));
    run(&ns, &format!("{tool} -D FORWARD -j LATER"));
    assert_eq!(plain(&saved(&ns, tool)), plain(&before));
}

#[test]
fn chains_of_iptables_nft_go_with_the_jumps_to_them() {
    comes_and_goes("iptables-nft", Backend::Nft, Family::V4);
}

#[test]
fn chains_of_ip6tables_nft_go_with_the_jumps_to_them() {
    comes_and_goes("ip6tables-nft", Backend::Nft, Family::V6);
}

#[test]
fn chains_of_iptables_legacy_go_with_the_jumps_to_them() {
    comes_and_goes("iptables-legacy", Backend::Legacy, Family::V4);
}

#[test]
fn chains_of_ip6tables_legacy_go_with_the_jumps_to_them() {
    comes_and_goes("ip6tables-legacy", Backend::Legacy, Family::V6);
}

#[test]
fn legacy_tables_are_not_set_up_by_looking_for_leftovers() {
    let ns = namespace();
    let found = find(&ns);
    assert_eq!(found, Found::default());
    let names = ns
        .run(|| std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap())
        .unwrap();
    assert_eq!(names, "");
}

#[test]
fn while_somebody_else_holds_iptables_lock_a_legacy_table_is_not_changed() {
    let ns = namespace();
    fill(&ns, "iptables-legacy", OTHERS);
    run(&ns, "iptables-legacy -N SUBMARINER-INPUT");
    let found = find(&ns);
    let before = saved(&ns, "iptables-legacy");
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open("/run/xtables.lock")
        .unwrap();
    lock.lock().unwrap();
    let error = ns
        .run_async(|| async {
            let mut kernel = Kernel::connect().await.unwrap();
            let (table, chains) = found.chains.first_key_value().unwrap();
            kernel.remove_chains(table, chains).await.unwrap_err()
        })
        .unwrap();
    assert!(error.to_string().contains("xtables.lock"), "{error}");
    drop(lock);
    assert_eq!(saved(&ns, "iptables-legacy"), before);
}

#[test]
fn newer_upstreams_tables_go_and_tables_of_other_names_stay() {
    let ns = namespace();
    for command in [
        "nft add table ip submariner-ipv4",
        "nft add chain ip submariner-ipv4 SUBMARINER-POSTROUTING { type nat hook postrouting priority 90 ; }",
        "nft add set ip submariner-ipv4 SUBMARINER-REMOTECIDRS { type ipv4_addr ; flags interval ; }",
        "nft add rule ip submariner-ipv4 SUBMARINER-POSTROUTING ip daddr @SUBMARINER-REMOTECIDRS accept",
        "nft add table inet submariner-other",
        "nft add chain inet submariner-other SUBMARINER-POSTROUTING",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let output = ns.command(words[0]).args(&words[1..]).output().unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let found = find(&ns);
    let names: Vec<(String, BTreeSet<String>)> = found
        .tables
        .iter()
        .map(|(id, inside)| (String::from(id.clone()), inside.clone()))
        .collect();
    let inside = ["SUBMARINER-POSTROUTING", "SUBMARINER-REMOTECIDRS"];
    let inside = inside.map(str::to_owned).into();
    assert_eq!(names, [("ip submariner-ipv4".to_owned(), inside)]);
    assert!(found.chains.is_empty(), "no tables of iptables");
    remove(&ns, &found);
    assert_eq!(run(&ns, "nft list tables"), "table inet submariner-other\n");
}
