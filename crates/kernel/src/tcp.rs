//! TCP sockets of this namespace, over sock_diag.

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use crate::error::{Error, tolerate};
use crate::socket::Socket;
use crate::wire::{Message, Request, ip_of};

/// `SOCK_DIAG_BY_FAMILY` in linux/sock_diag.h; `SOCK_DESTROY` there.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// Length of `struct inet_diag_msg` in linux/inet_diag.h.
const FIXED: usize = 72;
/// Where `struct inet_diag_sockid` is in it, and how long it is: ports and addresses in network order, the link's index
/// and the cookie.
const ID: usize = 4;
const ID_LENGTH: usize = 48;
/// `INET_DIAG_SOCKOPT`, since Linux 5.10, and bits of `struct inet_diag_sockopt`.
const OPTIONS: u16 = 22;
const FREEBIND: u8 = 1 << 2;
const TRANSPARENT: u8 = 1 << 5;
/// `TCP_SYN_SENT` in net/tcp_states.h.
const SYN_SENT: u8 = 2;
/// States in which somebody may wait for the other end: all but `TCP_TIME_WAIT` (6), `TCP_CLOSE` (7) and
/// `TCP_LISTEN` (10).
const STATES: u32 = 0b1_1011_0011_1110;

/// A TCP socket that has, or seeks, another end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TcpSocket {
    /// Its own address; of an IPv6 socket that speaks IPv4, the IPv4 address.
    pub local: SocketAddr,
    /// The other end, before any translation.
    pub remote: SocketAddr,
    /// It has sent its SYN and got no answer.
    pub connecting: bool,
    /// It may have an address that is not this host's (`IP_FREEBIND`, `IP_TRANSPARENT`), as those of proxies.
    pub free: bool,
    /// `AF_INET` or `AF_INET6`.
    family: u8,
    /// The kernel's name for it.
    id: [u8; ID_LENGTH],
}

/// `struct inet_diag_req_v2`.
fn request(kind: u16, family: u8, states: u32, id: &[u8; ID_LENGTH]) -> Request {
    let mut fixed = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    fixed.extend(states.to_ne_bytes());
    fixed.extend(id);
    Request::new(kind, 0, &fixed)
}

/// The sockets of both families that `keep` wants.
pub(crate) fn list(
    socket: &mut Socket,
    mut keep: impl FnMut(&TcpSocket) -> bool,
) -> Result<Vec<TcpSocket>, Error> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(BY_FAMILY, family as u8, STATES, &[0; ID_LENGTH]);
        socket.each(request, "TCP sockets", |message| {
            all.extend(decode(message).filter(|one| keep(one)));
        })?;
    }
    Ok(all)
}

pub(crate) fn decode(message: &Message) -> Option<TcpSocket> {
    let header = message.fixed::<FIXED>()?;
    let [family, state, ..] = header;
    let id: [u8; ID_LENGTH] = header.get(ID..ID + ID_LENGTH)?.try_into().ok()?;
    let length = match i32::from(family) {
        libc::AF_INET => 4,
        libc::AF_INET6 => 16,
        _ => return None,
    };
    let end = |port: usize, ip: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes([*id.get(port)?, *id.get(port + 1)?]);
        let ip: IpAddr = ip_of(id.get(ip..ip + length)?)?;
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    let options = message.attrs(FIXED).find(OPTIONS);
    let options = options.and_then(|bytes| bytes.first().copied());
    Some(TcpSocket {
        local: end(0, 4)?,
        remote: end(2, 20)?,
        connecting: state == SYN_SENT,
        free: options.unwrap_or_default() & (FREEBIND | TRANSPARENT) != 0,
        family,
        id,
    })
}

/// Ends this very socket: its owner gets `ECONNABORTED`, the other end a reset. That it is gone already is fine.
pub(crate) fn end(socket: &mut Socket, which: &TcpSocket) -> Result<(), Error> {
    let request = request(DESTROY, which.family, STATES, &which.id);
    let (local, remote) = (which.local, which.remote);
    let answer = socket.tell(
        request,
        &format_args!("end the connection {local} to {remote}"),
    );
    tolerate(answer, &[Errno::ENOENT])
}
