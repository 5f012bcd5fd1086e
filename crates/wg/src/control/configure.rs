//! What a new configuration changes, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Control, Identity, Known};
use crate::allowed::Allowed;
use crate::cookie::Codes;
use crate::peer::Peer;
use crate::{Config, Error, PeerConfig, PrivateKey, PublicKey};

impl Control<'_> {
    /// Forgets a key of ours whose time has passed.
    pub(super) fn retire(&mut self, now: Duration) {
        let before = self.identities.len();
        self.identities
            .retain(|own| own.until.is_none_or(|until| until > now));
        if self.identities.len() != before {
            self.publish_codes();
        }
    }

    fn publish_codes(&self) {
        let all = self
            .identities
            .iter()
            .map(|own| own.codes.clone())
            .collect();
        *self
            .shared
            .codes
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
    }

    pub(super) fn configure(&mut self, config: Config) -> Result<(), Error> {
        let now = self.shared.now();
        let kept = config.clone();
        let rotated = self.identify(config.private_key, now)?;
        let gone: Vec<_> = self
            .peers
            .keys()
            .filter(|key| !config.peers.contains_key(key))
            .copied()
            .collect();
        let mut left = BTreeSet::new();
        for key in gone {
            if let Some(known) = self.peers.get(&key) {
                left.extend(known.config.allowed.iter().copied());
            }
            if let Some(peer) = self.peers.get(&key).map(|known| known.peer.clone()) {
                self.close(&peer);
            }
            self.peers.remove(&key);
            self.begun.retain(|_, begun| *begun != key);
        }
        let mut call = BTreeSet::new();
        for (key, wanted) in config.peers {
            // Who has the prefixes of one that goes may be the same peer, and send by a session of that one until it hears from us.
            let heir = !wanted.allowed.is_disjoint(&left);
            if self.peer(key, wanted, now) || rotated || heir {
                call.insert(key);
            }
        }
        self.publish();
        *self
            .shared
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(kept);
        call.into_iter().for_each(|key| self.initiate(key, true));
        Ok(())
    }

    /// Takes our key. Says whether there was another before, which is answered to for as long as a session lives.
    fn identify(&mut self, private: PrivateKey, now: Duration) -> Result<bool, Error> {
        let public = private.public()?;
        if self
            .identities
            .first()
            .is_some_and(|own| own.public == public)
        {
            return Ok(false);
        }
        let until = now + self.shared.options.timing.reject_after;
        self.identities.retain(|own| own.public != public);
        self.identities.truncate(1);
        self.identities
            .iter_mut()
            .for_each(|own| own.until = Some(until));
        let codes = Codes::of(&public);
        let generation = self.identities.first().map_or(0, |own| own.generation + 1);
        self.identities.insert(
            0,
            Identity {
                private,
                public,
                codes,
                generation,
                until: None,
            },
        );
        self.shared.generation.store(generation, Ordering::Relaxed);
        self.publish_codes();
        Ok(self.identities.len() > 1)
    }

    /// Takes one peer. Says whether a handshake is to be made at once.
    fn peer(&mut self, key: PublicKey, wanted: PeerConfig, now: Duration) -> bool {
        let timing = self.shared.options.timing;
        let known = self.peers.entry(key).or_insert_with(|| Known {
            peer: Arc::new(Peer::new(key, timing)),
            config: PeerConfig::default(),
            codes: Codes::of(&key),
            pending: None,
            answered: None,
            began: None,
            heard: None,
            greatest: None,
            sent: None,
            cookie: None,
            mac1: None,
        });
        let peer = known.peer.clone();
        let moved = wanted.endpoint != known.config.endpoint;
        let shared = wanted.preshared != known.config.preshared;
        let keepalive = wanted.keepalive;
        if moved && wanted.endpoint.is_some() {
            peer.set_endpoint(wanted.endpoint);
        }
        known.config = wanted;
        self.shared
            .tick(&peer, |timers| timers.keep_alive(keepalive, now));
        (moved || shared) && peer.current(now, timing.reject_after).is_none()
    }

    fn publish(&self) {
        let (mut routes, mut sources) = (Allowed::default(), Allowed::default());
        let mut peers = BTreeMap::new();
        for (key, known) in &self.peers {
            peers.insert(*key, known.peer.clone());
            for prefix in &known.config.allowed {
                routes.add(*prefix, known.peer.clone());
            }
            for prefix in known.config.allowed.union(&known.config.accepted) {
                sources.add(*prefix, known.peer.clone());
            }
        }
        *self
            .shared
            .peers
            .write()
            .unwrap_or_else(PoisonError::into_inner) = peers;
        // Who is sent to is listened to.
        *self
            .shared
            .sources
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(sources);
        *self
            .shared
            .routes
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }
}
