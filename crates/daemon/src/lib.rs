//! What every process of Strait shares: [`settings`] from the environment and flags, [`logs`], [`readiness`] and
//! [`metrics`] behind one small [`http`] server, clients of the Kubernetes API that outlive it being away ([`kube`]),
//! pings ([`ping`]), an orderly end ([`drain`]), a parent that holds what is to outlive a crash
//! ([`holder`]), and the removal of all that there is ([`uninstall`]).
//!
//! Nothing here decides anything about networking.

mod datagram;
pub mod drain;
pub mod engine;
pub mod events;
pub mod hello;
pub mod holder;
pub mod http;
pub mod kube;
pub mod lease;
pub mod lock;
pub mod logs;
pub mod member;
pub mod memory;
pub mod metrics;
pub mod natt;
pub mod objects;
pub mod ping;
pub mod readiness;
mod secret;
pub mod settings;
mod underlay;
pub mod uninstall;
pub mod writer;

pub use drain::Drain;
pub use memory::Memory;
pub use metrics::Metrics;
pub use readiness::{Heartbeat, Readiness};
pub use secret::Secret;
pub use settings::{Setting, Settings, SettingsError};
