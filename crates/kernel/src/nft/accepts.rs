//! Accept rules of ours in the chains of iptables-nft.
//!
//! They are written as iptables-nft writes its own, of plain matches and with the comment in the rule's user data, so that it shows,
//! saves and restores them.

use nix::errno::Errno;
use strait_host::firewall::{ACCEPT_MARK, FilterChain, FilterChains};
use strait_host::nft::{Rule, TableFamily, TableId};

use crate::error::Error;
use crate::nft::expression::Expression;
use crate::nft::message::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, DELETE_RULE, FIXED, GET_RULE, NEW_RULE,
    RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_POSITION, RULE_TABLE, begin, family,
};
use crate::nft::{batch, object};
use crate::socket::Socket;
use crate::wire::{Attrs, Message, be32_of, text_of};

const TABLE: &str = "filter";
const CHAINS: [&str; 2] = ["FORWARD", "INPUT"];
/// Chains in which network policies are enforced: what they drop stays dropped.
pub(super) const POLICIES: [&str; 5] = [
    "cali-",
    "CILIUM_",
    "KUBE-NWPLCY",
    "KUBE-ROUTER",
    "WEAVE-NPC",
];

/// The xt match `comment` with [`ACCEPT_MARK`] (`NFTA_MATCH_NAME`, `NFTA_MATCH_INFO`).
const XT_COMMENT: &str = "match 1=636f6d6d656e7400 ";
const XT_MARK: &str = " 3=73747261697400";

/// A rule of such a chain.
struct Found {
    handle: u64,
    /// It, if it is ours.
    ours: Option<Rule>,
    /// It jumps to where policies are enforced.
    policies: bool,
    /// It drops or rejects by itself.
    drops: bool,
}

/// The chains there are, of all of nftables, with our rules in them.
pub(crate) fn list(socket: &mut Socket, chains: &[Message]) -> Result<FilterChains, Error> {
    let mut all = FilterChains::new();
    for message in chains {
        let attrs = message.attrs(FIXED);
        let text = |kind| attrs.find(kind).map(text_of).unwrap_or_default();
        let name = text(CHAIN_NAME);
        let hooked = attrs.find(CHAIN_HOOK).is_some();
        if !hooked || text(CHAIN_TABLE) != TABLE || !CHAINS.contains(&name.as_str()) {
            continue;
        }
        let families = [TableFamily::Ip, TableFamily::Ip6];
        let of = |f: &TableFamily| message.body.first() == Some(&family(*f));
        let Some(family) = families.into_iter().find(of) else {
            continue;
        };
        let id = TableId {
            family,
            name: TABLE.to_owned(),
        };
        let policy = attrs.find(CHAIN_POLICY).and_then(be32_of);
        let found = rules(socket, &id, &name)?;
        let behind = place(&found);
        let chain = FilterChain {
            drops: policy == Some(libc::NF_DROP as u32) || found.iter().any(|rule| rule.drops),
            in_place: {
                let others = found.iter().take_while(|rule| rule.ours.is_none()).count();
                let ours = found.iter().filter(|rule| rule.ours.is_some()).count();
                let together = found.iter().skip(others).take(ours);
                others == behind && together.into_iter().all(|rule| rule.ours.is_some())
            },
            ours: found.into_iter().filter_map(|rule| rule.ours).collect(),
        };
        all.entry(id).or_default().insert(name, chain);
    }
    Ok(all)
}

/// How many of others' rules stand in front of ours.
fn place(found: &[Found]) -> usize {
    let others: Vec<&Found> = found.iter().filter(|rule| rule.ours.is_none()).collect();
    let last = others.iter().rposition(|rule| rule.policies);
    last.map_or(0, |at| at + 1)
}

fn rules(socket: &mut Socket, id: &TableId, chain: &str) -> Result<Vec<Found>, Error> {
    let messages = rules_of(socket, id, chain)?;
    let found = messages.iter().filter_map(|m| decode(m.attrs(FIXED)));
    Ok(found.collect())
}

/// The kernel's messages about the rules of a chain; none where that is not there.
pub(super) fn rules_of(
    socket: &mut Socket,
    id: &TableId,
    chain: &str,
) -> Result<Vec<Message>, Error> {
    let mut request = begin(GET_RULE, 0, id);
    request.text(RULE_TABLE, &id.name).text(RULE_CHAIN, chain);
    let mut messages = match socket.dump(&request, "nftables rules") {
        Err(Error::Kernel {
            errno: Errno::ENOENT,
            ..
        }) => Vec::new(),
        other => other?,
    };
    messages.retain(|message| {
        let attrs = message.attrs(FIXED);
        let is = |kind, name: &str| attrs.find(kind).map(text_of).as_deref() == Some(name);
        message.body.first() == Some(&family(id.family))
            && is(RULE_TABLE, &id.name)
            && is(RULE_CHAIN, chain)
    });
    Ok(messages)
}

fn decode(attrs: Attrs<'_>) -> Option<Found> {
    let handle = attrs.find(RULE_HANDLE)?.try_into().ok()?;
    let rule = object::decode_rule(attrs);
    let list = attrs.inside(RULE_EXPRESSIONS).unwrap_or(Attrs(&[]));
    let (mut policies, mut drops) = (false, false);
    let mut ours = rule.comment == ACCEPT_MARK;
    for expression in Expression::decode_all(list) {
        if let Expression::Verdict { code, chain } = &expression {
            drops |= *code == libc::NF_DROP;
            let is_policy = |chain: &String| POLICIES.iter().any(|p| chain.starts_with(p));
            policies |= chain.as_ref().is_some_and(is_policy);
        }
        // What iptables-nft itself makes of ours when it restores them: bytes in hexadecimal.
        if let Expression::Other(words) = &expression {
            ours |= words.starts_with(XT_COMMENT) && words.contains(XT_MARK);
        }
        // As iptables-nft writes it, or with the name of its target, REJECT, in hexadecimal.
        if let Expression::Other(words) = &expression {
            drops |= words.starts_with("reject")
                || (words.starts_with("target") && words.contains("52454a454354"));
        }
    }
    Some(Found {
        handle: u64::from_be_bytes(handle),
        ours: ours.then_some(rule),
        policies,
        drops,
    })
}

/// Makes our rules in a chain these; others' stay as they are. A chain that is gone gets none.
pub(crate) fn set(
    socket: &mut Socket,
    id: &TableId,
    chain: &str,
    wanted: &[Rule],
) -> Result<(), Error> {
    let found = rules(socket, id, chain)?;
    let about = |kind, flags| {
        let mut request = begin(kind, flags, id);
        request.text(RULE_TABLE, &id.name).text(RULE_CHAIN, chain);
        request
    };
    let mut messages = Vec::new();
    for old in found.iter().filter(|rule| rule.ours.is_some()) {
        let mut request = about(DELETE_RULE, 0);
        request.attr(RULE_HANDLE, &old.handle.to_be_bytes());
        messages.push((0, request));
    }
    let others = found.iter().filter(|rule| rule.ours.is_none());
    let front = place(&found).checked_sub(1);
    let front = front.and_then(|at| others.map(|rule| rule.handle).nth(at));
    // Each goes directly behind what stands in front of all of them: the last one first.
    for rule in wanted.iter().rev() {
        let create = libc::NLM_F_CREATE;
        let mut request = match front {
            None => about(NEW_RULE, create),
            Some(handle) => {
                let mut request = about(NEW_RULE, create | libc::NLM_F_APPEND);
                request.attr(RULE_POSITION, &handle.to_be_bytes());
                request
            }
        };
        object::encode_rule(&mut request, rule)?;
        messages.push((0, request));
    }
    batch::transact(socket, messages, |_| {
        Some(format!("set accept rules in {} {chain}", id.name))
    })
}
