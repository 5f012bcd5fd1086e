//! Whose WireGuard is taken.

use std::str::FromStr;

use strait_kernel::wireguard::Wireguard;

/// Whose WireGuard a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's: a link of its own type.
    Kernel,
    /// This process's: a TUN device and UDP sockets.
    Process,
}

/// Which one is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The kernel's where it has one.
    Auto,
    /// This one.
    Exactly(Kind),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Exactly(Kind::Kernel)),
            "process" => Ok(Self::Exactly(Kind::Process)),
            _ => Err("is none of auto, kernel and process".to_owned()),
        }
    }
}

impl Choice {
    /// Which one it is here, and why.
    #[must_use]
    pub fn settle(self) -> (Kind, String) {
        match self {
            Self::Exactly(kind) => (kind, "it is asked for".to_owned()),
            Self::Auto => match Wireguard::open() {
                Ok(_) => (Kind::Kernel, "the kernel has it".to_owned()),
                Err(error) if error.is_lacking() => (
                    Kind::Process,
                    "the kernel has none, nor a module that it could load".to_owned(),
                ),
                // What is wrong shows when it is opened.
                Err(error) => (
                    Kind::Kernel,
                    format!("the kernel was asked in vain: {error}"),
                ),
            },
        }
    }
}
