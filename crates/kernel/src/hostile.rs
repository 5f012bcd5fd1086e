//! No bytes make a decoder panic.

use std::collections::BTreeMap;

use crate::wire::{Attrs, Message, messages};
use crate::{address, conntrack, link, neighbour, nft, route, rule, socket, tcp, wireguard};

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

fn decode(kind: u16, flags: u16, body: Vec<u8>) {
    let names = BTreeMap::from([(1, "eth0".to_owned())]);
    let message = Message {
        kind,
        flags,
        sequence: 0,
        body,
    };
    let _ = socket::verdict(&message);
    let _ = link::decode(&message);
    let _ = address::decode(&message, &names);
    let _ = neighbour::decode(&message);
    let _ = route::decode(&message, &names);
    for family in strait_host::Family::ALL {
        let _ = rule::decode(family, &message);
    }
    let _ = conntrack::decode(&message);
    let _ = tcp::decode(&message);
    wireguard::decode(
        &message,
        &[7; 32],
        &mut strait_host::wireguard::Device::default(),
    );
    nft::decode_anything(Attrs(&message.body));
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    let mut seed = 0x5eed_1e55_c0ff_ee01;
    for round in 0..200_000_usize {
        let body = soup(&mut seed, round % 160);
        for message in messages(&body) {
            let _ = socket::verdict(&message);
        }
        decode((round % 4) as u16, seed as u16, body);
    }
}

/// What the kernel has answered once, bodies of many messages, and changes of that.
#[test]
fn no_damaged_message_makes_a_decoder_panic() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    let mut decoded = 0;
    for input in strait_fuzz::corpus(corpus) {
        decoded += messages(&input).len();
    }
    assert!(decoded > 50, "the corpus has {decoded} messages");
    strait_fuzz::fuzz(corpus, 4000, |bytes| {
        for message in messages(bytes) {
            let Message {
                kind, flags, body, ..
            } = message;
            // Nested attributes of nftables stand after a header of 4 bytes.
            nft::decode_anything(Attrs(body.get(4..).unwrap_or_default()));
            decode(kind, flags, body);
        }
    });
}
