//! The kernel's device, with itself. Not built without the feature `kernel-wireguard`: few kernels of those who build have WireGuard;
//! `make guest` runs it.

mod suite;

use suite::{Kind, suite};

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
