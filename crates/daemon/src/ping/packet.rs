//! ICMP echo messages (RFC 792, RFC 4443), and which of what arrives is a reply to one of ours.

use std::hash::{BuildHasher, Hasher, RandomState};

use strait_core::health::Ping;
use strait_host::Family;

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Type, code, checksum, identifier, sequence number.
pub(super) const HEADER: usize = 8;
/// Nonce, token, and as many zeros as give the 24 bytes that upstream's pings carry.
pub(super) const LENGTH: usize = HEADER + 24;
/// The protocol number in an IPv4 header.
const ICMP: u8 = 1;

/// A number that nobody can guess: who does not see our pings can't make up replies.
pub(super) fn nonce() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// An echo request. The kernel replaces the identifier on datagram sockets, and fills in the checksum of ICMPv6.
pub(super) fn request(family: Family, ping: &Ping, nonce: u64) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = match family {
        Family::V4 => ECHO_REQUEST_V4,
        Family::V6 => ECHO_REQUEST_V6,
    };
    packet[4..6].copy_from_slice(&nonce.to_be_bytes()[..2]);
    packet[6..8].copy_from_slice(&ping.sequence().to_be_bytes());
    packet[8..16].copy_from_slice(&nonce.to_be_bytes());
    packet[16..24].copy_from_slice(&ping.token.to_be_bytes());
    if family == Family::V4 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The token of an echo reply to one of our requests; `None` for all else. `headed` says that an IPv4 header stands in front.
///
/// The kernel has checked the checksum on datagram sockets and for ICMPv6; on a raw IPv4 socket a damaged
/// packet must still have the nonce.
pub(super) fn reply(family: Family, headed: bool, bytes: &[u8], nonce: u64) -> Option<u64> {
    let message = if headed { body(bytes)? } else { bytes };
    let number = |at: usize| {
        Some(u64::from_be_bytes(
            message.get(at..at + 8)?.try_into().ok()?,
        ))
    };
    let ours = message.first() == Some(&reply_type(family))
        && message.get(1) == Some(&0)
        && number(HEADER) == Some(nonce);
    number(HEADER + 8).filter(|_| ours)
}

/// The type of an echo reply.
pub(super) const fn reply_type(family: Family) -> u8 {
    match family {
        Family::V4 => ECHO_REPLY_V4,
        Family::V6 => ECHO_REPLY_V6,
    }
}

/// What follows an IPv4 header.
fn body(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let length = usize::from(first & 0x0f) * 4;
    let icmp = packet.get(9) == Some(&ICMP);
    packet
        .get(length..)
        .filter(|_| first >> 4 == 4 && length >= 20 && icmp)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !((sum & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const NONCE: u64 = 0x0102_0304_0506_0708;

    fn ping(token: u64) -> Ping {
        Ping {
            to: Ipv4Addr::LOCALHOST.into(),
            from: None,
            token,
        }
    }

    /// What a host makes of a request.
    fn answered(family: Family, token: u64) -> Vec<u8> {
        let mut packet = request(family, &ping(token), NONCE).to_vec();
        packet[0] = reply_type(family);
        packet
    }

    fn with_header(message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x46; 24];
        packet[9] = ICMP;
        packet.extend(message);
        packet
    }

    #[test]
    fn a_request_is_what_rfc_792_says() {
        let packet = request(Family::V4, &ping(7 << 32 | 0x0001_fffe), NONCE);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(packet[6..8], [0xff, 0xfe], "the sequence number wraps");
        assert_eq!(packet.len(), 8 + 24);
        // The sum over all words, the checksum's included, is all ones.
        assert_eq!(checksum(&packet), 0);
        assert_eq!(request(Family::V6, &ping(1), NONCE)[..2], [128, 0]);
    }

    #[test]
    fn a_reply_gives_the_token_of_its_request() {
        for family in Family::ALL {
            let packet = answered(family, 0xdead_beef_0000_0001);
            assert_eq!(
                reply(family, false, &packet, NONCE),
                Some(0xdead_beef_0000_0001)
            );
        }
        let packet = with_header(&answered(Family::V4, 5));
        assert_eq!(reply(Family::V4, true, &packet, NONCE), Some(5));
    }

    #[test]
    fn what_is_no_reply_to_us_is_nothing() {
        let good = answered(Family::V4, 5);
        assert_eq!(
            reply(Family::V4, false, &good, NONCE ^ 1),
            None,
            "another's"
        );
        assert_eq!(
            reply(Family::V6, false, &good, NONCE),
            None,
            "another family's"
        );
        let own = request(Family::V4, &ping(5), NONCE);
        assert_eq!(
            reply(Family::V4, false, &own, NONCE),
            None,
            "our own request"
        );
        let mut code = good.clone();
        code[1] = 1;
        assert_eq!(reply(Family::V4, false, &code, NONCE), None, "a code");
        for length in 0..24 {
            assert_eq!(
                reply(Family::V4, false, &good[..length], NONCE),
                None,
                "{length} bytes"
            );
        }
        let headed = with_header(&good);
        for length in 0..headed.len() - 8 {
            assert_eq!(
                reply(Family::V4, true, &headed[..length], NONCE),
                None,
                "{length} bytes"
            );
        }
        for (at, value) in [(0, 0x66), (0, 0x44), (0, 0x4f), (9, 17)] {
            let mut bad = headed.clone();
            bad[at] = value;
            assert_eq!(
                reply(Family::V4, true, &bad, NONCE),
                None,
                "byte {at} is {value:#x}"
            );
        }
    }

    #[test]
    fn no_two_processes_have_one_nonce() {
        assert_ne!(nonce(), nonce());
    }

    #[test]
    fn no_packet_makes_the_parser_panic_and_only_what_carries_the_nonce_is_a_reply() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/icmp");
        strait_fuzz::fuzz(corpus, 20_000, |bytes| {
            for family in Family::ALL {
                for headed in [false, true] {
                    let Some(token) = reply(family, headed, bytes, NONCE) else {
                        continue;
                    };
                    let carried = [NONCE.to_be_bytes(), token.to_be_bytes()].concat();
                    assert!(bytes.windows(16).any(|part| part == carried));
                }
            }
        });
    }
}
