//! One transaction: sent as a whole, carried out as a whole or not at all.

use strait_host::nft::Op;

use crate::error::Error;
use crate::nft::object;
use crate::socket::{Socket, verdict};
use crate::wire::Request;

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
    if messages.is_empty() {
        return Ok(());
    }
    let first = socket.next_sequence();
    let mut bytes = border(libc::NFNL_MSG_BATCH_BEGIN).finish(0, first);
    let mut sent: Vec<(u32, usize)> = Vec::with_capacity(messages.len());
    let count = messages.len();
    for (n, (at, request)) in messages.into_iter().enumerate() {
        // Errors are told of every message; of the last one also that it went well.
        let flags = if n + 1 == count { libc::NLM_F_ACK } else { 0 };
        let sequence = socket.next_sequence();
        bytes.extend(request.finish(flags, sequence));
        sent.push((sequence, at));
    }
    let end = socket.next_sequence();
    bytes.extend(border(libc::NFNL_MSG_BATCH_END).finish(0, end));
    socket.make_room(bytes.len());
    socket.send(&bytes)?;
    answer(socket, ops, first, &sent)
}

/// What opens and closes a batch.
fn border(kind: i32) -> Request {
    let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    let header = [libc::AF_UNSPEC as u8, 0, subsystem[0], subsystem[1]];
    Request::new(kind as u16, 0, &header)
}

/// Waits for the word on the last message, or on the batch as a whole, which carries the number of its first one
/// (a commit that fails, no permission, no memory).
fn answer(socket: &mut Socket, ops: &[Op], first: u32, sent: &[(u32, usize)]) -> Result<(), Error> {
    let whole = "nft transaction";
    let mut failure: Option<Error> = None;
    loop {
        for message in socket.receive(&whole)? {
            let Some(verdict) = verdict(&message) else {
                continue;
            };
            let at = sent.iter().find(|(s, _)| *s == verdict.sequence);
            if at.is_none() && verdict.sequence != first {
                continue;
            }
            if let Some((errno, message)) = verdict.refusal {
                let op = at.and_then(|(_, at)| ops.get(*at));
                failure.get_or_insert(Error::Kernel {
                    operation: op.map_or_else(|| whole.to_owned(), object::words),
                    errno,
                    message,
                });
            }
            let last = sent.last().is_none_or(|(s, _)| *s == verdict.sequence);
            if last || verdict.sequence == first {
                return failure.map_or(Ok(()), Err);
            }
        }
    }
}
