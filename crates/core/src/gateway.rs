//! Decisions of the gateway: what it publishes, what travels between the cluster and the broker, and the cable.
//!
//! Objects are treated as the kernel is: what is wanted in the cluster and on the broker is compared with what is
//! there, and the differences are written.

mod cable;
mod copies;
pub mod election;
mod expiry;
mod gone;
mod health;
mod identity;
mod objects;
mod outside;
mod plan;
pub mod public;
mod rotation;
mod standbys;
#[cfg(test)]
mod tests;
mod turns;
mod unwritten;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use cable::wireguard::{Device, Tunnel, Tunnels};
pub use expiry::HEARTBEAT;
pub use gone::{Seen, Signs};
use ipnet::IpNet;
pub use objects::{identity, other_gateways, uninstalled};
pub use plan::{Plan, tell};
pub use rotation::KeyStep;
use strait_api::names::{CABLE_VXLAN, CABLE_VXLAN_6, CABLE_WIREGUARD, LINK_ALIAS};
use strait_api::{Cluster, ClusterId, Endpoint, EndpointSpec, Node, Object, ObjectKey};
use strait_host::{Family, Host, Mac, Owner};
pub use turns::{Known, Standing};
pub(crate) use turns::{nodes, turn_of};

use crate::discovery;
use crate::driver::Driver;
use crate::health::Results;
use crate::machine::Machine;
use crate::object::Entry;
use crate::source::{Event, Source};
use crate::time::Time;

/// What does not change while the process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of the node (`NODE_NAME`).
    pub node: String,
    /// Host name of the node.
    pub hostname: String,
    /// Namespace of our objects in the cluster.
    pub namespace: String,
    /// Namespace of the clusterset's objects on the broker.
    pub broker_namespace: String,
    /// This cluster.
    pub cluster: ClusterId,
    /// Pod CIDRs of this cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service CIDRs of this cluster.
    pub service_cidrs: Vec<IpNet>,
    /// How tunnels are made.
    pub driver: Driver,
    /// UDP port of the cable.
    pub port: u16,
    /// Whether there may be a NAT in front of this gateway.
    pub nat_enabled: bool,
    /// Where this gateway's public address comes from (`SUBMARINER_PUBLICIP`), unless the Node says so.
    pub public_ip: String,
    /// Whether nobody outside may be asked for it.
    pub air_gapped: bool,
    /// Whether to publish a target for health checks, and to ping those of others.
    pub health_check: bool,
    /// Version of the software, for the Gateway object.
    pub version: String,
    /// Random: what tells this cluster from others of its id, unless that was chosen before.
    pub uid: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Clusters in our namespace.
    Clusters(Event<Entry<Cluster>>),
    /// Endpoints in our namespace.
    Endpoints(Event<Entry<Endpoint>>),
    /// Clusters on the broker.
    BrokerClusters(Event<Entry<Cluster>>),
    /// Endpoints on the broker.
    BrokerEndpoints(Event<Entry<Endpoint>>),
    /// This Node.
    Nodes(Event<Node>),
    /// What the gateways of this cluster would publish, by the names of their Gateway objects.
    Gateways(Event<EndpointSpec>),
    /// Names of the Gateway objects that [`Signs`] finds silent.
    Silent(BTreeSet<String>),
    /// Host names of the cluster's gateways that are heard by the direct watch, and go on.
    Heard(BTreeSet<String>),
    /// What the election says of this gateway.
    Standing(Standing),
    /// Results of all health checks.
    Health(Results),
    /// The device of a WireGuard cable, or why there is none.
    Device(Result<Device, String>),
    /// What became of all tunnels of a WireGuard cable.
    Tunnels(Tunnels),
    /// What NAT discovery found.
    Paths(discovery::Results),
    /// What was learned of this gateway's public address.
    Public(public::Public),
    /// The whole of this host's networking, read anew.
    Host(Arc<Host>),
    /// A value of the heartbeat on the broker that is other than all before.
    Beat(u64),
    /// An object was written: as it was wanted, and as the server has it.
    Stored {
        /// As it was wanted.
        wanted: Object,
        /// As the server has it: an older definition of the resource lacks fields.
        stored: Object,
    },
    /// What can't be written or removed at present, and why.
    Unwritten {
        /// Whether that is on the broker; else in the cluster.
        broker: bool,
        /// All of it.
        failures: BTreeMap<ObjectKey, String>,
    },
    /// Time has passed.
    Tick,
}

/// Everything that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    settings: Settings,
    clusters: Source<Entry<Cluster>>,
    endpoints: Source<Entry<Endpoint>>,
    broker_clusters: Source<Entry<Cluster>>,
    broker_endpoints: Source<Entry<Endpoint>>,
    nodes: Source<Node>,
    gateways: Source<EndpointSpec>,
    departed: standbys::Departed,
    silent: BTreeSet<String>,
    heard: BTreeSet<String>,
    standing: Standing,
    health: Results,
    device: Option<Result<Device, String>>,
    rotation: rotation::Rotation,
    tunnels: Tunnels,
    paths: discovery::Results,
    public: public::Public,
    host: Option<Arc<Host>>,
    /// Ethernet addresses of the cable that a predecessor left, which other gateways have learned.
    learned_macs: BTreeMap<Family, Mac>,
    stored: Written,
    /// What can't be written in the cluster.
    unwritten: BTreeMap<ObjectKey, String>,
    /// What can't be written on the broker.
    unwritten_on_broker: BTreeMap<ObjectKey, String>,
    beat: Option<u64>,
    expiry: expiry::Expiry,
    uid: String,
}

/// Objects as they were wanted when they were written, and as the server had them then.
pub(crate) type Written = BTreeMap<ObjectKey, (Object, Object)>;

impl State {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            uid: settings.uid.clone(),
            settings,
            clusters: Source::default(),
            endpoints: Source::default(),
            broker_clusters: Source::default(),
            broker_endpoints: Source::default(),
            nodes: Source::default(),
            gateways: Source::default(),
            departed: standbys::Departed::default(),
            silent: BTreeSet::new(),
            heard: BTreeSet::new(),
            standing: Standing::default(),
            health: Results::default(),
            device: None,
            rotation: rotation::Rotation::default(),
            tunnels: Tunnels::default(),
            paths: discovery::Results::new(),
            public: public::Public::default(),
            host: None,
            learned_macs: BTreeMap::new(),
            stored: Written::new(),
            unwritten: BTreeMap::new(),
            unwritten_on_broker: BTreeMap::new(),
            beat: None,
            expiry: expiry::Expiry::default(),
        }
    }
}

impl Machine for State {
    type Input = Input;
    type Plan = Plan;

    fn apply(&mut self, input: Input, now: Time) {
        let moves = matches!(&input, Input::Gateways(_) | Input::Nodes(_) | Input::Tick);
        match input {
            Input::Clusters(event) => self.clusters.apply(event, now),
            Input::Endpoints(event) => self.endpoints.apply(event, now),
            Input::BrokerClusters(event) => self.broker_clusters.apply(event, now),
            Input::BrokerEndpoints(event) => self.broker_endpoints.apply(event, now),
            Input::Nodes(event) => self.nodes.apply(event, now),
            Input::Gateways(event) => self.gateways.apply(event, now),
            Input::Silent(silent) => self.silent = silent,
            Input::Heard(heard) => self.heard = heard,
            Input::Standing(standing) => self.standing = standing,
            Input::Health(results) => self.health = results,
            Input::Device(device) => self.device = Some(device),
            Input::Tunnels(tunnels) => self.tunnels = tunnels,
            Input::Paths(paths) => self.paths = paths,
            Input::Public(public) => self.public = public,
            Input::Host(host) => {
                let learned = cable::vxlan::learned_macs(&host, self.port(), self.host.is_none());
                self.learned_macs.extend(learned);
                self.host = Some(host);
            }
            Input::Stored { wanted, stored } => {
                self.stored.insert(wanted.key.clone(), (wanted, stored));
            }
            Input::Unwritten {
                broker: true,
                failures,
            } => self.unwritten_on_broker = failures,
            Input::Unwritten {
                broker: false,
                failures,
            } => self.unwritten = failures,
            Input::Beat(beat) => self.beat = Some(beat),
            Input::Tick => {}
        }
        self.clusters.tick(now);
        self.endpoints.tick(now);
        self.broker_clusters.tick(now);
        self.broker_endpoints.tick(now);
        self.nodes.tick(now);
        self.recognise();
        self.look_for_signs_of_life(now);
        self.gateways.tick(now);
        self.follow_standbys(moves, now);
        self.follow_keys(now);
    }

    fn deadline(&self) -> Option<Time> {
        [
            self.clusters.deadline(),
            self.endpoints.deadline(),
            self.broker_clusters.deadline(),
            self.broker_endpoints.deadline(),
            self.nodes.deadline(),
            self.expiry.deadline(),
            self.gateways.deadline(),
            self.departed.deadline(),
            self.rotation.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn plan(&self) -> Plan {
        self.planned()
    }

    fn host(host: Arc<Host>) -> Input {
        Input::Host(host)
    }

    fn tick() -> Input {
        Input::Tick
    }
}

/// How the gateway knows what is its own on a host: the cable's device and what hangs on it. No route, no rule, no
/// nftables: those are the route agent's.
#[must_use]
pub fn owner() -> Owner {
    Owner {
        alias: LINK_ALIAS.to_owned(),
        links: [CABLE_VXLAN, CABLE_VXLAN_6, CABLE_WIREGUARD]
            .map(str::to_owned)
            .into(),
        route_protocol: None,
        rule_protocol: None,
        tables: BTreeSet::new(),
        former_chains: BTreeSet::new(),
    }
}
