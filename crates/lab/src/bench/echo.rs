//! Round trips of datagrams, and a relay from a TUN device to UDP and back: what any tunnel in a process costs, without cryptography.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use strait_netns::Namespace;
use strait_wg::Tun;

use super::wireguard::run;

/// How long a thread may sleep in a call before it looks whether it is to end.
const NAP: Duration = Duration::from_millis(200);
/// The time between two datagrams.
const EVERY: Duration = Duration::from_millis(2);
const LARGEST: usize = 65_535;

/// Times datagrams to `to`, which is in `b`, and back, ms. Lost ones are left out, but half must come back.
pub(super) fn round_trips(
    a: &Namespace,
    b: &Namespace,
    to: Ipv4Addr,
    count: u32,
) -> Result<Vec<f64>> {
    let stop = Arc::new(AtomicBool::new(false));
    let server = b.run(|| UdpSocket::bind((to, 0)))??;
    server.set_read_timeout(Some(NAP))?;
    let address = server.local_addr()?;
    let stopping = stop.clone();
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while !stopping.load(Ordering::Relaxed) {
            if let Ok((length, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(buffer.get(..length).unwrap_or_default(), from);
            }
        }
    });
    let samples = a.run(|| time(address, count))?;
    stop.store(true, Ordering::Relaxed);
    let _ = answering.join();
    let samples = samples?;
    ensure!(
        samples.len() * 2 > count as usize,
        "most datagrams to {to} were lost"
    );
    Ok(samples)
}

fn time(to: SocketAddr, count: u32) -> Result<Vec<f64>> {
    let client = UdpSocket::bind("0.0.0.0:0")?;
    client.connect(to)?;
    client.set_read_timeout(Some(NAP))?;
    let mut samples = Vec::new();
    let start = Instant::now();
    for number in 0..count {
        sleep((EVERY * number).saturating_sub(start.elapsed()));
        let message = number.to_be_bytes();
        let sent = Instant::now();
        client.send(&message)?;
        let mut answer = [0; 16];
        while let Ok(length) = client.recv(&mut answer) {
            if answer.get(..length) == Some(&message) {
                samples.push(sent.elapsed().as_secs_f64() * 1e3);
                break;
            }
        }
    }
    Ok(samples)
}

/// One end of a relay.
pub(super) struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    ns: Namespace,
    device: String,
}

impl Relay {
    pub(super) fn start(ns: &Namespace, name: &str, to: SocketAddr) -> Result<Self> {
        let (tun, socket) = ns.run(|| -> Result<_> {
            let socket = UdpSocket::bind(("0.0.0.0", to.port()))?;
            Ok((Tun::open(name, 1420, 1)?, Arc::new(socket)))
        })??;
        socket.set_read_timeout(Some(NAP))?;
        let fd = *tun
            .as_fds()
            .first()
            .context("a TUN device has a descriptor")?;
        fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()))?;
        let mut reader = File::from(fd.try_clone_to_owned()?);
        let mut writer = File::from(fd.try_clone_to_owned()?);
        let stop = Arc::new(AtomicBool::new(false));
        // It ends with the device.
        let out = socket.clone();
        let from_device = std::thread::spawn(move || {
            let mut frame = vec![0; LARGEST];
            while let Ok(length) = reader.read(&mut frame) {
                let _ = out.send_to(frame.get(..length).unwrap_or_default(), to);
            }
        });
        let stopping = stop.clone();
        let to_device = std::thread::spawn(move || {
            let mut frame = vec![0; LARGEST];
            while !stopping.load(Ordering::Relaxed) {
                if let Ok(length) = socket.recv(&mut frame) {
                    let _ = writer.write(frame.get(..length).unwrap_or_default());
                }
            }
        });
        Ok(Self {
            stop,
            threads: vec![from_device, to_device],
            ns: ns.clone(),
            device: name.to_owned(),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if run(&self.ns, &format!("ip link del {}", self.device)).is_ok() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}
