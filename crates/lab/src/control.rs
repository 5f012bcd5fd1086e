//! What can be asked of a running lab over its control socket: one line of JSON each way.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::faults::{Impaired, Trouble};
use crate::options::Options;
use crate::probe::Probe;
use crate::process::{ProcessStatus, Role};
use crate::topology::Topology;

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Status,
    Probe(Probe),
    Reboot {
        node: String,
        cni_after_ms: u64,
    },
    Cni {
        node: String,
        change: CniChange,
    },
    /// End with SIGTERM if it runs, and start again, with these variables besides.
    Restart {
        place: String,
        role: Role,
        environment: Vec<(String, String)>,
    },
    /// SIGKILL for a process, or no power for a node; it stays so. The answer to this and the next ones is what is impaired then.
    Kill {
        what: String,
        process: Option<Role>,
    },
    /// SIGKILL for the process that does the work, which comes back as it would in a cluster.
    Crash {
        place: String,
        role: Role,
    },
    /// SIGSTOP for a process, or all of a node.
    Stop {
        what: String,
        process: Option<Role>,
    },
    /// For a link.
    Trouble {
        what: String,
        trouble: Trouble,
    },
    /// A node's wall clock, seconds before the machine's.
    Clock {
        node: String,
        ahead_s: i64,
    },
    /// Undo all of it, of one thing or of everything.
    Heal {
        what: Option<String>,
        process: Option<Role>,
    },
    /// An agent's program once more, with its environment and these variables; the answer is what it printed.
    Run {
        place: String,
        role: Role,
        environment: Vec<(String, String)>,
    },
    /// What the processes take.
    Usage,
    /// The body of an agent's page, such as `/metrics`.
    Get {
        place: String,
        role: Role,
        path: String,
    },
    /// A request to an API server; the answer is what it says, success or not.
    Api {
        place: String,
        method: String,
        path: String,
        body: Value,
    },
    Down,
}

/// What happens to the CNI of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CniChange {
    /// It comes, with the node's pods if they are not there.
    Up,
    /// It goes, with its device, address and routes.
    Down,
    /// Its device gets this address instead of those of its family.
    Address(IpNet),
    /// Its device loses its addresses.
    NoAddress,
}

/// An answer: what was asked for, as JSON, or why not.
pub(crate) type Answer = Result<Value, String>;

/// A lab as it is now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// What it was asked to be.
    pub options: Options,
    /// Who is where.
    pub topology: Topology,
    /// The broker's API server.
    pub broker: SocketAddr,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
    /// What is impaired on purpose.
    pub impaired: Vec<Impaired>,
}
