//! A netlink socket for requests: one at a time, to its last answer.
//!
//! It blocks, on purpose. The kernel carries out a netlink request inside `send` and has the answer
//! ready when it returns, so waiting costs nothing; and a request that can't be abandoned half-way
//! leaves no answers behind for the next one to stumble over.

use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd};

use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::error::{Error, errno_of};
use crate::wire::{Attrs, HEADER, Message, Request, messages, text_of, u32_of};

/// Bytes offered to one read. The kernel fills at most 32 KiB for a dump (`netlink_dump`).
const READ: usize = 64 * 1024;
/// Receive buffer in bytes: room for the answers to a transaction in which every message fails.
const RECEIVE: usize = 4 << 20;
/// How long to wait for an answer, in seconds.
const PATIENCE: u64 = 10;
/// How often a dump that was interrupted by a change is read again.
const ATTEMPTS: usize = 5;
/// `NLMSG_DONE`, `NLMSG_ERROR` in linux/netlink.h.
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// `NLMSGERR_ATTR_MSG` in linux/netlink.h.
const ATTR_MESSAGE: u16 = 1;
/// `NLM_F_CAPPED`, `NLM_F_ACK_TLVS` and `NLM_F_DUMP_INTR` in linux/netlink.h.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const DUMP_INTERRUPTED: u16 = 0x10;

/// A socket on which one request is under way at a time.
#[derive(Debug)]
pub(crate) struct Socket {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What the kernel said to the message of a sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) sequence: u32,
    /// `None` is success.
    pub(crate) refusal: Option<(Errno, Option<String>)>,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open(protocol: isize) -> Result<Self, Error> {
        let open = |e: std::io::Error| Error::Open(errno_of(&e));
        let mut raw = RawSocket::new(protocol).map_err(open)?;
        raw.bind_auto().map_err(open)?;
        raw.connect(&SocketAddr::new(0, 0)).map_err(open)?;
        raw.set_ext_ack(true).map_err(open)?;
        raw.set_cap_ack(true).map_err(open)?;
        // Strict checking came with Linux 4.20; dumps without it hold more, and what is more is left out here.
        let _ = raw.set_netlink_get_strict_chk(true);
        let patience = TimeVal::new(PATIENCE as i64, 0);
        setsockopt(&raw, sockopt::ReceiveTimeout, &patience).map_err(Error::Open)?;
        enlarge(&raw, RECEIVE);
        Ok(Self {
            raw,
            sequence: 0,
            buffer: vec![0; READ],
        })
    }

    /// A sequence number that no earlier request had.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends bytes: one message, or a batch.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self.raw.send(bytes, 0) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::Transport(errno_of(&e))),
        }
    }

    /// Lets messages of this size be sent (`netlink_sendmsg` refuses what exceeds the buffer).
    pub(crate) fn make_room(&self, bytes: usize) {
        let want = bytes.saturating_mul(2).saturating_add(READ);
        if setsockopt(&self.raw, sockopt::SndBufForce, &want).is_err() {
            let _ = setsockopt(&self.raw, sockopt::SndBuf, &want);
        }
    }

    /// The messages of one read, for which it waits.
    pub(crate) fn receive(&mut self, operation: &dyn Display) -> Result<Vec<Message>, Error> {
        match self.read(MsgFlags::empty()) {
            Err(Errno::EAGAIN) => Err(Error::Timeout {
                operation: operation.to_string(),
                seconds: PATIENCE,
            }),
            other => other.map_err(Error::Transport),
        }
    }

    /// The messages of all reads that need no waiting; errors end it.
    pub(crate) fn receive_rest(&mut self) -> Vec<Message> {
        let reads = std::iter::from_fn(|| self.read(MsgFlags::MSG_DONTWAIT).ok());
        reads.flatten().collect()
    }

    fn read(&mut self, flags: MsgFlags) -> nix::Result<Vec<Message>> {
        loop {
            let flags = flags | MsgFlags::MSG_TRUNC;
            match recv(self.raw.as_raw_fd(), &mut self.buffer, flags) {
                Ok(len) => {
                    let bytes = self.buffer.get(..len).ok_or(Errno::EMSGSIZE)?;
                    return Ok(messages(bytes));
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Sends a request and waits for its acknowledgement; returns what came before that.
    pub(crate) fn ask(
        &mut self,
        request: Request,
        operation: &dyn Display,
    ) -> Result<Vec<Message>, Error> {
        let mut all = Vec::new();
        self.exchange(request, libc::NLM_F_ACK, operation, |m| all.push(m))?;
        Ok(all)
    }

    /// Sends a request that has no other answer than its acknowledgement.
    pub(crate) fn tell(&mut self, request: Request, operation: &dyn Display) -> Result<(), Error> {
        self.ask(request, operation).map(drop)
    }

    /// All objects that a dump yields; read again if they changed meanwhile.
    pub(crate) fn dump(
        &mut self,
        request: &Request,
        what: &'static str,
    ) -> Result<Vec<Message>, Error> {
        self.dump_as(request, what, Some)
    }

    /// What is made of the objects that a dump yields, one by one; read again if they changed meanwhile.
    pub(crate) fn dump_as<T>(
        &mut self,
        request: &Request,
        what: &'static str,
        mut make: impl FnMut(Message) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            let operation = format_args!("list {what}");
            let mut all = Vec::new();
            let flags = libc::NLM_F_DUMP;
            if self.exchange(request.clone(), flags, &operation, |m| all.extend(make(m)))? {
                return Ok(all);
            }
        }
        Err(Error::Unsteady(what))
    }

    /// Each object that a dump yields, once it comes; whether they held still meanwhile is not looked at.
    pub(crate) fn each(
        &mut self,
        request: Request,
        what: &'static str,
        mut take: impl FnMut(&Message),
    ) -> Result<(), Error> {
        let operation = format_args!("list {what}");
        self.exchange(request, libc::NLM_F_DUMP, &operation, |m| take(&m))
            .map(drop)
    }

    /// Returns whether nothing changed meanwhile.
    fn exchange(
        &mut self,
        request: Request,
        flags: i32,
        operation: &dyn Display,
        mut take: impl FnMut(Message),
    ) -> Result<bool, Error> {
        let sequence = self.next_sequence();
        self.send(&request.finish(flags, sequence))?;
        let mut steady = true;
        loop {
            for message in self.receive(operation)? {
                if message.sequence != sequence {
                    continue;
                }
                steady &= message.flags & DUMP_INTERRUPTED == 0;
                let Some(verdict) = verdict(&message) else {
                    take(message);
                    continue;
                };
                return match verdict.refusal {
                    None => Ok(steady),
                    Some((errno, message)) => Err(Error::Kernel {
                        operation: operation.to_string(),
                        errno,
                        message,
                    }),
                };
            }
        }
    }
}

/// Reads a message that ends an exchange: an acknowledgement, an error, the end of a dump.
pub(crate) fn verdict(message: &Message) -> Option<Verdict> {
    if message.kind != ERROR && message.kind != DONE {
        return None;
    }
    let code = u32_of(&message.body).unwrap_or_default().cast_signed();
    let refusal = (code < 0).then(|| {
        let text = (message.flags & ACK_TLVS != 0)
            .then(|| Attrs(extended(message)).find(ATTR_MESSAGE).map(text_of))
            .flatten();
        (Errno::from_raw(code.saturating_neg()), text)
    });
    Some(Verdict {
        sequence: message.sequence,
        refusal,
    })
}

/// Where the attributes of an acknowledgement begin: behind the request, or its header, that it repeats.
fn extended(message: &Message) -> &[u8] {
    let repeated = match message.kind {
        DONE => 0,
        _ if message.flags & CAPPED != 0 => HEADER,
        _ => message
            .body
            .get(4..)
            .and_then(u32_of)
            .map_or(HEADER, |len| (len as usize).next_multiple_of(4)),
    };
    message.body.get(4 + repeated..).unwrap_or_default()
}

/// Makes the receive buffer this large, beyond the system's limit where that is allowed.
pub(crate) fn enlarge(socket: &impl AsFd, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &bytes);
    }
}
