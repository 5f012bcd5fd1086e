//! What can be between the clusters of a lab, judged from outside.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use common::{binary, name};
use serde_json::Value;
use strait_lab::{Cable, Lab, Options, Role};

#[test]
fn the_first_nodes_are_labelled_and_their_gateways_get_the_cable() {
    let options = Options {
        name: name("gateways"),
        clusters: 3,
        gateways: 2,
        cable: Cable::Wireguard,
        ..Options::default()
    };
    let lab = Lab::up(&options, binary(), |_| ()).unwrap();
    for cluster in ["east", "west", "north"] {
        let labelled = "/api/v1/nodes?labelSelector=submariner.io%2Fgateway%3Dtrue";
        let nodes = lab.api(cluster, "GET", labelled, &Value::Null).unwrap();
        let items = nodes["items"].as_array().expect("a list");
        let names: Vec<&str> = items
            .iter()
            .filter_map(|node| node["metadata"]["name"].as_str())
            .collect();
        let wanted = [format!("{cluster}-1"), format!("{cluster}-2")];
        assert_eq!(names, wanted);
        let processes = lab.status().unwrap().processes;
        let gateways: Vec<String> = processes
            .into_iter()
            .filter(|process| process.role == Role::Gateway)
            .map(|process| process.place)
            .filter(|place| place.starts_with(cluster))
            .collect();
        assert_eq!(gateways, wanted);
    }
    let log = lab.logs().join("north-2-gateway.log");
    let told = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("\"SUBMARINER_CABLEDRIVER\",\"value\":\"wireguard\"")
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !told() {
        assert!(std::time::Instant::now() < deadline, "{}", log.display());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
