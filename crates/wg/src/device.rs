//! The device as its owner sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use crate::config::Timestamp;
use crate::control::Control;
use crate::door::Door;
use crate::shared::{Dropped, Drops, Event, Shared};
use crate::{Config, Error, Options, PublicKey, Sockets, Tun, inbound, outbound};

/// How it stands with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// Where it was last heard, or where it was configured to be.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was complete.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of datagrams that came from it.
    pub rx_bytes: u64,
    /// Bytes of datagrams that went to it.
    pub tx_bytes: u64,
}

/// A WireGuard device that runs in this process. Dropping it ends its threads and closes its descriptors.
pub struct Device {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Its end tells the threads to end.
    stopper: Option<UnixStream>,
    door: Option<Door>,
}

impl Device {
    /// Starts threads between a TUN device and sockets: one for each queue, one for each socket of a family, and one for
    /// handshakes. They run in whatever namespace: the descriptors know theirs.
    ///
    /// # Errors
    /// [`Error::Thread`], [`Error::Random`].
    pub fn start(tun: Tun, sockets: Sockets, options: Options) -> Result<Self, Error> {
        let (events, told) = mpsc::channel();
        let (stop, stopper) = UnixStream::pair().map_err(Error::Thread)?;
        let shared = Arc::new(Shared {
            start: Instant::now(),
            options,
            mtu: AtomicU16::new(options.mtu),
            config: Mutex::default(),
            tun,
            sockets,
            peers: RwLock::default(),
            routes: RwLock::default(),
            sources: RwLock::default(),
            sessions: RwLock::default(),
            codes: RwLock::default(),
            stamp: Mutex::new(options.timestamp_floor),
            generation: AtomicU64::new(0),
            events,
            waiting: AtomicUsize::new(0),
            offload: AtomicBool::new(true),
            drops: Drops::default(),
            stopping: AtomicBool::new(false),
            stop,
        });
        let mut device = Self {
            shared: shared.clone(),
            threads: Vec::new(),
            stopper: Some(stopper),
            door: None,
        };
        let (ready, made) = mpsc::channel();
        let own = shared.clone();
        device.spawn("wg-control", move || match Control::new(&own) {
            Ok(mut control) => {
                let _ = ready.send(Ok(()));
                control.run(&told);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        })?;
        made.recv().map_err(|_| Error::Stopped)??;
        for queue in 0..shared.tun.queues() {
            let own = shared.clone();
            device.spawn("wg-out", move || outbound::run(&own, queue))?;
        }
        for lane in 0..shared.sockets.lanes() {
            let own = shared.clone();
            device.spawn("wg-in", move || inbound::run(&own, lane))?;
        }
        Ok(device)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        self.threads.push(thread.map_err(Error::Thread)?);
        Ok(())
    }

    /// Makes the device be like this; what stays as it is goes on undisturbed. A peer with a new endpoint and no session is
    /// handshaken with at once. With a new key of ours, sessions are kept and all peers are handshaken with; for as long as a
    /// session may last, peers may begin handshakes with the old key.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn configure(&self, config: Config) -> Result<(), Error> {
        let (answer, done) = mpsc::channel();
        self.shared.tell(Event::Configure(Box::new(config), answer));
        done.recv().map_err(|_| Error::Stopped)?
    }

    /// How it stands with each peer.
    #[must_use]
    pub fn status(&self) -> BTreeMap<PublicKey, PeerStatus> {
        status(&self.shared)
    }

    /// Lets `wg` look at the device, and change it, under this name (`/var/run/wireguard/NAME.sock`, for root only). The port and
    /// the mark can't be changed there, and the owner's next configuration undoes what was. Once; it ends with the device.
    ///
    /// # Errors
    /// [`Error::Control`], for instance when another device has that name.
    pub fn open_door(&mut self, name: &str) -> Result<(), Error> {
        if self.door.is_none() {
            self.door = Some(Door::open(name, &self.shared)?);
        }
        Ok(())
    }

    /// Whether the TUN device is still there, under this name.
    #[must_use]
    pub fn is_attached(&self, name: &str) -> bool {
        self.shared.tun.is_attached(name)
    }

    /// The descriptors of the TUN device: with copies of them another device can take its place.
    #[must_use]
    pub fn tun_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.shared.tun.as_fds()
    }

    /// Tells the largest packet inside, bytes, when it has changed: padding makes none longer than that.
    pub fn set_mtu(&self, mtu: u16) {
        self.shared.mtu.store(mtu, Ordering::Relaxed);
    }

    /// What went nowhere, and why.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.shared.drops.read()
    }

    /// The timestamp of the last handshake that was begun. Give it to the next device with this key
    /// ([`Options::timestamp_floor`]), so that its handshakes are taken even if the clock was stepped back.
    #[must_use]
    pub fn timestamp_floor(&self) -> Option<Timestamp> {
        *self
            .shared
            .stamp
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.stopper.take();
        self.shared.tell(Event::Stop);
        self.door.take();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // Peers and sessions hold each other.
        let mut peers = self
            .shared
            .peers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for peer in std::mem::take(&mut *peers).into_values() {
            *peer.slots.write().unwrap_or_else(PoisonError::into_inner) = Default::default();
        }
    }
}

pub(crate) fn status(shared: &Shared) -> BTreeMap<PublicKey, PeerStatus> {
    let peers = shared.peers.read().unwrap_or_else(PoisonError::into_inner);
    let status = peers.iter().map(|(key, peer)| {
        let status = PeerStatus {
            endpoint: peer.endpoint(),
            last_handshake: peer.last_handshake(),
            rx_bytes: peer.received.load(Ordering::Relaxed),
            tx_bytes: peer.sent.load(Ordering::Relaxed),
        };
        (*key, status)
    });
    status.collect()
}
