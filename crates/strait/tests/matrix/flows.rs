//! Pings that run while something happens.

#![allow(clippy::print_stdout, reason = "what was lost is told")]

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use strait_lab::{Family, Lab};

use super::PATIENCE;

/// Between two pings.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);
/// Answers that must come in the end before it is told what was lost.
const TAIL: usize = 20;

/// Pings of one socket, each [`INTERVAL`], until it is ended.
pub(crate) struct Flow {
    what: String,
    to: IpAddr,
    child: Child,
    answers: File,
}

impl Flow {
    /// Begins, whether or not there are answers.
    pub(crate) fn begin(lab: &Lab, from: &str, to: IpAddr) -> Self {
        let (interval, target) = (INTERVAL.as_secs_f64().to_string(), to.to_string());
        let answers = tempfile::tempfile().expect("a file");
        let mut command = lab.command(from, ["ping", "-n", "-i", &interval, &target]);
        command.stdout(Stdio::from(answers.try_clone().expect("a file")));
        Self {
            what: format!("{from} → {to}"),
            to,
            child: command.spawn().expect("ping starts"),
            answers,
        }
    }

    /// Begins, and waits for the first answers.
    pub(crate) fn start(lab: &Lab, from: &str, to: IpAddr) -> Self {
        let flow = Self::begin(lab, from, to);
        flow.wait_for_answers();
        flow
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.to)
    }

    /// The numbers of the pings that were answered, from 1.
    fn answered(&self) -> BTreeSet<u32> {
        let length = self.answers.metadata().expect("a file").len();
        let mut text = vec![0; usize::try_from(length).expect("small")];
        self.answers.read_exact_at(&mut text, 0).expect("text");
        let text = String::from_utf8_lossy(&text);
        let numbers = text.lines().filter(|line| line.contains("time="));
        let numbers = numbers.filter_map(|line| line.split("icmp_seq=").nth(1)?.split(' ').next());
        numbers.filter_map(|number| number.parse().ok()).collect()
    }

    /// Waits until pings that are sent from now on are answered; gives the number of the newest.
    fn wait_for_answers(&self) -> u32 {
        let before = self.answered().last().copied().unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answered = self.answered();
            if let Some(newest) = answered.range(before + 1..).nth_back(0)
                && answered.range(before + 1..).count() >= TAIL
            {
                return *newest;
            }
            assert!(
                Instant::now() < deadline,
                "{}: no answers any more after {before}",
                self.what
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until pings are answered, ends, and gives those that were not, from the first that was.
    pub(crate) fn lost(self) -> Lost {
        let end = self.wait_for_answers();
        let answered = self.answered();
        let begin = answered.first().copied().unwrap_or(end);
        let lost = (begin..end).filter(|n| !answered.contains(n)).collect();
        Lost {
            what: self.what.clone(),
            of: end - begin,
            lost,
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a flow lost.
pub(crate) struct Lost {
    what: String,
    of: u32,
    lost: Vec<u32>,
}

impl Lost {
    /// Fails if pings of more than `at_most` together were lost.
    pub(crate) fn at_most(&self, at_most: Duration) {
        let lost = INTERVAL * u32::try_from(self.lost.len()).expect("few");
        let (what, of, numbers) = (&self.what, self.of, &self.lost);
        println!("    {what}: {} of {of} pings were lost", numbers.len());
        assert!(
            lost <= at_most,
            "{what}: {lost:?} of {of} pings were lost, {at_most:?} may be; their numbers: {numbers:?}"
        );
    }
}
