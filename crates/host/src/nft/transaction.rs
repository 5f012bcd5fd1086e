//! The transaction that makes one table equal to another.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Base, Chain, Element, Rule, Set, Table, TableId};
use crate::unshared::unshared;

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Makes the table with this comment, if it is not there.
    AddTable(TableId, String),
    /// Removes the table with all in it.
    DeleteTable(TableId),
    /// Makes a set, without elements.
    AddSet(TableId, String, Set),
    /// Makes a chain, without rules.
    AddChain(TableId, String, Option<Base>),
    /// Removes all rules of a chain.
    FlushChain(TableId, String),
    /// Appends a rule to a chain.
    AddRule(TableId, String, Rule),
    /// Adds elements to a set; its type is given with it.
    AddElements(TableId, String, Set),
    /// Removes elements from a set; its type is given with it.
    DeleteElements(TableId, String, Set),
}

/// The transaction that makes `observed` equal to `wanted`; `None` is the absence of the table.
///
/// A chain whose rules differ is emptied and written anew; where the comment, or the types of chains or sets differ,
/// the whole table is made anew. Both are atomic: no packet sees anything in between.
#[must_use]
pub fn diff_table(id: &TableId, observed: Option<&Table>, wanted: Option<&Table>) -> Vec<Op> {
    match (observed, wanted) {
        (None, None) => Vec::new(),
        (Some(_), None) => vec![Op::DeleteTable(id.clone())],
        (None, Some(wanted)) => create(id, wanted),
        (Some(observed), Some(wanted)) if same_shape(observed, wanted) => {
            update(id, observed, wanted)
        }
        (Some(_), Some(wanted)) => {
            let mut ops = vec![Op::DeleteTable(id.clone())];
            ops.extend(create(id, wanted));
            ops
        }
    }
}

fn same_shape(observed: &Table, wanted: &Table) -> bool {
    observed.comment == wanted.comment
        && observed.chains.keys().eq(wanted.chains.keys())
        && observed.sets.keys().eq(wanted.sets.keys())
        && observed
            .chains
            .values()
            .zip(wanted.chains.values())
            .all(|(o, w)| o.base == w.base)
        && observed
            .sets
            .values()
            .zip(wanted.sets.values())
            .all(|(o, w)| o.same_type(w))
}

fn create(id: &TableId, wanted: &Table) -> Vec<Op> {
    let mut ops = vec![Op::AddTable(id.clone(), wanted.comment.clone())];
    for (name, set) in &wanted.sets {
        ops.push(Op::AddSet(
            id.clone(),
            name.clone(),
            set.of_type(Vec::new()),
        ));
        if !set.elements.is_empty() {
            ops.push(Op::AddElements(id.clone(), name.clone(), set.clone()));
        }
    }
    for (name, chain) in &wanted.chains {
        ops.push(Op::AddChain(id.clone(), name.clone(), chain.base));
    }
    for (name, chain) in &wanted.chains {
        ops.extend(
            chain
                .rules
                .iter()
                .map(|r| Op::AddRule(id.clone(), name.clone(), r.clone())),
        );
    }
    ops
}

impl Set {
    /// A set of the same type with these elements.
    fn of_type(&self, elements: Vec<(&Element, &Option<Element>)>) -> Self {
        let owned = |(key, value): (&Element, &Option<Element>)| (key.clone(), value.clone());
        Self {
            keys: self.keys,
            interval: self.interval,
            values: self.values,
            elements: elements.into_iter().map(owned).collect(),
        }
    }
}

fn update(id: &TableId, observed: &Table, wanted: &Table) -> Vec<Op> {
    let mut ops = Vec::new();
    for ((name, have), want) in observed.sets.iter().zip(wanted.sets.values()) {
        let (gone, new) = unshared(&have.elements, &want.elements);
        if !gone.is_empty() {
            let gone = have.of_type(gone);
            ops.push(Op::DeleteElements(id.clone(), name.clone(), gone));
        }
        if !new.is_empty() {
            let new = want.of_type(new);
            ops.push(Op::AddElements(id.clone(), name.clone(), new));
        }
    }
    for ((name, have), want) in observed.chains.iter().zip(wanted.chains.values()) {
        if have.rules != want.rules {
            ops.push(Op::FlushChain(id.clone(), name.clone()));
            ops.extend(
                want.rules
                    .iter()
                    .map(|r| Op::AddRule(id.clone(), name.clone(), r.clone())),
            );
        }
    }
    ops
}

/// Carries out a transaction on plain data, as the kernel would.
pub fn apply(tables: &mut BTreeMap<TableId, Table>, ops: &[Op]) {
    for op in ops {
        match op {
            Op::AddTable(id, comment) => {
                tables.entry(id.clone()).or_insert_with(|| Table {
                    comment: comment.clone(),
                    ..Table::default()
                });
            }
            Op::DeleteTable(id) => {
                tables.remove(id);
            }
            Op::AddSet(id, name, set) => {
                if let Some(table) = tables.get_mut(id) {
                    table
                        .sets
                        .entry(name.clone())
                        .or_insert_with(|| set.clone());
                }
            }
            Op::AddChain(id, name, base) => {
                if let Some(table) = tables.get_mut(id) {
                    table.chains.entry(name.clone()).or_insert_with(|| Chain {
                        base: *base,
                        rules: Vec::new(),
                    });
                }
            }
            Op::FlushChain(id, name) => {
                if let Some(chain) = tables.get_mut(id).and_then(|t| t.chains.get_mut(name)) {
                    chain.rules.clear();
                }
            }
            Op::AddRule(id, name, rule) => {
                if let Some(chain) = tables.get_mut(id).and_then(|t| t.chains.get_mut(name)) {
                    chain.rules.push(rule.clone());
                }
            }
            Op::AddElements(id, name, set) => {
                if let Some(have) = tables.get_mut(id).and_then(|t| t.sets.get_mut(name)) {
                    have.elements.extend(set.elements.clone());
                }
            }
            Op::DeleteElements(id, name, set) => {
                if let Some(have) = tables.get_mut(id).and_then(|t| t.sets.get_mut(name)) {
                    have.elements.retain(|k, _| !set.elements.contains_key(k));
                }
            }
        }
    }
}
