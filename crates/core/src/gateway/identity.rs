//! Which cluster this is, beside the id that people chose: two that have one id must not undo each other's work on the broker for ever.
//!
//! A cluster has a random identity, which stands in an annotation of its own Cluster object, here and on the broker, and of its
//! Endpoints on the broker. There, `Cluster/<id>` can be once only: whose identity it carries has the id. The rule:
//! * Who sees it with another's identity steps back: writes nothing there, and removes Endpoints that carry the own identity.
//! * Who has the id leaves alone what carries another's: that one removes it itself.
//! * The id is taken from one that is [silent](super::expiry) only, and what that one left is removed. So a cluster that was made
//!   anew comes back by itself.
//!
//! Each writes only while what it sees there is its own, nobody's or Submariner's, and only whose identity was written last goes on
//! doing so: there is no loop.

use std::collections::BTreeSet;

use strait_api::gateway::ConnectionStatus;
use strait_api::names::BACKEND_PUBLIC_KEY;
use strait_api::{ClusterId, Endpoint, EndpointSpec, Object, valid_name};
use strait_host::Key;

use super::objects::{changes, is_own_on_broker, ordered, to_broker, uid};
use super::plan::Own;
use super::turns::superseded;
use super::{State, Tunnel};
use crate::condition::some;
use crate::health::Way;
use crate::hello::Turn;
use crate::object::{Entry, ObjectChange};
use crate::time::Time;
use crate::{Condition, Driver};

/// The longest identity that is taken over from an object, in bytes.
const LONGEST: usize = 64;

impl State {
    /// Takes over the identity that this cluster's own Cluster object has: another gateway chose it, or a predecessor.
    pub(super) fn recognise(&mut self) {
        let name = valid_name(self.settings.cluster.as_str());
        let own = self.clusters.get(&name).map(|entry| &entry.object);
        if let Some(uid) = own.and_then(uid).filter(|uid| uid.len() <= LONGEST) {
            uid.clone_into(&mut self.uid);
        }
    }

    /// Looks for Endpoints on the broker that nobody keeps any more.
    pub(super) fn look_for_signs_of_life(&mut self, now: Time) {
        let mut expiry = std::mem::take(&mut self.expiry);
        let life = Life::of(self);
        expiry.look(&self.broker_endpoints, |e| life.is_dead(e), now);
        self.expiry = expiry;
    }

    /// What this cluster is to have on the broker in this turn, as changes.
    pub(super) fn on_broker(
        &self,
        cluster: &Object,
        endpoint: &Object,
        turn: &Turn,
    ) -> Vec<ObjectChange> {
        let s = &self.settings;
        // Whose the id is, is not known before.
        if !self.clusters.is_known() || !self.broker_clusters.is_known() {
            return Vec::new();
        }
        let endpoints = &self.broker_endpoints;
        if self.owner().is_some() {
            return changes(endpoints, &[], &self.stored, |e| {
                is_own_on_broker(e, &s.cluster) && uid(&e.object) == Some(self.uid.as_str())
            });
        }
        let copy =
            |object, beat| to_broker(object, &s.broker_namespace, &s.cluster, &self.uid, beat);
        let left = |name: &str| self.expiry.is_silent(name);
        let clusters = changes(
            &self.broker_clusters,
            &[copy(cluster, None)],
            &self.stored,
            |e| is_own_on_broker(e, &s.cluster) && !self.is_rivals(&e.object),
        );
        let copies = changes(endpoints, &[copy(endpoint, self.beat)], &self.stored, |e| {
            is_own_on_broker(e, &s.cluster) && self.is_rivals(&e.object) && left(&e.object.key.name)
        });
        let older = superseded(endpoints, &endpoint.key.name, turn, |e| {
            is_own_on_broker(e, &s.cluster) && !self.is_rivals(&e.object)
        });
        ordered(clusters.into_iter().chain(copies).chain(older).collect())
    }

    /// Whether an object on the broker says that it is of another cluster than this one, though that has our id.
    pub(super) fn is_rivals(&self, object: &Object) -> bool {
        uid(object).is_some_and(|uid| uid != self.uid)
    }

    /// The identity of another cluster that has our id, unless nothing is heard of it any more.
    fn owner(&self) -> Option<&str> {
        let name = valid_name(self.settings.cluster.as_str());
        let there = self.broker_clusters.get(&name)?;
        let other = uid(&there.object).filter(|uid| *uid != self.uid)?;
        let mut left = self
            .rivals()
            .filter(|e| uid(&e.object) == Some(other))
            .peekable();
        let silent = |e: &Entry<Endpoint>| self.expiry.is_silent(&e.object.key.name);
        let gone = left.peek().is_some() && left.all(silent);
        (!gone).then_some(other)
    }

    /// Endpoints on the broker of other clusters that have our id.
    pub(super) fn rivals(&self) -> impl Iterator<Item = &Entry<Endpoint>> {
        self.broker_endpoints
            .values()
            .filter(|e| is_own_on_broker(e, &self.settings.cluster) && self.is_rivals(&e.object))
    }

    /// Another cluster has our id.
    pub(super) fn duplicate_condition(&self, own: &Own) -> Option<Condition> {
        let parsed = |e: &'_ Entry<Endpoint>| e.parsed.as_ref().ok().map(|e| said(&e.spec));
        let others: BTreeSet<String> = self.rivals().filter_map(parsed).collect();
        let others: Vec<String> = others.into_iter().collect();
        let (others, id) = (others.join(", "), &self.settings.cluster);
        let both = |other: &str| {
            format!(
                "two clusters have the id {id}: this one, with {}, and one with {other}",
                said(&own.spec)
            )
        };
        let message = match self.owner() {
            Some(_) => {
                let other = if others.is_empty() {
                    "no gateway"
                } else {
                    &others
                };
                format!(
                    "{}. That one was first on the broker, so this one publishes nothing there, and no other cluster reaches it: give it another id. If \
                     the other one is gone for good, remove its Cluster and Endpoint from the broker; without that, a quarter of an hour of silence counts",
                    both(other)
                )
            }
            None if others.is_empty() => return None,
            None => format!(
                "{}. This one was first on the broker; the other is to get another id",
                both(&others)
            ),
        };
        Some(Condition::degraded("DuplicateClusterId", message))
    }

    /// Clusters whose objects were removed here.
    pub(super) fn gone_condition(&self) -> Option<Condition> {
        let gone = self
            .expiry
            .gone()
            .filter(|id| **id != self.settings.cluster);
        let gone: Vec<&str> = gone.map(ClusterId::as_str).collect();
        (!gone.is_empty()).then(|| {
            let message = format!(
                "nothing was heard of these clusters on the broker for 15 min and through the tunnel for 10 min: {}. They are not reached any more until \
                 there is a sign of life; if they are gone for good, remove their Clusters and Endpoints from the broker",
                some(&gone, ", ")
            );
            Condition::degraded("ClusterGone", message).of(gone.len())
        })
    }
}

/// A gateway as a person would look for it.
fn said(spec: &EndpointSpec) -> String {
    let addresses = if spec.private_ips.is_empty() {
        spec.private_ip.clone()
    } else {
        spec.private_ips.join(" and ")
    };
    format!("gateway {} ({addresses})", spec.hostname)
}

/// The keys by which a cluster may be heard: its gateway's, and those of gateways that may have taken its place meanwhile, which who can't reach the
/// broker tells nobody.
fn keys(endpoint: &Endpoint) -> impl Iterator<Item = Key> {
    let standbys = endpoint.standbys.iter();
    keys_of(endpoint).chain(standbys.flat_map(keys_of))
}

/// The keys by which a gateway may be heard: the one that it has, the one that it is going to have and the one that it had.
pub(super) fn keys_of(endpoint: &Endpoint) -> impl Iterator<Item = Key> {
    let published = endpoint.spec.backend_config.get(BACKEND_PUBLIC_KEY);
    let others = endpoint.other_keys.iter();
    let others = others.flat_map(|others| [others.next.as_ref(), others.former.as_ref()]);
    let all = [published].into_iter().chain(others);
    all.flatten().filter_map(|key| key.parse().ok())
}

/// What is known of the tunnels.
struct Life<'a> {
    state: &'a State,
    /// Clusters that answer pings.
    up: BTreeSet<&'a ClusterId>,
    /// Clusters that are pinged and do not answer.
    down: BTreeSet<&'a ClusterId>,
}

impl<'a> Life<'a> {
    fn of(state: &'a State) -> Self {
        let pinged = |status: ConnectionStatus| {
            let all = state.health.iter().filter(|(t, _)| t.way == Way::Cluster);
            all.filter(move |(_, report)| report.status == status)
                .map(|(target, _)| &target.cluster)
                .collect()
        };
        Self {
            state,
            up: pinged(ConnectionStatus::Connected),
            down: pinged(ConnectionStatus::Error),
        }
    }

    /// Whether there is proof that the tunnel to an Endpoint does not work.
    fn is_dead(&self, endpoint: &Endpoint) -> bool {
        let driver = self.state.settings.driver;
        // A standby has other tunnels than the one that counts, or none.
        if self.state.own_turn().is_none() {
            return false;
        }
        if endpoint.backend != driver.name() {
            return true;
        }
        if self.up.contains(&endpoint.cluster) {
            return false;
        }
        match driver {
            // It has no session: pings are all that can tell.
            Driver::Vxlan => self.down.contains(&endpoint.cluster),
            Driver::WireGuard => {
                let tunnel = |key| self.state.tunnels.peers.get(&key);
                let up = |key| matches!(tunnel(key), Some(Tunnel::Connected(_)));
                self.state.tunnels.failure.is_none() && !keys(endpoint).any(up)
            }
        }
    }
}
