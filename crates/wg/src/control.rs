//! The one thread that makes handshakes, looks at timers and takes configurations.

mod configure;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use crate::burst::Burst;
use crate::config::Timestamp;
use crate::cookie::{self, Baker, Codes};
use crate::limit::Limit;
use crate::message::{COOKIE_REPLY, INITIATION, MAC, Message, RESPONSE};
use crate::noise::{self, Begun, Keys};
use crate::peer::Peer;
use crate::session::Session;
use crate::shared::{Event, Shared, count};
use crate::timers::Due;
use crate::{Error, PeerConfig, PresharedKey, PrivateKey, PublicKey, random};

/// So many waiting handshakes are a flood: an eighth of what may wait. It counts as one for a second more.
const FLOOD: usize = 512;
const FLOOD_LASTS: Duration = Duration::from_secs(1);
/// One peer may begin a handshake that often.
const BEGIN_EVERY: Duration = Duration::from_millis(20);
/// Largest random delay of another try, ms.
const JITTER: u32 = 334;

pub(crate) struct Control<'s> {
    shared: &'s Shared,
    burst: Burst<'s>,
    /// What we answer to: our key, and for a while the one before.
    identities: Vec<Identity>,
    peers: BTreeMap<PublicKey, Known>,
    /// Whose handshake has this number of ours.
    begun: BTreeMap<u32, PublicKey>,
    queue: BTreeMap<(Duration, PublicKey), Arc<Peer>>,
    baker: Baker,
    limit: Limit,
    flood_until: Duration,
}

struct Identity {
    private: PrivateKey,
    public: PublicKey,
    codes: Codes,
    /// How many there were before.
    generation: u64,
    /// `None`: ours now.
    until: Option<Duration>,
}

struct Known {
    peer: Arc<Peer>,
    config: PeerConfig,
    codes: Codes,
    pending: Option<Pending>,
    /// Our number in the last answer.
    answered: Option<u32>,
    /// When we last began, and when the peer did.
    began: Option<Duration>,
    heard: Option<Duration>,
    greatest: Option<Timestamp>,
    sent: Option<Timestamp>,
    cookie: Option<([u8; MAC], Duration)>,
    mac1: Option<[u8; MAC]>,
}

struct Pending {
    begun: Begun,
    index: u32,
    generation: u64,
}

impl<'s> Control<'s> {
    pub(crate) fn new(shared: &'s Shared) -> Result<Self, Error> {
        Ok(Self {
            shared,
            burst: Burst::new(shared, 0),
            identities: Vec::new(),
            peers: BTreeMap::new(),
            begun: BTreeMap::new(),
            queue: BTreeMap::new(),
            baker: Baker::new(shared.now())?,
            limit: Limit::default(),
            flood_until: Duration::ZERO,
        })
    }

    pub(crate) fn run(&mut self, events: &Receiver<Event>) {
        loop {
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let event = match next {
                Some(at) => events.recv_timeout(at.saturating_sub(self.shared.now())),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(event) => self.event(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // Not after all that may wait.
            if self.shared.stopping.load(Ordering::Relaxed) {
                return;
            }
            self.timers();
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Handshake { message, from } => {
                let waiting = self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                if waiting > FLOOD {
                    self.flood_until = self.shared.now() + FLOOD_LASTS;
                }
                if let Err(error) = self.handshake(&message, from) {
                    tracing::trace!(%error, %from, "handshake");
                    count(&self.shared.drops.forged);
                }
            }
            Event::Initiate(peer) => self.initiate(peer.key, false),
            Event::Schedule(peer, at) => {
                self.queue.insert((at, peer.key), peer);
            }
            Event::Configure(config, answer) => {
                let _ = answer.send(self.configure(*config));
            }
            Event::Stop => {}
        }
    }

    fn timers(&mut self) {
        let now = self.shared.now();
        while let Some(entry) = self.queue.first_entry() {
            let at = entry.key().0;
            if at > now {
                return;
            }
            let peer = entry.remove();
            let due = {
                let mut clock = peer.clock.lock().unwrap_or_else(PoisonError::into_inner);
                if clock.scheduled != Some(at) {
                    continue;
                }
                clock.scheduled = None;
                clock.timers.due(now)
            };
            let ours = self.peers.get(&peer.key);
            if !ours.is_some_and(|known| Arc::ptr_eq(&known.peer, &peer)) {
                continue;
            }
            due.into_iter().for_each(|due| self.due(&peer, due));
            self.shared.tick(&peer, |_| {});
        }
    }

    fn due(&mut self, peer: &Arc<Peer>, due: Due) {
        match due {
            Due::Initiate => self.initiate(peer.key, false),
            Due::Retry => self.initiate(peer.key, true),
            Due::Keepalive => self.keepalive(peer),
            Due::GiveUp => {
                for _ in peer.staged().take() {
                    count(&self.shared.drops.unanswered);
                }
            }
            Due::Forget => self.close(peer),
        }
    }

    fn keepalive(&mut self, peer: &Arc<Peer>) {
        let reject_after = self.shared.options.timing.reject_after;
        match peer.current(self.shared.now(), reject_after) {
            Some(session) => {
                self.burst.keepalive(&session);
                self.burst.flush();
            }
            None => self.initiate(peer.key, false),
        }
    }

    /// Forgets all of a peer's keys.
    fn close(&mut self, peer: &Peer) {
        let slots =
            std::mem::take(&mut *peer.slots.write().unwrap_or_else(PoisonError::into_inner));
        for session in [slots.previous, slots.current, slots.next] {
            self.shared.forget(session);
        }
        if let Some(known) = self.peers.get_mut(&peer.key)
            && let Some(pending) = known.pending.take()
        {
            self.begun.remove(&pending.index);
        }
    }

    fn initiate(&mut self, key: PublicKey, again: bool) {
        if let Err(error) = self.try_initiate(key, again) {
            tracing::warn!(%error, peer = %key, "handshake can't be begun");
        }
    }

    fn try_initiate(&mut self, key: PublicKey, again: bool) -> Result<(), Error> {
        let now = self.shared.now();
        let index = self.new_index()?;
        let jitter = Duration::from_millis((random::number()? % JITTER).into());
        let (Some(known), Some(identity)) = (self.peers.get_mut(&key), self.identities.first())
        else {
            return Ok(());
        };
        let peer = known.peer.clone();
        peer.asked.store(false, Ordering::Relaxed);
        let timeout = self.shared.options.timing.rekey_timeout;
        let trying = {
            let clock = peer.clock.lock().unwrap_or_else(PoisonError::into_inner);
            clock.timers.trying()
        };
        // The next try comes by itself.
        let early = known
            .began
            .is_some_and(|began| now.saturating_sub(began) < timeout);
        if !again && trying && early {
            return Ok(());
        }
        let Some(to) = peer.endpoint() else {
            return Ok(());
        };
        // Later than the last one that this peer had: no later than needed, or a device that is started without a floor
        // would be refused for a while.
        let floor = known.sent.or(self.shared.options.timestamp_floor);
        let stamp = Timestamp::after(SystemTime::now(), floor);
        known.sent = Some(stamp);
        {
            let mut greatest = self
                .shared
                .stamp
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *greatest = (*greatest).max(Some(stamp));
        }
        let psk = psk(&known.config);
        let (begun, mut message) = noise::begin(&identity.private, key, &psk, stamp, index)?;
        let cookie = known
            .cookie
            .filter(|(_, since)| now.saturating_sub(*since) < cookie::LIFE);
        known.mac1 = Some(
            known
                .codes
                .end(&mut message, cookie.as_ref().map(|(cookie, _)| cookie)),
        );
        known.began = Some(now);
        if let Some(old) = known.pending.replace(Pending {
            begun,
            index,
            generation: identity.generation,
        }) {
            self.begun.remove(&old.index);
        }
        self.begun.insert(index, key);
        self.send(&message, to);
        self.shared
            .tick(&peer, |timers| timers.initiated(now, jitter));
        Ok(())
    }

    fn handshake(&mut self, message: &[u8], from: SocketAddr) -> Result<(), Error> {
        match Message::parse(message) {
            Some(Message::Initiation(message)) => self.initiation(message, from),
            Some(Message::Response(message)) => self.response(message, from),
            Some(Message::CookieReply(message)) => {
                self.cookie_reply(message);
                Ok(())
            }
            Some(Message::Data { .. }) | None => Ok(()),
        }
    }

    /// Under a flood, only who can be reached at its address is worth the arithmetic. Says whether the message is.
    fn worthy(&mut self, codes: &Codes, message: &[u8], from: SocketAddr) -> Result<bool, Error> {
        let now = self.shared.now();
        if now >= self.flood_until {
            return Ok(true);
        }
        let cookie = self.baker.cookie(from, now)?;
        if codes.proves(message, &cookie) {
            if self.limit.allow(from.ip(), now) {
                return Ok(true);
            }
        } else {
            let reply = codes.reply(message, &cookie)?;
            self.send(&reply, from);
        }
        count(&self.shared.drops.deferred);
        Ok(false)
    }

    fn initiation(&mut self, message: &[u8; INITIATION], from: SocketAddr) -> Result<(), Error> {
        let now = self.shared.now();
        self.retire(now);
        let own = self.identities.iter().find(|own| own.codes.holds(message));
        let Some((private, codes, generation)) =
            own.map(|own| (own.private.clone(), own.codes.clone(), own.generation))
        else {
            return Ok(());
        };
        if !self.worthy(&codes, message, from)? {
            return Ok(());
        }
        let heard = noise::hear(&private, message)?;
        let index = self.new_index()?;
        let Some(known) = self.peers.get_mut(&heard.peer) else {
            count(&self.shared.drops.unknown);
            return Ok(());
        };
        // Who has a session of our new key needs none of the old one, which would have to end soon. That it called that first is no reason
        // not to answer what comes next.
        let peer = known.peer.clone();
        let reject_after = self.shared.options.timing.reject_after;
        let newer = |session: Arc<Session>| session.generation > generation;
        if peer.current(now, reject_after).is_some_and(newer) {
            return Ok(());
        }
        let often = known
            .heard
            .is_some_and(|last| now.saturating_sub(last) < BEGIN_EVERY);
        if often
            || known
                .greatest
                .is_some_and(|greatest| heard.stamp <= greatest)
        {
            count(&self.shared.drops.replayed);
            return Ok(());
        }
        known.greatest = Some(heard.stamp);
        known.heard = Some(now);
        let remote = heard.index;
        let (keys, mut answer) = heard.answer(&psk(&known.config), index)?;
        let cookie = known
            .cookie
            .filter(|(_, since)| now.saturating_sub(*since) < cookie::LIFE);
        let mac1 = known
            .codes
            .end(&mut answer, cookie.as_ref().map(|(cookie, _)| cookie));
        known.mac1 = Some(mac1);
        // A reply that asks to prove our address may come to this answer, no longer to the one before.
        if let Some(before) = known.answered.replace(index) {
            self.begun.remove(&before);
        }
        self.begun.insert(index, peer.key);
        let session = self.session(&peer, &keys, (index, remote), generation, false)?;
        let mut slots = peer.slots.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = slots.next.replace(session);
        drop(slots);
        self.shared.forget(replaced);
        peer.heard_from(from);
        peer.received
            .fetch_add(message.len() as u64, Ordering::Relaxed);
        self.send(&answer, from);
        peer.sent.fetch_add(answer.len() as u64, Ordering::Relaxed);
        self.shared.tick(&peer, |timers| {
            timers.received(now);
            timers.keyed(now);
            timers.sent(now);
        });
        Ok(())
    }

    fn response(&mut self, message: &[u8; RESPONSE], from: SocketAddr) -> Result<(), Error> {
        let own = self.identities.iter().find(|own| own.codes.holds(message));
        let Some(codes) = own.map(|own| own.codes.clone()) else {
            return Ok(());
        };
        if !self.worthy(&codes, message, from)? {
            return Ok(());
        }
        let (Some(remote), Some(index)) = (word(message, 4), word(message, 8)) else {
            return Ok(());
        };
        let begun = self
            .begun
            .get(&index)
            .and_then(|key| self.peers.get_mut(key));
        let Some(known) = begun else {
            count(&self.shared.drops.unknown);
            return Ok(());
        };
        let Some(pending) = known
            .pending
            .as_mut()
            .filter(|pending| pending.index == index)
        else {
            count(&self.shared.drops.unknown);
            return Ok(());
        };
        let keys = pending.begun.finish(message)?;
        let generation = pending.generation;
        known.pending = None;
        self.begun.remove(&index);
        let peer = known.peer.clone();
        let session = self.session(&peer, &keys, (index, remote), generation, true)?;
        peer.heard_from(from);
        peer.received
            .fetch_add(message.len() as u64, Ordering::Relaxed);
        let now = self.shared.now();
        self.shared.tick(&peer, |timers| {
            timers.received(now);
            timers.keyed(now);
            timers.complete();
        });
        if !self.shared.activate(&session, &mut self.burst) {
            // The peer may not send by the session before it has heard us on it.
            self.burst.keepalive(&session);
            self.burst.flush();
        }
        Ok(())
    }

    fn cookie_reply(&mut self, message: &[u8; COOKIE_REPLY]) {
        let now = self.shared.now();
        let index = word(message, 4);
        let key = index.and_then(|index| self.begun.get(&index));
        let Some(known) = key.and_then(|key| self.peers.get_mut(key)) else {
            return count(&self.shared.drops.unknown);
        };
        let cookie = known.mac1.and_then(|mac1| known.codes.open(message, &mac1));
        match cookie {
            Some(cookie) => known.cookie = Some((cookie, now)),
            None => count(&self.shared.drops.forged),
        }
    }

    fn session(
        &mut self,
        peer: &Arc<Peer>,
        keys: &Keys,
        (index, remote): (u32, u32),
        generation: u64,
        initiator: bool,
    ) -> Result<Arc<Session>, Error> {
        let now = self.shared.now();
        let session = Session::new(
            peer.clone(),
            keys,
            (index, remote),
            generation,
            initiator,
            now,
        )?;
        let session = Arc::new(session);
        let mut sessions = self
            .shared
            .sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        sessions.insert(index, session.clone());
        Ok(session)
    }

    /// A number that is ours alone.
    fn new_index(&self) -> Result<u32, Error> {
        loop {
            let index = random::number()?;
            let sessions = self
                .shared
                .sessions
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if !sessions.contains_key(&index) && !self.begun.contains_key(&index) {
                return Ok(index);
            }
        }
    }

    fn send(&self, message: &[u8], to: SocketAddr) {
        let sent = self
            .shared
            .sockets
            .send(0, to, message, message.len(), false);
        if let Err(error) = sent {
            tracing::debug!(%error, %to, "handshake was not sent");
            count(&self.shared.drops.refused);
        }
    }
}

fn psk(config: &PeerConfig) -> PresharedKey {
    let none = || PresharedKey::from_bytes([0; 32]);
    config.preshared.clone().unwrap_or_else(none)
}

fn word(message: &[u8], at: usize) -> Option<u32> {
    crate::message::word(message, at)
}
