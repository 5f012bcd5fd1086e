//! What all threads of a device share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::allowed::Allowed;
use crate::burst::Burst;
use crate::config::Timestamp;
use crate::cookie::Codes;
use crate::peer::Peer;
use crate::session::Session;
use crate::timers::Timers;
use crate::{Config, Error, Options, PublicKey, Sockets, Tun};

/// What the control thread is told.
pub(crate) enum Event {
    /// A message of a handshake whose first code is right, or a cookie reply.
    Handshake { message: Vec<u8>, from: SocketAddr },
    /// A peer needs a new session.
    Initiate(Arc<Peer>),
    /// Look at a peer's timers at this time.
    Schedule(Arc<Peer>, Duration),
    /// Be like this from now on.
    Configure(Box<Config>, Sender<Result<(), Error>>),
    /// End.
    Stop,
}

pub(crate) struct Shared {
    pub(crate) start: Instant,
    pub(crate) options: Options,
    /// The largest packet inside, bytes.
    pub(crate) mtu: AtomicU16,
    /// The last configuration.
    pub(crate) config: Mutex<Option<Config>>,
    pub(crate) tun: Tun,
    pub(crate) sockets: Sockets,
    pub(crate) peers: RwLock<BTreeMap<PublicKey, Arc<Peer>>>,
    /// To whom a destination is sent.
    pub(crate) routes: RwLock<Arc<Allowed<Arc<Peer>>>>,
    /// From whom a source is taken.
    pub(crate) sources: RwLock<Arc<Allowed<Arc<Peer>>>>,
    pub(crate) sessions: RwLock<BTreeMap<u32, Arc<Session>>>,
    /// Of the keys that we answer to.
    pub(crate) codes: RwLock<Arc<Vec<Codes>>>,
    pub(crate) stamp: Mutex<Option<Timestamp>>,
    /// Which of our keys is the one now, counted from the first.
    pub(crate) generation: AtomicU64,
    pub(crate) events: Sender<Event>,
    /// Messages of handshakes that wait for the control thread.
    pub(crate) waiting: AtomicUsize,
    /// The sockets take many datagrams in one call.
    pub(crate) offload: AtomicBool,
    pub(crate) drops: Drops,
    pub(crate) stopping: AtomicBool,
    /// Can be read once the device is stopping: the other end is closed then.
    pub(crate) stop: UnixStream,
}

macro_rules! drops {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Packets that went nowhere, by reason.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Dropped { $($(#[$doc])* pub $name: u64,)* }

        /// The same, counted by all threads.
        #[derive(Default)]
        pub(crate) struct Drops { $(pub(crate) $name: AtomicU64,)* }

        impl Drops {
            pub(crate) fn read(&self) -> Dropped {
                Dropped { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

drops! {
    /// Datagrams of no known kind or length, handshakes for another key, packets inside that are no IP.
    malformed,
    /// Datagrams for no session that there is.
    unknown,
    /// Datagrams that were not made by the peer.
    forged,
    /// Datagrams that had been there before, or came too late to tell.
    replayed,
    /// Packets from an address that is not the peer's.
    not_allowed,
    /// Packets to an address that is no peer's.
    unroutable,
    /// Packets that waited in vain for a handshake.
    unanswered,
    /// Handshakes that came faster than they can be answered, or whose sender was asked to prove its address.
    deferred,
    /// Datagrams and packets that the kernel did not take.
    refused,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    /// The time since the device started.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn tell(&self, event: Event) {
        // Nobody listens when the device is stopping.
        let _ = self.events.send(event);
    }

    /// Lets something happen to a peer's timers, and sees to it that they are looked at when they are due.
    pub(crate) fn tick(&self, peer: &Arc<Peer>, happened: impl FnOnce(&mut Timers)) {
        let mut clock = peer.clock.lock().unwrap_or_else(PoisonError::into_inner);
        happened(&mut clock.timers);
        let Some(next) = clock.timers.next() else {
            return;
        };
        if clock.scheduled.is_none_or(|scheduled| next < scheduled) {
            clock.scheduled = Some(next);
            self.tell(Event::Schedule(peer.clone(), next));
        }
    }

    /// Asks for a handshake, unless that was done already.
    pub(crate) fn ask(&self, peer: &Arc<Peer>) {
        if !peer.asked.swap(true, Ordering::Relaxed) {
            self.tell(Event::Initiate(peer.clone()));
        }
    }

    pub(crate) fn routes(&self) -> Arc<Allowed<Arc<Peer>>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.clone()
    }

    pub(crate) fn sources(&self) -> Arc<Allowed<Arc<Peer>>> {
        let sources = self.sources.read();
        sources.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn session(&self, index: u32) -> Option<Arc<Session>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(&index);
        let reject_after = self.options.timing.reject_after;
        session
            .filter(|session| session.usable(self.now(), reject_after))
            .cloned()
    }

    pub(crate) fn forget(&self, session: Option<Arc<Session>>) {
        if let Some(session) = session {
            session.closed.store(true, Ordering::Relaxed);
            let mut sessions = self
                .sessions
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            sessions.remove(&session.index);
        }
    }

    /// The session to send by, given those that a destination belongs to.
    pub(crate) fn choose<'a>(
        &self,
        peers: &'a [Arc<Peer>],
        now: Duration,
    ) -> Option<(&'a Arc<Peer>, Option<Arc<Session>>)> {
        let reject_after = self.options.timing.reject_after;
        if let [peer] = peers {
            return Some((peer, peer.current(now, reject_after)));
        }
        let all = peers
            .iter()
            .map(|peer| (peer, peer.current(now, reject_after)));
        all.max_by_key(|(_, session)| session.as_ref().map(|session| session.since))
    }

    /// Sends by this session from now on; first what waited for it, so that nothing overtakes. Says whether anything did.
    pub(crate) fn activate(&self, session: &Arc<Session>, burst: &mut Burst<'_>) -> bool {
        let peer = &session.peer;
        let mut staged = peer.staged();
        {
            let slots = peer.slots.read().unwrap_or_else(PoisonError::into_inner);
            let current = slots.current.as_ref();
            if current.is_some_and(|current| current.index == session.index) {
                return false;
            }
            // The peer will forget our old key: what comes by a session of it is taken, and nothing is sent by it.
            let reject_after = self.options.timing.reject_after;
            let usable = |current: &Arc<Session>| current.usable(self.now(), reject_after);
            if current
                .is_some_and(|current| current.generation > session.generation && usable(current))
            {
                return false;
            }
        }
        let frames = staged.take();
        let waited = !frames.is_empty();
        for frame in frames {
            burst.frame(session, &frame);
        }
        burst.flush();
        let mut slots = peer.slots.write().unwrap_or_else(PoisonError::into_inner);
        let current = slots.current.replace(session.clone());
        let oldest = std::mem::replace(&mut slots.previous, current);
        slots.next.take_if(|next| next.index == session.index);
        drop(slots);
        drop(staged);
        self.forget(oldest);
        peer.handshaken(SystemTime::now());
        waited
    }

    /// Waits until one of these can be read. `false`: the device is stopping.
    pub(crate) fn wait<'a>(
        &'a self,
        readable: impl Iterator<Item = std::os::fd::BorrowedFd<'a>>,
    ) -> bool {
        let mut all: Vec<_> = readable
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        all.push(PollFd::new(self.stop.as_fd(), PollFlags::POLLIN));
        // An error (a signal) is a reason to look.
        let _ = poll(&mut all, PollTimeout::NONE);
        !self.stopping.load(Ordering::Relaxed)
    }
}
