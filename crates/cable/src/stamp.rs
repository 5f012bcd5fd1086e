//! The greatest timestamp that a handshake of ours may have had, kept in a file.
//!
//! Peers refuse a handshake whose timestamp is not greater than the last one's, so a clock that was stepped back would lock us out. A device
//! in this process never goes back. The kernel takes the clock as it is: there it is noticed, and another key is needed, which peers never heard.
//! What is written lies some seconds ahead: so it is written seldom, and holds even if this process dies right after a handshake.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use strait_wg::Timestamp;

use crate::file;

/// The file, 12 octets of TAI64N, below the directory for state.
pub(crate) const FILE: &str = "wireguard.stamp";
/// How far ahead it lies when it is written, in seconds.
const AHEAD: u64 = 10;
/// It is written anew when timestamps come as close as this, in seconds.
const CLOSE: u64 = 3;

/// The file, and what it holds.
#[derive(Debug)]
pub(crate) struct Stamp {
    directory: PathBuf,
    written: Option<Timestamp>,
    failed: bool,
}

impl Stamp {
    /// What a predecessor has written. What can't be read is as good as nothing: it matters only after the clock was stepped back.
    pub(crate) fn read(directory: &Path) -> Self {
        let read = || {
            let mut octets = Vec::new();
            let file = File::open(directory.join(FILE))?;
            file.take(13).read_to_end(&mut octets)?;
            let octets = <[u8; 12]>::try_from(octets);
            octets.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
        };
        let written = match read() {
            Ok(octets) => Some(Timestamp(octets)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, file = FILE, "the last handshake's timestamp can't be read");
                None
            }
        };
        Self {
            directory: directory.to_owned(),
            written,
            failed: false,
        }
    }

    /// Timestamps are to be greater than this.
    pub(crate) fn floor(&self) -> Option<Timestamp> {
        self.written
    }

    /// Takes note of the greatest one that was sent. A file that can't be written stops nothing; it is tried again.
    pub(crate) fn sent(&mut self, greatest: Timestamp) {
        let known = Some(greatest) == self.written;
        if known || self.written >= Some(later(greatest, CLOSE)) {
            return;
        }
        self.write(later(greatest, AHEAD));
    }

    /// Seconds by which a time, in Unix seconds, lies before the last handshakes.
    pub(crate) fn behind(&self, now: u64) -> u64 {
        let last = self
            .written
            .map_or(0, |written| seconds(written).saturating_sub(AHEAD));
        last.saturating_sub(seconds(at(now)))
    }

    /// Forgets what there was: peers know nothing of a new key.
    pub(crate) fn begin_anew(&mut self, now: u64) {
        self.write(later(at(now), AHEAD));
    }

    fn write(&mut self, ahead: Timestamp) {
        match file::replace(&self.directory, FILE, &ahead.0) {
            Ok(()) => {
                self.written = Some(ahead);
                self.failed = false;
            }
            Err(error) => {
                if !self.failed {
                    tracing::warn!(%error, file = FILE, "a handshake's timestamp can't be kept");
                }
                self.failed = true;
            }
        }
    }
}

/// A time in Unix seconds.
pub(crate) fn at(now: u64) -> Timestamp {
    let now = UNIX_EPOCH.checked_add(Duration::from_secs(now));
    Timestamp::after(now.unwrap_or(UNIX_EPOCH), None)
}

fn seconds(stamp: Timestamp) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = stamp.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn later(stamp: Timestamp, by: u64) -> Timestamp {
    let mut octets = stamp.0;
    let later = seconds(stamp).saturating_add(by);
    octets
        .split_at_mut(8)
        .0
        .copy_from_slice(&later.to_be_bytes());
    Timestamp(octets)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_lies_before_the_last_handshake_is_noticed_until_there_is_another_key() {
        let base = tempfile::tempdir().unwrap();
        let mut stamp = Stamp::read(base.path());
        assert_eq!(stamp.behind(0), 0, "nothing is known");
        stamp.sent(at(10_000));
        let read = || Stamp::read(base.path());
        for (now, behind) in [(10_000, 0), (9_999, 1), (6_400, 3_600), (20_000, 0)] {
            assert_eq!((stamp.behind(now), read().behind(now)), (behind, behind));
        }
        // What is sent meanwhile makes no difference.
        stamp.sent(at(6_400));
        assert_eq!(read().behind(6_400), 3_600);
        stamp.begin_anew(6_400);
        assert_eq!((stamp.behind(6_400), read().behind(6_400)), (0, 0));
        assert_eq!(read().behind(6_000), 400);
    }

    #[test]
    fn what_was_sent_is_always_below_what_the_next_process_reads() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("state");
        let mut stamp = Stamp::read(&directory);
        assert_eq!(stamp.floor(), None);
        let mut written = 0;
        for second in 1000..1100 {
            let before = stamp.floor();
            stamp.sent(at(second));
            written += usize::from(stamp.floor() != before);
            let next = Stamp::read(&directory).floor();
            assert_eq!(next, stamp.floor());
            assert!(next > Some(at(second + 2)));
        }
        assert!((10..20).contains(&written), "{written} times");
    }

    #[test]
    fn a_file_that_is_none_is_as_good_as_no_file() {
        let directory = tempfile::tempdir().unwrap();
        for content in [&[][..], &[1; 11], &[1; 13]] {
            std::fs::write(directory.path().join(FILE), content).unwrap();
            assert_eq!(Stamp::read(directory.path()).floor(), None);
        }
    }
}
