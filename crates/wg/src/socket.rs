//! The sockets by which datagrams go and come.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Socket, Type};

use crate::{Error, sys};

/// Bytes that the kernel may hold for us while we are busy.
const BUFFER: usize = 8 << 20;

/// UDP sockets of one port. Those of one family share it, and the kernel spreads peers over them.
#[derive(Debug, Default)]
pub struct Sockets {
    v4: Vec<Socket>,
    v6: Vec<Socket>,
}

impl Sockets {
    /// Binds `count` sockets for IPv4 and as many for IPv6, in the calling thread's network namespace. A host without IPv6 gets
    /// those of IPv4. `port` 0: any. `mark`: goes into each packet, for routing rules (needs CAP_NET_ADMIN).
    ///
    /// # Errors
    /// [`Error::Socket`], for instance when the port is taken.
    pub fn bind(port: u16, mark: Option<u32>, count: usize) -> Result<Self, Error> {
        let mut sockets = Self::default();
        let mut port = port;
        for _ in 0..count.max(1) {
            let socket = bind((Ipv4Addr::UNSPECIFIED, port).into(), mark, count > 1)?;
            if port == 0 {
                let address = socket.local_addr().map_err(failed("finding its port"))?;
                port = address.as_socket().map_or(0, |address| address.port());
            }
            sockets.v4.push(socket);
        }
        for _ in 0..count.max(1) {
            match bind((Ipv6Addr::UNSPECIFIED, port).into(), mark, count > 1) {
                Ok(socket) => sockets.v6.push(socket),
                Err(Error::Socket { source, .. })
                    if source.raw_os_error() == Some(libc::EAFNOSUPPORT)
                        || source.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sockets)
    }

    /// Takes bound sockets over, in any order, for instance from another process.
    ///
    /// # Errors
    /// [`Error::Socket`] for what is no socket.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Result<Self, Error> {
        let mut sockets = Self::default();
        for fd in fds {
            let socket = Socket::from(fd);
            set_up(&socket)?;
            let address = socket.local_addr().map_err(failed("finding its address"))?;
            if address.is_ipv6() {
                sockets.v6.push(socket);
            } else {
                sockets.v4.push(socket);
            }
        }
        Ok(sockets)
    }

    /// Their descriptors, to be held by another process.
    #[must_use]
    pub fn as_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.v4.iter().chain(&self.v6).map(AsFd::as_fd).collect()
    }

    /// The port that they are bound to.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let mut all = self.v4.iter().chain(&self.v6);
        let address = all.find_map(|socket| socket.local_addr().ok())?;
        address.as_socket().map(|address| address.port())
    }

    /// Number of threads that can receive at the same time.
    pub(crate) fn lanes(&self) -> usize {
        self.v4.len().max(self.v6.len())
    }

    /// Those that one thread receives from.
    pub(crate) fn lane(&self, lane: usize) -> impl Iterator<Item = &Socket> {
        self.v4.get(lane).into_iter().chain(self.v6.get(lane))
    }

    fn towards(&self, to: SocketAddr, lane: usize) -> Option<&Socket> {
        let of = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        of.get(lane % of.len().max(1))
    }

    /// Sends datagrams of `size` bytes each, the last of which may be shorter. `offload`: in one call.
    pub(crate) fn send(
        &self,
        lane: usize,
        to: SocketAddr,
        datagrams: &[u8],
        size: usize,
        offload: bool,
    ) -> io::Result<()> {
        let socket = self
            .towards(to, lane)
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let to = SockaddrStorage::from(to);
        if datagrams.len() > size && offload {
            let size = u16::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
            let segment = [ControlMessage::UdpGsoSegments(&size)];
            return transmit(socket, &to, datagrams, &segment);
        }
        for datagram in datagrams.chunks(size.max(1)) {
            transmit(socket, &to, datagram, &[])?;
        }
        Ok(())
    }
}

/// The socket is non-blocking for receiving; what is sent waits for room, as it does on a device with a queue.
fn transmit(
    socket: &Socket,
    to: &SockaddrStorage,
    bytes: &[u8],
    control: &[ControlMessage<'_>],
) -> io::Result<()> {
    let parts = [IoSlice::new(bytes)];
    loop {
        match sendmsg(
            socket.as_raw_fd(),
            &parts,
            control,
            MsgFlags::empty(),
            Some(to),
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One or more datagrams of one sender, one after the other.
pub(crate) struct Received {
    pub(crate) length: usize,
    /// Bytes of each but the last.
    pub(crate) size: usize,
    pub(crate) from: SocketAddr,
}

pub(crate) fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<Received> {
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(control), flags)?;
    let length = message.bytes;
    let from = message.address.and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|v4| SocketAddr::V4((*v4).into()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|v6| SocketAddr::V6((*v6).into()))
        })
    });
    let segments = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::UdpGroSegments(size) = control {
            usize::try_from(size).ok()
        } else {
            None
        }
    });
    Ok(Received {
        length,
        size: segments.filter(|size| *size > 0).unwrap_or(length.max(1)),
        from: from.ok_or(io::ErrorKind::InvalidData)?,
    })
}

fn bind(address: SocketAddr, mark: Option<u32>, several: bool) -> Result<Socket, Error> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)
        .map_err(failed("making it"))?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(failed("for IPv6 only"))?;
    }
    if let Some(mark) = mark {
        socket.set_mark(mark).map_err(failed("marking it"))?;
    }
    // Only then: another process's device would share the port, and get some of our peers' datagrams, instead of failing.
    if several {
        socket
            .set_reuse_port(true)
            .map_err(failed("sharing the port"))?;
    }
    set_up(&socket)?;
    socket.bind(&address.into()).map_err(failed("binding"))?;
    Ok(socket)
}

fn set_up(socket: &Socket) -> Result<(), Error> {
    // Without privilege as much as the host allows.
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    if setsockopt(socket, sockopt::SndBufForce, &BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER);
    }
    // Since Linux 5.0; without it, datagrams come one by one.
    let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
    // A datagram that is too long for its path is fragmented, as those of the kernel's WireGuard are.
    let domain = socket.domain().map_err(failed("finding its family"))?;
    sys::allow_fragments(socket.as_fd(), domain == Domain::IPV6)
        .map_err(failed("allowing fragments"))
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Socket { doing, source }
}
