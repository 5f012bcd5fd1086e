//! WireGuard in this process: a TUN device on one side, UDP sockets on the other, both with the kernel's offloads.
//!
//! The handshake is the crate `snow`'s, the ciphers are `ring`'s. What is between them is here: pure decisions (timers, replay
//! window, allowed addresses, cookies, cutting and joining of packets) that are fed bytes and the time, and threads that move bytes.
//! `docs/wireguard.md` says why it is made in this way.

mod allowed;
mod burst;
mod checksum;
mod coalesce;
mod config;
mod control;
mod cookie;
mod device;
mod door;
mod error;
mod inbound;
mod key;
mod limit;
mod message;
mod noise;
mod outbound;
mod packet;
mod peer;
#[cfg(test)]
mod pieces;
mod random;
mod replay;
mod segment;
mod session;
mod shared;
mod socket;
mod sys;
mod timers;
mod tun;
mod uapi;

pub use config::{Config, Options, PeerConfig, Timestamp, Timing};
pub use device::{Device, PeerStatus};
pub use error::Error;
pub use key::{PresharedKey, PrivateKey, PublicKey};
pub use shared::Dropped;
pub use socket::Sockets;
pub use tun::Tun;
