//! Two devices, and what goes through them.

mod common;

use std::time::Duration;

use common::{Host, hosts, pair, received, run, statistics, until};
use strait_wg::{Device, Options, PresharedKey, PrivateKey, Sockets, Timing, Tun};

#[test]
fn both_families_get_through_inside_and_outside() {
    let (_middle, a, b) = pair(1, Options::default());
    assert_eq!(a.ping("10.9.0.2", 20), 20);
    assert_eq!(b.ping("fd09::1", 20), 20);
    let status = a.device().status()[&b.public()];
    assert!(status.last_handshake.is_some() && status.rx_bytes > 0 && status.tx_bytes > 0);

    let over6 = |host: &Host| {
        let (key, mut peer) = host.peer();
        peer.endpoint = Some(host.endpoint6());
        (key, peer)
    };
    a.configure([over6(&b)]);
    b.configure([over6(&a)]);
    assert_eq!(a.ping("10.9.0.2", 20), 20);
    assert_eq!(b.ping("fd09::1", 20), 20);
    let status = a.device().status()[&b.public()];
    assert_eq!(status.endpoint, Some(b.endpoint6()));
}

#[test]
fn much_may_wait_while_the_process_gets_no_processor() {
    let (_middle, a, _b) = pair(2, Options::default());
    let link = run(&a.ns, "ip -j link show wg0");
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    assert_eq!(link[0]["txqlen"], 8192);
}

#[test]
fn the_public_key_is_the_one_that_wg_derives() {
    let key = PrivateKey::generate().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(key.as_bytes());
    std::fs::write(&path, &text).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let output = std::process::Command::new("wg")
        .arg("pubkey")
        .stdin(file)
        .output();
    let output = output.expect("this test needs the package wireguard-tools");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.trim(), key.public().unwrap().to_string());
    assert!(text.parse::<PrivateKey>().unwrap() == key);
}

#[test]
fn tcp_goes_in_large_pieces_both_ways() {
    let (_middle, a, b) = pair(1, Options::default());
    for (to, server) in [("10.9.0.2", &b), ("fd09::2", &b)] {
        let before = statistics(&b.ns, "wg0")["rx"];
        let said = a.iperf(server, to, "-n 64M");
        let bytes = received(&said);
        let packets = statistics(&b.ns, "wg0")["rx"] - before;
        assert!(bytes > 32e6, "{bytes}");
        // One by one they would have some 1350 each.
        let pieces = bytes / packets as f64;
        assert!(pieces > 2700.0, "{bytes} bytes came in {packets} pieces");
    }
    let dropped = a.device().dropped();
    assert_eq!(
        (dropped.malformed, dropped.forged, dropped.refused),
        (0, 0, 0)
    );
}

#[test]
fn a_preshared_key_must_be_the_same() {
    let (_middle, mut all) = hosts(2);
    all.iter_mut()
        .for_each(|host| host.start(1, Options::default()));
    let with = |host: &Host, byte: u8| {
        let (key, mut peer) = host.peer();
        peer.preshared = Some(PresharedKey::from_bytes([byte; 32]));
        (key, peer)
    };
    all[0].configure([with(&all[1], 1)]);
    all[1].configure([with(&all[0], 2)]);
    assert_eq!(all[0].ping("10.9.0.2", 1), 0);
    assert!(all[1].device().dropped().forged + all[0].device().dropped().forged > 0);
    all[1].configure([with(&all[0], 1)]);
    until("the right key", || all[0].ping("10.9.0.2", 1) == 1);
}

#[test]
fn a_flow_stays_in_order_with_several_threads() {
    let (_middle, a, b) = pair(3, Options::default());
    assert_eq!(a.ping("10.9.0.2", 3), 3);
    let said = a.iperf(&b, "10.9.0.2", "-u -b 20M -l 500 -t 2 -P 4");
    for stream in said["end"]["streams"].as_array().unwrap() {
        let udp = &stream["udp"];
        assert!(udp["packets"].as_u64().unwrap() > 1000, "{udp}");
        assert_eq!(udp["out_of_order"], 0, "{udp}");
    }
    let said = a.iperf(&b, "10.9.0.2", "-t 1 -P 4");
    assert!(received(&said) > 1e6, "{said}");
}

#[test]
fn keys_are_changed_under_traffic_and_nothing_is_lost() {
    let timing = Timing {
        rekey_after: Duration::from_millis(300),
        reject_after: Duration::from_millis(1500),
        rekey_timeout: Duration::from_millis(200),
        keepalive_timeout: Duration::from_millis(500),
        ..Timing::default()
    };
    let options = Options {
        timing,
        ..Options::default()
    };
    let (_middle, a, b) = pair(2, options);
    assert_eq!(a.ping("10.9.0.2", 1), 1);
    let first = a.device().status()[&b.public()].last_handshake;
    let stamps = a.device().timestamp_floor();
    assert_eq!(a.ping("10.9.0.2", 400), 400);
    let last = a.device().status()[&b.public()].last_handshake;
    assert!(last > first && a.device().timestamp_floor() >= stamps);
}

#[test]
fn a_peer_that_comes_from_elsewhere_is_followed() {
    let (_middle, a, b) = pair(1, Options::default());
    assert_eq!(a.ping("10.9.0.2", 3), 3);
    run(&b.ns, "ip addr del 192.0.2.2/24 dev eth0");
    run(&b.ns, "ip addr add 192.0.2.99/24 dev eth0");
    assert!(b.ping("10.9.0.1", 5) >= 4);
    assert_eq!(a.ping("10.9.0.2", 5), 5);
    let endpoint = a.device().status()[&b.public()].endpoint.unwrap();
    assert_eq!(endpoint, "192.0.2.99:51820".parse().unwrap());
}

#[test]
fn a_restarted_peer_handshakes_at_once() {
    let (_middle, mut all) = hosts(2);
    let (tun, sockets) = all[1].open(1);
    // What a parent process does: it keeps the descriptors.
    let copy = |fds: Vec<std::os::fd::BorrowedFd<'_>>| {
        let copies = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap());
        copies.collect::<Vec<_>>()
    };
    let kept = (copy(tun.as_fds()), copy(sockets.as_fds()));
    all[0].start(1, Options::default());
    all[1].device = Some(Device::start(tun, sockets, Options::default()).unwrap());
    let (mut b, a) = (all.pop().unwrap(), all.pop().unwrap());
    a.configure([b.peer()]);
    b.configure([a.peer()]);
    assert_eq!(a.ping("10.9.0.2", 3), 3);
    let floor = b.device().timestamp_floor();
    b.device = None;
    let (tun, sockets) = (Tun::from_fds(kept.0), Sockets::from_fds(kept.1).unwrap());
    let start = std::time::Instant::now();
    let options = Options {
        timestamp_floor: floor,
        ..Options::default()
    };
    b.device = Some(Device::start(tun, sockets, options).unwrap());
    b.configure([a.peer()]);
    until("a handshake", || {
        b.device().status()[&a.public()].last_handshake.is_some()
    });
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(a.ping("10.9.0.2", 5), 5);
}

#[test]
fn a_reconfiguration_under_a_flow_loses_nothing() {
    let (_middle, a, b) = pair(2, Options::default());
    assert_eq!(a.ping("10.9.0.2", 3), 3);
    let handshake = a.device().status()[&b.public()].last_handshake;
    let answered = std::thread::scope(|scope| {
        let flow = scope.spawn(|| a.ping("10.9.0.2", 150));
        for round in 0..20 {
            let (key, mut peer) = b.peer();
            let net = format!("10.{}.0.0/16", round + 20);
            peer.allowed.insert(net.parse().unwrap());
            peer.keepalive = Some(round + 1);
            a.configure([
                (key, peer),
                (
                    PrivateKey::generate().unwrap().public().unwrap(),
                    Default::default(),
                ),
            ]);
            std::thread::sleep(Duration::from_millis(50));
        }
        flow.join().unwrap()
    });
    assert_eq!(answered, 150);
    assert_eq!(a.device().status()[&b.public()].last_handshake, handshake);
}

#[test]
fn our_key_changes_and_nothing_is_lost_towards_a_peer_that_takes_both() {
    let (_middle, mut a, b) = pair(1, Options::default());
    assert_eq!(a.ping("10.9.0.2", 3), 3);
    let (old, peer) = a.peer();
    let next = PrivateKey::generate().unwrap();
    b.configure([(old, peer.clone()), (next.public().unwrap(), peer)]);
    a.key = next;
    let answered = std::thread::scope(|scope| {
        let flow = scope.spawn(|| a.ping("10.9.0.2", 100));
        std::thread::sleep(Duration::from_millis(300));
        a.configure([b.peer()]);
        flow.join().unwrap()
    });
    assert_eq!(answered, 100);
    let status = b.device().status();
    assert!(status[&a.public()].last_handshake.is_some());
    b.configure([a.peer()]);
    assert_eq!(a.ping("10.9.0.2", 10), 10);
}

/// Each knows both keys of the other. What is begun with a former key meanwhile must not be what is used when that is forgotten.
#[test]
fn both_change_their_keys_at_the_same_time_and_forget_the_others_former_one() {
    // A handshake that is not answered, since the other has not that key yet, is tried again before the former keys go.
    let timing = Timing {
        rekey_timeout: Duration::from_millis(200),
        ..Timing::default()
    };
    let options = Options {
        timing,
        ..Options::default()
    };
    let (_middle, mut a, mut b) = pair(1, options);
    // Which of the other's keys is called first is their order's: all of them.
    for round in 0..8 {
        assert_eq!(a.ping("10.9.0.2", 3), 3, "{round}");
        let (old_a, old_b) = (a.peer(), b.peer());
        let next = [
            PrivateKey::generate().unwrap(),
            PrivateKey::generate().unwrap(),
        ];
        let new_a = (next[0].public().unwrap(), old_a.1.clone());
        let new_b = (next[1].public().unwrap(), old_b.1.clone());
        let (both_a, both_b) = ([old_a, new_a.clone()], [old_b, new_b.clone()]);
        a.configure(both_b.clone());
        b.configure(both_a.clone());
        let [next_a, next_b] = next;
        (a.key, b.key) = (next_a, next_b);
        let (there, back) = std::thread::scope(|scope| {
            let there = scope.spawn(|| a.ping("10.9.0.2", 200));
            let back = scope.spawn(|| b.ping("10.9.0.1", 200));
            std::thread::sleep(Duration::from_millis(300));
            a.configure(both_b);
            b.configure(both_a);
            std::thread::sleep(Duration::from_millis(1000));
            b.configure([new_a]);
            a.configure([new_b]);
            (there.join().unwrap(), back.join().unwrap())
        });
        assert_eq!((there, back), (200, 200), "{round}");
    }
}

#[test]
fn who_has_a_session_of_our_new_key_gets_none_of_the_old_one_any_more() {
    let (_middle, mut a, b) = pair(1, Options::default());
    assert_eq!(a.ping("10.9.0.2", 3), 3);
    let (old, peer) = a.peer();
    let next = PrivateKey::generate().unwrap();
    let new = next.public().unwrap();
    a.key = next;
    a.configure([b.peer()]);
    // It hears of that late: until then the old one is answered to.
    b.configure([]);
    b.configure([(old, peer.clone())]);
    assert_eq!(b.ping("10.9.0.1", 3), 3);
    assert!(b.device().status()[&old].last_handshake.is_some());
    b.configure([(old, peer.clone()), (new, peer.clone())]);
    until("a session of the new key", || {
        b.device().status()[&new].last_handshake.is_some()
    });
    b.configure([(new, peer.clone())]);
    assert_eq!(b.ping("10.9.0.1", 3), 3);
    // Begun anew, it asks at once for a session of the old key.
    b.configure([(old, peer.clone()), (new, peer.clone())]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(b.device().status()[&old].last_handshake, None);
    assert_eq!(b.ping("10.9.0.1", 3), 3);
}

/// It calls both, in the order of keys, in the same moment.
#[test]
fn a_restarted_peer_that_knows_two_of_our_keys_is_answered_at_once() {
    let (_middle, mut a, mut b) = pair(1, Options::default());
    assert_eq!(a.ping("10.9.0.2", 3), 3);
    for round in 0..8 {
        let (old, peer) = a.peer();
        a.key = PrivateKey::generate().unwrap();
        let both = [(old, peer), a.peer()];
        b.configure(both.clone());
        a.configure([b.peer()]);
        until("a session of the new key", || {
            b.device().status()[&a.public()].last_handshake.is_some()
        });
        let floor = b.device().timestamp_floor();
        b.device = None;
        let options = Options {
            timestamp_floor: floor,
            ..Options::default()
        };
        b.start(1, options);
        let start = std::time::Instant::now();
        b.configure(both);
        until("a handshake", || {
            b.device().status()[&a.public()].last_handshake.is_some()
        });
        // Far less than until the next try.
        assert!(start.elapsed() < Duration::from_secs(1), "{round}");
        assert_eq!(b.ping("10.9.0.1", 3), 3, "{round}");
    }
}

#[test]
fn who_is_only_listened_to_gets_through_and_is_sent_nothing() {
    let (_middle, a, b) = pair(1, Options::default());
    let (key, mut peer) = b.peer();
    peer.accepted = std::mem::take(&mut peer.allowed);
    peer.keepalive = Some(1);
    a.configure([(key, peer)]);
    until("a handshake", || {
        a.device().status()[&key].last_handshake.is_some()
    });
    let before = a.device().dropped();
    assert_eq!(b.ping("10.9.0.1", 1), 0);
    let after = a.device().dropped();
    assert_eq!(after.not_allowed, before.not_allowed);
    // What arrived was answered, by way of nobody.
    assert!(after.unroutable > before.unroutable);
}

#[test]
fn a_standby_is_kept_handshaken_and_passes_nothing() {
    let (_middle, a, b) = pair(1, Options::default());
    let (key, mut peer) = b.peer();
    peer.allowed.clear();
    peer.keepalive = Some(1);
    a.configure([(key, peer)]);
    until("a handshake", || {
        a.device().status()[&key].last_handshake.is_some()
    });
    assert_eq!(b.ping("10.9.0.1", 1), 0);
    assert!(a.device().dropped().not_allowed > 0);
    let before = a.device().status()[&key].tx_bytes;
    until("keepalives", || {
        a.device().status()[&key].tx_bytes > before + 64
    });
}
