//! Reading tables back.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use strait_host::nft::{Chain, Rule, Set, Statement, Table, TableId};

use crate::error::Error;
use crate::nft::message::{
    CHAIN_NAME, CHAIN_TABLE, FIXED, GENERATION_ID, GET_CHAIN, GET_ELEMENTS, GET_GENERATION,
    GET_RULE, GET_SET, GET_TABLE, LIST_ELEMENTS, LIST_SET, LIST_TABLE, RULE_CHAIN, RULE_TABLE,
    SET_NAME, SET_TABLE, TABLE_FLAGS, TABLE_NAME, begin, family, number,
};
use crate::nft::object;
use crate::nft::set::{self, Raw};
use crate::socket::Socket;
use crate::wire::{Attrs, Message, Request, be32_of, text_of};

/// How often tables that change while they are read are read again.
const ATTEMPTS: usize = 10;

/// The tables asked for, of those that are there.
pub(crate) fn list(
    socket: &mut Socket,
    tables: &BTreeSet<TableId>,
) -> Result<BTreeMap<TableId, Table>, Error> {
    if tables.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut before = generation(socket)?;
    for _ in 0..ATTEMPTS {
        let found = read(socket, tables);
        let after = generation(socket)?;
        if before == after {
            return found;
        }
        before = after;
    }
    Err(Error::Unsteady("nftables"))
}

/// The number of the ruleset's state; each transaction in the namespace raises it.
fn generation(socket: &mut Socket) -> Result<Option<u32>, Error> {
    let request = Request::new(number(GET_GENERATION), 0, &[0; FIXED]);
    let answer = socket.ask(request, &"read the nftables generation")?;
    let mut ids = answer
        .iter()
        .filter_map(|m| m.attrs(FIXED).find(GENERATION_ID).and_then(be32_of));
    Ok(ids.next())
}

fn read(socket: &mut Socket, ids: &BTreeSet<TableId>) -> Result<BTreeMap<TableId, Table>, Error> {
    let mut tables = BTreeMap::new();
    for id in ids {
        if let Some(table) = read_table(socket, id)? {
            tables.insert(id.clone(), table);
        }
    }
    Ok(tables)
}

fn read_table(socket: &mut Socket, id: &TableId) -> Result<Option<Table>, Error> {
    let mut request = begin(GET_TABLE, 0, id);
    request.text(TABLE_NAME, &id.name);
    let answer = match socket.ask(request, &format_args!("read nft table {}", id.name)) {
        Err(Error::Kernel {
            errno: Errno::ENOENT,
            ..
        }) => return Ok(None),
        other => other?,
    };
    let comments = answer
        .iter()
        .map(|m| object::table_comment_of(m.attrs(FIXED)));
    let mut table = Table {
        comment: comments.into_iter().next().unwrap_or_default(),
        ..Table::default()
    };
    let flags = answer
        .iter()
        .find_map(|m| m.attrs(FIXED).find(TABLE_FLAGS).and_then(be32_of))
        .unwrap_or_default();
    if flags != 0 {
        // Dormant, or owned by a process: nothing wanted is like it.
        foreign(&mut table, format!("table flags {flags:#x}"));
    }
    for message in listed(socket, GET_CHAIN, id, CHAIN_TABLE, "nftables chains")? {
        let attrs = message.attrs(FIXED);
        let name = attrs.find(CHAIN_NAME).map(text_of).unwrap_or_default();
        let base = object::decode_base(attrs).unwrap_or_else(|what| {
            foreign(&mut table, format!("chain {name} {what}"));
            None
        });
        let rules = Vec::new();
        table.chains.insert(name, Chain { base, rules });
    }
    for message in listed(socket, GET_RULE, id, RULE_TABLE, "nftables rules")? {
        let attrs = message.attrs(FIXED);
        let chain = attrs.find(RULE_CHAIN).map(text_of).unwrap_or_default();
        let rule = object::decode_rule(attrs);
        if let Some(chain) = table.chains.get_mut(&chain) {
            chain.rules.push(rule);
        }
    }
    for message in listed(socket, GET_SET, id, SET_TABLE, "nftables sets")? {
        let attrs = message.attrs(FIXED);
        let name = attrs.find(SET_NAME).map(text_of).unwrap_or_default();
        match read_set(socket, id, &name, attrs)? {
            Some(set) => drop(table.sets.insert(name, set)),
            None => foreign(&mut table, format!("set {name}")),
        }
    }
    Ok(Some(table))
}

/// Makes a table differ from everything wanted: with a chain that nothing else can name.
fn foreign(table: &mut Table, what: String) {
    let rule = Rule {
        statements: vec![Statement::Foreign(what.clone())],
        comment: String::new(),
    };
    let chain = Chain {
        base: None,
        rules: vec![rule],
    };
    table.chains.insert(format!("(foreign: {what})"), chain);
}

/// What a dump yields of one table; the kernel may give more than was asked for.
pub(super) fn listed(
    socket: &mut Socket,
    kind: i32,
    id: &TableId,
    table: u16,
    what: &'static str,
) -> Result<Vec<Message>, Error> {
    let mut request = begin(kind, 0, id);
    request.text(table, &id.name);
    let mut messages = socket.dump(&request, what)?;
    messages.retain(|message| {
        let of_family = message.body.first() == Some(&family(id.family));
        of_family && message.attrs(FIXED).find(table).map(text_of).as_ref() == Some(&id.name)
    });
    Ok(messages)
}

fn read_set(
    socket: &mut Socket,
    id: &TableId,
    name: &str,
    attrs: Attrs<'_>,
) -> Result<Option<Set>, Error> {
    let Some(mut set) = set::decode_type(attrs) else {
        return Ok(None);
    };
    let mut request = begin(GET_ELEMENTS, 0, id);
    request.text(LIST_TABLE, &id.name).text(LIST_SET, name);
    let messages = socket.dump(&request, "nftables elements")?;
    let raw: Option<Vec<Raw>> = messages
        .iter()
        .filter_map(|m| m.attrs(FIXED).inside(LIST_ELEMENTS))
        .flatten()
        .map(|(_, element)| Raw::decode(Attrs(element)))
        .collect();
    let Some(elements) = raw.and_then(|raw| set::raise(&set, raw)) else {
        return Ok(None);
    };
    set.elements = elements;
    Ok(Some(set))
}
