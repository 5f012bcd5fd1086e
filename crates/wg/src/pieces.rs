//! Cutting and joining, against each other.

use std::io::IoSlice;

use proptest::prelude::*;

use crate::checksum;
use crate::coalesce::Coalescer;
use crate::packet::{self, TCP, UDP};
use crate::segment::{GSO_TCP4, GSO_TCP6, GSO_UDP, NEEDS_CHECKSUM, Segments, VNET, Vnet};

/// A frame as the kernel gives it: its checksum field holds the pseudo header's sum.
fn frame(v6: bool, protocol: u8, payload: &[u8], size: u16, flags: u8) -> (Vnet, Vec<u8>) {
    let transport = if v6 { 40 } else { 20 };
    let length = if protocol == TCP { 32 } else { 8 };
    let total = transport + length + payload.len();
    let mut packet = vec![0; transport + length];
    if v6 {
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&[protocol, 64]);
        packet[8..40].fill(0xfd);
    } else {
        packet[..2].copy_from_slice(&[0x45, 2]);
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        packet[4..9].copy_from_slice(&[0xff, 0xff, 0x40, 0, 64]);
        packet[9] = protocol;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = checksum::finish(checksum::sum(&packet[..20], 0));
        packet[10..12].copy_from_slice(&sum);
    }
    packet[transport..transport + 4].copy_from_slice(&[0x13, 0x88, 0, 80]);
    let place = if protocol == TCP {
        packet[transport + 4..transport + 8].copy_from_slice(&0xffff_ff00_u32.to_be_bytes());
        packet[transport + 12] = 0x80;
        packet[transport + 13] = flags;
        16
    } else {
        packet[transport + 4..transport + 6]
            .copy_from_slice(&((total - transport) as u16).to_be_bytes());
        6
    };
    let pseudo = checksum::pseudo(
        &packet[packet::addresses(&packet)],
        protocol,
        total - transport,
    );
    packet[transport + place..transport + place + 2].copy_from_slice(&checksum::fold(pseudo));
    packet.extend(payload);
    let gso = match (protocol, v6) {
        (TCP, false) => GSO_TCP4,
        (TCP, true) => GSO_TCP6,
        (_, _) => GSO_UDP,
    };
    let vnet = Vnet {
        flags: NEEDS_CHECKSUM,
        gso: if payload.len() > usize::from(size) {
            gso
        } else {
            0
        },
        header: (transport + length) as u16,
        size,
        checksum_start: transport as u16,
        checksum_offset: place as u16,
    };
    (vnet, packet)
}

fn cut(vnet: Vnet, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::of(vnet, packet).unwrap();
    let mut all = Vec::new();
    while segments.length() > 0 {
        let mut out = vec![0; segments.length()];
        segments.write(&mut out);
        all.push(out);
    }
    all
}

fn joined(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut coalescer = Coalescer::new(|parts: &[IoSlice<'_>]| {
        frames.push(
            parts
                .iter()
                .flat_map(|part| part.to_vec())
                .collect::<Vec<u8>>(),
        );
    });
    packets.iter().for_each(|packet| coalescer.push(packet));
    coalescer.flush();
    drop(coalescer);
    frames
}

/// Whether both checksums are right.
fn sound(packet: &[u8], protocol: u8) -> bool {
    let transport = if packet[0] >> 4 == 6 { 40 } else { 20 };
    let pseudo = checksum::pseudo(
        &packet[packet::addresses(packet)],
        protocol,
        packet.len() - transport,
    );
    (transport == 40 || checksum::finish(checksum::sum(&packet[..20], 0)) == [0, 0])
        && checksum::finish(checksum::sum(&packet[transport..], pseudo)) == [0, 0]
        && packet::length(packet) == Some(packet.len())
}

proptest! {
    #[test]
    fn what_was_cut_is_sound_and_joins_to_what_it_was(
        v6: bool,
        payload in proptest::collection::vec(any::<u8>(), 1..9000),
        size in 100u16..1400,
        push: bool,
    ) {
        let flags = if push { 0x18 } else { 0x10 };
        let (vnet, whole) = frame(v6, TCP, &payload, size, flags);
        let packets = cut(vnet, &whole);
        prop_assert_eq!(packets.len(), payload.len().div_ceil(size.into()));
        for packet in &packets {
            prop_assert!(sound(packet, TCP));
        }
        let frames = joined(&packets);
        prop_assert_eq!(frames.len(), 1);
        let (again, packet) = Vnet::parse(&frames[0]).unwrap();
        if packets.len() > 1 {
            prop_assert_eq!(again, vnet);
            prop_assert_eq!(packet, &whole[..]);
        } else {
            prop_assert_eq!((again, packet), (Vnet::default(), &packets[0][..]));
        }
    }

    #[test]
    fn datagrams_that_were_cut_are_sound(
        v6: bool,
        payload in proptest::collection::vec(any::<u8>(), 1..9000),
        size in 100u16..1400,
    ) {
        let (vnet, whole) = frame(v6, UDP, &payload, size, 0);
        let mut together = Vec::new();
        for packet in cut(vnet, &whole) {
            prop_assert!(sound(&packet, UDP));
            together.extend_from_slice(&packet[if v6 { 48 } else { 28 }..]);
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn joining_keeps_each_connection_in_order_and_loses_nothing(
        order in proptest::collection::vec((0u8..3, 0u8..10), 1..60),
    ) {
        // Segments of three connections, mixed; some are pure acknowledgements, some are damaged.
        let mut next = [0u32; 3];
        let mut sent: [Vec<Vec<u8>>; 3] = Default::default();
        let mut packets = Vec::new();
        for (connection, what) in order {
            let number = usize::from(connection);
            let payload = vec![what; if what == 0 { 0 } else { 500 }];
            let (vnet, mut packet) = frame(false, TCP, &payload, 1000, 0x10);
            packet[20] = connection;
            packet[24..28].copy_from_slice(&next[number].to_be_bytes());
            next[number] += payload.len() as u32;
            let mut packet = cut(vnet, &packet).remove(0);
            if what == 9 {
                packet[60] ^= 1;
            }
            sent[number].push(packet.clone());
            packets.push(packet);
        }
        let mut got: [Vec<Vec<u8>>; 3] = Default::default();
        for frame in joined(&packets) {
            let (vnet, packet) = Vnet::parse(&frame).unwrap();
            let whole = [&vnet.bytes()[..], packet].concat();
            prop_assert_eq!(whole.len(), VNET + packet.len());
            got[usize::from(packet[20])].extend(cut(vnet, packet));
        }
        for (sent, got) in sent.iter().zip(&got) {
            let payloads = |packets: &[Vec<u8>]| packets.iter().map(|p| (p[24..28].to_vec(), p[52..].to_vec())).collect::<Vec<_>>();
            prop_assert_eq!(payloads(sent), payloads(got));
            // What was damaged still is: no new checksum hides it.
            for (sent, got) in sent.iter().zip(got) {
                prop_assert_eq!(sound(sent, TCP), sound(got, TCP));
            }
        }
    }

    #[test]
    fn hostile_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in 0usize..4) {
        let mut packet = bytes.clone();
        if let Some(byte) = packet.first_mut() {
            *byte = [0x45, 0x60, 0x4f, 0][first];
        }
        joined(&[packet.clone(), packet.clone()]);
        if let Some((vnet, packet)) = Vnet::parse(&bytes)
            && Segments::of(vnet, packet).is_some()
        {
            cut(vnet, packet);
        }
    }
}
