//! What a process is told of health checks.

use std::time::Duration;

use strait_core::health::{self, Pace};

use crate::settings::Noted;
use crate::{Setting, Settings};

/// The settings that [`HealthSettings::read`] reads; they must be in the process's table.
pub static HEALTH: [Setting; 4] = [
    Setting::new(
        "SUBMARINER_HEALTHCHECKENABLED",
        "Whether other clusters' gateways are pinged",
        "true or false",
    )
    .default("true"),
    Setting::new(
        "SUBMARINER_HEALTHCHECKINTERVAL",
        "Time between two pings of a gateway: seconds on gateways, minutes on other nodes; 0 means 1",
        "a whole number, 0 or more",
    )
    .default("1"),
    Setting::new(
        "SUBMARINER_HEALTHCHECKMAXPACKETLOSSCOUNT",
        "How many pings in a row may be lost before a connection is in error; 0 means 5",
        "a whole number, 0 or more",
    )
    .default("5"),
    Setting::new(
        "STRAIT_HEALTHCHECK_INTERVAL_MS",
        "Milliseconds between two pings of a gateway, instead of SUBMARINER_HEALTHCHECKINTERVAL",
        "a whole number, 10 or more",
    ),
];

/// The setting that [`HealthSettings::read_self_test`] reads.
pub static SELF_TEST: Setting = Setting::new(
    "STRAIT_SELFTEST_INTERVAL_MS",
    "Milliseconds between two pings of this cluster's gateway, by which a node finds out which half of its way is dead; 0 for none",
    "0, or a whole number, 10 or more",
)
.default("10000");

/// Time between two pings of this cluster's gateway while they are lost, if the interval is not shorter.
const SELF_TEST_RETRY: Duration = Duration::from_secs(1);
/// More losses in a row are an error.
const SELF_TEST_LOSSES: u32 = 2;

/// Upstream's interval and number of losses where 0 is given (`submariner-operator`: `0` stands for "not set").
const DEFAULT_INTERVAL: u32 = 1;
const DEFAULT_LOSSES: u32 = 5;
/// The shortest interval.
const SHORTEST: Duration = Duration::from_millis(10);

/// How other clusters' gateways are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthSettings {
    /// Whether they are.
    pub enabled: bool,
    /// Whether this cluster's gateway is pinged too.
    pub self_test: bool,
    /// How.
    pub pings: health::Settings,
}

impl HealthSettings {
    /// Reads the settings of [`HEALTH`]; `unit` is what the interval counts. There is no self-test yet.
    ///
    /// # Errors
    /// [`Noted`] if any of them is wrong; all are read first.
    pub fn read(s: &mut Settings, unit: Duration) -> Result<Self, Noted> {
        let enabled = s.bool("SUBMARINER_HEALTHCHECKENABLED");
        let interval = s.optional("SUBMARINER_HEALTHCHECKINTERVAL", str::parse::<u32>);
        let losses = s.optional(
            "SUBMARINER_HEALTHCHECKMAXPACKETLOSSCOUNT",
            str::parse::<u32>,
        );
        let exact = s.optional("STRAIT_HEALTHCHECK_INTERVAL_MS", |text| {
            match text.parse().map(Duration::from_millis) {
                Ok(interval) if interval < SHORTEST => Err("is too short".to_owned()),
                Ok(interval) => Ok(interval),
                Err(error) => Err(error.to_string()),
            }
        });
        let (enabled, interval, losses, exact) = (enabled?, interval?, losses?, exact?);
        let units = interval.filter(|n| *n > 0).unwrap_or(DEFAULT_INTERVAL);
        Ok(Self {
            enabled,
            self_test: false,
            pings: health::Settings {
                clusters: Pace {
                    interval: exact.unwrap_or(unit.saturating_mul(units)),
                    retry: None,
                    max_losses: losses.filter(|n| *n > 0).unwrap_or(DEFAULT_LOSSES),
                },
                gateway: Pace {
                    interval: SELF_TEST_RETRY,
                    retry: Some(SELF_TEST_RETRY),
                    max_losses: SELF_TEST_LOSSES,
                },
            },
        })
    }

    /// The same with the self-test of [`SELF_TEST`], which must be in the process's table.
    ///
    /// # Errors
    /// [`Noted`] if it is wrong.
    pub fn read_self_test(mut self, s: &mut Settings) -> Result<Self, Noted> {
        let interval = s.parse(SELF_TEST.name, |text| {
            match text.parse().map(Duration::from_millis) {
                Ok(interval) if !interval.is_zero() && interval < SHORTEST => {
                    Err("is too short".to_owned())
                }
                Ok(interval) => Ok(interval),
                Err(error) => Err(error.to_string()),
            }
        })?;
        self.self_test = !interval.is_zero();
        if self.self_test {
            self.pings.gateway.interval = interval;
            self.pings.gateway.retry = Some(SELF_TEST_RETRY.min(interval));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::command;

    static TABLE: &[Setting] = &[HEALTH[0], HEALTH[1], HEALTH[2], HEALTH[3], SELF_TEST];
    const MINUTE: Duration = Duration::from_secs(60);

    fn read(variables: &[(&str, &str)], unit: Duration) -> Result<HealthSettings, String> {
        let matches = command("test", "A test", TABLE).get_matches_from(["test"]);
        let environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()));
        let mut settings = Settings::read_from(&matches, TABLE, environment);
        let health = HealthSettings::read(&mut settings, unit);
        let health = health.and_then(|health| health.read_self_test(&mut settings));
        settings
            .finish(|| health)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_settings_five_losses_are_allowed_and_one_unit_passes_between_pings() {
        for variables in [
            &[][..],
            &[
                ("SUBMARINER_HEALTHCHECKINTERVAL", "0"),
                ("SUBMARINER_HEALTHCHECKMAXPACKETLOSSCOUNT", "0"),
            ],
            &[
                ("SUBMARINER_HEALTHCHECKINTERVAL", ""),
                ("SUBMARINER_HEALTHCHECKMAXPACKETLOSSCOUNT", ""),
            ],
        ] {
            let health = read(variables, MINUTE).unwrap();
            assert!(health.enabled);
            assert_eq!(health.pings.clusters.interval, MINUTE);
            assert_eq!(health.pings.clusters.max_losses, 5);
        }
    }

    #[test]
    fn the_interval_counts_units_and_milliseconds_win() {
        let interval = ("SUBMARINER_HEALTHCHECKINTERVAL", "3");
        let health = read(&[interval], MINUTE).unwrap();
        assert_eq!(health.pings.clusters.interval, 3 * MINUTE);
        let exact = ("STRAIT_HEALTHCHECK_INTERVAL_MS", "250");
        let losses = ("SUBMARINER_HEALTHCHECKMAXPACKETLOSSCOUNT", "2");
        let health = read(&[interval, exact, losses], MINUTE).unwrap();
        assert_eq!(health.pings.clusters.interval, Duration::from_millis(250));
        assert_eq!(health.pings.clusters.max_losses, 2);
        let disabled = ("SUBMARINER_HEALTHCHECKENABLED", "false");
        assert!(!read(&[disabled], MINUTE).unwrap().enabled);
    }

    #[test]
    fn a_node_tests_itself_every_ten_seconds_unless_told_otherwise() {
        let self_test = |value| {
            let set = ("STRAIT_SELFTEST_INTERVAL_MS", value);
            let health = read(&[set], MINUTE).map_err(|error| {
                assert!(error.contains("10 or more"), "{error}");
            });
            health.map(|h| (h.self_test, h.pings.gateway.interval, h.pings.gateway.retry))
        };
        let (ten, one) = (Duration::from_secs(10), Duration::from_secs(1));
        let default = read(&[], MINUTE).unwrap();
        assert!(default.self_test && default.pings.gateway.interval == ten);
        assert_eq!(default.pings.gateway.retry, Some(one));
        let short = Duration::from_millis(200);
        assert_eq!(self_test("200"), Ok((true, short, Some(short))));
        assert!(!self_test("0").unwrap().0);
        assert_eq!([self_test("9"), self_test("x")], [Err(()), Err(())]);
    }

    #[test]
    fn what_is_wrong_is_told_by_name() {
        let error = read(
            &[
                ("SUBMARINER_HEALTHCHECKENABLED", "perhaps"),
                ("SUBMARINER_HEALTHCHECKINTERVAL", "-1"),
                ("SUBMARINER_HEALTHCHECKMAXPACKETLOSSCOUNT", "five"),
                ("STRAIT_HEALTHCHECK_INTERVAL_MS", "9"),
            ],
            MINUTE,
        )
        .unwrap_err();
        for setting in &HEALTH {
            assert!(error.contains(setting.name), "{error}");
        }
    }
}
