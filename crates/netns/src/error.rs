use std::io;
use std::path::PathBuf;

/// Why a namespace could not be made, found or entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `unshare(2)` was refused.
    #[error(
        "cannot make a {kind} namespace: {source} (it needs root, or CAP_SYS_ADMIN in a user namespace)"
    )]
    Make {
        /// `network` or `host name`.
        kind: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file that stands for the namespace could not be opened.
    #[error("cannot open the {kind} namespace {path}: {source}")]
    Open {
        /// `network` or `host name`.
        kind: &'static str,
        /// For example `/proc/42/ns/net` or `/run/netns/east-1`.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `setns(2)` was refused.
    #[error("cannot enter the {kind} namespace: {source}")]
    Enter {
        /// `network` or `host name`.
        kind: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The namespace was made, but its loopback interface or host name could not be set.
    #[error("cannot set the {what} of a new namespace: {source}")]
    SetUp {
        /// `loopback interface` or `host name`.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The namespace's thread, or the runtime on it, could not be started.
    #[error("cannot start a thread for the namespace: {0}")]
    Thread(#[source] io::Error),
    /// The namespace could not be given, or stripped of, a name in the file system.
    #[error("cannot name the {kind} namespace {path}: {source}")]
    Name {
        /// `network` or `host name`.
        kind: &'static str,
        /// The name's path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}
