//! The codes that end a handshake's messages: one proves that the sender knows whom it speaks to, the other, asked for under
//! load, that it receives at its address (WireGuard's paper, section 5.4.4 and 5.4.7).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use crate::message::{self, COOKIE_REPLY, MAC};
use crate::{Error, PublicKey, random};

/// How long a cookie is good for.
pub(crate) const LIFE: Duration = Duration::from_secs(120);

type Code = [u8; MAC];

/// Writes and checks the codes of messages *to* a holder of a key.
#[derive(Clone)]
pub(crate) struct Codes {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl Codes {
    pub(crate) fn of(receiver: &PublicKey) -> Self {
        let key = |label: &[u8]| {
            let hash = <Blake2s256 as Digest>::new();
            Digest::chain_update(Digest::chain_update(hash, label), receiver.0)
                .finalize()
                .into()
        };
        Self {
            mac1: key(b"mac1----"),
            cookie: key(b"cookie--"),
        }
    }

    /// Whether the message was made by someone who knows the receiver's public key.
    pub(crate) fn holds(&self, message: &[u8]) -> bool {
        let Some((body, codes)) = message.split_last_chunk::<{ 2 * MAC }>() else {
            return false;
        };
        code(&self.mac1, &[body]).is_some_and(|code| same(&code, &codes[..MAC]))
    }

    /// Whether the sender has the cookie of its address.
    pub(crate) fn proves(&self, message: &[u8], cookie: &Code) -> bool {
        let Some((body, mac2)) = message.split_last_chunk::<MAC>() else {
            return false;
        };
        code(cookie, &[body]).is_some_and(|code| same(&code, mac2))
    }

    /// Ends a message with its codes. Gives the first, by which a cookie reply is opened.
    pub(crate) fn end(&self, message: &mut [u8], cookie: Option<&Code>) -> Code {
        let length = message.len();
        let (one, two) = (length - 2 * MAC, length - MAC);
        let mac1 = code(&self.mac1, &[&message[..one]]).unwrap_or_default();
        message[one..two].copy_from_slice(&mac1);
        if let Some(cookie) = cookie {
            let mac2 = code(cookie, &[&message[..two]]).unwrap_or_default();
            message[two..].copy_from_slice(&mac2);
        }
        mac1
    }

    /// A reply that asks the sender of `message` to try again with this cookie.
    pub(crate) fn reply(&self, message: &[u8], cookie: &Code) -> Result<[u8; COOKIE_REPLY], Error> {
        let sender = message::word(message, 4).unwrap_or_default();
        let mac1 = message
            .len()
            .checked_sub(2 * MAC)
            .map(|at| &message[at..at + MAC]);
        let nonce = random::bytes::<24>()?;
        let mut reply = message::cookie_reply(sender);
        reply[8..32].copy_from_slice(&nonce);
        let (sealed, tag) = reply[32..].split_at_mut(MAC);
        sealed.copy_from_slice(cookie);
        let made = XChaCha20Poly1305::new(&self.cookie.into())
            .encrypt_in_place_detached(XNonce::from_slice(&nonce), mac1.unwrap_or_default(), sealed)
            .map_err(|_| snow::Error::Input)?;
        tag.copy_from_slice(&made);
        Ok(reply)
    }

    /// The cookie in a reply to the message that had this code.
    pub(crate) fn open(&self, reply: &[u8; COOKIE_REPLY], mac1: &Code) -> Option<Code> {
        let nonce = XNonce::from_slice(&reply[8..32]);
        let mut cookie: Code = *reply[32..].first_chunk()?;
        let tag = Tag::from_slice(&reply[32 + MAC..]);
        XChaCha20Poly1305::new(&self.cookie.into())
            .decrypt_in_place_detached(nonce, mac1, &mut cookie, tag)
            .ok()?;
        Some(cookie)
    }
}

/// Makes the cookies that we give out: a code over the address, under a secret that changes.
pub(crate) struct Baker {
    secret: [u8; 32],
    since: Duration,
}

impl Baker {
    pub(crate) fn new(now: Duration) -> Result<Self, Error> {
        Ok(Self {
            secret: random::bytes()?,
            since: now,
        })
    }

    pub(crate) fn cookie(&mut self, of: SocketAddr, now: Duration) -> Result<Code, Error> {
        if now.saturating_sub(self.since) >= LIFE {
            *self = Self::new(now)?;
        }
        let port = of.port().to_be_bytes();
        let code = match of.ip() {
            IpAddr::V4(address) => code(&self.secret, &[&address.octets(), &port]),
            IpAddr::V6(address) => code(&self.secret, &[&address.octets(), &port]),
        };
        code.ok_or(Error::Handshake(snow::Error::Input))
    }
}

fn code(key: &[u8], parts: &[&[u8]]) -> Option<Code> {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).ok()?;
    parts.iter().for_each(|part| Update::update(&mut mac, part));
    Some(mac.finalize_fixed().into())
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_the_reply_can_prove_its_address_and_nobody_else_can() {
        let (ours, other) = (
            Codes::of(&PublicKey([1; 32])),
            Codes::of(&PublicKey([2; 32])),
        );
        let mut baker = Baker::new(Duration::ZERO).unwrap();
        let from: SocketAddr = "192.0.2.1:51820".parse().unwrap();
        let elsewhere: SocketAddr = "192.0.2.1:51821".parse().unwrap();
        let cookie = baker.cookie(from, Duration::ZERO).unwrap();
        let mut message = crate::message::initiation(7);
        let mac1 = ours.end(&mut message, None);
        assert!(ours.holds(&message) && !other.holds(&message));
        assert!(!ours.proves(&message, &cookie));
        let reply = ours.reply(&message, &cookie).unwrap();
        assert_eq!(crate::message::word(&reply, 4), Some(7));
        assert_eq!(other.open(&reply, &mac1), None);
        assert_eq!(ours.open(&reply, &[0; MAC]), None);
        let opened = ours.open(&reply, &mac1);
        assert_eq!(opened, Some(cookie));
        ours.end(&mut message, opened.as_ref());
        assert!(ours.holds(&message) && ours.proves(&message, &cookie));
        assert!(!ours.proves(&message, &baker.cookie(elsewhere, Duration::ZERO).unwrap()));
        assert!(!ours.proves(&message, &baker.cookie(from, LIFE).unwrap()));
    }
}
