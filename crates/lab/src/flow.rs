//! Traffic that goes on while something happens to what carries it: what of it was lost, and for how long.

mod tcp;
mod udp;

pub(crate) use udp::make_room;

use std::fmt::Write as _;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use strait_host::Family;

use crate::client::Lab;
use crate::sandbox::SELF;

/// What flows.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// Where from: a node, a pod, or another machine of the lab.
    pub from: String,
    /// Where to: a pod, a service, or ADDRESS:PORT of something that answers as the lab's pods do.
    pub to: String,
    /// The family, where `to` is a name; else the lab's first.
    pub family: Option<Family>,
    /// Datagrams a second, each to be answered; 0 for none.
    pub rate: u32,
    /// TCP connections, each with a question and an answer every 10 ms.
    pub connections: u32,
    /// For how many seconds at most.
    pub seconds: f64,
}

impl Flow {
    /// A datagram each millisecond, and 4 connections, for a minute at most.
    #[must_use]
    pub fn new(from: &str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            family: None,
            rate: 1000,
            connections: 4,
            seconds: 60.0,
        }
    }
}

/// What became of a flow. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Datagrams.
    pub udp: Datagrams,
    /// Connections.
    pub tcp: Connections,
}

/// What became of datagrams that were to be answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Datagrams {
    /// Sent.
    pub sent: u64,
    /// Those without an answer, a second after the last was sent.
    pub lost: u64,
    /// Answers more than one.
    pub duplicates: u64,
    /// The longest time without an answer.
    pub longest_gap_ms: f64,
    /// When that began, after the first datagram was sent.
    pub longest_gap_at_ms: f64,
    /// The least time until an answer.
    pub least_ms: f64,
    /// Half of all were answered within this time.
    pub median_ms: f64,
    /// 99 of a hundred were.
    pub p99_ms: f64,
    /// The longest time by which a datagram was sent late, for want of a processor: gaps of this length tell nothing of the network.
    pub sender_late_ms: f64,
}

/// What became of connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// Those that came about.
    pub connected: u32,
    /// Why those that ended before their time did; those that did not come about, too.
    pub broken: Vec<String>,
    /// Those whose last question was not answered within 10 s of the end.
    pub silent: u32,
    /// Answers.
    pub answers: u64,
    /// The longest time until an answer.
    pub longest_gap_ms: f64,
}

/// How long after the end an answer over TCP is waited for: what is sent again may be seconds late.
const PATIENCE: Duration = Duration::from_secs(10);

/// A flow that goes on. It ends when this is dropped.
#[derive(Debug)]
pub struct RunningFlow {
    child: Option<Child>,
}

impl Lab {
    /// Begins a flow.
    ///
    /// # Errors
    /// When there is no such place or target, or it can't be started.
    pub fn flow(&self, flow: &Flow) -> Result<RunningFlow> {
        let names = self.topology().names();
        ensure!(
            names.contains(&flow.from),
            "no '{}' in the lab; there are {}",
            flow.from,
            names.join(", ")
        );
        ensure!(
            flow.rate <= 100_000,
            "{} datagrams a second: expected at most 100000",
            flow.rate
        );
        let family = flow
            .family
            .unwrap_or_else(|| self.topology().families.first());
        let to = self.topology().target_in(family, &flow.to)?.to_string();
        let numbers = [
            flow.rate.to_string(),
            flow.connections.to_string(),
            flow.seconds.to_string(),
        ];
        let command = [
            SELF,
            "lab",
            "flow-here",
            &to,
            &numbers[0],
            &numbers[1],
            &numbers[2],
        ];
        let child = self
            .command(&flow.from, command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(RunningFlow { child: Some(child) })
    }
}

impl RunningFlow {
    /// Ends it now, and tells what became of it.
    ///
    /// # Errors
    /// When it could not begin, or ended too early.
    pub fn end(self) -> Result<FlowReport> {
        self.collect(true)
    }

    /// Waits until its time is over, and tells what became of it.
    ///
    /// # Errors
    /// As [`RunningFlow::end`].
    pub fn wait(self) -> Result<FlowReport> {
        self.collect(false)
    }

    fn collect(mut self, now: bool) -> Result<FlowReport> {
        let mut child = self.child.take().context("it has ended")?;
        // It ends when its standard input does.
        let held = child.stdin.take().filter(|_| !now);
        let output = child.wait_with_output()?;
        drop(held);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", errors.trim());
        serde_json::from_slice(&output.stdout).context("it is of another version")
    }
}

impl Drop for RunningFlow {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `strait lab flow-here`: the flow itself, in the calling process's network namespace, until standard input ends or the time is up.
pub(crate) fn here(
    to: SocketAddr,
    rate: u32,
    connections: u32,
    time: Duration,
) -> Result<FlowReport> {
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            told.store(true, Ordering::Relaxed);
        })?;
    let over = || ended.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| tcp::talk(to, time, &over)))
            .collect();
        let udp = if rate > 0 {
            udp::echo(to, rate, time, &over)?
        } else {
            Datagrams::default()
        };
        let mut tcp = Connections::default();
        for one in all {
            let one = one
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            tcp.add(one);
        }
        Ok(FlowReport { udp, tcp })
    })
}

/// For a reader.
pub(crate) fn render(report: &FlowReport) -> String {
    let (udp, tcp) = (&report.udp, &report.tcp);
    let mut text = String::new();
    // Writing to a string does not fail.
    if udp.sent > 0 {
        let _ = writeln!(
            text,
            "UDP: {} sent, {} lost, {} twice; longest gap {:.1} ms, {:.1} s after the start; round trip {:.2} ms (least), {:.2} (median), {:.2} (99 %)",
            udp.sent,
            udp.lost,
            udp.duplicates,
            udp.longest_gap_ms,
            udp.longest_gap_at_ms / 1000.0,
            udp.least_ms,
            udp.median_ms,
            udp.p99_ms
        );
        let _ = writeln!(
            text,
            "     (the sender itself was late by up to {:.1} ms)",
            udp.sender_late_ms
        );
    }
    let tried = tcp.connected as usize + tcp.broken.len();
    if tried > 0 {
        let _ = writeln!(
            text,
            "TCP: {} connected, {} broken, {} silent; {} answers, the latest after {:.1} ms",
            tcp.connected,
            tcp.broken.len(),
            tcp.silent,
            tcp.answers,
            tcp.longest_gap_ms
        );
        for reason in &tcp.broken {
            let _ = writeln!(text, "     broken: {reason}");
        }
    }
    text
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
