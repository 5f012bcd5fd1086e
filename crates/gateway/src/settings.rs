//! What the gateway is told at start.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgMatches, Command};
use ipnet::IpNet;
use strait_api::ClusterId;
use strait_api::names::NAMESPACE;
use strait_core::gateway;
use strait_daemon::kube::{BROKER, BrokerSettings};
use strait_daemon::settings::command as settings_command;
use strait_daemon::{Setting, Settings, SettingsError, http, logs};

/// The settings of the gateway, beside those of every process.
pub static TABLE: [Setting; 18] = [
    Setting::new(
        "NODE_NAME",
        "Name of the Node that this process runs on",
        "the name of a Node, such as worker-1",
    )
    .required(),
    Setting::new("POD_NAME", "Name of this Pod, for information", "the name of a Pod"),
    Setting::new(
        "SUBMARINER_NAMESPACE",
        "Namespace of Clusters, Endpoints and Gateways",
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
        "SUBMARINER_CABLEDRIVER",
        "How tunnels to other clusters are made; there is only one so far",
        "vxlan",
    )
    .default("vxlan"),
    Setting::new(
        "SUBMARINER_NATENABLED",
        "Whether there may be a NAT in front of this gateway; a VXLAN cable can't pass one",
        "true or false",
    )
    .default("false"),
    Setting::new(
        "SUBMARINER_HEALTHCHECKENABLED",
        "Whether to publish an address that others can ping",
        "true or false",
    )
    .default("true"),
    Setting::new("CE_IPSEC_NATTPORT", "UDP port of the cable", "a port, 1 to 65535").default("4500"),
    http::port("32780"),
    BROKER[0],
    BROKER[1],
    BROKER[2],
    BROKER[3],
    BROKER[4],
];

/// The command line of `strait gateway`.
#[must_use]
pub fn command() -> Command {
    settings_command("gateway", "Joins this cluster to the others of its clusterset", &TABLE).after_help(
        "Runs on the node labelled submariner.io/gateway=true, as root or with CAP_NET_ADMIN, in the host's network \
         namespace. One gateway per cluster.\n\n\
         Example:\n  \
         NODE_NAME=gateway-1 SUBMARINER_CLUSTERID=east SUBMARINER_CLUSTERCIDR=10.42.0.0/16 \\\n    \
         SUBMARINER_SERVICECIDR=10.43.0.0/16 BROKER_K8S_APISERVER=broker.example.com:6443 \\\n    \
         BROKER_K8S_REMOTENAMESPACE=submariner-k8s-broker BROKER_K8S_APISERVERTOKEN=… strait gateway",
    )
}

/// The settings, checked.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// What decisions need.
    pub core: gateway::Settings,
    /// The kubeconfig; `None` for the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    /// How to reach the broker.
    pub broker: BrokerSettings,
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
        let driver = s.parse("SUBMARINER_CABLEDRIVER", |v| {
            if v.eq_ignore_ascii_case("vxlan") {
                Ok(())
            } else {
                Err("is not a cable driver of this version")
            }
        });
        let nat_enabled = s.bool("SUBMARINER_NATENABLED");
        let health_check = s.bool("SUBMARINER_HEALTHCHECKENABLED");
        let port = s.port("CE_IPSEC_NATTPORT");
        let kubeconfig = s.optional("KUBECONFIG", str::parse::<PathBuf>);
        let admin = http::address(&mut s);
        let broker = BrokerSettings::read(&mut s);
        let hostname = nix::unistd::gethostname()
            .ok()
            .and_then(|h| h.into_string().ok())
            .filter(|h| !h.is_empty());
        if hostname.is_none() {
            let _ = s.note("NODE_NAME", "the host name can't be read");
        }
        s.log();
        s.finish(|| {
            driver?;
            let broker = broker?;
            Ok(Self {
                core: gateway::Settings {
                    node: node?,
                    hostname: hostname.unwrap_or_default(),
                    namespace: namespace?,
                    broker_namespace: broker.namespace.clone(),
                    cluster: cluster?,
                    cluster_cidrs: cluster_cidrs?,
                    service_cidrs: service_cidrs?,
                    port: port?,
                    nat_enabled: nat_enabled?,
                    health_check: health_check?,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                },
                kubeconfig: kubeconfig?,
                admin: admin?,
                broker,
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
