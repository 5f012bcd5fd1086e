//! What listens in a pod: it tells whoever connects which address it saw, and echoes what it is sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::flow::make_room;
use crate::topology::POD_PORT;

/// `strait lab pod-server`: TCP and UDP on port 8080. TCP: the line `you are ADDRESS:PORT`, then an echo until the client ends;
/// UDP: a datagram with that line and the echo.
pub(crate) fn serve() -> Result<ExitCode> {
    // Of both families.
    let here = (Ipv6Addr::UNSPECIFIED, POD_PORT);
    let datagrams = UdpSocket::bind(here).context("cannot listen on UDP")?;
    make_room(&datagrams);
    let listener = TcpListener::bind(here).context("cannot listen on TCP")?;
    std::thread::Builder::new()
        .name("udp".to_owned())
        .spawn(move || echo_datagrams(&datagrams))?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                std::thread::Builder::new()
                    .name("tcp".to_owned())
                    .spawn(move || echo_stream(stream))?;
            }
            Err(error) if transient(error.kind()) => (),
            Err(error) => return Err(error).context("cannot accept connections"),
        }
    }
}

/// The line that tells a client its address.
pub(crate) fn greeting(peer: SocketAddr) -> String {
    // An IPv4 address comes as an IPv6 one.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    format!("you are {peer}\n")
}

fn echo_stream(mut stream: TcpStream) {
    // The client sees a connection that broke; there is nobody else to tell.
    let _ = (|| -> std::io::Result<()> {
        let peer = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(600)))?;
        stream.write_all(greeting(peer).as_bytes())?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                // It was stopped and goes on: a read with a timeout is not begun anew by itself.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            stream.write_all(buffer.get(..length).unwrap_or_default())?;
        }
    })();
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            // An ICMP error about an earlier answer.
            continue;
        };
        let mut answer = greeting(peer).into_bytes();
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let _ = socket.send_to(&answer, peer);
    }
}

fn transient(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionAborted | ErrorKind::Interrupted | ErrorKind::WouldBlock
    )
}
