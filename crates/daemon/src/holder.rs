//! A small parent process: it starts the process that does the work, starts it again when it dies, and holds descriptors for it
//! (devices, sockets) meanwhile, so that they outlive a crash.
//!
//! The two speak over the child's standard input, a socket. A message is a word and a name, of fixed length; what is held goes with it. The child ends when its parent is gone.
//!
//! A child that hangs is replaced as one that died: each of its loops that has a [`Pulse`] is to be felt once a second, from the first time on, and
//! that is to come half a minute after its start at the latest.

mod slate;

use std::collections::BTreeMap;
use std::env;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process};
pub use slate::{Slate, since_boot};
use strait_core::silence::{LOOK, Silence};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Tells a process that its standard input leads to its holder. No setting, hence no name of one.
const VARIABLE: &str = "HELD_BY_STRAIT";
/// Length of a message in octets: shorter ones end with zeroes.
const MESSAGE: usize = 128;
/// A child that has lived so long is started again at once when it dies.
const SETTLED: Duration = Duration::from_secs(10);
/// The longest pause before one that dies early is started again.
const LONGEST: Duration = Duration::from_secs(5);

/// After so long without a sign of one of its loops a child counts as hung: long enough for a host that is slow, and time in which the holder did not run
/// itself does not count.
const HUNG: Duration = Duration::from_secs(10);
/// After so long a child that has not begun, or one of whose loops has not, counts as hung: all that it waits for before is its own host's.
const SLOW: Duration = Duration::from_secs(30);
/// What is waited for of a child that has not said yet what there will be to feel.
const START: &str = "start";

/// The way from a process to its holder.
#[derive(Debug)]
pub struct Holder {
    socket: BlockingStream,
}

impl Holder {
    /// The holder of this process, if it has one.
    ///
    /// # Errors
    /// If it should have one, and its standard input is something else.
    pub fn of_this_process() -> io::Result<Option<Self>> {
        if env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Some(Self {
            socket: BlockingStream::from(input),
        }))
    }

    /// What it holds, by name.
    ///
    /// # Errors
    /// If it is gone.
    pub fn held(&self) -> io::Result<BTreeMap<String, OwnedFd>> {
        send(self.socket.as_fd(), "give", "", None)?;
        let mut held = BTreeMap::new();
        loop {
            let Some(message) = receive(self.socket.as_fd(), RecvFlags::empty())? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            match (message.word.as_str(), message.descriptor) {
                ("held", Some(descriptor)) => held.insert(message.name, descriptor),
                _ => return Ok(held),
            };
        }
    }

    /// Makes it hold a descriptor under a name, in place of the one that it had under that.
    ///
    /// # Errors
    /// If it is gone.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        send(self.socket.as_fd(), "keep", name, Some(descriptor))
    }

    /// Makes it let go of what it holds under a name.
    ///
    /// # Errors
    /// If it is gone.
    pub fn release(&self, name: &str) -> io::Result<()> {
        send(self.socket.as_fd(), "release", name, None)
    }

    /// What makes it feel that a loop of this process turns.
    ///
    /// # Errors
    /// If there is no descriptor left, or it is gone.
    pub fn pulse(&self, part: &'static str) -> io::Result<Pulse> {
        let socket = Arc::new(self.socket.try_clone()?);
        // From now on it is waited for.
        send(socket.as_fd(), "await", part, None)?;
        Ok(Pulse { socket, part })
    }

    /// Calls `then` once it is gone: this process is to end then, since another may have been started. To be called after the
    /// last [`Holder::held`].
    ///
    /// # Errors
    /// If there can be no thread to wait in.
    pub fn when_gone(&self, then: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let socket = self.socket.try_clone()?;
        let wait = move || {
            // Nothing is sent without being asked for: what can be read is the end.
            let _ = receive(socket.as_fd(), RecvFlags::PEEK);
            then();
        };
        let thread = std::thread::Builder::new().name("holder".to_owned());
        thread.spawn(wait).map(drop)
    }
}

/// Makes a process's holder feel that one of its loops turns.
#[derive(Debug, Clone)]
pub struct Pulse {
    socket: Arc<BlockingStream>,
    part: &'static str,
}

impl Pulse {
    /// The loop turns. One that can't be told is not waited for: a holder that stands still does not count silence, and one that is gone
    /// ends this process.
    pub fn tell(&self) {
        let _ = send_with(
            self.socket.as_fd(),
            "alive",
            self.part,
            None,
            SendFlags::DONTWAIT,
        );
    }
}

/// Starts this very program with the same arguments and holds descriptors for it, until it ends by itself or is asked to; returns how it
/// ended.
///
/// # Errors
/// If no process can be started.
pub async fn hold() -> io::Result<ExitStatus> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut held: BTreeMap<String, OwnedFd> = BTreeMap::new();
    let mut pause = Duration::ZERO;
    loop {
        let (ours, theirs) = BlockingStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let begun = Instant::now();
        let mut child = start(theirs.into())?;
        let mut open = true;
        let mut asked = false;
        let mut parts = Parts::default();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                ended = child.wait() => break ended?,
                _ = terminate.recv() => { asked = true; pass_on(&child, Signal::TERM); }
                _ = interrupt.recv() => { asked = true; pass_on(&child, Signal::INT); }
                ready = ours.readable(), if open => {
                    // One that dies while it is spoken to must not take with it what is held.
                    open = ready.and_then(|()| serve(&ours, &mut held, &mut parts)).unwrap_or_else(|error| {
                        tracing::warn!(%error, "the process can't be spoken to any more");
                        false
                    });
                }
                _ = looks.tick() => if let Some((part, silence)) = parts.silent() {
                    tracing::warn!(part, "the process hangs: nothing was heard of this part for {silence:?}; it is killed");
                    pass_on(&child, Signal::KILL);
                }
            }
        };
        // One that ends by itself says that something is wrong which no new start would mend.
        if asked || ended.code().is_some() {
            return Ok(ended);
        }
        tracing::warn!(
            signal = ended.signal(),
            "the process died; it is started again, and gets what was held for it"
        );
        pause = if begun.elapsed() > SETTLED {
            Duration::ZERO
        } else {
            (pause * 2).clamp(Duration::from_millis(10), LONGEST)
        };
        tokio::select! {
            () = sleep(pause) => {}
            _ = terminate.recv() => return Ok(ended),
            _ = interrupt.recv() => return Ok(ended),
        }
    }
}

/// The loops of a child that are to be felt, and since when they are not.
#[derive(Debug)]
struct Parts(BTreeMap<String, Part>);

#[derive(Debug, Default)]
struct Part {
    silence: Silence,
    begun: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self(BTreeMap::from([(START.to_owned(), Part::default())]))
    }
}

impl Parts {
    /// The child has this one, and is to make it felt.
    fn wait_for(&mut self, part: String) -> &mut Part {
        self.0.remove(START);
        self.0.entry(part).or_default()
    }

    fn felt(&mut self, part: String) {
        let part = self.wait_for(part);
        part.begun = true;
        part.silence.heard();
    }

    /// One that hangs, at a look, and for how long nothing was heard of it. It is told once: nothing of the child counts any more then.
    fn silent(&mut self) -> Option<(String, Duration)> {
        let mut hung = None;
        for (name, part) in &mut self.0 {
            let limit = if part.begun { HUNG } else { SLOW };
            if part.silence.look() >= limit {
                hung.get_or_insert_with(|| (name.clone(), limit));
            }
        }
        if hung.is_some() {
            self.0.clear();
        }
        hung
    }
}

fn start(socket: OwnedFd) -> io::Result<Child> {
    // Not by its path, which a new version may have by now.
    Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .env(VARIABLE, "1")
        .stdin(Stdio::from(socket))
        .spawn()
}

fn pass_on(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, signal)
    {
        tracing::warn!(%error, "a signal could not be passed on");
    }
}

/// Answers what the child asks; returns whether it may ask more.
fn serve(
    socket: &UnixStream,
    held: &mut BTreeMap<String, OwnedFd>,
    parts: &mut Parts,
) -> io::Result<bool> {
    let read = || receive(socket.as_fd(), RecvFlags::DONTWAIT);
    let message = match socket.try_io(Interest::READABLE, read) {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
        Err(error) => return Err(error),
    };
    let socket = socket.as_fd();
    match (message.word.as_str(), message.descriptor) {
        ("keep", Some(descriptor)) => drop(held.insert(message.name, descriptor)),
        ("release", _) => drop(held.remove(&message.name)),
        ("await", _) => {
            parts.wait_for(message.name);
        }
        ("alive", _) => parts.felt(message.name),
        ("give", _) => {
            for (name, descriptor) in &*held {
                send(socket, "held", name, Some(descriptor.as_fd()))?;
            }
            send(socket, "end", "", None)?;
        }
        (word, _) => tracing::warn!(word, "the process says what its holder does not know"),
    }
    Ok(true)
}

struct Message {
    word: String,
    name: String,
    descriptor: Option<OwnedFd>,
}

fn send(
    socket: BorrowedFd<'_>,
    word: &str,
    name: &str,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    send_with(socket, word, name, descriptor, SendFlags::empty())
}

fn send_with(
    socket: BorrowedFd<'_>,
    word: &str,
    name: &str,
    descriptor: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> io::Result<()> {
    let mut bytes = format!("{word} {name}").into_bytes();
    if bytes.len() > MESSAGE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    bytes.resize(MESSAGE, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let flags = flags | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, flags)?;
    Ok(())
}

/// The next message; `None` when the other end is closed.
fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> io::Result<Option<Message>> {
    let mut bytes = [0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        flags,
    )?;
    let mut descriptors = ancillary.drain().filter_map(|message| {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            Some(descriptors)
        } else {
            None
        }
    });
    let descriptor = descriptors.next().and_then(|mut all| all.next());
    let text = String::from_utf8_lossy(bytes.get(..received.bytes).unwrap_or_default());
    let text = text.trim_end_matches('\0');
    Ok(text.split_once(' ').map(|(word, name)| Message {
        word: word.to_owned(),
        name: name.to_owned(),
        descriptor,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found at each of so many looks.
    fn looks(parts: &mut Parts, count: u32) -> Vec<(u32, String)> {
        let found = (1..=count).filter_map(|look| Some((look, parts.silent()?.0)));
        found.collect()
    }

    #[test]
    fn a_child_that_says_nothing_hangs_after_half_a_minute() {
        let found = looks(&mut Parts::default(), 100);
        assert_eq!(found, [(30, "start".to_owned())]);
    }

    #[test]
    fn so_does_one_of_whose_loops_one_does_not_begin_and_one_that_began_after_ten_seconds() {
        let mut parts = Parts::default();
        assert_eq!(looks(&mut parts, 20), []);
        parts.wait_for("cable".to_owned());
        parts.wait_for("main loop".to_owned());
        for _ in 0..29 {
            parts.felt("main loop".to_owned());
            assert_eq!(looks(&mut parts, 1), []);
        }
        parts.felt("cable".to_owned());
        assert_eq!(looks(&mut parts, 8), []);
        parts.felt("cable".to_owned());
        assert_eq!(looks(&mut parts, 100), [(1, "main loop".to_owned())]);
    }
}
