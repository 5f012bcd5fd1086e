//! From the peers to the TUN device. One thread for each socket of a family; the kernel gives all of one peer's datagrams to one
//! of them, and so they stay in order.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::burst::Burst;
use crate::coalesce::Coalescer;
use crate::message::{DATA_HEADER, Message};
use crate::packet;
use crate::peer::Peer;
use crate::session::{Refused, Session};
use crate::shared::{Event, Shared, count};
use crate::socket::{self, Received};

/// What one call can give: 64 KiB.
const BUFFER: usize = 1 << 16;
/// Calls whose packets are joined.
const BUFFERS: usize = 16;
/// So much is worth a piece of its own.
const ENOUGH: usize = 32 << 10;
/// Messages of handshakes that may wait.
const WAITING: usize = 4096;

pub(crate) fn run(shared: &Shared, lane: usize) {
    let mut worker = Worker {
        shared,
        burst: Burst::new(shared, lane),
        last: None,
        plain: Vec::new(),
    };
    let mut buffers = vec![vec![0; BUFFER]; BUFFERS];
    let mut control = nix::cmsg_space!(i32, i32);
    let sockets: Vec<_> = shared.sockets.lane(lane).collect();
    while shared.wait(sockets.iter().map(|socket| socket.as_fd())) {
        for socket in &sockets {
            let mut more = true;
            while more && !shared.stopping.load(Ordering::Relaxed) {
                let mut bytes = 0;
                for (number, buffer) in buffers.iter_mut().enumerate() {
                    let Ok(received) = socket::receive(socket, buffer, &mut control) else {
                        more = false;
                        break;
                    };
                    bytes += received.length;
                    worker.take(number, buffer, &received);
                    if bytes >= ENOUGH {
                        break;
                    }
                }
                worker.deliver(&buffers);
            }
        }
    }
}

struct Worker<'s> {
    shared: &'s Shared,
    burst: Burst<'s>,
    /// The session of the last packet: most often that of the next.
    last: Option<Arc<Session>>,
    /// Packets that are to be delivered: the number of the buffer, where they begin, and their length.
    plain: Vec<(usize, usize, usize)>,
}

/// What arrived from a peer in one call.
#[derive(Default)]
struct Arrived {
    bytes: u64,
    data: bool,
}

impl Worker<'_> {
    fn take(&mut self, number: usize, buffer: &mut [u8], received: &Received) {
        let mut arrived = Arrived::default();
        let mut at = 0;
        while at < received.length {
            let end = (at + received.size).min(received.length);
            let Some(datagram) = buffer.get_mut(at..end) else {
                return;
            };
            match Message::parse(datagram) {
                Some(Message::Data { index, counter }) => {
                    let known = self.last.as_ref().is_some_and(|last| last.index == index);
                    if !known {
                        self.account(&mut arrived, received.from);
                        self.last = self.shared.session(index);
                    }
                    if let Some((start, length)) = self.open(counter, datagram, &mut arrived) {
                        self.plain.push((number, at + start, length));
                    }
                }
                Some(_) => self.handshake(datagram, received.from),
                None => count(&self.shared.drops.malformed),
            }
            at = end;
        }
        self.account(&mut arrived, received.from);
        self.refresh();
    }

    /// Sessions may be replaced at any time: who holds one for long would not see its end.
    fn refresh(&mut self) {
        let now = self.shared.now();
        let reject_after = self.shared.options.timing.reject_after;
        self.last.take_if(|last| !last.usable(now, reject_after));
    }

    /// Opens a packet; gives where the one inside is, if it is to be delivered.
    fn open(
        &mut self,
        counter: u64,
        datagram: &mut [u8],
        arrived: &mut Arrived,
    ) -> Option<(usize, usize)> {
        let drops = &self.shared.drops;
        let Some(session) = &self.last else {
            count(&drops.unknown);
            return None;
        };
        let length = match session.open(counter, datagram) {
            Ok(length) => length,
            Err(Refused::Forged) => {
                count(&drops.forged);
                return None;
            }
            Err(Refused::Replayed) => {
                count(&drops.replayed);
                return None;
            }
        };
        arrived.bytes += datagram.len() as u64;
        if length == 0 {
            return None;
        }
        arrived.data = true;
        let body = datagram.get(DATA_HEADER..DATA_HEADER + length)?;
        let Some((length, source)) = packet::length(body).zip(packet::source(body)) else {
            count(&drops.malformed);
            return None;
        };
        let sources = self.shared.sources();
        let allowed = |peer: &Arc<Peer>| Arc::ptr_eq(peer, &session.peer);
        if !sources.find(source).iter().any(allowed) {
            count(&drops.not_allowed);
            return None;
        }
        Some((DATA_HEADER, length))
    }

    /// What follows from having heard a peer.
    fn account(&mut self, arrived: &mut Arrived, from: SocketAddr) {
        let Arrived { bytes, data } = std::mem::take(arrived);
        let Some(session) = self.last.as_ref().filter(|_| bytes > 0) else {
            return;
        };
        let peer = &session.peer;
        peer.heard_from(from);
        peer.received.fetch_add(bytes, Ordering::Relaxed);
        let first = !session.confirmed.swap(true, Ordering::Relaxed);
        let now = self.shared.now();
        self.shared.tick(peer, |timers| {
            if first {
                timers.complete();
            }
            if data {
                timers.data_received(now);
            } else {
                timers.received(now);
            }
        });
        if first {
            self.shared.activate(session, &mut self.burst);
            // It has our former key, or began before it knew of the new one: it must have a session of that before it forgets the other.
            if session.generation < self.shared.generation.load(Ordering::Relaxed) {
                self.shared.ask(peer);
            }
        }
        let timing = &self.shared.options.timing;
        let late = timing
            .reject_after
            .saturating_sub(timing.keepalive_timeout + timing.rekey_timeout);
        if session.initiator
            && now.saturating_sub(session.since) >= late
            && !session.renewed.swap(true, Ordering::Relaxed)
        {
            self.shared.ask(peer);
        }
    }

    fn handshake(&self, message: &[u8], from: SocketAddr) {
        let ours = match Message::parse(message) {
            Some(Message::CookieReply(_)) => true,
            _ => {
                let codes = self.shared.codes.read();
                let codes = codes.unwrap_or_else(PoisonError::into_inner).clone();
                codes.iter().any(|codes| codes.holds(message))
            }
        };
        if !ours {
            return count(&self.shared.drops.malformed);
        }
        if self.shared.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            return count(&self.shared.drops.deferred);
        }
        let message = message.to_vec();
        self.shared.tell(Event::Handshake { message, from });
    }

    /// Gives the host what was opened.
    fn deliver(&mut self, buffers: &[Vec<u8>]) {
        if self.plain.is_empty() {
            return;
        }
        let mut coalescer = Coalescer::new(|parts: &[IoSlice<'_>]| {
            if self.shared.tun.write(parts).is_err() {
                count(&self.shared.drops.refused);
            }
        });
        for (number, start, length) in self.plain.drain(..) {
            let buffer = buffers.get(number);
            if let Some(packet) = buffer.and_then(|buffer| buffer.get(start..start + length)) {
                coalescer.push(packet);
            }
        }
        coalescer.flush();
    }
}
