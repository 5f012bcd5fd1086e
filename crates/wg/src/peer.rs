//! What all threads know about one peer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::PublicKey;
use crate::config::Timing;
use crate::session::Session;
use crate::timers::Timers;

/// Bytes that wait for a handshake; the oldest go first.
const STAGED: usize = 256 << 10;

pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) endpoint: RwLock<Option<SocketAddr>>,
    pub(crate) slots: RwLock<Slots>,
    pub(crate) clock: Mutex<Clock>,
    /// Frames, as they were read from the TUN device.
    pub(crate) staged: Mutex<Staged>,
    /// A handshake was asked for.
    pub(crate) asked: AtomicBool,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// Milliseconds since 1970; 0: none.
    handshake: AtomicU64,
}

/// The sessions of a peer.
#[derive(Default)]
pub(crate) struct Slots {
    pub(crate) previous: Option<Arc<Session>>,
    pub(crate) current: Option<Arc<Session>>,
    /// The peer began it, and has not used it yet: nothing is sent by it.
    pub(crate) next: Option<Arc<Session>>,
}

pub(crate) struct Clock {
    pub(crate) timers: Timers,
    /// When the control thread will look.
    pub(crate) scheduled: Option<Duration>,
}

#[derive(Default)]
pub(crate) struct Staged {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Staged {
    pub(crate) fn push(&mut self, frame: &[u8]) {
        self.bytes += frame.len();
        self.frames.push_back(frame.to_vec());
        while self.bytes > STAGED {
            let oldest = self.frames.pop_front();
            self.bytes -= oldest.map_or(self.bytes, |frame| frame.len());
        }
    }

    pub(crate) fn take(&mut self) -> VecDeque<Vec<u8>> {
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }
}

impl Peer {
    pub(crate) fn new(key: PublicKey, timing: Timing) -> Self {
        Self {
            key,
            endpoint: RwLock::default(),
            slots: RwLock::default(),
            clock: Mutex::new(Clock {
                timers: Timers::new(timing),
                scheduled: None,
            }),
            staged: Mutex::default(),
            asked: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            handshake: AtomicU64::new(0),
        }
    }

    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        *self.endpoint.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was heard from there, for certain: it is answered there from now on.
    pub(crate) fn heard_from(&self, from: SocketAddr) {
        if self.endpoint() != Some(from) {
            self.set_endpoint(Some(from));
        }
    }

    pub(crate) fn set_endpoint(&self, to: Option<SocketAddr>) {
        *self
            .endpoint
            .write()
            .unwrap_or_else(PoisonError::into_inner) = to;
    }

    pub(crate) fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session to send by.
    pub(crate) fn current(&self, now: Duration, reject_after: Duration) -> Option<Arc<Session>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let current = slots.current.as_ref();
        current
            .filter(|session| session.usable(now, reject_after))
            .cloned()
    }

    pub(crate) fn handshaken(&self, now: SystemTime) {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let milliseconds = u64::try_from(since.as_millis()).unwrap_or_default();
        self.handshake.store(milliseconds, Ordering::Relaxed);
    }

    pub(crate) fn last_handshake(&self) -> Option<SystemTime> {
        let at = self.handshake.load(Ordering::Relaxed);
        (at > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(at))
    }
}
