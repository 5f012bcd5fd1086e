//! One device in this process among many peers: how soon it has them all, and what it takes then.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ipnet::IpNet;
use strait_netns::Namespace;
use strait_wg::{PeerConfig, Sockets};

use super::figure::{Figure, Unit};
use super::responder::Responder;
use super::wireguard::{PORT, device, key, run, set, start};
use super::{PATIENCE, process};

const PEERS: u16 = 200;
/// The first of the ports at which they are.
const FIRST: u16 = 20_000;
/// How long the device does nothing but answer to keepalives and carry a ping a second to each peer.
const IDLE: Duration = Duration::from_secs(30);

pub(super) fn figures(
    a: &Namespace,
    b: &Namespace,
    program: &Path,
    arguments: &[String],
) -> Result<Vec<Figure>> {
    let (private, public) = key()?;
    let allowed = [IpNet::from(IpAddr::from([10, 199, 0, 1]))].into();
    let of_peers = PeerConfig {
        allowed,
        ..PeerConfig::default()
    };
    let bind = |number| Ok(b.run(|| Sockets::bind(FIRST + number, None, 1))??);
    let peers = Responder::start(PEERS, bind, &public, &of_peers)?;
    let mut config = format!("[Interface]\nPrivateKey = {private}\nListenPort = {PORT}\n");
    for (key, number) in peers.keys.iter().zip(0u16..) {
        let [high, low] = number.to_be_bytes();
        config += &format!(
            "[Peer]\nPublicKey = {key}\nEndpoint = 192.0.2.2:{}\nAllowedIPs = 10.200.{high}.{low}/32\nPersistentKeepalive = 10\n",
            FIRST + number
        );
    }
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
