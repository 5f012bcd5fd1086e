//! What is broken on purpose, and mended.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Lab;
use crate::clock;
use crate::faults::{Fault, Impaired, Link, Links, Trouble};
use crate::process::Role;

impl Lab {
    /// A process, a node with all that is on it, or what runs on another machine.
    pub(super) fn kill(&self, what: &str, process: Option<Role>) -> Result<()> {
        if process.is_none() && self.is_node(what) {
            return self.power_off(what);
        }
        for (place, role) in self.processes_of(what, process)? {
            self.processes.stop(&place, role, Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// Only the process that does the work; it comes back.
    pub(super) fn crash(&self, place: &str, role: Role) -> Result<()> {
        self.known(place, role)?;
        if self.processes.crash(place, role)? {
            return Ok(());
        }
        self.processes.stop(place, role, Signal::SIGKILL)?;
        self.start_again(place, role)
    }

    /// The same, standing still instead.
    pub(super) fn stop(&self, what: &str, process: Option<Role>) -> Result<()> {
        for (place, role) in self.processes_of(what, process)? {
            self.processes.pause(&place, role)?;
        }
        Ok(())
    }

    pub(super) fn trouble(&self, what: &str, trouble: &Trouble) -> Result<()> {
        trouble.check()?;
        let link = Link::find(&self.topology, what)?;
        // Whoever boots a node has its link changed.
        let boots = self.boots();
        ensure!(
            boots.get(what).is_none_or(|boot| !boot.off),
            "{what} is off: 'strait lab heal {what}' boots it"
        );
        self.links().change(link, trouble)
    }

    /// The answer waits until every process of the node sees it.
    pub(super) fn clock(&self, node: &str, ahead_s: i64) -> Result<()> {
        self.topology.node(node)?;
        ensure!(
            self.order.options.clocks,
            "the nodes of this lab have the machine's clock: start it with 'strait lab up --clocks'"
        );
        clock::check(ahead_s)?;
        let mut clocks = self.clocks();
        clock::set(node, ahead_s)?;
        if ahead_s == 0 {
            clocks.remove(node);
        } else {
            clocks.insert(node.to_owned(), ahead_s);
        }
        drop(clocks);
        std::thread::sleep(clock::SEEN);
        Ok(())
    }

    /// Undoes all that was done to something, or to everything.
    pub(super) fn heal(self: &Arc<Self>, what: Option<&str>, process: Option<Role>) -> Result<()> {
        let impaired = match what {
            None => self.impaired(),
            Some(what) => {
                self.exists(what)?;
                let all = self.impaired().into_iter();
                all.filter(|it| self.belongs(it, what, process)).collect()
            }
        };
        // Links first: what boots or starts needs them.
        let (links, rest): (Vec<_>, Vec<_>) = impaired
            .into_iter()
            .partition(|it| matches!(it.fault, Fault::Link { .. }));
        if what.is_none() {
            self.links().heal_all()?;
        }
        for it in links {
            self.links().heal(&it.what)?;
        }
        for it in rest {
            match (it.fault, it.process) {
                (Fault::Off, _) => self.reboot(&it.what, Duration::ZERO)?,
                (Fault::Killed, Some(role)) => self.start_again(&it.what, role)?,
                (Fault::Stopped, Some(role)) => self.processes.go_on(&it.what, role)?,
                (Fault::Clock { .. }, _) => self.clock(&it.what, 0)?,
                (Fault::Killed | Fault::Stopped | Fault::Link { .. }, _) => (),
            }
        }
        Ok(())
    }

    /// Whether healing `what` is meant for this, too: a node's pods are part of it.
    fn belongs(&self, it: &Impaired, what: &str, process: Option<Role>) -> bool {
        let of_node = self
            .topology
            .nodes()
            .any(|node| node.name == what && node.pods.iter().any(|pod| pod.name == it.what));
        (it.what == what || (of_node && process.is_none()))
            && process.is_none_or(|role| it.process == Some(role))
    }

    /// Everything that is impaired now.
    pub(super) fn impaired(&self) -> Vec<Impaired> {
        let mut all: Vec<Impaired> = self.links().impaired().collect();
        let boots = self.boots();
        let off = boots.iter().filter(|(_, boot)| boot.off);
        all.extend(off.map(|(name, _)| Impaired {
            what: name.clone(),
            process: None,
            fault: Fault::Off,
        }));
        drop(boots);
        let clock = |(node, ahead_s): (&String, &i64)| Impaired {
            what: node.clone(),
            process: None,
            fault: Fault::Clock { ahead_s: *ahead_s },
        };
        all.extend(self.clocks().iter().map(clock));
        all.extend(self.processes.impaired());
        all
    }

    /// An answer: what is impaired after what was done.
    pub(super) fn told(&self, done: Result<()>) -> Result<Value> {
        done?;
        Ok(serde_json::to_value(self.impaired())?)
    }

    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clocks(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_node(&self, what: &str) -> bool {
        self.topology.nodes().any(|node| node.name == what)
    }

    fn exists(&self, what: &str) -> Result<()> {
        let names = self.topology.all_names();
        ensure!(
            names.iter().any(|name| name == what),
            "no '{what}' in the lab; there are {}",
            names.join(", ")
        );
        Ok(())
    }

    /// The processes that are meant, by where and what they are; at least one.
    fn processes_of(&self, what: &str, process: Option<Role>) -> Result<Vec<(String, Role)>> {
        if let Some(role) = process {
            self.known(what, role)?;
            return Ok(vec![(what.to_owned(), role)]);
        }
        self.exists(what)?;
        let node = self.topology.nodes().find(|node| node.name == what);
        let pods = node.into_iter().flat_map(|node| &node.pods);
        let places: Vec<&str> = [what]
            .into_iter()
            .chain(pods.map(|pod| pod.name.as_str()))
            .collect();
        let all = self.processes.all().into_iter();
        let found: Vec<_> = all
            .filter(|(place, _)| places.contains(&place.as_str()))
            .collect();
        if found.is_empty() {
            let mut others: Vec<String> = self.processes.all().into_iter().map(|it| it.0).collect();
            others.dedup();
            bail!(
                "no process runs on '{what}'; there are some on {}",
                others.join(", ")
            );
        }
        Ok(found)
    }
}
