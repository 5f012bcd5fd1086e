//! A gateway that is joined with many other clusters by WireGuard in its process: how soon after its start, and what it takes of the host
//! then. Those clusters are Endpoints at the broker, and one process on the Internet that is all of their gateways.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use strait_api::names::{
    BACKEND_NATT_PORT, BACKEND_PUBLIC_KEY, BACKEND_UDP_PORT, BROKER_NAMESPACE, CABLE_PORT, GROUP,
    LABEL_CLUSTER_ID, NATT_PORT,
};

use super::figure::{Figure, Unit};
use super::process::Taken;
use super::responder::{cable, cluster, gateway};
use super::wireguard::Ended;
use super::{Effort, IDLE, PATIENCE};
use crate::client::Lab;
use crate::options::{Cable, Cni, Options};
use crate::process::Role;
use crate::sandbox::SELF;

/// How many other clusters there are.
const MANY: u16 = 200;
const NODE: &str = "east-1";

/// All figures of one lab of its own.
pub(super) fn figures(options: &Options, binary: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let options = Options {
        clusters: 1,
        nodes: 1,
        cnis: vec![Cni::Bridge],
        cable: Cable::Wireguard,
        environment: vec![("STRAIT_WIREGUARD".to_owned(), "process".to_owned())],
        ..options.clone()
    };
    let lab = Lab::up(&options, binary, |_| ())?;
    lab.wait_until_ready(PATIENCE, true)?;
    let key = own_key(&lab)?;
    let addresses: String = (0..MANY)
        .map(|number| format!("address add {}/32 dev lo\n", gateway(number)))
        .collect();
    let script = format!("printf '{addresses}' | ip -batch -");
    lab.exec("internet", &["sh", "-c", &script])?;
    let (responder, keys) = responder(&lab, &key)?;
    for (number, key) in (0..).zip(&keys) {
        create(&lab, number, key)?;
    }
    all(&lab, CONNECTED, Instant::now())?;

    let mut starts = Vec::new();
    for _ in 0..effort.rounds {
        lab.kill(NODE, Role::Gateway)?;
        let start = Instant::now();
        lab.restart(NODE, Role::Gateway)?;
        starts.push(all(&lab, CONNECTED, start)?);
    }
    all(&lab, ANSWERED, Instant::now())?;
    // What a start has to do is over.
    sleep(Duration::from_secs(5));
    let before = Taken::read(&lab, NODE)?;
    let begun = Instant::now();
    sleep(IDLE);
    let after = Taken::read(&lab, NODE)?;
    let share = (after.processor - before.processor) / 1000.0 / begun.elapsed().as_secs_f64();
    all(&lab, ANSWERED, Instant::now())?;
    drop(responder);

    let [child, parent] = after.memory;
    let figure = |what: &str, wanted: &str, unit, samples| {
        let name = format!("gateway, {MANY} remote clusters: {what}");
        Figure::new(&name, wanted, unit, samples)
    };
    Ok(vec![
        figure(
            "from its start until all are connected",
            "<= 5 s",
            Unit::Seconds,
            starts,
        ),
        figure(
            "memory (RSS), both processes",
            "<= 60 MiB",
            Unit::Mebibytes,
            vec![child + parent],
        ),
        figure(
            "memory (RSS) of the parent alone",
            "",
            Unit::Mebibytes,
            vec![parent],
        ),
        figure(
            "share of a processor in a minute without traffic, a ping a second to each, both processes",
            "<= 0.03",
            Unit::Ratio,
            vec![share],
        ),
    ])
}

fn endpoints(place: &str) -> String {
    match place {
        "broker" => format!("/apis/{GROUP}/v1/namespaces/{BROKER_NAMESPACE}/endpoints"),
        _ => format!("/apis/{GROUP}/v1/endpoints"),
    }
}

fn own_key(lab: &Lab) -> Result<String> {
    let all = lab.api("east", "GET", &endpoints("east"), &Value::Null)?;
    let key = all.pointer(&format!(
        "/items/0/spec/backend_config/{BACKEND_PUBLIC_KEY}"
    ));
    let key = key.and_then(Value::as_str);
    Ok(key.context("an Endpoint without a key")?.to_owned())
}

/// The process that is all other gateways, and their keys.
fn responder(lab: &Lab, key: &str) -> Result<(Ended, Vec<String>)> {
    let count = MANY.to_string();
    let mut child = lab
        .command("internet", [SELF, "lab", "responder", key, &count])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().context("no pipe")?);
    let child = Ended(child);
    let keys: Vec<String> = output
        .lines()
        .take(usize::from(MANY))
        .collect::<Result<_, _>>()?;
    ensure!(keys.len() == usize::from(MANY), "no keys of other gateways");
    Ok((child, keys))
}

fn create(lab: &Lab, number: u16, key: &str) -> Result<()> {
    let [high, low] = number.to_be_bytes();
    let (cluster, cable) = (cluster(number), cable(number));
    let name = format!("{cluster}-{cable}");
    let endpoint = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "Endpoint",
        "metadata": {"name": name, "namespace": BROKER_NAMESPACE, "labels": {LABEL_CLUSTER_ID: cluster}},
        "spec": {
            "cluster_id": cluster,
            "cable_name": cable,
            "hostname": "gateway",
            "subnets": [format!("11.{}.{low}.0/24", 2 * high), format!("11.{}.{low}.0/24", 2 * high + 1)],
            "healthCheckIP": format!("11.{}.{low}.1", 2 * high + 1),
            "private_ip": gateway(number),
            "public_ip": "",
            "nat_enabled": false,
            "backend": "wireguard",
            "backend_config": {
                BACKEND_PUBLIC_KEY: key,
                BACKEND_UDP_PORT: CABLE_PORT.to_string(),
                BACKEND_NATT_PORT: NATT_PORT.to_string(),
            },
        },
    });
    lab.api("broker", "POST", &endpoints("broker"), &endpoint)?;
    Ok(())
}

/// Whether a line of the gateway's metrics is about one that is connected, with how many that stands for.
type Counted = fn(&str) -> Option<f64>;

/// Connections as the Gateway object has them.
const CONNECTED: Counted = |line| {
    let rest = line.strip_prefix("submariner_connections_short{")?;
    let (labels, value) = rest.split_once("} ")?;
    labels
        .contains("\"connected\"")
        .then(|| value.parse().ok())?
};
/// Those that answer pings.
const ANSWERED: Counted = |line| {
    let rest = line.strip_prefix("strait_health_connected{")?;
    rest.split_once("} ")?.1.parse().ok()
};

/// Waits until that holds of all; seconds since `start`.
fn all(lab: &Lab, counted: Counted, start: Instant) -> Result<f64> {
    loop {
        // One that has just begun does not answer yet.
        let page = lab
            .page(NODE, Role::Gateway, "/metrics")
            .unwrap_or_default();
        let count: f64 = page.lines().filter_map(counted).sum();
        let took = start.elapsed();
        if (count - f64::from(MANY)).abs() < 0.5 {
            return Ok(took.as_secs_f64());
        }
        ensure!(took < PATIENCE, "{count} of {MANY} other clusters");
        sleep(Duration::from_millis(20));
    }
}
