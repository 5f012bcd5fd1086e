//! Datagrams at a steady rate, each to be answered.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Datagrams, ms};

/// How long an answer to the last one is waited for.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes of a socket's receive buffer: thousands of small datagrams, each of which takes a kilobyte or more there. The usual 208 KiB are full after
/// 0.17 s at 1 kHz.
const BUFFER: usize = 8 << 20;

/// Sends until the time is up or it is `over`, and takes note of the answers.
pub(super) fn echo(
    to: SocketAddr,
    rate: u32,
    time: Duration,
    over: &(dyn Fn() -> bool + Sync),
) -> Result<Datagrams> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    make_room(&socket);
    socket
        .connect(to)
        .with_context(|| format!("cannot send to {to}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(5)))?;
    let start = Instant::now();
    // Unknown while it is being sent.
    let sent = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| listen(&socket, start, &sent));
        let (number, end, late) = send(&socket, start, rate, time, over);
        sent.store(number, Ordering::SeqCst);
        let answers = heard.join().map_err(|_| anyhow!("a thread panicked"))?;
        Ok(answers.report(number, end, late))
    })
}

/// Lets datagrams wait that come while their reader gets no processor: they were not lost on their way.
pub(crate) fn make_room(socket: &UdpSocket) {
    // Without privilege as much as the host allows.
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &BUFFER);
    }
}

/// How many were sent, until when, and how late the latest of them was.
fn send(
    socket: &UdpSocket,
    start: Instant,
    rate: u32,
    time: Duration,
    over: &(dyn Fn() -> bool + Sync),
) -> (u64, Duration, Duration) {
    let _ = nix::sys::prctl::set_timerslack(1);
    let interval = Duration::from_secs(1) / rate;
    let (mut number, mut late) = (0u64, Duration::ZERO);
    loop {
        let due = Duration::from_nanos(
            u64::try_from(interval.as_nanos())
                .unwrap_or(u64::MAX)
                .saturating_mul(number),
        );
        if due >= time || over() {
            return (number, start.elapsed(), late);
        }
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        let now = start.elapsed();
        late = late.max(now.saturating_sub(due));
        let mut datagram = [0; 16];
        let (first, second) = datagram.split_at_mut(8);
        first.copy_from_slice(&number.to_be_bytes());
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        second.copy_from_slice(&nanos.to_be_bytes());
        // What can't be sent, for want of a way, is lost.
        let _ = socket.send(&datagram);
        number += 1;
    }
}

fn listen(socket: &UdpSocket, start: Instant, sent: &AtomicU64) -> Answers {
    let mut answers = Answers::default();
    let mut buffer = [0; 512];
    let mut end = None;
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let answer = buffer.get(..length).and_then(parse);
                if let Some((number, sent_at)) = answer {
                    answers.take(number, sent_at, start.elapsed());
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => (),
            // An ICMP error: the answer does not come.
            Err(_) => (),
        }
        let all = sent.load(Ordering::SeqCst);
        if all == u64::MAX {
            continue;
        }
        let end = *end.get_or_insert_with(Instant::now);
        if answers.times.len() as u64 >= all || end.elapsed() > GRACE {
            return answers;
        }
    }
}

/// The number and the time of sending, behind the line that tells the address.
fn parse(answer: &[u8]) -> Option<(u64, Duration)> {
    let line = answer.iter().position(|byte| *byte == b'\n')?;
    let echo: &[u8; 16] = answer.get(line + 1..)?.try_into().ok()?;
    let (number, nanos) = echo.split_at(8);
    let whole = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some((whole(number)?, Duration::from_nanos(whole(nanos)?)))
}

#[derive(Debug, Default)]
struct Answers {
    /// Whether each was answered, by its number.
    seen: Vec<bool>,
    /// How long each answer took.
    times: Vec<Duration>,
    duplicates: u64,
    /// When the last answer came, and when what it answers was sent.
    last: Option<(Duration, Duration)>,
    gap: Duration,
    gap_at: Duration,
}

impl Answers {
    fn take(&mut self, number: u64, sent_at: Duration, now: Duration) {
        let Ok(index) = usize::try_from(number) else {
            return;
        };
        if self.seen.len() <= index {
            self.seen.resize(index + 1, false);
        }
        let Some(seen) = self.seen.get_mut(index) else {
            return;
        };
        if std::mem::replace(seen, true) {
            self.duplicates += 1;
            return;
        }
        self.times.push(now.saturating_sub(sent_at));
        match self.last {
            Some((came, _)) => self.pause(came, now),
            // Before the first one only what was sent in vain counts.
            None => self.pause(Duration::ZERO, sent_at),
        }
        self.last = Some((now, sent_at));
    }

    fn pause(&mut self, from: Duration, to: Duration) {
        let gap = to.saturating_sub(from);
        if gap > self.gap {
            (self.gap, self.gap_at) = (gap, from);
        }
    }

    fn report(mut self, sent: u64, end: Duration, late: Duration) -> Datagrams {
        // What was sent in vain at the end.
        let (came, last_sent) = self.last.unwrap_or_default();
        let gap = end.saturating_sub(last_sent);
        if gap > self.gap && came < end {
            (self.gap, self.gap_at) = (gap, last_sent);
        }
        self.times.sort();
        let at = |hundredths: usize| {
            let index =
                (self.times.len() * hundredths / 100).min(self.times.len().saturating_sub(1));
            self.times.get(index).copied().map_or(0.0, ms)
        };
        Datagrams {
            sent,
            lost: sent.saturating_sub(self.times.len() as u64),
            duplicates: self.duplicates,
            longest_gap_ms: ms(self.gap),
            longest_gap_at_ms: ms(self.gap_at),
            least_ms: at(0),
            median_ms: at(50),
            p99_ms: at(99),
            sender_late_ms: ms(late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Answers of a flow of one a millisecond, 40 ms later each, but for those in `lost`.
    fn report(sent: u64, lost: std::ops::Range<u64>) -> Datagrams {
        let mut answers = Answers::default();
        for number in (0..sent).filter(|number| !lost.contains(number)) {
            answers.take(number, at(number), at(number + 40));
        }
        answers.report(sent, at(sent), at(3))
    }

    #[test]
    fn a_gap_is_the_time_without_answers_wherever_it_is() {
        let none = report(1000, 0..0);
        assert_eq!((none.lost, none.sent), (0, 1000));
        assert!((none.longest_gap_ms - 1.0).abs() < 1e-6, "{none:?}");
        assert!((none.median_ms - 40.0).abs() < 1e-6 && (none.sender_late_ms - 3.0).abs() < 1e-6);
        for (lost, gap, begin) in [
            (0..200, 200.0, 0.0),
            (300..500, 201.0, 339.0),
            (800..1000, 201.0, 799.0),
        ] {
            let count = lost.end - lost.start;
            let it = report(1000, lost);
            assert_eq!(it.lost, count);
            assert!((it.longest_gap_ms - gap).abs() < 1e-6, "{it:?}");
            assert!((it.longest_gap_at_ms - begin).abs() < 1e-6, "{it:?}");
        }
        let all = report(1000, 0..1000);
        assert_eq!(all.lost, 1000);
        assert!((all.longest_gap_ms - 1000.0).abs() < 1e-6, "{all:?}");
    }

    #[test]
    fn an_answer_counts_once_and_only_whole() {
        let mut answers = Answers::default();
        answers.take(0, at(0), at(1));
        answers.take(0, at(0), at(2));
        assert_eq!(answers.report(1, at(1), at(0)).duplicates, 1);
        let mut echo = b"you are 10.0.0.1:5\n".to_vec();
        echo.extend(7u64.to_be_bytes());
        echo.extend(1_000_000u64.to_be_bytes());
        assert_eq!(parse(&echo), Some((7, at(1))));
        assert_eq!(parse(&echo[..echo.len() - 1]), None);
        assert_eq!(parse(b"x"), None);
    }
}
