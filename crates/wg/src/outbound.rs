//! From the TUN device to the peers. One thread for each queue; a flow stays in its queue, and so in order.

use std::io;
use std::sync::atomic::Ordering;

use crate::burst::Burst;
use crate::packet;
use crate::segment::VNET;
use crate::shared::{Shared, count};

/// The largest frame.
const FRAME: usize = VNET + 65_535;
/// Frames that are taken before what they gave is sent.
const FRAMES: usize = 64;

pub(crate) fn run(shared: &Shared, queue: usize) {
    let mut frame = vec![0; FRAME];
    let mut burst = Burst::new(shared, queue);
    let mut failed = false;
    while shared.wait(shared.tun.queue(queue).into_iter()) {
        let mut taken = 0;
        loop {
            match shared.tun.read(queue, &mut frame) {
                Ok(length) => {
                    failed = false;
                    send(shared, &mut burst, frame.get(..length).unwrap_or_default());
                    taken += 1;
                    if taken % FRAMES == 0 {
                        burst.flush();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    // A device that is down (EIO) or gone (EBADFD) can always be "read".
                    if !failed {
                        tracing::warn!(%error, queue, "TUN device can't be read");
                    }
                    failed = true;
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    break;
                }
            }
            if shared.stopping.load(Ordering::Relaxed) {
                return;
            }
        }
        burst.flush();
    }
}

fn send(shared: &Shared, burst: &mut Burst<'_>, frame: &[u8]) {
    let packet = frame.get(VNET..).unwrap_or_default();
    let Some(destination) = packet::destination(packet) else {
        return count(&shared.drops.malformed);
    };
    let routes = shared.routes();
    let now = shared.now();
    let Some((peer, session)) = shared.choose(routes.find(destination), now) else {
        return count(&shared.drops.unroutable);
    };
    if let Some(session) = session {
        return burst.frame(&session, frame);
    }
    // What was collected goes first, since the peer's session may be there in a moment.
    burst.flush();
    let mut staged = peer.staged();
    // A session that came while we waited has sent what was there before this.
    if let Some(session) = peer.current(now, shared.options.timing.reject_after) {
        drop(staged);
        return burst.frame(&session, frame);
    }
    if peer.endpoint().is_none() {
        return count(&shared.drops.unanswered);
    }
    staged.push(frame);
    drop(staged);
    shared.ask(peer);
}
