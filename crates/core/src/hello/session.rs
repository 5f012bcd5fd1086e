//! One session: the state machine of RFC 5880, section 6.8.6, with a number for each try and a sequence against replay.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Hello, Refusal, SessionState};
use crate::Time;

/// The longest silence that a peer may ask to be borne with.
const LONGEST_DETECTION: Duration = Duration::from_secs(30);

/// A session with one peer.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub state: SessionState,
    /// Our number.
    pub mine: u64,
    /// The peer's number, once it was heard.
    pub theirs: u64,
    /// Numbers that it had before, since ours is what it is.
    retired: Vec<u64>,
    /// The number of somebody who says to be it, and has not shown yet that it hears us.
    pub challenger: Option<u64>,
    /// The highest sequence number of it that was heard.
    heard_sequence: u64,
    /// How many datagrams we sent.
    pub sent: u64,
    /// When a datagram came that can't be a recording: it names our number.
    pub heard: Option<Time>,
    pub detection: Duration,
    /// When the next datagram is due.
    pub due: Time,
    /// What the peer said last.
    pub last: Option<Hello>,
    /// Where it is reached: where it was last heard from, or else all that its Node says.
    pub addresses: Vec<SocketAddr>,
    pub heard_from: Option<SocketAddr>,
}

impl Session {
    pub(super) fn new(mine: u64, now: Time) -> Self {
        Self {
            state: SessionState::Down,
            mine,
            theirs: 0,
            retired: Vec::new(),
            challenger: None,
            heard_sequence: 0,
            sent: 0,
            heard: None,
            detection: Duration::from_secs(1),
            due: now,
            last: None,
            addresses: Vec::new(),
            heard_from: None,
        }
    }

    /// Whether the peer was heard within the time that it promised.
    pub(super) fn is_alive(&self, now: Time) -> bool {
        self.heard.is_some_and(|at| now < at + self.detection)
    }

    /// Silence was noticed: what the peer said of this session counts no more. `mine` is our next number.
    pub(super) fn time_out(&mut self, mine: u64, now: Time) {
        self.state = SessionState::Down;
        self.heard = None;
        self.renumber(mine, now);
    }

    /// We take another number: whatever named the one before is old, and need not be remembered. The peer, to whom we have repeated
    /// its own, takes it in the middle of the session.
    pub(super) fn renumber(&mut self, mine: u64, now: Time) {
        self.mine = mine;
        self.sent = 0;
        self.challenger = None;
        self.retired.clear();
        self.due = now;
    }

    /// Whether the peer has begun anew so often that what it was before can't be remembered any longer.
    pub(super) fn is_worn(&self) -> bool {
        self.retired.len() >= 16
    }

    /// Folds a datagram in that is authentic. `Ok(true)` if it can't be a recording, and what it says counts.
    ///
    /// # Errors
    /// [`Refusal::Old`] for one that was heard before.
    pub(super) fn receive(
        &mut self,
        hello: &Hello,
        from: SocketAddr,
        now: Time,
    ) -> Result<bool, Refusal> {
        let knows_us = hello.yours == self.mine;
        let same = hello.mine == self.theirs;
        if (same && hello.sequence <= self.heard_sequence) || self.retired.contains(&hello.mine) {
            return Err(Refusal::Old);
        }
        if !knows_us {
            if self.state != SessionState::Up {
                if hello.state == SessionState::Down {
                    self.state = SessionState::Init;
                }
                self.theirs = hello.mine;
                self.heard_sequence = hello.sequence;
                self.heard_from = Some(from);
                if !same {
                    self.due = now;
                }
            } else if !same {
                // A peer that began anew, or a recording: once it repeats our number, it counts.
                self.challenger = Some(hello.mine);
                self.due = now;
            }
            return Ok(false);
        }
        let before = self.state;
        if !same {
            if self.theirs != 0 {
                self.retired.push(self.theirs);
            }
            self.theirs = hello.mine;
        }
        self.challenger = None;
        self.heard_sequence = hello.sequence;
        self.heard = Some(now);
        self.heard_from = Some(from);
        let promised = Duration::from_millis(u64::from(hello.interval.max(1)));
        self.detection = (promised * u32::from(hello.multiplier.max(1))).min(LONGEST_DETECTION);
        self.state = match (self.state, hello.state) {
            (SessionState::Down, SessionState::Down) => SessionState::Init,
            (SessionState::Down, SessionState::Init)
            | (SessionState::Init, SessionState::Init | SessionState::Up)
            | (SessionState::Up, SessionState::Init | SessionState::Up) => SessionState::Up,
            // RFC 5880 stays Down here, since the other has not noticed yet. One that names our newest number has.
            (SessionState::Down, SessionState::Up) => SessionState::Up,
            (SessionState::Init, SessionState::Down) => SessionState::Init,
            (SessionState::Up, SessionState::Down) => SessionState::Down,
        };
        if before != self.state {
            self.due = now;
        }
        self.last = Some(hello.clone());
        Ok(true)
    }
}
