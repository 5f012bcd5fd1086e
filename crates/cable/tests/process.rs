//! The device in this process: with itself, with Debian's `wireguard-go`, and over its own death.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod suite;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use strait_cable::{Choice, Holder, Kind as Whose, open_process};
use strait_netns::Namespace;
use suite::{Gateway, Kind, LINK, run, spawn, suite};

suite!([Kind::Process, Kind::Process]);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(20));
    }
}

/// The number of its link, which a new one would not have.
fn index(gateway: &Gateway) -> u64 {
    let text = run(&gateway.ns, &format!("ip -j link show {LINK}"));
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["ifindex"].as_u64().unwrap()
}

/// What a parent process does.
#[derive(Debug, Clone, Default)]
struct Parent(Arc<Mutex<BTreeMap<String, OwnedFd>>>);

impl Parent {
    /// Copies, as another process gets them.
    fn held(&self) -> BTreeMap<String, OwnedFd> {
        let held = self.0.lock().unwrap();
        let copy = |(name, fd): (&String, &OwnedFd)| (name.clone(), fd.try_clone().unwrap());
        held.iter().map(copy).collect()
    }
}

impl Holder for Parent {
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let copy = descriptor.try_clone_to_owned()?;
        self.0.lock().unwrap().insert(name.to_owned(), copy);
        Ok(())
    }

    fn release(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}

/// Begins anew with what a parent has.
fn reopen(gateway: &mut Gateway, parent: &Parent) {
    // What it held itself is closed first, as the kernel does it for who dies.
    gateway.device = open_process(
        LINK,
        gateway.keys.clone(),
        gateway.state.path(),
        None,
        [].into(),
    );
    let (keys, state) = (gateway.keys.clone(), gateway.state.path());
    gateway.device = open_process(
        LINK,
        keys,
        state,
        Some(Box::new(parent.clone())),
        parent.held(),
    );
}

/// Two that know each other, of which the first has a parent.
fn with_parent() -> ([Gateway; 2], Parent) {
    let [mut one, two] = suite::gateways([Kind::Process; 2], ["secret"; 2]);
    let parent = Parent::default();
    reopen(&mut one, &parent);
    one.apply();
    run(&one.ns, &format!("ip link set {LINK} mtu 1420 up"));
    run(
        &one.ns,
        &format!("ip route replace 10.2.0.0/16 dev {LINK} src 10.1.0.1"),
    );
    let mut both = [one, two];
    let keys = [both[0].key, both[1].key];
    for (i, gateway) in both.iter_mut().enumerate() {
        let (at, nets) = (format!("192.0.2.{}:4500", 2 - i), suite::nets(2 - i as u8));
        gateway.know(keys[1 - i], &at, &[&nets[0], &nets[1]]);
    }
    (both, parent)
}

#[test]
fn who_dies_leaves_its_link_and_its_successor_handshakes_before_it_is_told_anything() {
    let ([mut one, mut two], parent) = with_parent();
    one.must_reach("10.2.0.1");
    one.apply();
    let before = index(&one);
    let last = two.status(one.key);
    reopen(&mut one, &parent);
    let begun = Instant::now();
    until("no datagram came from it", || {
        two.status(one.key).received > last.received
    });
    println!("heard again after {:?}", begun.elapsed());
    assert!(one.reaches("10.2.0.1"), "it was told nothing yet");
    assert_eq!(index(&one), before);
    let status = one.status(two.key);
    assert!(status.handshake.is_some(), "{status:?}");
}

#[test]
fn a_peer_that_had_roamed_is_found_where_it_is_after_a_death() {
    let ([mut one, mut two], parent) = with_parent();
    one.must_reach("10.2.0.1");
    run(&two.ns, "ip addr del 192.0.2.2/24 dev wan");
    run(&two.ns, "ip addr add 192.0.2.22/24 dev wan");
    two.must_reach("10.1.0.1");
    one.apply();
    // It says nothing by itself, so that it can't be found by what it sends.
    run(&two.ns, "nft add table inet quiet");
    run(
        &two.ns,
        "nft add chain inet quiet out { type filter hook output priority 0; policy accept; }",
    );
    run(
        &two.ns,
        "nft add rule inet quiet out udp sport 4500 @th,64,8 != 2 @th,64,8 != 4 drop",
    );
    reopen(&mut one, &parent);
    until("no handshake", || {
        let here = two.status(one.key);
        here.handshake.is_some() && one.reaches("10.2.0.1")
    });
    let at = one.status(two.key).endpoint;
    assert_eq!(at, "192.0.2.22:4500".parse().ok());
    // What is said of it holds from when it is said anew.
    let key = two.key;
    one.know(key, "192.0.2.23:4500", &["10.2.0.0/16", "fd02::/16"]);
    assert_eq!(one.status(key).endpoint, "192.0.2.23:4500".parse().ok());
}

#[test]
fn what_a_parent_has_that_is_of_no_use_is_made_anew() {
    let ([mut one, two], parent) = with_parent();
    one.must_reach("10.2.0.1");
    let names = || parent.held().into_keys().collect::<Vec<String>>();
    let before = names();
    assert!(before.len() >= 3, "{before:?}");
    for without in &before {
        parent.0.lock().unwrap().remove(without);
        reopen(&mut one, &parent);
        one.apply();
        run(&one.ns, &format!("ip link set {LINK} up"));
        run(
            &one.ns,
            &format!("ip route replace 10.2.0.0/16 dev {LINK} src 10.1.0.1"),
        );
        one.must_reach("10.2.0.1");
        assert_eq!(names(), before);
    }
    drop(two);
}

#[test]
fn a_link_that_somebody_removes_is_made_anew() {
    let [mut one, two] = suite::joined([Kind::Process; 2], false);
    one.must_reach("10.2.0.1");
    run(&one.ns, &format!("ip link del {LINK}"));
    assert!(!one.reaches("10.2.0.1"));
    one.apply();
    run(&one.ns, &format!("ip link set {LINK} mtu 1420 up"));
    run(
        &one.ns,
        &format!("ip route add 10.2.0.0/16 dev {LINK} src 10.1.0.1"),
    );
    one.must_reach("10.2.0.1");
    drop(two);
}

#[test]
fn a_link_that_somebody_else_has_is_left_alone() {
    let [one, _two] = suite::gateways([Kind::Process; 2], ["secret"; 2]);
    let ns = Namespace::new().unwrap();
    for made in [
        "ip link add submariner type veth peer name other",
        "ip link add submariner type bridge",
    ] {
        run(&ns, made);
        let before = run(&ns, "ip -j link show");
        let state = tempfile::tempdir().unwrap();
        let mut here = open_process(LINK, one.keys.clone(), state.path(), None, [].into());
        let error = ns.run(|| here.keep(&one.wanted, 0)).unwrap().unwrap_err();
        assert!(error.to_string().contains(LINK), "{error}");
        assert!(!here.has_link());
        assert_eq!(run(&ns, "ip -j link show"), before);
        run(&ns, "ip link del submariner");
        ns.run(|| here.keep(&one.wanted, 0)).unwrap().unwrap();
        assert!(here.has_link());
    }
}

#[test]
fn a_port_that_is_taken_ends_nothing_that_works() {
    let [mut one, two] = suite::joined([Kind::Process; 2], false);
    one.must_reach("10.2.0.1");
    let taken = one.ns.run(|| std::net::UdpSocket::bind("0.0.0.0:4501"));
    let taken = taken.unwrap().unwrap();
    one.wanted.port = 4501;
    let (device, wanted) = (&mut one.device, &one.wanted);
    let error = one.ns.run(|| device.keep(wanted, 0)).unwrap().unwrap_err();
    assert!(error.to_string().contains("binding"), "{error}");
    assert!(one.reaches("10.2.0.1"));
    drop(taken);
    // With the port its link stays.
    let before = index(&one);
    one.apply();
    assert_eq!(index(&one), before);
    one.must_reach("10.2.0.1");
    drop(two);
}

#[test]
fn what_it_sends_is_marked_and_its_state_is_its_owners_only() {
    let [mut one, two] = suite::joined([Kind::Process; 2], false);
    one.wanted.mark = 0x53;
    one.wanted.port = 4501;
    run(&one.ns, "nft add table inet marks");
    run(
        &one.ns,
        "nft add chain inet marks out { type filter hook output priority 0; policy accept; }",
    );
    run(
        &one.ns,
        "nft add rule inet marks out udp sport 4501 meta mark 0x53 counter comment marked",
    );
    run(
        &one.ns,
        "nft add rule inet marks out udp sport 4501 meta mark != 0x53 counter comment bare",
    );
    one.apply();
    one.must_reach("10.2.0.1");
    one.apply();
    let rules = run(&one.ns, "nft -j list table inet marks");
    let rules: serde_json::Value = serde_json::from_str(&rules).unwrap();
    let count = |comment: &str| {
        let all = rules["nftables"].as_array().unwrap().iter();
        let rule = all
            .map(|it| &it["rule"])
            .find(|rule| rule["comment"] == comment);
        let expressions = rule.unwrap()["expr"].as_array().unwrap();
        let counter = expressions
            .iter()
            .find_map(|e| e["counter"]["packets"].as_u64());
        counter.unwrap()
    };
    assert!(count("marked") > 0);
    assert_eq!(count("bare"), 0);
    let file = one.state.path().join("wireguard.stamp");
    assert_eq!(std::fs::read(&file).unwrap().len(), 12);
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(two);
}

/// The greatest timestamp is given back at start: a file from the future stands in for a clock that was stepped back.
#[test]
fn after_the_clock_was_stepped_back_a_new_process_is_heard_all_the_same() {
    let [mut one, mut two] = suite::joined([Kind::Process; 2], false);
    one.must_reach("10.2.0.1");
    one.apply();
    let again = |one: &mut Gateway| {
        let keys = one.keys.clone();
        // The link goes with the process that has no parent.
        one.device = open_process(LINK, keys.clone(), one.state.path(), None, [].into());
        one.apply();
        run(&one.ns, &format!("ip link set {LINK} mtu 1420 up"));
        run(
            &one.ns,
            &format!("ip route add 10.2.0.0/16 dev {LINK} src 10.1.0.1"),
        );
    };
    let file = one.state.path().join("wireguard.stamp");
    let mut stamp = std::fs::read(&file).unwrap();
    // 2^24 s, about half a year.
    stamp[4] += 1;
    std::fs::write(&file, &stamp).unwrap();
    again(&mut one);
    one.must_reach("10.2.0.1");
    one.apply();
    let kept = std::fs::read(&file).unwrap();
    assert!(kept > stamp, "{kept:?}");
    // Without the file its handshakes would lie before the last one, and be refused: so the file is what does it.
    std::fs::remove_file(&file).unwrap();
    again(&mut one);
    let before = two.status(one.key).handshake;
    assert!(!one.reaches("10.2.0.1"));
    assert_eq!(two.status(one.key).handshake, before);
    std::fs::write(&file, &kept).unwrap();
    again(&mut one);
    one.must_reach("10.2.0.1");
}

#[test]
fn wireguard_go_is_a_peer_like_any_other() {
    let [mut one, two] = suite::gateways([Kind::Process; 2], ["secret"; 2]);
    let Gateway {
        ns,
        keys,
        device,
        key,
        state,
        ..
    } = two;
    drop(device);
    // All have their sockets in one directory, whatever their namespace.
    let name = format!("go{}", std::process::id());
    let mut go = spawn(&ns, &format!("wireguard-go -f {name}"));
    let socket = format!("/var/run/wireguard/{name}.sock");
    until("wireguard-go", || UnixStream::connect(&socket).is_ok());
    let conf = state.path().join("conf");
    let text = |octets: &[u8; 32]| strait_host::Key(*octets).to_string();
    let config = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 4500\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.1.0.0/16, fd01::/16\n",
        text(&keys.private.expose()),
        one.key,
        text(keys.preshared.expose()),
    );
    std::fs::write(&conf, config).unwrap();
    run(&ns, &format!("wg setconf {name} {}", conf.display()));
    run(&ns, &format!("ip link set {name} mtu 1420 up"));
    run(
        &ns,
        &format!("ip route add 10.1.0.0/16 dev {name} src 10.2.0.1"),
    );
    run(
        &ns,
        &format!("ip route add fd01::/16 dev {name} src fd02::1"),
    );
    one.know(key, "192.0.2.2:4500", &["10.2.0.0/16", "fd02::/16"]);
    one.must_reach("10.2.0.1");
    one.must_reach("fd02::1");
    let shown = run(&ns, &format!("wg show {name} latest-handshakes"));
    let ours = one.key.to_string();
    let at = shown.lines().find_map(|line| line.strip_prefix(&ours));
    assert!(at.unwrap().trim().parse::<u64>().unwrap() > 0, "{shown}");
    // As Submariner's it hears of another key of ours when that counts, and connects again.
    let next = strait_cable::PrivateKey::random().unwrap();
    let second = next.public();
    one.device.rekey(next);
    one.apply();
    let preshared = state.path().join("preshared");
    std::fs::write(&preshared, text(keys.preshared.expose())).unwrap();
    for change in [
        format!("peer {ours} remove"),
        format!(
            "peer {second} preshared-key {} allowed-ips 10.1.0.0/16,fd01::/16 endpoint 192.0.2.1:4500",
            preshared.display()
        ),
    ] {
        run(&ns, &format!("wg set {name} {change}"));
    }
    let begun = Instant::now();
    one.must_reach("10.2.0.1");
    println!(
        "wireguard-go is connected again after {:?}",
        begun.elapsed()
    );
    let ours = second.to_string();
    let shown = run(&ns, &format!("wg show {name} latest-handshakes"));
    assert!(shown.starts_with(&ours), "{shown}");
    // One that moves is followed, one without prefixes stays warm.
    run(&ns, &format!("wg set {name} listen-port 4502"));
    run(
        &ns,
        &format!("wg set {name} peer {ours} endpoint 192.0.2.1:4500"),
    );
    until("it is not followed", || {
        let _ = spawn(&ns, "ping -n -c 1 -W 1 10.1.0.1").wait_with_output();
        one.status(key).endpoint == "192.0.2.2:4502".parse().ok()
    });
    one.must_reach("10.2.0.1");
    one.know(key, "192.0.2.2:4500", &[]);
    assert!(!one.reaches("10.2.0.1"));
    go.kill().unwrap();
    go.wait().unwrap();
}

#[test]
fn the_kernels_is_taken_where_ip_can_make_one() {
    let ns = Namespace::new().unwrap();
    let made = spawn(&ns, "ip link add probe type wireguard").wait_with_output();
    let expected = if made.unwrap().status.success() {
        Whose::Kernel
    } else {
        Whose::Process
    };
    let (kind, why) = ns.run(|| Choice::Auto.settle()).unwrap();
    assert_eq!(kind, expected, "{why}");
    for (text, kind) in [("kernel", Whose::Kernel), ("process", Whose::Process)] {
        let choice: Choice = text.parse().unwrap();
        assert_eq!(choice.settle().0, kind);
    }
    assert!("Kernel".parse::<Choice>().is_err());
}
