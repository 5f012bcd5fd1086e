//! The entries of a table: found by their chains, and put together again without some of them.
//!
//! Entries stand in a row, and name each other by their distance from the beginning in bytes. A built-in chain ends with
//! the entry of its policy; a chain of a user's begins with an entry whose target is `ERROR` and has the chain's name, and ends
//! with one that returns. Behind all stands one of target `ERROR` and name `ERROR`.

use std::collections::{BTreeMap, BTreeSet};

use strait_host::Family;

use crate::legacy::option::Info;
use crate::wire::{text_of, u16_of, u32_of};

/// Where things stand in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// `target_offset`; `next_offset` follows.
    target: usize,
    /// The counters, to the end of the fixed part.
    counters: usize,
}

/// Length of `struct xt_counters`, and of `struct xt_entry_target` without its data.
const COUNTERS: usize = 16;
const TARGET: usize = 32;
/// `XT_FUNCTION_MAXNAMELEN`: of a target's name with its revision, and of a chain's name.
const NAME: usize = 29;
const CHAIN_NAME: usize = 30;
/// Verdict of `DROP`: `-NF_DROP - 1`.
const DROP: i32 = -1;
/// The hooks whose chains drop or let pass, with the chains' names (`NF_INET_LOCAL_IN`, `NF_INET_FORWARD`).
const FILTERING: [(usize, &str); 2] = [(1, "INPUT"), (2, "FORWARD")];

impl Layout {
    /// `struct ipt_entry`, `struct ip6t_entry`.
    pub(super) fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                target: 88,
                counters: 96,
            },
            Family::V6 => Self {
                target: 140,
                counters: 152,
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    at: u32,
    bytes: Vec<u8>,
    target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// A verdict, or the distance of the entry to go on with.
    Standard(i32),
    /// The beginning of a chain, or of what stands behind all.
    Error(String),
    Other(String),
}

/// A table that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    layout: Layout,
    info: Info,
    entries: Vec<Entry>,
}

/// A table without some chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Less {
    pub(super) info: Info,
    pub(super) bytes: Vec<u8>,
    /// Which entries of the old table those of the new one are.
    pub(super) kept: Vec<usize>,
}

impl Content {
    /// `None` if it is not as the kernel keeps it.
    pub(super) fn parse(layout: Layout, info: &Info, mut bytes: &[u8]) -> Option<Self> {
        let mut entries = Vec::new();
        let mut at = 0;
        while !bytes.is_empty() {
            let offset = usize::from(u16_of(bytes.get(layout.target..)?)?);
            let len = usize::from(u16_of(bytes.get(layout.target + 2..)?)?);
            let entry = bytes.get(..len)?;
            // What the kernel checks too (`xt_check_entry_offsets`).
            if offset < layout.counters + COUNTERS || len % 8 != 0 {
                return None;
            }
            entries.push(Entry {
                at,
                bytes: entry.to_vec(),
                target: target(entry.get(offset..)?)?,
            });
            at = at.checked_add(u32::try_from(len).ok()?)?;
            bytes = bytes.get(len..)?;
        }
        let content = Self {
            layout,
            info: info.clone(),
            entries,
        };
        let last = content.entries.last().map(|e| &e.target);
        let ended = last == Some(&Target::Error("ERROR".to_owned()));
        let places = content.hooks().all(|hook| {
            let (begin, policy) = (info.begin[hook], info.policy[hook]);
            begin <= policy && content.index(begin).is_some() && content.index(policy).is_some()
        });
        (ended && places && content.entries.len() == info.entries as usize).then_some(content)
    }

    fn hooks(&self) -> impl Iterator<Item = usize> {
        let hooks = self.info.hooks;
        (0..5).filter(move |hook| hooks & (1 << hook) != 0)
    }

    fn index(&self, at: u32) -> Option<usize> {
        self.entries.binary_search_by_key(&at, |e| e.at).ok()
    }

    /// Chains of users, by name: the index of their first entry, and of the one behind their last.
    fn chains(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut chains = BTreeMap::new();
        let mut open: Option<(&str, usize)> = None;
        for (n, entry) in self.entries.iter().enumerate() {
            if let Target::Error(name) = &entry.target {
                if let Some((name, from)) = open.take() {
                    chains.insert(name, (from, n));
                }
                open = Some((name, n));
            }
        }
        chains
    }

    /// The chains of users whose names begin so.
    pub(crate) fn named(&self, prefix: &str) -> BTreeSet<String> {
        let names = self.chains().into_keys();
        names
            .filter(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .collect()
    }

    /// Of `INPUT` and `FORWARD`, those that drop or reject, by their policy or a rule of their own, what comes behind their
    /// first jump to a chain whose name begins so.
    pub(crate) fn dropping(&self, prefix: &str) -> BTreeSet<String> {
        let chains = self.chains();
        let named = |at: u32| {
            let n = self.index(at);
            chains.iter().any(|(name, (from, to))| {
                name.starts_with(prefix) && n.is_some_and(|n| (*from..*to).contains(&n))
            })
        };
        let drops = |(hook, _): &(usize, &str)| {
            let (begin, policy) = (self.info.begin[*hook], self.info.policy[*hook]);
            let own = self.entries.iter();
            let behind = own
                .filter(|entry| (begin..=policy).contains(&entry.at))
                .skip_while(|entry| !jump(entry).is_some_and(named));
            self.hooks().any(|used| used == *hook)
                && behind.into_iter().any(|entry| match &entry.target {
                    Target::Standard(verdict) => *verdict == DROP,
                    Target::Other(name) => name == "REJECT",
                    Target::Error(_) => false,
                })
        };
        let chains = FILTERING.into_iter().filter(drops);
        chains.map(|(_, name)| name.to_owned()).collect()
    }

    /// Whether a rule has the match `rpfilter`: its name, with the zero that ends it, stands between the fixed part and the target.
    pub(crate) fn checks_sources(&self) -> bool {
        const MATCH: &[u8] = b"rpfilter\0";
        self.entries.iter().any(|entry| {
            let matches = entry.bytes.get(self.layout.counters + COUNTERS..);
            matches.is_some_and(|bytes| bytes.windows(MATCH.len()).any(|part| part == MATCH))
        })
    }

    /// The table without these chains and the rules that jump there; `None` if there are none.
    pub(super) fn without(&self, names: &BTreeSet<String>) -> Option<Less> {
        let chains = self.chains();
        let going: Vec<(usize, usize)> = chains
            .iter()
            .filter(|(name, _)| names.contains(**name))
            .map(|(_, range)| *range)
            .collect();
        if going.is_empty() {
            return None;
        }
        let of_chain = |n: usize| going.iter().any(|(from, to)| (*from..*to).contains(&n));
        let goes = |n: usize, entry: &Entry| {
            let jumps = jump(entry).and_then(|to| self.index(to));
            of_chain(n) || jumps.is_some_and(of_chain)
        };
        let kept: Vec<usize> = (0..self.entries.len())
            .filter(|n| !goes(*n, &self.entries[*n]))
            .collect();
        let mut places = Vec::with_capacity(kept.len());
        let mut size = 0;
        for n in &kept {
            places.push((self.entries[*n].at, size));
            size += self.entries[*n].bytes.len() as u32;
        }
        // What begins with an entry that goes begins with the next one that stays: its own chain's end does.
        let moved = |at: u32| {
            let n = places.partition_point(|(old, _)| *old < at);
            places.get(n).map_or(size, |(_, new)| *new)
        };
        let mut bytes = Vec::with_capacity(size as usize);
        for n in &kept {
            let entry = &self.entries[*n];
            let begin = bytes.len();
            bytes.extend_from_slice(&entry.bytes);
            let counters = begin + self.layout.counters;
            bytes[counters..counters + COUNTERS].fill(0);
            let Target::Standard(verdict) = entry.target else {
                continue;
            };
            let new = match jump(entry) {
                Some(to) => moved(to).cast_signed(),
                // It goes on with what follows.
                None if verdict >= 0 => bytes.len() as i32,
                None => continue,
            };
            let target = usize::from(u16_of(&entry.bytes[self.layout.target..])?);
            let place = begin + target + TARGET;
            bytes
                .get_mut(place..place + 4)?
                .copy_from_slice(&new.to_ne_bytes());
        }
        let mut info = self.info.clone();
        for hook in self.hooks() {
            info.begin[hook] = moved(info.begin[hook]);
            info.policy[hook] = moved(info.policy[hook]);
        }
        info.entries = kept.len() as u32;
        info.size = size;
        Some(Less { info, bytes, kept })
    }
}

/// The entry that one jumps to, if it jumps.
fn jump(entry: &Entry) -> Option<u32> {
    let Target::Standard(verdict) = entry.target else {
        return None;
    };
    let to = u32::try_from(verdict).ok()?;
    (to != entry.at + entry.bytes.len() as u32).then_some(to)
}

fn target(bytes: &[u8]) -> Option<Target> {
    let name = text_of(bytes.get(2..2 + NAME)?);
    let data = bytes.get(TARGET..)?;
    Some(match name.as_str() {
        "" => Target::Standard(u32_of(data)?.cast_signed()),
        "ERROR" => Target::Error(text_of(data.get(..CHAIN_NAME)?)),
        _ => Target::Other(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 112 + TARGET];
        bytes[88..90].copy_from_slice(&112_u16.to_ne_bytes());
        bytes[114..114 + name.len()].copy_from_slice(name.as_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let len = bytes.len() as u16;
        bytes[90..92].copy_from_slice(&len.to_ne_bytes());
        bytes
    }

    fn verdict(verdict: i32) -> Vec<u8> {
        entry("", &verdict.to_ne_bytes())
    }

    fn begin(chain: &str) -> Vec<u8> {
        let mut name = chain.as_bytes().to_vec();
        name.resize(CHAIN_NAME, 0);
        entry("ERROR", &name)
    }

    /// `FORWARD` jumps to a chain, and drops by policy.
    fn table() -> (Info, Vec<u8>) {
        let (jump, end) = (152, 176);
        let all = [
            verdict(2 * jump + end),
            verdict(DROP),
            begin("SUBMARINER-FORWARD"),
            verdict(-5),
            begin("ERROR"),
        ];
        let bytes = all.concat();
        let info = Info {
            hooks: 1 << 2,
            begin: [0; 5],
            policy: [0, 0, jump as u32, 0, 0],
            entries: 5,
            size: bytes.len() as u32,
        };
        (info, bytes)
    }

    #[test]
    fn a_chain_and_the_jump_that_began_another_go() {
        let (info, bytes) = table();
        let layout = Layout::of(Family::V4);
        let content = Content::parse(layout, &info, &bytes).unwrap();
        let names = content.named("SUBMARINER-");
        assert_eq!(names.len(), 1);
        assert_eq!(content.dropping("SUBMARINER-").len(), 1);
        assert!(content.without(&["OTHER".to_owned()].into()).is_none());
        let less = content.without(&names).unwrap();
        assert_eq!(less.kept, [1, 4]);
        assert_eq!((less.info.begin[2], less.info.policy[2]), (0, 0));
        assert_eq!(less.bytes, [verdict(DROP), begin("ERROR")].concat());
        let again = Content::parse(layout, &less.info, &less.bytes).unwrap();
        assert!(again.named("SUBMARINER-").is_empty());
    }

    #[test]
    fn no_truncation_and_no_flipped_byte_panics() {
        let (info, bytes) = table();
        let look = |info: &Info, bytes: &[u8]| {
            for family in Family::ALL {
                let layout = Layout::of(family);
                if let Some(content) = Content::parse(layout, info, bytes) {
                    let _ = content.dropping("S");
                    let _ = content.without(&content.named(""));
                }
            }
        };
        for end in 0..bytes.len() {
            look(&info, &bytes[..end]);
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 8, 0x70, 0x7f, 0x98, 0xff] {
                let mut bad = bytes.clone();
                bad[at] = value;
                look(&info, &bad);
            }
        }
        for hook in 0..5 {
            for place in [1, 152, 304, 512, u32::MAX] {
                let mut bad = info.clone();
                (bad.hooks, bad.begin[hook], bad.policy[hook]) = (u32::MAX, place, place);
                look(&bad, &bytes);
            }
        }
    }
}
