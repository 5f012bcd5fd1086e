//! UDP sockets, one per family, that take only what no router has passed on.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use strait_api::names::UNDERLAY_MARK;
use strait_core::hello::{Datagram, MAX_DATAGRAM};
use strait_host::Family;
use tokio::net::UdpSocket;

use crate::{Metrics, datagram};

/// Datagrams that are read in one turn at most: a flood shall not keep us from speaking.
const TURN: usize = 256;
/// The pause before a socket that can't be opened, or not be read, is opened again.
const PAUSE: Duration = Duration::from_secs(1);
/// The hop limit of what comes from a neighbour (RFC 5082).
const HOPS: u32 = 255;

/// The sockets of both families.
#[derive(Debug)]
pub struct Sockets {
    port: u16,
    slots: [Slot; 2],
    metrics: Metrics,
}

#[derive(Debug)]
struct Slot {
    family: Family,
    wanted: bool,
    socket: Option<UdpSocket>,
    retry_at: Option<Instant>,
    told: bool,
}

impl Sockets {
    /// None is open yet. `port` is 0 for any.
    #[must_use]
    pub fn new(port: u16, metrics: Metrics) -> Self {
        let slot = |family| Slot {
            family,
            wanted: false,
            socket: None,
            retry_at: None,
            told: false,
        };
        Self {
            port,
            slots: Family::ALL.map(slot),
            metrics,
        }
    }

    /// Opens those of the families of these addresses, as far as they can be; others stay.
    pub fn want<'a>(&mut self, addresses: impl IntoIterator<Item = &'a IpAddr>) {
        for ip in addresses {
            let family = Family::of(*ip);
            for slot in self.slots.iter_mut().filter(|s| s.family == family) {
                slot.wanted = true;
            }
        }
        self.open();
    }

    /// Opens what is wanted and not open.
    pub fn open(&mut self) {
        let port = self.port;
        for slot in &mut self.slots {
            let waits = slot.retry_at.is_some_and(|at| at > Instant::now());
            if !slot.wanted || slot.socket.is_some() || waits {
                continue;
            }
            let family = slot.family;
            match opened(family, port) {
                Ok(socket) => {
                    slot.socket = Some(socket);
                    slot.retry_at = None;
                    slot.told = false;
                }
                Err(error) => {
                    if !slot.told {
                        tracing::warn!(%family, port, %error, "no socket for the direct watch; it is tried again");
                    }
                    slot.told = true;
                    slot.retry_at = Some(Instant::now() + PAUSE);
                    self.metrics.error("HelloSocket");
                }
            }
        }
    }

    /// When [`Sockets::open`] has something to do.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.slots.iter().filter_map(|slot| slot.retry_at).min()
    }

    /// Waits until there is something to read.
    pub async fn readable(&self) {
        let [first, second] = &self.slots;
        tokio::select! {
            () = datagram::readable(first.socket.as_ref()) => {}
            () = datagram::readable(second.socket.as_ref()) => {}
        }
    }

    /// Sends a datagram to all of its addresses. What can't be sent is counted: it is said again soon.
    pub fn send(&self, what: &Datagram) {
        for to in &what.to {
            let family = Family::of(to.ip());
            let slot = self.slots.iter().find(|slot| slot.family == family);
            let Some(socket) = slot.and_then(|slot| slot.socket.as_ref()) else {
                continue;
            };
            if let Err(error) = datagram::send(socket, &what.bytes, *to, None) {
                tracing::trace!(%to, %error, "a hello can't be sent");
                self.metrics.error("HelloSend");
            }
        }
    }

    /// Gives what has come, with where from, and whether no router has passed it on.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8], SocketAddr, bool)) {
        for slot in &mut self.slots {
            let Some(socket) = &slot.socket else {
                continue;
            };
            if let Err(error) = receive(socket, &mut take) {
                let family = slot.family;
                tracing::warn!(%family, %error, "the socket of the direct watch can't be read; it is opened anew");
                slot.socket = None;
                slot.retry_at = Some(Instant::now() + PAUSE);
                self.metrics.error("HelloSocket");
            }
        }
    }
}

/// On all addresses: those of the host may change.
fn opened(family: Family, port: u16) -> io::Result<UdpSocket> {
    let (domain, any) = match family {
        Family::V4 => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Family::V6 => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    match family {
        Family::V4 => {
            socket.set_ttl_v4(HOPS)?;
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        }
        Family::V6 => {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(HOPS)?;
            socket.set_recv_hoplimit_v6(true)?;
        }
    }
    if let Err(error) = socket.set_mark(UNDERLAY_MARK) {
        tracing::warn!(%error, "the direct watch can't mark its packets: where a node's address is in a remote subnet, they may go through a tunnel");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))
}

fn receive(socket: &UdpSocket, mut take: impl FnMut(&[u8], SocketAddr, bool)) -> io::Result<()> {
    let mut buffer = [0; MAX_DATAGRAM + 1];
    let mut control = nix::cmsg_space!(i32, i32);
    for _ in 0..TURN {
        // Clears the readiness when there is nothing more.
        let read = socket.try_io(tokio::io::Interest::READABLE, || {
            let mut bytes = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<SockaddrStorage>(
                socket.as_raw_fd(),
                &mut bytes,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            )?;
            let hops = message
                .cmsgs()
                .ok()
                .and_then(|mut all| all.find_map(hop_limit));
            Ok((message.bytes, message.address.and_then(address), hops))
        });
        match read {
            Ok((length, Some(from), hops)) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                take(bytes, from, hops == Some(HOPS));
            }
            Ok((_, None, _)) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // One that is not there has said so: that is known by its silence.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Interrupted | ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn hop_limit(message: ControlMessageOwned) -> Option<u32> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else was asked for")]
    match message {
        ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => {
            u32::try_from(hops).ok()
        }
        _ => None,
    }
}

fn address(of: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = of
        .as_sockaddr_in()
        .map(|a| SocketAddr::new(IpAddr::V4(a.ip()), a.port()));
    v4.or_else(|| {
        let v6 = of.as_sockaddr_in6()?;
        Some(SocketAddr::new(IpAddr::V6(v6.ip()), v6.port()))
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Plain;

    use strait_netns::Namespace;
    use tokio::time::timeout;

    use super::*;

    /// What arrives within a moment: the bytes, and whether they came from a neighbour.
    async fn arrived(sockets: &mut Sockets) -> Vec<(Vec<u8>, bool)> {
        let mut all = Vec::new();
        while timeout(Duration::from_millis(300), sockets.readable())
            .await
            .is_ok()
        {
            sockets.receive(|bytes, _, near| all.push((bytes.to_vec(), near)));
        }
        all
    }

    #[test]
    fn what_a_router_may_have_passed_on_is_told_from_what_comes_from_a_neighbour() {
        Namespace::new()
            .unwrap()
            .run_async(async || {
                let metrics = Metrics::new("test");
                let mut sockets = Sockets::new(4801, metrics.clone());
                let both: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
                sockets.want(&both);
                let mut node = Sockets::new(0, metrics);
                node.want(&both);
                for ip in both {
                    let to = SocketAddr::new(ip, 4801);
                    // A stranger whose packets begin with a usual hop limit.
                    let stranger = Plain::bind(SocketAddr::new(ip, 0)).unwrap();
                    stranger.send_to(b"far", to).unwrap();
                    node.send(&Datagram {
                        to: vec![to],
                        bytes: b"near".to_vec(),
                    });
                    let mut seen = arrived(&mut sockets).await;
                    seen.sort();
                    let expected = [(b"far".to_vec(), false), (b"near".to_vec(), true)];
                    assert_eq!(seen, expected, "{ip}");
                }
            })
            .unwrap();
    }
}
