//! What the tests share: hosts as network namespaces on one bridge, with a device each, and the foreign tools that judge.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use strait_netns::Namespace;
use strait_wg::{Config, Device, Options, PeerConfig, PrivateKey, PublicKey, Sockets, Tun};

pub(crate) const PORT: u16 = 51820;

/// Tests that count what is lost can't share the kernel's per-CPU queues with one that fills them.
static ALONE: Mutex<()> = Mutex::new(());

/// The bridge between the hosts.
pub(crate) struct Middle {
    pub(crate) ns: Namespace,
    _alone: MutexGuard<'static, ()>,
}

/// A host: 192.0.2.N/24 and 2001:db8::N/64 outside, 10.9.0.N/24 and fd09::N/64 inside.
pub(crate) struct Host {
    pub(crate) ns: Namespace,
    pub(crate) number: u8,
    pub(crate) key: PrivateKey,
    pub(crate) device: Option<Device>,
}

/// So many hosts on one bridge. One test at a time has any.
pub(crate) fn hosts(count: u8) -> (Middle, Vec<Host>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let middle = Namespace::new().expect("network namespaces need root");
    run(&middle, "ip link add br0 type bridge");
    run(&middle, "ip link set br0 up");
    let hosts = (1..=count).map(|number| {
        let ns = Namespace::new().expect("network namespaces need root");
        let path = format!(
            "/run/netns/wg-test-{}-{}",
            std::process::id(),
            ns.inode().unwrap_or_default()
        );
        ns.name(&path).expect("a name");
        let name = path.trim_start_matches("/run/netns/");
        run(
            &middle,
            &format!("ip link add h{number} type veth peer name eth0 netns {name}"),
        );
        Namespace::unname(&path).expect("the name");
        run(&middle, &format!("ip link set h{number} master br0 up"));
        run(&ns, "ip link set eth0 up");
        run(&ns, &format!("ip addr add 192.0.2.{number}/24 dev eth0"));
        run(
            &ns,
            &format!("ip addr add 2001:db8::{number}/64 dev eth0 nodad"),
        );
        let key = PrivateKey::generate().expect("a key");
        Host {
            ns,
            number,
            key,
            device: None,
        }
    });
    let hosts = hosts.collect();
    (Middle { ns: middle, _alone }, hosts)
}

impl Host {
    pub(crate) fn public(&self) -> PublicKey {
        self.key.public().expect("a public key")
    }

    pub(crate) fn endpoint(&self) -> SocketAddr {
        format!("192.0.2.{}:{PORT}", self.number)
            .parse()
            .expect("an address")
    }

    pub(crate) fn endpoint6(&self) -> SocketAddr {
        format!("[2001:db8::{}]:{PORT}", self.number)
            .parse()
            .expect("an address")
    }

    /// How another one knows it.
    pub(crate) fn peer(&self) -> (PublicKey, PeerConfig) {
        let n = self.number;
        let nets = [format!("10.9.0.{n}/32"), format!("fd09::{n}/128")];
        let config = PeerConfig {
            endpoint: Some(self.endpoint()),
            allowed: nets
                .iter()
                .map(|net| net.parse().expect("a prefix"))
                .collect(),
            ..PeerConfig::default()
        };
        (self.public(), config)
    }

    pub(crate) fn config(
        &self,
        peers: impl IntoIterator<Item = (PublicKey, PeerConfig)>,
    ) -> Config {
        Config {
            private_key: self.key.clone(),
            peers: peers.into_iter().collect(),
        }
    }

    /// Makes `wg0` with so many queues and sockets, and starts the device.
    pub(crate) fn start(&mut self, lanes: usize, options: Options) {
        let (tun, sockets) = self.open(lanes);
        self.device = Some(Device::start(tun, sockets, options).expect("a device"));
    }

    pub(crate) fn open(&self, lanes: usize) -> (Tun, Sockets) {
        let opened = self.ns.run(|| {
            let tun = Tun::open("wg0", 1420, lanes).expect("a TUN device");
            let sockets = Sockets::bind(PORT, None, lanes).expect("sockets");
            (tun, sockets)
        });
        let opened = opened.expect("a namespace");
        self.address("wg0");
        opened
    }

    pub(crate) fn address(&self, link: &str) {
        let n = self.number;
        run(&self.ns, &format!("ip addr add 10.9.0.{n}/24 dev {link}"));
        run(
            &self.ns,
            &format!("ip addr add fd09::{n}/64 dev {link} nodad"),
        );
        run(&self.ns, &format!("ip link set {link} up"));
    }

    pub(crate) fn device(&self) -> &Device {
        self.device.as_ref().expect("it was started")
    }

    pub(crate) fn configure(&self, peers: impl IntoIterator<Item = (PublicKey, PeerConfig)>) {
        self.device()
            .configure(self.config(peers))
            .expect("a configuration");
    }

    /// Sends so many pings, a hundred a second; gives how many were answered.
    pub(crate) fn ping(&self, to: &str, count: u32) -> u32 {
        // After the last one, ping waits for two round trips at most: some more give answers the time that a busy machine needs.
        let sent = (count + 20).to_string();
        let output = self
            .ns
            .command("ping")
            .args(["-n", "-i", "0.01", "-W", "2", "-c", &sent, to])
            .output()
            .expect("ping");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(" received"), "ping said: {text}");
        let number = |line: &str| -> Option<u32> {
            // What could not be delivered has a number too, and no time.
            let (_, rest) = line
                .split_once("icmp_seq=")
                .filter(|_| line.contains("time="))?;
            rest.split(' ').next()?.parse().ok()
        };
        let answered: BTreeSet<u32> = text.lines().filter_map(number).collect();
        let answered = answered.range(..=count).count();
        u32::try_from(answered).expect("not more than were sent")
    }

    /// Starts a command that ends with the test.
    pub(crate) fn start_command(&self, command: &str) -> Running {
        let mut words = command.split_whitespace();
        let mut process = self.ns.command(words.next().expect("a command"));
        process
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Running(
            process
                .spawn()
                .unwrap_or_else(|e| panic!("this test needs {command}: {e}")),
        )
    }

    /// What an iperf3 client says; a server for one client is started at the other host first.
    pub(crate) fn iperf(&self, server: &Host, to: &str, arguments: &str) -> Value {
        let _server = server.start_command("iperf3 -s -1");
        until("iperf3 listens", || {
            run(&server.ns, "ss -Hltn sport = :5201").contains("5201")
        });
        let text = run(&self.ns, &format!("iperf3 -J -c {to} {arguments}"));
        serde_json::from_str(&text).expect("iperf3's JSON")
    }
}

/// Bytes that had arrived when an iperf3 client had sent all: what is under way then, some megabytes, does not count.
pub(crate) fn received(said: &Value) -> f64 {
    said["end"]["sum_received"]["bytes"]
        .as_f64()
        .expect("iperf3's sum")
}

/// Two hosts with devices that know each other.
pub(crate) fn pair(lanes: usize, options: Options) -> (Middle, Host, Host) {
    let (middle, mut all) = hosts(2);
    all.iter_mut().for_each(|host| host.start(lanes, options));
    let (b, a) = (all.pop().expect("two"), all.pop().expect("two"));
    a.configure([b.peer()]);
    b.configure([a.peer()]);
    (middle, a, b)
}

/// A process that ends when this is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Asked to end, it takes its socket away.
        let pid = i32::try_from(self.0.id()).map(nix::unistd::Pid::from_raw);
        let _ = pid.map(|pid| nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM));
        let _ = self.0.wait();
    }
}

/// Waits at most ten seconds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a tool inside; it must be installed and succeed.
pub(crate) fn run(ns: &Namespace, command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let output = ns.command(program).args(words).output();
    let output = output.unwrap_or_else(|e| panic!("this test needs {program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}{text}");
    text
}

pub(crate) fn statistics(ns: &Namespace, link: &str) -> BTreeMap<String, u64> {
    let text = run(ns, &format!("ip -j -s link show {link}"));
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let of = |way: &str| {
        (
            way.to_owned(),
            value[0]["stats64"][way]["packets"]
                .as_u64()
                .expect("a number"),
        )
    };
    BTreeMap::from([of("rx"), of("tx")])
}
