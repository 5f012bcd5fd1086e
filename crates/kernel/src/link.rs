//! Links: decoding, and the steps that make one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use strait_host::{Link, LinkKind, Mac, Vxlan};

use crate::error::{Error, tolerate};
use crate::neighbour;
use crate::socket::Socket;
use crate::wire::{Attrs, Message, Request, ip_of, text_of, u32_of};

/// Length of `struct ifinfomsg`.
const FIXED: usize = 16;
/// `IFLA_*` in linux/if_link.h.
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const ALIAS: u16 = 20;
const EXT_MASK: u16 = 29;
/// `IFLA_INFO_*`.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
/// `IFLA_VXLAN_*`.
const VXLAN_ID: u16 = 1;
const VXLAN_GROUP: u16 = 2;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_GROUP6: u16 = 16;
const VXLAN_LOCAL6: u16 = 17;
/// `RTEXT_FILTER_SKIP_STATS` in linux/rtnetlink.h.
const SKIP_STATS: u32 = 1 << 3;

/// A link with its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) link: Link,
    master: Option<u32>,
}

/// All links of the namespace.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<Indexed>, Error> {
    let mut request = Request::new(libc::RTM_GETLINK, 0, &fixed(0, 0, 0));
    request.u32(EXT_MASK, SKIP_STATS);
    let messages = socket.dump(&request, "links")?;
    let mut links: Vec<Indexed> = messages.iter().filter_map(decode).collect();
    let names: BTreeMap<u32, String> = links.iter().map(|l| (l.index, l.name.clone())).collect();
    for link in &mut links {
        link.link.master = link.master.and_then(|index| names.get(&index).cloned());
    }
    Ok(links)
}

/// The index of a link, or an error if there is none of this name.
pub(crate) fn index(socket: &mut Socket, name: &str) -> Result<u32, Error> {
    look_up(socket, name).map(|link| link.index)
}

/// One link; of its master, nothing.
fn look_up(socket: &mut Socket, name: &str) -> Result<Indexed, Error> {
    let mut request = Request::new(libc::RTM_GETLINK, 0, &fixed(0, 0, 0));
    request.text(NAME, name).u32(EXT_MASK, SKIP_STATS);
    match socket.ask(request, &format_args!("look up link {name}")) {
        Ok(messages) => messages
            .iter()
            .find_map(decode)
            .ok_or_else(|| Error::NoLink(name.to_owned())),
        Err(Error::Kernel {
            errno: Errno::ENODEV,
            ..
        }) => Err(Error::NoLink(name.to_owned())),
        Err(e) => Err(e),
    }
}

/// The index in a message about a link.
pub(crate) fn index_of(message: &Message) -> Option<u32> {
    u32_of(message.fixed::<FIXED>()?.get(4..)?)
}

/// The name in a message about a link.
pub(crate) fn name_of(message: &Message) -> Option<String> {
    message.attrs(FIXED).find(NAME).map(text_of)
}

pub(crate) fn decode(message: &Message) -> Option<Indexed> {
    let header = message.fixed::<FIXED>()?;
    let attrs = message.attrs(FIXED);
    let hardware = u16::from_ne_bytes([header[2], header[3]]);
    let mac = attrs
        .find(ADDRESS)
        .and_then(|octets| <[u8; 6]>::try_from(octets).ok())
        .map(Mac)
        .filter(|mac| *mac != Mac::ZERO);
    let master = attrs.find(MASTER).and_then(u32_of).filter(|i| *i != 0);
    Some(Indexed {
        index: index_of(message)?,
        name: name_of(message)?,
        master,
        link: Link {
            kind: kind(attrs, hardware),
            mtu: attrs.find(MTU).and_then(u32_of).unwrap_or_default(),
            up: u32_of(&header[8..])? & libc::IFF_UP as u32 != 0,
            mac,
            alias: attrs.find(ALIAS).map(text_of).filter(|a| !a.is_empty()),
            master: None,
        },
    })
}

fn kind(attrs: Attrs<'_>, hardware: u16) -> LinkKind {
    let info = attrs.inside(LINK_INFO);
    let name = info.and_then(|i| i.find(INFO_KIND)).map(text_of);
    match name.as_deref() {
        Some("vxlan") => LinkKind::Vxlan(vxlan(
            info.and_then(|i| i.inside(INFO_DATA)).unwrap_or(Attrs(&[])),
        )),
        Some("veth") => LinkKind::Veth,
        Some("bridge") => LinkKind::Bridge,
        Some("wireguard") => LinkKind::Wireguard,
        Some("tun") => LinkKind::Tun,
        Some(other) => LinkKind::Other(other.to_owned()),
        None if hardware == libc::ARPHRD_LOOPBACK => LinkKind::Loopback,
        None => LinkKind::Other(String::new()),
    }
}

fn vxlan(data: Attrs<'_>) -> Vxlan {
    let ip = |v4, v6| {
        let found = data.find(v4).or_else(|| data.find(v6)).and_then(ip_of);
        found.filter(|ip| !ip.is_unspecified())
    };
    Vxlan {
        vni: data.find(VXLAN_ID).and_then(u32_of).unwrap_or_default(),
        port: data
            .find(VXLAN_PORT)
            .and_then(|p| Some(u16::from_be_bytes(p.get(..2)?.try_into().ok()?)))
            .unwrap_or_default(),
        local: ip(VXLAN_LOCAL, VXLAN_LOCAL6),
        remote: ip(VXLAN_GROUP, VXLAN_GROUP6),
        learning: data.find(VXLAN_LEARNING).is_some_and(|l| l == [1]),
    }
}

/// Makes a link. It is up only once it carries its alias; if a step fails, nothing is left of it.
pub(crate) fn create(socket: &mut Socket, name: &str, link: &Link) -> Result<(), Error> {
    let (kind, vxlan) = match &link.kind {
        LinkKind::Vxlan(vxlan) => ("vxlan", Some(vxlan)),
        LinkKind::Wireguard => ("wireguard", None),
        LinkKind::Veth
        | LinkKind::Bridge
        | LinkKind::Loopback
        | LinkKind::Tun
        | LinkKind::Other(_) => {
            return Err(Error::Unsupported(format!(
                "making link {name}, which is neither a VXLAN nor a WireGuard device"
            )));
        }
    };
    let master = match &link.master {
        Some(master) => Some(index(socket, master)?),
        None => None,
    };
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = Request::new(libc::RTM_NEWLINK, flags, &fixed(0, 0, 0));
    request.text(NAME, name).u32(MTU, link.mtu);
    if let Some(mac) = link.mac {
        request.attr(ADDRESS, &mac.0);
    }
    if let Some(master) = master {
        request.u32(MASTER, master);
    }
    request.nest(LINK_INFO, |info| {
        info.text(INFO_KIND, kind);
        if let Some(vxlan) = vxlan {
            info.nest(INFO_DATA, |data| encode_vxlan(data, vxlan));
        }
    });
    socket.tell(request, &format_args!("make link {name}"))?;
    let settled = index(socket, name).and_then(|index| settle(socket, index, name, link));
    if settled.is_err() {
        // The error that matters is the first one.
        let _ = remove(socket, name);
    }
    settled
}

fn encode_vxlan(data: &mut Request, vxlan: &Vxlan) {
    data.attr(VXLAN_PORT, &vxlan.port.to_be_bytes());
    encode_changeable(data, vxlan);
}

/// What can be changed while the device is in use, and its network identifier.
fn encode_changeable(data: &mut Request, vxlan: &Vxlan) {
    data.u32(VXLAN_ID, vxlan.vni)
        .u8(VXLAN_LEARNING, u8::from(vxlan.learning));
    let mut ip = |v4, v6, ip: Option<IpAddr>| match ip {
        Some(ip @ IpAddr::V4(_)) => drop(data.ip(v4, ip)),
        Some(ip @ IpAddr::V6(_)) => drop(data.ip(v6, ip)),
        None => {}
    };
    ip(VXLAN_LOCAL, VXLAN_LOCAL6, vxlan.local);
    ip(VXLAN_GROUP, VXLAN_GROUP6, vxlan.remote);
}

/// Sets the alias, and only then the state: creation takes no alias.
fn settle(socket: &mut Socket, index: u32, name: &str, link: &Link) -> Result<(), Error> {
    let mut request = Request::new(libc::RTM_SETLINK, 0, &fixed(index, 0, 0));
    request.attr(ALIAS, link.alias.as_deref().unwrap_or_default().as_bytes());
    socket.tell(request, &format_args!("mark link {name}"))?;
    set_up(socket, index, name, link.up)
}

fn set_up(socket: &mut Socket, index: u32, name: &str, up: bool) -> Result<(), Error> {
    let mask = libc::IFF_UP as u32;
    let request = Request::new(
        libc::RTM_SETLINK,
        0,
        &fixed(index, if up { mask } else { 0 }, mask),
    );
    let state = if up { "up" } else { "down" };
    socket.tell(request, &format_args!("set link {name} {state}"))
}

/// Gives a VXLAN device another source, another default destination or none, and other learning.
fn redirect(socket: &mut Socket, index: u32, name: &str, vxlan: &Vxlan) -> Result<(), Error> {
    let any = match vxlan.local {
        Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Some(IpAddr::V4(_)) | None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let explicit = Vxlan {
        remote: vxlan.remote.or(Some(any)),
        ..vxlan.clone()
    };
    // `RTM_SETLINK` does not look at what is particular to a type.
    let mut request = Request::new(libc::RTM_NEWLINK, 0, &fixed(index, 0, 0));
    request.nest(LINK_INFO, |info| {
        info.text(INFO_KIND, "vxlan");
        info.nest(INFO_DATA, |data| encode_changeable(data, &explicit));
    });
    socket.tell(request, &format_args!("redirect link {name}"))
}

/// Sets the ends of a VXLAN device, MTU, Ethernet address, alias and state, where they differ.
pub(crate) fn change(socket: &mut Socket, name: &str, link: &Link) -> Result<(), Error> {
    let Indexed {
        index, link: have, ..
    } = look_up(socket, name)?;
    if let (LinkKind::Vxlan(old), LinkKind::Vxlan(new)) = (&have.kind, &link.kind)
        && old != new
    {
        redirect(socket, index, name, new)?;
    }
    let mtu = Some(link.mtu).filter(|mtu| *mtu != have.mtu);
    let mac = link.mac.filter(|mac| Some(*mac) != have.mac);
    // With an Ethernet address the kernel drops even permanent neighbours.
    let neighbours = match mac {
        Some(_) => neighbour::list(socket, &BTreeMap::from([(index, name.to_owned())]))?,
        None => BTreeSet::new(),
    };
    if mtu.is_some() || mac.is_some() {
        let mut request = Request::new(libc::RTM_SETLINK, 0, &fixed(index, 0, 0));
        if let Some(mtu) = mtu {
            request.u32(MTU, mtu);
        }
        if let Some(mac) = mac {
            request.attr(ADDRESS, &mac.0);
        }
        socket.tell(request, &format_args!("change link {name}"))?;
    }
    settle(socket, index, name, link)?;
    for n in &neighbours {
        neighbour::set(socket, index, n)?;
    }
    Ok(())
}

/// Removes a link; that it is gone already is fine.
pub(crate) fn remove(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let mut request = Request::new(libc::RTM_DELLINK, 0, &fixed(0, 0, 0));
    request.text(NAME, name);
    let answer = socket.tell(request, &format_args!("remove link {name}"));
    tolerate(answer, &[Errno::ENODEV])
}

/// A `struct ifinfomsg`.
fn fixed(index: u32, flags: u32, mask: u32) -> [u8; FIXED] {
    let mut header = [0; FIXED];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&mask.to_ne_bytes());
    header
}
