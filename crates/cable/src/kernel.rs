//! A WireGuard device of the kernel.

use std::collections::BTreeMap;
use std::path::Path;

use strait_host::wireguard::{self, Step, Told};
use strait_host::{Key, PeerStatus, WireGuard};
use strait_kernel::wireguard::Wireguard;

use crate::stamp::{self, Stamp};
use crate::{Device, Error, Keys, Preshared, PrivateKey};

/// The kernel's device, which is a link that the host plan makes.
#[derive(Debug)]
pub(crate) struct KernelDevice {
    link: &'static str,
    wireguard: Wireguard,
    keys: Keys,
    /// Where peers were said to be, and since when.
    told: BTreeMap<Key, Told>,
    stamp: Stamp,
    /// The key is one that peers never had a handshake of.
    unheard: bool,
    behind: u64,
}

impl KernelDevice {
    pub(crate) fn open(
        link: &'static str,
        keys: Keys,
        state: &Path,
    ) -> Result<Self, strait_kernel::Error> {
        Ok(Self {
            link,
            wireguard: Wireguard::open()?,
            keys,
            told: BTreeMap::new(),
            stamp: Stamp::read(state),
            unheard: false,
            behind: 0,
        })
    }

    /// Takes note of the time that handshakes may have had by now. The kernel tells of those that came about: while it tries others, it is the
    /// present.
    fn follow_clock(&mut self, have: &wireguard::Device, wanted: &WireGuard, now: u64) {
        if std::mem::take(&mut self.unheard) {
            self.stamp.begin_anew(now);
        }
        let made = |key: &Key| {
            let status = &have.peers.get(key)?.status;
            // One from the future is of before the clock was stepped back.
            status
                .handshake
                .filter(|at| *at <= now && status.is_alive(now))
        };
        let made: Option<Vec<u64>> = wanted.peers.keys().map(made).collect();
        let last = made.map_or(Some(now), |made| made.into_iter().max());
        if let Some(last) = last {
            self.stamp.sent(stamp::at(last));
        }
        self.behind = self.stamp.behind(now);
    }
}

impl Device for KernelDevice {
    fn is_kernel(&self) -> bool {
        true
    }

    fn has_link(&self) -> bool {
        false
    }

    fn rekey(&mut self, private: PrivateKey) {
        self.keys.private = private;
        self.unheard = true;
    }

    fn share(&mut self, preshared: Preshared) {
        self.keys.preshared = preshared;
    }

    fn behind(&self) -> u64 {
        self.behind
    }

    fn keep(&mut self, wanted: &WireGuard, now: u64) -> Result<BTreeMap<Key, PeerStatus>, Error> {
        let shared = self.keys.preshared.expose();
        let have = self.wireguard.read(self.link, shared)?;
        let own = Some(self.keys.private.public());
        if (have.public_key, have.port, have.mark) != (own, wanted.port, wanted.mark) {
            let key = self.keys.private.expose();
            let (port, mark) = (wanted.port, wanted.mark);
            self.wireguard.set_up(self.link, &key, port, mark)?;
        }
        // A device that was made anew, or that somebody emptied, was told nothing.
        self.told.retain(|key, _| have.peers.contains_key(key));
        for step in have.steps(wanted, &self.told, now) {
            self.wireguard.take(self.link, &step, shared)?;
            // One that comes again begins anew.
            if let Step::Remove(key) = step {
                self.told.remove(&key);
            }
        }
        self.follow_clock(&have, wanted, now);
        let told = wanted.peers.iter().map(|(key, peer)| {
            let since = self.told.get(key).map_or(now, |told| told.since);
            let endpoint = peer.endpoint;
            (*key, Told { endpoint, since })
        });
        self.told = told.collect();
        let peers = have.peers.into_iter();
        Ok(peers.map(|(key, peer)| (key, peer.status)).collect())
    }
}
