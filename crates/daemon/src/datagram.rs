//! UDP and ICMP from a given address of this host.

use std::future::pending;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use tokio::net::UdpSocket;

/// Sends a datagram, from an address where that is not left to the route. Readiness is not waited for.
pub(crate) fn send(
    socket: &UdpSocket,
    bytes: &[u8],
    to: SocketAddr,
    from: Option<IpAddr>,
) -> io::Result<()> {
    let to = SockaddrStorage::from(to);
    let send = |control: &[ControlMessage<'_>]| {
        let bytes = [IoSlice::new(bytes)];
        let fd = socket.as_raw_fd();
        sendmsg(fd, &bytes, control, MsgFlags::empty(), Some(&to))?;
        Ok(())
    };
    match from {
        None => send(&[]),
        Some(IpAddr::V4(from)) => send(&[ControlMessage::Ipv4PacketInfo(&in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr {
                s_addr: u32::from_ne_bytes(from.octets()),
            },
            ipi_addr: in_addr { s_addr: 0 },
        })]),
        Some(IpAddr::V6(from)) => send(&[ControlMessage::Ipv6PacketInfo(&in6_pktinfo {
            ipi6_addr: in6_addr {
                s6_addr: from.octets(),
            },
            ipi6_ifindex: 0,
        })]),
    }
}

/// Waits until there is something to read; without a socket, for ever.
pub(crate) async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        // An error shows itself when it is read.
        Some(socket) => {
            let _ = socket.readable().await;
        }
        None => pending().await,
    }
}
