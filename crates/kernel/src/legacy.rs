//! Tables of iptables as they were before nftables: read whole, and replaced whole, by socket options.
//!
//! Whoever looks at a table by this interface makes the kernel set it up, with its hooks. So only tables that are there
//! already are looked at.

mod blob;
mod option;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use strait_host::Family;
use strait_host::leftovers::{Backend, XtTable};

pub(crate) use blob::Content;

use crate::error::Error;
use crate::legacy::blob::Layout;
use crate::legacy::option::{Info, Options};

/// Where iptables' processes wait for each other (`XT_LOCK_NAME` in iptables/xshared.h).
const LOCK: &str = "/run/xtables.lock";
/// How long to wait for others.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
/// How often a table that changes while it is worked on is read again.
const ATTEMPTS: usize = 5;

/// Names of the tables there are.
pub(crate) fn tables(family: Family) -> BTreeSet<String> {
    let name = match family {
        Family::V4 => "ip_tables_names",
        Family::V6 => "ip6_tables_names",
    };
    // As with /proc/sys/net, what counts is the calling thread's namespace.
    let names = std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    names
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Tables that see packets before they are routed.
pub(crate) fn early_tables(family: Family) -> impl Iterator<Item = String> {
    let early = |name: &String| matches!(name.as_str(), "raw" | "mangle");
    tables(family).into_iter().filter(early)
}

/// Whether rules of those ask which way a packet's source is reached. A table that can't be read has none: this is a look, and what
/// is dropped is found by its effect too.
pub(crate) fn checks_sources(family: Family) -> bool {
    early_tables(family).any(|name| {
        let table = XtTable {
            backend: Backend::Legacy,
            family,
            name,
        };
        read(&table).is_ok_and(|content| content.checks_sources())
    })
}

/// Reads a table, which must be there.
pub(crate) fn read(table: &XtTable) -> Result<Content, Error> {
    let options = Options::open(table.family).map_err(|errno| refused("read", table, errno))?;
    load(&options, table).map(|(_, content)| content)
}

fn load(options: &Options, table: &XtTable) -> Result<(Info, Content), Error> {
    let failed = |errno| refused("read", table, errno);
    for _ in 0..ATTEMPTS {
        let info = options.info(&table.name).map_err(failed)?;
        let entries = match options.entries(&table.name, info.size) {
            // It has another size by now.
            Err(Errno::EAGAIN) => continue,
            other => other.map_err(failed)?,
        };
        let layout = Layout::of(table.family);
        return match Content::parse(layout, &info, &entries) {
            Some(content) => Ok((info, content)),
            None => Err(Error::Unsupported(format!(
                "{table}: its entries are not as expected"
            ))),
        };
    }
    Err(Error::Unsteady("legacy iptables tables"))
}

/// Removes chains and every rule that jumps there. That they are gone already is fine.
pub(crate) fn remove(table: &XtTable, chains: &BTreeSet<String>) -> Result<(), Error> {
    if !tables(table.family).contains(&table.name) {
        return Ok(());
    }
    let failed = |errno| refused("change", table, errno);
    let options = Options::open(table.family).map_err(failed)?;
    let _lock = lock()?;
    for _ in 0..ATTEMPTS {
        let (info, content) = load(&options, table)?;
        let Some(less) = content.without(chains) else {
            return Ok(());
        };
        let mut counters = vec![[0; 16]; info.entries as usize];
        match options.replace(&table.name, &less.info, &less.bytes, &mut counters) {
            // Somebody who does not take the lock has changed it.
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(failed(errno)),
            Ok(()) => {
                let kept: Vec<[u8; 16]> = less
                    .kept
                    .iter()
                    .map(|at| counters.get(*at).copied().unwrap_or_default())
                    .collect();
                if let Err(errno) = options.add_counters(&table.name, &kept) {
                    tracing::warn!(%table, %errno, "the counters of its rules begin at 0 again");
                }
                return Ok(());
            }
        }
    }
    Err(Error::Unsteady("legacy iptables tables"))
}

fn refused(what: &str, table: &XtTable, errno: Errno) -> Error {
    Error::Kernel {
        operation: format!("{what} {table}"),
        errno,
        message: None,
    }
}

/// Keeps others' iptables out until it is dropped.
fn lock() -> Result<File, Error> {
    let held = |errno| Error::Kernel {
        operation: format!("lock {LOCK} (which the host's iptables must see too)"),
        errno,
        message: None,
    };
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(LOCK);
    let file = opened.map_err(|error| held(crate::error::errno_of(&error)))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(held(Errno::EWOULDBLOCK)),
            Err(TryLockError::Error(error)) => return Err(held(crate::error::errno_of(&error))),
        }
    }
}
