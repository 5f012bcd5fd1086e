//! TCP sockets: judged by `ss`, and by who holds them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::*;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use strait_kernel::{Kernel, TcpSocket};
use strait_netns::Namespace;

/// Both ends of a connection.
fn pair(ns: &Namespace, address: &str) -> (TcpStream, TcpStream) {
    let address: SocketAddr = address.parse().unwrap();
    ns.run(|| {
        let listener = TcpListener::bind(address).unwrap();
        let mut to = listener.local_addr().unwrap();
        if to.ip().is_unspecified() {
            to.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let client = TcpStream::connect(to).unwrap();
        let (server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        (client, server)
    })
    .unwrap()
}

fn sockets(ns: &Namespace) -> Vec<TcpSocket> {
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        kernel.tcp_sockets_if(|_| true).await.unwrap()
    })
    .unwrap()
}

fn end(ns: &Namespace, socket: &TcpSocket) {
    ns.run_async(|| async {
        let mut kernel = Kernel::connect().await.unwrap();
        kernel.end_tcp_socket(socket).await.unwrap();
        // Gone already.
        kernel.end_tcp_socket(socket).await.unwrap();
    })
    .unwrap();
}

fn named(local: &TcpStream) -> (SocketAddr, SocketAddr) {
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    (
        canonical(local.local_addr().unwrap()),
        canonical(local.peer_addr().unwrap()),
    )
}

#[test]
fn a_socket_is_ended_for_its_owner_and_for_the_other_end_and_no_other_is() {
    let ns = namespace();
    run(&ns, "ip link set lo up");
    let mut v4 = pair(&ns, "127.0.0.1:0");
    let mut v6 = pair(&ns, "[::1]:0");
    let mut other = pair(&ns, "127.0.0.1:0");
    let mut mapped = {
        let (client, server) = pair(&ns, "[::]:0");
        (server, client)
    };
    assert!(matches!(
        mapped.0.local_addr().unwrap().ip(),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()
    ));
    for (mine, theirs) in [&mut v4, &mut v6, &mut mapped] {
        let (local, remote) = named(mine);
        let all = sockets(&ns);
        let found: Vec<_> = all
            .iter()
            .filter(|s| (s.local, s.remote) == (local, remote))
            .collect();
        let [found] = found.as_slice() else {
            panic!("{local} to {remote} in {all:#?}");
        };
        assert!(!found.connecting && !found.free, "{found:?}");
        let before = run(&ns, "ss -Htn state established").lines().count();
        assert_eq!(before, all.len(), "ss sees what we see");
        end(&ns, found);
        let shown = run(&ns, "ss -Htn state established");
        assert_eq!(
            shown.lines().count(),
            before - 2,
            "both ends are gone: {shown}"
        );
        let mut byte = [0];
        let error = mine.read(&mut byte).unwrap_err().kind();
        assert_eq!(error, ErrorKind::ConnectionAborted);
        let error = theirs.read(&mut byte).unwrap_err().kind();
        assert_eq!(error, ErrorKind::ConnectionReset);
    }
    use std::io::Write;
    other.0.write_all(b"x").unwrap();
    other.1.read_exact(&mut [0]).unwrap();
}

#[test]
fn sockets_that_seek_and_those_of_proxies_are_told_apart_and_listeners_are_left_out() {
    let ns = namespace();
    run(&ns, "ip link set lo up");
    let _listener = ns
        .run(|| TcpListener::bind("127.0.0.1:0").unwrap())
        .unwrap();
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let _listener_6 = ns.run(|| TcpListener::bind((v6, 0)).unwrap()).unwrap();
    assert_eq!(sockets(&ns), []);
    // Nobody answers there.
    let seek = |from: Option<Ipv4Addr>| {
        ns.run(|| {
            let fd = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_NONBLOCK,
                None,
            )
            .unwrap();
            if let Some(from) = from {
                setsockopt(&fd, sockopt::IpTransparent, &true).unwrap();
                use std::os::fd::AsRawFd;
                bind(
                    fd.as_raw_fd(),
                    &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0)),
                )
                .unwrap();
            }
            let to = std::net::SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 77), 80);
            use std::os::fd::AsRawFd;
            let _ = connect(fd.as_raw_fd(), &SockaddrIn::from(to));
            fd
        })
        .unwrap()
    };
    let _seeking = seek(None);
    let _proxy = seek(Some(Ipv4Addr::new(198, 51, 100, 9)));
    let all = sockets(&ns);
    assert_eq!(run(&ns, "ss -Htn state syn-sent").lines().count(), 2);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all.iter().all(|s| s.connecting), "{all:#?}");
    let free: Vec<String> = all
        .iter()
        .filter(|s| s.free)
        .map(|s| s.local.ip().to_string())
        .collect();
    assert_eq!(free, ["198.51.100.9"]);
}
