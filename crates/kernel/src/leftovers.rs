//! What is in packet filters under given names.

use strait_host::Family;
use strait_host::leftovers::{Backend, Found, Names, XtTable};

use crate::error::Error;
use crate::socket::Socket;
use crate::{ipset, legacy, nft};

/// Looks for it.
pub(crate) fn find(socket: &mut Socket, names: &Names) -> Result<Found, Error> {
    let mut found = Found {
        chains: nft::named_chains(socket, &names.chains)?,
        tables: nft::named_tables(socket, &names.tables)?,
        ..Found::default()
    };
    for name in &names.sets {
        if ipset::exists(socket, name)? {
            found.sets.insert(name.clone());
        }
    }
    for family in Family::ALL {
        for name in legacy::tables(family) {
            let table = XtTable {
                backend: Backend::Legacy,
                family,
                name,
            };
            match legacy::read(&table) {
                Ok(content) => {
                    let chains = content.named(&names.chains);
                    if !chains.is_empty() {
                        let dropping = content.dropping(&names.chains);
                        found.dropping.insert(table.clone(), dropping);
                        found.chains.insert(table, chains);
                    }
                }
                Err(error) => drop(found.unreadable.insert(table, error.to_string())),
            }
        }
    }
    Ok(found)
}
