//! When a peer is due for something (WireGuard's paper, section 6). Fed with what happened and the time since the device
//! started; pure.

use std::time::Duration;

use crate::config::Timing;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send an empty packet.
    Keepalive,
    /// Begin a handshake; a new one, not the next try of one.
    Initiate,
    /// The last try was not answered: try once more.
    Retry,
    /// Nobody answers: drop what waits.
    GiveUp,
    /// Forget the keys.
    Forget,
}

/// The clocks of one peer.
#[derive(Debug, Clone)]
pub(crate) struct Timers {
    timing: Timing,
    interval: Option<Duration>,
    retry: Option<Duration>,
    began: Option<Duration>,
    keepalive: Option<Duration>,
    silence: Option<Duration>,
    persistent: Option<Duration>,
    forget: Option<Duration>,
}

impl Timers {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            timing,
            interval: None,
            retry: None,
            began: None,
            keepalive: None,
            silence: None,
            persistent: None,
            forget: None,
        }
    }

    /// Sets after what silence a packet is sent.
    pub(crate) fn keep_alive(&mut self, interval: Option<u16>, now: Duration) {
        let interval = interval.filter(|seconds| *seconds > 0);
        let interval = interval.map(|seconds| Duration::from_secs(seconds.into()));
        if interval != self.interval {
            self.interval = interval;
            self.persistent = interval.map(|interval| now + interval);
        }
    }

    /// A packet with something in it was sent: something should come back.
    pub(crate) fn data_sent(&mut self, now: Duration) {
        let patience = self.timing.keepalive_timeout + self.timing.rekey_timeout;
        self.silence.get_or_insert(now + patience);
        self.sent(now);
    }

    /// Anything was sent by a session.
    pub(crate) fn sent(&mut self, now: Duration) {
        self.keepalive = None;
        self.traversed(now);
    }

    /// A packet with something in it was received: something should go back.
    pub(crate) fn data_received(&mut self, now: Duration) {
        let due = now + self.timing.keepalive_timeout;
        self.keepalive.get_or_insert(due);
        self.received(now);
    }

    /// Anything authentic was received.
    pub(crate) fn received(&mut self, now: Duration) {
        self.silence = None;
        self.traversed(now);
    }

    /// An initiation was sent. `jitter` keeps two peers from trying at the same time for ever.
    pub(crate) fn initiated(&mut self, now: Duration, jitter: Duration) {
        self.began.get_or_insert(now);
        self.retry = Some(now + self.timing.rekey_timeout + jitter);
        self.silence = None;
        self.sent(now);
    }

    /// There are new keys.
    pub(crate) fn keyed(&mut self, now: Duration) {
        self.forget = Some(now + 3 * self.timing.reject_after);
        self.traversed(now);
    }

    /// The handshake is complete on both sides.
    pub(crate) fn complete(&mut self) {
        self.retry = None;
        self.began = None;
    }

    /// Whether a handshake is being tried.
    pub(crate) fn trying(&self) -> bool {
        self.retry.is_some()
    }

    fn traversed(&mut self, now: Duration) {
        self.persistent = self.interval.map(|interval| now + interval);
    }

    /// When the next thing is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        let all = [
            self.retry,
            self.keepalive,
            self.silence,
            self.persistent,
            self.forget,
        ];
        all.into_iter().flatten().min()
    }

    /// What is due at `now`; each is told once.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Due> {
        let mut due = Vec::new();
        let over = |timer: &mut Option<Duration>| timer.take_if(|at| *at <= now).is_some();
        if over(&mut self.retry) {
            let began = self.began.unwrap_or(now);
            if now.saturating_sub(began) >= self.timing.attempt {
                self.began = None;
                self.keepalive = None;
                self.forget
                    .get_or_insert(now + 3 * self.timing.reject_after);
                due.push(Due::GiveUp);
            } else {
                due.push(Due::Retry);
            }
        }
        if over(&mut self.silence) {
            due.push(Due::Initiate);
        }
        let passive = over(&mut self.keepalive);
        if over(&mut self.persistent) || passive {
            self.traversed(now);
            due.push(Due::Keepalive);
        }
        if over(&mut self.forget) {
            due.push(Due::Forget);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Goes from one due time to the next, and answers as a device that hears nobody does.
    fn alone(mut timers: Timers, until: u64) -> Vec<(u64, Due)> {
        let mut told = Vec::new();
        while let Some(next) = timers.next().filter(|next| *next <= at(until)) {
            for due in timers.due(next) {
                told.push((next.as_secs(), due));
                match due {
                    Due::Initiate | Due::Retry => timers.initiated(next, Duration::ZERO),
                    Due::Keepalive if !timers.trying() => timers.initiated(next, Duration::ZERO),
                    Due::Keepalive | Due::GiveUp | Due::Forget => {}
                }
            }
        }
        told
    }

    #[test]
    fn a_peer_that_does_not_answer_is_tried_for_ninety_seconds() {
        let mut timers = Timers::new(Timing::default());
        timers.initiated(at(0), Duration::ZERO);
        let told = alone(timers, 10_000);
        let tries = told.iter().filter(|(_, due)| *due == Due::Retry).count();
        assert_eq!(tries, 17);
        assert_eq!(told.last(), Some(&(90 + 540, Due::Forget)));
        assert!(told.contains(&(90, Due::GiveUp)));
    }

    #[test]
    fn a_peer_with_a_keepalive_is_tried_for_ever() {
        let mut timers = Timers::new(Timing::default());
        timers.keep_alive(Some(10), at(0));
        timers.initiated(at(0), Duration::ZERO);
        let told = alone(timers, 3600);
        let last = told.iter().rfind(|(_, due)| *due == Due::Retry);
        assert!(last.is_some_and(|(at, _)| *at > 3580), "{told:?}");
    }

    #[test]
    fn who_only_receives_says_so_after_ten_seconds() {
        let mut timers = Timers::new(Timing::default());
        (0..8).for_each(|second| timers.data_received(at(second)));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.due(at(10)), [Due::Keepalive]);
        timers.sent(at(10));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn who_hears_nothing_back_begins_a_handshake() {
        let mut timers = Timers::new(Timing::default());
        timers.data_sent(at(0));
        timers.data_sent(at(9));
        assert_eq!(timers.next(), Some(at(15)));
        assert_eq!(timers.due(at(15)), [Due::Initiate]);
        timers.data_sent(at(16));
        timers.received(at(17));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_steady_flow_sends_no_keepalive() {
        let mut timers = Timers::new(Timing::default());
        timers.keep_alive(Some(10), at(0));
        timers.keyed(at(0));
        timers.complete();
        for second in 0..100 {
            timers.data_sent(at(second));
            timers.data_received(at(second));
            timers.data_sent(at(second));
            timers.received(at(second));
            assert!(timers.due(at(second)).is_empty());
        }
    }
}
