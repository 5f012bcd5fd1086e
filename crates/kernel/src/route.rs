//! Routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use strait_host::{Family, Hop, Route, RouteKind};

use crate::error::{Error, tolerate};
use crate::socket::Socket;
use crate::wire::{Attrs, Message, Request, family_of, ip_of, octets, u16_of, u32_of};

/// Length of `struct rtmsg` and of `struct rtnexthop`.
const FIXED: usize = 12;
const NEXT_HOP: usize = 8;
/// `RTA_*` in linux/rtnetlink.h.
const DST: u16 = libc::RTA_DST;
const OIF: u16 = libc::RTA_OIF;
const GATEWAY: u16 = libc::RTA_GATEWAY;
const PRIORITY: u16 = libc::RTA_PRIORITY;
const PREFERRED_SOURCE: u16 = libc::RTA_PREFSRC;
const MULTIPATH: u16 = libc::RTA_MULTIPATH;
const TABLE: u16 = libc::RTA_TABLE;
const VIA: u16 = libc::RTA_VIA;
/// `RT_TABLE_LOCAL`.
const LOCAL: u32 = 255;
/// `RTM_F_CLONED`.
const CLONED: u32 = 0x200;
/// `RTNH_F_ONLINK`.
const ONLINK: u8 = 4;

/// The routes of all tables but `local`.
pub(crate) fn list(
    socket: &mut Socket,
    names: &BTreeMap<u32, String>,
) -> Result<BTreeSet<Route>, Error> {
    // There may be many: a set is built of all at once, not one after the other.
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; FIXED];
        header[0] = family as u8;
        let request = Request::new(libc::RTM_GETROUTE, 0, &header);
        match socket.dump_as(&request, "routes", |m| decode(&m, names)) {
            Ok(of_family) => routes.extend(of_family),
            // No routes of a family that the kernel was built without.
            Err(Error::Kernel {
                errno: Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP,
                ..
            }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(routes.into_iter().collect())
}

pub(crate) fn decode(message: &Message, names: &BTreeMap<u32, String>) -> Option<Route> {
    let [family, length, _, _, table, protocol, _, kind, flags @ ..] = message.fixed::<FIXED>()?;
    let flags = u32::from_ne_bytes(flags);
    let attrs = message.attrs(FIXED);
    let number = |kind| attrs.find(kind).and_then(u32_of);
    let table = number(TABLE).unwrap_or(u32::from(table));
    if table == LOCAL || flags & CLONED != 0 {
        return None;
    }
    let family = match i32::from(family) {
        libc::AF_INET => Family::V4,
        libc::AF_INET6 => Family::V6,
        _ => return None,
    };
    let dst = match (attrs.find(DST), family) {
        (Some(dst), _) => ip_of(dst)?,
        (None, Family::V4) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        (None, Family::V6) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let kind = match kind {
        libc::RTN_UNICAST => RouteKind::Unicast {
            hops: hops(attrs, flags as u8, names),
            src: attrs.find(PREFERRED_SOURCE).and_then(ip_of),
        },
        libc::RTN_UNREACHABLE => RouteKind::Unreachable,
        libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        libc::RTN_PROHIBIT => RouteKind::Prohibit,
        libc::RTN_THROW => RouteKind::Throw,
        // Local, broadcast, multicast, anycast: the kernel's own.
        _ => return None,
    };
    Some(Route {
        table,
        dst: IpNet::new(dst, length).ok()?,
        metric: number(PRIORITY).unwrap_or_default(),
        protocol,
        kind,
    })
}

fn hops(attrs: Attrs<'_>, flags: u8, names: &BTreeMap<u32, String>) -> Vec<Hop> {
    let hop = |index: Option<u32>, flags: u8, attrs: Attrs<'_>| Hop {
        dev: index.and_then(|i| names.get(&i).cloned()),
        via: via(attrs),
        onlink: flags & ONLINK != 0,
    };
    let Some(mut rest) = attrs.find(MULTIPATH) else {
        return vec![hop(attrs.find(OIF).and_then(u32_of), flags, attrs)];
    };
    let mut hops = Vec::new();
    while let Some(len) = u16_of(rest).map(usize::from) {
        let Some(one) = rest.get(..len).filter(|_| len >= NEXT_HOP) else {
            break;
        };
        hops.push(hop(u32_of(&one[4..]), one[2], Attrs(&one[NEXT_HOP..])));
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// The neighbour, also one of the other family (`RTA_VIA`: 2 bytes of family, then the address).
fn via(attrs: Attrs<'_>) -> Option<IpAddr> {
    let other = || attrs.find(VIA)?.get(2..);
    attrs.find(GATEWAY).or_else(other).and_then(ip_of)
}

/// The indexes of a route's links, in the order of its hops; 0 where none is named.
pub(crate) type Indexes = Vec<u32>;

/// Adds a route, or replaces the one of the same table, destination and metric.
pub(crate) fn set(socket: &mut Socket, route: &Route, indexes: &Indexes) -> Result<(), Error> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let scope = match (route.family(), route.hops()) {
        (Family::V4, hops) if !hops.is_empty() && hops.iter().all(|h| h.via.is_none()) => {
            libc::RT_SCOPE_LINK
        }
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    let mut request = begin(libc::RTM_NEWROUTE, flags, route, scope);
    if let RouteKind::Unicast { src, .. } = &route.kind {
        encode_hops(&mut request, route, indexes)?;
        if let Some(src) = src {
            request.ip(PREFERRED_SOURCE, *src);
        }
    }
    socket.tell(request, &format_args!("set route {}", Words(route)))
}

/// Removes a route, and no other one; that it is gone already is fine.
pub(crate) fn remove(socket: &mut Socket, route: &Route, indexes: &Indexes) -> Result<(), Error> {
    let mut request = begin(libc::RTM_DELROUTE, 0, route, libc::RT_SCOPE_NOWHERE);
    // IPv6 takes a request that names several hops for several requests; without hops it removes them all.
    if route.family() == Family::V4 || route.hops().len() == 1 {
        encode_hops(&mut request, route, indexes)?;
    }
    let answer = socket.tell(request, &format_args!("remove route {}", Words(route)));
    tolerate(answer, &[Errno::ESRCH, Errno::ENODEV])
}

fn begin(kind: u16, flags: i32, route: &Route, scope: u8) -> Request {
    let what = match route.kind {
        RouteKind::Unicast { .. } => libc::RTN_UNICAST,
        RouteKind::Unreachable => libc::RTN_UNREACHABLE,
        RouteKind::Blackhole => libc::RTN_BLACKHOLE,
        RouteKind::Prohibit => libc::RTN_PROHIBIT,
        RouteKind::Throw => libc::RTN_THROW,
    };
    // A flag of the single hop stands in the header, those of several with each.
    let onlink = match route.hops() {
        [hop] if hop.onlink => u32::from(ONLINK),
        _ => 0,
    };
    let mut header = [0; FIXED];
    header[0] = family_of(route.dst.addr());
    header[1] = route.dst.prefix_len();
    header[4] = u8::try_from(route.table).unwrap_or_default();
    header[5] = route.protocol;
    header[6] = scope;
    header[7] = what;
    header[8..].copy_from_slice(&onlink.to_ne_bytes());
    let mut request = Request::new(kind, flags, &header);
    request
        .attr(DST, &octets(route.dst.addr()))
        .u32(TABLE, route.table)
        .u32(PRIORITY, route.metric);
    request
}

fn encode_hops(request: &mut Request, route: &Route, indexes: &Indexes) -> Result<(), Error> {
    let alien = |h: &&Hop| h.via.is_some_and(|ip| Family::of(ip) != route.family());
    if route.hops().iter().any(|h| alien(&h)) {
        return Err(Error::Unsupported(format!(
            "route {} by way of the other family",
            Words(route)
        )));
    }
    let pairs = || route.hops().iter().zip(indexes);
    if route.hops().len() > 1 {
        request.nest(MULTIPATH, |nest| {
            for (hop, index) in pairs() {
                let flags = if hop.onlink { ONLINK } else { 0 };
                nest.next_hop(flags, *index, |attrs| gateway(attrs, hop));
            }
        });
        return Ok(());
    }
    for (hop, index) in pairs() {
        if *index != 0 {
            request.u32(OIF, *index);
        }
        gateway(request, hop);
    }
    Ok(())
}

fn gateway(request: &mut Request, hop: &Hop) {
    if let Some(via) = hop.via {
        request.ip(GATEWAY, via);
    }
}

/// A route in the words of `ip route`.
struct Words<'a>(&'a Route);

impl std::fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Route {
            table, dst, metric, ..
        } = self.0;
        let kind = match self.0.kind {
            RouteKind::Unicast { .. } => "",
            RouteKind::Unreachable => "unreachable ",
            RouteKind::Blackhole => "blackhole ",
            RouteKind::Prohibit => "prohibit ",
            RouteKind::Throw => "throw ",
        };
        write!(f, "{kind}{dst}")?;
        for hop in self.0.hops() {
            if let Some(via) = hop.via {
                write!(f, " via {via}")?;
            }
            if let Some(dev) = &hop.dev {
                write!(f, " dev {dev}")?;
            }
        }
        write!(f, " table {table} metric {metric}")
    }
}
