//! nftables: a ruleset of `strait_host::nft` written in one transaction, and read back to the same.
//!
//! What the kernel holds beyond that vocabulary is read as something that equals nothing wanted.

mod accepts;
mod batch;
mod chains;
mod early;
mod expression;
mod foreign;
mod message;
mod object;
mod read;
mod set;
mod statement;

pub(crate) use accepts::{list as list_accepts, set as set_accepts};
pub(crate) use batch::commit;
pub(crate) use chains::{
    named as named_chains, remove as remove_chains, remove_table, tables as named_tables,
};
pub(crate) use early::source_checks;
pub(crate) use foreign::{all_chains, base_chains, counters};
pub(crate) use read::list;

/// Reads the same bytes as each kind of object.
#[cfg(test)]
pub(crate) fn decode_anything(attrs: crate::wire::Attrs<'_>) {
    let rule = object::decode_rule(attrs);
    let _ = object::decode_base(attrs);
    let _ = early::asks(attrs);
    let raw: Vec<set::Raw> = attrs
        .filter_map(|(_, one)| set::Raw::decode(crate::wire::Attrs(one)))
        .collect();
    let _ = set::decode_type(attrs);
    for interval in [false, true] {
        for keys in [
            strait_host::nft::ElementType::Ipv4,
            strait_host::nft::ElementType::Ipv6,
            strait_host::nft::ElementType::Mark,
        ] {
            let kind = strait_host::nft::Set {
                keys,
                interval,
                values: None,
                elements: std::collections::BTreeMap::new(),
            };
            let _ = set::raise(&kind, raw.clone());
        }
    }
    for one in &rule.statements {
        let _ = statement::lower(one);
    }
}
