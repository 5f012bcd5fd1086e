//! The kernel's device with one in this process. As `kernel.rs`, not built without the feature `kernel-wireguard`.

mod suite;

use strait_cable::{PrivateKey, open_kernel, open_process};
use suite::{Kind, LINK, run};

mod kernel_and_process {
    use super::suite::{self, Kind, suite};

    suite!([Kind::Kernel, Kind::Process]);
}

mod process_and_kernel {
    use super::suite::{self, Kind, suite};

    suite!([Kind::Process, Kind::Kernel]);
}

/// The kernel's clock can't be stepped for a test: what a device in a process sent before, an hour ahead, is the handshake of a clock that was
/// right then.
#[test]
fn a_clock_that_lies_before_the_last_handshake_is_noticed_and_another_key_is_heard() {
    let [mut one, mut two] = suite::joined([Kind::Process, Kind::Kernel], false);
    one.must_reach("10.2.0.1");
    one.apply();
    let state = one.state.path().to_owned();
    let up = |one: &suite::Gateway| {
        run(&one.ns, &format!("ip link set {LINK} mtu 1420 up"));
        let route = format!("ip route add 10.2.0.0/16 dev {LINK} src 10.1.0.1");
        run(&one.ns, &route);
    };
    let file = state.join("wireguard.stamp");
    let mut stamp = std::fs::read(&file).unwrap();
    let seconds = u64::from_be_bytes(stamp[..8].try_into().unwrap()) + 3600;
    stamp[..8].copy_from_slice(&seconds.to_be_bytes());
    std::fs::write(&file, &stamp).unwrap();
    one.device = open_process(LINK, one.keys.clone(), &state, None, [].into());
    one.waits_for_its_port();
    one.apply();
    up(&one);
    one.must_reach("10.2.0.1");
    one.apply();

    let kernel = |one: &suite::Gateway| {
        let keys = one.keys.clone();
        let opened = one.ns.run(|| open_kernel(LINK, keys, &state));
        opened.unwrap().unwrap()
    };
    one.device = kernel(&one);
    one.waits_for_its_port();
    run(&one.ns, &format!("ip link add {LINK} type wireguard"));
    // The other side does not begin.
    for rule in [
        "nft add table inet quiet",
        "nft add chain inet quiet out { type filter hook output priority 0; policy accept; }",
        "nft add rule inet quiet out udp sport 4500 @th,64,8 1 drop",
    ] {
        run(&two.ns, rule);
    }
    one.apply();
    up(&one);
    for _ in 0..3 {
        assert!(!one.reaches("10.2.0.1"));
    }
    assert_eq!(one.status(two.key).handshake, None);
    let behind = one.device.behind();
    assert!((3000..=3700).contains(&behind), "{behind} s");

    let next = PrivateKey::random().unwrap();
    two.wanted.peers.remove(&one.key);
    let nets = suite::nets(1);
    two.know(next.public(), "192.0.2.1:4500", &[&nets[0], &nets[1]]);
    one.keys.private = next.clone();
    one.device.rekey(next);
    one.apply();
    one.must_reach("10.2.0.1");
    one.apply();
    assert_eq!(one.device.behind(), 0);
    one.device = kernel(&one);
    one.apply();
    assert_eq!(one.device.behind(), 0, "a restart knows it, too");
}
