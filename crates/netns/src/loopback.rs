#![allow(
    unsafe_code,
    reason = "the two interface-flag ioctls take a pointer to a struct ifreq"
)]

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Sets the calling thread's `lo` up, which gives it 127.0.0.1 and ::1.
pub(crate) fn up() -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // SAFETY: `request` is a whole struct ifreq with a NUL-terminated name, and the kernel writes only its flags.
    unsafe { get_flags(socket.as_raw_fd(), &raw mut request) }?;
    let up = i16::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    // SAFETY: the call above has filled in the flags, so that member of the union is the live one.
    unsafe { request.ifr_ifru.ifru_flags |= up };
    // SAFETY: as above; the kernel only reads.
    unsafe { set_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}
