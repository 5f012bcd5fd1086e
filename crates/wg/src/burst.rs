//! Datagrams of one session that are sent in one call.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::message::{DATA_HEADER, TAG};
use crate::segment::{Segments, Vnet};
use crate::session::Session;
use crate::shared::{Shared, count};

/// `UDP_MAX_SEGMENTS` of older kernels (newer ones take 128), and what fits one IP packet of either family.
const DATAGRAMS: usize = 64;
const BYTES: usize = 65_487;

/// Sealed packets, as the kernel wants them (UDP_SEGMENT): of one size, but for the last, which may be smaller.
pub(crate) struct Burst<'s> {
    shared: &'s Shared,
    lane: usize,
    buffer: Vec<u8>,
    filled: usize,
    size: usize,
    datagrams: usize,
    session: Option<Arc<Session>>,
    data: bool,
}

impl<'s> Burst<'s> {
    pub(crate) fn new(shared: &'s Shared, lane: usize) -> Self {
        Self {
            shared,
            lane,
            buffer: vec![0; BYTES],
            filled: 0,
            size: 0,
            datagrams: 0,
            session: None,
            data: false,
        }
    }

    /// Adds a frame as it was read from the TUN device.
    pub(crate) fn frame(&mut self, session: &Arc<Session>, frame: &[u8]) {
        let cut = Vnet::parse(frame).and_then(|(vnet, packet)| Segments::of(vnet, packet));
        let Some(mut segments) = cut else {
            return count(&self.shared.drops.malformed);
        };
        loop {
            let length = segments.length();
            if length == 0 {
                return;
            }
            if !self.add(session, length, |out| segments.write(out)) {
                return count(&self.shared.drops.malformed);
            }
        }
    }

    /// Adds an empty packet.
    pub(crate) fn keepalive(&mut self, session: &Arc<Session>) {
        self.add(session, 0, |_| {});
    }

    fn add(
        &mut self,
        session: &Arc<Session>,
        length: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> bool {
        // Padded to 16 bytes, but never longer than the largest packet.
        let mtu = usize::from(self.shared.mtu.load(Ordering::Relaxed));
        let padded = length.next_multiple_of(16).min(mtu).max(length);
        let size = DATA_HEADER + padded + TAG;
        if size > BYTES {
            return false;
        }
        let other = self
            .session
            .as_ref()
            .is_some_and(|own| !Arc::ptr_eq(own, session));
        let full = self.datagrams == DATAGRAMS || self.filled + size > BYTES;
        let uneven =
            self.datagrams > 0 && (size > self.size || !self.filled.is_multiple_of(self.size));
        if other || full || uneven {
            self.flush();
        }
        if self.session.is_none() {
            self.session = Some(session.clone());
            self.size = size;
        }
        let out = &mut self.buffer[self.filled..self.filled + size];
        let body = &mut out[DATA_HEADER..DATA_HEADER + padded];
        write(&mut body[..length]);
        body[length..].fill(0);
        if session.seal(out) {
            self.filled += size;
            self.datagrams += 1;
            self.data |= length > 0;
        }
        true
    }

    /// Sends what was collected.
    pub(crate) fn flush(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        let (filled, size, data) = (self.filled, self.size, self.data);
        (self.filled, self.size, self.datagrams, self.data) = (0, 0, 0, false);
        if filled == 0 {
            return self.shared.ask(&session.peer);
        }
        let peer = &session.peer;
        let Some(to) = peer.endpoint() else { return };
        self.transmit(to, filled, size);
        peer.sent.fetch_add(filled as u64, Ordering::Relaxed);
        let now = self.shared.now();
        self.shared.tick(peer, |timers| {
            if data {
                timers.data_sent(now);
            } else {
                timers.sent(now);
            }
        });
        let timing = &self.shared.options.timing;
        if session.old(now, timing.rekey_after) && !session.renewed.swap(true, Ordering::Relaxed) {
            self.shared.ask(peer);
        }
    }

    fn transmit(&self, to: std::net::SocketAddr, filled: usize, size: usize) {
        let datagrams = &self.buffer[..filled];
        let offload = self.shared.offload.load(Ordering::Relaxed);
        let sent = self
            .shared
            .sockets
            .send(self.lane, to, datagrams, size, offload);
        let Err(error) = sent else { return };
        // A device that computes no checksums (EIO), or a path whose datagrams are shorter (EINVAL, EMSGSIZE).
        let one_by_one = offload
            && filled > size
            && matches!(
                error.raw_os_error(),
                Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)
            );
        if one_by_one {
            if error.raw_os_error() == Some(libc::EIO) {
                self.shared.offload.store(false, Ordering::Relaxed);
            }
            if self
                .shared
                .sockets
                .send(self.lane, to, datagrams, size, false)
                .is_ok()
            {
                return;
            }
        }
        count(&self.shared.drops.refused);
    }
}
