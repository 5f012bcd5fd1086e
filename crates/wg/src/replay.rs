//! Which counters have been seen (RFC 6479).

const WORDS: u64 = 128;
/// Counters that far below the greatest are still told apart: the kernel's window.
const WINDOW: u64 = (WORDS - 1) * 64;

/// The last 8128 counters.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// One more than the greatest seen.
    next: u64,
    seen: Box<[u64; WORDS as usize]>,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            seen: Box::new([0; WORDS as usize]),
        }
    }

    /// Takes a counter, of a packet that is known to be authentic. `false`: it was there before, or is too old to tell.
    pub(crate) fn take(&mut self, counter: u64) -> bool {
        let Some(next) = counter.checked_add(1) else {
            return false;
        };
        let word = counter / 64;
        if next > self.next {
            let top = self.next.saturating_sub(1) / 64;
            for passed in 1..=(word - top).min(WORDS) {
                self.seen[((top + passed) % WORDS) as usize] = 0;
            }
            self.next = next;
        } else if self.next - next > WINDOW {
            return false;
        }
        let bit = 1 << (counter % 64);
        let seen = &mut self.seen[(word % WORDS) as usize];
        let fresh = *seen & bit == 0;
        *seen |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_counter_is_taken_once_in_any_order_within_the_window() {
        let mut window = Window::new();
        assert!(window.take(0));
        assert!(!window.take(0));
        assert!(window.take(WINDOW));
        assert!(!window.take(0));
        assert!(window.take(1));
        assert!(window.take(3 * WINDOW));
        assert!(!window.take(2 * WINDOW - 1));
        assert!(window.take(2 * WINDOW));
        assert!(!window.take(u64::MAX));
        assert!(window.take(u64::MAX - 1));
        assert!(!window.take(u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(steps in proptest::collection::vec((0u64..20_000, 0u64..3), 1..400)) {
            let (mut window, mut seen, mut top) = (Window::new(), BTreeSet::new(), 0u64);
            for (jitter, forward) in steps {
                let counter = (top + forward * 200).saturating_sub(jitter * (1 - forward.min(1)));
                let expected = counter + WINDOW >= top && seen.insert(counter);
                top = top.max(counter);
                prop_assert_eq!(window.take(counter), expected, "{} below {}", counter, top);
            }
        }
    }
}
