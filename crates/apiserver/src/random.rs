//! Randomness for tokens, UIDs and generated names.

use base64::Engine as _;

use crate::Error;

fn fill<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Error::Random)?;
    Ok(bytes)
}

/// A token of 256 random bits.
pub(crate) fn token() -> Result<String, Error> {
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(fill::<32>()?))
}

/// A random UUID (version 4, RFC 9562).
pub(crate) fn uid() -> Result<String, Error> {
    let mut bytes = fill::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

/// Five letters and digits as Kubernetes appends to `generateName`
/// (`apimachinery/pkg/util/rand`: no vowels, no look-alikes).
pub(crate) fn suffix() -> Result<String, Error> {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    Ok(fill::<5>()?
        .iter()
        .map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]))
        .collect())
}
