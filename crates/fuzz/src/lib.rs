//! Tests of parsers with hostile bytes: a committed corpus, replayed and then changed at random, the same way each time.
//!
//! For tests only. `STRAIT_FUZZ_ITERATIONS` asks for more changes than a test makes by itself. An input that fails is
//! shown as text to put into a file of the corpus: files that end in `.hex` hold bytes as hexadecimal digits, others the bytes.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Random numbers that are the same each time.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Numbers that follow from a seed other than 0.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number below `limit`; 0 for a limit of 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit.max(1)).unwrap_or(u64::MAX);
        usize::try_from((self.0 >> 11) % limit).unwrap_or_default()
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Reads a corpus: the files of a directory, in the order of their names.
///
/// # Panics
/// If it can't be read or is empty.
#[must_use]
pub fn corpus(dir: impl AsRef<Path>) -> Vec<Vec<u8>> {
    let dir = dir.as_ref();
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    let read = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if path.extension().is_some_and(|e| e == "hex") {
            unhex(&bytes).unwrap_or_else(|| panic!("{} is not hexadecimal", path.display()))
        } else {
            bytes
        }
    };
    paths.iter().map(read).collect()
}

/// Gives every file of a corpus to `test`, then random changes of them.
///
/// # Panics
/// If `test` does, after it has told with what.
pub fn fuzz(dir: impl AsRef<Path>, iterations: usize, test: impl Fn(&[u8])) {
    fuzz_with(dir, iterations, change, test);
}

/// The same with changes of one's own.
///
/// # Panics
/// As [`fuzz`].
pub fn fuzz_with(
    dir: impl AsRef<Path>,
    iterations: usize,
    change: impl Fn(&mut Dice, &[Vec<u8>]) -> Vec<u8>,
    test: impl Fn(&[u8]),
) {
    let corpus = corpus(dir);
    corpus.iter().for_each(|input| guarded(input, &test));
    let mut dice = Dice::new(0x5eed_1e55_c0ff_ee01);
    for _ in 0..asked_for().unwrap_or(iterations) {
        guarded(&change(&mut dice, &corpus), &test);
    }
}

fn asked_for() -> Option<usize> {
    let text = std::env::var("STRAIT_FUZZ_ITERATIONS").ok()?;
    Some(text.parse().expect("STRAIT_FUZZ_ITERATIONS is a number"))
}

fn guarded(input: &[u8], test: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(input))) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8_lossy(input).into_owned();
        panic!(
            "{}\ninput as text: {text}\ninput as hex:  {hex}",
            message(&*panic)
        );
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without text".to_owned())
}

/// One to eight changes of one of the corpus.
#[must_use]
pub fn change(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = dice.pick(corpus).clone();
    for _ in 0..=dice.below(8) {
        let at = dice.below(bytes.len());
        match dice.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => {
                bytes[at] = *dice.pick(&[0, 1, 4, 0x7f, 0x80, 0xff, b'"', b'/'])
            }
            2 => bytes.truncate(at),
            3 => bytes.insert(at, *dice.pick(&[0, 0xff, b',', b' ', b'9'])),
            4 if at < bytes.len() => {
                bytes.remove(at);
            }
            5 => {
                // A part of another input.
                let other = dice.pick(corpus);
                let (from, length) = (dice.below(other.len()), dice.below(16));
                let part = other.iter().skip(from).take(length).copied();
                bytes.splice(at..at, part.collect::<Vec<_>>());
            }
            6 => {
                // A length, in either byte order.
                let number = *dice.pick(&[0u16, 1, 3, 4, 5, 8, 255, 0x7fff, 0xffff]);
                for (to, from) in bytes.iter_mut().skip(at).zip(number.to_ne_bytes()) {
                    *to = from;
                }
            }
            _ => {
                let part: Vec<u8> = bytes
                    .iter()
                    .skip(at)
                    .take(dice.below(32))
                    .copied()
                    .collect();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .iter()
        .copied()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    rest.is_empty()
        .then(|| pairs.iter().map(byte).collect())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_the_same_each_time_and_differ_from_one_another() {
        let corpus = vec![[7; 100].to_vec(), (0..200).collect()];
        let some = |seed| {
            let mut dice = Dice::new(seed);
            (0..100)
                .map(|_| change(&mut dice, &corpus))
                .collect::<Vec<_>>()
        };
        assert_eq!(some(7), some(7));
        let mut distinct = some(7);
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 90);
    }

    #[test]
    fn an_input_that_fails_is_told() {
        let dir = std::env::temp_dir().join(format!("strait-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("a.hex"), "6f 6e65\n").unwrap();
        let told = catch_unwind(|| fuzz(&dir, 10, |bytes| assert_ne!(bytes, b"one")));
        std::fs::remove_dir_all(&dir).unwrap();
        let told = told.unwrap_err().downcast::<String>().unwrap();
        assert!(told.contains("input as hex:  6f6e65"), "{told}");
    }
}
