//! Gateway: what a gateway node says of itself and its connections. It has no spec and no status subresource.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::EndpointSpec;

/// `status` of a Gateway; all fields are required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Version of the software.
    pub version: String,
    /// Whether it carries the cluster's traffic.
    pub ha_status: HaStatus,
    /// What it publishes.
    pub local_endpoint: EndpointSpec,
    /// Why it can't work, or empty.
    pub status_failure: String,
    /// Connections to other clusters, one per Endpoint and family; never null.
    pub connections: Vec<Connection>,
}

/// Role of a gateway among those of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HaStatus {
    /// It carries the traffic.
    Active,
    /// It stands by.
    Passive,
}

/// A connection to another cluster's gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its state.
    pub status: ConnectionStatus,
    /// Why it is in this state, or empty.
    #[serde(rename = "statusMessage")]
    pub status_message: String,
    /// The other side.
    pub endpoint: EndpointSpec,
    /// The address that is used to reach it.
    #[serde(rename = "usingIP", default, skip_serializing_if = "String::is_empty")]
    pub using_ip: String,
    /// Whether there is a NAT in between; absent when not.
    #[serde(
        rename = "usingNAT",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub using_nat: bool,
    /// How long pings to the other side take; absent before the first reply.
    #[serde(
        rename = "latencyRTT",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub latency_rtt: Option<LatencyRtt>,
}

/// Round-trip times as text, in the format of [`go_duration`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyRtt {
    /// The newest.
    pub last: String,
    /// The shortest.
    pub min: String,
    /// The arithmetic mean.
    pub average: String,
    /// The longest.
    pub max: String,
    /// The standard deviation.
    pub std_dev: String,
}

/// A duration as Go's `time.Duration.String()` writes it, since that is what readers of [`LatencyRtt`] parse:
/// `1.234567ms`, `1m0.5s`, `0s`.
#[must_use]
pub fn go_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => decimal(nanoseconds, 1_000) + "µs",
        1_000_000..1_000_000_000 => decimal(nanoseconds, 1_000_000) + "ms",
        _ => {
            let minutes = duration.as_secs() / 60;
            let seconds = decimal(nanoseconds % 60_000_000_000, 1_000_000_000) + "s";
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// Reads what [`go_duration`] writes.
#[must_use]
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    // A day has fewer nanoseconds than the mantissa has values, so that nothing that is measured is rounded.
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let next = after.find(|c: char| c.is_ascii_digit());
        let (unit, after) = after.split_at(next.unwrap_or(after.len()));
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|_| !text.is_empty())
}

/// `value / unit` in decimals, without zeros at the end; `unit` is a power of ten.
fn decimal(value: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// State of a connection, also of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionStatus {
    /// Programmed, and alive as far as is known.
    Connected,
    /// On its way.
    Connecting,
    /// Not usable.
    Error,
    /// Not checked.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        // The examples of Go's own test of `Duration.String`, and of values that health checks see.
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (4 * 60_000_000_000 + 5_000_000_000, "4m5s"),
            (4 * 60_000_000_000 + 5_001_000_000, "4m5.001s"),
            (
                5 * 3_600_000_000_000 + 6 * 60_000_000_000 + 7_001_000_000,
                "5h6m7.001s",
            ),
            (8 * 60_000_000_000 + 1, "8m0.000000001s"),
            (i64::MAX as u64, "2562047h47m16.854775807s"),
            (999, "999ns"),
            (1_000, "1µs"),
            (999_999, "999.999µs"),
            (1_000_000, "1ms"),
            (1_234_567, "1.234567ms"),
            (10_000_000, "10ms"),
            (100_000_001, "100.000001ms"),
            (999_999_999, "999.999999ms"),
            (1_000_000_000, "1s"),
            (60_000_000_000, "1m0s"),
            (60_500_000_000, "1m0.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            let duration = Duration::from_nanos(nanoseconds);
            assert_eq!(go_duration(duration), text);
            if nanoseconds < 1_u64 << 50 {
                assert_eq!(parse_go_duration(text), Some(duration), "{text}");
            }
        }
        for bad in ["", "1", "s", "1d", "-1s", "1.2.3s", "1s2", "1e9s", "1 s"] {
            assert_eq!(parse_go_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn round_trip_times_have_the_names_that_readers_look_for() {
        let rtt = LatencyRtt {
            last: "5ns".into(),
            min: "1ns".into(),
            average: "2ns".into(),
            max: "9ns".into(),
            std_dev: "3ns".into(),
        };
        assert_eq!(
            serde_json::to_value(rtt).unwrap(),
            serde_json::json!({"last": "5ns", "min": "1ns", "average": "2ns", "max": "9ns", "stdDev": "3ns"})
        );
    }
}
