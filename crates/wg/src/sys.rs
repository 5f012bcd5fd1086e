//! The ioctls of TUN devices, and a socket option.
#![allow(
    unsafe_code,
    reason = "no crate of the project has these ioctls, whose argument is a structure with a union, behind a safe function, nor this option"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `TUN_F_*` of linux/if_tun.h.
pub(crate) const OFFLOAD_TCP: u64 = 0x01 | 0x02 | 0x04;
pub(crate) const OFFLOAD_UDP: u64 = 0x20 | 0x40;

mod ioctls {
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int!(set_offload, b'T', 208);
    nix::ioctl_read_bad!(
        get_interface,
        nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()),
        libc::ifreq
    );
    nix::ioctl_write_ptr_bad!(
        set_queue,
        nix::request_code_write!(b'T', 217, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_queue_length, libc::SIOCSIFTXQLEN, libc::ifreq);
}

/// Makes the device, or attaches one more queue to it.
pub(crate) fn attach(tun: BorrowedFd<'_>, name: &str, multi_queue: bool) -> io::Result<()> {
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads and writes one `struct ifreq`, which lives until the call returns.
    unsafe { ioctls::set_interface(tun.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// The name of the device that the queue belongs to; an error if that is gone.
pub(crate) fn name(tun: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut request = request("")?;
    // SAFETY: the kernel writes one `struct ifreq`, which lives until the call returns.
    unsafe { ioctls::get_interface(tun.as_raw_fd(), &raw mut request) }?;
    let name = request.ifr_name.iter().map(|byte| *byte as u8);
    Ok(name.take_while(|byte| *byte != 0).collect())
}

/// Takes the queue out of use for what the kernel sends. It can still be written to.
pub(crate) fn detach(tun: BorrowedFd<'_>) -> io::Result<()> {
    let mut request = request("")?;
    request.ifr_ifru.ifru_flags = libc::IFF_DETACH_QUEUE as libc::c_short;
    // SAFETY: as above.
    unsafe { ioctls::set_queue(tun.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// What the kernel may give in larger pieces than the MTU.
pub(crate) fn offload(tun: BorrowedFd<'_>, what: u64) -> io::Result<()> {
    // SAFETY: the argument is a number.
    unsafe { ioctls::set_offload(tun.as_raw_fd(), what) }?;
    Ok(())
}

/// Sets a device's MTU, by any socket of its network namespace.
pub(crate) fn set_mtu(socket: BorrowedFd<'_>, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = mtu.into();
    // SAFETY: as above.
    unsafe { ioctls::set_mtu(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Sets how many packets of the host may wait in each queue of a device, by any socket of its network namespace.
pub(crate) fn set_queue_length(socket: BorrowedFd<'_>, name: &str, packets: u16) -> io::Result<()> {
    let mut request = request(name)?;
    // `ifr_qlen` is this member's other name.
    request.ifr_ifru.ifru_metric = packets.into();
    // SAFETY: as above.
    unsafe { ioctls::set_queue_length(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Lets datagrams be fragmented on their way, instead of finding out what is too long for it.
pub(crate) fn allow_fragments(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option, value) = if v6 {
        (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        )
    } else {
        (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        )
    };
    // SAFETY: the kernel reads one number, which lives until the call returns.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(answer)?;
    Ok(())
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a C structure of numbers and arrays, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
