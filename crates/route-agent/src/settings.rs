//! What the route agent is told at start.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgMatches, Command};
use strait_core::route_agent;
use strait_daemon::hello::HELLO;
use strait_daemon::kube::Access;
use strait_daemon::member::{MEMBER, Member};
use strait_daemon::ping::{HEALTH, HealthSettings, SELF_TEST};
use strait_daemon::settings::command as settings_command;
use strait_daemon::{Setting, Settings, SettingsError, http, logs};

/// What `SUBMARINER_HEALTHCHECKINTERVAL` counts here (upstream `routeagent_driver/main.go`).
const HEALTH_UNIT: Duration = Duration::from_secs(60);

/// The setting that asks for the waiting alone; Submariner's operator sets it for its init container.
pub(crate) const WAIT: &str = "SUBMARINER_WAITFORNODE";

/// The settings of the route agent, beside those of every process.
pub static TABLE: [Setting; 18] = [
    MEMBER[0],
    MEMBER[1],
    MEMBER[2],
    MEMBER[3],
    MEMBER[4],
    MEMBER[5],
    MEMBER[6],
    Setting::new(
        "STRAIT_VERIFY_INTERVAL",
        "Seconds between two passes over the kernel when nothing happens",
        "a whole number of seconds, 1 or more",
    )
    .default("60"),
    Setting::new(
        "SUBMARINER_UNINSTALL",
        "Remove all that the route agent put on this node, say what, and end",
        "true or false",
    )
    .default("false"),
    Setting::new(
        WAIT,
        "Wait until this Node is ready, and end: for an init container",
        "true or false",
    )
    .default("false"),
    Setting::new(
        "STRAIT_ADOPT",
        "Remove what Submariner's route agent left on this node, once what replaces it stands",
        "true or false",
    )
    .default("false")
    .switch("adopt"),
    HEALTH[0],
    HEALTH[1],
    HEALTH[2],
    HEALTH[3],
    SELF_TEST,
    HELLO[0],
    http::port("32782"),
];

/// The command line of `strait route-agent`.
#[must_use]
pub fn command() -> Command {
    settings_command(
        "route-agent",
        "Keeps the way from this node to remote clusters",
        &TABLE,
    )
    .after_help(
        "Runs on every node, as root or with CAP_NET_ADMIN and CAP_NET_RAW, in the host's network namespace.\n\n\
         Examples:\n  \
         NODE_NAME=worker-1 SUBMARINER_CLUSTERID=east SUBMARINER_CLUSTERCIDR=10.42.0.0/16 \\\n    \
         SUBMARINER_SERVICECIDR=10.43.0.0/16 strait route-agent\n  \
         strait route-agent --adopt             the same, and remove what Submariner's route agent left\n  \
         strait route-agent --submariner-uninstall true   remove all of it from this node\n  \
         curl http://127.0.0.1:32782/readyz     what is not as it should be\n  \
         strait diff                            what it would change now, with the same settings",
    )
}

/// The settings, checked.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// What decisions need.
    pub core: route_agent::Settings,
    /// How this cluster's API is reached.
    pub access: Access,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    /// Time between two passes over the kernel when nothing happens.
    pub verify: Duration,
    /// How other clusters' gateways are checked.
    pub health: HealthSettings,
}

impl Configuration {
    /// Reads and checks all settings, starts the logs, and logs the settings.
    ///
    /// # Errors
    /// Every variable that is wrong, with what was expected.
    pub fn read(matches: &ArgMatches) -> Result<Self, SettingsError> {
        let mut s = Settings::read(matches, &TABLE);
        logs::init(&mut s);
        let member = Member::read(&mut s);
        let access = Access::read(&mut s);
        let admin = http::address(&mut s);
        let verify = s.seconds("STRAIT_VERIFY_INTERVAL");
        if verify.is_ok_and(|v| v.is_zero()) {
            let _ = s.note("STRAIT_VERIFY_INTERVAL", "is zero");
        }
        let hello_port = s.port("STRAIT_HELLO_PORT");
        let adopt = s.bool("STRAIT_ADOPT");
        // What asks for another mode, and can't be read, is not to end in this one.
        let modes = [s.bool("SUBMARINER_UNINSTALL"), s.bool(WAIT)];
        let health = HealthSettings::read(&mut s, HEALTH_UNIT)
            .and_then(|health| health.read_self_test(&mut s));
        s.log();
        s.finish(|| {
            let (member, health) = (member?, health?);
            for mode in modes {
                mode?;
            }
            Ok(Self {
                core: route_agent::Settings {
                    node: member.node,
                    hostname: member.hostname,
                    namespace: member.namespace,
                    cluster: member.cluster,
                    cluster_cidrs: member.cluster_cidrs,
                    service_cidrs: member.service_cidrs,
                    hello_port: hello_port?,
                    health_check: health.enabled,
                    self_test: health.self_test,
                    adopt: adopt?,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                },
                access: access?,
                admin: admin?,
                verify: verify?,
                health,
            })
        })
    }
}
