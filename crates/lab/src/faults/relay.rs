//! A stretch of bad line: it takes the place of a port of a bridge, and passes frames on late, or not at all.
//!
//! ```text
//!  without:   machine ── port ┐bridge
//!  with:      machine ── port ▸ this thread ▸ relay1p ── relay1 ┐bridge
//! ```
//!
//! Nothing of it is there while a line is good.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use strait_netns::{FRAME_HEADER, Wire};

use super::link::Link;
use super::shape::{Dice, Line, Shape};
use crate::netns;

/// A frame at most: 64 KiB that are still to be cut, and headers.
const LARGEST: usize = FRAME_HEADER + 65_536 + 64;
/// Frames that are taken from one side before the other has its turn.
const BATCH: usize = 64;

/// A line in the place of a port.
#[derive(Debug)]
pub(crate) struct Relay {
    link: Link,
    name: String,
    lines: Arc<Mutex<[Line; 2]>>,
    /// Asked to flush, and closed to end the thread.
    running: Option<(UnixStream, JoinHandle<()>)>,
}

impl Relay {
    /// Puts a line between a port and its bridge, whose new port gets a name that no other has. No packet is lost by that; few may arrive twice.
    pub(crate) fn new(link: &Link, name: &str, shapes: [Shape; 2]) -> Result<Self> {
        let mut lines = <[Line; 2]>::default();
        for (line, shape) in lines.iter_mut().zip(shapes) {
            line.set(shape);
        }
        let mut relay = Self {
            link: link.clone(),
            name: name.to_owned(),
            lines: Arc::new(Mutex::new(lines)),
            running: None,
        };
        match relay.start() {
            Ok(()) => Ok(relay),
            Err(error) => {
                // What was made goes again; why it failed is what counts.
                let _ = relay.end();
                Err(error)
            }
        }
    }

    /// Changes what happens to what comes to the machine, and to what comes from it.
    pub(crate) fn set(&self, shapes: [Shape; 2]) {
        for (line, shape) in self.lock().iter_mut().zip(shapes) {
            line.set(shape);
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Line; 2]> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&mut self) -> Result<()> {
        let (place, port, bridge) = (&self.link.at, &self.link.port, self.link.bridge);
        let (near, far) = (&self.name, self.inner());
        netns::ip(
            place,
            &[
                format!("link add {near} type veth peer name {far}"),
                format!("link set {near} addrgenmode none gso_max_segs 1"),
                format!("link set {far} addrgenmode none up"),
                format!("link set {near} master {bridge} up"),
            ],
        )?;
        self.wait_for_port()?;
        // Loss is for packets, not for the bundles of them that the kernel passes on among its own devices.
        self.cut_bundles("1")?;
        let open = |device: &str| {
            netns::find(place)?
                .run(|| Wire::new(device))?
                .with_context(|| format!("cannot listen at {device} of {place}"))
        };
        let inner = open(&far)?;
        let outer = open(port)?;
        netns::ip(place, &[format!("link set {port} nomaster")])?;
        let (ours, theirs) = UnixStream::pair()?;
        let lines = self.lines.clone();
        let name = format!("{port} {near}");
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            if let Err(error) = pass_on([&inner, &outer], &lines, &theirs) {
                let _ = writeln!(std::io::stderr(), "a relay ended: {error:#}");
            }
        })?;
        self.running = Some((ours, thread));
        Ok(())
    }

    /// A new port passes frames once the kernel has noticed, on a thread of its own, that its cable is there.
    fn wait_for_port(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut show = netns::command(&self.link.at, "bridge")?;
            let output = show.args(["link", "show", "dev", &self.name]).output()?;
            if String::from_utf8_lossy(&output.stdout).contains("state forwarding") {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "port {} of {} passes nothing on",
                self.name,
                self.link.at
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The machine's own end of the cable; it may be off.
    fn cut_bundles(&self, segments: &str) -> Result<()> {
        let (place, device) = &self.link.machine;
        if netns::find(place).is_err() {
            return Ok(());
        }
        netns::ip(
            place,
            &[format!("link set {device} gso_max_segs {segments}")],
        )
    }

    fn inner(&self) -> String {
        format!("{}p", self.name)
    }

    /// Takes the line away again: what is under way arrives at once.
    pub(crate) fn end(mut self) -> Result<()> {
        let (place, port, bridge) = (&self.link.at, &self.link.port, self.link.bridge);
        // A machine that is off has no port.
        let joined = if self.link.is_there()? {
            netns::ip(place, &[format!("link set {port} master {bridge}")])
        } else {
            Ok(())
        };
        // Both ways are open now. What is under way comes first, then nothing more may come here, and only then may nobody listen.
        let mut running = self.running.take();
        let flushed = running.as_mut().map_or(Ok(()), |(control, _)| {
            control
                .write_all(FLUSH)
                .and_then(|()| control.read_exact(&mut [0]))
        });
        let left = netns::ip(place, &[format!("link set {} nomaster", self.name)]);
        if let Some((control, thread)) = running {
            drop(control);
            let _ = thread.join();
        }
        let removed = netns::ip(place, &[format!("link del {}", self.name)]);
        let restored = self.cut_bundles("65535");
        joined
            .and(flushed.context("the relay does not answer"))
            .and(left)
            .and(removed)
            .and(restored)
    }
}

/// A frame under way; the earliest is the greatest.
struct Frame {
    due: Duration,
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl Ord for Frame {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Frame {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Frame {}

/// Asks for what is under way to arrive at once, from now on.
const FLUSH: &[u8] = b"f";

/// Passes frames on between two wires until `control` is closed. What comes from the first goes by the first line.
fn pass_on(wires: [&Wire; 2], lines: &Mutex<[Line; 2]>, mut control: &UnixStream) -> Result<()> {
    let start = Instant::now();
    // A thread's timers may be late by 50 µs unless it says that it minds.
    let _ = nix::sys::prctl::set_timerslack(1);
    let mut dice = Dice::new(RandomState::new().build_hasher().finish());
    let mut under_way: BinaryHeap<Frame> = BinaryHeap::new();
    let mut number = 0;
    let mut buffer = vec![0; LARGEST];
    loop {
        let now = start.elapsed();
        while under_way.peek().is_some_and(|frame| frame.due <= now) {
            if let Some(frame) = under_way.pop() {
                deliver(&wires, &frame);
            }
        }
        let wait = under_way
            .peek()
            .map(|frame| TimeSpec::from(frame.due.saturating_sub(start.elapsed())));
        let mut waited = [wires[0].as_fd(), wires[1].as_fd(), control.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ppoll(&mut waited, wait, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => (),
            Err(error) => return Err(error).context("cannot wait for frames"),
        }
        let told = waited[2].any() == Some(true);
        for (from, to) in [(0, 1), (1, 0)] {
            for _ in 0..BATCH {
                let length = match wires[from].read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // Told once when an interface goes down.
                    Err(_) => continue,
                };
                let now = start.elapsed();
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let bytes = buffer.get(..length).unwrap_or_default();
                let arrival =
                    lines[from].arrival(now, length.saturating_sub(FRAME_HEADER), || dice.roll());
                if let Some(due) = arrival {
                    number += 1;
                    under_way.push(Frame {
                        due,
                        number,
                        to,
                        bytes: bytes.to_vec(),
                    });
                }
            }
        }
        if told {
            while let Some(frame) = under_way.pop() {
                deliver(&wires, &frame);
            }
            if control.read(&mut [0])? == 0 {
                return Ok(());
            }
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter_mut()
                .for_each(|line| *line = Line::default());
            control.write_all(FLUSH)?;
        }
    }
}

fn deliver(wires: &[&Wire; 2], frame: &Frame) {
    if let Some(wire) = wires.get(frame.to) {
        // A full or missing interface loses it, as any would.
        let _ = wire.write(&frame.bytes);
    }
}
