//! Permanent neighbours, and forwarding entries of VXLAN devices: the same message, told apart by its family.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use strait_host::{Fdb, Mac, Neighbour};

use crate::error::{Error, tolerate};
use crate::socket::Socket;
use crate::wire::{Message, Request, be16_of, family_of, ip_of, u32_of};

/// Length of `struct ndmsg`.
const FIXED: usize = 12;
/// `NDA_*` in linux/neighbour.h.
const DST: u16 = libc::NDA_DST;
const LLADDR: u16 = libc::NDA_LLADDR;
const PORT: u16 = libc::NDA_PORT;
const BRIDGE: u8 = libc::AF_BRIDGE as u8;

/// All permanent neighbours.
pub(crate) fn list(
    socket: &mut Socket,
    names: &BTreeMap<u32, String>,
) -> Result<BTreeSet<Neighbour>, Error> {
    let request = Request::new(libc::RTM_GETNEIGH, 0, &[0; FIXED]);
    let messages = socket.dump(&request, "neighbours")?;
    let found = messages.iter().filter_map(|m| {
        let entry = decode(m)?;
        (entry.family != BRIDGE && entry.permanent).then_some(())?;
        Some(Neighbour {
            link: names.get(&entry.index)?.clone(),
            ip: m.attrs(FIXED).find(DST).and_then(ip_of)?,
            mac: entry.mac?,
        })
    });
    Ok(found.collect())
}

/// All permanent forwarding entries of VXLAN devices, which are those with an outer destination.
pub(crate) fn list_fdb(
    socket: &mut Socket,
    vxlans: &BTreeMap<u32, String>,
) -> Result<BTreeSet<Fdb>, Error> {
    if vxlans.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut header = [0; FIXED];
    header[0] = BRIDGE;
    let request = Request::new(libc::RTM_GETNEIGH, 0, &header);
    let messages = socket.dump(&request, "forwarding entries")?;
    let found = messages.iter().filter_map(|m| {
        let entry = decode(m)?;
        (entry.own && entry.permanent).then_some(())?;
        Some(Fdb {
            link: vxlans.get(&entry.index)?.clone(),
            mac: entry.mac?,
            dst: m.attrs(FIXED).find(DST).and_then(ip_of)?,
            // Of the device's own the kernel says nothing (`vxlan_fdb_info` in drivers/net/vxlan/vxlan_core.c).
            port: m.attrs(FIXED).find(PORT).and_then(be16_of),
        })
    });
    Ok(found.collect())
}

pub(crate) struct Entry {
    family: u8,
    index: u32,
    permanent: bool,
    own: bool,
    mac: Option<Mac>,
}

pub(crate) fn decode(message: &Message) -> Option<Entry> {
    let header = message.fixed::<FIXED>()?;
    let state = u16::from_ne_bytes([header[8], header[9]]);
    let mac = message.attrs(FIXED).find(LLADDR);
    Some(Entry {
        family: header[0],
        index: index_of(message)?,
        permanent: state & libc::NUD_PERMANENT != 0,
        own: header[10] & libc::NTF_SELF != 0,
        mac: mac.and_then(|m| <[u8; 6]>::try_from(m).ok()).map(Mac),
    })
}

/// The index of the link in a message about a neighbour.
pub(crate) fn index_of(message: &Message) -> Option<u32> {
    u32_of(&message.fixed::<FIXED>()?[4..])
}

/// Adds a neighbour, or replaces the one of that address.
pub(crate) fn set(socket: &mut Socket, index: u32, n: &Neighbour) -> Result<(), Error> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let request = encode(libc::RTM_NEWNEIGH, flags, index, n);
    socket.tell(
        request,
        &format_args!("set neighbour {} on {}", n.ip, n.link),
    )
}

/// Removes a neighbour; that it is gone already is fine.
pub(crate) fn remove(socket: &mut Socket, index: u32, n: &Neighbour) -> Result<(), Error> {
    let request = encode(libc::RTM_DELNEIGH, 0, index, n);
    let operation = format_args!("remove neighbour {} from {}", n.ip, n.link);
    let answer = socket.tell(request, &operation);
    tolerate(answer, &[Errno::ENOENT, Errno::ENODEV])
}

fn encode(kind: u16, flags: i32, index: u32, n: &Neighbour) -> Request {
    let header = fixed(family_of(n.ip), index, libc::NUD_PERMANENT, 0);
    let mut request = Request::new(kind, flags, &header);
    request.ip(DST, n.ip).attr(LLADDR, &n.mac.0);
    request
}

/// Adds a forwarding entry; for an Ethernet address of its own it replaces what was there.
pub(crate) fn set_fdb(socket: &mut Socket, index: u32, entry: &Fdb) -> Result<(), Error> {
    // The kernel takes the zero address for several destinations, and replaces nothing there.
    let mode = if entry.mac == Mac::ZERO {
        libc::NLM_F_APPEND
    } else {
        libc::NLM_F_REPLACE
    };
    let request = encode_fdb(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | mode, index, entry);
    let Fdb { link, mac, dst, .. } = entry;
    let operation = format_args!("set forwarding of {mac} to {dst} on {link}");
    socket.tell(request, &operation)
}

/// Removes a forwarding entry; that it is gone already is fine.
pub(crate) fn remove_fdb(socket: &mut Socket, index: u32, entry: &Fdb) -> Result<(), Error> {
    let request = encode_fdb(libc::RTM_DELNEIGH, 0, index, entry);
    let Fdb { link, mac, dst, .. } = entry;
    let operation = format_args!("remove forwarding of {mac} to {dst} from {link}");
    let answer = socket.tell(request, &operation);
    tolerate(answer, &[Errno::ENOENT, Errno::ENODEV])
}

fn encode_fdb(kind: u16, flags: i32, index: u32, entry: &Fdb) -> Request {
    let state = libc::NUD_PERMANENT | libc::NUD_NOARP;
    let header = fixed(BRIDGE, index, state, libc::NTF_SELF);
    let mut request = Request::new(kind, flags, &header);
    request.attr(LLADDR, &entry.mac.0).ip(DST, entry.dst);
    if let Some(port) = entry.port {
        request.attr(PORT, &port.to_be_bytes());
    }
    request
}

/// A `struct ndmsg`.
fn fixed(family: u8, index: u32, state: u16, flags: u8) -> [u8; FIXED] {
    let mut header = [0; FIXED];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}
