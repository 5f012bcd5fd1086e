//! What the route agent is told at start.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgMatches, Command};
use ipnet::IpNet;
use strait_api::ClusterId;
use strait_api::names::NAMESPACE;
use strait_core::route_agent;
use strait_daemon::settings::command as settings_command;
use strait_daemon::{Setting, Settings, SettingsError, http, logs};

/// The settings of the route agent, beside those of every process.
pub static TABLE: [Setting; 9] = [
    Setting::new(
        "NODE_NAME",
        "Name of the Node that this process runs on",
        "the name of a Node, such as worker-1",
    )
    .required(),
    Setting::new(
        "SUBMARINER_NAMESPACE",
        "Namespace of Endpoints and RouteAgents",
        "the name of a namespace",
    )
    .default(NAMESPACE),
    Setting::new(
        "SUBMARINER_CLUSTERID",
        "Identifier of this cluster",
        "1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit",
    )
    .required(),
    Setting::new(
        "SUBMARINER_CLUSTERCIDR",
        "Pod CIDRs of this cluster",
        "prefixes separated by commas, such as 10.42.0.0/16",
    )
    .required(),
    Setting::new(
        "SUBMARINER_SERVICECIDR",
        "Service CIDRs of this cluster",
        "prefixes separated by commas, such as 10.43.0.0/16",
    ),
    Setting::new(
        "SUBMARINER_GLOBALCIDR",
        "Global CIDRs of this cluster; overlapping networks are not supported yet",
        "nothing",
    ),
    Setting::new(
        "SUBMARINER_NETWORKPLUGIN",
        "CNI plugin of this cluster, for information; what it has put on the host is what counts",
        "a name, such as calico",
    )
    .default("generic"),
    Setting::new(
        "STRAIT_VERIFY_INTERVAL",
        "Seconds between two passes over the kernel when nothing happens",
        "a whole number of seconds, 1 or more",
    )
    .default("60"),
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
        "Runs on every node, as root or with CAP_NET_ADMIN, in the host's network namespace.\n\n\
         Examples:\n  \
         NODE_NAME=worker-1 SUBMARINER_CLUSTERID=east SUBMARINER_CLUSTERCIDR=10.42.0.0/16 \\\n    \
         SUBMARINER_SERVICECIDR=10.43.0.0/16 strait route-agent\n  \
         curl http://127.0.0.1:32782/readyz     what is not as it should be\n  \
         strait diff                            what it would change now, with the same settings",
    )
}

/// The settings, checked.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// What decisions need.
    pub core: route_agent::Settings,
    /// The kubeconfig; `None` for the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    /// Time between two passes over the kernel when nothing happens.
    pub verify: std::time::Duration,
}

impl Configuration {
    /// Reads and checks all settings, starts the logs, and logs the settings.
    ///
    /// # Errors
    /// Every variable that is wrong, with what was expected.
    pub fn read(matches: &ArgMatches) -> Result<Self, SettingsError> {
        let mut s = Settings::read(matches, &TABLE);
        logs::init(&mut s);
        let node = s.text("NODE_NAME");
        let namespace = s.text("SUBMARINER_NAMESPACE");
        let cluster = s.parse("SUBMARINER_CLUSTERID", str::parse::<ClusterId>);
        let cluster_cidrs = s.list("SUBMARINER_CLUSTERCIDR", prefix);
        if matches!(&cluster_cidrs, Ok(cidrs) if cidrs.is_empty()) {
            let _ = s.note("SUBMARINER_CLUSTERCIDR", "names no prefix");
        }
        let service_cidrs = s.list("SUBMARINER_SERVICECIDR", prefix);
        if s.raw("SUBMARINER_GLOBALCIDR")
            .is_some_and(|v| !v.is_empty())
        {
            let _ = s.note(
                "SUBMARINER_GLOBALCIDR",
                "overlapping networks are not supported yet",
            );
        }
        let kubeconfig = s.optional("KUBECONFIG", str::parse::<PathBuf>);
        let admin = http::address(&mut s);
        let verify = s.seconds("STRAIT_VERIFY_INTERVAL");
        if verify.is_ok_and(|v| v.is_zero()) {
            let _ = s.note("STRAIT_VERIFY_INTERVAL", "is zero");
        }
        let hostname = hostname();
        if hostname.is_none() {
            let _ = s.note("NODE_NAME", "the host name can't be read");
        }
        s.log();
        s.finish(|| {
            Ok(Self {
                core: route_agent::Settings {
                    node: node?,
                    hostname: hostname.unwrap_or_default(),
                    namespace: namespace?,
                    cluster: cluster?,
                    cluster_cidrs: cluster_cidrs?,
                    service_cidrs: service_cidrs?,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                },
                kubeconfig: kubeconfig?,
                admin: admin?,
                verify: verify?,
            })
        })
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("'{text}' is no prefix"))?;
    if net.prefix_len() == 0 {
        Err(format!("'{text}' is everything"))
    } else {
        Ok(net.trunc())
    }
}

fn hostname() -> Option<String> {
    nix::unistd::gethostname()
        .ok()?
        .into_string()
        .ok()
        .filter(|h| !h.is_empty())
}
