//! Which gateway of its own cluster a node uses: the newest that is published, or that says so itself.

use strait_api::Endpoint;

use super::{GATEWAY_GRACE, State};
use crate::gateway::turn_of;
use crate::hello::{Following, Turn};
use crate::time::Time;

/// What the direct watch tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// The newest gateway that said that it carries the traffic.
    pub following: Option<Following>,
    /// Whether it still does.
    pub now: bool,
}

impl Heard {
    fn turn(&self) -> Option<Turn> {
        let following = self.following.as_ref()?;
        Some(Turn {
            term: following.claim.term,
            holder: following.hostname.clone(),
        })
    }
}

impl State {
    /// The newest Endpoint of this cluster is the active gateway, unless one says of itself that it is newer.
    pub(super) fn follow_gateway(&mut self, now: Time) {
        let newest = self.newest_gateway();
        let was_ours = self.is_own(self.gateway.as_ref());
        if newest.is_some() {
            self.gateway = newest;
            self.gateway_lost = None;
            if self.is_own(self.gateway.as_ref()) {
                self.retired = None;
            } else if was_ours {
                self.retired = Some(now);
            }
        } else if self.gateway.is_some() && self.endpoints.is_known() {
            let lost = *self.gateway_lost.get_or_insert(now);
            if lost + GATEWAY_GRACE <= now {
                self.gateway = None;
                self.gateway_lost = None;
            }
        }
        if self.retired.is_some_and(|at| at + GATEWAY_GRACE <= now) {
            self.retired = None;
        }
    }

    fn is_own(&self, gateway: Option<&Endpoint>) -> bool {
        gateway.is_some_and(|g| g.hostname == self.settings.hostname)
    }

    fn newest_gateway(&self) -> Option<Endpoint> {
        let own = || {
            let all = self.endpoints.values();
            all.filter(|e| e.cluster == self.settings.cluster)
        };
        let published = own().max_by(|a, b| a.order().cmp(&b.order()))?;
        let heard = self.heard.turn().zip(self.heard.following.as_ref());
        let Some((turn, following)) = heard else {
            return Some(published.clone());
        };
        let newer = match turn_of(published) {
            Some(told) => told < turn,
            // Submariner's: what is heard now counts, not what was.
            None => self.heard.now,
        };
        if !newer {
            return Some(published.clone());
        }
        let claim = &following.claim;
        let same = |e: &&Endpoint| e.hostname == following.hostname && e.cable_name == claim.cable;
        if let Some(endpoint) = own().find(same) {
            return Some(endpoint.clone());
        }
        // Not published yet, and while the API server is away it won't be.
        let sibling = published.sibling(
            &following.hostname,
            &claim.cable,
            &claim.backend,
            &claim.interface,
            &claim.addresses,
        );
        Some(sibling.unwrap_or_else(|_| published.clone()))
    }
}
