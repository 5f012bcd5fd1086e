//! What a process writes down for the one that its holder starts when it dies, and when it was surely there last.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::time::{ClockId, clock_gettime};

/// Where things stand, in octets: the time of the last sign of life (milliseconds since the host began) and the length of what is written, little-endian.
const BEAT: u64 = 0;
const LENGTH: u64 = 8;
const CONTENT: u64 = 16;
/// Octets that are read at most.
const LONGEST: u64 = 64 << 20;

/// A file in memory, which ends with the last process that has it. Its holder is told of it once: no process waits for another to write in it.
#[derive(Debug)]
pub struct Slate(File);

impl Slate {
    /// With nothing on it.
    ///
    /// # Errors
    /// If there is no descriptor or no memory left.
    pub fn new() -> io::Result<Self> {
        let descriptor = memfd_create("strait-slate", MFdFlags::MFD_CLOEXEC)?;
        Ok(Self(descriptor.into()))
    }

    /// What was written, and when whoever wrote it was surely there last, by [`since_boot`]. `None` if there is nothing, or if its
    /// writer died while it wrote.
    ///
    /// # Errors
    /// If it can't be read, or is longer than any of ours.
    pub fn read(&self) -> io::Result<Option<(Vec<u8>, Duration)>> {
        let number = |at| -> io::Result<u64> {
            let mut bytes = [0; 8];
            self.0.read_exact_at(&mut bytes, at)?;
            Ok(u64::from_le_bytes(bytes))
        };
        if self.0.metadata()?.len() < CONTENT {
            return Ok(None);
        }
        let (beat, length) = (number(BEAT)?, number(LENGTH)?);
        if length > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut content = vec![0; usize::try_from(length).unwrap_or_default()];
        self.0.read_exact_at(&mut content, CONTENT)?;
        Ok((length > 0).then(|| (content, Duration::from_millis(beat))))
    }

    /// Writes this in place of what is there, which is a sign of life too.
    ///
    /// # Errors
    /// If there is no memory left: nothing is on it then.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        // Its writer may be killed at any time: without a length nothing counts.
        self.0.write_all_at(&0_u64.to_le_bytes(), LENGTH)?;
        self.0.write_all_at(content, CONTENT)?;
        self.beat()?;
        let length = content.len() as u64;
        self.0.write_all_at(&length.to_le_bytes(), LENGTH)
    }

    /// A sign of life.
    ///
    /// # Errors
    /// If there is no memory left.
    pub fn beat(&self) -> io::Result<()> {
        let now = u64::try_from(since_boot()?.as_millis()).unwrap_or(u64::MAX);
        self.0.write_all_at(&now.to_le_bytes(), BEAT)
    }
}

impl From<OwnedFd> for Slate {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }
}

impl AsFd for Slate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The time since the host began, which all of its processes count alike; what it sleeps counts.
///
/// # Errors
/// On a kernel without this clock.
pub fn since_boot() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_whoever_has_it_and_what_is_half_written_is_not() {
        let slate = Slate::new().unwrap();
        assert_eq!(slate.read().unwrap(), None);
        let next = Slate::from(slate.as_fd().try_clone_to_owned().unwrap());
        for text in [&b"a longer one"[..], b"short"] {
            let before = since_boot().unwrap();
            slate.write(text).unwrap();
            let (read, beat) = next.read().unwrap().unwrap();
            assert_eq!(read, text);
            let millisecond = Duration::from_millis(1);
            assert!(beat + millisecond > before && beat <= since_boot().unwrap());
        }
        let (_, first) = next.read().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(5));
        next.beat().unwrap();
        assert!(slate.read().unwrap().unwrap().1 > first);
        // As it is left by one that dies in the middle.
        slate.0.write_all_at(&[0; 8], LENGTH).unwrap();
        slate.0.write_all_at(b"sho", CONTENT).unwrap();
        assert_eq!(next.read().unwrap(), None);
        slate.0.write_all_at(&[0xff; 8], LENGTH).unwrap();
        assert!(next.read().is_err());
    }
}
