//! What the gateway is told at start.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use strait_cable::Choice;
use strait_core::gateway::election;
use strait_core::{Driver, gateway};
use strait_daemon::hello::{HELLO, HelloSettings};
use strait_daemon::kube::{Access, BROKER, BrokerSettings};
use strait_daemon::member::{MEMBER, Member};
use strait_daemon::ping::{HEALTH, HealthSettings};
use strait_daemon::settings::{Noted, command as settings_command, go_bool};
use strait_daemon::{Setting, Settings, SettingsError, http, logs};

use crate::passphrase::Passphrase;
use crate::{cable, passphrase};

/// What `SUBMARINER_HEALTHCHECKINTERVAL` counts here.
const HEALTH_UNIT: Duration = Duration::from_secs(1);

/// A gateway that is dead for so long is not waited for.
const LONGEST_LEASE: Duration = Duration::from_secs(86_400);

/// The settings of the gateway, beside those of every process.
pub static TABLE: [Setting; 35] = [
    MEMBER[0],
    MEMBER[1],
    MEMBER[2],
    MEMBER[3],
    MEMBER[4],
    MEMBER[5],
    MEMBER[6],
    Setting::new(
        "POD_NAME",
        "Name of this Pod, which is labelled active or passive; unset: none is",
        "the name of a Pod",
    ),
    Setting::new(
        "SUBMARINER_CABLEDRIVER",
        "How tunnels to other clusters are made: encrypted, or in clear",
        "vxlan or wireguard",
    )
    .default("vxlan"),
    Setting::new(
        "STRAIT_WIREGUARD",
        "Whose WireGuard a WireGuard cable is: the kernel's, or this process's (needs /dev/net/tun)",
        "auto (the kernel's where it has one), kernel or process",
    )
    .default("auto"),
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
        "Where the passphrase is kept, which is read anew when it changes; goes before CE_IPSEC_PSK",
        "the name of a Secret with the key psk that is mounted below /var/run/secrets/submariner.io, or the path of a directory with that file",
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
    Setting::new(
        "LEADERSHIP_LEASEDURATION",
        "Seconds after which another gateway takes a Lease that is not renewed; 0 means 15",
        "a whole number of seconds, less than a day",
    )
    .default("15"),
    Setting::new(
        "LEADERSHIP_RENEWDEADLINE",
        "Seconds after which an API server that does not answer about the Lease is said not to; 0 means 10",
        "a whole number of seconds, less than LEADERSHIP_LEASEDURATION",
    )
    .default("10"),
    Setting::new(
        "LEADERSHIP_RETRYPERIOD",
        "Seconds between two renewals of the Lease, and two looks at it; 0 means 2",
        "a whole number of seconds, less than LEADERSHIP_RENEWDEADLINE",
    )
    .default("2"),
    HELLO[0],
    HELLO[1],
    HELLO[2],
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
    BROKER[5],
];

/// The flag that asks for another key.
pub(crate) const ROTATE_KEY: &str = "rotate-key";

/// The directory of what outlives the process. Nothing else needs to be set, or right.
///
/// # Errors
/// If it is no path.
pub(crate) fn state_directory(matches: &ArgMatches) -> Result<PathBuf, SettingsError> {
    let mut s = Settings::read(matches, &TABLE);
    let state = s.parse("STRAIT_STATE_DIR", str::parse::<PathBuf>);
    // What is wrong with other settings is not asked.
    s.finish(|| state)
}

/// The command line of `strait gateway`.
#[must_use]
pub fn command() -> Command {
    let rotate = Arg::new(ROTATE_KEY)
        .long(ROTATE_KEY)
        .action(ArgAction::SetTrue)
        .help("Ask the gateway of this node (STRAIT_STATE_DIR) for another WireGuard key, print its public key, and end");
    settings_command("gateway", "Joins this cluster to the others of its clusterset", &TABLE).arg(rotate).after_help(
        "Runs on the node labelled submariner.io/gateway=true, as root or with CAP_NET_ADMIN and CAP_NET_RAW, in the \
         host's network namespace. Of several gateways of a cluster one carries the traffic.\n\n\
         Examples:\n  \
         NODE_NAME=gateway-1 SUBMARINER_CLUSTERID=east SUBMARINER_CLUSTERCIDR=10.42.0.0/16 \\\n    \
         SUBMARINER_SERVICECIDR=10.43.0.0/16 BROKER_K8S_APISERVER=broker.example.com:6443 \\\n    \
         BROKER_K8S_REMOTENAMESPACE=submariner-k8s-broker BROKER_K8S_APISERVERTOKEN=… strait gateway\n  \
         strait gateway --rotate-key                  another WireGuard key for the gateway that runs here\n  \
         strait gateway --submariner-uninstall true   remove all of it from this node",
    )
}

/// The settings, checked.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// What decisions need.
    pub core: gateway::Settings,
    /// How this cluster's API is reached.
    pub access: Access,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    /// How to reach the broker.
    pub broker: BrokerSettings,
    /// How other clusters' gateways are checked.
    pub health: HealthSettings,
    /// How gateways of this cluster agree on the one that carries the traffic.
    pub election: election::Settings,
    /// The Pod to label.
    pub pod: Option<String>,
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
        let choice = s.parse("STRAIT_WIREGUARD", str::parse::<Choice>);
        let passphrase = match &driver {
            Ok(Driver::WireGuard) => passphrase(&mut s).map(Some),
            _ => Ok(None),
        };
        let nat_enabled = s.bool("SUBMARINER_NATENABLED");
        let public_ip = s.optional_text("SUBMARINER_PUBLICIP");
        let air_gapped = s.optional("AIR_GAPPED_DEPLOYMENT", go_bool);
        let health = HealthSettings::read(&mut s, HEALTH_UNIT);
        let port = s.port("CE_IPSEC_NATTPORT");
        let access = Access::read(&mut s);
        let admin = http::address(&mut s);
        let broker = BrokerSettings::read(&mut s);
        let leadership = leadership(&mut s);
        let hello = HelloSettings::read(&mut s);
        let pod = s.optional_text("POD_NAME");
        s.log();
        s.finish(|| {
            let (state, choice) = (state?, choice?);
            let cable = passphrase?.map(|passphrase| cable::Settings {
                state,
                passphrase,
                choice,
            });
            let (member, broker, health) = (member?, broker?, health?);
            let ([lease_duration, renew_deadline, retry_period], hello) = (leadership?, hello?);
            Ok(Self {
                election: election::Settings {
                    node: member.node.clone(),
                    hostname: member.hostname.clone(),
                    lease_duration,
                    renew_deadline,
                    retry_period,
                    timing: hello.timing,
                    port: hello.port,
                },
                pod: pod?,
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
                access: access?,
                admin: admin?,
                broker,
                health,
                cable,
            })
        })
    }
}

/// The Lease's duration, renewal deadline and retry period, which must be in this order; 0 is upstream's default
/// (`gateway/gateway.go`).
fn leadership(s: &mut Settings) -> Result<[Duration; 3], Noted> {
    let names = [
        ("LEADERSHIP_LEASEDURATION", 15),
        ("LEADERSHIP_RENEWDEADLINE", 10),
        ("LEADERSHIP_RETRYPERIOD", 2),
    ];
    let read = names.map(|(name, usual)| {
        s.seconds(name).map(|time| match time.as_secs() {
            0 => Duration::from_secs(usual),
            _ => time,
        })
    });
    let [lease, renew, retry] = read;
    let (lease, renew, retry) = (lease?, renew?, retry?);
    if lease > LONGEST_LEASE {
        return Err(s.note("LEADERSHIP_LEASEDURATION", "is too long"));
    }
    if renew >= lease {
        return Err(s.note(
            "LEADERSHIP_RENEWDEADLINE",
            "is not less than LEADERSHIP_LEASEDURATION",
        ));
    }
    if retry >= renew {
        return Err(s.note(
            "LEADERSHIP_RETRYPERIOD",
            "is not less than LEADERSHIP_RENEWDEADLINE",
        ));
    }
    Ok([lease, renew, retry])
}

/// 128 random bits as text.
fn random() -> String {
    let bits = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", bits(), bits())
}

/// The passphrase that the clusterset shares: in a Secret, or said.
fn passphrase(s: &mut Settings) -> Result<Passphrase, Noted> {
    let name = "CE_IPSEC_PSKSECRET";
    if let Some(directory) = s.optional(name, passphrase::directory)? {
        return Passphrase::within(&directory).map_err(|why| s.note(name, &why));
    }
    match s.secret("CE_IPSEC_PSK")? {
        Some(secret) => Ok(Passphrase::of(secret.expose())),
        None => Err(s.note(
            "CE_IPSEC_PSK",
            "is not set (nor is CE_IPSEC_PSKSECRET), and WireGuard needs it",
        )),
    }
}
