//! The WireGuard cable: a device of the kernel where that has one, else one in this process. Both are a [`Device`]: told
//! what there is to be, and asked what became of it.
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

    /// Makes it so, by the differences only: tunnels that stay don't notice.
    ///
    /// # Errors
    /// What could not be done; the next call tries it again.
    fn apply(&mut self, wanted: &WireGuard) -> Result<(), Error>;

    /// What became of its peers.
    ///
    /// # Errors
    /// If it can't be asked.
    fn status(&mut self) -> Result<BTreeMap<Key, PeerStatus>, Error>;
}

/// Which device is to be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The kernel's where it has WireGuard, else one in this process.
    #[default]
    Auto,
    /// The kernel's only.
    Kernel,
    /// One in this process only.
    Process,
}

impl std::str::FromStr for Choice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Kernel),
            "process" => Ok(Self::Process),
            _ => Err("is no kind of WireGuard device"),
        }
    }
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
pub fn open(link: &'static str, choice: Choice, keys: Keys) -> Result<Box<dyn Device>, Error> {
    match choice {
        Choice::Auto | Choice::Kernel | Choice::Process => {
            Ok(Box::new(kernel::KernelDevice::open(link, keys)?))
        }
    }
}
