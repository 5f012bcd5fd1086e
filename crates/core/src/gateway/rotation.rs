//! A change of our WireGuard key. Peers are told of the next one first; then the device has it, and it is published as the one that
//! counts; what was the key before is told for as long as sessions of it live.
//!
//! One is asked for by a person, or by us where peers refuse handshakes of the one that we have: they are of before the last one that they had.
//!
//! Which keys there are is kept with the private ones, so that a restart goes on where it was; only the waiting begins anew.

use std::time::Duration;

use serde::Serialize;
use strait_api::names::ANNOTATION_NEXT_KEY;
use strait_host::Key;

use super::objects::is_own_on_broker;
use super::{Device, Standing, State};
use crate::Condition;
use crate::time::Time;

/// From when the next key stands on the broker until it counts: peers hear of it in some milliseconds, unless a watch has just broken.
pub(super) const TELLING: Duration = Duration::from_secs(10);
/// How long a former key is told of: the 180 s that a session lives (WireGuard's paper, section 6.1), and what may be late.
pub(super) const RETIRING: Duration = Duration::from_secs(190);

/// For how long a clock may lie behind the last handshakes before another key is asked for: it may be set right soon after a start.
pub(super) const SETTLING: Duration = Duration::from_secs(15);
/// Minutes that it may lie behind: sessions that there are live on as long, and peers begin themselves.
const BEHIND: u64 = 1;

/// What is to become of our keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStep {
    /// Another one is to be made, for the next.
    Ask,
    /// The device gets the key with this public one.
    Switch(Key),
    /// This former one is told of no longer.
    Forget(Key),
}

/// Since when what was so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rotation {
    told: Option<(Key, Time)>,
    former: Option<(Key, Time)>,
    /// The clock lies behind.
    behind: Option<Time>,
    now: Time,
}

impl Rotation {
    fn since(before: Option<(Key, Time)>, key: Option<Key>, now: Time) -> Option<(Key, Time)> {
        let key = key?;
        Some(before.filter(|(of, _)| *of == key).unwrap_or((key, now)))
    }

    /// When the next step may be due. Once it is, nobody needs to be called for it again.
    pub(super) fn deadline(&self) -> Option<Time> {
        let told = self.told.map(|(_, at)| at + TELLING);
        let former = self.former.map(|(_, at)| at + RETIRING);
        let behind = self.behind.map(|at| at + SETTLING);
        let all = [told, former, behind].into_iter().flatten();
        all.filter(|at| *at > self.now).min()
    }
}

impl State {
    fn opened(&self) -> Option<&Device> {
        self.device.as_ref()?.as_ref().ok()
    }

    /// Takes note of what became of the keys by now.
    pub(super) fn follow_keys(&mut self, now: Time) {
        let device = self.opened();
        let next = device.and_then(|device| device.next);
        let next = next.filter(|key| self.is_told(*key));
        let former = device.and_then(|device| device.former);
        let behind = (self.tunnels.behind > BEHIND).then(|| self.rotation.behind.unwrap_or(now));
        self.rotation = Rotation {
            behind,
            told: Rotation::since(self.rotation.told, next, now),
            former: Rotation::since(self.rotation.former, former, now),
            now,
        };
    }

    /// Whether other clusters can read on the broker that we are going to have a key, and will be able to read that we have it.
    fn is_told(&self, key: Key) -> bool {
        let broker = &self.broker_endpoints;
        let text = key.to_string();
        let mut own = broker.values().filter(|entry| {
            is_own_on_broker(entry, &self.settings.cluster) && !self.is_rivals(&entry.object)
        });
        let says = |annotations: &std::collections::BTreeMap<String, String>| {
            annotations.get(ANNOTATION_NEXT_KEY) == Some(&text)
        };
        broker.is_known()
            && broker.failure().is_none()
            && own.any(|entry| says(&entry.object.annotations))
    }

    /// Why peers refuse us.
    pub(super) fn clock_condition(&self) -> Option<Condition> {
        let minutes = self.tunnels.behind;
        let message = || {
            format!(
                "the clock lies {minutes} min before the last handshakes of the kernel's WireGuard: other clusters refuse ours until then, and are \
                 reached only if they begin. Another key is asked for, which counts once the broker has it; set the clock"
            )
        };
        (minutes > BEHIND).then(|| Condition::degraded("ClockBehind", message()))
    }

    /// What is due.
    pub(super) fn key_step(&self) -> Option<KeyStep> {
        let device = self.opened()?;
        let due = |since: Option<(Key, Time)>, wait| {
            let (key, at) = since?;
            (self.rotation.now >= at + wait).then_some(key)
        };
        let switch = match self.standing {
            Standing::Active(_) => due(self.rotation.told, TELLING),
            // Nothing goes through its tunnels: peers learn of the key by the one that carries the traffic, once it has it.
            Standing::Standby => device.next,
            Standing::Unknown(_) => None,
        };
        let forget = || due(self.rotation.former, RETIRING);
        switch
            .map(KeyStep::Switch)
            .or_else(|| forget().map(KeyStep::Forget))
            .or_else(|| {
                let since = self.rotation.behind?;
                let due = self.rotation.now >= since + SETTLING;
                let idle = device.next.is_none() && device.former.is_none();
                (due && idle).then_some(KeyStep::Ask)
            })
    }
}
