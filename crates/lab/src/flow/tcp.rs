//! A connection that asks and is answered, all the time.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Connections, PATIENCE, ms};

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(10);

/// What became of one connection.
#[derive(Debug, Default)]
pub(super) struct Talk {
    connected: bool,
    broken: Option<String>,
    silent: bool,
    answers: u64,
    longest: Duration,
}

impl Connections {
    pub(super) fn add(&mut self, talk: Talk) {
        self.connected += u32::from(talk.connected);
        self.broken.extend(talk.broken);
        self.silent += u32::from(talk.silent);
        self.answers += talk.answers;
        self.longest_gap_ms = self.longest_gap_ms.max(ms(talk.longest));
    }
}

pub(super) fn talk(to: SocketAddr, time: Duration, over: &(dyn Fn() -> bool + Sync)) -> Talk {
    let mut talk = Talk::default();
    if let Err(error) = go_on(&mut talk, to, time, over) {
        let what = if talk.connected {
            format!("after {} answers: {error}", talk.answers)
        } else {
            format!("cannot connect: {error}")
        };
        talk.broken = Some(what);
    }
    talk
}

fn go_on(
    talk: &mut Talk,
    to: SocketAddr,
    time: Duration,
    over: &(dyn Fn() -> bool + Sync),
) -> std::io::Result<()> {
    let start = Instant::now();
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    talk.connected = true;
    stream.set_nodelay(true)?;
    // Short: in between it is seen whether it is over.
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut reader = BufReader::new(&stream);
    let mut over_since = None;
    // Whether to wait on for an answer.
    let mut patient = || {
        if over_since.is_none() && (over() || start.elapsed() >= time) {
            over_since = Some(Instant::now());
        }
        over_since.is_none_or(|since| since.elapsed() < PATIENCE)
    };
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"\n") {
        match reader.read_until(b'\n', &mut greeting) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => (),
            Err(error) if is_for_now(&error) && patient() => (),
            Err(error) if is_for_now(&error) => {
                talk.silent = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    loop {
        // Asked once more when it is over: a connection that broke in a pause is seen then.
        let last = over() || start.elapsed() >= time;
        let question = talk.answers.to_be_bytes();
        let asked = Instant::now();
        (&stream).write_all(&question)?;
        let mut answer = [0; 8];
        let mut length = 0;
        while length < answer.len() {
            match reader.read(answer.get_mut(length..).unwrap_or_default()) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(more) => length += more,
                Err(error) if is_for_now(&error) && patient() => (),
                Err(error) if is_for_now(&error) => {
                    talk.silent = true;
                    talk.longest = talk.longest.max(asked.elapsed());
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        talk.longest = talk.longest.max(asked.elapsed());
        if answer != question {
            return Err(std::io::Error::other("what came back is not what was sent"));
        }
        talk.answers += 1;
        if last {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

fn is_for_now(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    ) && error.raw_os_error() != Some(libc::ETIMEDOUT)
}
