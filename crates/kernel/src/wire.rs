//! Netlink messages and attributes as bytes.
//!
//! Only what is needed is decoded, so an attribute that a newer kernel adds or widens can't fail a
//! whole dump. Lengths are checked on every step: truncated input ends the iteration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// `NLA_TYPE_MASK`: an attribute's type without the flags for nesting and byte order.
const TYPE_MASK: u16 = 0x3fff;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// A message to the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of a type, with flags beside `NLM_F_REQUEST`, and its fixed header.
    pub(crate) fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut request = Self { bytes };
        request.pad();
        request
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        // No caller has a payload near 64 KiB; one that had would be refused by the kernel.
        let len = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
        self
    }

    /// Appends an attribute of 1 byte.
    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// Appends an attribute of 4 bytes in host order.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute of 4 bytes in network order.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a text with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut payload = value.as_bytes().to_vec();
        payload.push(0);
        self.attr(kind, &payload)
    }

    /// Appends an address.
    pub(crate) fn ip(&mut self, kind: u16, ip: IpAddr) -> &mut Self {
        self.attr(kind, &octets(ip))
    }

    /// Appends an attribute that holds others.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Appends a `struct rtnexthop` with its attributes, inside a nest.
    pub(crate) fn next_hop(&mut self, flags: u8, index: u32, fill: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0, flags, 0]);
        self.bytes.extend_from_slice(&index.to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// The finished message, with flags added and a sequence number.
    pub(crate) fn finish(mut self, flags: i32, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        let all = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags as u16;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A message from the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_flags`.
    pub(crate) flags: u16,
    /// `nlmsg_seq`.
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The fixed header, if it is all there.
    pub(crate) fn fixed<const N: usize>(&self) -> Option<[u8; N]> {
        self.body.get(..N)?.try_into().ok()
    }

    /// The attributes behind a fixed header of `skip` bytes.
    pub(crate) fn attrs(&self, skip: usize) -> Attrs<'_> {
        Attrs(self.body.get(skip..).unwrap_or_default())
    }
}

/// Splits what was received in one read.
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    while let Some(len) = u32_at(bytes, 0) {
        let len = len as usize;
        if len < HEADER || len > bytes.len() {
            break;
        }
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        all.push(Message {
            kind: word(4),
            flags: word(6),
            sequence: u32_at(bytes, 8).unwrap_or_default(),
            body: bytes[HEADER..len].to_vec(),
        });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// Attributes in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_of(self.0)?);
        let kind = u16_of(self.0.get(2..)?)? & TYPE_MASK;
        let payload = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

impl<'a> Attrs<'a> {
    /// The payload of the first attribute of a type.
    pub(crate) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(k, payload)| (k == kind).then_some(payload))
    }

    /// The attributes inside the first one of a type.
    pub(crate) fn inside(self, kind: u16) -> Option<Attrs<'a>> {
        self.find(kind).map(Attrs)
    }
}

/// The first 2 bytes in host order.
pub(crate) fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// The first 4 bytes in host order.
pub(crate) fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The first 2 bytes in network order.
pub(crate) fn be16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// The first 4 bytes in network order.
pub(crate) fn be32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    u32_of(bytes.get(at..)?)
}

/// A text up to its final zero.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address of 4 or 16 bytes.
pub(crate) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Some(IpAddr::V4(Ipv4Addr::from(v4)))
    } else {
        let v6 = <[u8; 16]>::try_from(bytes).ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(v6)))
    }
}

/// An address as the kernel takes it.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `AF_INET` or `AF_INET6` of an address.
pub(crate) fn family_of(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_way_out_and_back() {
        let mut request = Request::new(24, libc::NLM_F_CREATE, &[1, 2, 3]);
        request.u32(5, 7).nest(6, |r| {
            r.text(1, "eth0").u8(2, 9);
        });
        let bytes = request.finish(libc::NLM_F_ACK, 42);
        let all = messages(&bytes);
        assert_eq!(all.len(), 1);
        let message = &all[0];
        assert_eq!((message.kind, message.sequence), (24, 42));
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
        assert_eq!(i32::from(message.flags), flags);
        assert_eq!(message.fixed::<3>(), Some([1, 2, 3]));
        let attrs = message.attrs(4);
        assert_eq!(attrs.find(5).and_then(u32_of), Some(7));
        let inside = attrs.inside(6).unwrap();
        assert_eq!(inside.find(1).map(text_of), Some("eth0".to_owned()));
        assert_eq!(inside.find(2), Some(&[9][..]));
    }

    #[test]
    fn no_truncation_and_no_flipped_byte_panics() {
        let mut request = Request::new(24, 0, &[0; 12]);
        request.nest(6, |r| {
            r.text(1, "eth0")
                .u8(2, 9)
                .ip(3, IpAddr::from([10, 0, 0, 1]));
        });
        let bytes = request.finish(0, 1);
        let walk = |bytes: &[u8]| {
            for message in messages(bytes) {
                let _ = message.fixed::<12>();
                for (_, payload) in message.attrs(12) {
                    Attrs(payload).for_each(|(_, p)| drop(text_of(p)));
                }
            }
        };
        for end in 0..bytes.len() {
            walk(&bytes[..end]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 3, 4, 0x7f, 0xff] {
                let mut bad = bytes.clone();
                bad[at] = value;
                walk(&bad);
            }
        }
    }

    #[test]
    fn an_attribute_shorter_than_its_header_ends_the_walk() {
        assert_eq!(Attrs(&[3, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(Attrs(&[0, 0, 1, 0]).count(), 0);
    }
}
