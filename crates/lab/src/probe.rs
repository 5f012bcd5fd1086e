//! One try to reach a listener: what it saw, and whether every byte came back.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use strait_host::Family;

/// The transport of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A connection.
    Tcp,
    /// One datagram each way, in fragments if it must; over IPv6 sent again while the path's MTU is learned.
    Udp,
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            other => Err(format!("no transport '{other}': expected tcp or udp")),
        }
    }
}

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Where from: a node, a pod, or another machine of the lab.
    pub from: String,
    /// Where to: ADDRESS:PORT, or a name as [`crate::Topology::target_in`] takes it.
    pub to: String,
    /// How.
    pub transport: Transport,
    /// The own address to bind to; else the kernel chooses.
    pub bind: Option<IpAddr>,
    /// The family, where `to` is a name; else the lab's first.
    #[serde(default)]
    pub family: Option<Family>,
    /// Bytes to send, and to get back (at most 60000).
    pub bytes: usize,
    /// After how many milliseconds to give up.
    pub timeout_ms: u64,
}

impl Probe {
    /// 3 KB each way over TCP, within 3 s.
    #[must_use]
    pub fn tcp(from: &str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            transport: Transport::Tcp,
            bind: None,
            family: None,
            bytes: 3072,
            timeout_ms: 3000,
        }
    }

    /// 3 KB each way over UDP, within 3 s.
    #[must_use]
    pub fn udp(from: &str, to: &str) -> Self {
        Self {
            transport: Transport::Udp,
            ..Self::tcp(from, to)
        }
    }

    /// The same, from a socket bound to `address`.
    #[must_use]
    pub fn bound(self, address: impl Into<IpAddr>) -> Self {
        Self {
            bind: Some(address.into()),
            ..self
        }
    }
}

impl Probe {
    /// The same, in a family.
    #[must_use]
    pub fn over(self, family: Family) -> Self {
        Self {
            family: Some(family),
            ..self
        }
    }
}

/// A probe that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The client's address and port, as the listener saw it.
    pub source: SocketAddr,
    /// The client's address and port, as the client saw it.
    pub local: SocketAddr,
    /// From the first packet to the last byte, microseconds.
    pub micros: u64,
}

/// Runs a probe in the calling thread's network namespace.
pub(crate) fn run(probe: &Probe, to: SocketAddr) -> Result<Seen> {
    ensure!(
        probe.bytes <= 60_000,
        "{} bytes: expected at most 60000",
        probe.bytes
    );
    let start = Instant::now();
    let deadline = start + Duration::from_millis(probe.timeout_ms);
    let body: Vec<u8> = (0..probe.bytes).map(|i| (i % 251) as u8).collect();
    let kind = match probe.transport {
        Transport::Tcp => Type::STREAM,
        Transport::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    if let Some(address) = probe.bind {
        let address = SocketAddr::from((address, 0));
        socket
            .bind(&SockAddr::from(address))
            .with_context(|| format!("cannot bind to {}", address.ip()))?;
    }
    let (answer, local) = match probe.transport {
        Transport::Tcp => {
            socket
                .connect_timeout(&SockAddr::from(to), left(deadline)?)
                .with_context(|| format!("cannot connect to {to}"))?;
            stream(socket.into(), &body, deadline)
                .with_context(|| format!("connected to {to}, but"))?
        }
        Transport::Udp => {
            socket
                .connect(&SockAddr::from(to))
                .with_context(|| format!("cannot send to {to}"))?;
            datagram(&socket.into(), &body, deadline)
                .with_context(|| format!("no answer from {to}"))?
        }
    };
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Seen {
        source: check(&answer, &body)?,
        local,
        micros,
    })
}

fn stream(
    mut stream: std::net::TcpStream,
    body: &[u8],
    deadline: Instant,
) -> Result<(Vec<u8>, SocketAddr)> {
    let local = stream.local_addr()?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(body).context("cannot send")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let length = stream
            .read(&mut buffer)
            .with_context(|| format!("no more came back after {} bytes", answer.len()))?;
        if length == 0 {
            return Ok((answer, local));
        }
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
}

/// New flows a second: one datagram and its answer each, one after the other, from the calling thread's network namespace.
pub(crate) fn flows(to: SocketAddr, time: Duration) -> Result<f64> {
    let start = Instant::now();
    let mut buffer = [0; 256];
    let mut answered = 0u32;
    while start.elapsed() < time {
        // Its port is the kernel's choice: a flow of its own for connection tracking.
        let socket = UdpSocket::bind(match to {
            SocketAddr::V4(_) => "0.0.0.0:0",
            SocketAddr::V6(_) => "[::]:0",
        })?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(b"flow", to)?;
        // One that got lost took its second.
        answered += u32::from(socket.recv(&mut buffer).is_ok());
    }
    ensure!(answered > 0, "{to} does not answer");
    Ok(f64::from(answered) / start.elapsed().as_secs_f64())
}

/// Routers do not divide IPv6 packets: the sender of one that is too big for the path is told so, and has to send again. That
/// happens once each way.
const AGAIN: Duration = Duration::from_millis(150);

fn datagram(socket: &UdpSocket, body: &[u8], deadline: Instant) -> Result<(Vec<u8>, SocketAddr)> {
    let patient = socket.peer_addr()?.is_ipv6();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let left = left(deadline)?;
        let wait = if patient { left.min(AGAIN) } else { left };
        socket.set_read_timeout(Some(wait))?;
        match socket.send(body).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok((buffer, socket.local_addr()?));
            }
            Err(error) if patient && left > wait && is_for_now(&error) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_for_now(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::EMSGSIZE)
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "the time is up");
    Ok(left)
}

fn check(answer: &[u8], body: &[u8]) -> Result<SocketAddr> {
    let Some(end) = answer.iter().position(|byte| *byte == b'\n') else {
        bail!("the listener did not say what it saw")
    };
    let (line, echo) = answer.split_at(end + 1);
    let line = String::from_utf8_lossy(line);
    let source = line
        .trim_end()
        .strip_prefix("you are ")
        .and_then(|address| address.parse().ok());
    let source = source.with_context(|| {
        format!(
            "the listener said '{}': expected 'you are ADDRESS:PORT'",
            line.trim_end()
        )
    })?;
    ensure!(
        echo.len() == body.len(),
        "{} of {} bytes came back",
        echo.len(),
        body.len()
    );
    ensure!(echo == body, "what came back is not what was sent");
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_and_true_echo_counts() {
        let source = |answer: &[u8]| {
            check(answer, b"abc")
                .map(|s| s.to_string())
                .map_err(|e| e.to_string())
        };
        assert_eq!(source(b"you are 10.0.0.1:5\nabc").unwrap(), "10.0.0.1:5");
        assert_eq!(
            source(b"you are 10.0.0.1:5\nab").unwrap_err(),
            "2 of 3 bytes came back"
        );
        assert!(
            source(b"you are 10.0.0.1:5\nabd")
                .unwrap_err()
                .contains("not what was sent")
        );
        assert!(
            source(b"you are nobody\nabc")
                .unwrap_err()
                .contains("expected 'you are ADDRESS:PORT'")
        );
        assert!(source(b"abc").is_err());
    }
}
