//! One device in this process among many peers: how soon it has them all, and what it takes then.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use strait_netns::Namespace;
use strait_wg::{Config, Device, Options, PeerConfig, PrivateKey, Sockets, Tun};

use super::figure::{Figure, Unit};
use super::wireguard::{PORT, device, key, run, set, start};
use super::{PATIENCE, process};

const PEERS: u16 = 200;
/// The first of the ports at which they are.
const FIRST: u16 = 20_000;
/// How long the device does nothing but answer to keepalives and carry a ping a second to each peer.
const IDLE: Duration = Duration::from_secs(30);
/// Before the packet on a TUN device.
const VNET: usize = 10;

/// The peers: devices in this process whose hosts send back what they get.
struct Peers {
    config: String,
    _devices: Vec<Device>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub(super) fn figures(
    a: &Namespace,
    b: &Namespace,
    program: &Path,
    arguments: &[String],
) -> Result<Vec<Figure>> {
    let (private, public) = key()?;
    let peers = Peers::start(b, &public)?;
    let config = format!(
        "[Interface]\nPrivateKey = {private}\nListenPort = {PORT}\n{}",
        peers.config
    );
    let name = device("p");
    let begun = Instant::now();
    let child = start(a, program, arguments, &name)?;
    set(a, &name, &config)?;
    while handshaken(a, &name)? < usize::from(PEERS) {
        ensure!(
            begun.elapsed() < PATIENCE,
            "{} of {PEERS} peers",
            handshaken(a, &name)?
        );
        sleep(Duration::from_millis(10));
    }
    let connected = begun.elapsed().as_secs_f64();
    run(a, &format!("ip addr add 10.199.0.1/32 dev {name}"))?;
    run(a, &format!("ip link set {name} up"))?;
    run(a, &format!("ip route add 10.200.0.0/16 dev {name}"))?;
    let pid = child.0.id();
    let before = process::seconds(pid)?;
    let pings = a.run(|| ping(IDLE))??;
    let used = process::seconds(pid)? - before;
    let wanted = IDLE.as_secs() * u64::from(PEERS);
    ensure!(
        pings * 20 >= wanted * 19,
        "{pings} of {wanted} pings were answered"
    );
    let name = |what: &str| format!("{what}, {PEERS} peers, WireGuard in this process");
    Ok(vec![
        Figure::new(
            &name("from its start until all are handshaken with"),
            "<= 5 s",
            Unit::Seconds,
            vec![connected],
        ),
        Figure::new(
            &name("memory (RSS)"),
            "<= 60 MiB",
            Unit::Mebibytes,
            vec![process::memory(pid)?],
        ),
        Figure::new(
            &name("share of a processor, a ping a second to each, keepalive 10 s"),
            "<= 0.03",
            Unit::Ratio,
            vec![used / IDLE.as_secs_f64()],
        ),
    ])
}

fn handshaken(ns: &Namespace, name: &str) -> Result<usize> {
    let said = run(ns, &format!("wg show {name} latest-handshakes"))?;
    Ok(said.lines().filter(|line| !line.ends_with("\t0")).count())
}

/// Sends a datagram a second to each peer, and counts those that come back.
fn ping(time: Duration) -> Result<u64> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let answered = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if socket.recv_from(&mut buffer).is_ok() {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let (start, every) = (Instant::now(), Duration::from_secs(1) / u32::from(PEERS));
        let mut number = 0;
        while start.elapsed() < time {
            let [high, low] =
                u16::to_be_bytes(u16::try_from(number % u32::from(PEERS)).unwrap_or_default());
            // What can't be sent is missed among the answers.
            let _ = socket.send_to(&[0; 32], (std::net::Ipv4Addr::new(10, 200, high, low), 7));
            number += 1;
            sleep((every * number).saturating_sub(start.elapsed()));
        }
        sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
    });
    Ok(answered.into_inner())
}

impl Peers {
    fn start(ns: &Namespace, peer: &str) -> Result<Self> {
        let (mut config, mut devices, mut hosts) = (String::new(), Vec::new(), Vec::new());
        for number in 0..PEERS {
            let (host, tun) = UnixDatagram::pair()?;
            tun.set_nonblocking(true)?;
            host.set_nonblocking(true)?;
            hosts.push(host);
            let port = FIRST + number;
            let sockets = ns.run(|| Sockets::bind(port, None, 1))??;
            let key = PrivateKey::generate()?;
            let [high, low] = number.to_be_bytes();
            config += &format!(
                "[Peer]\nPublicKey = {}\nEndpoint = 192.0.2.2:{port}\nAllowedIPs = 10.200.{high}.{low}/32\nPersistentKeepalive = 10\n",
                key.public()?
            );
            let device = Device::start(
                Tun::from_fds(vec![OwnedFd::from(tun)]),
                sockets,
                Options::default(),
            )?;
            let allowed = [ipnet::IpNet::from(std::net::IpAddr::from([10, 199, 0, 1]))].into();
            let peers = [(
                peer.parse()?,
                PeerConfig {
                    allowed,
                    ..PeerConfig::default()
                },
            )];
            device.configure(Config {
                private_key: key,
                peers: peers.into(),
            })?;
            devices.push(device);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::Builder::new().spawn(move || echo(&hosts, &stopping))?;
        Ok(Self {
            config,
            _devices: devices,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends back what the devices give to their hosts, until told to stop.
fn echo(hosts: &[UnixDatagram], stop: &AtomicBool) {
    use nix::poll::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd as _;
    let mut all: Vec<_> = hosts
        .iter()
        .map(|host| PollFd::new(host.as_fd(), PollFlags::POLLIN))
        .collect();
    let mut frame = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let _ = poll(&mut all, 200u16);
        for (host, polled) in hosts.iter().zip(&all) {
            if polled.any() != Some(true) {
                continue;
            }
            while let Ok(length) = host.recv(&mut frame) {
                if let Some(frame) = frame.get_mut(..length) {
                    turn(frame);
                    let _ = host.send(frame);
                }
            }
        }
    }
}

/// Addresses and ports change places, which changes no checksum.
fn turn(frame: &mut [u8]) {
    if let Some(packet) = frame.get_mut(VNET..).filter(|packet| packet.len() >= 28) {
        let (before, after) = packet.split_at_mut(16);
        if let (Some(source), Some(destination)) = (before.get_mut(12..16), after.get_mut(..4)) {
            source.swap_with_slice(destination);
        }
        packet.swap(20, 22);
        packet.swap(21, 23);
    }
}
