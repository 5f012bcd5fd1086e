//! nftables.

use std::collections::{BTreeMap, BTreeSet};

use strait_host::nft::{Op, Table, TableId};

use crate::error::Error;
use crate::socket::Socket;

/// The tables asked for, of those that are there.
pub(crate) fn list(
    _socket: &mut Socket,
    _tables: &BTreeSet<TableId>,
) -> Result<BTreeMap<TableId, Table>, Error> {
    Ok(BTreeMap::new())
}

/// Carries out one transaction: all or nothing.
pub(crate) fn commit(_socket: &mut Socket, _ops: &[Op]) -> Result<(), Error> {
    Err(Error::Unsupported("nftables".to_owned()))
}
