//! Tables, chains and rules as messages.

use strait_host::nft::{Base, ChainKind, Hook, Op, Rule, Set, TableId};

use crate::error::Error;
use crate::nft::message::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, DELETE_ELEMENTS, DELETE_RULE,
    DELETE_TABLE, HOOK_NUMBER, HOOK_PRIORITY, LIST_ELEMENTS, LIST_SET, LIST_TABLE, NEW_CHAIN,
    NEW_ELEMENTS, NEW_RULE, NEW_SET, NEW_TABLE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE,
    RULE_USERDATA, SET_ID, SET_NAME, SET_TABLE, TABLE_FLAGS, TABLE_NAME, TABLE_USERDATA, begin,
};
use crate::nft::set::Raw;
use crate::nft::{set, statement};
use crate::wire::{Attrs, Request, be32_of, text_of};

/// libnftnl's `NFTNL_UDATA_RULE_COMMENT` and `NFTNL_UDATA_TABLE_COMMENT`.
const COMMENT: u8 = 0;
/// Longest comment in bytes: nft itself takes 128 (`NFTNL_UDATA_COMMENT_MAXLEN`).
const LONGEST_COMMENT: usize = 120;
/// Elements in one message: with both ends of an interval and a value some 120 bytes each, well below the 64 KiB that
/// the length of the attribute around them can say.
const ELEMENTS: usize = 250;

/// The messages of one step.
pub(super) fn encode(op: &Op, number: u32) -> Result<Vec<Request>, Error> {
    let create = libc::NLM_F_CREATE;
    Ok(match op {
        Op::AddTable(id, comment) => {
            let mut request = begin(NEW_TABLE, create, id);
            request.text(TABLE_NAME, &id.name).be32(TABLE_FLAGS, 0);
            encode_comment(&mut request, TABLE_USERDATA, comment)?;
            vec![request]
        }
        Op::DeleteTable(id) => {
            let mut request = begin(DELETE_TABLE, 0, id);
            request.text(TABLE_NAME, &id.name);
            vec![request]
        }
        Op::AddSet(id, name, set) => {
            let mut request = begin(NEW_SET, create, id);
            request.text(SET_TABLE, &id.name).text(SET_NAME, name);
            request.be32(SET_ID, number);
            set::encode_type(&mut request, set);
            vec![request]
        }
        Op::AddChain(id, name, base) => {
            let mut request = begin(NEW_CHAIN, create, id);
            request.text(CHAIN_TABLE, &id.name).text(CHAIN_NAME, name);
            if let Some(base) = base {
                encode_base(&mut request, base);
            }
            vec![request]
        }
        Op::FlushChain(id, chain) => {
            let mut request = begin(DELETE_RULE, 0, id);
            request.text(RULE_TABLE, &id.name).text(RULE_CHAIN, chain);
            vec![request]
        }
        Op::AddRule(id, chain, rule) => {
            let mut request = begin(NEW_RULE, create | libc::NLM_F_APPEND, id);
            request.text(RULE_TABLE, &id.name).text(RULE_CHAIN, chain);
            encode_rule(&mut request, rule)?;
            vec![request]
        }
        Op::AddElements(id, name, set) => elements(NEW_ELEMENTS, create, id, name, set)?,
        Op::DeleteElements(id, name, set) => {
            // What an element is mapped to does not matter for its removal.
            let mut keys = set.clone();
            keys.elements.values_mut().for_each(|value| *value = None);
            elements(DELETE_ELEMENTS, 0, id, name, &keys)?
        }
    })
}

fn elements(
    kind: i32,
    flags: i32,
    id: &TableId,
    name: &str,
    set: &Set,
) -> Result<Vec<Request>, Error> {
    let all: Vec<(&_, &_)> = set.elements.iter().collect();
    let message = |some: &[(&_, &Option<_>)]| {
        let mut raw: Vec<Raw> = Vec::new();
        for (key, value) in some {
            raw.extend(set::lower(set, key, value.as_ref())?);
        }
        let mut request = begin(kind, flags, id);
        request.text(LIST_TABLE, &id.name).text(LIST_SET, name);
        request.nest(LIST_ELEMENTS, |list| {
            raw.iter().for_each(|one| one.encode(list));
        });
        Ok(request)
    };
    all.chunks(ELEMENTS).map(message).collect()
}

fn encode_base(request: &mut Request, base: &Base) {
    request.nest(CHAIN_HOOK, |hook| {
        hook.be32(HOOK_NUMBER, hook_number(base.hook))
            .be32(HOOK_PRIORITY, base.priority.cast_unsigned());
    });
    request
        .be32(CHAIN_POLICY, libc::NF_ACCEPT as u32)
        .text(CHAIN_TYPE, kind_name(base.kind));
}

fn hook_number(hook: Hook) -> u32 {
    let number = match hook {
        Hook::Prerouting => libc::NF_INET_PRE_ROUTING,
        Hook::Input => libc::NF_INET_LOCAL_IN,
        Hook::Forward => libc::NF_INET_FORWARD,
        Hook::Output => libc::NF_INET_LOCAL_OUT,
        Hook::Postrouting => libc::NF_INET_POST_ROUTING,
    };
    number as u32
}

/// The hook of a number of the IP families.
pub(super) fn hook_of(number: u32) -> Option<Hook> {
    let hooks = [
        Hook::Prerouting,
        Hook::Input,
        Hook::Forward,
        Hook::Output,
        Hook::Postrouting,
    ];
    hooks.into_iter().find(|hook| hook_number(*hook) == number)
}

fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    }
}

/// A chain's hook: `Ok(None)` for a chain without, an error with its words for one that we never make.
pub(super) fn decode_base(attrs: Attrs<'_>) -> Result<Option<Base>, String> {
    let Some(hook) = attrs.inside(CHAIN_HOOK) else {
        return Ok(None);
    };
    let number = hook.find(HOOK_NUMBER).and_then(be32_of);
    let kind = attrs.find(CHAIN_TYPE).map(text_of).unwrap_or_default();
    let policy = attrs.find(CHAIN_POLICY).and_then(be32_of);
    let base = || {
        let kinds = [ChainKind::Filter, ChainKind::Nat, ChainKind::Route];
        (policy.unwrap_or(libc::NF_ACCEPT as u32) == libc::NF_ACCEPT as u32).then_some(())?;
        Some(Base {
            kind: kinds.into_iter().find(|k| kind_name(*k) == kind)?,
            hook: hook_of(number?)?,
            priority: hook.find(HOOK_PRIORITY).and_then(be32_of)?.cast_signed(),
        })
    };
    match base() {
        Some(base) => Ok(Some(base)),
        None => Err(format!("type {kind} hook {number:?} policy {policy:?}")),
    }
}

pub(super) fn encode_rule(request: &mut Request, rule: &Rule) -> Result<(), Error> {
    let mut expressions = Vec::new();
    for one in &rule.statements {
        expressions.extend(statement::lower(one)?);
    }
    request.nest(RULE_EXPRESSIONS, |list| {
        expressions.iter().for_each(|e| e.encode(list));
    });
    encode_comment(request, RULE_USERDATA, &rule.comment)
}

fn encode_comment(request: &mut Request, attribute: u16, text: &str) -> Result<(), Error> {
    let comment = text.as_bytes();
    if comment.is_empty() {
        return Ok(());
    }
    if comment.len() > LONGEST_COMMENT || comment.contains(&0) {
        return Err(Error::Unsupported(format!(
            "a comment of more than {LONGEST_COMMENT} bytes, or with a zero: {text}"
        )));
    }
    let mut userdata = vec![COMMENT, comment.len() as u8 + 1];
    userdata.extend_from_slice(comment);
    userdata.push(0);
    request.attr(attribute, &userdata);
    Ok(())
}

/// Reads a rule's content.
pub(super) fn decode_rule(attrs: Attrs<'_>) -> Rule {
    let list = attrs.inside(RULE_EXPRESSIONS).unwrap_or(Attrs(&[]));
    let expressions = super::expression::Expression::decode_all(list);
    Rule {
        statements: statement::raise(&expressions),
        comment: comment_of(attrs),
    }
}

/// A rule's comment; empty if it has none.
pub(super) fn comment_of(attrs: Attrs<'_>) -> String {
    comment(attrs.find(RULE_USERDATA).unwrap_or_default())
}

/// A table's.
pub(super) fn table_comment_of(attrs: Attrs<'_>) -> String {
    comment(attrs.find(TABLE_USERDATA).unwrap_or_default())
}

fn comment(mut userdata: &[u8]) -> String {
    while let [tag, len, rest @ ..] = userdata {
        let Some((payload, behind)) = rest.split_at_checked(usize::from(*len)) else {
            break;
        };
        if *tag == COMMENT {
            return text_of(payload);
        }
        userdata = behind;
    }
    String::new()
}

/// A step in a few words, for errors.
pub(super) fn words(op: &Op) -> String {
    let of = |what: &str, id: &TableId, name: &str| {
        let family = match id.family {
            strait_host::nft::TableFamily::Inet => "inet",
            strait_host::nft::TableFamily::Ip => "ip",
            strait_host::nft::TableFamily::Ip6 => "ip6",
        };
        format!("nft {what} {family} {} {name}", id.name)
            .trim_end()
            .to_owned()
    };
    match op {
        Op::AddTable(id, _) => of("add table", id, ""),
        Op::DeleteTable(id) => of("delete table", id, ""),
        Op::AddSet(id, name, _) => of("add set", id, name),
        Op::AddChain(id, name, _) => of("add chain", id, name),
        Op::FlushChain(id, name) => of("flush chain", id, name),
        Op::AddRule(id, name, rule) => {
            format!("{} ({})", of("add rule", id, name), rule.comment)
        }
        Op::AddElements(id, name, set) => {
            let n = set.elements.len();
            format!("{} ({n} elements)", of("add element", id, name))
        }
        Op::DeleteElements(id, name, set) => {
            let n = set.elements.len();
            format!("{} ({n} elements)", of("delete element", id, name))
        }
    }
}
