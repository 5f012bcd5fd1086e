//! The lab's flows tell what really became of traffic.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::{binary, joined};
use strait_lab::{Flow, FlowReport, Lab, Options, Role, Sides, Trouble};

fn lab(purpose: &str) -> Lab {
    joined(
        purpose,
        Options {
            nodes: 1,
            ..Options::default()
        },
    )
}

/// Datagrams that a pod was sent, as its kernel counts them.
fn received(lab: &Lab, pod: &str) -> u64 {
    let text = lab.exec(pod, &["cat", "/proc/net/snmp"]).expect("counters");
    let line = text.lines().filter(|line| line.starts_with("Udp: ")).nth(1);
    let values: Vec<&str> = line.expect("values").split(' ').collect();
    values[1].parse().expect("a number")
}

#[test]
fn what_is_lost_is_what_did_not_arrive_and_a_gap_is_as_long_as_the_cut() {
    let lab = lab("flow");
    let before = received(&lab, "west-1-a");
    let flow = lab.flow(&Flow::new("east-1-a", "west-1-a")).unwrap();
    sleep(Duration::from_millis(1000));
    lab.cut("east", Sides::Out).unwrap();
    sleep(Duration::from_millis(700));
    lab.heal("east", None).unwrap();
    sleep(Duration::from_millis(1000));
    let FlowReport { udp, tcp } = flow.end().unwrap();
    assert!(udp.sent > 2000, "{udp:?}");
    assert_eq!(udp.lost, udp.sent - (received(&lab, "west-1-a") - before));
    assert!((700.0..1100.0).contains(&udp.longest_gap_ms), "{udp:?}");
    assert!((600.0..2000.0).contains(&udp.longest_gap_at_ms), "{udp:?}");
    // What was lost was lost in that time.
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let difference = udp.lost as f64 - udp.longest_gap_ms;
    assert!(difference.abs() < 50.0 + udp.sender_late_ms, "{udp:?}");
    assert_eq!((tcp.connected, tcp.silent), (4, 0), "{tcp:?}");
    assert!(tcp.broken.is_empty(), "{tcp:?}");
    assert!(tcp.answers > 100 && tcp.longest_gap_ms >= 600.0, "{tcp:?}");

    let before = received(&lab, "west-1-a");
    let lose = Trouble::Lose {
        sides: Sides::Both,
        percent: 10.0,
    };
    lab.trouble("west", lose).unwrap();
    let flow = Flow {
        seconds: 2.0,
        connections: 0,
        ..Flow::new("east-1-a", "west-1-a")
    };
    let udp = lab.flow(&flow).unwrap().wait().unwrap().udp;
    let there = received(&lab, "west-1-a") - before;
    assert_eq!(udp.sent, 2000);
    // A tenth on the way there, a tenth of the rest on the way back.
    assert!((1700..1900).contains(&there), "{there}");
    assert!((270..490).contains(&udp.lost), "{udp:?}");
}

#[test]
fn connections_that_end_are_told_with_the_reason_and_those_without_an_answer_too() {
    let lab = lab("broken");
    let tcp = Flow {
        rate: 0,
        ..Flow::new("east-1", "west-1-a")
    };
    let flow = lab.flow(&tcp).unwrap();
    sleep(Duration::from_millis(500));
    lab.kill("west-1-a", Role::Pod).unwrap();
    let report = flow.end().unwrap().tcp;
    assert_eq!(
        (report.connected, report.broken.len()),
        (4, 4),
        "{report:?}"
    );
    assert!(report.answers > 0);

    let flow = lab.flow(&tcp).unwrap();
    sleep(Duration::from_millis(500));
    let report = flow.end().unwrap().tcp;
    assert_eq!(
        (report.connected, report.broken.len()),
        (0, 4),
        "{report:?}"
    );
    assert!(report.broken[0].contains("cannot connect"), "{report:?}");

    lab.heal("west-1-a", None).unwrap();
    sleep(Duration::from_millis(500));
    let flow = lab.flow(&tcp).unwrap();
    sleep(Duration::from_millis(1000));
    lab.stop("west-1-a", None).unwrap();
    sleep(Duration::from_millis(100));
    let report = flow.end().unwrap().tcp;
    assert_eq!((report.connected, report.silent), (4, 4), "{report:?}");
}

#[test]
fn the_command_prints_it_for_people_and_for_programs() {
    let lab = lab("text");
    let strait = |arguments: &[&str]| {
        let output = Command::new(binary())
            .args(["lab", "flow"])
            .args(arguments)
            .env("STRAIT_LAB", lab.name())
            .output()
            .expect("strait runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let usual = ["east-1-a", "web.west", "--seconds", "0.5", "--tcp", "2"];
    let (good, text) = strait(&usual);
    assert!(good && text.contains("UDP: 500 sent, 0 lost"), "{text}");
    assert!(text.contains("TCP: 2 connected, 0 broken"), "{text}");
    let (good, text) = strait(&[&usual[..], &["--json"]].concat());
    let report: FlowReport = serde_json::from_str(&text).unwrap();
    assert!(good && report.udp.sent == 500 && report.tcp.connected == 2);
    let (good, text) = strait(&["nowhere", "west-1-a"]);
    assert!(!good && text.contains("no 'nowhere' in the lab"), "{text}");
    let (good, text) = strait(&["east-1-a", "nowhere"]);
    assert!(!good && text.contains("no target 'nowhere'"), "{text}");
}
