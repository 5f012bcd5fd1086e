//! UDP sockets, one per family, on all addresses of this host, whose packets never go through a tunnel.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use strait_api::names::UNDERLAY_MARK;
use strait_host::Family;
use tokio::net::UdpSocket;

use crate::{Metrics, datagram};

/// Datagrams that are read in one turn at most: a flood shall not keep us from speaking.
const TURN: usize = 256;

/// What they are for.
#[derive(Debug)]
pub(crate) struct Purpose {
    /// As messages have it.
    pub(crate) name: &'static str,
    /// The kind of error that is counted when there can be none.
    pub(crate) error: &'static str,
    /// Octets of the longest datagram that is looked at; of a longer one, one more is given.
    pub(crate) longest: usize,
    /// The hop limit of what is sent; `None` for the host's.
    pub(crate) hops: Option<u32>,
    /// The pause before a socket that can't be opened, or not be read, is opened again.
    pub(crate) pause: Duration,
}

/// A datagram that came.
#[derive(Debug)]
pub(crate) struct Arrived<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) from: SocketAddr,
    /// To which of our addresses.
    pub(crate) to: Option<IpAddr>,
    /// Its hop limit.
    pub(crate) hops: Option<u32>,
}

/// The sockets of both families.
#[derive(Debug)]
pub(crate) struct Sockets {
    purpose: &'static Purpose,
    slots: [Slot; 2],
    metrics: Metrics,
}

#[derive(Debug)]
struct Slot {
    family: Family,
    /// The port that is wanted; 0 for any.
    port: Option<u16>,
    socket: Option<UdpSocket>,
    retry_at: Option<Instant>,
    told: bool,
}

impl Slot {
    fn of(family: Family, port: Option<u16>) -> Self {
        Self {
            family,
            port,
            socket: None,
            retry_at: None,
            told: false,
        }
    }
}

impl Sockets {
    /// None is open yet.
    pub(crate) fn new(purpose: &'static Purpose, metrics: Metrics) -> Self {
        Self {
            purpose,
            slots: Family::ALL.map(|family| Slot::of(family, None)),
            metrics,
        }
    }

    /// From now on there is to be one of this family with this port, or none.
    pub(crate) fn want(&mut self, family: Family, port: Option<u16>) {
        let slots = self.slots.iter_mut();
        for slot in slots.filter(|slot| slot.family == family && slot.port != port) {
            *slot = Slot::of(family, port);
        }
    }

    /// Opens what is wanted and not open.
    pub(crate) fn open(&mut self) {
        let purpose = self.purpose;
        for slot in &mut self.slots {
            let waits = slot.retry_at.is_some_and(|at| at > Instant::now());
            let Some(port) = slot.port.filter(|_| slot.socket.is_none() && !waits) else {
                continue;
            };
            let family = slot.family;
            match opened(family, port, purpose) {
                Ok(socket) => {
                    *slot = Slot {
                        socket: Some(socket),
                        ..Slot::of(family, slot.port)
                    };
                    tracing::debug!(%family, port, "the socket for {} is open", purpose.name);
                }
                Err(error) => {
                    if !slot.told {
                        tracing::warn!(%family, port, %error, "no socket for {}; it is tried again", purpose.name);
                    }
                    slot.told = true;
                    slot.retry_at = Some(Instant::now() + purpose.pause);
                    self.metrics.error(purpose.error);
                }
            }
        }
    }

    /// When [`Sockets::open`] has something to do.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.slots.iter().filter_map(|slot| slot.retry_at).min()
    }

    /// Waits until there is something to read.
    pub(crate) async fn readable(&self) {
        let [first, second] = &self.slots;
        tokio::select! {
            () = datagram::readable(first.socket.as_ref()) => {}
            () = datagram::readable(second.socket.as_ref()) => {}
        }
    }

    /// That of a family, if it is open.
    pub(crate) fn socket(&self, family: Family) -> Option<&UdpSocket> {
        let slot = self.slots.iter().find(|slot| slot.family == family);
        slot.and_then(|slot| slot.socket.as_ref())
    }

    /// Gives what has come, and the socket to answer by.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(Arrived<'_>, &UdpSocket)) {
        let purpose = self.purpose;
        for slot in &mut self.slots {
            let Some(socket) = &slot.socket else {
                continue;
            };
            if let Err(error) = receive(socket, purpose.longest, &mut take) {
                let family = slot.family;
                tracing::warn!(%family, %error, "the socket for {} can't be read; it is opened anew", purpose.name);
                *slot = Slot {
                    retry_at: Some(Instant::now() + purpose.pause),
                    ..Slot::of(family, slot.port)
                };
                self.metrics.error(purpose.error);
            }
        }
    }
}

/// On all addresses: those of the host may change.
fn opened(family: Family, port: u16, purpose: &Purpose) -> io::Result<UdpSocket> {
    let (domain, any) = match family {
        Family::V4 => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Family::V6 => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    match family {
        Family::V4 => {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
            purpose
                .hops
                .map_or(Ok(()), |hops| socket.set_ttl_v4(hops))?;
        }
        Family::V6 => {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            socket.set_recv_hoplimit_v6(true)?;
            let set = |hops| socket.set_unicast_hops_v6(hops);
            purpose.hops.map_or(Ok(()), set)?;
        }
    }
    if let Err(error) = socket.set_mark(UNDERLAY_MARK) {
        tracing::warn!(%error, "packets for {} can't be marked: where a peer's address is in a remote subnet, they may go through a tunnel", purpose.name);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))
}

fn receive(
    socket: &UdpSocket,
    longest: usize,
    mut take: impl FnMut(Arrived<'_>, &UdpSocket),
) -> io::Result<()> {
    let mut buffer = vec![0; longest + 1];
    let mut control = nix::cmsg_space!(in6_pktinfo, in_pktinfo, i32, i32);
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
            let (mut to, mut hops) = (None, None);
            for message in message.cmsgs().into_iter().flatten() {
                to = to.or_else(|| target(&message));
                hops = hops.or_else(|| hop_limit(&message));
            }
            Ok((message.bytes, message.address.and_then(address), to, hops))
        });
        match read {
            Ok((length, Some(from), to, hops)) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                let arrived = Arrived {
                    bytes,
                    from,
                    to,
                    hops,
                };
                take(arrived, socket);
            }
            Ok((_, None, ..)) => {}
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

/// To which of our addresses a datagram was sent.
fn target(message: &ControlMessageOwned) -> Option<IpAddr> {
    if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
        let octets = info.ipi_addr.s_addr.to_ne_bytes();
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    } else if let ControlMessageOwned::Ipv6PacketInfo(info) = message {
        Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
    } else {
        None
    }
}

fn hop_limit(message: &ControlMessageOwned) -> Option<u32> {
    if let ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) = message {
        u32::try_from(*hops).ok()
    } else {
        None
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
