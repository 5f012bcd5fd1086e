//! All targets, and those who ask us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use prost::Message;
use strait_host::Family;

use super::answer::{answer, ip_port, source};
use super::check::{Answer, Asked, Check, Which, says_nat};
use super::limit::Limits;
use super::message::{
    Body, Dialect, EndpointDetails, Envelope, IpPort, Request, Response, Verdict,
};
use super::{Datagram, Dropped, Heard, Key, LONGEST, Own, Results, Wanted};
use crate::Time;

/// Targets that are asked at once at most: more, and their answers might not fit into the socket's buffer.
const BURST: usize = 32;
/// The pause after so many.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest name or address in a message, in bytes: a cable name has 200 at most, and a dialect adds some.
const LONGEST_TEXT: usize = 253;

/// Says what to send when, and what comes of what arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finder {
    own: Option<Own>,
    checks: BTreeMap<Key, Check>,
    /// Whose request has which number.
    numbers: BTreeMap<u64, Key>,
    limits: Limits,
    not_before: Time,
    changed: bool,
}

impl Finder {
    /// Finds this out from now on. What is known of targets that stay is kept.
    pub fn set(&mut self, wanted: &Wanted, now: Time) {
        let asker_changed = self.own != wanted.own;
        self.own.clone_from(&wanted.own);
        let keys: BTreeSet<&Key> = wanted.targets.iter().map(|t| &t.key).collect();
        let before = self.checks.len();
        self.checks.retain(|key, _| keys.contains(key));
        self.changed |= self.checks.len() != before;
        for target in &wanted.targets {
            let can_ask = can_ask(self.own.as_ref(), target.key.family);
            if let Some(check) = self.checks.get_mut(&target.key) {
                let path = check.path();
                check.change(target.clone(), asker_changed, can_ask, now);
                self.changed |= check.path() != path;
            } else {
                let check = Check::new(target.clone(), can_ask, now);
                self.checks.insert(target.key.clone(), check);
                self.changed = true;
            }
        }
        self.forget();
        let targets = wanted.targets.iter();
        let peers = targets.flat_map(|t| t.private.into_iter().chain(t.public));
        self.limits.know(&peers.collect());
    }

    /// The datagrams to send now; some at a time. `random` gives the numbers of requests, by which their answers are known:
    /// nobody may be able to guess them.
    pub fn due(&mut self, now: Time, mut random: impl FnMut() -> u64) -> Vec<Datagram> {
        let mut datagrams = Vec::new();
        let Some(own) = &self.own else {
            return datagrams;
        };
        if self.not_before > now {
            return datagrams;
        }
        let mut asked_targets = 0;
        for (key, check) in &mut self.checks {
            if check.wake().is_none_or(|at| at > now) {
                continue;
            }
            if asked_targets == BURST {
                self.not_before = now + PAUSE;
                break;
            }
            self.changed |= check.turn(now);
            let addresses = check.due(now);
            asked_targets += usize::from(!addresses.is_empty());
            let (Some(from), Some(port)) = (own.addresses.get(&key.family), check.target.port)
            else {
                continue;
            };
            for (which, ip, dialects) in addresses {
                for dialect in dialects {
                    let number = random();
                    if self.numbers.contains_key(&number) {
                        continue;
                    }
                    let to = SocketAddr::new(ip, port);
                    datagrams.push(Datagram {
                        bytes: request(own, key, dialect, number, *from, to),
                        to,
                        from: Some(*from),
                    });
                    self.numbers.insert(number, key.clone());
                    if let Some(old) = check.asked(Asked { number, which, ip }) {
                        self.numbers.remove(&old);
                    }
                }
            }
        }
        self.forget();
        datagrams
    }

    /// When [`Finder::due`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.own.as_ref()?;
        let next = self.checks.values().filter_map(Check::wake).min()?;
        Some(next.max(self.not_before))
    }

    /// A datagram came `from` somewhere to our address `to`, where that is known.
    pub fn received(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        to: Option<IpAddr>,
        now: Time,
    ) -> Heard {
        match self.read(bytes, from, to, now) {
            Ok(heard) => heard,
            Err(why) => Heard::Dropped(why),
        }
    }

    fn read(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        to: Option<IpAddr>,
        now: Time,
    ) -> Result<Heard, Dropped> {
        if bytes.is_empty() {
            return Err(Dropped::Empty);
        }
        if bytes.len() > LONGEST {
            return Err(Dropped::TooLong);
        }
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let to = to.map(|ip| ip.to_canonical());
        let message = Envelope::decode(bytes).map_err(|_| Dropped::Unreadable)?;
        match message.body.ok_or(Dropped::NoBody)? {
            Body::Request(request) => self.request(request, from, to, now),
            Body::Response(response) => self.response(&response, from, now),
        }
    }

    fn request(
        &mut self,
        request: Request,
        from: SocketAddr,
        to: Option<IpAddr>,
        now: Time,
    ) -> Result<Heard, Dropped> {
        let own = self.own.as_ref().ok_or(Dropped::Off)?;
        if too_long(&request) {
            return Err(Dropped::TooLong);
        }
        if !self.limits.take(from.ip(), now) {
            return Err(Dropped::TooMany);
        }
        let (src_ip, src_port) = source(&request, from);
        let sender = request.sender.clone();
        let response = answer(own, request, from, to);
        let verdict = Verdict::try_from(response.response).unwrap_or_default();
        if matches!(verdict, Verdict::Ok | Verdict::NatDetected) {
            let family = Family::of(from.ip());
            let rewritten = (src_ip || src_port).then_some(from);
            let can_ask = can_ask(Some(own), family);
            let of = |key: &Key| {
                let names = |s: &EndpointDetails| {
                    s.cluster_id == key.cluster.as_str()
                        && Dialect::of(&s.endpoint_id, &key.cable_name, family).is_some()
                };
                key.family == family && sender.as_ref().is_some_and(names)
            };
            if let Some((_, check)) = self.checks.iter_mut().find(|(key, _)| of(key)) {
                self.changed |= check.heard(rewritten, can_ask, now);
            }
        }
        let bytes = Envelope {
            version: 0,
            body: Some(Body::Response(response)),
        }
        .encode_to_vec();
        Ok(Heard::Request(
            Datagram {
                bytes,
                to: from,
                from: to,
            },
            verdict,
        ))
    }

    fn response(
        &mut self,
        response: &Response,
        from: SocketAddr,
        now: Time,
    ) -> Result<Heard, Dropped> {
        let own = self.own.as_ref().ok_or(Dropped::Off)?;
        let key = self.numbers.get(&response.request_number);
        let check = key.and_then(|key| self.checks.get_mut(key));
        let check = check.ok_or(Dropped::NotAsked)?;
        let asked = check.waiting(response.request_number).cloned();
        let asked = asked.ok_or(Dropped::NotAsked)?;
        let (Some(sender), Some(receiver)) = (&response.sender, &response.receiver) else {
            return Err(Dropped::NoParties);
        };
        let verdict = Verdict::try_from(response.response).map_err(|_| Dropped::UnknownVerdict)?;
        if !matches!(verdict, Verdict::Ok | Verdict::NatDetected) {
            return Err(Dropped::Refusal(verdict));
        }
        let Key {
            cluster,
            cable_name,
            family,
        } = &check.target.key;
        let dialect = Dialect::of(&sender.endpoint_id, cable_name, *family)
            .filter(|_| sender.cluster_id == cluster.as_str());
        let to_us = receiver.cluster_id == own.cluster.as_str()
            && Dialect::of(&receiver.endpoint_id, &own.cable_name, *family).is_some();
        let Some(dialect) = dialect.filter(|_| to_us) else {
            return Err(Dropped::WrongParties);
        };
        if asked.which == Which::Private && from.ip() != asked.ip {
            return Err(Dropped::WrongAddress);
        }
        let source = response.src_ip_nat_detected || response.src_port_nat_detected;
        let elsewhere =
            from.ip() != asked.ip || check.target.port.is_some_and(|port| port != from.port());
        let says_nat = says_nat(
            verdict,
            asked.which,
            asked.ip,
            source,
            response.dst_ip_nat_detected,
        );
        let answer = Answer {
            which: asked.which,
            ip: asked.ip,
            nat: says_nat || elsewhere,
            dialect,
        };
        let waited: Vec<u64> = check.numbers().collect();
        self.changed |= check.answered(&answer, now);
        if check.numbers().next().is_none() {
            waited
                .iter()
                .for_each(|number| drop(self.numbers.remove(number)));
        }
        Ok(Heard::Response)
    }

    /// Forgets the numbers of requests whose answers don't count any more.
    fn forget(&mut self) {
        let waiting: BTreeSet<u64> = self.checks.values().flat_map(Check::numbers).collect();
        self.numbers.retain(|number, _| waiting.contains(number));
    }

    /// Whether a path, or the targets, changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What is known of each target that publishes an address.
    #[must_use]
    pub fn results(&self) -> Results {
        let known = self.checks.iter();
        known
            .filter_map(|(key, check)| Some((key.clone(), check.path()?)))
            .collect()
    }
}

/// Whether a text in it is longer than any can be: it would come back in the answer.
fn too_long(request: &Request) -> bool {
    let parties = [&request.sender, &request.receiver].into_iter().flatten();
    let addresses = [&request.using_src, &request.using_dst];
    parties
        .flat_map(|party| [&party.cluster_id, &party.endpoint_id])
        .chain(addresses.into_iter().flatten().map(|address| &address.ip))
        .any(|text| text.len() > LONGEST_TEXT)
}

fn can_ask(own: Option<&Own>, family: Family) -> bool {
    own.is_some_and(|own| own.addresses.contains_key(&family))
}

fn request(
    own: &Own,
    key: &Key,
    dialect: Dialect,
    number: u64,
    from: IpAddr,
    to: SocketAddr,
) -> Vec<u8> {
    let details = |cluster: &strait_api::ClusterId, cable: &str| EndpointDetails {
        cluster_id: cluster.to_string(),
        endpoint_id: dialect.name(cable, key.family),
    };
    let request = Request {
        request_number: number,
        sender: Some(details(&own.cluster, &own.cable_name)),
        receiver: Some(details(&key.cluster, &key.cable_name)),
        using_src: Some(IpPort {
            ip: from.to_string(),
            port: i32::from(own.port),
        }),
        using_dst: Some(ip_port(to)),
    };
    Envelope {
        version: 1,
        body: Some(Body::Request(request)),
    }
    .encode_to_vec()
}
