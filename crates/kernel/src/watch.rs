//! News of changes, from whoever made them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::task::Poll;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::errno::Errno;

use crate::error::{Error, errno_of};
use crate::socket::{Socket, enlarge};
use crate::wire::{Message, messages};
use crate::{address, link, neighbour};

/// Receive buffer in bytes: what may come while nobody reads.
const RECEIVE: usize = 4 << 20;
/// Bytes offered to one read; an event is at most one page and a half.
const READ: usize = 64 * 1024;
/// `NFNLGRP_NFTABLES`, and `NFT_MSG_NEWGEN` with its subsystem: it closes each transaction.
const NFT_GROUP: u32 = 7;
const NFT_GENERATION: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_NEWGEN as u16;
/// Length of `struct netconfmsg`, a byte, with what aligns the attributes.
const NETCONF: usize = 4;
/// `NETCONFA_*` in linux/netconf.h.
const FORWARDING: u16 = 2;
const RP_FILTER: u16 = 3;

/// Something on the host changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A link of this name appeared, changed or went.
    Link(String),
    /// An address of a link; its name, if it is known.
    Address(Option<String>),
    /// A route. The kernel does not announce IPv4 routes that go with their link or source address.
    Route,
    /// A policy rule.
    Rule,
    /// A neighbour or forwarding entry of a link, dynamic ones too; the link's name, if it is known.
    Neighbour(Option<String>),
    /// Forwarding or reverse-path filtering, of a link or of the host.
    Sysctl,
    /// An nftables transaction, in any table.
    Nft,
    /// Events were lost: whatever was known of the host is stale.
    Overrun,
}

/// A stream of events that never ends.
pub struct Watch {
    route: TokioSocket,
    netfilter: TokioSocket,
    /// To learn the links' names, in the namespace in which this was made.
    lookup: Socket,
    names: BTreeMap<u32, String>,
    pending: VecDeque<Event>,
    buffer: Vec<u8>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Listens in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Error> {
        let groups = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_NETCONF,
            libc::RTNLGRP_IPV6_NETCONF,
        ];
        let mut watch = Self {
            route: subscribe(NETLINK_ROUTE, &groups)?,
            netfilter: subscribe(NETLINK_NETFILTER, &[NFT_GROUP])?,
            lookup: Socket::open(NETLINK_ROUTE)?,
            names: BTreeMap::new(),
            pending: VecDeque::new(),
            buffer: Vec::with_capacity(READ),
        };
        // After the subscription: a link that appears meanwhile is in one or the other.
        watch.learn_names()?;
        Ok(watch)
    }

    fn learn_names(&mut self) -> Result<(), Error> {
        let links = link::list(&mut self.lookup)?;
        self.names = links.into_iter().map(|l| (l.index, l.name)).collect();
        Ok(())
    }

    /// The next event. Dropping the future loses none.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.try_next() {
                return event;
            }
            let (source, got) = poll_fn(|cx| {
                self.buffer.clear();
                for (source, socket) in [
                    (Source::Route, &self.route),
                    (Source::Netfilter, &self.netfilter),
                ] {
                    if let Poll::Ready(got) = socket.poll_recv(cx, &mut self.buffer) {
                        return Poll::Ready((source, got));
                    }
                }
                Poll::Pending
            })
            .await;
            self.take(source, got);
        }
    }

    /// An event that is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        for source in [Source::Route, Source::Netfilter] {
            while self.pending.is_empty() {
                let socket = match source {
                    Source::Route => &self.route,
                    Source::Netfilter => &self.netfilter,
                };
                self.buffer.clear();
                let got = socket.socket_ref().recv(&mut self.buffer, 0);
                match got {
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    got => self.take(source, got.map(drop)),
                }
            }
        }
        self.pending.pop_front()
    }

    /// Takes all events that are there already, without waiting, and says how many they were.
    ///
    /// For a caller that will look at the whole host anyway.
    pub fn drain(&mut self) -> usize {
        std::iter::from_fn(|| self.try_next()).count()
    }

    /// Turns what was read into events.
    fn take(&mut self, source: Source, got: io::Result<()>) {
        if let Err(error) = got {
            if error.kind() == ErrorKind::Interrupted {
                return;
            }
            if error.raw_os_error() != Some(libc::ENOBUFS) {
                tracing::warn!(%error, "reading netlink events failed");
            }
            // Names may have changed among what was lost; without them events carry none.
            if self.learn_names().is_err() {
                self.names.clear();
            }
            self.pending.push_back(Event::Overrun);
            return;
        }
        for message in messages(&self.buffer) {
            let event = match source {
                Source::Route => self.route_event(&message),
                Source::Netfilter => (message.kind == NFT_GENERATION).then_some(Event::Nft),
            };
            self.pending.extend(event);
        }
    }

    fn route_event(&mut self, message: &Message) -> Option<Event> {
        let name = |index: Option<u32>| index.and_then(|i| self.names.get(&i).cloned());
        match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                let (index, name) = (link::index_of(message)?, link::name_of(message)?);
                if message.kind == libc::RTM_NEWLINK {
                    self.names.insert(index, name.clone());
                } else if !of_bridge(message) {
                    // A bridge tells in the same words that a port has left it.
                    self.names.remove(&index);
                }
                Some(Event::Link(name))
            }
            libc::RTM_NEWADDR | libc::RTM_DELADDR => {
                Some(Event::Address(name(address::index_of(message))))
            }
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Some(Event::Route),
            libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Event::Rule),
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                Some(Event::Neighbour(name(neighbour::index_of(message))))
            }
            libc::RTM_NEWNETCONF => {
                let attrs = message.attrs(NETCONF);
                let told = [FORWARDING, RP_FILTER].map(|kind| attrs.find(kind));
                told.iter().any(Option::is_some).then_some(Event::Sysctl)
            }
            _ => None,
        }
    }
}

#[derive(Clone, Copy)]
enum Source {
    Route,
    Netfilter,
}

fn of_bridge(message: &Message) -> bool {
    message.body.first() == Some(&(libc::AF_BRIDGE as u8))
}

fn subscribe(protocol: isize, groups: &[u32]) -> Result<TokioSocket, Error> {
    let open = |e: io::Error| Error::Open(errno_of(&e));
    if tokio::runtime::Handle::try_current().is_err() {
        // Registering would panic.
        return Err(Error::Open(Errno::ENOTSUP));
    }
    let mut socket = TokioSocket::new(protocol).map_err(open)?;
    let raw = socket.socket_mut();
    enlarge(raw, RECEIVE);
    raw.bind(&SocketAddr::new(0, 0)).map_err(open)?;
    for group in groups {
        raw.add_membership(*group).map_err(open)?;
    }
    Ok(socket)
}
