//! The sockets: one per family in which we have an address.

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
use strait_core::discovery::{Datagram, LONGEST, Own};
use strait_host::Family;
use tokio::net::UdpSocket;

use crate::{Metrics, datagram};

/// Datagrams that are read in one turn at most: a flood shall not keep us from asking.
const TURN: usize = 256;
/// The pause before a socket that can't be opened, or not be read, is opened again.
const PAUSE: Duration = Duration::from_secs(5);

/// The sockets of both families.
pub(super) struct Sockets {
    v4: Slot,
    v6: Slot,
    metrics: Metrics,
}

#[derive(Default)]
struct Slot {
    /// The port that is wanted.
    port: Option<u16>,
    socket: Option<UdpSocket>,
    retry_at: Option<Instant>,
    told: bool,
}

/// How an answer is sent.
pub(super) type Send<'a> = &'a mut dyn FnMut(Datagram) -> io::Result<()>;

impl Sockets {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            v4: Slot::default(),
            v6: Slot::default(),
            metrics,
        }
    }

    /// These ports are wanted.
    pub(super) fn set(&mut self, own: Option<&Own>) {
        for family in Family::ALL {
            let port = own
                .filter(|own| own.addresses.contains_key(&family))
                .map(|own| own.port);
            let slot = self.slot(family);
            if slot.port != port {
                *slot = Slot {
                    port,
                    ..Slot::default()
                };
            }
        }
    }

    /// Opens what is wanted and not open.
    pub(super) fn open(&mut self) {
        for family in Family::ALL {
            let slot = self.slot(family);
            let waits = slot.retry_at.is_some_and(|at| at > Instant::now());
            let Some(port) = slot.port.filter(|_| slot.socket.is_none() && !waits) else {
                continue;
            };
            match opened(family, port) {
                Ok(socket) => {
                    *slot = Slot {
                        port: slot.port,
                        socket: Some(socket),
                        ..Slot::default()
                    };
                    tracing::debug!(%family, port, "the socket for NAT discovery is open");
                }
                Err(error) => {
                    if !slot.told {
                        tracing::warn!(%family, port, %error, "no socket for NAT discovery; it is tried again");
                    }
                    slot.told = true;
                    slot.retry_at = Some(Instant::now() + PAUSE);
                    self.metrics.error("DiscoverySocket");
                }
            }
        }
    }

    /// When [`Sockets::open`] has something to do.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        [&self.v4, &self.v6]
            .into_iter()
            .filter_map(|slot| slot.retry_at)
            .min()
    }

    /// Waits until there is something to read.
    pub(super) async fn readable(&self) {
        tokio::select! {
            () = datagram::readable(self.v4.socket.as_ref()) => {}
            () = datagram::readable(self.v6.socket.as_ref()) => {}
        }
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn send(&mut self, datagram: &Datagram) -> io::Result<()> {
        match &self.slot(Family::of(datagram.to.ip())).socket {
            Some(socket) => send(socket, datagram),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Gives what has come, with where from and to which of our addresses; one longer than any that is looked at is cut off after
    /// one byte more.
    pub(super) fn receive(
        &mut self,
        mut take: impl FnMut(&[u8], SocketAddr, Option<IpAddr>, Send<'_>),
    ) {
        for family in Family::ALL {
            let slot = self.slot(family);
            let Some(socket) = &slot.socket else {
                continue;
            };
            if let Err(error) = receive(socket, &mut take) {
                tracing::warn!(%family, %error, "the socket for NAT discovery can't be read; it is opened anew");
                *slot = Slot {
                    port: slot.port,
                    retry_at: Some(Instant::now() + PAUSE),
                    ..Slot::default()
                };
                self.metrics.error("DiscoverySocket");
            }
        }
    }

    fn slot(&mut self, family: Family) -> &mut Slot {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// On all addresses: those of the host may change, and answers leave from the one that was asked.
fn opened(family: Family, port: u16) -> io::Result<UdpSocket> {
    let (domain, any) = match family {
        Family::V4 => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Family::V6 => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    match family {
        Family::V4 => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        Family::V6 => {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    if let Err(error) = socket.set_mark(UNDERLAY_MARK) {
        tracing::warn!(%error, "NAT discovery can't mark its packets: where a peer's address is in a remote subnet, they may go through a tunnel");
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))
}

fn send(socket: &UdpSocket, datagram: &Datagram) -> io::Result<()> {
    // What is lost is sent again.
    datagram::send(socket, &datagram.bytes, datagram.to, datagram.from)
}

fn receive(
    socket: &UdpSocket,
    mut take: impl FnMut(&[u8], SocketAddr, Option<IpAddr>, Send<'_>),
) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST + 1];
    let mut control = nix::cmsg_space!(in6_pktinfo, in_pktinfo);
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
            let to = message
                .cmsgs()
                .ok()
                .and_then(|mut all| all.find_map(arrived));
            Ok((message.bytes, message.address.and_then(address), to))
        });
        match read {
            Ok((length, Some(from), to)) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                take(bytes, from, to, &mut |datagram| send(socket, &datagram));
            }
            Ok((_, None, _)) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// To which of our addresses a datagram was sent.
fn arrived(message: ControlMessageOwned) -> Option<IpAddr> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else was asked for")]
    match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let octets = info.ipi_addr.s_addr.to_ne_bytes();
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
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
