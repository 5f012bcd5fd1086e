//! Reverse-path filters of others in nftables, those of iptables-nft among them.

use std::collections::BTreeSet;

use strait_host::nft::{Field, Hook, Rule, Statement, TableFamily, TableId, Value};
use strait_host::{BaseChain, Family};

use crate::error::Error;
use crate::nft::accepts::{POLICIES, rules_of};
use crate::nft::expression::Expression;
use crate::nft::message::{FIXED, RULE_EXPRESSIONS};
use crate::nft::{foreign, object};
use crate::socket::Socket;
use crate::wire::{Attrs, Message, be32_of, text_of};

/// `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_FIB_RESULT`, with `NFT_FIB_RESULT_OIF` and `NFT_FIB_RESULT_OIFNAME`.
const FIB_RESULT: u16 = 2;
const LINKS: [u32; 2] = [1, 2];
/// `NFTA_FIB_FLAGS`, with `NFTA_FIB_F_SADDR`.
const FIB_FLAGS: u16 = 3;
const OF_SOURCE: u32 = 1;
/// `NFTA_MATCH_NAME`.
const MATCH_NAME: u16 = 1;
/// Chains that are looked at from one that is hooked in; a filter of this kind stands at the beginning.
const CHAINS: usize = 16;

/// The families in which a chain before routing, or one that it jumps to, asks by which link a packet's source is reached.
///
/// Chains of those who enforce network policies are left out: they ask it of their pods' own links only.
pub(crate) fn source_checks(
    socket: &mut Socket,
    chains: &[Message],
) -> Result<BTreeSet<Family>, Error> {
    let mut all = BTreeSet::new();
    for chain in chains.iter().filter_map(foreign::decode) {
        let Some((id, families)) = early(&chain) else {
            continue;
        };
        let (mut seen, mut next) = (BTreeSet::new(), vec![chain.name]);
        while let Some(name) = next.pop() {
            if seen.len() == CHAINS || !seen.insert(name.clone()) {
                continue;
            }
            for found in rules(socket, &id, &name)? {
                let of_rule = families.iter().filter(|f| may_be(&found.rule, **f));
                if found.asks {
                    all.extend(of_rule);
                }
                let is_policy = |to: &String| POLICIES.iter().any(|policy| to.starts_with(policy));
                next.extend(found.next.into_iter().filter(|to| !is_policy(to)));
            }
        }
    }
    Ok(all)
}

struct Found {
    rule: Rule,
    /// It asks for the way to the source.
    asks: bool,
    /// Where it jumps or goes.
    next: Vec<String>,
}

/// The table of a chain that sees every packet before it is routed, and the families that pass there.
fn early(chain: &BaseChain) -> Option<(TableId, &'static [Family])> {
    (chain.hook == Hook::Prerouting && !chain.nat).then_some(())?;
    let (family, families): (_, &[Family]) = match chain.family {
        "ip" => (TableFamily::Ip, &[Family::V4]),
        "ip6" => (TableFamily::Ip6, &[Family::V6]),
        _ => (TableFamily::Inet, &Family::ALL),
    };
    let name = chain.table.clone();
    Some((TableId { family, name }, families))
}

/// A chain's rules. One that is gone has none.
fn rules(socket: &mut Socket, id: &TableId, chain: &str) -> Result<Vec<Found>, Error> {
    let messages = rules_of(socket, id, chain)?;
    let found = messages.iter().map(|message| {
        let attrs = message.attrs(FIXED);
        let list = attrs.inside(RULE_EXPRESSIONS).unwrap_or(Attrs(&[]));
        let next = Expression::decode_all(list).into_iter();
        Found {
            rule: object::decode_rule(attrs),
            asks: asks(list),
            next: next.filter_map(to).collect(),
        }
    });
    Ok(found.collect())
}

/// The chain that a verdict leads to.
fn to(expression: Expression) -> Option<String> {
    if let Expression::Verdict { chain, .. } = expression {
        return chain;
    }
    None
}

/// Whether one of a rule's expressions asks for the way to the source, in whatever registers.
pub(super) fn asks(mut list: Attrs<'_>) -> bool {
    list.any(|(_, one)| {
        let one = Attrs(one);
        let data = one.inside(DATA).unwrap_or(Attrs(&[]));
        match one.find(NAME).map(text_of).as_deref() {
            Some("fib") => {
                let number = |kind| data.find(kind).and_then(be32_of).unwrap_or_default();
                LINKS.contains(&number(FIB_RESULT)) && number(FIB_FLAGS) & OF_SOURCE != 0
            }
            Some("match") => data.find(MATCH_NAME).map(text_of).as_deref() == Some("rpfilter"),
            Some(_) | None => false,
        }
    })
}

/// Whether a rule can match packets of a family, as far as it says.
fn may_be(rule: &Rule, family: Family) -> bool {
    let number = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    !rule.statements.iter().any(|one| {
        let Statement::Match {
            field: Field::Protocol,
            mask: None,
            negated: false,
            value: Value::Number(protocol),
        } = one
        else {
            return false;
        };
        *protocol != number as u32
    })
}
