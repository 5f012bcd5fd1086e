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
use strait_host::{Address, Owned, Scope, Wanted};
use strait_kernel::{Kernel, Reconciler};
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
