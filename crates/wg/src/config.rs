//! What a device is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::{PresharedKey, PrivateKey, PublicKey};

/// Who we are, and with whom we speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our identity.
    pub private_key: PrivateKey,
    /// Everyone that we speak with.
    pub peers: BTreeMap<PublicKey, PeerConfig>,
}

/// One peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// A secret shared beyond the keys.
    pub preshared: Option<PresharedKey>,
    /// Where to send, until the peer is heard from elsewhere. `None`: it must speak first.
    pub endpoint: Option<SocketAddr>,
    /// What may come from the peer and goes to it; of either family. None at all: the tunnel is kept ready, and nothing
    /// goes through it. Peers may have a prefix in common: either may send from it, and what goes there goes to the one
    /// whose session is the newest (a peer that changes its key is two peers for a while).
    pub allowed: BTreeSet<IpNet>,
    /// What may come from the peer beside that, and does not go to it.
    pub accepted: BTreeSet<IpNet>,
    /// Seconds after which something is sent when nothing else was.
    pub keepalive: Option<u16>,
}

/// What a device needs to know once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The largest packet inside, bytes.
    pub mtu: u16,
    /// The greatest timestamp that was sent in a handshake before ([`Device::timestamp_floor`](crate::Device::timestamp_floor)).
    /// Peers refuse one that is not greater: so later ones are, even if the clock was stepped back.
    pub timestamp_floor: Option<Timestamp>,
    /// The protocol's intervals.
    pub timing: Timing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1420,
            timestamp_floor: None,
            timing: Timing::default(),
        }
    }
}

/// TAI64N, as it stands in a handshake: 8 bytes of seconds, 4 of nanoseconds, big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub [u8; 12]);

impl Timestamp {
    /// One of this time that is greater than `floor`. Nanoseconds are cut to 2^24, as the kernel does, so as not to tell
    /// more about the clock than is needed.
    #[must_use]
    pub fn after(now: SystemTime, floor: Option<Self>) -> Self {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let seconds = 0x4000_0000_0000_000a_u64.saturating_add(now.as_secs());
        let made = Self::of(seconds, now.subsec_nanos() & !0xff_ffff);
        match floor {
            Some(floor) if made <= floor => floor.next(),
            Some(_) | None => made,
        }
    }

    fn of(seconds: u64, nanoseconds: u32) -> Self {
        let mut bytes = [0; 12];
        let (high, low) = bytes.split_at_mut(8);
        high.copy_from_slice(&seconds.to_be_bytes());
        low.copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }

    fn next(self) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.0;
        let seconds = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let nanoseconds = u32::from_be_bytes([i, j, k, l]);
        match nanoseconds.checked_add(0x100_0000) {
            Some(more) if more < 1_000_000_000 => Self::of(seconds, more),
            Some(_) | None => Self::of(seconds.saturating_add(1), 0),
        }
    }
}

/// Intervals of the protocol (WireGuard's paper, section 6.1). Others than the default are for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Age of a session after which who began it begins another.
    pub rekey_after: Duration,
    /// Age after which it is not used any more.
    pub reject_after: Duration,
    /// How long a handshake is tried.
    pub attempt: Duration,
    /// How long an answer is waited for.
    pub rekey_timeout: Duration,
    /// How long one may receive without sending.
    pub keepalive_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            rekey_after: Duration::from_secs(120),
            reject_after: Duration::from_secs(180),
            attempt: Duration::from_secs(90),
            rekey_timeout: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_stepped_back_gives_a_greater_timestamp_all_the_same() {
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let mut last = Timestamp::after(late, None);
        assert_eq!(&last.0[..8], &0x4000_0000_7735_940a_u64.to_be_bytes());
        for _ in 0..200 {
            let next = Timestamp::after(early, Some(last));
            assert!(next > last);
            last = next;
        }
        assert!(Timestamp::after(late + Duration::from_secs(60), Some(last)) > last);
    }
}
