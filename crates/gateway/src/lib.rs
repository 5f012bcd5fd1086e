//! The gateway: publishes the cluster, carries Clusters and Endpoints to and from the broker, and keeps the cable.
//! Wiring only: [`inputs`] → `strait_core` → kernel and APIs.

pub mod cable;
#[cfg(test)]
mod duplicate;
mod election;
mod gauges;
mod held;
mod inputs;
mod notes;
pub mod passphrase;
mod pod;
mod public;
#[cfg(test)]
mod renewed;
mod run;
#[cfg(test)]
mod server;
pub mod settings;
mod status;
mod uninstall;
mod written;

pub use run::run;
pub use settings::command;
