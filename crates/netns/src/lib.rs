//! Network namespaces, threads and commands that live in them, and the wires at their interfaces.
//!
//! A network namespace belongs to a *thread*, not to a process. A thread that entered one would carry it along into
//! whatever it does next, so code runs on a thread of its own here, which ends with it. What the kernel shows under
//! `/proc/sys/net` follows the thread, too; `/sys/class/net` does not (it belongs to the mount).
//!
//! ```no_run
//! use strait_netns::Namespace;
//!
//! let ns = Namespace::new()?;
//! let output = ns.command("ip").args(["-j", "link"]).output();
//! let forwarding = ns.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward"))?;
//! # Ok::<(), strait_netns::Error>(())
//! ```

mod command;
mod error;
mod handle;
mod loopback;
mod net;
mod uts;
mod wire;

pub use command::Inside;
pub use error::Error;
pub use net::Namespace;
pub use uts::HostName;
pub use wire::{FRAME_HEADER, Wire};
