//! Who lives in a place, found by its network namespace.

use anyhow::{Context, Result};

use crate::netns;

/// The numbers, within the lab, of the processes whose network namespace is one of `spaces`.
pub(super) fn inhabitants(spaces: &[String]) -> Result<Vec<u32>> {
    let all = residents(spaces)?.into_iter();
    Ok(all.map(|resident| resident.pid).collect())
}

/// The same of a process at a place.
pub(super) fn child_at(place: &str, parent: u32) -> Result<Option<u32>> {
    child_of(parent, &space_of(place)?)
}

/// A place's network namespace, as `/proc/PID/ns/net` names it.
pub(super) fn space_of(place: &str) -> Result<String> {
    let space = netns::find(place)?.inode();
    let space = space.with_context(|| format!("{place} has no network"))?;
    Ok(format!("net:[{space}]"))
}

/// The number, within the lab, of a child of the process that has the number `parent` there.
fn child_of(parent: u32, space: &str) -> Result<Option<u32>> {
    let all = residents(&[space.to_owned()])?;
    let parent = all.iter().find(|resident| resident.pid == parent);
    let child = parent.and_then(|parent| all.iter().find(|one| one.parent == parent.shown));
    Ok(child.map(|child| child.pid))
}

/// A process that lives in a network namespace.
pub(super) struct Resident {
    /// Its number within the lab.
    pub(super) pid: u32,
    /// Its number in `/proc`: where that is the machine's, its numbers are not the lab's.
    pub(super) shown: u32,
    /// Its parent's number there.
    pub(super) parent: u32,
}

pub(super) fn residents(spaces: &[String]) -> Result<Vec<Resident>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot read /proc")? {
        let path = entry?.path();
        let Ok(space) = std::fs::read_link(path.join("ns/net")) else {
            continue;
        };
        if !spaces
            .iter()
            .any(|wanted| space.as_os_str() == wanted.as_str())
        {
            continue;
        }
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        if line("State:").is_some_and(|state| state.contains('Z')) {
            continue;
        }
        let number = |name: &str| line(name)?.split_whitespace().last()?.parse().ok();
        // Of those in each namespace that it is in, the last is the lab's.
        if let (Some(pid), Some(shown), Some(parent)) =
            (number("NSpid:"), number("Pid:"), number("PPid:"))
        {
            found.push(Resident { pid, shown, parent });
        }
    }
    Ok(found)
}
