//! What two peers have after a handshake: a key for each direction, and counters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::Error;
use crate::message::{self, DATA_HEADER, TAG};
use crate::noise::Keys;
use crate::peer::Peer;
use crate::replay::Window;

/// Packets after which who began the session begins another, and after which it is not used any more.
const REKEY_AFTER: u64 = 1 << 60;
const REJECT_AFTER: u64 = u64::MAX - (1 << 13);

/// Keys of one handshake. All threads use it at the same time.
pub(crate) struct Session {
    pub(crate) peer: Arc<Peer>,
    /// Our number for it, in what we receive.
    pub(crate) index: u32,
    /// The peer's.
    pub(crate) remote: u32,
    /// Which of our keys it was made with, counted from the first.
    pub(crate) generation: u64,
    /// We began it.
    pub(crate) initiator: bool,
    /// When, since the device started.
    pub(crate) since: Duration,
    /// The peer has shown that it has the keys.
    pub(crate) confirmed: AtomicBool,
    /// A new one was asked for because this one is old.
    pub(crate) renewed: AtomicBool,
    /// It was taken out of use.
    pub(crate) closed: AtomicBool,
    send: LessSafeKey,
    receive: LessSafeKey,
    counter: AtomicU64,
    window: Mutex<Window>,
}

/// Why a packet was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Changed on its way, or made by somebody else.
    Forged,
    /// It was there before, or is too old to tell.
    Replayed,
}

impl Session {
    pub(crate) fn new(
        peer: Arc<Peer>,
        keys: &Keys,
        (index, remote): (u32, u32),
        generation: u64,
        initiator: bool,
        since: Duration,
    ) -> Result<Self, Error> {
        let key = |bytes: &[u8; 32]| {
            let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).map_err(|_| snow::Error::Input)?;
            Ok::<_, Error>(LessSafeKey::new(key))
        };
        Ok(Self {
            peer,
            index,
            remote,
            generation,
            initiator,
            since,
            confirmed: AtomicBool::new(initiator),
            renewed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            send: key(&keys.send)?,
            receive: key(&keys.receive)?,
            counter: AtomicU64::new(0),
            window: Mutex::new(Window::new()),
        })
    }

    /// Seals one packet in place: `datagram` has room for the header, then `length` bytes of plaintext, then room for the
    /// tag. `false`: the counter is used up.
    pub(crate) fn seal(&self, datagram: &mut [u8]) -> bool {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER {
            self.counter.store(REJECT_AFTER, Ordering::Relaxed);
            return false;
        }
        let Some((header, rest)) = datagram.split_first_chunk_mut::<DATA_HEADER>() else {
            return false;
        };
        let Some((body, tag)) = rest.split_last_chunk_mut::<TAG>() else {
            return false;
        };
        *header = message::data_header(self.remote, counter);
        let sealed = self
            .send
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), body);
        let Ok(made) = sealed else { return false };
        tag.copy_from_slice(made.as_ref());
        true
    }

    /// Opens one packet in place. Gives the plaintext's length; it begins after the header.
    pub(crate) fn open(&self, counter: u64, datagram: &mut [u8]) -> Result<usize, Refused> {
        let body = datagram.get_mut(DATA_HEADER..).unwrap_or_default();
        if counter >= REJECT_AFTER {
            return Err(Refused::Replayed);
        }
        let opened = self
            .receive
            .open_in_place(nonce(counter), Aad::empty(), body);
        let length = opened.map_err(|_| Refused::Forged)?.len();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.take(counter) {
            Ok(length)
        } else {
            Err(Refused::Replayed)
        }
    }

    /// Whether it may still be used at `now`.
    pub(crate) fn usable(&self, now: Duration, reject_after: Duration) -> bool {
        now.saturating_sub(self.since) < reject_after
            && !self.closed.load(Ordering::Relaxed)
            && self.counter.load(Ordering::Relaxed) < REJECT_AFTER
    }

    /// Whether we, who send by it, should begin another.
    pub(crate) fn old(&self, now: Duration, rekey_after: Duration) -> bool {
        self.counter.load(Ordering::Relaxed) > REKEY_AFTER
            || (self.initiator && now.saturating_sub(self.since) >= rekey_after)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
