//! The WireGuard cable: a device of the kernel. It is a [`Device`]: told what there is to be, it says what became of it.
//!
//! What is to be is decided elsewhere (`strait-core`), and holds no secret; a device gets its keys ([`Keys`]) when it is
//! opened.

mod kernel;
mod keys;

use std::collections::BTreeMap;

pub use keys::{KeyError, Keys, Preshared, PrivateKey};
use strait_host::{Key, PeerStatus, WireGuard};

/// A WireGuard device.
pub trait Device: Send + std::fmt::Debug {
    /// Whether it is the kernel's: then it is a link that somebody else must make.
    fn is_kernel(&self) -> bool;

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
}

/// Opens the device of the calling thread's network namespace.
///
/// # Errors
/// If there can be none.
pub fn open(link: &'static str, keys: Keys) -> Result<Box<dyn Device>, Error> {
    Ok(Box::new(kernel::KernelDevice::open(link, keys)?))
}
