//! The gateway among those of its cluster: what the election needs to know, and what a turn does to the objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::names::{ANNOTATION_STANDBYS, ANNOTATION_TERM};
use strait_api::{ClusterId, Endpoint, Node, Object, Term};

use super::State;
use super::plan::Own;
use crate::hello::{Claim, Turn};
use crate::{Condition, Entry, ObjectChange, Source};

/// What the election says of this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is not known yet who carries the traffic, and why: what is there stays as it is.
    Unknown(String),
    /// Another gateway carries the traffic.
    Standby,
    /// This one does, since this term.
    Active(Term),
}

impl Default for Standing {
    fn default() -> Self {
        Self::Unknown("the Lease was not read yet".to_owned())
    }
}

/// What the election needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Known {
    /// The cluster's Nodes by name: addresses, and whether each may be a gateway.
    pub nodes: BTreeMap<String, (Vec<IpAddr>, bool)>,
    /// The newest turn that an Endpoint of this cluster tells of.
    pub seen: Option<Turn>,
    /// What this gateway says of itself when it carries the traffic; `None` while it could not.
    pub ready: Option<Claim>,
}

/// The cluster's Nodes, as the direct watch wants them.
pub(crate) fn nodes(nodes: &Source<Node>) -> BTreeMap<String, (Vec<IpAddr>, bool)> {
    let of = |(name, node): (&str, &Node)| {
        let known = (node.internal_ips.clone(), node.may_be_gateway);
        (name.to_owned(), known)
    };
    nodes.iter().map(of).collect()
}

/// The turn of which an Endpoint tells.
pub(crate) fn turn_of(endpoint: &Endpoint) -> Option<Turn> {
    Some(Turn {
        term: endpoint.term?,
        holder: endpoint.hostname.clone(),
    })
}

impl State {
    /// What the election needs to know; `None` while the Nodes are not known.
    pub(super) fn for_election(&self, own: Option<&Own>) -> Option<Known> {
        if !self.nodes.is_known() {
            return None;
        }
        let of_cluster = |e: &&Endpoint| e.cluster == self.settings.cluster;
        // Another cluster that has our id has other gateways.
        let on_broker = self.broker_endpoints.values();
        let on_broker = on_broker.filter(|e| !self.is_rivals(&e.object));
        let all = self.endpoints.values().chain(on_broker);
        let parsed = all.filter_map(|e| e.parsed.as_ref().ok());
        let seen = parsed.filter(of_cluster).filter_map(turn_of).max();
        let own = own.filter(|_| self.endpoints.is_known());
        let ready = own.map(|own| Claim {
            // Filled in by the election.
            term: Term::default(),
            addresses: own.underlays.values().map(|u| u.ip).collect(),
            cable: own.spec.cable_name.clone(),
            backend: self.settings.driver.name().to_owned(),
            interface: self.settings.driver.device().to_owned(),
        });
        Some(Known {
            nodes: nodes(&self.nodes),
            seen,
            ready,
        })
    }

    /// The Endpoints that count: those here, and in front of them what the broker has of other clusters' newer turns. Copies of these come a
    /// moment later, and not at all while the cluster's API server is away; until then what the other cluster's new gateway sends may be lost.
    /// `accepted` are the names of those that may come here.
    pub(super) fn known_endpoints(&self, accepted: &BTreeSet<&str>) -> Vec<&Endpoint> {
        let here = self.endpoints.values();
        let here: Vec<&Endpoint> = here.filter_map(|e| e.parsed.as_ref().ok()).collect();
        let mut turns: BTreeMap<&ClusterId, Option<Turn>> = BTreeMap::new();
        for endpoint in &here {
            let newest = turns.entry(&endpoint.cluster).or_default();
            *newest = newest.take().max(turn_of(endpoint));
        }
        let on_broker = self.broker_endpoints.iter();
        let on_broker = on_broker.filter(|(name, _)| accepted.contains(name));
        let newer: BTreeMap<&str, &Endpoint> = on_broker
            .filter_map(|(name, entry)| Some((name, entry.parsed.as_ref().ok()?)))
            .filter(|(_, endpoint)| {
                // A cluster that is new begins with its copy.
                let newest = turns.get(&endpoint.cluster);
                newest.is_some_and(|newest| *newest < turn_of(endpoint))
            })
            .collect();
        let superseded = |endpoint: &&Endpoint| {
            let newer = newer.get(endpoint.name.as_str());
            newer.is_some_and(|newer| newer.cluster == endpoint.cluster)
        };
        let rest = here.into_iter().filter(|endpoint| !superseded(endpoint));
        rest.chain(newer.values().copied()).collect()
    }

    /// The turn in which this gateway carries the traffic, if it does.
    pub(super) fn own_turn(&self) -> Option<Turn> {
        match &self.standing {
            Standing::Active(term) => Some(Turn {
                term: *term,
                holder: self.settings.hostname.clone(),
            }),
            Standing::Standby | Standing::Unknown(_) => None,
        }
    }

    /// Why nothing is known yet of who carries the traffic.
    pub(super) fn standing_condition(&self) -> Option<Condition> {
        match &self.standing {
            Standing::Unknown(why) => {
                let message = format!(
                    "it is not known which gateway of the cluster carries the traffic: {why}"
                );
                Some(Condition::not_ready("InputsUnknown", message))
            }
            Standing::Standby | Standing::Active(_) => None,
        }
    }
}

/// The own Endpoint, with the term of its turn, and what it tells of standbys.
pub(super) fn in_turn(mut endpoint: Object, turn: &Turn, standbys: Option<String>) -> Object {
    if let Some(text) = standbys {
        let annotations = &mut endpoint.annotations;
        annotations.insert(ANNOTATION_STANDBYS.to_owned(), text);
    }
    let term = turn.term.to_string();
    endpoint
        .annotations
        .insert(ANNOTATION_TERM.to_owned(), term);
    endpoint
}

/// Endpoints of older turns go, once that of this turn is there: there is no moment without one.
pub(super) fn superseded<'a>(
    there: &'a Source<Entry<Endpoint>>,
    own: &'a str,
    turn: &'a Turn,
    ours: impl Fn(&Entry<Endpoint>) -> bool + 'a,
) -> impl Iterator<Item = ObjectChange> + 'a {
    let stands = there
        .get(own)
        .is_some_and(|e| e.object.annotations.get(ANNOTATION_TERM) == Some(&turn.term.to_string()));
    let others = there
        .iter()
        .filter(move |(name, entry)| stands && *name != own && ours(entry));
    let older = others.filter(move |(_, entry)| {
        let theirs = entry.parsed.as_ref().ok().and_then(turn_of);
        theirs.is_none_or(|theirs| theirs <= *turn)
    });
    older.map(|(_, entry)| ObjectChange::Supersede {
        key: entry.object.key.clone(),
        by: turn.clone(),
    })
}
