//! What processes take, as the kernel tells, and whether that grows.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::process::Role;

/// What a process takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The node or machine on which it runs.
    pub place: String,
    /// What it is for.
    pub role: Role,
    /// Whether it is the child that does the work of a process of this role.
    pub child: bool,
    /// Its number within the lab.
    pub pid: u32,
    /// Resident memory (`VmRSS`), KiB.
    pub resident_kib: u64,
    /// Of that, what it has alone and no file holds (`RssAnon`): heap and stacks, KiB. The rest is the program's pages, read from its file when they
    /// are used for the first time.
    pub anonymous_kib: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

impl Usage {
    /// Reads it of a process that has the number `shown` in `/proc`; `None` if it has ended.
    pub(crate) fn read(place: &str, role: Role, child: bool, pid: u32, shown: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{shown}/status")).ok()?;
        let descriptors = std::fs::read_dir(format!("/proc/{shown}/fd")).ok()?.count();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            place: place.to_owned(),
            role,
            child,
            pid,
            resident_kib: kib("VmRSS:")?,
            anonymous_kib: kib("RssAnon:")?,
            descriptors: descriptors.try_into().ok()?,
        })
    }
}

/// What one process took in the first third of its samples, and in the last; medians.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// How many samples there were.
    pub samples: usize,
    /// Anonymous memory, KiB.
    pub anonymous_kib: [u64; 2],
    /// Resident memory, KiB.
    pub resident_kib: [u64; 2],
    /// Open file descriptors.
    pub descriptors: [u64; 2],
}

impl Growth {
    /// Fewer samples tell nothing.
    pub const LEAST: usize = 6;
    /// Memory may grow by so much, KiB: what an allocator keeps of what was freed differs by some 100 KiB from time to time; …
    pub const MEMORY_KIB: u64 = 4096;
    /// … and by so many of a hundred, if that is more.
    pub const MEMORY_PERCENT: u64 = 10;
    /// Descriptors may become more by so many: a gateway that was active once keeps 4 or 5 sockets that one that never was doesn't have, and
    /// connections are kept for a next request.
    pub const DESCRIPTORS: u64 = 8;

    /// Of samples in the order in which they were taken; `None` if they are too few.
    #[must_use]
    pub fn of(samples: &[Usage]) -> Option<Self> {
        if samples.len() < Self::LEAST {
            return None;
        }
        let third = samples.len() / 3;
        let (first, last) = (samples.get(..third)?, samples.get(samples.len() - third..)?);
        let both = |of: fn(&Usage) -> u64| [median(first, of), median(last, of)];
        Some(Self {
            samples: samples.len(),
            anonymous_kib: both(|it| it.anonymous_kib),
            resident_kib: both(|it| it.resident_kib),
            descriptors: both(|it| it.descriptors),
        })
    }

    /// Whether it grew by no more than it may.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        let memory = |[before, after]: [u64; 2]| {
            let may = Self::MEMORY_KIB.max(before * Self::MEMORY_PERCENT / 100);
            after <= before + may
        };
        let [before, after] = self.descriptors;
        memory(self.anonymous_kib)
            && memory(self.resident_kib)
            && after <= before + Self::DESCRIPTORS
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "some MiB, for a reader")]
        let mib = |kib: u64| kib as f64 / 1024.0;
        let [anonymous, anonymous_after] = self.anonymous_kib.map(mib);
        let [resident, resident_after] = self.resident_kib.map(mib);
        let [before, after] = self.descriptors;
        write!(
            f,
            "{anonymous:6.1} -> {anonymous_after:6.1} MiB of its own, {resident:6.1} -> {resident_after:6.1} resident, {before:3} -> {after:3} \
             descriptors, {} samples",
            self.samples
        )
    }
}

fn median(of: &[Usage], what: fn(&Usage) -> u64) -> u64 {
    let mut all: Vec<u64> = of.iter().map(what).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: impl IntoIterator<Item = (u64, u64)>) -> Vec<Usage> {
        let one = |(kib, descriptors)| Usage {
            place: "east-1".to_owned(),
            role: Role::Gateway,
            child: false,
            pid: 1,
            resident_kib: 50_000 + kib,
            anonymous_kib: kib,
            descriptors,
        };
        of.into_iter().map(one).collect()
    }

    #[test]
    fn only_what_grew_by_more_than_it_may_is_not_flat() {
        let flat = |of: Vec<(u64, u64)>| Growth::of(&samples(of)).expect("enough").is_flat();
        // One that is high for a moment is none that grows.
        assert!(flat(vec![
            (9000, 30),
            (9000, 30),
            (9000, 30),
            (9100, 31),
            (90_000, 99),
            (9000, 30),
            (9000, 30),
            (90_000, 99),
            (9000, 30)
        ]));
        let line = |step: u64, descriptors: u64| {
            (0..9)
                .map(|i| (9000 + i * step, 30 + i * descriptors / 4))
                .collect()
        };
        assert!(flat(line(600, 1)));
        assert!(!flat(line(800, 0)));
        assert!(flat(line(0, 5)));
        assert!(!flat(line(0, 7)));
        // A tenth of much is more than 4 MiB.
        assert!(flat((0..9).map(|i| (100_000 + i * 1500, 30)).collect()));
        assert!(!flat((0..9).map(|i| (100_000 + i * 3000, 30)).collect()));
        assert_eq!(Growth::of(&samples((0..5).map(|_| (1, 1)))), None);
    }

    #[test]
    fn the_kernel_tells_of_this_very_process() {
        let own = std::process::id();
        let read = || Usage::read("here", Role::Pod, false, own, own).expect("its files");
        let before = read();
        let held: Vec<std::fs::File> = (0..100)
            .map(|_| std::fs::File::open("/dev/null").expect("it opens"))
            .collect();
        let memory = vec![1u8; 64 << 20];
        let after = read();
        assert!(
            after.descriptors >= before.descriptors + 50,
            "{before:?} {after:?}"
        );
        assert!(
            after.anonymous_kib >= before.anonymous_kib + (60 << 10),
            "{before:?} {after:?}"
        );
        assert!(after.resident_kib > after.anonymous_kib);
        drop((held, memory));
    }
}
