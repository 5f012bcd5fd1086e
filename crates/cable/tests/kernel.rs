//! The kernel's device, with itself. Not built without the feature `kernel-wireguard`: few kernels of those who build have WireGuard;
//! `make guest` runs it.

mod suite;

use strait_cable::{Keys, Preshared, open_kernel};
use strait_host::Key;
use strait_kernel::wireguard::Wireguard;
use suite::{Kind, LINK, suite};

suite!([Kind::Kernel, Kind::Kernel]);

#[test]
fn two_that_call_each_other_at_once_need_not_wait_for_a_second_call() {
    let kinds = [Kind::Kernel; 2];
    suite::two_that_call_each_other_at_once_need_not_wait_for_a_second_call(kinds);
}

#[test]
fn wg_shows_what_was_asked_for() {
    let [one, two] = suite::joined([Kind::Kernel; 2], false);
    let shown = suite::run(&one.ns, "wg show submariner dump");
    let lines: Vec<Vec<&str>> = shown.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(lines.len(), 2, "{shown}");
    let (own, port) = (one.key.to_string(), "4500");
    assert_eq!((lines[0][1], lines[0][2]), (own.as_str(), port));
    assert_eq!(lines[1][0], two.key.to_string());
    assert_eq!(lines[1][2], "192.0.2.2:4500");
    assert_eq!(lines[1][3], "10.2.0.0/16,fd02::/16");
    assert_eq!(lines[1][7], "1", "seconds between keepalives");
}

/// The device outlives the process that gave it its peers.
#[test]
fn who_starts_with_another_passphrase_changes_that_of_the_peers_that_are_there() {
    let [mut one, two] = suite::joined([Kind::Kernel; 2], false);
    let shown = |gateway: &suite::Gateway| {
        let text = suite::run(&gateway.ns, "wg show submariner preshared-keys");
        text.trim().to_owned()
    };
    let said = |preshared: &Preshared| format!("{}\t{}", two.key, Key(*preshared.expose()));
    assert_eq!(shown(&one), said(&one.keys.preshared));
    let other = Preshared::of("other");
    let keys = Keys {
        preshared: other.clone(),
        ..one.keys.clone()
    };
    one.device = one
        .ns
        .run(|| open_kernel(LINK, keys, one.state.path()))
        .unwrap()
        .unwrap();
    one.apply();
    // What is read of it is what makes the difference, and no more than that.
    let shares = |preshared: &Preshared| {
        let read = || Wireguard::open()?.read(LINK, preshared.expose());
        let device = one.ns.run(read).unwrap().unwrap();
        device.peers[&two.key].shares
    };
    assert!(shares(&other) && !shares(&one.keys.preshared));
    assert_eq!(shown(&one), said(&other));
    assert_eq!(
        shown(&two),
        format!("{}\t{}", one.key, Key(*two.keys.preshared.expose()))
    );
}
