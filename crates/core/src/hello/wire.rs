//! Datagrams: sealed with the cluster's secret, opened only if they are.

use ring::{digest, hmac};

use super::Hello;
use crate::Time;
use std::time::Duration;

/// The longest datagram: it fits into the smallest MTU of IPv6.
pub const MAX_DATAGRAM: usize = 1200;

/// How long a replaced key is taken and used: a process that is cut off from the API server does not hear of the new one.
const RETIRE: Duration = Duration::from_secs(600);

/// Begins every datagram; the last byte is the version.
const MAGIC: [u8; 4] = *b"sth\x01";
const KEY_ID: usize = 4;
const MAC: usize = 32;
const HEADER: usize = MAGIC.len() + KEY_ID + MAC;

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// It is none of ours.
    #[error("is no hello")]
    NotHello,
    /// It is of another version.
    #[error("is of another version")]
    Version,
    /// It is sealed with a key that is not known here, or no more.
    #[error("is sealed with an unknown key")]
    UnknownKey,
    /// The seal is not of its content.
    #[error("has a wrong seal")]
    WrongSeal,
    /// Who has the key sealed nonsense.
    #[error("can't be read")]
    Malformed,
    /// It comes from no Node of this cluster.
    #[error("comes from no known Node")]
    UnknownPeer,
    /// It was heard before, or belongs to a session that is over.
    #[error("is old")]
    Old,
    /// It came through a router: its hop limit is too low.
    #[error("comes from too far away")]
    TooFar,
}

/// The cluster's secret, and the one before, while it is replaced.
#[derive(Clone, Default)]
pub struct KeyRing {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: [u8; KEY_ID],
    key: hmac::Key,
    until: Option<Time>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Takes a secret in; one that is there already changes nothing. For 10 min the one before is taken too, and what is sent
    /// is sent with both: some have only the old one yet, and who began since has only the new one.
    pub fn add(&mut self, secret: &[u8], now: Time) {
        let hash = digest::digest(&digest::SHA256, secret);
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&hash.as_ref()[..KEY_ID]);
        if self.keys.last().is_some_and(|k| k.id == id) {
            return;
        }
        self.keys.retain(|k| k.id != id);
        for key in &mut self.keys {
            key.until.get_or_insert(now + RETIRE);
        }
        self.keys.push(Key {
            id,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            until: None,
        });
    }

    /// Whether there is none yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn valid(&self, now: Time) -> impl Iterator<Item = &Key> {
        self.keys
            .iter()
            .filter(move |k| k.until.is_none_or(|until| now < until))
    }

    /// Seals a hello, once with each key; none without a key, or if it is too long.
    pub(super) fn seal(&self, hello: &Hello, now: Time) -> Vec<Vec<u8>> {
        let Ok(content) = serde_json::to_vec(hello) else {
            return Vec::new();
        };
        if HEADER + content.len() > MAX_DATAGRAM {
            return Vec::new();
        }
        let seal = |key: &Key| {
            let tag = hmac::sign(&key.key, &content);
            [&MAGIC[..], &key.id, tag.as_ref(), &content].concat()
        };
        self.valid(now).map(seal).collect()
    }

    /// Opens a datagram.
    ///
    /// # Errors
    /// Why it is not taken.
    pub(super) fn open(&self, bytes: &[u8], now: Time) -> Result<Hello, Refusal> {
        let (header, content) = bytes.split_at_checked(HEADER).ok_or(Refusal::NotHello)?;
        if header[..3] != MAGIC[..3] || bytes.len() > MAX_DATAGRAM {
            return Err(Refusal::NotHello);
        }
        if header[3] != MAGIC[3] {
            return Err(Refusal::Version);
        }
        let (id, tag) = header[MAGIC.len()..].split_at(KEY_ID);
        let key = self
            .valid(now)
            .find(|k| k.id == id)
            .ok_or(Refusal::UnknownKey)?;
        hmac::verify(&key.key, content, tag).map_err(|_| Refusal::WrongSeal)?;
        serde_json::from_slice(content).map_err(|_| Refusal::Malformed)
    }
}

/// A number that others can't guess, from one that is random for this process.
pub(super) fn derived(random: u64, count: u64) -> u64 {
    let mut input = [0; 16];
    input[..8].copy_from_slice(&random.to_be_bytes());
    input[8..].copy_from_slice(&count.to_be_bytes());
    let hash = digest::digest(&digest::SHA256, &input);
    let mut number = [0; 8];
    number.copy_from_slice(&hash.as_ref()[..8]);
    // 0 says "none".
    u64::from_be_bytes(number).max(1)
}
