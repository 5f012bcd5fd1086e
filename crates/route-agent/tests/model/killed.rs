//! An agent that is killed in the middle of a pass: what holds between any two of its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use strait_host::Family;

use super::reference::{Fate, Origin, pod_ip};
use super::trial::{Checked, Trial, ensure};
use super::world::{Which, World, host_of, node_ip};

/// What became of the first packet of a connection; `None` where that can't be said.
type Fates = BTreeMap<(usize, IpNet, Origin), Option<Fate>>;

impl Trial {
    /// Makes so many 255ths of the changes of a pass, and no more.
    ///
    /// After each of them others' objects are as they were, and no packet to another cluster leaves in clear that did not before; one that
    /// goes into the nodes' VXLAN goes to a node of this cluster, and a pod's has the pod's source. (Which of them, the host's source, and
    /// whether it is refused, may be of before or after, or of both in part.)
    pub(crate) fn killed(&mut self, share: u8) -> Checked {
        let before = self.fates();
        let (_, changes) = self.planned()?;
        let count = (changes.len() * usize::from(share)).div_ceil(255);
        for change in changes.iter().take(count) {
            self.make(change)?;
            self.untouched()
                .and_then(|()| self.between(&before))
                .map_err(|why| format!("after {change:?}, of {changes:#?}: {why}"))?;
        }
        Ok(())
    }

    fn fates(&self) -> Fates {
        let mut fates = Fates::new();
        for (cluster, subnet) in self.world.routed().0 {
            for origin in [Origin::Pod, Origin::Host, Origin::BoundHost] {
                let family = Family::of_net(&subnet);
                let fate = self.send(family, origin, host_of(&subnet, 200));
                fates.insert((cluster, subnet, origin), fate);
            }
        }
        fates
    }

    fn between(&self, before: &Fates) -> Checked {
        for (of, now) in self.fates() {
            let was = before.get(&of).cloned().flatten();
            let (cluster, subnet, origin) = of;
            let family = Family::of_net(&subnet);
            let good = match &now {
                None | Some(Fate::Refused) => true,
                Some(Fate::Clear) => was == Some(Fate::Clear),
                Some(Fate::ToGateway { outer, source }) => {
                    let known = self.known(family).contains(outer)
                        || matches!(&was, Some(Fate::ToGateway { outer: old, .. }) if old == outer);
                    known && (origin != Origin::Pod || *source == pod_ip(family))
                }
                Some(Fate::Cable { source, .. }) => {
                    origin != Origin::Pod || *source == pod_ip(family)
                }
            };
            ensure!(
                good,
                "{origin:?} to {subnet} of {}: {now:?}, but it was {was:?}",
                World::name(cluster)
            );
        }
        Ok(())
    }

    /// Addresses of this cluster's nodes.
    fn known(&self, family: Family) -> BTreeSet<IpAddr> {
        let w = &self.world;
        let nodes = w.nodes.iter().map(|(node, which)| (*node, *which));
        let gateways = w.gateway.into_iter().chain(w.lost.map(|(lost, _)| lost));
        let all = nodes.chain(gateways);
        all.filter_map(|(node, which): (usize, Which)| node_ip(node, which, family))
            .collect()
    }
}
