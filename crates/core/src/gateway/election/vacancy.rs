//! Whether somebody has to take over, and whether this gateway may.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Election, Role};
use crate::Time;
use crate::hello::{Answer, Kind, PeerId, Term};

/// Between two times that the same is asked, at first.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long it is asked so often.
const ASK_OFTEN: Duration = Duration::from_secs(1);
/// Between two times that the same is asked, later.
const ASK_SELDOM: Duration = Duration::from_secs(1);

/// What is to be done about the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vacancy {
    /// Nothing: somebody carries the traffic, or it is not this gateway's turn to see to that.
    Held,
    /// It is to be read before anything else.
    Look,
    /// It is to be renewed for its holder, who carries the traffic and can't.
    KeepFor,
    /// It is to be taken.
    Take,
}

/// Why nobody seems to carry the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Who carried it was heard to, and is heard no more, or says that it doesn't.
    Lost,
    /// The Lease was not renewed for as long as it holds.
    Expired,
}

/// The others are asked whether they hear who carries the traffic.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    reason: Reason,
    /// The term that it is asked for.
    wanted: Term,
    /// When it began, or begins: the first gateway goes first.
    from: Time,
    open: bool,
    /// When it is asked again.
    pub next: Time,
    answers: BTreeMap<PeerId, (Answer, Time)>,
    /// The first look at the Lease since.
    looked_at: Option<Time>,
}

impl Asking {
    pub(super) fn term(&self) -> Option<Term> {
        self.open.then_some(self.wanted)
    }
}

impl Election {
    /// Begins to ask, goes on, or ends.
    pub(super) fn seek(&mut self, now: Time) {
        let Some(reason) = self.reason(now) else {
            if self.asking.take().is_some_and(|asking| asking.open) {
                self.mesh.hurry(now);
            }
            return;
        };
        let wanted = self
            .newest()
            .map_or(Term::default(), |newest| newest.term)
            .next_ballot();
        if self
            .asking
            .as_ref()
            .is_none_or(|asking| asking.reason != reason || asking.wanted != wanted)
        {
            let from = now + self.settings.timing.detection() * 2 * self.rank(now);
            self.asking = Some(Asking {
                reason,
                wanted,
                from,
                open: false,
                next: from,
                answers: BTreeMap::new(),
                looked_at: None,
            });
        }
        let Some(asking) = &mut self.asking else {
            return;
        };
        if asking.next <= now {
            if !asking.open {
                self.lease.next_at = self.lease.next_at.min(now);
            }
            asking.open = true;
            let again = if now < asking.from + ASK_OFTEN {
                ASK_AGAIN
            } else {
                ASK_SELDOM
            };
            asking.next = now + again;
            self.mesh.hurry(now);
        }
        if asking.open && asking.looked_at.is_none() && self.lease.read_at >= asking.from {
            asking.looked_at = Some(self.lease.read_at);
        }
    }

    fn reason(&self, now: Time) -> Option<Reason> {
        if self.role != Role::Standby
            || !self.may_begin()
            || !self.has_listened(now)
            || self.carried(now)
        {
            return None;
        }
        let lost = self
            .newest()
            .is_some_and(|newest| self.heard_holder || newest.holder == self.settings.hostname);
        if self.lease_is_over(now) {
            Some(Reason::Expired)
        } else {
            lost.then_some(Reason::Lost)
        }
    }

    /// Whether the Lease is somebody's who has not renewed it for as long as it holds, as far as can be told here: by this
    /// host's clock only, and by a look that is not old.
    fn lease_is_over(&self, now: Time) -> bool {
        let fresh = self.lease.read_at + self.settings.retry_period * 2 > now;
        self.lease.lease().is_some_and(|lease| {
            let held = !lease.record.holder.is_empty();
            held && fresh && self.lease.since + lease.record.duration <= now
        })
    }

    /// Whether it has run long enough to have heard another gateway that carries the traffic.
    fn has_listened(&self, now: Time) -> bool {
        let alone = !self.nodes.is_empty() && !self.mesh.has_gateways();
        let begun = self.begun.unwrap_or(now);
        alone || begun + self.listens <= now
    }

    /// An answer to what was asked.
    pub(super) fn answered(&mut self, from: &PeerId, answer: &Answer, now: Time) {
        let nodes = &self.nodes;
        let Some(asking) = self
            .asking
            .as_mut()
            .filter(|asking| asking.open && asking.wanted == answer.term)
        else {
            return;
        };
        asking.answers.insert(from.clone(), (answer.clone(), now));
        // By the nodes' votes: without the API server, only more than half of all nodes can say that nobody else is heard.
        let votes = asking.answers.iter().filter(|(id, (answer, _))| {
            id.kind == Kind::Node && answer.granted && nodes.contains_key(&id.node)
        });
        let elected = asking.reason == Reason::Lost && votes.count() * 2 > nodes.len();
        let wanted = asking.wanted;
        if elected && !self.is_vetoed(now) && self.may_begin() && !self.carried(now) {
            self.begin(wanted, now);
        }
    }

    /// Whether somebody hears the one who carries the traffic.
    fn is_vetoed(&self, now: Time) -> bool {
        let recent = self.settings.timing.detection();
        self.asking.as_ref().is_some_and(|asking| {
            let recent = if now < asking.from + ASK_OFTEN {
                recent
            } else {
                recent + ASK_SELDOM
            };
            asking
                .answers
                .values()
                .any(|(answer, at)| answer.hears && now < *at + recent)
        })
    }

    /// What is to be done about the Lease, which was read.
    pub(super) fn vacancy(&self, now: Time) -> Vacancy {
        if !self.may_begin() || !self.has_listened(now) {
            return Vacancy::Held;
        }
        let lease = self.lease.lease();
        let first = self.rank(now) == 0;
        let keep = || {
            let unrenewed = self.lease.since + self.settings.renew_deadline <= now;
            let held = lease.is_some_and(|l| !l.record.holder.is_empty());
            if first && unrenewed && held {
                Vacancy::KeepFor
            } else {
                Vacancy::Held
            }
        };
        if self.carried(now) {
            return keep();
        }
        let own = self.settings.identity();
        let free = lease.is_none_or(|l| l.record.holder.is_empty() || l.record.holder == own);
        if free {
            let turn = self.lease.since + self.settings.timing.detection() * 2 * self.rank(now);
            return if turn <= now {
                Vacancy::Take
            } else {
                Vacancy::Held
            };
        }
        let Some(asking) = self.asking.as_ref().filter(|asking| asking.open) else {
            return Vacancy::Held;
        };
        if self.is_vetoed(now) {
            return keep();
        }
        let Some(looked_at) = asking.looked_at else {
            return Vacancy::Look;
        };
        // Whoever renews it has the API server, and lives, though it is not heard here.
        let renewed = asking.reason == Reason::Lost && self.lease.since > looked_at;
        if renewed || now < asking.from + self.settings.timing.interval {
            Vacancy::Held
        } else {
            Vacancy::Take
        }
    }
}
