//! The health check of one target.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use strait_api::gateway::ConnectionStatus;

use super::rtt::Window;
use super::{Pace, Report, Target, Way};
use crate::Time;

/// The first pause while there was no reply yet.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// A ping that was not answered for so long is lost; one that was followed by the next one too.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many unanswered pings are remembered: replies to older ones don't count.
const REMEMBERED: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    address: IpAddr,
    source: Option<IpAddr>,
    way: Way,
    status: ConnectionStatus,
    /// Sequence number of the next ping.
    next: u32,
    send_at: Time,
    /// When the newest ping is lost, if that would be one too many.
    judge_at: Option<Time>,
    pause: Duration,
    /// Pings that wait for a reply, the oldest first.
    waiting: VecDeque<(u32, Time)>,
    /// Pings since the last reply.
    unanswered: u32,
    /// When the oldest of those was sent.
    silent: Option<Time>,
    /// When the newest that was answered was sent.
    answered: Option<Time>,
    /// Somebody waits for the reply to the next one.
    asked: bool,
    /// Why the newest ping could not be sent.
    failure: Option<String>,
    window: Window,
    sent: u64,
    received: u64,
}

impl Check {
    pub(super) fn new(target: &Target, first: u32, now: Time, pace: &Pace) -> Self {
        Self {
            address: target.address,
            source: target.source,
            way: target.way,
            status: ConnectionStatus::Connecting,
            next: first,
            send_at: now,
            judge_at: None,
            pause: pace.retry.unwrap_or(FIRST_PAUSE).min(pace.interval),
            waiting: VecDeque::new(),
            unanswered: 0,
            silent: None,
            answered: None,
            asked: false,
            failure: None,
            window: Window::new(pace.interval),
            sent: 0,
            received: 0,
        }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn source(&self) -> Option<IpAddr> {
        self.source
    }

    pub(super) fn way(&self) -> Way {
        self.way
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn is_connected(&self) -> bool {
        self.status == ConnectionStatus::Connected
    }

    /// Whether it was asked, and there was no reply since.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// The next ping is sent now, and the reply to it is news.
    pub(super) fn ask(&mut self, now: Time) {
        self.send_at = self.send_at.min(now);
        self.asked = true;
    }

    /// When there is something to do.
    pub(super) fn wake(&self) -> Time {
        self.judge_at
            .map_or(self.send_at, |at| at.min(self.send_at))
    }

    /// Whether a ping is due.
    pub(super) fn is_due(&self, now: Time) -> bool {
        self.send_at <= now
    }

    /// Takes the newest ping for lost if its time is over; whether the status changed.
    pub(super) fn judge(&mut self, now: Time, pace: &Pace) -> bool {
        if self.wake() > now || self.unanswered <= pace.max_losses {
            return false;
        }
        self.judge_at = None;
        let changed = self.status != ConnectionStatus::Error;
        self.status = ConnectionStatus::Error;
        changed
    }

    /// The sequence number of the ping that is sent now.
    pub(super) fn send(&mut self, now: Time, pace: &Pace) -> u32 {
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        self.send_at = self.send_at + self.pause;
        if self.send_at <= now {
            // The clock was ahead of us: pings that were missed are not made up for.
            self.send_at = now + self.pause;
        }
        if self.received == 0 && pace.retry.is_none() {
            self.pause = self.pause.saturating_mul(2).min(pace.interval);
        }
        if self.waiting.len() == REMEMBERED {
            self.waiting.pop_front();
        }
        self.waiting.push_back((sequence, now));
        self.sent += 1;
        if self.unanswered == 0 {
            self.silent = Some(now);
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.failure = None;
        let too_many = self.unanswered > pace.max_losses;
        let patience = PATIENCE.min(pace.retry.unwrap_or(pace.interval));
        self.judge_at =
            (too_many && self.status != ConnectionStatus::Error).then(|| now + patience);
        sequence
    }

    /// A ping could not be sent: nobody will reply.
    pub(super) fn failed(&mut self, sequence: u32, why: &str) {
        self.waiting.retain(|(waiting, _)| *waiting != sequence);
        self.failure = Some(why.to_owned());
    }

    /// A reply came; whether the status changed, or somebody waits for it. One to a ping that does not wait for one is
    /// ignored: it is a duplicate, too old, or made up.
    pub(super) fn reply(&mut self, sequence: u32, now: Time, pace: &Pace) -> bool {
        let Some(at) = self.waiting.iter().position(|(s, _)| *s == sequence) else {
            return false;
        };
        let newest = at + 1 == self.waiting.len();
        if let Some((_, sent)) = self.waiting.remove(at) {
            self.answered = self.answered.max(Some(sent));
            self.window.add(now.0.saturating_sub(sent.0));
            if newest && pace.retry.is_some() {
                self.send_at = self.send_at.max(sent + pace.interval);
            }
        }
        self.received += 1;
        self.unanswered = 0;
        self.silent = None;
        self.failure = None;
        self.judge_at = None;
        self.pause = pace.retry.unwrap_or(pace.interval).min(pace.interval);
        let changed = self.status != ConnectionStatus::Connected;
        self.status = ConnectionStatus::Connected;
        changed | (newest && std::mem::take(&mut self.asked))
    }

    pub(super) fn report(&self) -> Report {
        // Upstream's words, and where the kernel said something, the kernel's.
        let message = match self.status {
            ConnectionStatus::Error if self.way != Way::Cluster => {
                self.failure.clone().unwrap_or_default()
            }
            ConnectionStatus::Error => {
                let ip = self.address;
                let why = self.failure.iter().map(|why| format!(": {why}"));
                let why: String = why.collect();
                format!("Failed to successfully ping the remote endpoint IP \"{ip}\"{why}")
            }
            ConnectionStatus::Connected | ConnectionStatus::Connecting | ConnectionStatus::None => {
                String::new()
            }
        };
        Report {
            status: self.status,
            message,
            rtt: self.window.rtt(),
            sent: self.sent,
            received: self.received,
            answered: self.answered,
            silent: self.silent,
        }
    }
}
