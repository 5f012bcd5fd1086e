//! The socket options of linux/netfilter_ipv4/ip_tables.h and ip6_tables.h.
#![allow(
    unsafe_code,
    reason = "the standard library and nix have no socket options of variable length, and one of these holds an address that the kernel writes to"
)]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use strait_host::Family;

/// `IPT_SO_*`; those of IPv6 have the same numbers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
const SET_REPLACE: i32 = 64;
const ADD_COUNTERS: i32 = 65;
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// Where `entrytable` begins in `struct ipt_get_entries`, `counters` and `entries` in `struct ipt_replace`, and `counters` in
/// `struct xt_counters_info`, where addresses have 8 bytes.
const LIST_ENTRIES: usize = 40;
const REPLACE_COUNTERS: usize = 88;
const LIST_COUNTERS: usize = 40;

/// A table's `struct ipt_getinfo`, without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Info {
    /// Bit n: hook n is in use.
    pub(super) hooks: u32,
    /// Where each hook's chain begins.
    pub(super) begin: [u32; 5],
    /// Where each hook's policy stands.
    pub(super) policy: [u32; 5],
    /// Number of entries.
    pub(super) entries: u32,
    /// Their bytes.
    pub(super) size: u32,
}

/// A socket by which tables of a family are read and replaced.
pub(super) struct Options {
    socket: OwnedFd,
    level: i32,
}

impl Options {
    /// Belongs to the network namespace of the calling thread.
    pub(super) fn open(family: Family) -> nix::Result<Self> {
        if size_of::<usize>() != 8 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (domain, level) = match family {
            Family::V4 => (AddressFamily::Inet, libc::IPPROTO_IP),
            Family::V6 => (AddressFamily::Inet6, libc::IPPROTO_IPV6),
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(domain, SockType::Datagram, flags, None)?;
        Ok(Self { socket, level })
    }

    pub(super) fn info(&self, table: &str) -> nix::Result<Info> {
        let mut bytes = named(table)?;
        bytes.resize(NAME + 52, 0);
        self.get(GET_INFO, &mut bytes)?;
        let mut words = bytes[NAME..]
            .chunks_exact(4)
            .filter_map(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)));
        let mut next = || words.next().unwrap_or_default();
        Ok(Info {
            hooks: next(),
            begin: std::array::from_fn(|_| next()),
            policy: std::array::from_fn(|_| next()),
            entries: next(),
            size: next(),
        })
    }

    /// The entries; `EAGAIN` if they have another size by now.
    pub(super) fn entries(&self, table: &str, size: u32) -> nix::Result<Vec<u8>> {
        let mut bytes = named(table)?;
        bytes.extend(size.to_ne_bytes());
        bytes.resize(LIST_ENTRIES + size as usize, 0);
        self.get(GET_ENTRIES, &mut bytes)?;
        Ok(bytes.split_off(LIST_ENTRIES))
    }

    /// Replaces a table in one step, and fills in what the entries of the old one have counted (`struct xt_counters`);
    /// `EAGAIN` if those are not so many.
    pub(super) fn replace(
        &self,
        table: &str,
        info: &Info,
        entries: &[u8],
        counters: &mut [[u8; 16]],
    ) -> nix::Result<()> {
        let mut bytes = named(table)?;
        let count = u32::try_from(counters.len()).map_err(|_| Errno::E2BIG)?;
        for word in [info.hooks, info.entries, info.size]
            .into_iter()
            .chain(info.begin)
            .chain(info.policy)
            .chain([count])
        {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.resize(REPLACE_COUNTERS, 0);
        bytes.extend((counters.as_mut_ptr() as usize).to_ne_bytes());
        bytes.extend_from_slice(entries);
        // SAFETY: the kernel reads `bytes`, which holds `info.size` bytes of entries or is refused (`EINVAL`), and writes
        // `count` counters of 16 bytes to where `counters` has just as many, all of which outlive the call.
        unsafe { self.set(SET_REPLACE, &bytes) }
    }

    /// Adds to what the entries of a table have counted.
    pub(super) fn add_counters(&self, table: &str, counters: &[[u8; 16]]) -> nix::Result<()> {
        let mut bytes = named(table)?;
        let count = u32::try_from(counters.len()).map_err(|_| Errno::E2BIG)?;
        bytes.extend(count.to_ne_bytes());
        bytes.resize(LIST_COUNTERS, 0);
        bytes.extend(counters.iter().flatten());
        // SAFETY: the kernel only reads `bytes`, whose length it is told; there is no address in them.
        unsafe { self.set(ADD_COUNTERS, &bytes) }
    }

    fn get(&self, option: i32, bytes: &mut [u8]) -> nix::Result<()> {
        let mut length = libc::socklen_t::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
        // SAFETY: the kernel reads and writes at most `length` bytes of `bytes`, and takes no address from them.
        let answer = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                self.level,
                option,
                bytes.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        Errno::result(answer).map(drop)
    }

    /// # Safety
    /// What the kernel takes for an address in `bytes` must be good for what it does there.
    unsafe fn set(&self, option: i32, bytes: &[u8]) -> nix::Result<()> {
        let length = libc::socklen_t::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
        // SAFETY: `bytes` has `length` bytes; the caller answers for addresses in them.
        let answer = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                self.level,
                option,
                bytes.as_ptr().cast(),
                length,
            )
        };
        Errno::result(answer).map(drop)
    }
}

/// A table's name, as every one of these structures begins.
fn named(table: &str) -> nix::Result<Vec<u8>> {
    if table.len() >= NAME || table.contains('\0') {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut bytes = table.as_bytes().to_vec();
    bytes.resize(NAME, 0);
    Ok(bytes)
}
