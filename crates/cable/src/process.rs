//! A WireGuard device in this process: a TUN device and UDP sockets, and `strait-wg` between them.

mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread::available_parallelism;
use std::time::SystemTime;

use strait_host::{Key, PeerStatus, WireGuard};
use strait_wg::{
    Config, Device as Served, Options, PeerConfig, PresharedKey, PublicKey, Sockets, Tun,
};

use self::memory::Memory;
use crate::stamp::Stamp;
use crate::{Device, Error, Keys, Preshared, PrivateKey};

/// Queues of the TUN device, and sockets of a family: on two processors one of each carries the most.
const MOST_LANES: usize = 4;
/// Names under which the holder has descriptors. Those of queues and sockets end with their number.
const TUN: &str = "wireguard-tun-";
const SOCKET: &str = "wireguard-udp-";
const MEMORY: &str = "wireguard-memory";

/// Who keeps descriptors for the next process, should this one die.
pub trait Holder: Send + fmt::Debug {
    /// Keeps one under a name, in place of the one that it had under that.
    ///
    /// # Errors
    /// If it is gone.
    fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// Lets go of what it has under a name, if it has something.
    ///
    /// # Errors
    /// If it is gone.
    fn release(&self, name: &str) -> io::Result<()>;
}

/// A device that is served by threads of this process.
#[derive(Debug)]
pub(crate) struct ProcessDevice {
    link: &'static str,
    keys: Keys,
    stamp: Stamp,
    holder: Option<Box<dyn Holder>>,
    /// Names of what the holder has of the device that runs.
    given: BTreeSet<String>,
    running: Option<Running>,
    /// Where peers of a predecessor were, until it is said where they should be.
    inherited: BTreeMap<Key, SocketAddr>,
    /// Where peers were said to be, and where they are instead.
    heard: BTreeMap<Key, (Option<SocketAddr>, SocketAddr)>,
    remembered: Option<Memory>,
}

struct Running {
    served: Served,
    has: WireGuard,
    /// Its public key.
    key: Key,
    /// What it shares with its peers.
    preshared: Preshared,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("has", &self.has)
            .finish_non_exhaustive()
    }
}

impl ProcessDevice {
    /// With what a holder kept of a predecessor, it goes on at once as that one was.
    pub(crate) fn open(
        link: &'static str,
        keys: Keys,
        state: &Path,
        holder: Option<Box<dyn Holder>>,
        held: BTreeMap<String, OwnedFd>,
    ) -> Self {
        let mut device = Self {
            link,
            keys,
            stamp: Stamp::read(state),
            holder,
            given: held.keys().cloned().collect(),
            running: None,
            inherited: BTreeMap::new(),
            heard: BTreeMap::new(),
            remembered: None,
        };
        if !held.is_empty()
            && let Err(error) = device.go_on(held)
        {
            tracing::warn!(%error, "what a dead process left of the WireGuard device can't be used: it is made anew");
            device.end();
        }
        device
    }

    fn go_on(&mut self, held: BTreeMap<String, OwnedFd>) -> Result<(), Error> {
        let (mut queues, mut sockets, mut memory) = (Vec::new(), Vec::new(), None);
        let mut names: BTreeSet<String> = held.keys().cloned().collect();
        names.remove(MEMORY);
        // In the order of their names, which end with their numbers.
        for (name, descriptor) in held {
            if name.starts_with(TUN) {
                queues.push(descriptor);
            } else if name.starts_with(SOCKET) {
                sockets.push(descriptor);
            } else if name == MEMORY {
                memory = Some(Memory::read(descriptor).map_err(Error::Held)?);
            }
        }
        let Some(memory) = memory.filter(|memory| memory.beside == names) else {
            return Err(Error::Held(io::ErrorKind::UnexpectedEof.into()));
        };
        let tun = Tun::from_fds(queues);
        if !tun.is_attached(self.link) {
            return Err(Error::Held(io::ErrorKind::NotFound.into()));
        }
        let places = memory.wanted.peers.iter().filter_map(|(key, peer)| {
            let at = memory.heard.get(key).copied().or(peer.endpoint)?;
            Some((*key, at))
        });
        self.inherited = places.collect();
        let sockets = Sockets::from_fds(sockets)?;
        let has = WireGuard {
            // It may have died while it changed its port.
            port: sockets.port().unwrap_or(memory.wanted.port),
            ..memory.wanted.clone()
        };
        self.run(tun, sockets, &has)?;
        tracing::info!(
            peers = memory.wanted.peers.len(),
            "the WireGuard device of a dead process goes on"
        );
        self.remembered = Some(memory);
        Ok(())
    }

    /// Makes the TUN device and the sockets, and serves them.
    fn begin(&mut self, wanted: &WireGuard) -> Result<(), Error> {
        // First: a port that is taken must not leave a device that comes and goes.
        let sockets = bind(wanted)?;
        let tun = Tun::open(self.link, mtu(wanted), lanes())?;
        self.give(TUN, tun.as_fds())?;
        self.give(SOCKET, sockets.as_fds())?;
        self.run(tun, sockets, wanted)
    }

    /// Serves the same TUN device with other sockets. Sessions begin anew.
    fn rebind(&mut self, wanted: &WireGuard) -> Result<(), Error> {
        let Some(running) = &self.running else {
            return self.begin(wanted);
        };
        // While those of before are there: what can't be had ends nothing.
        let sockets = bind(wanted)?;
        let queues = running.served.tun_fds().into_iter();
        let queues: io::Result<Vec<OwnedFd>> = queues.map(|fd| fd.try_clone_to_owned()).collect();
        let tun = Tun::from_fds(queues.map_err(Error::Held)?);
        self.running = None;
        self.give(SOCKET, sockets.as_fds())?;
        self.run(tun, sockets, wanted)
    }

    /// Gives descriptors to the holder.
    fn give(&mut self, kind: &str, all: Vec<BorrowedFd<'_>>) -> Result<(), Error> {
        let Some(holder) = &self.holder else {
            return Ok(());
        };
        for (number, descriptor) in all.into_iter().enumerate() {
            let name = format!("{kind}{number:03}");
            holder.keep(&name, descriptor).map_err(Error::Holder)?;
            self.given.insert(name);
        }
        Ok(())
    }

    fn run(&mut self, tun: Tun, sockets: Sockets, wanted: &WireGuard) -> Result<(), Error> {
        let options = Options {
            mtu: mtu(wanted),
            timestamp_floor: self.stamp.floor(),
            ..Options::default()
        };
        let served = Served::start(tun, sockets, options)?;
        served.configure(self.config(wanted))?;
        self.running = Some(Running {
            served,
            has: wanted.clone(),
            key: self.keys.private.public(),
            preshared: self.keys.preshared.clone(),
        });
        Ok(())
    }

    /// Ends what runs, if something does; the holder lets go of it.
    fn end(&mut self) {
        self.running = None;
        self.remembered = None;
        self.inherited.clear();
        let Some(holder) = &self.holder else {
            return;
        };
        for name in std::mem::take(&mut self.given) {
            if let Err(error) = holder.release(&name) {
                tracing::warn!(%error, "this process's holder is gone");
                return;
            }
        }
    }

    fn config(&self, wanted: &WireGuard) -> Config {
        let peer = |(key, peer): (&Key, &strait_host::Peer)| {
            let heard = self.heard.get(key).map(|(_, at)| at);
            let heard = heard.or_else(|| self.inherited.get(key)).copied();
            let config = PeerConfig {
                preshared: Some(PresharedKey::from_bytes(*self.keys.preshared.expose())),
                endpoint: heard.or(peer.endpoint),
                allowed: peer.allowed.clone(),
                accepted: peer.accepted.clone(),
                keepalive: Some(peer.keepalive).filter(|seconds| *seconds > 0),
            };
            (PublicKey(key.0), config)
        };
        Config {
            private_key: strait_wg::PrivateKey::from_bytes(self.keys.private.expose()),
            peers: wanted.peers.iter().map(peer).collect(),
        }
    }

    /// Takes note of where peers are said to be now, and of who is somewhere else.
    fn place(&mut self, wanted: &WireGuard) {
        let said = |key: &Key| wanted.peers.get(key).map(|peer| peer.endpoint);
        self.heard
            .retain(|key, (before, _)| said(key) == Some(*before));
        let inherited = std::mem::take(&mut self.inherited);
        let Some(running) = self.running.as_ref().filter(|_| !inherited.is_empty()) else {
            return;
        };
        // Whoever answers there is there.
        let status = running.served.status();
        let answers = |key: &Key| {
            let status = status.get(&PublicKey(key.0));
            status.is_some_and(|status| status.last_handshake.is_some())
        };
        let there = inherited.into_iter().filter(|(key, _)| answers(key));
        self.heard
            .extend(there.filter_map(|(key, at)| Some((key, (said(&key)?, at)))));
    }

    fn make(&mut self, wanted: &WireGuard) -> Result<BTreeMap<Key, PeerStatus>, Error> {
        self.place(wanted);
        let link = self.link;
        match &self.running {
            Some(running) if !running.served.is_attached(link) => {
                tracing::warn!(link, "the TUN device is gone; it is made anew");
                self.end();
                self.begin(wanted)?;
            }
            Some(running) if running.has.port != wanted.port => self.rebind(wanted)?,
            // The port can't be had twice.
            Some(running) if running.has.mark != wanted.mark => {
                self.end();
                self.begin(wanted)?;
            }
            Some(_) => {}
            None => self.begin(wanted)?,
        }
        let config = self.config(wanted);
        let (key, preshared) = (self.keys.private.public(), &self.keys.preshared);
        let Some(running) = &mut self.running else {
            return Ok(BTreeMap::new());
        };
        if running.has != *wanted || running.key != key || running.preshared != *preshared {
            running.served.set_mtu(mtu(wanted));
            if let Err(error) = running.served.configure(config) {
                self.running = None;
                return Err(error.into());
            }
            running.has = wanted.clone();
            running.key = key;
            running.preshared = preshared.clone();
        }
        if let Some(stamp) = running.served.timestamp_floor() {
            self.stamp.sent(stamp);
        }
        let status: BTreeMap<Key, PeerStatus> = running
            .served
            .status()
            .into_iter()
            .map(|(key, status)| (Key(key.0), of(&status)))
            .collect();
        self.remember(wanted, &status)?;
        Ok(status)
    }

    fn remember(
        &mut self,
        wanted: &WireGuard,
        status: &BTreeMap<Key, PeerStatus>,
    ) -> Result<(), Error> {
        let Some(holder) = &self.holder else {
            return Ok(());
        };
        let heard = wanted.peers.iter().filter_map(|(key, peer)| {
            let at = status.get(key)?.endpoint?;
            (Some(at) != peer.endpoint).then_some((*key, at))
        });
        let mut beside = self.given.clone();
        beside.remove(MEMORY);
        let memory = Memory {
            heard: heard.collect(),
            wanted: wanted.clone(),
            beside,
        };
        if self.remembered.as_ref() != Some(&memory) {
            let written = memory.write().map_err(Error::Held)?;
            holder
                .keep(MEMORY, written.as_fd())
                .map_err(Error::Holder)?;
            self.given.insert(MEMORY.to_owned());
            self.remembered = Some(memory);
        }
        Ok(())
    }
}

impl Device for ProcessDevice {
    fn is_kernel(&self) -> bool {
        false
    }

    fn has_link(&self) -> bool {
        self.running.is_some()
    }

    fn rekey(&mut self, private: PrivateKey) {
        self.keys.private = private;
    }

    fn share(&mut self, preshared: Preshared) {
        self.keys.preshared = preshared;
    }

    /// Timestamps of handshakes are never before those that were sent.
    fn behind(&self) -> u64 {
        0
    }

    fn keep(&mut self, wanted: &WireGuard, _now: u64) -> Result<BTreeMap<Key, PeerStatus>, Error> {
        let kept = self.make(wanted);
        // Of what could not be made whole nothing stays.
        if kept.is_err() && self.running.is_none() {
            self.end();
        }
        kept
    }
}

fn lanes() -> usize {
    available_parallelism().map_or(1, |processors| (processors.get() / 2).clamp(1, MOST_LANES))
}

fn bind(wanted: &WireGuard) -> Result<Sockets, Error> {
    let mark = Some(wanted.mark).filter(|mark| *mark != 0);
    Ok(Sockets::bind(wanted.port, mark, lanes())?)
}

fn mtu(wanted: &WireGuard) -> u16 {
    u16::try_from(wanted.mtu).unwrap_or(u16::MAX)
}

fn of(status: &strait_wg::PeerStatus) -> PeerStatus {
    let seconds = |at: SystemTime| Some(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs());
    PeerStatus {
        endpoint: status.endpoint,
        handshake: status.last_handshake.and_then(seconds),
        received: status.rx_bytes,
        sent: status.tx_bytes,
    }
}
