//! Nodes that boot and lose their power, and CNIs that come, go and change.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use strait_host::Family;

use super::{Lab, wait_for_pod};
use crate::control::CniChange;
use crate::topology::{Cluster, Node};
use crate::{build, cni, netns};

/// What became of a node since the lab began.
#[derive(Debug, Default)]
pub(super) struct Boot {
    /// How often it was booted again.
    count: u64,
    /// Whether it is without power.
    pub(super) off: bool,
}

impl Lab {
    pub(super) fn reboot(self: &Arc<Self>, name: &str, cni_after: Duration) -> Result<()> {
        let (cluster, node) = self.topology.node(name)?;
        let mut boots = self.boots();
        let boot = boots.entry(name.to_owned()).or_default();
        self.unmake(cluster, node, boot)?;
        build::node(cluster, node, &self.order.options)?;
        boot.off = false;
        boot.count += 1;
        let boot = boot.count;
        self.links().attach(name)?;
        if self.order.options.agents {
            self.agents(node)?;
        }
        if cni_after.is_zero() {
            self.pods(cluster, node)?;
            return node.pods.iter().try_for_each(|pod| wait_for_pod(&pod.name));
        }
        let (lab, name) = (self.clone(), name.to_owned());
        std::thread::Builder::new()
            .name(format!("{name} cni"))
            .spawn(move || {
                std::thread::sleep(cni_after);
                let late = || -> Result<()> {
                    let boots = lab.boots();
                    // The node may have been booted again, or its CNI brought up by hand.
                    if boots
                        .get(&name)
                        .is_some_and(|now| now.count == boot && !now.off)
                    {
                        lab.cni_up(&name)?;
                    }
                    Ok(())
                };
                if let Err(error) = late() {
                    let _ = writeln!(
                        std::io::stderr(),
                        "the CNI of {name} did not come up: {error:#}"
                    );
                }
            })?;
        Ok(())
    }

    /// Takes a node's power away: its processes end, and its network is gone.
    pub(super) fn power_off(&self, name: &str) -> Result<()> {
        let (cluster, node) = self.topology.node(name)?;
        let mut boots = self.boots();
        let boot = boots.entry(name.to_owned()).or_default();
        self.unmake(cluster, node, boot)
    }

    fn unmake(&self, cluster: &Cluster, node: &Node, boot: &mut Boot) -> Result<()> {
        if boot.off {
            return Ok(());
        }
        let mut places: Vec<&str> = node.pods.iter().map(|pod| pod.name.as_str()).collect();
        places.push(&node.name);
        self.links().detach(&node.name)?;
        self.processes.kill_all(&places)?;
        boot.off = true;
        build::unmake_node(cluster, node)
    }

    /// The caller holds the lock of the boots.
    fn cni_up(&self, name: &str) -> Result<()> {
        let (cluster, node) = self.topology.node(name)?;
        if cni::is_up(cluster, node)? {
            return Ok(());
        }
        if node.pods.iter().all(|pod| netns::find(&pod.name).is_err()) {
            return self.pods(cluster, node);
        }
        cni::up(cluster, node)?;
        node.pods
            .iter()
            .try_for_each(|pod| cni::reconnect(cluster, node, pod))
    }

    pub(super) fn cni(&self, name: &str, change: CniChange) -> Result<()> {
        let (cluster, node) = self.topology.node(name)?;
        let boots = self.boots();
        ensure!(
            boots.get(name).is_none_or(|boot| !boot.off),
            "{name} is off: 'strait lab heal {name}' boots it"
        );
        if change == CniChange::Up {
            return self.cni_up(name);
        }
        ensure!(cni::is_up(cluster, node)?, "the CNI of {name} is not up");
        let device = |family| {
            cni::device_of(cluster.cni, family).with_context(|| {
                format!("the CNI of {name} has no device of its own that could bear an address")
            })
        };
        match change {
            CniChange::Down => cni::down(cluster, node),
            CniChange::NoAddress => cluster
                .families
                .all()
                .iter()
                .try_for_each(|family| netns::flush(name, *family, device(*family)?)),
            CniChange::Address(address) => {
                let family = Family::of_net(&address);
                let device = device(family)?;
                netns::readdress(name, family, device, address)?;
                cni::routes(cluster, node)
            }
            CniChange::Up => Ok(()),
        }
    }

    pub(super) fn boots(&self) -> MutexGuard<'_, BTreeMap<String, Boot>> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
