//! nftables: a ruleset of `strait_host::nft` written in one transaction, and read back to the same.
//!
//! What the kernel holds beyond that vocabulary is read as something that equals nothing wanted.

mod batch;
mod expression;
mod message;
mod object;
mod read;
mod set;
mod statement;

pub(crate) use batch::commit;
pub(crate) use read::list;
