//! What users get when agents are killed: the kernel's state stays, and traffic does not notice.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{agent, joined};
use strait_lab::{Flow, Options, Role};

/// How often each route agent on the path is killed.
const TIMES: u32 = 100;
/// The gateway, which is slower to start, each so many rounds.
const GATEWAY: u32 = 4;
/// The longest time between two rounds, milliseconds. Each round waits for another time, so that agents are killed while they start, while
/// they read the kernel, in the middle of their passes, and at rest.
const LONGEST: u32 = 400;

#[test]
fn agents_that_are_killed_a_hundred_times_lose_no_datagram_of_a_running_flow() {
    let lab = joined(
        "kill",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    let flow = |from: &str, to: &str, rate| Flow {
        rate,
        connections: if rate == 0 { 4 } else { 0 },
        seconds: 600.0,
        ..Flow::new(from, to)
    };
    // One datagram a millisecond, from a pod, and from the host; connections too, through the service.
    let datagrams = ["east-2-a", "east-2"].map(|from| {
        let running = lab.flow(&flow(from, "west-2-a", 1000));
        (from, running.expect("it starts"))
    });
    let connections = lab.flow(&flow("east-2-a", "web.west", 0));
    let connections = connections.expect("it starts");
    sleep(Duration::from_millis(300));
    let agents = ["east-2", "east-1", "west-1", "west-2"];
    let begun = Instant::now();
    for round in 0..TIMES {
        for place in agents {
            let before = agent(&lab, place);
            lab.kill(place, Role::RouteAgent).expect("it ends");
            lab.restart(place, Role::RouteAgent).expect("it starts");
            assert_ne!(agent(&lab, place), before, "{place} was not killed");
        }
        if round % GATEWAY == 0 {
            lab.kill("east-1", Role::Gateway).expect("it ends");
            lab.restart("east-1", Role::Gateway).expect("it starts");
        }
        // 37 is no divisor of it.
        sleep(Duration::from_millis(u64::from(round * 37 % LONGEST)));
    }
    let killing = begun.elapsed();
    sleep(Duration::from_millis(300));
    let tcp = connections.end().expect("it ends").tcp;
    assert_eq!((tcp.connected, tcp.silent), (4, 0), "{tcp:?}");
    assert!(tcp.broken.is_empty(), "{tcp:?}");
    for (from, running) in datagrams {
        let udp = running.end().expect("it ends").udp;
        assert_eq!((udp.lost, udp.duplicates), (0, 0), "{from}: {udp:?}");
        // It went on from before the first until after the last, and never stood still for longer than its sender had no processor.
        let sent = Duration::from_millis(udp.sent);
        let late = Duration::from_secs_f64(udp.sender_late_ms / 1000.0);
        assert!(sent + late >= killing, "{from}: {udp:?} in {killing:?}");
    }
    lab.wait_until_joined(Duration::from_secs(30))
        .expect("all is well");
}
