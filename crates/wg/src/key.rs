//! Keys: 32 bytes, as text in base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Error;

/// Who a peer is: a point on Curve25519.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// Who we are. Wiped from memory when dropped; never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

/// A secret that two peers share beyond their keys. Wiped from memory when dropped; never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PrivateKey {
    /// A new one, of the kernel's randomness.
    ///
    /// # Errors
    /// [`Error::Random`] if the kernel gives none.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = crate::random::bytes::<32>()?;
        let key = Self::from_bytes(bytes);
        bytes.zeroize();
        Ok(key)
    }

    /// As Curve25519 wants it: five bits are set or cleared, as every implementation does.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 0xf8;
        bytes[31] = (bytes[31] & 0x7f) | 0x40;
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The secret itself, to be stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key by which others know the holder of this one.
    ///
    /// # Errors
    /// [`Error::Handshake`] if the library lacks the curve.
    pub fn public(&self) -> Result<PublicKey, Error> {
        let mut curve = DefaultResolver
            .resolve_dh(&DHChoice::Curve25519)
            .ok_or(snow::Error::Dh)?;
        curve.set(&self.0);
        let bytes = curve.pubkey().try_into().map_err(|_| snow::Error::Dh)?;
        Ok(PublicKey(bytes))
    }
}

impl PresharedKey {
    /// Any 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        decode(text).map(Self)
    }
}

impl FromStr for PrivateKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        decode(text).map(Self::from_bytes)
    }
}

impl FromStr for PresharedKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        decode(text).map(Self)
    }
}

fn decode(text: &str) -> Result<[u8; 32], Error> {
    let mut bytes = STANDARD.decode(text).map_err(|_| Error::Key)?;
    let key = bytes.as_slice().try_into().map_err(|_| Error::Key);
    bytes.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let key = PrivateKey::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), "PrivateKey(…)");
        let key = PresharedKey::from_bytes([7; 32]);
        assert_eq!(format!("{key:?}"), "PresharedKey(…)");
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        for text in [
            "",
            "AAAA",
            "not base64 at all",
            &"A".repeat(44),
            &"A".repeat(4000),
        ] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
        let key = PublicKey([9; 32]);
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
    }
}
