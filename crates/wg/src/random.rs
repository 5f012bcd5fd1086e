//! Randomness, from the kernel by way of ring.

use ring::rand::{SecureRandom, SystemRandom};

use crate::Error;

pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Random)?;
    Ok(bytes)
}

pub(crate) fn number() -> Result<u32, Error> {
    bytes().map(u32::from_ne_bytes)
}
