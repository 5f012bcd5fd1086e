//! Who may take the place of the gateway that carries the traffic, and who could until a moment ago: other clusters let both in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use strait_api::names::ANNOTATION_STANDBYS;
use strait_api::standby::MOST_STANDBYS;
use strait_api::{Endpoint, EndpointSpec, Standby};

use super::State;
use super::plan::Own;
use crate::Time;
use crate::time::OVERLAP;

/// By host name.
type Named = BTreeMap<String, Standby>;

/// Those that have ended: until everybody has learned that, what is sent to them may still come out of their cables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Departed {
    there: Named,
    /// With the time until which they are told of.
    gone: BTreeMap<String, (Standby, Time)>,
}

impl Departed {
    /// These are there now.
    fn look(&mut self, there: Named, now: Time) {
        let before = std::mem::replace(&mut self.there, there);
        for (hostname, standby) in before {
            if !self.there.contains_key(&hostname) {
                self.gone.insert(hostname, (standby, now + OVERLAP));
            }
        }
    }

    fn tick(&mut self, now: Time) {
        self.gone.retain(|_, (_, until)| now < *until);
    }

    /// When the next one is forgotten.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.gone.values().map(|(_, until)| *until).min()
    }

    /// Those that have ended, the last first; none whose host or cable is of one that is there.
    fn beside(&self, there: &Named) -> Vec<Standby> {
        let taken = |gone: &Standby| {
            let same = |there: &Standby| there.cable_name == gone.cable_name;
            there.contains_key(&gone.hostname) || there.values().any(same)
        };
        let mut gone: Vec<&(Standby, Time)> = self.gone.values().collect();
        gone.sort_by_key(|(_, until)| std::cmp::Reverse(*until));
        let gone = gone.into_iter().map(|(standby, _)| standby);
        gone.filter(|standby| !taken(standby)).cloned().collect()
    }
}

impl State {
    /// The other gateways of this cluster: where there is a Node for one, and its cable is like ours.
    fn others(&self) -> Named {
        let s = &self.settings;
        let on_node = |spec: &EndpointSpec| {
            let has = |ip: &IpAddr| {
                let ip = ip.to_string();
                spec.private_ip == ip || spec.private_ips.contains(&ip)
            };
            let mut nodes = self.nodes.values().filter(|node| node.may_be_gateway);
            nodes.any(|node| node.internal_ips.iter().any(has))
        };
        let others = self.gateways.values().filter(|spec| {
            spec.cluster_id == s.cluster.as_str()
                && spec.hostname != s.hostname
                && spec.backend == s.driver.name()
                && on_node(spec)
        });
        let named = others.map(|spec| (spec.hostname.clone(), Standby::of(spec)));
        named.collect()
    }

    /// Takes note of who has ended. `changed`: Gateways or Nodes may be others than before.
    pub(super) fn follow_standbys(&mut self, changed: bool, now: Time) {
        if changed && self.gateways.is_known() && self.nodes.is_known() {
            let there = self.others();
            self.departed.look(there, now);
        }
        self.departed.tick(now);
    }

    /// What the own Endpoint tells of them: those that are there, in the order of their host names, then those that were.
    pub(super) fn told_standbys(&self, own: &Own) -> Option<String> {
        if !self.gateways.is_known() {
            // Whoever began anew does not know yet, and a predecessor did.
            let s = &self.settings;
            let name = Endpoint::object_name(s.cluster.as_str(), &own.spec.cable_name);
            let published = &self.endpoints.get(&name)?.object.annotations;
            return published.get(ANNOTATION_STANDBYS).cloned();
        }
        let there = self.others();
        let gone = self.departed.beside(&there).into_iter();
        let all: Vec<Standby> = there
            .into_values()
            .chain(gone)
            .take(MOST_STANDBYS)
            .collect();
        // Nothing in it could fail.
        serde_json::to_string(&all).ok().filter(|_| !all.is_empty())
    }
}
