//! The Lease: what was read of it, and what is to be done with it.

use std::time::Duration;

use super::vacancy::Vacancy;
use super::{Election, Role};
use crate::Time;
use crate::hello::{Term, Turn};

/// The shortest pause after an operation that failed.
const RETRY: Duration = Duration::from_millis(200);

/// A Lease's content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Who holds it; empty for nobody.
    pub holder: String,
    /// How long it holds without a renewal.
    pub duration: Duration,
    /// How often the holder changed.
    pub transitions: u64,
    /// When it was renewed, by the holder's clock, as text: compared for equality only.
    pub renewed: String,
}

/// A Lease on the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it says.
    pub record: Record,
    /// Its version, which a write must name.
    pub version: String,
}

/// What is to be done with the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOperation {
    /// Read it.
    Read,
    /// Write it, renewed now.
    Write {
        /// What it is to say; `renewed` is filled in.
        record: Record,
        /// Its version before; `None` where there is none yet.
        version: Option<String>,
        /// Whether the holder is another than before.
        acquire: bool,
    },
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    /// It was read; `None` where there is none.
    Read(Option<Lease>),
    /// It was written.
    Written(Lease),
    /// Somebody else wrote it before.
    Conflict,
    /// The API server can't be reached, or refuses.
    Failed,
}

/// What is known of the Lease.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// `None` before the first answer.
    pub known: Option<Option<Lease>>,
    /// Since when it is as it is.
    pub since: Time,
    /// When it was read or written last.
    pub read_at: Time,
    /// When the API server answered last.
    pub answered_at: Option<Time>,
    /// Not before this the next operation.
    pub next_at: Time,
    /// What is being done.
    doing: Option<LeaseOperation>,
    /// Somebody else has written it.
    stale: bool,
    pause: Duration,
}

impl View {
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.known.as_ref()?.as_ref()
    }

    fn take(&mut self, lease: Option<Lease>, now: Time) {
        let same = |a: &Option<Lease>, b: &Option<Lease>| {
            a.as_ref().map(|l| &l.record) == b.as_ref().map(|l| &l.record)
        };
        if self.known.as_ref().is_none_or(|known| !same(known, &lease)) {
            self.since = now;
        }
        self.known = Some(lease);
        self.stale = false;
        self.read_at = now;
    }
}

impl Election {
    pub(super) fn holds_lease(&self) -> bool {
        let lease = self.lease.lease();
        lease.is_some_and(|lease| lease.record.holder == self.settings.identity())
    }

    pub(super) fn lease_answered(&mut self, answered: Answered, now: Time) {
        let done = self.lease.doing.take();
        if answered == Answered::Failed {
            self.lease.pause = (self.lease.pause * 2).clamp(RETRY, self.settings.retry_period);
            self.lease.next_at = now + self.lease.pause;
            return;
        }
        self.lease.pause = Duration::ZERO;
        self.lease.answered_at = Some(now);
        self.lease.next_at = now;
        match answered {
            Answered::Read(lease) => {
                self.lease.take(lease, now);
                self.compare(now);
            }
            Answered::Written(lease) => {
                let record = lease.record.clone();
                self.lease.take(Some(lease), now);
                if self.role != Role::Standby {
                    self.lease.next_at = now + self.settings.retry_period;
                }
                let acquired = matches!(done, Some(LeaseOperation::Write { acquire: true, .. }));
                if self.leaving.is_some() {
                    self.released |= record.holder.is_empty();
                } else if acquired && record.holder == self.settings.identity() {
                    let term = Term {
                        lease: record.transitions,
                        ballot: 0,
                    };
                    // Somebody may have begun a newer turn meanwhile, which was told of.
                    if self.newest().is_none_or(|newest| *newest < self.me(term)) {
                        self.begin(term, now);
                        self.lease.next_at = now + self.settings.retry_period;
                    }
                }
            }
            Answered::Conflict => self.lease.stale = true,
            Answered::Failed => {}
        }
    }

    /// What was read may be news.
    fn compare(&mut self, now: Time) {
        let Some(record) = self.lease.lease().map(|lease| lease.record.clone()) else {
            return;
        };
        let told = Turn {
            term: Term {
                lease: record.transitions,
                ballot: 0,
            },
            holder: super::hostname_of(&record.holder).to_owned(),
        };
        let newest = self.newest().map_or(0, |newest| newest.term.lease);
        // A turn of the same number is one that was told of; whoever began one since by ballot is newer.
        if !told.holder.is_empty() && (told.term.lease > newest || self.newest().is_none()) {
            self.learn(&told, now);
        }
    }

    /// When the Lease needs something.
    pub(super) fn lease_deadline(&self) -> Option<Time> {
        self.lease.doing.is_none().then_some(self.lease.next_at)
    }

    pub(super) fn lease_operation(&mut self, now: Time) -> Option<LeaseOperation> {
        if self.lease.doing.is_some() || now < self.lease.next_at {
            return None;
        }
        let operation = self.wanted_operation(now);
        if operation.is_some() {
            self.lease.doing.clone_from(&operation);
        } else {
            // Nothing to do: looked at again when something changes, and after a while.
            self.lease.next_at = now + self.settings.timing.interval;
        }
        operation
    }

    fn wanted_operation(&mut self, now: Time) -> Option<LeaseOperation> {
        let Some(known) = self.lease.known.clone().filter(|_| !self.lease.stale) else {
            return Some(LeaseOperation::Read);
        };
        if self.leaving.is_some() {
            return self.release(known);
        }
        match self.role {
            Role::Active(term) => Some(self.renew(known, term)),
            Role::Standby => self.look_or_take(known, now),
        }
    }

    /// A Lease that is still held is let go, unless a successor takes it.
    fn release(&self, known: Option<Lease>) -> Option<LeaseOperation> {
        if self.role != Role::Standby || self.released {
            return None;
        }
        let lease = known.filter(|l| l.record.holder == self.settings.identity())?;
        if self.is_superseded() {
            return None;
        }
        // As client-go releases a Lease: without a holder, and over in a second.
        Some(LeaseOperation::Write {
            record: Record {
                holder: String::new(),
                duration: Duration::from_secs(1),
                ..lease.record
            },
            version: Some(lease.version),
            acquire: false,
        })
    }

    fn renew(&self, known: Option<Lease>, term: Term) -> LeaseOperation {
        let held = known.as_ref().is_some_and(|lease| {
            lease.record.holder == self.settings.identity()
                && (lease.record.transitions, 0) == (term.lease, term.ballot)
        });
        let transitions = known.as_ref().map_or(0, |l| l.record.transitions);
        LeaseOperation::Write {
            record: Record {
                holder: self.settings.identity(),
                duration: self.settings.lease_duration,
                transitions: if held {
                    transitions
                } else {
                    transitions.max(term.lease) + 1
                },
                renewed: String::new(),
            },
            version: known.map(|l| l.version),
            acquire: !held,
        }
    }

    fn look_or_take(&mut self, known: Option<Lease>, now: Time) -> Option<LeaseOperation> {
        let fresh = self.lease.read_at + self.settings.retry_period > now;
        match self.vacancy(now) {
            Vacancy::Held => (!fresh).then_some(LeaseOperation::Read),
            Vacancy::Look => Some(LeaseOperation::Read),
            Vacancy::KeepFor => {
                let lease = known?;
                // Its holder carries traffic and can't renew it: were it to expire, a Submariner gateway would take it.
                Some(LeaseOperation::Write {
                    record: lease.record,
                    version: Some(lease.version),
                    acquire: false,
                })
            }
            Vacancy::Take => {
                let newest = self.newest().map_or(0, |newest| newest.term.lease);
                let before = known.as_ref().map_or(0, |l| l.record.transitions);
                Some(LeaseOperation::Write {
                    record: Record {
                        holder: self.settings.identity(),
                        duration: self.settings.lease_duration,
                        transitions: before.max(newest) + 1,
                        renewed: String::new(),
                    },
                    version: known.map(|l| l.version),
                    acquire: true,
                })
            }
        }
    }
}
