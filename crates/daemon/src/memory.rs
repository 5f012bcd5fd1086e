//! What was freed goes back to the kernel.
//!
//! A pass over a thousand clusters, or an object that tells of them, takes several megabytes for some milliseconds. What is freed lies
//! between what stays, and the C library's allocator keeps it: on every node more than all that the process really has.

#![allow(
    unsafe_code,
    reason = "std has no word for it; the function takes no pointer"
)]

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::sleep;
use std::time::Duration;

/// So long after something was freed: what comes in bursts is given back once.
const PAUSE: Duration = Duration::from_millis(500);

/// Gives memory back, on a thread of its own.
#[derive(Debug, Clone)]
pub struct Memory {
    freed: SyncSender<()>,
}

impl Memory {
    /// Ends with the last clone.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub fn start() -> io::Result<Self> {
        let (freed, told) = sync_channel(1);
        std::thread::Builder::new()
            .name("memory".to_owned())
            .spawn(move || give_back_when(&told))?;
        Ok(Self { freed })
    }

    /// Much was freed: soon all that is free goes back.
    pub fn freed(&self) {
        // If it is full, it is about to be given back anyway.
        let _ = self.freed.try_send(());
    }
}

fn give_back_when(told: &Receiver<()>) {
    while told.recv().is_ok() {
        sleep(PAUSE);
        let _ = told.try_recv();
        give_back();
    }
}

/// Other allocators than the GNU C library's don't keep as much, or have no such function.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, may be called by any thread at any time, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_env = "gnu"))]
#[allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Resident memory, KiB, as the kernel tells.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let number = line.unwrap().split_whitespace().next();
        number.unwrap().parse().unwrap()
    }

    #[test]
    fn what_lies_between_what_stays_is_given_back_too() {
        let memory = Memory::start().unwrap();
        // 64 MiB in pieces that are no mappings of their own; each thousandth stays, the last too.
        let mut all: Vec<Vec<u8>> = (0..16_384).map(|_| vec![1; 4096]).collect();
        let full = resident();
        let mut number = 0;
        all.retain(|_| {
            number += 1;
            number % 1024 == 0
        });
        memory.freed();
        let deadline = Instant::now() + Duration::from_secs(20);
        while resident() + 32 * 1024 > full {
            assert!(Instant::now() < deadline, "{} of {full} KiB", resident());
            sleep(Duration::from_millis(20));
        }
        assert_eq!(all.len(), 16);
    }
}
