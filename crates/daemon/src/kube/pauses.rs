//! Pauses between tries.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The pauses between tries: 50 ms at first, doubled each time up to 5 s, with a random part of up to half.
#[derive(Default)]
pub(super) struct Pauses {
    failures: u32,
    due: bool,
}

impl Pauses {
    /// Something failed: pause longer.
    pub(super) fn grow(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.due = true;
    }

    /// It works: no pause, and a short one next time.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Pauses, if something failed since the last time.
    pub(super) async fn take(&mut self) {
        if self.due {
            tokio::time::sleep(pause(
                self.failures,
                RandomState::new().build_hasher().finish(),
            ))
            .await;
            self.due = false;
        }
    }
}

fn pause(failures: u32, random: u64) -> Duration {
    let whole = (25_u64 << failures.min(8)).min(5000);
    Duration::from_millis(whole - random % (whole / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_five_seconds_and_are_never_shorter_than_half() {
        for (failures, whole) in [
            (1, 50),
            (2, 100),
            (7, 3200),
            (8, 5000),
            (9, 5000),
            (u32::MAX, 5000),
        ] {
            for random in [0, 1, 12345, u64::MAX] {
                let pause = pause(failures, random);
                let whole = Duration::from_millis(whole);
                assert!(
                    pause <= whole && pause > whole / 2 - Duration::from_millis(1),
                    "{failures} {pause:?}"
                );
            }
        }
    }
}
