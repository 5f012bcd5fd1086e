//! The sockets: one per family, opened when the first ping of that family is sent.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};
use strait_core::health::Ping;
use strait_host::Family;
use tokio::net::UdpSocket;

use super::filter::filter;
use super::packet::{reply, request};
use crate::datagram;

/// Packets that are read in one turn at most: a flood of ICMP shall not keep us from sending.
const TURN: usize = 256;
/// More than any reply to us has; the rest of longer packets is cut off.
const BUFFER: usize = 128;

/// The sockets of both families.
pub(super) struct Sockets {
    nonce: u64,
    v4: Option<Open>,
    v6: Option<Open>,
}

struct Open {
    // Any datagram socket: only its address matters, and ICMP has no ports.
    socket: UdpSocket,
    /// Whether what is read begins with an IPv4 header.
    headed: bool,
}

impl Sockets {
    pub(super) fn new(nonce: u64) -> Self {
        Self {
            nonce,
            v4: None,
            v6: None,
        }
    }

    /// Sends a ping.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn send(&mut self, ping: &Ping) -> io::Result<()> {
        let family = Family::of(ping.to);
        let packet = request(family, ping, self.nonce);
        let nonce = self.nonce;
        let slot = self.slot(family);
        let open = match slot {
            Some(open) => open,
            None => slot.insert(Open::new(family, nonce)?),
        };
        // Readiness is not waited for: a ping that is late measures nothing.
        let to = SocketAddr::new(ping.to, 0);
        datagram::send(&open.socket, &packet, to, ping.from)
    }

    /// Waits until there is something to read.
    pub(super) async fn readable(&self) {
        tokio::select! {
            () = datagram::readable(self.v4.as_ref().map(|open| &open.socket)) => {}
            () = datagram::readable(self.v6.as_ref().map(|open| &open.socket)) => {}
        }
    }

    /// Gives the replies that have come, with where from and when. What is no reply to us is dropped.
    pub(super) fn receive(&mut self, mut take: impl FnMut(u64, IpAddr, Instant)) {
        let nonce = self.nonce;
        for family in Family::ALL {
            let slot = self.slot(family);
            if let Some(open) = slot
                && let Err(error) = open.receive(family, nonce, &mut take)
            {
                tracing::warn!(%family, %error, "the socket for pings can't be read; it is opened anew");
                *slot = None;
            }
        }
    }

    fn slot(&mut self, family: Family) -> &mut Option<Open> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl Open {
    /// For IPv4 a datagram socket where `net.ipv4.ping_group_range` lets us, since it gets nothing but replies to its own
    /// requests, else a raw one, which needs CAP_NET_RAW. For IPv6 the other way round: before Linux 5.18 such datagram sockets
    /// leave from the route's address, whatever is asked for.
    fn new(family: Family, nonce: u64) -> io::Result<Self> {
        let (domain, protocol, kinds) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4, [Type::DGRAM, Type::RAW]),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6, [Type::RAW, Type::DGRAM]),
        };
        let [first, second] = kinds;
        let (socket, kind) = match Socket::new(domain, first, Some(protocol)) {
            Ok(socket) => (socket, first),
            Err(_) => (Socket::new(domain, second, Some(protocol))?, second),
        };
        let raw = kind == Type::RAW;
        if raw {
            // Without it every ICMP packet of the host would wake us, and could fill the buffer.
            socket.attach_filter(&filter(family, nonce))?;
        }
        socket.set_nonblocking(true)?;
        let socket = std::net::UdpSocket::from(OwnedFd::from(socket));
        tracing::debug!(%family, raw, "the socket for pings is open");
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            headed: raw && family == Family::V4,
        })
    }

    fn receive(
        &self,
        family: Family,
        nonce: u64,
        mut take: impl FnMut(u64, IpAddr, Instant),
    ) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        for _ in 0..TURN {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if let Some(token) = reply(family, self.headed, bytes, nonce) {
                        take(token, from.ip(), Instant::now());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use socket2::SockRef;
    use strait_netns::Namespace;
    use tokio::time::{sleep, timeout};

    use super::super::packet::reply_type;
    use super::*;

    const NONCE: u64 = 0x0102_0304_0506_0708;

    /// Sends `packet` to this host from a raw socket of somebody else.
    fn foreign(family: Family, packet: &[u8]) {
        let (domain, protocol, to) = match family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4, "127.0.0.1:0"),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6, "[::1]:0"),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        let to: SocketAddr = to.parse().unwrap();
        socket.send_to(packet, &to.into()).unwrap();
    }

    #[test]
    fn a_raw_socket_is_woken_by_replies_to_us_and_by_nothing_else() {
        let namespace = Namespace::new().unwrap();
        namespace
            .run_async(async || {
                let up = std::process::Command::new("ip")
                    .args(["link", "set", "lo", "up"])
                    .status();
                assert!(up.unwrap().success());
                for family in Family::ALL {
                    let open = Open::new(family, NONCE).unwrap();
                    let to = match family {
                        Family::V4 => IpAddr::from([127, 0, 0, 1]),
                        Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
                    };
                    let ping = Ping {
                        to,
                        from: None,
                        token: 7,
                    };
                    let other = request(family, &ping, NONCE ^ 1 << 40);
                    foreign(family, &other);
                    for length in [8, 9, 12, 24] {
                        let mut answer = other;
                        answer[0] = reply_type(family);
                        foreign(family, &answer[..length]);
                    }
                    sleep(Duration::from_millis(20)).await;
                    let mut buffer = [0; BUFFER];
                    let nothing = SockRef::from(&open.socket).peek_sender();
                    assert_eq!(
                        nothing.map_err(|e| e.kind()).unwrap_err(),
                        ErrorKind::WouldBlock,
                        "{family}"
                    );
                    foreign(family, &request(family, &ping, NONCE));
                    timeout(Duration::from_secs(5), open.socket.readable())
                        .await
                        .unwrap()
                        .unwrap();
                    let (length, from) = open.socket.try_recv_from(&mut buffer).unwrap();
                    assert_eq!(from.ip(), to);
                    let token = reply(family, open.headed, &buffer[..length], NONCE);
                    assert_eq!(token, Some(7), "{family}");
                }
            })
            .unwrap();
    }
}
