//! Tracked connections, over ctnetlink.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;
use strait_host::Family;

use crate::error::{Error, tolerate};
use crate::socket::Socket;
use crate::wire::{Attrs, Message, Request, be16_of, be32_of, family_of, ip_of};

/// Length of `struct nfgenmsg`.
const FIXED: usize = 4;
/// `IPCTNL_MSG_CT_*` in linux/netfilter/nfnetlink_conntrack.h.
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `CTA_*`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `CTA_TUPLE_*`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// `CTA_IP_*`.
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
/// `CTA_PROTO_*`; of ICMP and ICMPv6 the identifier, type and code.
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const ICMP: [u16; 3] = [4, 5, 6];
const ICMP6: [u16; 3] = [7, 8, 9];

/// `IPS_*` in linux/netfilter/nf_conntrack_common.h.
const SOURCE_NAT: u32 = 1 << 4;
const DESTINATION_NAT: u32 = 1 << 5;
const SEEN_REPLY: u32 = 1 << 1;

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Its family.
    pub family: Family,
    /// Transport protocol (`IPPROTO_*`).
    pub protocol: u8,
    /// As its first packet was before any translation.
    pub original: Tuple,
    /// As its answers are expected: their destination is the source after translation.
    pub reply: Tuple,
    /// Connection mark.
    pub mark: u32,
    /// Status bits (`IPS_*`).
    pub status: u32,
    /// Conntrack zone, if not 0.
    pub zone: Option<u16>,
    /// The kernel's number of this entry (a hash of its place in memory): a later one of the same tuple mostly has
    /// another.
    pub id: u32,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port; the identifier of ICMP; 0 for protocols without.
    pub sport: u16,
    /// Destination port; of ICMP, type × 256 + code; 0 for protocols without.
    pub dport: u16,
}

impl Flow {
    /// Whether it is a TCP connection.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        i32::from(self.protocol) == libc::IPPROTO_TCP
    }

    /// Whether its source is translated.
    #[must_use]
    pub fn has_source_nat(&self) -> bool {
        self.status & SOURCE_NAT != 0
    }

    /// Whether its destination is translated.
    #[must_use]
    pub fn has_destination_nat(&self) -> bool {
        self.status & DESTINATION_NAT != 0
    }

    /// Whether an answer was seen.
    #[must_use]
    pub fn has_seen_reply(&self) -> bool {
        self.status & SEEN_REPLY != 0
    }
}

/// Calls `keep` for each tracked connection of these families, and returns those that it wants. The kernel leaves out the other
/// family: of what it can choose by (docs/kernel.md) no more can be said beforehand.
pub(crate) fn list(
    socket: &mut Socket,
    families: &BTreeSet<Family>,
    mut keep: impl FnMut(&Flow) -> bool,
) -> Result<Vec<Flow>, Error> {
    let mut flows = Vec::new();
    for family in families {
        let family = match family {
            Family::V4 => libc::AF_INET,
            Family::V6 => libc::AF_INET6,
        };
        let header = [family as u8, libc::NFNETLINK_V0 as u8, 0, 0];
        let request = Request::new(number(GET), 0, &header);
        // A table of a million entries is not held in memory for the few that matter.
        socket.each(request, "tracked connections", |message| {
            flows.extend(decode(message).filter(|flow| keep(flow)));
        })?;
    }
    Ok(flows)
}

pub(crate) fn decode(message: &Message) -> Option<Flow> {
    let attrs = message.attrs(FIXED);
    let (protocol, original) = tuple_of(attrs.inside(ORIGINAL)?)?;
    let (_, reply) = tuple_of(attrs.inside(REPLY)?)?;
    let number = |kind| attrs.find(kind).and_then(be32_of).unwrap_or_default();
    Some(Flow {
        family: Family::of(original.src),
        protocol,
        original,
        reply,
        mark: number(MARK),
        status: number(STATUS),
        zone: attrs.find(ZONE).and_then(be16_of).filter(|zone| *zone != 0),
        id: number(ID),
    })
}

fn tuple_of(attrs: Attrs<'_>) -> Option<(u8, Tuple)> {
    let ips = attrs.inside(TUPLE_IP)?;
    let ip = |v4, v6| ips.find(v4).or_else(|| ips.find(v6)).and_then(ip_of);
    let transport = attrs.inside(TUPLE_PROTOCOL)?;
    let protocol = *transport.find(NUMBER)?.first()?;
    let short = |kind| transport.find(kind).and_then(be16_of).unwrap_or_default();
    let byte = |kind| transport.find(kind).and_then(|b| b.first().copied());
    let (sport, dport) = match icmp(protocol) {
        None => (short(SOURCE_PORT), short(DESTINATION_PORT)),
        Some([id, kind, code]) => {
            let pair = [
                byte(kind).unwrap_or_default(),
                byte(code).unwrap_or_default(),
            ];
            (short(id), u16::from_be_bytes(pair))
        }
    };
    let tuple = Tuple {
        src: ip(V4_SOURCE, V6_SOURCE)?,
        dst: ip(V4_DESTINATION, V6_DESTINATION)?,
        sport,
        dport,
    };
    Some((protocol, tuple))
}

/// The attributes of identifier, type and code, if the protocol has them.
fn icmp(protocol: u8) -> Option<[u16; 3]> {
    match i32::from(protocol) {
        libc::IPPROTO_ICMP => Some(ICMP),
        libc::IPPROTO_ICMPV6 => Some(ICMP6),
        _ => None,
    }
}

/// Forgets this very connection; that it is gone already is fine.
pub(crate) fn delete(socket: &mut Socket, flow: &Flow) -> Result<(), Error> {
    let header = [family_of(flow.original.src), libc::NFNETLINK_V0 as u8, 0, 0];
    let mut request = Request::new(number(DELETE), 0, &header);
    // Without a tuple the kernel would forget all.
    request.nest(ORIGINAL, |tuple| encode_tuple(tuple, flow));
    request.be32(ID, flow.id);
    if let Some(zone) = flow.zone {
        request.attr(ZONE, &zone.to_be_bytes());
    }
    let Tuple { src, dst, .. } = flow.original;
    let answer = socket.tell(
        request,
        &format_args!("forget the connection {src} to {dst}"),
    );
    tolerate(answer, &[Errno::ENOENT])
}

fn encode_tuple(tuple: &mut Request, flow: &Flow) {
    let Tuple {
        src,
        dst,
        sport,
        dport,
    } = flow.original;
    let (source, destination) = match flow.family {
        Family::V4 => (V4_SOURCE, V4_DESTINATION),
        Family::V6 => (V6_SOURCE, V6_DESTINATION),
    };
    tuple.nest(TUPLE_IP, |ips| {
        ips.ip(source, src).ip(destination, dst);
    });
    tuple.nest(TUPLE_PROTOCOL, |transport| {
        transport.u8(NUMBER, flow.protocol);
        match icmp(flow.protocol) {
            None => {
                transport
                    .attr(SOURCE_PORT, &sport.to_be_bytes())
                    .attr(DESTINATION_PORT, &dport.to_be_bytes());
            }
            Some([id, kind, code]) => {
                let [k, c] = dport.to_be_bytes();
                transport
                    .attr(id, &sport.to_be_bytes())
                    .u8(kind, k)
                    .u8(code, c);
            }
        }
    });
}

fn number(kind: u16) -> u16 {
    (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | kind
}
