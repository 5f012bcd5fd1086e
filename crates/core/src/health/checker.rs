//! The health checks of all targets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use strait_host::Family;

use super::check::Check;
use super::{Ping, Results, Settings, Target, Way};
use crate::Time;

/// Pings that are sent at once at most: more, and their replies might not fit into the socket's buffer.
const BURST: usize = 32;
/// The pause after so many.
const PAUSE: Duration = Duration::from_millis(10);
/// How many other clusters are asked at once when this cluster's gateway stops to answer: one may be away itself.
const ASKED: usize = 3;

/// Says which pings to send when, and what comes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checker {
    settings: Settings,
    checks: BTreeMap<u32, Check>,
    ids: BTreeMap<Target, u32>,
    /// When each check has something to do.
    agenda: BTreeSet<(Time, u32)>,
    next_id: u32,
    not_before: Time,
    changed: bool,
    /// Sequence number of a new target's first ping.
    pub(super) first_sequence: u32,
}

impl Checker {
    /// Without targets.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            checks: BTreeMap::new(),
            ids: BTreeMap::new(),
            agenda: BTreeSet::new(),
            next_id: 0,
            not_before: Time::default(),
            changed: false,
            first_sequence: 0,
        }
    }

    /// Pings these from now on. What is known of those that stay is kept.
    pub fn set_targets(&mut self, targets: &BTreeSet<Target>, now: Time) {
        let gone: Vec<Target> = self
            .ids
            .keys()
            .filter(|t| !targets.contains(*t))
            .cloned()
            .collect();
        for target in gone {
            if let Some(id) = self.ids.remove(&target)
                && let Some(check) = self.checks.remove(&id)
            {
                self.agenda.remove(&(check.wake(), id));
            }
            self.changed = true;
        }
        for target in targets {
            if self.ids.contains_key(target) {
                continue;
            }
            // A number is not given twice, so that a late reply to a target that is gone is nobody's.
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let pace = self.settings.pace(target.way);
            let check = Check::new(target, self.first_sequence, now, pace);
            self.agenda.insert((check.wake(), id));
            self.checks.insert(id, check);
            self.ids.insert(target.clone(), id);
            self.changed = true;
        }
    }

    /// The pings to send now; some at a time.
    pub fn due(&mut self, now: Time) -> Vec<Ping> {
        let mut pings = Vec::new();
        while let Some(&(at, id)) = self.agenda.first() {
            if at > now || self.not_before > now {
                break;
            }
            if pings.len() == BURST {
                self.not_before = now + PAUSE;
                break;
            }
            self.agenda.remove(&(at, id));
            let Some(check) = self.checks.get_mut(&id) else {
                continue;
            };
            let pace = self.settings.pace(check.way());
            let lost = check.judge(now, pace);
            self.changed |= lost;
            let silent = (lost && check.way() != Way::Cluster).then(|| Family::of(check.address()));
            if check.is_due(now) {
                let sequence = check.send(now, pace);
                pings.push(Ping {
                    to: check.address(),
                    from: check.source(),
                    token: token(id, sequence),
                });
            }
            self.agenda.insert((check.wake(), id));
            if let Some(family) = silent {
                self.ask_others(family, now, Check::is_connected);
            }
        }
        pings
    }

    /// Asks some other clusters now, whose replies come by way of this cluster's gateway. When that answers no more: whether it is
    /// dead, or only silent. When it answers again: lest what was asked meanwhile, and lost, counts against them.
    fn ask_others(&mut self, family: Family, now: Time, whom: fn(&Check) -> bool) {
        let others = self.ids.iter().filter(|(target, id)| {
            let check = self.checks.get(*id);
            let of_family = target.way == Way::Cluster && target.family == family;
            of_family && check.is_some_and(whom)
        });
        let ids: Vec<u32> = others.map(|(_, id)| *id).take(ASKED).collect();
        for id in ids {
            if let Some(check) = self.checks.get_mut(&id) {
                self.agenda.remove(&(check.wake(), id));
                check.ask(now);
                self.agenda.insert((check.wake(), id));
            }
        }
    }

    /// When [`Checker::due`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let (at, _) = self.agenda.first()?;
        Some((*at).max(self.not_before))
    }

    /// A ping could not be sent; `why` says it to people.
    pub fn failed(&mut self, token: u64, why: &str) {
        let (id, sequence) = parts(token);
        if let Some(check) = self.checks.get_mut(&id) {
            check.failed(sequence, why);
        }
    }

    /// A reply came `from` somewhere; whether it was one that was waited for.
    pub fn reply(&mut self, token: u64, from: IpAddr, now: Time) -> bool {
        let (id, sequence) = parts(token);
        let Some(check) = self.checks.get_mut(&id).filter(|c| c.address() == from) else {
            return false;
        };
        let (wake, received) = (check.wake(), check.received());
        let was_connected = check.is_connected();
        self.changed |= check.reply(sequence, now, self.settings.pace(check.way()));
        self.agenda.remove(&(wake, id));
        self.agenda.insert((check.wake(), id));
        let is_answer = check.received() != received;
        if check.way() != Way::Cluster && check.is_connected() && !was_connected {
            self.ask_others(Family::of(from), now, Check::is_asked);
        }
        is_answer
    }

    /// Whether the status of a target, or the targets, changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What is known of each target.
    #[must_use]
    pub fn results(&self) -> Results {
        self.ids
            .iter()
            .filter_map(|(target, id)| Some((target.clone(), self.checks.get(id)?.report())))
            .collect()
    }
}

fn token(id: u32, sequence: u32) -> u64 {
    u64::from(id) << 32 | u64::from(sequence)
}

fn parts(token: u64) -> (u32, u32) {
    ((token >> 32) as u32, (token & 0xffff_ffff) as u32)
}
