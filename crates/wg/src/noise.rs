//! The handshake: Noise_IKpsk2, by the crate `snow`.

use snow::{Builder, HandshakeState};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::config::Timestamp;
use crate::message::{self, INITIATION, RESPONSE};
use crate::{Error, PresharedKey, PrivateKey, PublicKey};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// The preshared key is mixed in after the second message.
const PSK_AT: u8 = 2;

/// The two keys of a session.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Keys {
    pub(crate) send: [u8; 32],
    pub(crate) receive: [u8; 32],
}

/// A handshake that we began.
pub(crate) struct Begun(HandshakeState);

/// A handshake that somebody else began, and that is theirs for certain.
pub(crate) struct Heard {
    state: HandshakeState,
    pub(crate) peer: PublicKey,
    pub(crate) stamp: Timestamp,
    pub(crate) index: u32,
}

/// Begins a handshake. The codes at the end are still missing.
pub(crate) fn begin(
    own: &PrivateKey,
    peer: PublicKey,
    psk: &PresharedKey,
    stamp: Timestamp,
    index: u32,
) -> Result<(Begun, [u8; INITIATION]), Error> {
    let mut state = builder()?
        .local_private_key(own.as_bytes())?
        .remote_public_key(&peer.0)?
        .psk(PSK_AT, psk.as_bytes())?
        .build_initiator()?;
    let mut message = message::initiation(index);
    state.write_message(&stamp.0, &mut message[8..116])?;
    Ok((Begun(state), message))
}

/// Reads who begins a handshake with us.
pub(crate) fn hear(own: &PrivateKey, message: &[u8; INITIATION]) -> Result<Heard, Error> {
    let mut state = builder()?
        .local_private_key(own.as_bytes())?
        .build_responder()?;
    let mut stamp = [0; 12];
    let length = state.read_message(&message[8..116], &mut stamp)?;
    let peer = state
        .get_remote_static()
        .and_then(|key| key.try_into().ok());
    match (peer, message::word(message, 4)) {
        (Some(peer), Some(index)) if length == stamp.len() => Ok(Heard {
            state,
            peer: PublicKey(peer),
            stamp: Timestamp(stamp),
            index,
        }),
        (_, _) => Err(Error::Handshake(snow::Error::Input)),
    }
}

impl Heard {
    /// Answers. The codes at the end are still missing.
    pub(crate) fn answer(
        mut self,
        psk: &PresharedKey,
        index: u32,
    ) -> Result<(Keys, [u8; RESPONSE]), Error> {
        self.state.set_psk(PSK_AT.into(), psk.as_bytes())?;
        let mut message = message::response(index, self.index);
        self.state.write_message(&[], &mut message[12..60])?;
        let (receive, send) = self.state.dangerously_get_raw_split();
        Ok((Keys { send, receive }, message))
    }
}

impl Begun {
    /// Reads an answer. One that is not authentic changes nothing: the right one may still come.
    pub(crate) fn finish(&mut self, message: &[u8; RESPONSE]) -> Result<Keys, Error> {
        self.0.read_message(&message[12..60], &mut [])?;
        let (send, receive) = self.0.dangerously_get_raw_split();
        Ok(Keys { send, receive })
    }
}

fn builder<'a>() -> Result<Builder<'a>, Error> {
    Ok(Builder::new(PATTERN.parse()?).prologue(PROLOGUE)?)
}
