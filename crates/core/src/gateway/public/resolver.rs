//! Which method is asked next, and what its answer means.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use strait_api::endpoint::host_address;
use strait_host::Family;

use super::{Answer, Ask, Method, Public, Query, address_in};
use crate::Time;

/// Time between two rounds (upstream `endpoint/public_ip_watcher.go`).
const INTERVAL: Duration = Duration::from_secs(60);
/// The first pause after a round that found nothing; doubled each time, up to the interval.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Says what to ask, and what is known. One question at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    ask: Ask,
    public: Public,
    round: Option<Round>,
    next_at: Time,
    pause: Duration,
    /// The method that is asked first: of the built-in ones that which answered last.
    first: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Round {
    /// The method that was asked first.
    first: usize,
    /// How many methods are done with.
    done: usize,
    /// The built-in one that answered, and was believed.
    good: Option<usize>,
    /// The load balancer that is asked about has this name.
    name: Option<String>,
    found: BTreeMap<Family, IpAddr>,
    /// New addresses that one site alone has said so far.
    said: BTreeMap<Family, Vec<IpAddr>>,
    failures: Vec<String>,
}

impl Resolver {
    /// Asks nobody.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ask: Ask::default(),
            public: Public::default(),
            round: None,
            next_at: Time::default(),
            pause: FIRST_PAUSE,
            first: 0,
        }
    }

    /// Asks this from now on. `random` spreads gateways over the built-in sites.
    pub fn set(&mut self, ask: Ask, random: u64, now: Time) {
        if ask == self.ask {
            return;
        }
        let count = ask.methods.len().max(1) as u64;
        self.first = if ask.built_in {
            usize::try_from(random % count).unwrap_or_default()
        } else {
            0
        };
        self.public = Public::default();
        self.ask = ask;
        self.round = None;
        self.next_at = now;
        self.pause = FIRST_PAUSE;
    }

    /// The question to ask now, if there is one. Its answer must be given before the next.
    pub fn next(&mut self, now: Time) -> Option<Query> {
        if self.ask.methods.is_empty() {
            return None;
        }
        if self.round.is_none() {
            if self.next_at > now {
                return None;
            }
            self.round = Some(Round {
                first: self.first,
                ..Round::default()
            });
        }
        loop {
            let round = self.round.as_mut()?;
            if let Some(name) = &round.name {
                return Some(Query::Name(name.clone()));
            }
            let missing = |family: &Family| !round.found.contains_key(family);
            let complete = !self.ask.families.iter().any(missing);
            if complete || round.done >= self.ask.methods.len() {
                self.end(now);
                return None;
            }
            let at = (round.first + round.done) % self.ask.methods.len();
            match self.ask.methods.get(at)? {
                Method::Fixed(ip) => {
                    round.found.entry(Family::of(*ip)).or_insert(*ip);
                    round.done += 1;
                }
                Method::Api { family, .. } if !missing(family) => round.done += 1,
                Method::Dns(name) => return Some(Query::Name(name.clone())),
                Method::LoadBalancer(name) => return Some(Query::Service(name.clone())),
                Method::Api { url, .. } => return Some(Query::Get { url: url.clone() }),
            }
        }
    }

    /// What the last question gave.
    pub fn answered(&mut self, answer: Result<Answer, String>) {
        let Some(round) = &mut self.round else {
            return;
        };
        let at = (round.first + round.done) % self.ask.methods.len().max(1);
        let Some(method) = self.ask.methods.get(at) else {
            return;
        };
        let wanted = match method {
            Method::Api { family, .. } => vec![*family],
            Method::Fixed(_) | Method::Dns(_) | Method::LoadBalancer(_) => {
                self.ask.families.iter().copied().collect()
            }
        };
        let mut nothing = Some("no address that a host can have".to_owned());
        let mut addresses = match answer {
            Ok(Answer::Name(name)) if round.name.is_none() => {
                round.name = Some(name);
                return;
            }
            Ok(Answer::Addresses(addresses)) => addresses,
            Ok(Answer::Text(text)) => wanted
                .iter()
                .filter_map(|family| address_in(&text, *family))
                .collect(),
            Ok(Answer::Name(_)) => Vec::new(),
            Err(why) => {
                nothing = Some(why);
                Vec::new()
            }
        };
        round.name = None;
        round.done += 1;
        // Names have several addresses, in no order: the first by value, so that it is the same each time.
        addresses.sort();
        for family in wanted {
            let good = |ip: &&IpAddr| Family::of(**ip) == family && host_address(**ip);
            let Some(ip) = addresses.iter().find(good).copied() else {
                continue;
            };
            nothing = None;
            let known = self.public.addresses.get(&family);
            let said = round.said.entry(family).or_default();
            let believed =
                !self.ask.built_in || known.is_none_or(|known| *known == ip) || said.contains(&ip);
            if believed {
                round.found.entry(family).or_insert(ip);
                round.good = round.good.or(Some(at)).filter(|_| self.ask.built_in);
            } else {
                said.push(ip);
            }
        }
        if let Some(why) = nothing {
            round.failures.push(format!("{method}: {why}"));
        }
    }

    fn end(&mut self, now: Time) {
        let Some(round) = self.round.take() else {
            return;
        };
        self.first = round.good.unwrap_or(self.first);
        self.public.failures.clear();
        for family in &self.ask.families {
            // What one alone says is better than nothing.
            let said = round.said.get(family).and_then(|said| said.first());
            if let Some(ip) = round.found.get(family).or(said) {
                self.public.addresses.insert(*family, *ip);
            } else {
                let why = if round.failures.is_empty() {
                    "nobody was asked for it".to_owned()
                } else {
                    round.failures.join("; ")
                };
                self.public.failures.insert(*family, why);
            }
        }
        let pause = if self.public.addresses.is_empty() {
            let pause = self.pause;
            self.pause = self.pause.saturating_mul(2).min(INTERVAL);
            pause
        } else {
            self.pause = FIRST_PAUSE;
            INTERVAL
        };
        self.next_at = now + pause;
    }

    /// When [`Resolver::next`] has something to ask.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        (!self.ask.methods.is_empty()).then_some(self.next_at)
    }

    /// What is known.
    #[must_use]
    pub fn public(&self) -> &Public {
        &self.public
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}
