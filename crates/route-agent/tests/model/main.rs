//! Model against machine: random sequences of all that can happen to a node, the agent's own decisions carried out on a
//! kernel, and after every event a model that knows nothing of how the agent decides: which packets must get through, which
//! way and with which source, what must be said, and that nobody else's objects were touched.
//!
//! The sequences of `corpus.rs` are replayed first; then come random ones, the same each time.
//! `STRAIT_MODEL_CASES` asks for more of these, `STRAIT_MODEL_SEED` for others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail the test"
)]

mod corpus;
mod inputs;
mod kernel;
mod killed;
mod meddler;
mod random;
mod reference;
mod trial;
mod world;

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use strait_host::Family;

use trial::Trial;
use world::Event;

/// Sequences of the random test, unless asked for more.
const CASES: u32 = 400;
/// Its seeds, unless another is asked for.
const SEEDS: [u64; 8] = [
    0x5eed_1e55_c0ff_ee01,
    0x5eed_1e55_c0ff_ee02,
    0x5eed_1e55_c0ff_ee03,
    0x5eed_1e55_c0ff_ee04,
    0x5eed_1e55_c0ff_ee05,
    0x5eed_1e55_c0ff_ee06,
    0x5eed_1e55_c0ff_ee07,
    0x5eed_1e55_c0ff_ee08,
];

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text
        .strip_prefix("0x")
        .map_or(text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
    Some(number.unwrap_or_else(|| panic!("{variable}: '{text}' is no number")))
}

/// Plays a sequence; what went wrong, with the steps up to there.
fn play(families: &[Family], events: &[Event]) -> Result<(), String> {
    let mut trial = Trial::new(families);
    let begun = trial.settle().map_err(|why| format!("at the start: {why}"));
    begun?;
    for (step, event) in events.iter().enumerate() {
        if let Err(why) = trial.happen(event) {
            let steps: Vec<String> = events[..=step]
                .iter()
                .enumerate()
                .map(|(i, e)| format!("  {:2}. {e:?}", i + 1))
                .collect();
            return Err(format!(
                "{why}\nfamilies {families:?}, after these steps:\n{}",
                steps.join("\n")
            ));
        }
    }
    Ok(())
}

#[test]
fn sequences_that_went_wrong_once_go_well() {
    for (what, families, events) in corpus::all() {
        if let Err(why) = play(&families, &events) {
            panic!("{what}: {why}");
        }
    }
}

#[test]
fn whatever_happens_the_kernel_holds_what_the_model_wants() {
    let cases = number("STRAIT_MODEL_CASES").map_or(CASES, |n| u32::try_from(n).unwrap());
    let seeds = number("STRAIT_MODEL_SEED").map_or(SEEDS.to_vec(), |seed| vec![seed]);
    let share = cases / u32::try_from(seeds.len()).unwrap();
    // Each seed finds its own shortest case.
    let failures: Vec<String> = std::thread::scope(|threads| {
        let all: Vec<_> = seeds
            .into_iter()
            .map(|seed| threads.spawn(move || shortest_failure(seed, share)))
            .collect();
        let found = all.into_iter().filter_map(|thread| thread.join().unwrap());
        found.collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

fn shortest_failure(seed: u64, cases: u32) -> Option<String> {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&random::case(), |(families, events)| {
        play(&families, &events).map_err(proptest::test_runner::TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, _) | TestError::Abort(why)) => {
            Some(format!("seed {seed:#x}: {why}"))
        }
    }
}
