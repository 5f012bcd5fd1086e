//! Cutting up what the kernel gives in one piece (TSO, USO) into packets that fit the tunnel.

use crate::checksum;
use crate::packet::{self, TCP, UDP};

/// Length of `struct virtio_net_hdr`.
pub(crate) const VNET: usize = 10;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, `VIRTIO_NET_HDR_GSO_*`.
pub(crate) const NEEDS_CHECKSUM: u8 = 1;
pub(crate) const GSO_TCP4: u8 = 1;
pub(crate) const GSO_TCP6: u8 = 4;
pub(crate) const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What stands before a packet on a TUN device (linux/virtio_net.h), in the machine's byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Vnet {
    pub(crate) flags: u8,
    pub(crate) gso: u8,
    pub(crate) header: u16,
    pub(crate) size: u16,
    pub(crate) checksum_start: u16,
    pub(crate) checksum_offset: u16,
}

impl Vnet {
    pub(crate) fn parse(frame: &[u8]) -> Option<(Self, &[u8])> {
        let (head, packet) = frame.split_first_chunk::<VNET>()?;
        let [flags, gso, a, b, c, d, e, f, g, h] = *head;
        let vnet = Self {
            flags,
            gso,
            header: u16::from_ne_bytes([a, b]),
            size: u16::from_ne_bytes([c, d]),
            checksum_start: u16::from_ne_bytes([e, f]),
            checksum_offset: u16::from_ne_bytes([g, h]),
        };
        Some((vnet, packet))
    }

    pub(crate) fn bytes(self) -> [u8; VNET] {
        let [a, b] = self.header.to_ne_bytes();
        let [c, d] = self.size.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [self.flags, self.gso, a, b, c, d, e, f, g, h]
    }
}

/// Packets that a frame consists of, one after the other.
pub(crate) struct Segments<'a> {
    packet: &'a [u8],
    vnet: Vnet,
    /// Length of all headers.
    headers: usize,
    /// Where the transport header begins.
    transport: usize,
    protocol: u8,
    /// Payload of each packet.
    size: usize,
    /// What was given out already.
    done: usize,
    index: u16,
}

impl<'a> Segments<'a> {
    /// `None`: the frame contradicts itself.
    pub(crate) fn of(vnet: Vnet, packet: &'a [u8]) -> Option<Self> {
        let transport = usize::from(vnet.checksum_start);
        let protocol = match vnet.gso & !GSO_ECN {
            0 => {
                // One packet. A checksum that is left to us has its place in it.
                let place = transport + usize::from(vnet.checksum_offset) + 2;
                let bad = vnet.flags & NEEDS_CHECKSUM != 0 && place > packet.len();
                return (!bad && !packet.is_empty()).then_some(Self {
                    packet,
                    vnet,
                    headers: packet.len(),
                    transport,
                    protocol: 0,
                    size: 0,
                    done: 0,
                    index: 0,
                });
            }
            GSO_TCP4 | GSO_TCP6 => TCP,
            GSO_UDP => UDP,
            _ => return None,
        };
        let version = packet.first()? >> 4;
        let least = if version == 4 { 20 } else { 40 };
        let length = match protocol {
            TCP => usize::from(packet.get(transport + 12)? >> 4) * 4,
            _ => 8,
        };
        let headers = transport + length;
        let size = usize::from(vnet.size);
        let sound = matches!(version, 4 | 6)
            && transport >= least
            && (protocol == UDP || length >= 20)
            && headers < packet.len()
            && size > 0;
        sound.then_some(Self {
            packet,
            vnet,
            headers,
            transport,
            protocol,
            size,
            done: 0,
            index: 0,
        })
    }

    /// Length of the next packet; 0 after the last.
    pub(crate) fn length(&self) -> usize {
        let rest = self.packet.len() - self.headers - self.done;
        match (self.protocol, self.index) {
            (0, 0) => self.packet.len(),
            (0, _) => 0,
            _ if rest == 0 => 0,
            _ => self.headers + rest.min(self.size),
        }
    }

    /// Writes the next packet to `out`, which has exactly its length.
    pub(crate) fn write(&mut self, out: &mut [u8]) {
        if self.protocol == 0 {
            self.index = 1;
            out.copy_from_slice(self.packet);
            if self.vnet.flags & NEEDS_CHECKSUM != 0 {
                let place = self.transport + usize::from(self.vnet.checksum_offset);
                // The field holds the pseudo header's sum, and is a part of what is summed up.
                let sum = checksum::sum(&out[self.transport..], 0);
                out[place..place + 2].copy_from_slice(&checksum::finish(sum));
            }
            return;
        }
        let payload = out.len() - self.headers;
        let from = self.headers + self.done;
        let (headers, body) = out.split_at_mut(self.headers);
        headers.copy_from_slice(&self.packet[..self.headers]);
        body.copy_from_slice(&self.packet[from..from + payload]);
        let last = from + payload == self.packet.len();
        self.network(out);
        self.transport(out, last);
        self.done += payload;
        self.index = self.index.wrapping_add(1);
    }

    fn network(&self, out: &mut [u8]) {
        if out[0] >> 4 == 4 {
            // No packet is longer than the frame, which has 16 bits of length.
            let length = out.len() as u16;
            out[2..4].copy_from_slice(&length.to_be_bytes());
            let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(self.index);
            out[4..6].copy_from_slice(&id.to_be_bytes());
            out[10..12].fill(0);
            let sum = checksum::sum(&out[..self.transport], 0);
            out[10..12].copy_from_slice(&checksum::finish(sum));
        } else {
            let length = (out.len() - 40) as u16;
            out[4..6].copy_from_slice(&length.to_be_bytes());
        }
    }

    fn transport(&self, out: &mut [u8], last: bool) {
        let length = out.len() - self.transport;
        let pseudo = checksum::pseudo(&out[packet::addresses(out)], self.protocol, length);
        let header = &mut out[self.transport..];
        let place = if self.protocol == TCP {
            let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let sequence = sequence.wrapping_add(self.done as u32);
            header[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                header[13] &= !(FIN | PSH);
            }
            if self.index > 0 {
                header[13] &= !CWR;
            }
            16
        } else {
            header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            6
        };
        header[place..place + 2].fill(0);
        let sum = checksum::finish(checksum::sum(header, pseudo));
        let none = self.protocol == UDP && sum == [0, 0];
        header[place..place + 2].copy_from_slice(&if none { [0xff, 0xff] } else { sum });
    }
}
