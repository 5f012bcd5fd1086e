//! The election simulated: gateways and agents of a cluster on a network and with an API server that fail in every way, in an
//! order that follows from a seed. After each step the invariant of `docs/failover.md` must hold, and once the faults end, one
//! gateway must carry the traffic within a bound.
//!
//! The sequences of `corpus.rs` are replayed first; then all short ones of a small cluster, then random ones, the same each time.
//! `STRAIT_FAILOVER_CASES` asks for more of these, `STRAIT_FAILOVER_SEED` for others, `STRAIT_FAILOVER_DEPTH` for longer ones of
//! all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail the test"
)]

mod corpus;
mod faults;
mod invariant;
mod quick;
mod world;

use faults::{Case, Fault, Shape};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use world::World;

/// Random sequences, unless more are asked for.
const CASES: u32 = 80;
/// Their seeds, unless another is asked for.
const SEEDS: [u64; 4] = [
    0x5eed_fa11_0000_0001,
    0x5eed_fa11_0000_0002,
    0x5eed_fa11_0000_0003,
    0x5eed_fa11_0000_0004,
];
/// How many faults the sequences have that are all tried.
const DEPTH: usize = 2;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text
        .strip_prefix("0x")
        .map_or(text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
    Some(number.unwrap_or_else(|| panic!("{variable}: '{text}' is no number")))
}

/// Plays a case; what went wrong, with the steps up to there.
fn play(case: &Case) -> Result<(), String> {
    let mut world = World::new(case.shape, case.seed);
    let mut run = || {
        world
            .settle()
            .map_err(|why| (0, format!("at the start: {why}")))?;
        for (step, fault) in case.faults.iter().enumerate() {
            world.happen(fault).map_err(|why| (step + 1, why))?;
        }
        let all = case.faults.len();
        world
            .end()
            .map_err(|why| (all, format!("after the faults ended: {why}")))
    };
    run().map_err(|(steps, why)| {
        let told: Vec<String> = case.faults[..steps]
            .iter()
            .enumerate()
            .map(|(i, fault)| format!("  {:2}. {fault:?}", i + 1))
            .collect();
        format!(
            "{why}\n{:?}, seed {:#x}, after these steps:\n{}\nlast of what happened:\n{}",
            case.shape,
            case.seed,
            told.join("\n"),
            world.trace()
        )
    })
}

#[test]
fn sequences_that_went_wrong_once_go_well() {
    for (what, case) in corpus::all() {
        if let Err(why) = play(&case) {
            panic!("{what}: {why}");
        }
    }
}

#[test]
fn every_short_sequence_of_faults_leaves_one_gateway_and_loses_none_that_is_heard() {
    let depth = number("STRAIT_FAILOVER_DEPTH").map_or(DEPTH, |n| usize::try_from(n).unwrap());
    let shape = Shape {
        gateways: 2,
        workers: 1,
    };
    let alphabet = Fault::alphabet(shape);
    let total = alphabet.len().pow(u32::try_from(depth).unwrap());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failure = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                let alphabet = &alphabet;
                scope.spawn(move || {
                    (thread..total).step_by(threads).find_map(|index| {
                        let mut rest = index;
                        let faults = (0..depth).map(|_| {
                            let fault = alphabet[rest % alphabet.len()];
                            rest /= alphabet.len();
                            fault
                        });
                        let case = Case {
                            shape,
                            seed: 1 + index as u64,
                            faults: faults.collect(),
                        };
                        play(&case).err()
                    })
                })
            })
            .collect();
        let found: Vec<String> = all.into_iter().filter_map(|t| t.join().unwrap()).collect();
        found
    });
    assert!(failure.is_empty(), "\n{}", failure.join("\n\n"));
}

#[test]
fn whatever_happens_one_gateway_is_left_and_none_that_is_heard_is_ousted() {
    let cases = number("STRAIT_FAILOVER_CASES").map_or(CASES, |n| u32::try_from(n).unwrap());
    let seeds = number("STRAIT_FAILOVER_SEED").map_or(SEEDS.to_vec(), |seed| vec![seed]);
    let share = cases / u32::try_from(seeds.len()).unwrap();
    let failures: Vec<String> = std::thread::scope(|threads| {
        let all: Vec<_> = seeds
            .into_iter()
            .map(|seed| threads.spawn(move || shortest_failure(seed, share)))
            .collect();
        all.into_iter().filter_map(|t| t.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

fn shortest_failure(seed: u64, cases: u32) -> Option<String> {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 150,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&faults::case(), |case| {
        play(&case).map_err(proptest::test_runner::TestCaseError::fail)
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(why, _) | TestError::Abort(why)) => {
            Some(format!("seed {seed:#x}: {why}"))
        }
    }
}
