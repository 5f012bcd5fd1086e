//! What every device must do, whichever it is: two gateways in two namespaces, judged by `ping` and `wg`.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests are tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use strait_cable::{Device, Keys, Preshared, PrivateKey, open_process};
use strait_host::{Key, Peer, PeerStatus, WireGuard};
use strait_netns::Namespace;
use tempfile::TempDir;

pub(crate) const LINK: &str = "submariner";
const PATIENCE: Duration = Duration::from_secs(20);
/// Pings, 500 a second, that one handshake may take, in an emulated guest too.
const HANDSHAKE: u64 = 75;

/// Whose device it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// The kernel's.
    Kernel,
    /// One in this process.
    Process,
}

/// One of two gateways: number 1 or 2.
pub(crate) struct Gateway {
    pub(crate) ns: Namespace,
    pub(crate) number: u8,
    pub(crate) key: Key,
    pub(crate) wanted: WireGuard,
    pub(crate) device: Box<dyn Device>,
    pub(crate) keys: Keys,
    /// Of what outlives a process.
    pub(crate) state: TempDir,
}

pub(crate) fn run(ns: &Namespace, command: &str) -> String {
    let output = spawn(ns, command).wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn spawn(ns: &Namespace, command: &str) -> Child {
    let mut words = command.split_whitespace();
    let mut program = ns.command(words.next().unwrap());
    program
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    program.spawn().unwrap_or_else(|e| panic!("{command}: {e}"))
}

/// Two gateways with a wire between them; neither knows the other.
pub(crate) fn gateways(kinds: [Kind; 2], passphrases: [&str; 2]) -> [Gateway; 2] {
    let spaces = [Namespace::new().unwrap(), Namespace::new().unwrap()];
    wire(&spaces);
    let [first, second] = spaces;
    [
        gateway(first, 1, kinds[0], passphrases[0]),
        gateway(second, 2, kinds[1], passphrases[1]),
    ]
}

fn wire([first, second]: &[Namespace; 2]) {
    // `ip` moves an end by the number of a process that lives in the other namespace.
    let mut there = spawn(second, "sleep 60");
    let command = format!(
        "ip link add wan netns {} type veth peer name wan",
        there.id()
    );
    run(first, &command);
    there.kill().unwrap();
    there.wait().unwrap();
    for (ns, number) in [(first, 1), (second, 2)] {
        run(ns, "ip link set lo up");
        run(ns, "ip link set wan up");
        run(ns, &format!("ip addr add 192.0.2.{number}/24 dev wan"));
        run(
            ns,
            &format!("ip addr add 2001:db8::{number}/64 dev wan nodad"),
        );
    }
}

fn gateway(ns: Namespace, number: u8, kind: Kind, passphrase: &str) -> Gateway {
    let private = PrivateKey::random().unwrap();
    let key = private.public();
    let keys = Keys {
        private,
        preshared: Preshared::of(passphrase),
    };
    let state = tempfile::tempdir().unwrap();
    let own = keys.clone();
    let opened = match kind {
        Kind::Kernel => ns
            .run(|| strait_cable::open_kernel(LINK, own, state.path()))
            .unwrap(),
        Kind::Process => Ok(open_process(LINK, own, state.path(), None, [].into())),
    };
    let device = opened.unwrap_or_else(|e| panic!("{kind:?}: {e}"));
    if device.is_kernel() {
        run(&ns, &format!("ip link add {LINK} type wireguard"));
    }
    run(&ns, &format!("ip addr add 10.{number}.0.1/32 dev lo"));
    run(&ns, &format!("ip addr add fd0{number}::1/128 dev lo nodad"));
    let wanted = WireGuard {
        port: 4500,
        mark: 0,
        mtu: 1420,
        peers: [].into(),
    };
    let mut gateway = Gateway {
        ns,
        number,
        key,
        wanted,
        device,
        keys,
        state,
    };
    gateway.apply();
    let other = 3 - number;
    let ns = &gateway.ns;
    run(ns, &format!("ip link set {LINK} mtu 1420 up"));
    run(
        ns,
        &format!("ip route add 10.{other}.0.0/16 dev {LINK} src 10.{number}.0.1"),
    );
    run(
        ns,
        &format!("ip route add fd0{other}::/16 dev {LINK} src fd0{number}::1"),
    );
    gateway
}

impl Gateway {
    pub(crate) fn apply(&mut self) -> BTreeMap<Key, PeerStatus> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        let (device, wanted) = (&mut self.device, &self.wanted);
        self.ns.run(|| device.keep(wanted, now)).unwrap().unwrap()
    }

    pub(crate) fn status(&mut self, peer: Key) -> PeerStatus {
        self.apply().remove(&peer).unwrap_or_default()
    }

    /// Makes it know the other: where it is, and what it has.
    pub(crate) fn know(&mut self, key: Key, endpoint: &str, allowed: &[&str]) {
        let allowed: BTreeSet<IpNet> = allowed.iter().map(|net| net.parse().unwrap()).collect();
        let peer = Peer {
            endpoint: Some(endpoint.parse().unwrap()),
            allowed,
            accepted: BTreeSet::new(),
            succeeds: BTreeSet::new(),
            keepalive: 1,
        };
        self.wanted.peers.insert(key, peer);
        self.apply();
    }

    /// Waits until nobody has its port any more: a child that another test has just forked has all descriptors until its program begins.
    pub(crate) fn waits_for_its_port(&self) {
        let begun = Instant::now();
        while run(&self.ns, "ss -H -l -u -n").contains(":4500 ") {
            assert!(begun.elapsed() < PATIENCE, "the port is taken");
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether the other answers in a family.
    pub(crate) fn reaches(&self, target: &str) -> bool {
        let ping = format!("ping -n -c 1 -W 1 {target}");
        spawn(&self.ns, &ping)
            .wait_with_output()
            .unwrap()
            .status
            .success()
    }

    pub(crate) fn must_reach(&self, target: &str) {
        let begun = Instant::now();
        while !self.reaches(target) {
            assert!(begun.elapsed() < PATIENCE, "{target} does not answer");
        }
    }

    /// 500 pings a second while something happens; how many were lost.
    pub(crate) fn lost_while(&mut self, target: &str, happens: impl FnOnce(&mut Self)) -> u64 {
        let ping = spawn(
            &self.ns,
            &format!("ping -n -i 0.002 -c 1500 -W 2 -q {target}"),
        );
        sleep(Duration::from_millis(500));
        happens(self);
        let output = ping.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // "1500 packets transmitted, 1500 received, …"
        let before = |word: &str| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let at = words.iter().position(|w| w.starts_with(word));
            let at = at.unwrap_or_else(|| panic!("{text}"));
            words[at - 1].parse::<u64>().unwrap()
        };
        assert_eq!(before("packets"), 1500, "{text}");
        1500 - before("received")
    }
}

/// The nets of a gateway's cluster.
pub(crate) fn nets(number: u8) -> [String; 2] {
    [format!("10.{number}.0.0/16"), format!("fd0{number}::/16")]
}

/// Waits until both have a session, looking after both as gateways do: either may be the one that is to call again.
fn handshaken(one: &mut Gateway, two: &mut Gateway) {
    let begun = Instant::now();
    let (first, second) = (one.key, two.key);
    let mut there = || {
        let [one, two] = [one.status(second), two.status(first)];
        one.handshake.is_some() && two.handshake.is_some()
    };
    while !there() {
        let passed = begun.elapsed();
        assert!(passed < PATIENCE, "no handshake within {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Two gateways that know each other and have a session, over IPv4 or IPv6 outside.
pub(crate) fn joined(kinds: [Kind; 2], v6: bool) -> [Gateway; 2] {
    let mut both = gateways(kinds, ["secret"; 2]);
    let keys = [both[0].key, both[1].key];
    for (i, gateway) in both.iter_mut().enumerate() {
        let other = 1 - i;
        let at = if v6 {
            format!("[2001:db8::{}]:4500", other + 1)
        } else {
            format!("192.0.2.{}:4500", other + 1)
        };
        let nets = nets(2 - i as u8);
        gateway.know(keys[other], &at, &[&nets[0], &nets[1]]);
    }
    let [one, two] = &mut both;
    handshaken(one, two);
    both
}

pub(crate) fn both_families_pass_inside_whichever_is_outside(kinds: [Kind; 2]) {
    for v6 in [false, true] {
        let [mut one, mut two] = joined(kinds, v6);
        one.must_reach("10.2.0.1");
        one.must_reach("fd02::1");
        two.must_reach("10.1.0.1");
        two.must_reach("fd01::1");
        let status = one.status(two.key);
        assert!(status.received > 0 && status.sent > 0, "{status:?}");
        assert_eq!(status.endpoint.unwrap().is_ipv6(), v6);
        assert!(two.status(one.key).handshake.is_some());
    }
}

pub(crate) fn a_peer_without_prefixes_is_warm_and_takes_over_at_once(kinds: [Kind; 2]) {
    let [mut one, mut two] = gateways(kinds, ["secret"; 2]);
    let nets = [nets(1), nets(2)];
    two.know(one.key, "192.0.2.1:4500", &[&nets[0][0], &nets[0][1]]);
    one.know(two.key, "192.0.2.2:4500", &[]);
    handshaken(&mut one, &mut two);
    assert!(!one.reaches("10.2.0.1"), "nothing is sent to it");
    one.know(two.key, "192.0.2.2:4500", &[&nets[1][0], &nets[1][1]]);
    assert!(
        one.reaches("10.2.0.1"),
        "the first ping passes: the tunnel was warm"
    );
}

pub(crate) fn what_changes_in_place_loses_nothing(kinds: [Kind; 2]) {
    let [mut one, two] = joined(kinds, false);
    one.must_reach("10.2.0.1");
    let key = two.key;
    let lost = one.lost_while("10.2.0.1", |one| {
        for i in 0..50 {
            let more = format!("10.{}.0.0/16", 100 + i);
            one.know(key, "192.0.2.2:4500", &["10.2.0.0/16", "fd02::/16", &more]);
            // It loses that again, and with it for a moment the others, on a kernel's device: not here.
            sleep(Duration::from_millis(10));
            one.wanted.peers.insert(
                Key([9; 32]),
                Peer {
                    endpoint: None,
                    allowed: [more.parse().unwrap()].into(),
                    accepted: BTreeSet::new(),
                    succeeds: BTreeSet::new(),
                    keepalive: 0,
                },
            );
            one.know(key, "192.0.2.2:4500", &["10.2.0.0/16", "fd02::/16"]);
            one.wanted.peers.remove(&Key([9; 32]));
            one.apply();
        }
    });
    assert_eq!(lost, 0);
}

/// Handshakes that cross on their way, as they do where both learn of each other at about the same time. The wire takes 150 ms each way,
/// by the kernel's netem.
pub(crate) fn two_that_call_each_other_at_once_need_not_wait_for_a_second_call(kinds: [Kind; 2]) {
    let [mut one, mut two] = gateways(kinds, ["secret"; 2]);
    for gateway in [&one, &two] {
        run(&gateway.ns, "tc qdisc add dev wan root netem delay 150ms");
    }
    // The neighbours know each other.
    one.must_reach("192.0.2.2");
    let nets = [nets(1), nets(2)];
    let begun = Instant::now();
    one.know(two.key, "192.0.2.2:4500", &[&nets[1][0], &nets[1][1]]);
    two.know(one.key, "192.0.2.1:4500", &[&nets[0][0], &nets[0][1]]);
    handshaken(&mut one, &mut two);
    let took = begun.elapsed();
    // The protocol's own second call comes after 5 s (`REKEY_TIMEOUT`).
    assert!(took < Duration::from_millis(4800), "{kinds:?}: {took:?}");
    one.must_reach("10.2.0.1");
    two.must_reach("10.1.0.1");
}

pub(crate) fn another_passphrase_is_another_clusterset(kinds: [Kind; 2]) {
    let [mut one, mut two] = gateways(kinds, ["secret", "other"]);
    one.know(two.key, "192.0.2.2:4500", &["10.2.0.0/16"]);
    two.know(one.key, "192.0.2.1:4500", &["10.1.0.0/16"]);
    for _ in 0..3 {
        assert!(!one.reaches("10.2.0.1"));
    }
    assert_eq!(one.status(two.key).handshake, None);
}

/// As gateways do it that follow a Secret: peers that are there get another preshared key, which counts in handshakes.
pub(crate) fn a_changed_passphrase_counts_from_the_next_handshake(kinds: [Kind; 2]) {
    let [mut one, mut two] = joined(kinds, false);
    one.must_reach("10.2.0.1");
    two.must_reach("10.1.0.1");
    let other = Preshared::of("other");
    one.device.share(other.clone());
    let lost = one.lost_while("10.2.0.1", |one| {
        one.apply();
    });
    assert_eq!(lost, 0, "the session goes on");
    // The other side begins anew, with what it has.
    let peers = std::mem::take(&mut two.wanted.peers);
    two.apply();
    two.wanted.peers = peers;
    two.apply();
    for _ in 0..3 {
        assert!(!one.reaches("10.2.0.1"));
    }
    assert_eq!(two.status(one.key).handshake, None);
    two.device.share(other);
    two.apply();
    one.must_reach("10.2.0.1");
    two.must_reach("10.1.0.1");
    assert!(two.status(one.key).handshake.is_some());
}

pub(crate) fn who_roams_is_followed_and_not_called_back(kinds: [Kind; 2]) {
    let [mut one, two] = joined(kinds, false);
    one.must_reach("10.2.0.1");
    // In this order: the first address of a prefix takes the others along when it goes.
    run(&two.ns, "ip addr del 192.0.2.2/24 dev wan");
    run(&two.ns, "ip addr add 192.0.2.22/24 dev wan");
    two.must_reach("10.1.0.1");
    one.apply();
    assert_eq!(one.status(two.key).endpoint, "192.0.2.22:4500".parse().ok());
    one.must_reach("10.2.0.1");
}

pub(crate) fn a_changed_port_and_place_is_followed(kinds: [Kind; 2]) {
    let [mut one, mut two] = joined(kinds, false);
    one.must_reach("10.2.0.1");
    // Nothing comes from there that would tell.
    two.wanted.peers.clear();
    two.wanted.port = 4501;
    two.apply();
    let nets = [nets(1), nets(2)];
    one.know(two.key, "192.0.2.2:4501", &[&nets[1][0], &nets[1][1]]);
    two.know(one.key, "192.0.2.1:4500", &[&nets[0][0], &nets[0][1]]);
    one.must_reach("10.2.0.1");
    assert_eq!(one.status(two.key).endpoint, "192.0.2.2:4501".parse().ok());
}

/// As gateways do it: the other is told of the next key, then that counts, which is seen before it is told, then the former one goes.
pub(crate) fn a_changed_key_is_followed(kinds: [Kind; 2]) {
    let [mut one, mut two] = joined(kinds, false);
    one.must_reach("10.2.0.1");
    let in_process = |gateway: &Gateway| !gateway.device.is_kernel();
    let lossless = in_process(&one) && in_process(&two);
    let (first, next) = (one.key, PrivateKey::random().unwrap());
    let second = next.public();
    let nets = nets(1);
    let both = [nets[0].as_str(), nets[1].as_str()];
    let at = "192.0.2.1:4500";
    let lost = one.lost_while("10.2.0.1", |one| {
        // In the kernel a prefix belongs to one peer.
        if in_process(&two) {
            two.know(second, at, &both);
        } else {
            two.know(second, at, &[]);
            two.wanted.peers.get_mut(&second).unwrap().succeeds = [first].into();
            two.apply();
        }
        sleep(Duration::from_millis(300));
        one.keys.private = next.clone();
        one.device.rekey(next);
        one.apply();
        // Of what counts the other side hears late.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(600) {
            two.apply();
            sleep(Duration::from_millis(20));
        }
        if !in_process(&two) {
            two.wanted.peers.remove(&first);
        }
        two.know(second, at, &both);
        sleep(Duration::from_millis(300));
        two.wanted.peers.remove(&first);
        two.apply();
    });
    println!("{kinds:?}: {lost} of 1500 lost");
    // Otherwise those of one handshake, and until a kernel's device is looked at.
    let most = if lossless { 0 } else { HANDSHAKE };
    assert!(lost <= most, "{kinds:?}: {lost} of 1500 lost");
    one.must_reach("10.2.0.1");
    two.must_reach("10.1.0.1");
    assert!(two.status(second).handshake.is_some());
    assert_eq!(two.status(first), PeerStatus::default());
}

pub(crate) fn a_peer_that_goes_is_silent(kinds: [Kind; 2]) {
    let [mut one, two] = joined(kinds, false);
    one.must_reach("10.2.0.1");
    one.wanted.peers.clear();
    one.apply();
    assert!(!one.reaches("10.2.0.1"));
    assert!(!two.reaches("10.1.0.1"));
}

/// The tests of one pair of devices.
macro_rules! suite {
    ($kinds:expr; $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                suite::$test($kinds);
            }
        )*
    };
    ($kinds:expr) => {
        suite!($kinds;
            both_families_pass_inside_whichever_is_outside
            a_peer_without_prefixes_is_warm_and_takes_over_at_once
            what_changes_in_place_loses_nothing
            another_passphrase_is_another_clusterset
            a_changed_passphrase_counts_from_the_next_handshake
            who_roams_is_followed_and_not_called_back
            a_changed_port_and_place_is_followed
            a_changed_key_is_followed
            a_peer_that_goes_is_silent
        );
    };
}
pub(crate) use suite;
