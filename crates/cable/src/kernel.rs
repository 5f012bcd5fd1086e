//! A WireGuard device of the kernel.

use std::collections::BTreeMap;

use strait_host::wireguard::{Step, Told};
use strait_host::{Key, PeerStatus, WireGuard};
use strait_kernel::wireguard::Wireguard;

use crate::{Device, Error, Keys, Preshared, PrivateKey};

/// The kernel's device, which is a link that the host plan makes.
#[derive(Debug)]
pub(crate) struct KernelDevice {
    link: &'static str,
    wireguard: Wireguard,
    keys: Keys,
    /// Where peers were said to be, and since when.
    told: BTreeMap<Key, Told>,
}

impl KernelDevice {
    pub(crate) fn open(link: &'static str, keys: Keys) -> Result<Self, strait_kernel::Error> {
        Ok(Self {
            link,
            wireguard: Wireguard::open()?,
            keys,
            told: BTreeMap::new(),
        })
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
    }

    fn share(&mut self, preshared: Preshared) {
        self.keys.preshared = preshared;
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
