//! What the gateway is told at start.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgMatches, Command};
use strait_cable::Preshared;
use strait_core::{Driver, gateway};
use strait_daemon::kube::{BROKER, BrokerSettings};
use strait_daemon::member::{MEMBER, Member};
use strait_daemon::ping::{HEALTH, HealthSettings};
use strait_daemon::settings::{Noted, command as settings_command, go_bool};
use strait_daemon::{Setting, Settings, SettingsError, http, logs};

use crate::cable;

/// What `SUBMARINER_HEALTHCHECKINTERVAL` counts here.
const HEALTH_UNIT: Duration = Duration::from_secs(1);

/// The settings of the gateway, beside those of every process.
pub static TABLE: [Setting; 27] = [
    MEMBER[0],
    MEMBER[1],
    MEMBER[2],
    MEMBER[3],
    MEMBER[4],
    MEMBER[5],
    MEMBER[6],
    Setting::new(
        "POD_NAME",
        "Name of this Pod, for information",
        "the name of a Pod",
    ),
    Setting::new(
        "SUBMARINER_CABLEDRIVER",
        "How tunnels to other clusters are made: encrypted, or in clear",
        "vxlan, or wireguard where the kernel has it",
    )
    .default("vxlan"),
    Setting::new(
        "STRAIT_STATE_DIR",
        "Directory of what outlives the process: the private key of a WireGuard cable",
        "a directory that only root may write",
    )
    .default("/var/lib/strait"),
    Setting::new(
        "CE_IPSEC_PSK",
        "Passphrase that all gateways of the clusterset share; its SHA-256 is WireGuard's preshared key",
        "the text that all clusters have, of at least one character",
    )
    .secret(),
    Setting::new(
        "CE_IPSEC_PSKSECRET",
        "Name of the mounted Secret that holds it, below /var/run/secrets/submariner.io; goes before CE_IPSEC_PSK",
        "the name of a Secret with the key psk",
    ),
    Setting::new(
        "SUBMARINER_NATENABLED",
        "Whether there may be a NAT in front of this gateway; a VXLAN cable can't pass one",
        "true or false",
    )
    .default("false"),
    Setting::new(
        "SUBMARINER_PUBLICIP",
        "How this gateway's public address is known, unless its Node says so (gateway.submariner.io/public-ip); unset: public sites          are asked if there may be a NAT",
        "METHOD:VALUE, with commas in between: ipv4 or ipv6 and an address, dns and a name, lb and a Service, api and what follows https://",
    ),
    Setting::new(
        "AIR_GAPPED_DEPLOYMENT",
        "Whether nobody may be asked for the public address: of SUBMARINER_PUBLICIP, addresses alone count then",
        "true or false",
    )
    .default("false"),
    Setting::new(
        "SUBMARINER_UNINSTALL",
        "Remove all that the gateway put on this node, into the cluster's API and onto the broker, say what, and end",
        "true or false",
    )
    .default("false"),
    HEALTH[0],
    HEALTH[1],
    HEALTH[2],
    HEALTH[3],
    Setting::new(
        "CE_IPSEC_NATTPORT",
        "UDP port of the cable",
        "a port, 1 to 65535",
    )
    .default("4500"),
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
        "Runs on the node labelled submariner.io/gateway=true, as root or with CAP_NET_ADMIN and CAP_NET_RAW, in the \
         host's network namespace. One gateway per cluster.\n\n\
         Examples:\n  \
         NODE_NAME=gateway-1 SUBMARINER_CLUSTERID=east SUBMARINER_CLUSTERCIDR=10.42.0.0/16 \\\n    \
         SUBMARINER_SERVICECIDR=10.43.0.0/16 BROKER_K8S_APISERVER=broker.example.com:6443 \\\n    \
         BROKER_K8S_REMOTENAMESPACE=submariner-k8s-broker BROKER_K8S_APISERVERTOKEN=… strait gateway\n  \
         strait gateway --submariner-uninstall true   remove all of it from this node",
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
    /// How other clusters' gateways are checked.
    pub health: HealthSettings,
    /// The device of a WireGuard cable; `None` for another cable.
    pub cable: Option<cable::Settings>,
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
        let driver = s.parse("SUBMARINER_CABLEDRIVER", str::parse::<Driver>);
        let state = s.parse("STRAIT_STATE_DIR", str::parse::<PathBuf>);
        let preshared = match &driver {
            Ok(Driver::WireGuard) => preshared(&mut s).map(Some),
            _ => Ok(None),
        };
        let nat_enabled = s.bool("SUBMARINER_NATENABLED");
        let public_ip = s.optional_text("SUBMARINER_PUBLICIP");
        let air_gapped = s.optional("AIR_GAPPED_DEPLOYMENT", go_bool);
        let health = HealthSettings::read(&mut s, HEALTH_UNIT);
        let port = s.port("CE_IPSEC_NATTPORT");
        let kubeconfig = s.optional("KUBECONFIG", str::parse::<PathBuf>);
        let admin = http::address(&mut s);
        let broker = BrokerSettings::read(&mut s);
        s.log();
        s.finish(|| {
            let state = state?;
            let cable = preshared?.map(|preshared| cable::Settings { state, preshared });
            let (member, broker, health) = (member?, broker?, health?);
            Ok(Self {
                core: gateway::Settings {
                    node: member.node,
                    hostname: member.hostname,
                    namespace: member.namespace,
                    broker_namespace: broker.namespace.clone(),
                    cluster: member.cluster,
                    cluster_cidrs: member.cluster_cidrs,
                    service_cidrs: member.service_cidrs,
                    driver: driver?,
                    port: port?,
                    nat_enabled: nat_enabled?,
                    public_ip: public_ip?.unwrap_or_default(),
                    air_gapped: air_gapped?.unwrap_or_default(),
                    health_check: health.enabled,
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    uid: random(),
                },
                kubeconfig: kubeconfig?,
                admin: admin?,
                broker,
                health,
                cable,
            })
        })
    }
}

/// 128 random bits as text.
fn random() -> String {
    let bits = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", bits(), bits())
}

/// Where the operator mounts Secrets (upstream `pkg/psk`).
const SECRETS: &str = "/var/run/secrets/submariner.io";

/// The key that the clusterset shares. Upstream takes the octets of a Secret as base64 text, which is what a literal holds.
fn preshared(s: &mut Settings) -> Result<Preshared, Noted> {
    if let Some(name) = s.optional_text("CE_IPSEC_PSKSECRET")? {
        let path = Path::new(SECRETS).join(&name).join("psk");
        if name.contains('/') || name.starts_with('.') {
            return Err(s.note("CE_IPSEC_PSKSECRET", "is no name of a Secret"));
        }
        return match std::fs::read(&path) {
            Ok(octets) if octets.is_empty() => Err(s.note(
                "CE_IPSEC_PSKSECRET",
                &format!("{} is empty", path.display()),
            )),
            Ok(octets) => Ok(Preshared::of(&STANDARD.encode(octets))),
            Err(error) => {
                let problem = format!("{} can't be read: {error}", path.display());
                Err(s.note("CE_IPSEC_PSKSECRET", &problem))
            }
        };
    }
    match s.secret("CE_IPSEC_PSK")? {
        Some(secret) => Ok(Preshared::of(secret.expose())),
        None => Err(s.note(
            "CE_IPSEC_PSK",
            "is not set (nor is CE_IPSEC_PSKSECRET), and WireGuard needs it",
        )),
    }
}
