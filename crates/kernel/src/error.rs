//! What can go wrong between this process and the kernel.

use nix::errno::Errno;
use strait_host::Change;

/// A request to the kernel that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A netlink socket could not be opened or set up.
    #[error("can't open a netlink socket: {0}")]
    Open(Errno),
    /// Sending to or receiving from the kernel failed.
    #[error("netlink transport: {0}")]
    Transport(Errno),
    /// The kernel gave no answer in time.
    #[error("the kernel gave no answer within {seconds} s to: {operation}")]
    Timeout {
        /// What was asked.
        operation: String,
        /// How long was waited, in seconds.
        seconds: u64,
    },
    /// The kernel refused.
    #[error("{operation}: {errno}{}", detail(.message))]
    Kernel {
        /// What was asked.
        operation: String,
        /// Its answer.
        errno: Errno,
        /// Its own words (extended acknowledgement), where it gave any.
        message: Option<String>,
    },
    /// A dump did not hold still, however often it was read.
    #[error("{0} kept changing while they were read")]
    Unsteady(&'static str),
    /// There is no link of this name.
    #[error("there is no link {0}")]
    NoLink(String),
    /// The sysctl does not exist: the link is gone, or the kernel was built without it.
    #[error("there is no sysctl {0}; its link may be gone, or the kernel lacks it")]
    NoSysctl(String),
    /// A sysctl path that could leave `/proc/sys`.
    #[error("'{0}' is not a sysctl path; expected names below /proc/sys, joined by '/'")]
    BadSysctl(String),
    /// A sysctl could not be read or written.
    #[error("sysctl {path}: {errno}")]
    Sysctl {
        /// Its path below `/proc/sys`.
        path: String,
        /// The error.
        errno: Errno,
    },
    /// Something that this crate can't ask of the kernel.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// Not tried: the nftables transaction of the same pass failed, and traffic must not start before it.
    #[error("not tried, since the nftables transaction before it failed")]
    Skipped,
}

fn detail(message: &Option<String>) -> String {
    message
        .as_ref()
        .map(|text| format!(" ({text})"))
        .unwrap_or_default()
}

impl Error {
    /// A short name for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Transport(_) => "transport",
            Self::Timeout { .. } => "timeout",
            Self::Kernel { .. } => "kernel",
            Self::Unsteady(_) => "unsteady",
            Self::NoLink(_) => "no_link",
            Self::NoSysctl(_) => "no_sysctl",
            Self::BadSysctl(_) => "bad_sysctl",
            Self::Sysctl { .. } => "sysctl",
            Self::Unsupported(_) => "unsupported",
            Self::Skipped => "skipped",
        }
    }

    /// The kernel's answer, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open(errno)
            | Self::Transport(errno)
            | Self::Kernel { errno, .. }
            | Self::Sysctl { errno, .. } => Some(*errno),
            Self::Timeout { .. }
            | Self::Unsteady(_)
            | Self::NoLink(_)
            | Self::NoSysctl(_)
            | Self::BadSysctl(_)
            | Self::Unsupported(_)
            | Self::Skipped => None,
        }
    }

    /// Whether the kernel was built without what was asked of it.
    #[must_use]
    pub fn is_lacking(&self) -> bool {
        let lacking = [Errno::EOPNOTSUPP, Errno::ENOENT, Errno::EPROTONOSUPPORT];
        self.errno().is_some_and(|errno| lacking.contains(&errno))
    }
}

/// A change that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {error}", change.object())]
pub struct Failure {
    /// The change.
    pub change: Change,
    /// Why not.
    pub error: Error,
}

/// Takes an answer for success if it is one of these.
pub(crate) fn tolerate(answer: Result<(), Error>, fine: &[Errno]) -> Result<(), Error> {
    match answer {
        Err(Error::Kernel { errno, .. }) if fine.contains(&errno) => Ok(()),
        other => other,
    }
}

/// The error number behind an I/O error.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
