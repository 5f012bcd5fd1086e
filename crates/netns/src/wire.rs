#![allow(
    unsafe_code,
    reason = "packet sockets have an address and options for which nix has no safe interface"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, c_void, socklen_t};

/// Length in bytes of what stands before each frame: `struct virtio_net_hdr` of linux/virtio_net.h.
pub const FRAME_HEADER: usize = 10;

/// The wire at a network interface: every Ethernet frame that the interface receives can be read, and what is written leaves by it.
///
/// Each frame has a header before it that says what is still to be done, such as completing a checksum. Whoever passes frames on from one
/// wire to another passes it on too.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Listens at `interface` in the calling thread's network namespace, from now on. Reading and writing do not block.
    ///
    /// # Errors
    /// ENODEV when there is none, EPERM without CAP_NET_RAW.
    pub fn new(interface: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Of no protocol yet: nothing is heard before it is bound to the interface.
        // SAFETY: a system call with numbers only.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was opened just now, and nobody else has it.
        let wire = Self {
            socket: unsafe { OwnedFd::from_raw_fd(socket) },
        };
        wire.set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        // Else what is written here is read here.
        wire.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        // More than the system's limit only with privileges; what that allows is enough for most.
        let _ = wire
            .set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)
            .or_else(|_| wire.set(libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER));
        let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default();
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
            sll_protocol: all.to_be(),
            sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the kernel reads a structure that lives until the call returns, of the length that is told.
        let bound = unsafe {
            libc::bind(
                wire.socket.as_raw_fd(),
                (&raw const address).cast(),
                length::<libc::sockaddr_ll>(),
            )
        };
        answer(bound).map(|()| wire)
    }

    /// The next frame after its header; how long both are. One that is longer than the buffer is cut off.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, ENETDOWN once when the interface went down.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.socket, buffer)?)
    }

    /// Sends a frame after its header, as [`Wire::read`] gave them.
    ///
    /// # Errors
    /// `WouldBlock` or ENOBUFS when the interface is full, ENETDOWN, EMSGSIZE.
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(&self.socket, frame)?)
    }

    fn set(&self, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
        let pointer: *const c_void = (&raw const value).cast();
        // SAFETY: the kernel reads an integer that lives until the call returns, of the length that is told.
        answer(unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                name,
                pointer,
                length::<c_int>(),
            )
        })
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Bytes that may wait to be read.
const BUFFER: c_int = 8 << 20;

fn answer(code: c_int) -> io::Result<()> {
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn length<T>() -> socklen_t {
    // A structure's size is far below.
    socklen_t::try_from(size_of::<T>()).unwrap_or(socklen_t::MAX)
}
