//! What the election writes down for the process that comes after this one, where a parent keeps it.

use std::io;
use std::time::{Duration, Instant};

use strait_core::gateway::election::{Election, Memory, Outdated};
use strait_core::hello::Timing;
use strait_daemon::holder::{Slate, since_boot};

/// How often it is written where peers are, at most: in a large cluster that is much.
const SELDOM: Duration = Duration::from_secs(1);

/// What is written down; nothing without a parent.
pub(crate) struct Notes {
    slate: Option<Slate>,
    written: Option<Instant>,
}

impl Notes {
    pub(crate) fn new(slate: Option<Slate>) -> Self {
        Self {
            slate,
            written: None,
        }
    }

    /// What a process before this one has left. What can't be read is worth nothing: this one begins as any.
    pub(crate) fn inherited(&self, timing: Timing) -> Memory {
        let Some(slate) = &self.slate else {
            return Memory::default();
        };
        let read = || -> io::Result<Option<Memory>> {
            let Some((text, beat)) = slate.read()? else {
                return Ok(None);
            };
            let left: Memory = serde_json::from_slice(&text)?;
            let now = since_boot()?;
            let silent_ms = u64::try_from(now.saturating_sub(beat).as_millis()).unwrap_or(u64::MAX);
            let memory = left.at(beat, now, timing);
            tracing::info!(
                goes_on = memory.goes_on(),
                silent_ms,
                "this gateway had a process before this one"
            );
            Ok(Some(memory))
        };
        read().map(Option::unwrap_or_default).unwrap_or_else(|error| {
            tracing::warn!(%error, "what the process before this one left of the election can't be used");
            Memory::default()
        })
    }

    /// Whether there is a parent.
    pub(crate) fn are_kept(&self) -> bool {
        self.slate.is_some()
    }

    /// Writes down what has changed.
    pub(crate) fn write(&mut self, election: &mut Election) {
        let Some(slate) = &self.slate else {
            return;
        };
        let due = match election.outdated() {
            None => false,
            Some(Outdated::Peers) => self.written.is_none_or(|at| at.elapsed() >= SELDOM),
            Some(Outdated::Turn) => true,
        };
        if !due {
            return;
        }
        let text = serde_json::to_vec(&election.memory()).map_err(io::Error::from);
        if let Err(error) = text.and_then(|text| slate.write(&text)) {
            self.fail(&error);
            return;
        }
        election.memorised();
        self.written = Some(Instant::now());
    }

    /// This process is there.
    pub(crate) fn beat(&mut self) {
        if let Some(Err(error)) = self.slate.as_ref().map(Slate::beat) {
            self.fail(&error);
        }
    }

    /// What is written is void soon, since there is no sign of life with it any more.
    fn fail(&mut self, error: &io::Error) {
        tracing::warn!(%error, "nothing can be left to a process that comes after this one: it will begin as any");
        self.slate = None;
    }
}
