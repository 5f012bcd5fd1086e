//! The device that the host sees.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use socket2::{Domain, Socket, Type};

use crate::{Error, sys};

/// Packets of the host that may wait in a queue. The kernel's 500 are gone when the process gets no processor for a tenth of a second.
const WAITING: u16 = 8192;

/// A TUN device with virtio headers: the kernel gives TCP (and, from 6.2 on, UDP) in pieces of up to 64 KiB, and takes such.
///
/// It lives as long as one of its descriptors. With several queues there is one descriptor more, which is only written to: the
/// kernel would otherwise move a flow to the queue that the last packet of the other direction was written to, and packets of a flow
/// that are in two queues overtake each other.
#[derive(Debug)]
pub struct Tun {
    files: Vec<File>,
}

impl Tun {
    /// Makes a device in the calling thread's network namespace. It is down, and has no addresses.
    ///
    /// # Errors
    /// [`Error::Tun`] without CAP_NET_ADMIN, or when the name is taken or longer than 15 bytes.
    pub fn open(name: &str, mtu: u16, queues: usize) -> Result<Self, Error> {
        let failed = |doing: &'static str| {
            let name = name.to_owned();
            move |source: io::Error| Error::Tun {
                name,
                doing,
                source,
            }
        };
        let several = queues > 1;
        let count = if several { queues + 1 } else { 1 };
        let mut files = Vec::new();
        for _ in 0..count {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open("/dev/net/tun")
                .map_err(failed("opening /dev/net/tun"))?;
            sys::attach(file.as_fd(), name, several).map_err(failed("making it"))?;
            sys::offload(file.as_fd(), sys::OFFLOAD_TCP | sys::OFFLOAD_UDP)
                .or_else(|_| sys::offload(file.as_fd(), sys::OFFLOAD_TCP))
                .map_err(failed("asking for large packets"))?;
            files.push(file);
        }
        if let Some(writer) = files.last().filter(|_| several) {
            sys::detach(writer.as_fd()).map_err(failed("detaching a queue"))?;
        }
        let socket =
            Socket::new(Domain::UNIX, Type::DGRAM, None).map_err(failed("setting the MTU"))?;
        sys::set_mtu(socket.as_fd(), name, mtu).map_err(failed("setting the MTU"))?;
        sys::set_queue_length(socket.as_fd(), name, WAITING)
            .map_err(failed("setting the length of its queues"))?;
        Ok(Self { files })
    }

    /// Takes over the descriptors that [`Tun::as_fds`] gave, in their order, from another process.
    #[must_use]
    pub fn from_fds(fds: Vec<OwnedFd>) -> Self {
        let files = fds.into_iter().map(File::from).collect();
        Self { files }
    }

    /// Its descriptors, to be held by another process.
    #[must_use]
    pub fn as_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().map(AsFd::as_fd).collect()
    }

    /// Whether the device is still there, under this name: anybody may remove or rename it.
    #[must_use]
    pub fn is_attached(&self, name: &str) -> bool {
        let file = self.files.first();
        file.is_some_and(|file| sys::name(file.as_fd()).is_ok_and(|has| has == name.as_bytes()))
    }

    /// Number of queues that are read.
    pub(crate) fn queues(&self) -> usize {
        self.files
            .len()
            .saturating_sub(1)
            .max(1)
            .min(self.files.len())
    }

    pub(crate) fn queue(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.files.get(queue).map(AsFd::as_fd)
    }

    pub(crate) fn read(&self, queue: usize, buffer: &mut [u8]) -> io::Result<usize> {
        match self.files.get(queue) {
            Some(mut file) => file.read(buffer),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.files.last() {
            Some(mut file) => file.write_vectored(parts),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
