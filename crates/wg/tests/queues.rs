//! What keeps a flow in order: that it stays in its queue of the TUN device.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail the test"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::time::Duration;

use strait_netns::Namespace;
use strait_wg::Tun;

const QUEUES: usize = 4;

/// The queue that the next datagram to the peer comes out of.
fn queue(socket: &UdpSocket, files: &[File]) -> usize {
    socket.send(b"there").unwrap();
    for _ in 0..500 {
        for (number, mut file) in files.iter().enumerate().take(QUEUES) {
            let mut frame = [0; 2048];
            // Other packets are the host's own (router solicitations).
            if file
                .read(&mut frame)
                .is_ok_and(|length| frame[10..length].ends_with(b"there"))
            {
                return number;
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    unreachable!("no datagram came out of any queue")
}

/// A datagram of the same flow in the other direction, as a frame.
fn back(port: u16) -> Vec<u8> {
    let mut header = vec![
        0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1,
    ];
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(7u16.to_be_bytes());
    header.extend(port.to_be_bytes());
    header.extend([0, 12, 0, 0]);
    header.extend(b"back");
    [vec![0; 10], header].concat()
}

#[test]
fn a_flow_stays_in_its_queue_whatever_comes_back() {
    let ns = Namespace::new().expect("network namespaces need root");
    let tun = ns.run(|| Tun::open("wg0", 1420, QUEUES).unwrap()).unwrap();
    for arguments in ["addr add 10.9.0.1/24 dev wg0", "link set wg0 up"] {
        assert!(
            ns.command("ip")
                .args(arguments.split(' '))
                .status()
                .unwrap()
                .success()
        );
    }
    let files: Vec<File> = tun
        .as_fds()
        .iter()
        .map(|fd| fd.try_clone_to_owned().unwrap().into())
        .collect();
    assert_eq!(files.len(), QUEUES + 1);
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..16 {
        let socket = ns.run(|| UdpSocket::bind("10.9.0.1:0").unwrap()).unwrap();
        socket.connect("10.9.0.2:7").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let frame = back(socket.local_addr().unwrap().port());
        let own = queue(&socket, &files);
        used.insert(own);
        let answered = |file: usize| {
            (&files[file]).write_all(&frame).unwrap();
            let mut answer = [0; 16];
            assert_eq!(socket.recv(&mut answer).unwrap(), 4);
            queue(&socket, &files)
        };
        // As the device writes.
        assert_eq!(answered(QUEUES), own);
        // As it must not.
        let other = (own + 1) % QUEUES;
        assert_eq!(answered(other), other);
    }
    assert!(used.len() > 1, "all flows are in one queue");
}
