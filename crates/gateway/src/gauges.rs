//! What dashboards made for Submariner look at: its metrics, by its names and labels (upstream `cable/metrics.go`).
//!
//! They are made at each scrape from what is there then: what is gone is not told of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use strait_api::gateway::{Connection, ConnectionStatus, GatewayStatus, parse_go_duration};
use strait_api::names::BACKEND_PUBLIC_KEY;
use strait_api::{EndpointSpec, Object};
use strait_daemon::Metrics;
use strait_host::{Key, PeerStatus};

/// Our end of a cable, and the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Ends {
    cable_driver: String,
    local_cluster: String,
    local_hostname: String,
    local_endpoint_ip: String,
    remote_cluster: String,
    remote_hostname: String,
    remote_endpoint_ip: String,
}

impl Ends {
    fn of(local: &EndpointSpec, remote: &EndpointSpec) -> Self {
        Self {
            cable_driver: local.backend.clone(),
            local_cluster: local.cluster_id.clone(),
            local_hostname: local.hostname.clone(),
            local_endpoint_ip: public_ip(local),
            remote_cluster: remote.cluster_id.clone(),
            remote_hostname: remote.hostname.clone(),
            remote_endpoint_ip: public_ip(remote),
        }
    }
}

/// The one address that stands for an Endpoint of both families.
fn public_ip(spec: &EndpointSpec) -> String {
    let singular = Some(&spec.public_ip).filter(|ip| !ip.is_empty());
    let ip = singular.or(spec.public_ips.first());
    ip.cloned().unwrap_or_default()
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

impl Status {
    fn of(connection: &Connection) -> Self {
        let status = match connection.status {
            ConnectionStatus::Connected => "connected",
            ConnectionStatus::Connecting => "connecting",
            ConnectionStatus::Error => "error",
            ConnectionStatus::None => "none",
        };
        Self { status }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Driver {
    cable_driver: String,
}

/// What is told of the connections. Clones share one state.
#[derive(Clone, Default)]
pub(crate) struct Gauges(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    told: Option<GatewayStatus>,
    /// Since when a cable is connected, in Unix seconds.
    since: BTreeMap<Ends, i64>,
    peers: BTreeMap<Key, PeerStatus>,
    writes: u64,
}

impl Gauges {
    pub(crate) fn start(metrics: &Metrics) -> Self {
        let gauges = Self::default();
        metrics.collect(Box::new(gauges.clone()));
        gauges
    }

    /// The Gateway object is this, at a time in Unix seconds.
    pub(crate) fn told(&self, gateway: &Object, now: i64) {
        let Ok(status) = gateway.section::<GatewayStatus>("status") else {
            return;
        };
        self.with(|state| {
            let connected = status
                .connections
                .iter()
                .filter(|c| c.status == ConnectionStatus::Connected);
            let since = connected.map(|c| {
                let ends = Ends::of(&status.local_endpoint, &c.endpoint);
                let at = state.since.get(&ends).copied().unwrap_or(now);
                (ends, at)
            });
            state.since = since.collect();
            state.told = Some(status);
        });
    }

    /// The Gateway object was written, or its heartbeat was.
    pub(crate) fn written(&self) {
        self.with(|state| state.writes += 1);
    }

    /// What the device says of its peers.
    pub(crate) fn peers(&self, peers: &BTreeMap<Key, PeerStatus>) {
        self.with(|state| state.peers.clone_from(peers));
    }

    fn with<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let (series, writes) = self.with(|state| (Series::of(state), state.writes));
        family(
            &mut to,
            "submariner_gateway_rx_bytes",
            "Bytes received through the cable",
            &series.received,
        )?;
        family(
            &mut to,
            "submariner_gateway_tx_bytes",
            "Bytes sent through the cable",
            &series.sent,
        )?;
        family(
            &mut to,
            "submariner_connections",
            "Connections by cable and status",
            &series.connections,
        )?;
        family(
            &mut to,
            "submariner_connections_short",
            "Connections by cable driver and status",
            &series.short,
        )?;
        family(
            &mut to,
            "submariner_connection_established_timestamp",
            "Since when the cable is connected, in Unix seconds",
            &series.since,
        )?;
        family(
            &mut to,
            "submariner_connection_latency_seconds",
            "Round-trip time of the newest ping through the cable",
            &series.latency,
        )?;
        // A counter would get another name in this format than Submariner's has.
        let mut to = to.encode_descriptor(
            "submariner_gateway_sync_iterations",
            "Writes of the Gateway object",
            None,
            MetricType::Unknown,
        )?;
        to.encode_gauge(&writes)
    }
}

/// All that is told, by label.
#[derive(Default)]
struct Series {
    received: BTreeMap<Ends, f64>,
    sent: BTreeMap<Ends, f64>,
    connections: BTreeMap<(Ends, Status), f64>,
    short: BTreeMap<(Driver, Status), f64>,
    since: BTreeMap<Ends, f64>,
    latency: BTreeMap<Ends, f64>,
}

impl Series {
    fn of(state: &State) -> Self {
        let mut series = Self::default();
        let Some(told) = &state.told else {
            return series;
        };
        let local = &told.local_endpoint;
        for connection in &told.connections {
            let remote = &connection.endpoint;
            let (ends, status) = (Ends::of(local, remote), Status::of(connection));
            let driver = Driver {
                cable_driver: local.backend.clone(),
            };
            *series.short.entry((driver, status.clone())).or_default() += 1.0;
            *series
                .connections
                .entry((ends.clone(), status))
                .or_default() += 1.0;
            if let Some(at) = state.since.get(&ends) {
                series.since.insert(ends.clone(), float(*at));
            }
            let rtt = connection.latency_rtt.as_ref();
            // Of both families, the first: the label tells one address only.
            if let Some(last) = rtt.and_then(|rtt| parse_go_duration(&rtt.last)) {
                series
                    .latency
                    .entry(ends.clone())
                    .or_insert(last.as_secs_f64());
            }
            let key = remote.backend_config.get(BACKEND_PUBLIC_KEY);
            let peer = key.and_then(|key| state.peers.get(&key.parse().ok()?));
            if let Some(peer) = peer.filter(|_| remote.backend == local.backend) {
                series.received.insert(ends.clone(), float(peer.received));
                series.sent.insert(ends, float(peer.sent));
            }
        }
        series
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a metric's value has 53 bits, as Submariner's has"
)]
fn float(number: impl TryInto<i64>) -> f64 {
    number.try_into().unwrap_or(i64::MAX) as f64
}

fn family<L: EncodeLabelSet>(
    to: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &str,
    series: &BTreeMap<L, f64>,
) -> fmt::Result {
    let mut metric = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strait_api::Kind;
    use strait_api::gateway::{HaStatus, LatencyRtt};

    use super::*;

    fn endpoint(cluster: &str, public_ip: &str, key: u8) -> EndpointSpec {
        EndpointSpec {
            cluster_id: cluster.into(),
            hostname: format!("{cluster}-1"),
            public_ip: public_ip.into(),
            backend: "wireguard".into(),
            backend_config: [(BACKEND_PUBLIC_KEY.to_owned(), Key([key; 32]).to_string())].into(),
            ..EndpointSpec::default()
        }
    }

    fn connection(status: ConnectionStatus, endpoint: EndpointSpec) -> Connection {
        Connection {
            status,
            status_message: String::new(),
            endpoint,
            using_ip: String::new(),
            using_nat: false,
            latency_rtt: (status == ConnectionStatus::Connected).then(|| LatencyRtt {
                last: "1.5ms".into(),
                ..LatencyRtt::default()
            }),
        }
    }

    fn gateway(connections: Vec<Connection>) -> Object {
        let status = GatewayStatus {
            version: "test".into(),
            ha_status: HaStatus::Active,
            local_endpoint: endpoint("east", "192.0.2.1", 1),
            status_failure: String::new(),
            connections,
        };
        Object::new(Kind::Gateway, "ns", "east-1").with("status", &status)
    }

    /// Lines that are no comments, without their numbers being touched.
    fn lines(metrics: &Metrics) -> Vec<String> {
        let of_submariner = |line: &&str| line.starts_with("submariner_");
        let text = metrics.text();
        text.lines()
            .filter(of_submariner)
            .map(str::to_owned)
            .collect()
    }

    const WEST: &str = "cable_driver=\"wireguard\",local_cluster=\"east\",local_hostname=\"east-1\",\
         local_endpoint_ip=\"192.0.2.1\",remote_cluster=\"west\",remote_hostname=\"west-1\",remote_endpoint_ip=\"192.0.2.2\"";

    #[test]
    fn dashboards_made_for_submariner_find_its_series_and_none_of_what_is_gone() {
        let metrics = Metrics::new("test");
        let gauges = Gauges::start(&metrics);
        let west = |status| connection(status, endpoint("west", "192.0.2.2", 2));
        let other = connection(ConnectionStatus::Error, endpoint("north", "", 3));
        gauges.told(&gateway(vec![west(ConnectionStatus::Connecting)]), 999);
        gauges.told(
            &gateway(vec![west(ConnectionStatus::Connected), other.clone()]),
            1000,
        );
        gauges.told(
            &gateway(vec![west(ConnectionStatus::Connected), other]),
            1005,
        );
        gauges.peers(
            &[(
                Key([2; 32]),
                PeerStatus {
                    endpoint: None,
                    handshake: Some(1000),
                    received: 7,
                    sent: 11,
                },
            )]
            .into(),
        );
        gauges.written();
        let all = lines(&metrics);
        for wanted in [
            format!("submariner_gateway_rx_bytes{{{WEST}}} 7.0"),
            format!("submariner_gateway_tx_bytes{{{WEST}}} 11.0"),
            format!("submariner_connections{{{WEST},status=\"connected\"}} 1.0"),
            format!("submariner_connection_established_timestamp{{{WEST}}} 1000.0"),
            format!("submariner_connection_latency_seconds{{{WEST}}} 0.0015"),
            "submariner_connections_short{cable_driver=\"wireguard\",status=\"connected\"} 1.0"
                .to_owned(),
            "submariner_connections_short{cable_driver=\"wireguard\",status=\"error\"} 1.0"
                .to_owned(),
            "submariner_gateway_sync_iterations 1".to_owned(),
        ] {
            assert!(all.contains(&wanted), "{wanted}\n{all:#?}");
        }
        let of_west = |all: &[String]| -> Vec<String> {
            let of_west = all.iter().filter(|l| l.contains("remote_cluster=\"west\""));
            of_west.cloned().collect()
        };
        assert_eq!(of_west(&all).len(), 5, "one status at a time: {all:#?}");
        // It breaks, and it goes.
        gauges.told(&gateway(vec![west(ConnectionStatus::Error)]), 1010);
        let broken = of_west(&lines(&metrics));
        let status: Vec<_> = broken.iter().filter(|l| l.contains("status=")).collect();
        assert!(
            matches!(&status[..], [one] if one.contains("\"error\"")),
            "{broken:#?}"
        );
        assert!(
            !broken.iter().any(|l| l.contains("established")),
            "{broken:#?}"
        );
        gauges.told(&gateway(Vec::new()), 1015);
        assert_eq!(
            lines(&metrics),
            ["submariner_gateway_sync_iterations 1".to_owned()]
        );
    }
}
