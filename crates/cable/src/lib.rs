//! The WireGuard cable: a device of the kernel, or one in this process. It is a [`Device`]: told what there is to be, it says
//! what became of it.
//!
//! What is to be is decided elsewhere (`strait-core`), and holds no secret; a device gets its keys ([`Keys`]) when it is
//! opened.

mod choice;
mod file;
mod kernel;
mod keys;
mod process;
mod rotation;
mod stamp;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use choice::{Choice, Kind};
pub use keys::{KeyError, Keys, Preshared, PrivateKey};
pub use process::Holder;
pub use rotation::{Rotation, RotationError};
use strait_host::{Key, PeerStatus, WireGuard};

/// A WireGuard device.
pub trait Device: Send + std::fmt::Debug {
    /// Whether it is the kernel's: then it is a link that somebody else must make.
    fn is_kernel(&self) -> bool;

    /// Whether it has made its link itself, for somebody else to mark and to set up.
    fn has_link(&self) -> bool;

    /// Gives it another private key, from the next [`keep`](Device::keep) on. Sessions of the one before live on in this process's device; the
    /// kernel's makes new ones.
    fn rekey(&mut self, private: PrivateKey);

    /// Gives it another key to share with all peers, from the next [`keep`](Device::keep) on. Sessions go on; it counts in handshakes.
    fn share(&mut self, preshared: Preshared);

    /// Seconds by which the clock lay before the last handshakes with this key when the device was kept last: peers refuse ours until then, and a
    /// tunnel comes about only if they begin.
    fn behind(&self) -> u64;

    /// Makes it so at a time in Unix seconds, by the differences only: tunnels that stay don't notice. Returns what had become
    /// of its peers by then.
    ///
    /// # Errors
    /// What could not be done; the next call tries it again.
    fn keep(&mut self, wanted: &WireGuard, now: u64) -> Result<BTreeMap<Key, PeerStatus>, Error>;
}

/// What goes wrong with a device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("{0}")]
    Kernel(#[from] strait_kernel::Error),
    /// The device in this process could not be made, or has ended.
    #[error("{0}")]
    Process(#[from] strait_wg::Error),
    /// What was kept over the death of a process is not usable, or can't be written.
    #[error("what is kept over a restart: {0}")]
    Held(io::Error),
    /// Who should keep it is gone.
    #[error("who keeps devices over a restart: {0}")]
    Holder(io::Error),
}

/// Removes what outlives the process: private key, next and former key, and the last handshake's timestamp. Gives the files that were removed, and
/// those that could not be.
#[must_use]
pub fn remove_state(state: &Path) -> (Vec<PathBuf>, Vec<(PathBuf, io::Error)>) {
    let names = [keys::FILE, rotation::NEXT, rotation::FORMER, stamp::FILE];
    file::remove(state, &names)
}

/// Opens the kernel's device in the calling thread's network namespace; `state` is the directory of what outlives the process.
///
/// # Errors
/// If the kernel has no WireGuard.
pub fn open_kernel(link: &'static str, keys: Keys, state: &Path) -> Result<Box<dyn Device>, Error> {
    Ok(Box::new(kernel::KernelDevice::open(link, keys, state)?))
}

/// Opens a device in this process. It makes its link in the network namespace of the thread that calls [`Device::keep`]; `state` is the
/// directory of what outlives the process.
///
/// With a holder its descriptors outlive the process too: `held` is what that one has of a predecessor. Tunnels then go on at once, as
/// they were, and `keep` is to follow.
#[must_use]
pub fn open_process(
    link: &'static str,
    keys: Keys,
    state: &Path,
    holder: Option<Box<dyn Holder>>,
    held: BTreeMap<String, OwnedFd>,
) -> Box<dyn Device> {
    Box::new(process::ProcessDevice::open(
        link, keys, state, holder, held,
    ))
}
