//! The four messages of the protocol (WireGuard's paper, section 5.4). All numbers are little endian.

/// Length of a message that begins a handshake, bytes.
pub(crate) const INITIATION: usize = 148;
/// Length of its answer.
pub(crate) const RESPONSE: usize = 92;
/// Length of a reply that asks to prove one's address first.
pub(crate) const COOKIE_REPLY: usize = 64;
/// What stands before the ciphertext of a packet.
pub(crate) const DATA_HEADER: usize = 16;
/// What Poly1305 adds.
pub(crate) const TAG: usize = 16;
/// Length of each of the two codes that end the messages of a handshake.
pub(crate) const MAC: usize = 16;

const KIND_INITIATION: u32 = 1;
const KIND_RESPONSE: u32 = 2;
const KIND_COOKIE_REPLY: u32 = 3;
const KIND_DATA: u32 = 4;

/// A datagram of the right length and kind. Nothing in it is to be believed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Initiation(&'a [u8; INITIATION]),
    Response(&'a [u8; RESPONSE]),
    CookieReply(&'a [u8; COOKIE_REPLY]),
    Data { index: u32, counter: u64 },
}

impl<'a> Message<'a> {
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        match word(datagram, 0)? {
            KIND_INITIATION => datagram.try_into().ok().map(Self::Initiation),
            KIND_RESPONSE => datagram.try_into().ok().map(Self::Response),
            KIND_COOKIE_REPLY => datagram.try_into().ok().map(Self::CookieReply),
            KIND_DATA if datagram.len() >= DATA_HEADER + TAG => {
                let index = word(datagram, 4)?;
                let low = word(datagram, 8)?;
                let high = word(datagram, 12)?;
                let counter = u64::from(high) << 32 | u64::from(low);
                Some(Self::Data { index, counter })
            }
            _ => None,
        }
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

/// The header of a packet.
pub(crate) fn data_header(index: u32, counter: u64) -> [u8; DATA_HEADER] {
    let mut header = [0; DATA_HEADER];
    header[..4].copy_from_slice(&KIND_DATA.to_le_bytes());
    header[4..8].copy_from_slice(&index.to_le_bytes());
    header[8..].copy_from_slice(&counter.to_le_bytes());
    header
}

/// An initiation but for its codes: what Noise made of it goes to `8..116`.
pub(crate) fn initiation(sender: u32) -> [u8; INITIATION] {
    let mut message = [0; INITIATION];
    message[..4].copy_from_slice(&KIND_INITIATION.to_le_bytes());
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message
}

/// An answer but for its codes: what Noise made of it goes to `12..60`.
pub(crate) fn response(sender: u32, receiver: u32) -> [u8; RESPONSE] {
    let mut message = [0; RESPONSE];
    message[..4].copy_from_slice(&KIND_RESPONSE.to_le_bytes());
    message[4..8].copy_from_slice(&sender.to_le_bytes());
    message[8..12].copy_from_slice(&receiver.to_le_bytes());
    message
}

/// A cookie reply but for the nonce, at `8..32`, and the sealed cookie, at `32..64`.
pub(crate) fn cookie_reply(receiver: u32) -> [u8; COOKIE_REPLY] {
    let mut message = [0; COOKIE_REPLY];
    message[..4].copy_from_slice(&KIND_COOKIE_REPLY.to_le_bytes());
    message[4..8].copy_from_slice(&receiver.to_le_bytes());
    message
}
