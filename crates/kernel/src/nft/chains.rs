//! Chains and tables of others that are to go, with the jumps to them.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use strait_host::Family;
use strait_host::leftovers::{Backend, XtTable};
use strait_host::nft::{Op, TableFamily, TableId};

use crate::error::Error;
use crate::nft::batch;
use crate::nft::expression::Expression;
use crate::nft::message::{
    CHAIN_NAME, CHAIN_TABLE, DELETE_CHAIN, DELETE_RULE, FIXED, GET_CHAIN, GET_RULE, GET_SET,
    GET_TABLE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_TABLE, SET_NAME, SET_TABLE,
    TABLE_NAME, begin, family, number,
};
use crate::nft::read::listed;
use crate::socket::Socket;
use crate::wire::{Attrs, Message, Request, text_of};

/// The tables of iptables-nft in which chains are looked for.
const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// Chains whose names begin so, in the tables of iptables-nft.
pub(crate) fn named(
    socket: &mut Socket,
    prefix: &str,
) -> Result<BTreeMap<XtTable, BTreeSet<String>>, Error> {
    let request = Request::new(number(GET_CHAIN), 0, &[0; FIXED]);
    let mut all: BTreeMap<XtTable, BTreeSet<String>> = BTreeMap::new();
    for message in socket.dump(&request, "nftables chains")? {
        let attrs = message.attrs(FIXED);
        let text = |kind| attrs.find(kind).map(text_of).unwrap_or_default();
        let (table, chain) = (text(CHAIN_TABLE), text(CHAIN_NAME));
        let families = [
            (TableFamily::Ip, Family::V4),
            (TableFamily::Ip6, Family::V6),
        ];
        let of = families
            .into_iter()
            .find(|(f, _)| message.body.first() == Some(&family(*f)));
        let Some((_, family)) = of.filter(|_| TABLES.contains(&table.as_str())) else {
            continue;
        };
        if chain.starts_with(prefix) {
            let table = XtTable {
                backend: Backend::Nft,
                family,
                name: table,
            };
            all.entry(table).or_default().insert(chain);
        }
    }
    Ok(all)
}

/// The tables of these names, with the names of their chains and sets.
pub(crate) fn tables(
    socket: &mut Socket,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<TableId, BTreeSet<String>>, Error> {
    let request = Request::new(number(GET_TABLE), 0, &[0; FIXED]);
    let mut all = BTreeMap::new();
    for message in socket.dump(&request, "nftables tables")? {
        let Some(id) = table_of(&message).filter(|id| names.contains(&id.name)) else {
            continue;
        };
        let mut inside = BTreeSet::new();
        for (kind, table, name) in [
            (GET_CHAIN, CHAIN_TABLE, CHAIN_NAME),
            (GET_SET, SET_TABLE, SET_NAME),
        ] {
            let messages = listed(socket, kind, &id, table, "nftables chains and sets")?;
            let named = messages
                .iter()
                .filter_map(|m| m.attrs(FIXED).find(name).map(text_of));
            inside.extend(named);
        }
        all.insert(id, inside);
    }
    Ok(all)
}

fn table_of(message: &Message) -> Option<TableId> {
    let families = [TableFamily::Inet, TableFamily::Ip, TableFamily::Ip6];
    let family = families
        .into_iter()
        .find(|f| message.body.first() == Some(&family(*f)))?;
    let name = message.attrs(FIXED).find(TABLE_NAME).map(text_of)?;
    Some(TableId { family, name })
}

/// Removes chains of iptables-nft and every rule of their table that jumps there, in one transaction. That they are gone already is fine.
pub(crate) fn remove(
    socket: &mut Socket,
    table: &XtTable,
    chains: &BTreeSet<String>,
) -> Result<(), Error> {
    let id = TableId {
        family: match table.family {
            Family::V4 => TableFamily::Ip,
            Family::V6 => TableFamily::Ip6,
        },
        name: table.name.clone(),
    };
    let there = listed(socket, GET_CHAIN, &id, CHAIN_TABLE, "nftables chains")?;
    let there: BTreeSet<String> = there
        .iter()
        .filter_map(|m| m.attrs(FIXED).find(CHAIN_NAME).map(text_of))
        .filter(|name| chains.contains(name))
        .collect();
    let mut messages = Vec::new();
    for rule in listed(socket, GET_RULE, &id, RULE_TABLE, "nftables rules")? {
        let attrs = rule.attrs(FIXED);
        let chain = attrs.find(RULE_CHAIN).map(text_of).unwrap_or_default();
        if there.contains(&chain) || !jumps(attrs, &there) {
            continue;
        }
        if let Some(handle) = attrs.find(RULE_HANDLE) {
            let mut request = begin(DELETE_RULE, 0, &id);
            request.text(RULE_TABLE, &id.name).text(RULE_CHAIN, &chain);
            request.attr(RULE_HANDLE, handle);
            messages.push(request);
        }
    }
    for name in &there {
        let mut request = begin(DELETE_RULE, 0, &id);
        request.text(RULE_TABLE, &id.name).text(RULE_CHAIN, name);
        messages.push(request);
    }
    for name in &there {
        let mut request = begin(DELETE_CHAIN, 0, &id);
        request.text(CHAIN_TABLE, &id.name).text(CHAIN_NAME, name);
        messages.push(request);
    }
    let messages = messages.into_iter().map(|request| (0, request)).collect();
    batch::transact(socket, messages, |_| {
        let names: Vec<&str> = there.iter().map(String::as_str).collect();
        Some(format!("remove {} from {table}", names.join(", ")))
    })
}

fn jumps(attrs: Attrs<'_>, chains: &BTreeSet<String>) -> bool {
    let list = attrs.inside(RULE_EXPRESSIONS).unwrap_or(Attrs(&[]));
    Expression::decode_all(list).iter().any(|expression| {
        if let Expression::Verdict {
            chain: Some(chain), ..
        } = expression
        {
            return chains.contains(chain);
        }
        false
    })
}

/// Removes a table with all that is in it; that it is gone already is fine.
pub(crate) fn remove_table(socket: &mut Socket, id: &TableId) -> Result<(), Error> {
    match batch::commit(socket, &[Op::DeleteTable(id.clone())]) {
        Err(Error::Kernel {
            errno: Errno::ENOENT,
            ..
        }) => Ok(()),
        other => other,
    }
}
