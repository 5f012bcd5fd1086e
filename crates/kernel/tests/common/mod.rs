//! What the tests share: a namespace with an uplink, an owner, and the foreign tools that judge.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use strait_host::nft::{TableFamily, TableId};
use strait_host::{Change, Host, Link, LinkKind, Mac, Owned, Owner, Vxlan, Wanted};
use strait_kernel::Kernel;
use strait_netns::Namespace;

pub(crate) const VXLAN: &str = "vx-submariner";
pub(crate) const ROUTES: u8 = 181;
pub(crate) const RULES: u8 = 182;

pub(crate) fn table() -> TableId {
    TableId {
        family: TableFamily::Inet,
        name: "strait".to_owned(),
    }
}

pub(crate) fn owner() -> Owner {
    Owner {
        alias: "strait".to_owned(),
        links: BTreeSet::from([VXLAN.to_owned(), "vx-two".to_owned()]),
        route_protocol: Some(ROUTES),
        rule_protocol: Some(RULES),
        tables: BTreeSet::from([table()]),
        former_chains: BTreeSet::from(["forward".to_owned(), "more".to_owned()]),
    }
}

/// A namespace with one end of a veth pair up: 192.0.2.10/24 and 2001:db8::10/64.
pub(crate) fn namespace() -> Namespace {
    let ns = Namespace::new().expect("network namespaces need root");
    run(&ns, "ip link add up0 type veth peer name up1");
    for end in ["up0", "up1"] {
        // The end of a search for duplicates is an event, some time or other.
        run(&ns, &format!("sysctl -qw net.ipv6.conf.{end}.accept_dad=0"));
        run(&ns, &format!("ip link set {end} up"));
    }
    run(&ns, "ip addr add 192.0.2.10/24 dev up0");
    run(&ns, "ip addr add 2001:db8::10/64 dev up0 nodad");
    // The kernel adds link-local addresses a moment after the links have come up.
    for _ in 0..500 {
        if run(&ns, "ip -6 -o addr show scope link").lines().count() == 2 {
            return ns;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("no link-local addresses came: is IPv6 off?");
}

/// Runs a tool inside; it must be installed and succeed.
pub(crate) fn run(ns: &Namespace, command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let output = ns
        .command(program)
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("this test needs {program}: {e}"));
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a tool that answers in JSON.
pub(crate) fn json(ns: &Namespace, command: &str) -> Vec<Value> {
    let text = run(ns, command);
    if text.trim().is_empty() {
        return Vec::new();
    }
    let value: Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{command}: {e}: {text}"));
    value.as_array().cloned().unwrap_or_else(|| vec![value])
}

/// `vx-submariner` as the route agent wants it.
pub(crate) fn vxlan(local: &str) -> Link {
    Link {
        kind: LinkKind::Vxlan(Vxlan {
            vni: 100,
            port: 4800,
            local: Some(local.parse().unwrap()),
            remote: None,
            learning: false,
        }),
        mtu: 1400,
        up: true,
        mac: Some(Mac([2, 0, 0x5e, 0, 0, 1])),
        alias: Some("strait".to_owned()),
        master: None,
    }
}

pub(crate) fn links(all: &[(&str, Link)]) -> Owned<BTreeMap<String, Link>> {
    Owned::Set(
        all.iter()
            .map(|(n, l)| ((*n).to_owned(), l.clone()))
            .collect(),
    )
}

/// Nothing wanted, of anything.
pub(crate) fn nothing() -> Wanted {
    Wanted::nothing()
}

pub(crate) fn observe(ns: &Namespace) -> Host {
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        kernel.observe(&BTreeSet::from([table()])).await.unwrap()
    })
    .unwrap()
}

/// One pass: observe, compare, apply. Returns what was changed.
pub(crate) fn pass(ns: &Namespace, wanted: &Wanted) -> Vec<Change> {
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        let host = kernel.observe(&BTreeSet::from([table()])).await.unwrap();
        let difference = strait_host::diff(&host, wanted, &owner());
        assert_eq!(difference.conflicts, []);
        let failures = kernel.apply(&difference.changes).await;
        assert!(failures.is_empty(), "{failures:#?}");
        difference.changes
    })
    .unwrap()
}

/// Applies, and asserts that a second pass finds nothing to do.
pub(crate) fn settle(ns: &Namespace, wanted: &Wanted) -> Vec<Change> {
    let changes = pass(ns, wanted);
    assert_eq!(pass(ns, wanted), [], "the second pass must be empty");
    changes
}
