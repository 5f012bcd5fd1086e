//! `make soak`: random faults for hours, in [`faults`]; and every combination of CNI, families, reverse-path filter, order of start and cable, and in each everything that can
//! happen. `faults` asks for the former alone, and with `vxlan` or `wireguard`, for one cable. Other arguments are parts of names: only combinations and events that contain one of them are run.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "it is a test with a table as its result"
)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/matrix/mod.rs"]
mod matrix;

mod faults;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use matrix::{Circumstances, Event};

/// Nodes of each cluster.
const NODES: u8 = 3;

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .map(|argument| argument.to_lowercase())
        .collect();
    if asked.iter().any(|part| part == "faults") {
        return if faults::run(&asked) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let (events, combinations) = chosen(&asked);
    if combinations.is_empty() {
        println!("nothing is called {}; combinations:", asked.join(", "));
        Circumstances::all().iter().for_each(|c| println!("  {c}"));
        println!("events: {:?}", Event::ALL);
        return ExitCode::FAILURE;
    }
    let total = combinations.len();
    let mut rows: Vec<(String, Vec<Result<f64, String>>)> = Vec::new();
    for (number, circumstances) in combinations.iter().enumerate() {
        println!("[{}/{total}] {circumstances}", number + 1);
        rows.push((circumstances.to_string(), run(circumstances, &events)));
    }
    print_table(&rows, &events);
    let failed: Vec<String> = rows
        .iter()
        .flat_map(|(name, results)| {
            let named = ["start".to_owned()]
                .into_iter()
                .chain(events.iter().map(ToString::to_string));
            let bad = named.zip(results).filter(|(_, result)| result.is_err());
            bad.map(move |(event, _)| format!("make soak ONLY=\"{name} {}\"", event.to_lowercase()))
        })
        .collect();
    let mut good = failed.is_empty();
    if good {
        println!(
            "all of {total} combinations with {} events are good",
            events.len()
        );
    } else {
        println!(
            "{} failed; alone each is:\n  {}",
            failed.len(),
            failed.join("\n  ")
        );
    }
    if asked.is_empty() {
        good &= faults::run(&asked);
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Events and combinations whose names hold what was asked for; all of a kind that was not asked for.
fn chosen(asked: &[String]) -> (Vec<Event>, Vec<Circumstances>) {
    let named = |name: String| asked.iter().any(|part| name.to_lowercase().contains(part));
    let combinations: Vec<Circumstances> = Circumstances::all()
        .into_iter()
        .filter(|c| named(c.to_string()))
        .collect();
    // What is in the names of combinations, such as `calico`, means those.
    let of_combination =
        |part: &&String| combinations.iter().any(|c| c.to_string().contains(*part));
    let of_events: Vec<&String> = asked.iter().filter(|part| !of_combination(part)).collect();
    let is_asked = |event: &Event| {
        let name = event.to_string().to_lowercase();
        of_events.iter().any(|part| name.contains(*part))
    };
    let events: Vec<Event> = Event::ALL.into_iter().filter(is_asked).collect();
    let known = |part: &String| {
        let event = Event::ALL
            .iter()
            .any(|e| e.to_string().to_lowercase().contains(part));
        let combination = Circumstances::all()
            .iter()
            .any(|c| c.to_string().contains(part));
        event || combination || part == "start"
    };
    if !asked.iter().all(known) {
        return (Vec::new(), Vec::new());
    }
    // The start alone is no event.
    let all_events = events.is_empty() && !asked.iter().any(|part| part == "start");
    (
        if all_events {
            Event::ALL.to_vec()
        } else {
            events
        },
        if combinations.is_empty() {
            Circumstances::all()
        } else {
            combinations
        },
    )
}

/// How long the start and each event took, in seconds; after one that failed the lab is made anew.
fn run(circumstances: &Circumstances, events: &[Event]) -> Vec<Result<f64, String>> {
    let mut lab = None;
    let mut results = vec![timed("start", || {
        lab = Some(circumstances.lab("soak", NODES));
    })];
    for event in events {
        let name = event.to_string();
        results.push(timed(&name, || {
            let running = lab
                .take()
                .unwrap_or_else(|| circumstances.lab("soak", NODES));
            event.happen(&running, circumstances.cable);
            lab = Some(running);
        }));
    }
    results
}

fn timed(name: &str, work: impl FnOnce()) -> Result<f64, String> {
    let begun = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(work));
    let seconds = begun.elapsed().as_secs_f64();
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    println!("  {name:<14} {verdict} in {seconds:.1} s");
    result.map(|()| seconds).map_err(|_| name.to_owned())
}

fn print_table(rows: &[(String, Vec<Result<f64, String>>)], events: &[Event]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut head = vec!["Start".to_owned()];
    head.extend(events.iter().map(ToString::to_string));
    println!("\n{:width$}  {}", "", head.join("  "));
    for (name, results) in rows {
        let cells = results.iter().zip(&head).map(|(result, title)| {
            let cell = match result {
                Ok(seconds) => format!("{seconds:.1}"),
                Err(_) => "FAIL".to_owned(),
            };
            format!("{cell:>0$}", title.len())
        });
        println!("{name:width$}  {}", cells.collect::<Vec<_>>().join("  "));
    }
}
