//! What is done to a lab, and undone.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use strait_fuzz::Dice;
use strait_lab::{Cable, Lab, Role, Sides, Topology, Trouble};

/// The cluster of which one gateway, one worker and the API server keep their processes from beginning to end, whatever else
/// happens to them: what leaks, leaks there.
const SPARED: &str = "west";
const ENDPOINTS: &str = "/apis/submariner.io/v1/namespaces/submariner-k8s-broker/endpoints";
const HOUR: i64 = 3600;

/// Something that can be done, to a place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Harm {
    /// A node, a cluster's link to the WAN, or the machine of an API server.
    pub(super) place: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// SIGKILL.
    Kill(Role),
    /// SIGKILL for the process that does the work, which comes back.
    Crash(Role),
    /// SIGTERM.
    Terminate(Role),
    /// SIGSTOP.
    Stop(Role),
    /// SIGSTOP for all of a node and its pods.
    StopAll,
    /// No power.
    Off,
    /// The link.
    Cut(Sides),
    /// The node's way to the others of its cluster.
    Isolate,
    /// The link.
    Lossy { delay_ms: u8, percent: u8 },
    /// The wall clock, seconds.
    Clock(i64),
    /// Another WireGuard key.
    Rotate,
    /// The Endpoint of one more cluster, which nobody can reach.
    Stranger(Cable, u8),
}

impl Harm {
    /// Any, with a place that it fits.
    pub(super) fn draw(dice: &mut Dice, topology: &Topology, cable: Cable) -> Self {
        loop {
            let kind = Kind::draw(dice, cable);
            let places = kind.places(topology);
            if !places.is_empty() {
                let place = dice.pick(&places).clone();
                return Self { place, kind };
            }
        }
    }

    /// How long it may last, drawn beforehand: what comes one after the other takes its time.
    pub(super) fn hold(dice: &mut Dice) -> Duration {
        Duration::from_millis(*dice.pick(&[200, 1000, 1000, 3000, 3000, 8000, 20_000]))
    }

    pub(super) fn begin(&self, lab: &Lab) -> Result<()> {
        let place = &self.place;
        match self.kind {
            Kind::Kill(role) => drop(lab.kill(place, role)?),
            Kind::Crash(role) => drop(lab.crash(place, role)?),
            Kind::Terminate(role) => lab.terminate(place, role)?,
            Kind::Stop(role) => drop(lab.stop(place, Some(role))?),
            Kind::StopAll => drop(lab.stop(place, None)?),
            Kind::Off => drop(lab.power_off(place)?),
            Kind::Cut(sides) => drop(lab.cut(place, sides)?),
            Kind::Isolate => lab.isolate(place)?,
            Kind::Lossy { delay_ms, percent } => {
                let sides = Sides::Both;
                let slow = Trouble::Slow {
                    sides,
                    delay_ms: f64::from(delay_ms),
                    jitter_ms: f64::from(delay_ms / 2),
                    rate_mbit: None,
                };
                let percent = f64::from(percent);
                lab.trouble(place, slow)?;
                lab.trouble(place, Trouble::Lose { sides, percent })?;
            }
            Kind::Clock(ahead_s) => drop(lab.clock(place, ahead_s)?),
            Kind::Rotate => rotate(lab, place)?,
            Kind::Stranger(cable, number) => {
                lab.api("broker", "POST", ENDPOINTS, &stranger(cable, number))?;
            }
        }
        Ok(())
    }

    pub(super) fn end(&self, lab: &Lab) -> Result<()> {
        let place = &self.place;
        match self.kind {
            Kind::Kill(role) | Kind::Stop(role) => drop(lab.heal(place, Some(role))?),
            Kind::Crash(_) | Kind::Rotate => (),
            // It may still hand over.
            Kind::Terminate(role) => {
                wait_for_end(lab, place, role)?;
                lab.restart(place, role)?;
            }
            Kind::StopAll | Kind::Off | Kind::Cut(_) | Kind::Lossy { .. } | Kind::Clock(_) => {
                lab.heal(place, None)?;
            }
            Kind::Isolate => lab.reunite(place)?,
            Kind::Stranger(_, number) => {
                let path = format!("{ENDPOINTS}/{}", name(number));
                lab.api("broker", "DELETE", &path, &Value::Null)?;
            }
        }
        Ok(())
    }
}

impl Kind {
    fn draw(dice: &mut Dice, cable: Cable) -> Self {
        let role = *dice.pick(&[Role::Gateway, Role::Gateway, Role::RouteAgent]);
        match dice.below(15) {
            0 | 1 => Self::Kill(if dice.below(4) == 0 {
                Role::Apiserver
            } else {
                role
            }),
            2 => Self::Crash(role),
            3 => Self::Terminate(role),
            4 => Self::Stop(if dice.below(3) == 0 {
                Role::Apiserver
            } else {
                role
            }),
            5 => Self::StopAll,
            6 | 7 => Self::Off,
            8 | 9 => Self::Cut(*dice.pick(&[Sides::In, Sides::Out, Sides::Both, Sides::Both])),
            10 => Self::Isolate,
            11 => Self::Lossy {
                delay_ms: *dice.pick(&[5, 40, 80]),
                percent: *dice.pick(&[2, 10, 20]),
            },
            12 => Self::Clock(*dice.pick(&[HOUR, -HOUR])),
            13 if cable == Cable::Wireguard => Self::Rotate,
            _ => Self::Stranger(cable, u8::try_from(dice.below(200)).unwrap_or_default()),
        }
    }

    /// Where it can be done.
    fn places(self, topology: &Topology) -> Vec<String> {
        let servers = || {
            let of_clusters = topology.clusters.iter().map(|cluster| cluster.control());
            of_clusters.chain(["broker".to_owned()])
        };
        let nodes = |gateways: bool, spare: bool| -> Vec<String> {
            let mut nodes: Vec<&_> = topology.nodes().collect();
            nodes.retain(|node| node.gateway || !gateways);
            nodes.retain(|node| !spare || node.cluster != SPARED || node.number == 1);
            nodes.iter().map(|node| node.name.clone()).collect()
        };
        match self {
            Self::Kill(Role::Apiserver) => {
                let spared = format!("control-{SPARED}");
                servers().filter(|server| *server != spared).collect()
            }
            Self::Stop(Role::Apiserver) => servers().collect(),
            Self::Kill(role) | Self::Crash(role) | Self::Terminate(role) => {
                nodes(role == Role::Gateway, true)
            }
            Self::Stop(role) => nodes(role == Role::Gateway, false),
            Self::Off => nodes(false, true),
            Self::StopAll | Self::Isolate => nodes(false, false),
            Self::Clock(_) | Self::Rotate => nodes(true, false),
            Self::Cut(_) | Self::Lossy { .. } => {
                let clusters = topology.clusters.iter().map(|cluster| cluster.name.clone());
                let all = clusters.chain(servers()).chain(nodes(false, false));
                all.collect()
            }
            Self::Stranger(..) => vec!["broker".to_owned()],
        }
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        let way = |sides| match sides {
            Sides::In => "what comes to it",
            Sides::Out => "what comes from it",
            Sides::Both => "both ways",
        };
        match self.kind {
            Kind::Kill(role) => write!(f, "{place}: {role} killed"),
            Kind::Crash(role) => write!(f, "{place}: {role} crashed"),
            Kind::Terminate(role) => write!(f, "{place}: {role} asked to end"),
            Kind::Stop(role) => write!(f, "{place}: {role} stands still"),
            Kind::StopAll => write!(f, "{place}: all processes stand still"),
            Kind::Off => write!(f, "{place}: off"),
            Kind::Cut(sides) => write!(f, "{place}: cut, {}", way(sides)),
            Kind::Isolate => write!(f, "{place}: cut off from its cluster's other nodes"),
            Kind::Lossy { delay_ms, percent } => {
                write!(f, "{place}: {delay_ms} ms late, {percent} % lost")
            }
            Kind::Clock(ahead_s) => write!(f, "{place}: clock stepped by {ahead_s} s"),
            Kind::Rotate => write!(f, "{place}: another key"),
            Kind::Stranger(_, number) => {
                write!(f, "{place}: one more cluster, {}", cluster(number))
            }
        }
    }
}

fn wait_for_end(lab: &Lab, place: &str, role: Role) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = lab.status()?;
        let mut all = status.processes.iter();
        let process = all.find(|it| it.role == role && it.place == place);
        if process.is_none_or(|process| process.ended.is_some()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{role} on {place} does not end, 20 s after it was asked to");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn rotate(lab: &Lab, node: &str) -> Result<()> {
    let strait = crate::common::binary().to_str().context("a path")?;
    let state = format!("/run/strait-lab/{node}/gateway");
    let words = [
        strait,
        "gateway",
        "--rotate-key",
        "--strait-state-dir",
        &state,
    ];
    match lab.exec(node, &words) {
        // One that was asked for before needs four minutes.
        Err(error) if !error.to_string().contains("is being changed") => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn cluster(number: u8) -> String {
    format!("stranger-{number}")
}

fn name(number: u8) -> String {
    format!("{0}-submariner-cable-{0}-192-0-2-{number}", cluster(number))
}

fn stranger(cable: Cable, number: u8) -> Value {
    let cluster = cluster(number);
    // Any 32 octets are a key; those of a VXLAN cable have none, and are not asked for it.
    let letter = char::from(b'A' + number % 26);
    let key = format!("{}A=", letter.to_string().repeat(42));
    json!({
        "apiVersion": "submariner.io/v1",
        "kind": "Endpoint",
        "metadata": {
            "name": name(number),
            "namespace": "submariner-k8s-broker",
            "labels": {"submariner-io/clusterID": cluster},
        },
        "spec": {
            "cluster_id": cluster,
            "cable_name": format!("submariner-cable-{cluster}-192-0-2-{number}"),
            "hostname": cluster,
            "subnets": [format!("10.210.{number}.0/24")],
            "private_ip": format!("192.0.2.{number}"),
            "public_ip": "",
            "nat_enabled": false,
            "backend": cable.to_string(),
            "backend_config": {"udp-port": "4500", "natt-discovery-port": "0", "publicKey": key},
        },
    })
}
