//! A worker's route agent among a thousand other clusters when nothing happens but pings: what it keeps, and what it does.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::figure::{Figure, Unit};
use super::scale::{ANSWERING, MANY, NODE, until_routed};
use super::{IDLE, process};
use crate::client::Lab;
use crate::process::Role;

/// The pauses between pings that were never answered have grown to a minute, from 1 s, doubled each time.
const GROWN: Duration = Duration::from_secs(70);
/// What a start has to do is over.
const STARTED: Duration = Duration::from_secs(10);
/// How often memory is measured.
const SAMPLES: u32 = 10;
/// So many round-trip times are kept of each target that is pinged once a minute; pinged more often, as below, so many are
/// kept after so many answers.
const WINDOW: u64 = 100;
/// Between two pings of each target, to have them sooner; a window then has room for more.
const OFTEN: Duration = Duration::from_secs(1);

/// After a start with health checks as they are by default.
pub(super) fn figures(lab: &Lab) -> Result<Vec<Figure>> {
    let figure = |what: &str, wanted: &str, samples| {
        let name = format!("{what}, 1000 remote clusters");
        Figure::new(&name, wanted, Unit::Mebibytes, samples)
    };
    let resident = || process::resident(lab, NODE, SAMPLES);
    let wanted = "<= 40 MiB";
    let mut figures = vec![figure(
        "resident memory right after a start",
        wanted,
        resident()?,
    )];
    sleep(GROWN);
    figures.extend(idle(
        lab,
        "pinging each once a minute",
        "no more than pings take",
    )?);

    let milliseconds = OFTEN.as_millis().to_string();
    let often = [("STRAIT_HEALTHCHECK_INTERVAL_MS", milliseconds.as_str())];
    lab.restart_with(NODE, Role::RouteAgent, &often)?;
    until_routed(lab, MANY)?;
    until_full(lab)?;
    figures.push(figure(
        "resident memory after 100 answers from each of 768 in both families, none from the others",
        wanted,
        resident()?,
    ));
    figures.push(figure(
        "the most memory that was resident until then, while an object that tells of all was written",
        "",
        vec![process::peak(lab, NODE)?],
    ));

    let off = [
        ("SUBMARINER_HEALTHCHECKENABLED", "false"),
        ("STRAIT_SELFTEST_INTERVAL_MS", "0"),
    ];
    lab.restart_with(NODE, Role::RouteAgent, &off)?;
    until_routed(lab, MANY)?;
    sleep(STARTED);
    figures.extend(idle(lab, "pinging nobody", "")?);
    figures.push(figure("resident memory, pinging nobody", "", resident()?));
    lab.restart(NODE, Role::RouteAgent)?;
    until_routed(lab, MANY)?;
    Ok(figures)
}

/// A minute in which nothing happens.
fn idle(lab: &Lab, how: &str, wanted: &str) -> Result<[Figure; 2]> {
    let [changes, processor] = process::idle(lab, NODE, IDLE)?;
    let name = |what| format!("{what} in a minute without events, 1000 remote clusters, {how}");
    Ok([
        Figure::new(
            &name("changes of the kernel's objects"),
            "0",
            Unit::Count,
            vec![changes],
        ),
        Figure::new(
            &name("time on a processor"),
            wanted,
            Unit::Milliseconds,
            vec![processor],
        ),
    ])
}

/// Waits until all that can be kept of each target is: those that answer have done so often enough, and the agent has told so.
fn until_full(lab: &Lab) -> Result<()> {
    let before = answers(lab)?;
    let wanted = u64::from(ANSWERING) * 2 * WINDOW;
    let deadline = Instant::now() + OFTEN * 200;
    loop {
        let answers = answers(lab)?.saturating_sub(before);
        let connected = connected(lab)?;
        // And the lab's other cluster.
        if answers >= wanted && connected == ANSWERING as usize * 2 + 2 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{answers} answers to pings: expected {wanted}; {connected} targets answer"
        );
        sleep(OFTEN);
    }
}

/// Answers to pings that the node's kernel has counted.
fn answers(lab: &Lab) -> Result<u64> {
    let counters = ["IcmpInEchoReps", "Icmp6InEchoReplies"];
    let text = lab.exec(NODE, &[&["nstat", "-asz"], &counters[..]].concat())?;
    let mut sum = 0;
    for counter in counters {
        let line = text.lines().find_map(|line| line.strip_prefix(counter));
        let value = line.and_then(|line| line.split_whitespace().next());
        sum += value
            .with_context(|| format!("no {counter}"))?
            .parse::<u64>()?;
    }
    Ok(sum)
}

/// How many targets in other clusters answer, as the agent tells.
fn connected(lab: &Lab) -> Result<usize> {
    let page = lab.page(NODE, Role::RouteAgent, "/metrics")?;
    let of_targets = page
        .lines()
        .filter(|line| line.starts_with("strait_health_connected{"));
    Ok(of_targets.filter(|line| line.ends_with(" 1")).count())
}
