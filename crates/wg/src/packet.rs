//! What is looked at in packets inside the tunnel. They come from peers: nothing in them is taken for granted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The length that the packet's own header gives, if all of it is there.
pub(crate) fn length(packet: &[u8]) -> Option<usize> {
    let (least, length) = match packet.first()? >> 4 {
        4 => (20, half(packet, 2)?),
        6 => (40, half(packet, 4)? + 40),
        _ => return None,
    };
    (length >= least && length <= packet.len()).then_some(length)
}

pub(crate) fn source(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 12, 8)
}

pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 16, 24)
}

/// Where both addresses stand.
pub(crate) fn addresses(packet: &[u8]) -> Range<usize> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => 12..20,
        _ => 8..40,
    }
}

fn address(packet: &[u8], v4: usize, v6: usize) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = *packet.get(v4..)?.first_chunk()?;
            (packet.len() >= 20).then(|| Ipv4Addr::from(octets).into())
        }
        6 => {
            let octets: [u8; 16] = *packet.get(v6..)?.first_chunk()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

pub(crate) fn half(packet: &[u8], at: usize) -> Option<usize> {
    let bytes = packet.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes).into())
}
