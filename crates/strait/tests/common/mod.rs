//! Labs for tests, with the binary that was just built.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

pub(crate) mod takeover;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use strait_lab::matrix::{Tried, Way, render};
use strait_lab::{Lab, Options, Role};

/// The binary under test.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_strait"))
}

/// A name that no other test process uses.
pub(crate) fn name(purpose: &str) -> String {
    format!("t{}-{purpose}", std::process::id())
}

/// A lab whose clusters are joined; it ends when it is dropped.
pub(crate) fn joined(purpose: &str, options: Options) -> Lab {
    let options = Options {
        name: name(purpose),
        ..options
    };
    let lab = Lab::up(&options, binary(), |_| ()).expect("the lab starts");
    lab.wait_until_joined(Duration::from_secs(60))
        .expect("the clusters are joined");
    lab
}

/// Fails with a table of what did not go as it should.
pub(crate) fn assert_all_good(lab: &Lab, ways: &[Way]) {
    assert!(!ways.is_empty(), "nothing to try");
    let tried: Vec<Tried> = ways
        .iter()
        .map(|way| way.attempt(lab).expect("the lab answers"))
        .collect();
    let bad: Vec<Tried> = tried.into_iter().filter(|one| !one.good()).collect();
    assert!(bad.is_empty(), "\n{}", render(&bad));
}

/// Ends a gateway and starts one on another node, which need not wait until the first one's Lease has run out: it is removed.
pub(crate) fn move_gateway(lab: &Lab, from: &str, to: &str) {
    let (cluster, _) = from.split_once('-').expect("a node's name");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/submariner-operator/leases/submariner-gateway-lock";
    lab.kill(from, Role::Gateway).expect("it ends");
    lab.api(cluster, "DELETE", lease, &Value::Null)
        .expect("it is removed");
    lab.restart(to, Role::Gateway).expect("it starts");
}

/// The process number of a node's route agent, which must be alive.
pub(crate) fn agent(lab: &Lab, node: &str) -> u32 {
    let status = lab.status().expect("the lab answers");
    let agent = status
        .processes
        .iter()
        .find(|process| process.role == Role::RouteAgent && process.place == node);
    let agent = agent.unwrap_or_else(|| panic!("{node} has no route agent"));
    assert_eq!(agent.ended, None, "the route agent of {node}");
    agent.pid
}

/// The conditions of a node's route agent.
pub(crate) fn conditions(lab: &Lab, node: &str) -> Vec<String> {
    let status = lab.status().expect("the lab answers");
    let agent = status
        .processes
        .into_iter()
        .find(|process| process.role == Role::RouteAgent && process.place == node);
    let readiness = agent
        .and_then(|agent| agent.readiness)
        .unwrap_or_else(|| panic!("the route agent of {node} does not answer"));
    readiness.degraded.into_keys().collect()
}

/// What `strait plan` or `strait diff` prints on a node of cluster east, and the status with which it ends.
pub(crate) fn show(lab: &Lab, node: &str, command: &[&str]) -> (String, Option<i32>) {
    let mut words = vec![binary().to_str().expect("a path")];
    words.extend(command);
    words.extend(["--node-name", node, "--submariner-clusterid", "east"]);
    words.extend(["--submariner-clustercidr", "10.101.0.0/16"]);
    words.extend(["--submariner-servicecidr", "10.151.0.0/16"]);
    // As it is seen inside the lab.
    let kubeconfig = "/run/strait-lab/control-east/admin.kubeconfig";
    words.extend(["--kubeconfig", kubeconfig]);
    let output = lab.command(node, words).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!text.is_empty(), "{command:?}: {errors}");
    (text, output.status.code())
}
