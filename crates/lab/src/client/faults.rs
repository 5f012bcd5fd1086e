//! Breaking things on purpose, and mending them.

use anyhow::Result;

use super::Lab;
use crate::control::Request;
use crate::faults::{Impaired, Sides, Trouble};
use crate::process::Role;

/// Each gives what is impaired afterwards.
impl Lab {
    /// Ends a process with SIGKILL. It stays so until [`Lab::restart`] or [`Lab::heal`].
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, place: &str, role: Role) -> Result<Vec<Impaired>> {
        self.kill_what(place, Some(role))
    }

    /// Ends the process that does an agent's work with SIGKILL. It comes back at once: by the parent that watches it if it has one, else by
    /// the lab, as a kubelet would do it.
    ///
    /// # Errors
    /// When there is none, or it can't be started again.
    pub fn crash(&self, place: &str, role: Role) -> Result<Vec<Impaired>> {
        self.ask(&Request::Crash {
            place: place.to_owned(),
            role,
        })
    }

    /// Takes a node's power away: its processes end at once, its links are gone.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn power_off(&self, node: &str) -> Result<Vec<Impaired>> {
        self.topology.node(node)?;
        self.kill_what(node, None)
    }

    /// Ends a process with SIGKILL; without one, takes a node's power away, or ends all that runs on another machine.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn kill_what(&self, what: &str, process: Option<Role>) -> Result<Vec<Impaired>> {
        self.ask(&Request::Kill {
            what: what.to_owned(),
            process,
        })
    }

    /// Makes a process stand still (SIGSTOP); without one, all on a node, its pods' too, or on another machine.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn stop(&self, what: &str, process: Option<Role>) -> Result<Vec<Impaired>> {
        self.ask(&Request::Stop {
            what: what.to_owned(),
            process,
        })
    }

    /// Lets nothing pass any more to or from a node, an API server's machine, or a cluster.
    ///
    /// # Errors
    /// When it has no link.
    pub fn cut(&self, what: &str, sides: Sides) -> Result<Vec<Impaired>> {
        self.trouble(what, Trouble::Cut(sides))
    }

    /// Does something to the link of a node, of an API server's machine, or of a cluster to the WAN.
    ///
    /// # Errors
    /// When it has no link, or what is to be done makes no sense.
    pub fn trouble(&self, what: &str, trouble: Trouble) -> Result<Vec<Impaired>> {
        self.ask(&Request::Trouble {
            what: what.to_owned(),
            trouble,
        })
    }

    /// Undoes all that was done to something: its link is good, it has power, and its processes run; or one process does.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn heal(&self, what: &str, process: Option<Role>) -> Result<Vec<Impaired>> {
        self.ask(&Request::Heal {
            what: Some(what.to_owned()),
            process,
        })
    }

    /// Undoes all that was done.
    ///
    /// # Errors
    /// When something can't be mended.
    pub fn heal_all(&self) -> Result<Vec<Impaired>> {
        self.ask(&Request::Heal {
            what: None,
            process: None,
        })
    }
}
