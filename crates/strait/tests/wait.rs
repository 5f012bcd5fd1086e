//! What the init container of Submariner's operator gets: it ends when the Node is ready, and touches nothing before.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::{binary, joined};
use serde_json::json;
use strait_lab::{Lab, Options, Role};

/// Not a measurement: a bound that only a hang can break.
const BOUND: Duration = Duration::from_secs(30);
const NODE: &str = "east-2";

/// Starts it with no more than the operator's init container has; gives what it logs, line by line.
fn wait(lab: &Lab, flags: &[&str]) -> (Child, Receiver<String>) {
    let mut words = vec![
        "env",
        "SUBMARINER_WAITFORNODE=true",
        "NODE_NAME=east-2",
        "KUBECONFIG=/run/strait-lab/control-east/admin.kubeconfig",
    ];
    if !flags.is_empty() {
        words.remove(1);
    }
    words.extend([binary().to_str().expect("a path"), "route-agent"]);
    words.extend(flags);
    let mut child = lab
        .command(NODE, words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (sender, lines) = channel();
    let outputs: [Box<dyn std::io::Read + Send>; 2] = [
        Box::new(child.stdout.take().expect("it is a pipe")),
        Box::new(child.stderr.take().expect("it is a pipe")),
    ];
    for output in outputs {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
    }
    (child, lines)
}

/// Waits for a line with all of these words.
fn said(lines: &Receiver<String>, words: &[&str]) {
    let mut seen = Vec::new();
    loop {
        let line = lines.recv_timeout(BOUND);
        let line = line.unwrap_or_else(|_| panic!("{words:?} is not among {seen:#?}"));
        if words.iter().all(|word| line.contains(word)) {
            return;
        }
        seen.push(line);
    }
}

fn ready(lab: &Lab, status: &str, message: &str) {
    let condition =
        json!({"type": "Ready", "status": status, "reason": "KubeletNotReady", "message": message});
    let body = json!({"status": {"conditions": [condition]}});
    let path = format!("/api/v1/nodes/{NODE}/status");
    lab.api("east", "PATCH", &path, &body)
        .expect("it is written");
}

/// Everything of the host that an agent would change, as foreign tools show it.
fn host(lab: &Lab) -> String {
    let show = |command: &[&str]| lab.exec(NODE, command).expect("it runs");
    [
        show(&["ip", "-o", "link"]),
        show(&["ip", "route", "show", "table", "all"]),
        show(&["ip", "rule"]),
        show(&["nft", "list", "tables"]),
    ]
    .concat()
}

#[test]
fn the_init_container_ends_when_the_node_is_ready_and_touches_nothing() {
    let options = Options {
        nodes: 2,
        ..Options::default()
    };
    let lab = joined("wait", options);
    lab.kill(NODE, Role::RouteAgent).expect("it ends");
    lab.run(NODE, Role::RouteAgent, &[("SUBMARINER_UNINSTALL", "true")])
        .expect("it succeeds");
    let before = host(&lab);
    assert!(!before.contains("vx-submariner"), "{before}");

    ready(&lab, "False", "cni plugin not initialized");
    let (mut child, lines) = wait(&lab, &[]);
    said(
        &lines,
        &[
            "waiting",
            NODE,
            "Ready is False",
            "cni plugin not initialized",
        ],
    );
    // An API server that is away is waited for too, and what is said of the Node is told when it changes.
    ready(&lab, "Unknown", "the kubelet is silent");
    said(
        &lines,
        &["waiting", NODE, "Ready is Unknown", "the kubelet is silent"],
    );
    lab.kill("control-east", Role::Apiserver).expect("it ends");
    said(&lines, &["waiting", NODE, "can't be read"]);
    assert_eq!(child.try_wait().expect("its status"), None, "it waits");
    lab.restart("control-east", Role::Apiserver)
        .expect("it starts");
    said(&lines, &["waiting", NODE, "Ready is Unknown"]);
    assert_eq!(host(&lab), before);
    ready(&lab, "True", "");
    said(&lines, &["the Node is ready", NODE]);
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{status}");
    assert_eq!(host(&lab), before);

    // The flag is the same; a Node that is ready is not waited for.
    let (mut child, lines) = wait(&lab, &["--submariner-waitfornode", "true"]);
    said(&lines, &["the Node is ready", NODE]);
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{status}");
    assert_eq!(host(&lab), before);
}
