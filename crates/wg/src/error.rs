use std::io;

/// What can go wrong where the caller can do something about it. What is wrong with a datagram is counted, not told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TUN device could not be made or set up.
    #[error("TUN device {name}: {doing}: {source}")]
    Tun {
        /// The device's name.
        name: String,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A UDP socket could not be made or set up.
    #[error("UDP socket: {doing}: {source}")]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread or what wakes it could not be made.
    #[error("worker thread: {0}")]
    Thread(io::Error),
    /// The socket by which `wg` asks could not be made.
    #[error("control socket {path}: {source}")]
    Control {
        /// Where it should be.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel gave no random numbers.
    #[error("no random numbers from the kernel")]
    Random,
    /// Not 32 bytes in base64.
    #[error("a key is 32 bytes in base64")]
    Key,
    /// What a handshake was given, or the library for it.
    #[error("handshake: {0}")]
    Handshake(#[from] snow::Error),
    /// The device's control thread has ended.
    #[error("the device has stopped")]
    Stopped,
}
