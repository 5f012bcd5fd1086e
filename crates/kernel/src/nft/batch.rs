//! One transaction: sent as a whole, carried out as a whole or not at all.

use nix::errno::Errno;
use strait_host::nft::Op;

use crate::error::Error;
use crate::nft::object;
use crate::socket::{Socket, verdict};
use crate::wire::Request;

/// Its name in errors that are of no single step.
const WHOLE: &str = "nft transaction";

/// Carries out a transaction.
///
/// # Errors
/// The first step that the kernel refused; then nothing was changed.
pub(crate) fn commit(socket: &mut Socket, ops: &[Op]) -> Result<(), Error> {
    let mut messages: Vec<(usize, Request)> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        let requests = object::encode(op, at as u32 + 1)?;
        messages.extend(requests.into_iter().map(|request| (at, request)));
    }
    transact(socket, messages, |at| ops.get(at).map(object::words))
}

/// Carries out messages in one transaction; each comes with the number of its step, and `words` tells what that was.
pub(super) fn transact(
    socket: &mut Socket,
    messages: Vec<(usize, Request)>,
    words: impl Fn(usize) -> Option<String>,
) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let first = socket.next_sequence();
    let mut bytes = border(libc::NFNL_MSG_BATCH_BEGIN).finish(0, first);
    let steps: Vec<usize> = messages.iter().map(|(at, _)| *at).collect();
    let count = messages.len();
    for (n, (_, request)) in messages.into_iter().enumerate() {
        // Errors are told of every message; of the last one also that it went well.
        let flags = if n + 1 == count { libc::NLM_F_ACK } else { 0 };
        bytes.extend(request.finish(flags, socket.next_sequence()));
    }
    let end = socket.next_sequence();
    bytes.extend(border(libc::NFNL_MSG_BATCH_END).finish(0, end));
    socket.make_room(bytes.len());
    socket.send(&bytes)?;
    answer(socket, words, first, &steps)
}

/// What opens and closes a batch.
fn border(kind: i32) -> Request {
    let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    let header = [libc::AF_UNSPEC as u8, 0, subsystem[0], subsystem[1]];
    Request::new(kind as u16, 0, &header)
}

/// Waits for the word on the last message, or on the batch as a whole, which carries the number of its first one
/// (a commit that fails, no permission, no memory).
fn answer(
    socket: &mut Socket,
    words: impl Fn(usize) -> Option<String>,
    first: u32,
    steps: &[usize],
) -> Result<(), Error> {
    let mut failure: Option<Error> = None;
    let mut last = false;
    while !last {
        let messages = match socket.receive(&WHOLE) {
            // More refusals than the socket can hold: those that it holds say enough.
            Err(Error::Transport(Errno::ENOBUFS)) => {
                last = true;
                socket.receive_rest()
            }
            other => other?,
        };
        let lost = last.then_some(Error::Transport(Errno::ENOBUFS));
        for verdict in messages.iter().filter_map(verdict) {
            // 0 is the batch, the messages follow.
            let number = verdict.sequence.wrapping_sub(first) as usize;
            if number > steps.len() {
                continue;
            }
            last |= number == 0 || number == steps.len();
            let step = number.checked_sub(1).and_then(|n| steps.get(n));
            let step = step.and_then(|at| words(*at));
            if let Some((errno, message)) = verdict.refusal {
                failure.get_or_insert_with(|| Error::Kernel {
                    operation: step.unwrap_or_else(|| WHOLE.to_owned()),
                    errno,
                    message,
                });
            }
        }
        failure = failure.or(lost);
    }
    failure.map_or(Ok(()), Err)
}
