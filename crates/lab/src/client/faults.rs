//! Breaking things on purpose, and mending them.

use anyhow::{Context, Result};

use strait_host::Family;

use super::Lab;
use crate::control::Request;
use crate::faults::{Impaired, Sides, Trouble};
use crate::process::Role;

/// The table of a node that is isolated.
const ISOLATED: &str = "lab-isolated";

/// Most give what is impaired afterwards.
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

    /// Asks a process to end, as Kubernetes does (SIGTERM), and does not wait until it has. It stays so until [`Lab::restart`].
    ///
    /// # Errors
    /// When there is none.
    pub fn terminate(&self, place: &str, role: Role) -> Result<()> {
        let status = self.status()?;
        let mut all = status.processes.iter();
        let process = all.find(|it| it.role == role && it.place == place);
        let process = process.with_context(|| format!("no {role} runs on {place}"))?;
        self.exec(place, &["kill", "-TERM", &process.pid.to_string()])?;
        Ok(())
    }

    /// Lets nothing pass between a node and the others of its cluster, as a broken switch would; the WAN and the API server stay. Its own filter
    /// does that, until [`Lab::reunite`] or a boot.
    ///
    /// # Errors
    /// When there is no such node, or it is off.
    pub fn isolate(&self, node: &str) -> Result<()> {
        let mut rules = String::new();
        let (cluster, _) = self.topology.node(node)?;
        for family in cluster.families.all() {
            let word = match family {
                Family::V4 => "ip",
                Family::V6 => "ip6",
            };
            let others = cluster.nodes.iter().filter(|other| other.name != node);
            let others: Vec<String> = others.map(|other| other.ip(*family).to_string()).collect();
            if others.is_empty() {
                continue;
            }
            let others = others.join(", ");
            rules += &format!(
                "table {word} {ISOLATED} {{
  chain in {{ type filter hook prerouting priority -500; {word} saddr {{ {others} }} drop; }}
  chain out {{ type filter hook postrouting priority 500; {word} daddr {{ {others} }} drop; }}
}}
"
            );
        }
        self.exec(node, &["nft", &rules])?;
        Ok(())
    }

    /// Ends [`Lab::isolate`].
    ///
    /// # Errors
    /// When there is no such node, or it is off.
    pub fn reunite(&self, node: &str) -> Result<()> {
        let (cluster, _) = self.topology.node(node)?;
        let mut rules = String::new();
        for family in cluster.families.all() {
            let word = match family {
                Family::V4 => "ip",
                Family::V6 => "ip6",
            };
            // What is made in the same transaction can be deleted, whether it was there or not.
            rules += &format!("table {word} {ISOLATED} {{}}\ndelete table {word} {ISOLATED}\n");
        }
        self.exec(node, &["nft", &rules])?;
        Ok(())
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

    /// Steps a node's wall clock: it goes so many seconds before the machine's, or behind it; 0 is right again. All of the node's processes see
    /// it when this returns.
    ///
    /// # Errors
    /// When there is no such node, or the lab was not started with [`crate::Options::clocks`].
    pub fn clock(&self, node: &str, ahead_s: i64) -> Result<Vec<Impaired>> {
        self.ask(&Request::Clock {
            node: node.to_owned(),
            ahead_s,
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
