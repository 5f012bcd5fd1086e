//! Joining packets of one TCP connection into one piece for the kernel (GRO), without changing their order.

use std::io::IoSlice;

use crate::checksum;
use crate::packet::{self, TCP};
use crate::segment::{GSO_TCP4, GSO_TCP6, NEEDS_CHECKSUM, VNET, Vnet};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// The longest IPv6 and TCP headers that are joined, after the vnet header.
const HEADERS: usize = VNET + 40 + 60;
/// What fits a length of 16 bits.
const LARGEST: usize = 65_535;
/// Connections that are joined at the same time.
const OPEN: usize = 16;

/// Packets of one connection, one after the other.
struct Run<'a> {
    first: &'a [u8],
    transport: usize,
    headers: usize,
    /// Payload of each but the last.
    size: usize,
    total: usize,
    next: u32,
    push: bool,
    /// Nothing can follow.
    closed: bool,
    payloads: Vec<&'a [u8]>,
}

/// Collects packets; `write` is given each frame in parts.
pub(crate) struct Coalescer<'a, W: FnMut(&[IoSlice<'_>])> {
    runs: Vec<Run<'a>>,
    write: W,
}

impl<'a, W: FnMut(&[IoSlice<'_>])> Coalescer<'a, W> {
    pub(crate) fn new(write: W) -> Self {
        Self {
            runs: Vec::new(),
            write,
        }
    }

    /// Takes a packet, which has exactly the length that its header tells.
    pub(crate) fn push(&mut self, packet: &'a [u8]) {
        let Some((transport, headers)) = tcp(packet) else {
            return self.alone(packet);
        };
        let own = self.runs.iter().position(|run| {
            let addresses = packet::addresses(packet);
            run.first[0] >> 4 == packet[0] >> 4
                && run.first[addresses.clone()] == packet[addresses]
                && run.first[run.transport..run.transport + 4] == packet[transport..transport + 4]
        });
        if let Some(at) = own {
            if self.runs[at].join(packet, transport, headers) {
                return;
            }
            let run = self.runs.remove(at);
            run.write(&mut self.write);
        }
        if !joinable(packet, transport, headers) {
            return self.alone(packet);
        }
        if self.runs.len() == OPEN {
            let run = self.runs.remove(0);
            run.write(&mut self.write);
        }
        self.runs.push(Run::new(packet, transport, headers));
    }

    /// Writes what was collected.
    pub(crate) fn flush(&mut self) {
        for run in self.runs.drain(..) {
            run.write(&mut self.write);
        }
    }

    fn alone(&mut self, packet: &[u8]) {
        let vnet = Vnet::default().bytes();
        (self.write)(&[IoSlice::new(&vnet), IoSlice::new(packet)]);
    }
}

impl<'a> Run<'a> {
    fn new(first: &'a [u8], transport: usize, headers: usize) -> Self {
        let size = first.len() - headers;
        Self {
            first,
            transport,
            headers,
            size,
            total: first.len(),
            next: sequence(first, transport).wrapping_add(size as u32),
            push: false,
            closed: first[transport + 13] & PSH != 0,
            payloads: vec![&first[headers..]],
        }
    }

    fn join(&mut self, packet: &'a [u8], transport: usize, headers: usize) -> bool {
        let payload = packet.len() - headers;
        let fits = !self.closed
            && (transport, headers) == (self.transport, self.headers)
            && payload > 0
            && payload <= self.size
            && self.total + payload <= LARGEST
            && sequence(packet, transport) == self.next
            && self.alike(packet)
            && valid(packet, transport);
        if !fits {
            return false;
        }
        if self.payloads.len() == 1 && !valid(self.first, transport) {
            return false;
        }
        let push = packet[transport + 13] & PSH != 0;
        self.push |= push;
        self.closed = push || payload < self.size;
        self.total += payload;
        self.next = self.next.wrapping_add(payload as u32);
        self.payloads.push(&packet[headers..]);
        true
    }

    /// Whether the headers differ only in what the kernel makes anew when it takes the piece apart.
    fn alike(&self, packet: &[u8]) -> bool {
        let (a, b, t) = (self.first, packet, self.transport);
        let network = if a[0] >> 4 == 4 {
            a[..2] == b[..2] && a[6..10] == b[6..10]
        } else {
            a[..4] == b[..4] && a[6..8] == b[6..8]
        };
        network
            && a[t + 8..t + 13] == b[t + 8..t + 13]
            && (a[t + 13] ^ b[t + 13]) & !PSH == 0
            && a[t + 14..t + 16] == b[t + 14..t + 16]
            && a[t + 18..self.headers] == b[t + 18..self.headers]
    }

    fn write(self, write: &mut impl FnMut(&[IoSlice<'_>])) {
        if self.payloads.len() == 1 {
            let vnet = Vnet::default().bytes();
            return write(&[IoSlice::new(&vnet), IoSlice::new(self.first)]);
        }
        let v4 = self.first[0] >> 4 == 4;
        // None of these is larger than LARGEST.
        let vnet = Vnet {
            flags: NEEDS_CHECKSUM,
            gso: if v4 { GSO_TCP4 } else { GSO_TCP6 },
            header: self.headers as u16,
            size: self.size as u16,
            checksum_start: self.transport as u16,
            checksum_offset: 16,
        };
        let mut room = [0; HEADERS];
        room[..VNET].copy_from_slice(&vnet.bytes());
        let head = &mut room[VNET..VNET + self.headers];
        head.copy_from_slice(&self.first[..self.headers]);
        if v4 {
            head[2..4].copy_from_slice(&(self.total as u16).to_be_bytes());
            head[10..12].fill(0);
            let sum = checksum::sum(&head[..self.transport], 0);
            head[10..12].copy_from_slice(&checksum::finish(sum));
        } else {
            head[4..6].copy_from_slice(&((self.total - 40) as u16).to_be_bytes());
        }
        let length = self.total - self.transport;
        let pseudo = checksum::pseudo(&head[packet::addresses(head)], TCP, length);
        let header = &mut head[self.transport..];
        header[16..18].copy_from_slice(&checksum::fold(pseudo));
        if self.push {
            header[13] |= PSH;
        }
        let mut parts = Vec::with_capacity(self.payloads.len() + 1);
        parts.push(IoSlice::new(&room[..VNET + self.headers]));
        parts.extend(self.payloads.iter().map(|payload| IoSlice::new(payload)));
        write(&parts);
    }
}

/// Where the TCP header of an unfragmented packet begins and ends; `None` if it is anything else.
fn tcp(packet: &[u8]) -> Option<(usize, usize)> {
    let transport = match packet.first()? {
        0x45 if packet.get(9) == Some(&TCP) && packet::half(packet, 6)? & 0x3fff == 0 => 20,
        first if first >> 4 == 6 && packet.get(6) == Some(&TCP) => 40,
        _ => return None,
    };
    let length = usize::from(packet.get(transport + 12)? >> 4) * 4;
    let headers = transport + length;
    (length >= 20 && headers <= packet.len()).then_some((transport, headers))
}

fn joinable(packet: &[u8], transport: usize, headers: usize) -> bool {
    packet.len() > headers && packet[transport + 13] & !PSH == ACK
}

fn sequence(packet: &[u8], transport: usize) -> u32 {
    let at = transport + 4;
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

/// Whether the checksum is right: a wrong one must not be hidden by a new one.
fn valid(packet: &[u8], transport: usize) -> bool {
    let length = packet.len() - transport;
    let pseudo = checksum::pseudo(&packet[packet::addresses(packet)], TCP, length);
    let v6 = packet[0] >> 4 == 6;
    (v6 || checksum::finish(checksum::sum(&packet[..transport], 0)) == [0, 0])
        && checksum::finish(checksum::sum(&packet[transport..], pseudo)) == [0, 0]
}
