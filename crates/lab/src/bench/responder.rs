//! What takes the place of many other clusters' gateways: a WireGuard device for each in one process, whose hosts send back what
//! they get.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, poll};
use strait_api::names::{CABLE_PORT, NATT_PORT, WIREGUARD_KEEPALIVE};
use strait_cable::Preshared;
use strait_core::Time;
use strait_core::discovery::{Finder, Heard, LONGEST, Own, Wanted};
use strait_host::Family;
use strait_wg::{
    Config, Device, Options, PeerConfig, PresharedKey, PrivateKey, PublicKey, Sockets, Tun,
};

use crate::environment::PASSPHRASE;

/// Before the packet on a TUN device.
const VNET: usize = 10;
/// How long nobody looks whether it is to stop, milliseconds.
const LOOK: u16 = 200;

/// The devices.
pub(super) struct Responder {
    /// Their public keys, in their order.
    pub(super) keys: Vec<PublicKey>,
    _devices: Vec<Device>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Responder {
    /// So many devices, each with sockets of its own, all of which have this one peer.
    pub(super) fn start(
        count: u16,
        sockets: impl Fn(u16) -> Result<Sockets>,
        peer: &str,
        config: &PeerConfig,
    ) -> Result<Self> {
        let (mut keys, mut devices, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..count {
            let (host, tun) = UnixDatagram::pair()?;
            tun.set_nonblocking(true)?;
            host.set_nonblocking(true)?;
            hosts.push(host);
            let private_key = PrivateKey::generate()?;
            keys.push(private_key.public()?);
            let device = Device::start(
                Tun::from_fds(vec![OwnedFd::from(tun)]),
                sockets(number)?,
                Options::default(),
            )?;
            let peers = [(peer.parse()?, config.clone())].into();
            device.configure(Config { private_key, peers })?;
            devices.push(device);
        }
        let mut responder = Self {
            keys,
            _devices: devices,
            stop: Arc::default(),
            threads: Vec::new(),
        };
        responder.spawn(move |stop| echo(&hosts, stop))?;
        Ok(responder)
    }

    fn spawn(&mut self, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Result<()> {
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new().spawn(move || work(&stop))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The name of a cluster.
pub(super) fn cluster(number: u16) -> String {
    format!("many-{number}")
}

/// The name of its cable.
pub(super) fn cable(number: u16) -> String {
    format!("submariner-cable-{}", cluster(number))
}

/// The address of its gateway: of 198.18.0.0/15, which is for benchmarks (RFC 2544).
pub(super) fn gateway(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// Is so many gateways in the calling thread's namespace, which has their addresses, until standard input ends: they answer NAT
/// discovery, handshakes and pings of whoever has this key. Prints their keys.
pub(crate) fn serve(peer: &str, count: u16) -> Result<()> {
    let shared = *Preshared::of(PASSPHRASE).expose();
    let config = PeerConfig {
        preshared: Some(PresharedKey::from_bytes(shared)),
        allowed: ["0.0.0.0/0".parse()?].into(),
        keepalive: Some(WIREGUARD_KEEPALIVE),
        ..PeerConfig::default()
    };
    let bind = |number| -> Result<Sockets> {
        let socket = UdpSocket::bind((gateway(number), CABLE_PORT))?;
        Ok(Sockets::from_fds(vec![OwnedFd::from(socket)])?)
    };
    let mut responder = Responder::start(count, bind, peer, &config)?;
    let asked: Vec<_> = (0..count).map(Asked::new).collect::<Result<_>>()?;
    responder.spawn(|stop| answer(asked, stop))?;
    let mut output = std::io::stdout().lock();
    for key in &responder.keys {
        writeln!(output, "{key}")?;
    }
    output.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// One that is asked which way leads to it.
struct Asked {
    at: IpAddr,
    socket: UdpSocket,
    finder: Finder,
}

impl Asked {
    fn new(number: u16) -> Result<Self> {
        let at = IpAddr::from(gateway(number));
        let socket = UdpSocket::bind((at, NATT_PORT))?;
        socket.set_nonblocking(true)?;
        let own = Own {
            cluster: cluster(number).parse().context("a cluster's id")?,
            cable_name: cable(number),
            port: NATT_PORT,
            addresses: [(Family::V4, at)].into(),
        };
        let mut finder = Finder::default();
        let wanted = Wanted {
            own: Some(own),
            ..Wanted::default()
        };
        finder.set(&wanted, Time::default());
        Ok(Self { at, socket, finder })
    }

    fn answer(&mut self, now: Time) {
        let mut datagram = [0; LONGEST];
        while let Ok((length, from)) = self.socket.recv_from(&mut datagram) {
            let bytes = datagram.get(..length).unwrap_or_default();
            let heard = self.finder.received(bytes, from, Some(self.at), now);
            if let Heard::Request(answer, _) = heard {
                let _ = self.socket.send_to(&answer.bytes, answer.to);
            }
        }
    }
}

fn answer(mut all: Vec<Asked>, stop: &AtomicBool) {
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for number in readable(all.iter().map(|asked| &asked.socket)) {
            if let Some(asked) = all.get_mut(number) {
                asked.answer(Time(begun.elapsed()));
            }
        }
    }
}

/// Which of them have something, as soon as one has, or none after a while.
fn readable<'a, T: AsFd + 'a>(all: impl Iterator<Item = &'a T>) -> Vec<usize> {
    let mut all: Vec<_> = all
        .map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN))
        .collect();
    let _ = poll(&mut all, LOOK);
    let ready = all.iter().enumerate();
    ready
        .filter(|(_, one)| one.any() == Some(true))
        .map(|(number, _)| number)
        .collect()
}

/// Sends back what the devices give to their hosts, until told to stop.
fn echo(hosts: &[UnixDatagram], stop: &AtomicBool) {
    let mut frame = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        for host in readable(hosts.iter())
            .into_iter()
            .filter_map(|n| hosts.get(n))
        {
            while let Ok(length) = host.recv(&mut frame) {
                if let Some(frame) = frame.get_mut(..length)
                    && turn(frame)
                {
                    let _ = host.send(frame);
                }
            }
        }
    }
}

/// Makes an answer of an IPv4 packet without options: a ping's, or of a UDP datagram the same datagram. Whether there is one.
fn turn(frame: &mut [u8]) -> bool {
    let Some(packet) = frame.get_mut(VNET..).filter(|packet| packet.len() >= 28) else {
        return false;
    };
    // That addresses change places changes no checksum.
    let (before, after) = packet.split_at_mut(16);
    if let (Some(source), Some(destination)) = (before.get_mut(12..16), after.get_mut(..4)) {
        source.swap_with_slice(destination);
    }
    match (packet.get(9), packet.get(20)) {
        (Some(1), Some(8)) => {
            let sum = packet.get(22..24).and_then(|sum| sum.try_into().ok());
            let sum = u16::from_be_bytes(sum.unwrap_or_default());
            // The type's octet is the upper one of its word, and 8 less (RFC 1624).
            let (sum, carry) = sum.overflowing_add(0x0800);
            let sum = (sum + u16::from(carry)).to_be_bytes();
            if let (Some(kind), [high, low]) = (packet.get_mut(20), sum) {
                *kind = 0;
                if let Some(place) = packet.get_mut(22..24) {
                    place.copy_from_slice(&[high, low]);
                }
            }
            true
        }
        (Some(17), _) => {
            packet.swap(20, 22);
            packet.swap(21, 23);
            true
        }
        _ => false,
    }
}
