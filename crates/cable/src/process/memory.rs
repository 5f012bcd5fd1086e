//! What the next process must know at once, before it has asked anybody: what the device had, and where its peers were.
//! It is a file in memory, so that it ends with whoever holds it. No secret is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use strait_host::{Key, WireGuard};

/// Octets that are read at most: some thousand peers with many prefixes.
const LONGEST: u64 = 64 << 20;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// What the device was to have.
    pub(super) wanted: WireGuard,
    /// Where peers are that are not where they were said to be.
    pub(super) heard: BTreeMap<Key, SocketAddr>,
    /// Names of the descriptors that the holder has besides this: without all of them none is of use.
    pub(super) beside: BTreeSet<String>,
}

impl Memory {
    pub(super) fn write(&self) -> io::Result<OwnedFd> {
        let descriptor = memfd_create("strait-wireguard", MFdFlags::MFD_CLOEXEC)?;
        let mut file = File::from(descriptor);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file.into())
    }

    pub(super) fn read(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        let length = file.metadata()?.len();
        if length > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        // Whoever holds it has the same position in it.
        file.read_exact_at(&mut bytes, 0)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use strait_host::Peer;

    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_as_often_as_wanted() {
        let key = Key([3; 32]);
        let peer = Peer {
            endpoint: "192.0.2.1:4500".parse().ok(),
            allowed: ["10.2.0.0/16".parse().unwrap(), "fd02::/16".parse().unwrap()].into(),
            accepted: ["10.3.0.0/16".parse().unwrap()].into(),
            succeeds: [Key([4; 32])].into(),
            keepalive: 10,
        };
        let memory = Memory {
            wanted: WireGuard {
                port: 4500,
                mark: 0x53,
                mtu: 1440,
                peers: [(key, peer)].into(),
            },
            heard: [(key, "[2001:db8::1]:999".parse().unwrap())].into(),
            beside: ["wireguard-tun-000".to_owned()].into(),
        };
        let written = memory.write().unwrap();
        for _ in 0..2 {
            assert_eq!(Memory::read(written.try_clone().unwrap()).unwrap(), memory);
        }
        let other = File::open("/dev/null").unwrap();
        assert!(Memory::read(other.into()).is_err());
    }
}
