//! Clusters on one machine: nodes, pods and the Internet between clusters as network namespaces, with the real processes in them.
//!
//! A lab lives in a sandbox of namespaces whose first process takes everything along when it ends: nothing outside of it is
//! touched, nothing is left behind, and labs do not collide. It needs root, or a user who may make user namespaces, and the
//! packages iproute2 and nftables.
//!
//! [`topology`] says who is where. The lab is built with iproute2 and nftables, so that what the agents do with their own netlink
//! code is judged by somebody else's.

mod bench;
mod build;
mod cli;
mod client;
mod clock;
mod cni;
mod control;
mod demo;
mod environment;
mod exec;
mod faults;
mod flow;
pub mod matrix;
mod nat;
mod netns;
mod objects;
mod options;
mod pod;
mod probe;
mod process;
mod sandbox;
mod services;
mod signals;
mod state;
mod status;
mod supervisor;
pub mod topology;
mod usage;
mod watch;

pub use cli::{BASH_NAMES, command, main};
pub use client::{Lab, down};
pub use cni::device as cni_device;
pub use control::{CniChange, Status};
pub use faults::{Fault, Impaired, QUEUE, Shape, Sides, Trouble, Way as LinkWay};
pub use flow::{Connections, Datagrams, Flow, FlowReport, RunningFlow};
pub use options::{Cable, Cni, Families, Nat, Options, Plugin, RpFilter, Wireguard};
pub use probe::{Probe, Seen, Transport};
pub use process::{ProcessStatus, Readiness, Role};
pub use strait_host::Family;
pub use topology::Topology;
pub use usage::{Growth, Usage};
