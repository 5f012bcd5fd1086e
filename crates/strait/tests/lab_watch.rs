//! One screen that tells how a lab is.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{binary, joined};
use serde_json::Value;
use strait_lab::{Options, Role, Sides};

#[test]
fn a_screen_shows_gateways_tunnels_loss_conditions_and_what_is_impaired() {
    let lab = joined(
        "watch",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    let watch = |arguments: &[&str]| {
        let output = Command::new(binary())
            .args(["lab", "watch", "--name", lab.name()])
            .args(arguments)
            .output()
            .expect("strait runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let frame = || -> Value { serde_json::from_str(&watch(&["--json"])).expect("JSON") };
    let deadline = Instant::now() + Duration::from_secs(20);
    let good = loop {
        let frame = frame();
        let tunnels = frame["tunnels"].as_array().expect("tunnels");
        let connected = |it: &Value| it["status"] == "connected" && it["rtt"].is_string();
        if tunnels.len() == 2 && tunnels.iter().all(connected) {
            break frame;
        }
        assert!(Instant::now() < deadline, "{frame}");
    };
    assert_eq!(good["gateways"][0]["node"], "east-1");
    assert_eq!(good["gateways"][0]["role"], "active");
    assert_eq!(good["tunnels"][0]["gateway"], "west-1");
    assert_eq!(good["tunnels"][0]["lost"], 0);
    assert!(good["tunnels"][0]["pods_ms"].is_number(), "{good}");
    let text = watch(&[]);
    assert!(
        !text.contains('\u{1b}') && !text.contains("IMPAIRED"),
        "{text}"
    );
    assert!(text.contains("east-1    active   ready"), "{text}");

    lab.cut("west", Sides::In).unwrap();
    lab.stop("east-1", Some(Role::Gateway)).unwrap();
    lab.stop("control-east", None).unwrap();
    let bad = frame();
    assert_eq!(bad["gateways"][0]["state"], "stopped");
    assert_eq!(bad["tunnels"][0]["lost"], bad["tunnels"][0]["probes"]);
    assert!(bad["tunnels"][0]["pods_ms"].is_null(), "{bad}");
    let text = watch(&[]);
    for line in [
        "the API server of east: no answer within",
        "gateway on east-1 is stopped",
        "IMPAIRED\nwest: to it cut\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn on_a_terminal_it_is_drawn_again_and_again() {
    let lab = joined(
        "screen",
        Options {
            nodes: 1,
            ..Options::default()
        },
    );
    let command = format!(
        "timeout 3 {} lab watch --interval 0.2 --name {}",
        binary().display(),
        lab.name()
    );
    // Gives the command a terminal, and passes on what it writes there.
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("script (package bsdutils) runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.matches("\u{1b}[H").count() >= 3, "{text:?}");
    assert!(text.matches("east-1").count() >= 3, "{text:?}");
}
