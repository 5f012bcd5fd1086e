//! What users get when agents are killed: the kernel's state stays, and traffic does not notice.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use common::joined;
use strait_lab::{Flow, Options, Role};

/// How often the agents are killed.
const TIMES: usize = 25;
/// Packets of a flow, one a millisecond.
const PACKETS: usize = 6000;

#[test]
fn agents_that_are_killed_again_and_again_lose_no_packet_of_a_running_flow() {
    let lab = joined(
        "kill",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    let target = lab.topology().node("west-2").expect("a node").1.pods[0]
        .address
        .to_string();
    // One request a millisecond, whether answered or not; from a pod, and from the host.
    let flows: Vec<_> = ["east-2-a", "east-2"]
        .into_iter()
        .map(|from| {
            let count = PACKETS.to_string();
            let command = [
                "ping", "-n", "-q", "-i", "0.001", "-c", &count, "-W", "2", &target,
            ];
            let child = lab
                .command(from, command)
                .stdout(std::process::Stdio::piped())
                .spawn();
            (from, child.expect("ping starts"))
        })
        .collect();
    // Connections too, through the service.
    let busy = lab
        .flow(&Flow {
            rate: 0,
            ..Flow::new("east-2-a", "web.west")
        })
        .expect("it starts");
    for _ in 0..TIMES {
        for (place, role) in [
            ("east-2", Role::RouteAgent),
            ("east-1", Role::RouteAgent),
            ("east-1", Role::Gateway),
            ("west-2", Role::RouteAgent),
        ] {
            lab.kill(place, role).expect("it ends");
            lab.restart(place, role).expect("it starts");
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let tcp = busy.end().expect("it ends").tcp;
    assert_eq!((tcp.connected, tcp.silent), (4, 0), "{tcp:?}");
    assert!(tcp.broken.is_empty(), "{tcp:?}");
    for (from, child) in flows {
        let output = child.wait_with_output().expect("ping ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains(&format!(
                "{PACKETS} packets transmitted, {PACKETS} received"
            )),
            "{from}: {text}"
        );
    }
    lab.wait_until_joined(std::time::Duration::from_secs(30))
        .expect("all is well");
}
