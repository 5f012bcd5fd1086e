//! No bytes make a decoder panic.

use std::collections::BTreeMap;

use crate::wire::{Attrs, Message, messages};
use crate::{address, conntrack, link, neighbour, nft, route, rule, socket, tcp};

/// Bytes that look like headers and attributes more often than chance would have it.
fn soup(seed: &mut u64, len: usize) -> Vec<u8> {
    let mut next = || {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 13) as u16
    };
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let word = next();
        let word = match next() % 4 {
            0 => word % 40,
            1 => (word % 24).next_multiple_of(4),
            2 => word % 3,
            _ => word,
        };
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    let mut seed = 0x5eed_1e55_c0ff_ee01;
    let names = BTreeMap::from([(1, "eth0".to_owned())]);
    for round in 0..200_000_usize {
        let body = soup(&mut seed, round % 160);
        for message in messages(&body) {
            let _ = socket::verdict(&message);
        }
        let message = Message {
            kind: (round % 4) as u16,
            flags: seed as u16,
            sequence: 0,
            body,
        };
        let _ = socket::verdict(&message);
        let _ = link::decode(&message);
        let _ = address::decode(&message, &names);
        let _ = neighbour::decode(&message);
        let _ = route::decode(&message, &names);
        let _ = rule::decode(strait_host::Family::V4, &message);
        let _ = conntrack::decode(&message);
        let _ = tcp::decode(&message);
        nft::decode_anything(Attrs(&message.body));
    }
}
