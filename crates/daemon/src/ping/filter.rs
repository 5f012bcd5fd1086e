//! Which packets a raw socket lets through to us, as a program for the kernel (classic BPF, `linux/filter.h`).

use socket2::SockFilter;
use strait_host::Family;

use super::packet::{HEADER, reply_type};

/// `X = 4 * (packet[0] & 0xf)`: the length of the IPv4 header.
const HEADER_LENGTH: u16 = 0xb1;
/// `X = k`.
const SET_INDEX: u16 = 0x01;
/// `A = packet[X + k]`, one byte; the packet is dropped if it is too short.
const LOAD_BYTE: u16 = 0x50;
/// The same with four bytes.
const LOAD_WORD: u16 = 0x40;
/// Jumps if `A == k`.
const IF_EQUAL: u16 = 0x15;
/// Keeps `k` bytes of the packet.
const KEEP: u16 = 0x06;

/// Echo replies with our nonce, or its first half: the rest is for us to check.
pub(super) fn filter(family: Family, nonce: u64) -> [SockFilter; 7] {
    let header = match family {
        Family::V4 => HEADER_LENGTH,
        Family::V6 => SET_INDEX,
    };
    let first_half = (nonce >> 32) as u32;
    [
        SockFilter::new(header, 0, 0, 0),
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(IF_EQUAL, 0, 3, u32::from(reply_type(family))),
        SockFilter::new(LOAD_WORD, 0, 0, HEADER as u32),
        SockFilter::new(IF_EQUAL, 0, 1, first_half),
        SockFilter::new(KEEP, 0, 0, u32::from(u16::MAX)),
        SockFilter::new(KEEP, 0, 0, 0),
    ]
}
