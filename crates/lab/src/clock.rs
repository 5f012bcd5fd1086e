//! Wall clocks of nodes, which can be stepped.
//!
//! `CLOCK_REALTIME` has no namespace. So a node's processes are started with libfaketime in `LD_PRELOAD`, which answers libc's calls for the time,
//! and adds what a file of the node says. Monotonic clocks and timers are left alone, as a real step leaves them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::jiff::SignedDuration;

use crate::environment::Variable;
use crate::state::INSIDE;

/// Seconds after which a process that asks for the time reads its node's file again: the least but for each time, which would cost a system
/// call or three.
const CACHE: u64 = 1;
/// From a step until each process of the node sees it.
pub(crate) const SEEN: Duration = Duration::from_millis(CACHE * 1000 + 100);
/// Seconds that a clock may go before or after the machine's: a year.
const MOST: i64 = 366 * 24 * 3600;
/// For programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The library, where distributions put it.
fn library() -> Result<PathBuf> {
    let arch = std::env::consts::ARCH;
    let dirs = [
        format!("/usr/lib/{arch}-linux-gnu"),
        "/usr/lib64".to_owned(),
        "/usr/lib".to_owned(),
        "/usr/local/lib".to_owned(),
    ];
    let mut all = dirs.iter().map(|dir| Path::new(dir).join(LIBRARY));
    all.find(|path| path.exists()).with_context(|| {
        format!(
            "nodes with clocks of their own need libfaketime (Debian's package libfaketime): no {LIBRARY} in {}",
            dirs.join(", ")
        )
    })
}

/// Sees to it that nodes can have clocks; they go right.
pub(crate) fn prepare<'a>(nodes: impl Iterator<Item = &'a str>) -> Result<()> {
    library()?;
    std::fs::create_dir_all(dir())?;
    for node in nodes {
        set(node, 0)?;
    }
    Ok(())
}

/// What a process of a node is started with.
pub(crate) fn environment(node: &str) -> Result<[Variable; 5]> {
    let variable = |name: &str, value: String| (name.to_owned(), value);
    Ok([
        variable("LD_PRELOAD", library()?.display().to_string()),
        variable("FAKETIME_TIMESTAMP_FILE", file(node).display().to_string()),
        variable("FAKETIME_CACHE_DURATION", CACHE.to_string()),
        variable("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        // What a file system says of times is the machine's.
        variable("NO_FAKE_STAT", "1".to_owned()),
    ])
}

/// A node's clock goes by so many seconds before the machine's; its processes see that after [`SEEN`].
pub(crate) fn set(node: &str, ahead: i64) -> Result<()> {
    // In one step: who reads half of it takes another time for right.
    let (path, new) = (file(node), dir().join(format!(".{node}")));
    std::fs::write(&new, format!("{ahead:+}\n"))
        .and_then(|()| std::fs::rename(&new, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn dir() -> PathBuf {
    Path::new(INSIDE).join("clocks")
}

fn file(node: &str) -> PathBuf {
    dir().join(node)
}

/// Seconds, from `+1h`, `-90s`, `1h30m` or `0`.
pub(crate) fn parse(text: &str) -> Result<i64> {
    if text.trim_start_matches(['+', '-']) == "0" {
        return Ok(0);
    }
    let expected = "expected such as +1h, -90s, +1h30m, or 0 for a clock that goes right";
    let Ok(step) = text.parse::<SignedDuration>() else {
        bail!("'{text}' is no step of a clock: {expected}");
    };
    check(step.as_secs())?;
    if step.subsec_nanos() != 0 {
        bail!("'{text}' is not a number of seconds: {expected}");
    }
    Ok(step.as_secs())
}

/// Whether a clock can be that far off.
pub(crate) fn check(ahead: i64) -> Result<()> {
    if !(-MOST..=MOST).contains(&ahead) {
        bail!("a clock that is off by {ahead} s: expected at most {MOST} s, before or after");
    }
    Ok(())
}

/// In words.
pub(crate) fn text(ahead: i64) -> String {
    let size = SignedDuration::from_secs(ahead.saturating_abs());
    let word = if ahead < 0 { "behind" } else { "ahead" };
    format!("clock {size:#} {word}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_written_as_people_write_them_and_the_rest_is_refused_with_what_was_expected() {
        for (text, seconds) in [
            ("+1h", 3600),
            ("-1h", -3600),
            ("1h30m", 5400),
            ("-90s", -90),
            ("0", 0),
            ("+0", 0),
        ] {
            assert_eq!(parse(text).unwrap(), seconds, "{text}");
        }
        for text in ["", "1", "hour", "+1h banana", "1.5s", "-"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("expected such as +1h"), "{text}: {error}");
        }
        let error = parse("-10000h").unwrap_err().to_string();
        assert!(error.contains("expected at most 31622400 s"), "{error}");
    }

    #[test]
    fn a_clock_that_is_off_is_told_by_how_much() {
        assert_eq!(text(3600), "clock 1h ahead");
        assert_eq!(text(-5400), "clock 1h 30m behind");
    }
}
