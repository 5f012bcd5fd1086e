//! What of nftables is no ruleset of ours: the counters' values, and others' chains.

use std::collections::BTreeMap;

use strait_host::BaseChain;
use strait_host::nft::TableId;

use crate::error::Error;
use crate::nft::message::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, FIXED, GET_CHAIN, GET_RULE,
    HOOK_NUMBER, HOOK_PRIORITY, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, number,
};
use crate::nft::{expression, object, read};
use crate::socket::Socket;
use crate::wire::{Attrs, Message, Request, be32_of, text_of};

/// Packets that a table's rules have counted, by chain and comment; of rules with the same comment, their sum.
pub(crate) fn counters(
    socket: &mut Socket,
    id: &TableId,
) -> Result<BTreeMap<(String, String), u64>, Error> {
    let mut all = BTreeMap::new();
    for message in read::listed(socket, GET_RULE, id, RULE_TABLE, "nftables rules")? {
        let attrs = message.attrs(FIXED);
        let list = attrs.inside(RULE_EXPRESSIONS).unwrap_or(Attrs(&[]));
        if let Some(packets) = expression::counted(list) {
            let chain = attrs.find(RULE_CHAIN).map(text_of).unwrap_or_default();
            *all.entry((chain, object::comment_of(attrs))).or_default() += packets;
        }
    }
    Ok(all)
}

/// The chains of IP families that are hooked in.
pub(crate) fn base_chains(socket: &mut Socket) -> Result<Vec<BaseChain>, Error> {
    Ok(all_chains(socket)?.iter().filter_map(decode).collect())
}

/// All chains of nftables.
pub(crate) fn all_chains(socket: &mut Socket) -> Result<Vec<Message>, Error> {
    let request = Request::new(number(GET_CHAIN), 0, &[0; FIXED]);
    socket.dump(&request, "nftables chains")
}

pub(crate) fn decode(message: &Message) -> Option<BaseChain> {
    let family = match i32::from(*message.body.first()?) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    let attrs = message.attrs(FIXED);
    let hook = attrs.inside(CHAIN_HOOK)?;
    Some(BaseChain {
        family,
        table: attrs.find(CHAIN_TABLE).map(text_of)?,
        name: attrs.find(CHAIN_NAME).map(text_of)?,
        hook: object::hook_of(hook.find(HOOK_NUMBER).and_then(be32_of)?)?,
        priority: hook.find(HOOK_PRIORITY).and_then(be32_of)?.cast_signed(),
        nat: attrs.find(CHAIN_TYPE).map(text_of).as_deref() == Some("nat"),
        drops: attrs.find(CHAIN_POLICY).and_then(be32_of) == Some(libc::NF_DROP as u32),
    })
}
