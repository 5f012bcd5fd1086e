//! What is known of one target, and when it is asked again.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::message::{Dialect, Verdict};
use super::{Path, PathState, Target};
use crate::Time;

/// Time between two requests to an address that has not answered (this and the next three are upstream's,
/// `natdiscovery/remote_endpoint.go`).
const RESEND: Duration = Duration::from_secs(2);
/// How long an answer is waited for.
const TOTAL: Duration = Duration::from_secs(60);
/// The same if the other side is behind a load balancer.
const TOTAL_BALANCED: Duration = Duration::from_secs(6);
/// How long the private address may still answer after the public one has.
const WINDOW: Duration = Duration::from_secs(1);
/// When a target is asked again that did not answer, or whose path is dead; doubled each time.
const AGAIN: Duration = Duration::from_secs(60);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// When a target is asked again of whose path nothing else tells: those who may take a gateway's place are reached by it at once then.
const LOOK: Duration = Duration::from_secs(300);
/// A request of a silent peer is a reason to ask it, but not more often than this: anybody could have sent it.
const NOTICED: Duration = Duration::from_secs(10);
/// How many requests are remembered; later answers to older ones don't count.
const REMEMBERED: usize = 32;

/// Which address is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Private,
    Public,
}

/// A request that waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub number: u64,
    pub which: Which,
    pub ip: IpAddr,
}

/// What an answer says.
pub(super) struct Answer {
    pub which: Which,
    pub ip: IpAddr,
    pub nat: bool,
    pub dialect: Dialect,
}

/// Requests are sent, and answers are waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Round {
    send_at: Time,
    ends: Time,
    /// The public address answered: what counts if the private one has not by then.
    public: Option<(Path, Time)>,
    asked: Vec<Asked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub target: Target,
    path: Option<Path>,
    round: Option<Round>,
    begun: Time,
    again_at: Option<Time>,
    pause: Duration,
    /// In which the other side answered in this round: before the next one it may be another release.
    dialect: Option<Dialect>,
    comes_from: Option<SocketAddr>,
}

impl Check {
    /// `can_ask` says whether we have an address and a port to ask from.
    pub(super) fn new(target: Target, can_ask: bool, now: Time) -> Self {
        let mut check = Self {
            path: target.assumed(),
            target,
            round: None,
            begun: now,
            again_at: None,
            pause: AGAIN,
            dialect: None,
            comes_from: None,
        };
        check.begin(can_ask, now);
        check
    }

    /// The target, or who asks, is another now. A path that may still hold is kept until another is found.
    pub(super) fn change(&mut self, target: Target, asker_changed: bool, can_ask: bool, now: Time) {
        let died = target.dead && !self.target.dead;
        let same = Target {
            dead: target.dead,
            unwatched: target.unwatched,
            ..self.target.clone()
        } == target;
        let revived = self.target.dead && !target.dead;
        let unwatched = target.unwatched && !self.target.unwatched;
        self.target = target;
        if same && !asker_changed {
            if self.round.is_none() {
                let answered = self.path.is_some_and(|p| p.state == PathState::Answered);
                if died {
                    self.begin(can_ask, now);
                } else if revived && answered {
                    self.pause = AGAIN;
                    self.again_at = self.target.unwatched.then_some(now + LOOK);
                } else if unwatched && self.again_at.is_none() && self.target.port.is_some() {
                    self.again_at = Some(now + LOOK);
                }
            }
            return;
        }
        let kept = self.path.filter(|path| {
            let ips = [self.target.private, self.target.public];
            path.state == PathState::Answered && ips.contains(&Some(path.ip)) && can_ask
        });
        self.path = kept.or_else(|| self.target.assumed());
        self.comes_from = None;
        self.pause = AGAIN;
        self.begin(can_ask, now);
    }

    fn begin(&mut self, can_ask: bool, now: Time) {
        self.again_at = None;
        self.begun = now;
        self.dialect = None;
        self.round = None;
        if !can_ask || self.target.port.is_none() {
            // Nobody will ever answer.
            self.path = self.target.assumed();
            return;
        }
        let total = if self.target.load_balancer {
            TOTAL_BALANCED
        } else {
            TOTAL
        };
        self.round = Some(Round {
            send_at: now,
            ends: now + total,
            public: None,
            asked: Vec::new(),
        });
    }

    /// When there is something to do.
    pub(super) fn wake(&self) -> Option<Time> {
        let Some(round) = &self.round else {
            return self.again_at;
        };
        let decided = round.public.map_or(round.ends, |(_, at)| at);
        Some(round.send_at.min(round.ends).min(decided))
    }

    /// Ends what is over and begins what is due; whether the path changed.
    pub(super) fn turn(&mut self, now: Time) -> bool {
        let before = self.path;
        if self.again_at.is_some_and(|at| at <= now) {
            self.begin(true, now);
        }
        if let Some(round) = &self.round {
            match round.public {
                Some((path, at)) if at <= now => self.choose(path, now),
                None if round.ends <= now => {
                    // What was answered once is better than what nobody answers for.
                    let answered = self.path.filter(|p| p.state == PathState::Answered);
                    self.path = answered.or_else(|| {
                        let assumed = self.target.assumed()?;
                        Some(Path {
                            state: PathState::Silent,
                            ..assumed
                        })
                    });
                    self.round = None;
                    self.pause_from(now);
                }
                Some(_) | None => {}
            }
        }
        self.path != before
    }

    /// The addresses to ask now, each in these dialects; none if it is not time yet.
    pub(super) fn due(&mut self, now: Time) -> Vec<(Which, IpAddr, Vec<Dialect>)> {
        let Some(round) = self.round.as_mut().filter(|r| r.send_at <= now) else {
            return Vec::new();
        };
        round.send_at = now + RESEND;
        let private = self.target.private.map(|ip| (Which::Private, ip));
        let public = self.target.public.map(|ip| (Which::Public, ip));
        // Of a public address that has answered no more is to be learned.
        let public = public.filter(|_| round.public.is_none());
        let dialects = self.dialect.map_or(Dialect::ALL.to_vec(), |d| vec![d]);
        let asked = [private, public].into_iter().flatten();
        asked
            .map(|(which, ip)| (which, ip, dialects.clone()))
            .collect()
    }

    /// A request was made; the number of one that no longer counts comes back.
    pub(super) fn asked(&mut self, asked: Asked) -> Option<u64> {
        let round = self.round.as_mut()?;
        round.asked.push(asked);
        (round.asked.len() > REMEMBERED).then(|| round.asked.remove(0).number)
    }

    /// The request of this number, if it waits for an answer.
    pub(super) fn waiting(&self, number: u64) -> Option<&Asked> {
        self.round
            .as_ref()?
            .asked
            .iter()
            .find(|asked| asked.number == number)
    }

    /// A good answer came; whether the path changed.
    pub(super) fn answered(&mut self, answer: &Answer, now: Time) -> bool {
        let before = self.path;
        self.dialect = Some(answer.dialect);
        let path = Path {
            ip: answer.ip,
            nat: answer.nat,
            state: PathState::Answered,
            comes_from: None,
        };
        let Some(round) = &mut self.round else {
            return false;
        };
        let private_may_answer = self.target.private.is_some();
        match answer.which {
            Which::Public if private_may_answer => {
                if round.public.is_none() {
                    round.public = Some((path, now + WINDOW));
                    // Whether it was only lost, a second request tells.
                    round.send_at = now;
                }
            }
            Which::Public | Which::Private => self.choose(path, now),
        }
        self.path != before
    }

    fn choose(&mut self, path: Path, now: Time) {
        self.path = Some(path);
        self.round = None;
        self.again_at = None;
        if self.target.dead {
            self.pause_from(now);
        } else {
            self.pause = AGAIN;
            self.again_at = self.target.unwatched.then_some(now + LOOK);
        }
    }

    fn pause_from(&mut self, now: Time) {
        self.again_at = Some(now + self.pause);
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
    }

    /// The numbers of the round that runs.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let asked = self.round.iter().flat_map(|round| &round.asked);
        asked.map(|asked| asked.number)
    }

    /// The target asked us; `from` is given if that is not where it says that it sends from. Whether the path changed.
    pub(super) fn heard(&mut self, from: Option<SocketAddr>, can_ask: bool, now: Time) -> bool {
        let silent = self.path.is_some_and(|p| p.state == PathState::Silent);
        if silent && self.round.is_none() && self.begun + NOTICED <= now {
            self.begin(can_ask, now);
        }
        let changed = silent && self.comes_from != from;
        self.comes_from = from;
        changed
    }

    pub(super) fn path(&self) -> Option<Path> {
        let path = self.path?;
        let asking = path.state == PathState::Assumed && self.round.is_some();
        Some(Path {
            state: if asking {
                PathState::Asking
            } else {
                path.state
            },
            comes_from: self.comes_from.filter(|_| path.state == PathState::Silent),
            ..path
        })
    }
}

/// Whether an answer says that there is a NAT.
///
/// Submariner 0.21 compares an IPv6 address with its own IPv4 one, so it says of every IPv6 request that the destination
/// was rewritten; at its private address that can't be.
pub(super) fn says_nat(
    verdict: Verdict,
    which: Which,
    ip: IpAddr,
    source_rewritten: bool,
    destination_rewritten: bool,
) -> bool {
    let only_destination = destination_rewritten && !source_rewritten;
    verdict == Verdict::NatDetected
        && !(ip.is_ipv6() && which == Which::Private && only_destination)
}
