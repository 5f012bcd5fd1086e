//! Decisions of the route agent: the way from one node to remote clusters.
//!
//! The kernel of the node, the Endpoints, the Nodes and the other agents are folded into [`State`]; [`State::plan`]
//! gives everything that the agent owns on the host, what it says of itself, and what is not as it should be.

mod accepts;
mod account;
mod back;
mod before;
mod cables;
mod conditions;
mod firewall;
pub mod flows;
mod follow;
mod health;
pub mod leftovers;
mod nft;
mod plan;
mod pools;
mod routes;
mod selftest;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use account::Account;
pub use before::set_back;
pub use follow::Heard;
use ipnet::IpNet;
pub use plan::Plan;
use strait_api::names::{LINK_ALIAS, NFT_TABLE, NODE_VXLAN, NODE_VXLAN_6, ROUTE_PROTOCOL};
use strait_api::route_agent::AgentInfo;
use strait_api::{ClusterId, Endpoint, IpPool, Node};
use strait_host::leftovers::Found;
use strait_host::nft::{TableFamily, TableId};
use strait_host::{Family, Filtering, Host, Mac, Owner};

use crate::health::Results;
use crate::machine::Machine;
use crate::object::Entry;
use crate::source::{Event, Source};
use crate::time::Time;

/// How long the route by way of a lost gateway stays: connecting sockets would fail at once with an unreachable one.
const GATEWAY_GRACE: Duration = crate::time::OVERLAP;

/// What does not change while the process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name of the node (`NODE_NAME`).
    pub node: String,
    /// Host name, which an Endpoint of this node carries.
    pub hostname: String,
    /// Namespace of our objects.
    pub namespace: String,
    /// This cluster.
    pub cluster: ClusterId,
    /// Pod CIDRs of this cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service CIDRs of this cluster.
    pub service_cidrs: Vec<IpNet>,
    /// UDP port on which the gateways of this cluster hear from each other, and from nodes.
    pub hello_port: u16,
    /// Whether other clusters' gateways are pinged.
    pub health_check: bool,
    /// Whether a worker pings its own cluster's gateway too, if others are.
    pub self_test: bool,
    /// Whether what Submariner's route agent left is removed.
    pub adopt: bool,
    /// Version of the software, for the RouteAgent object.
    pub version: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Endpoints in our namespace, of this cluster and of others.
    Endpoints(Event<Endpoint>),
    /// Nodes of this cluster.
    Nodes(Event<Node>),
    /// RouteAgents of this cluster, by node name.
    Agents(Event<AgentInfo>),
    /// What the gateways of this cluster say themselves.
    Heard(Heard),
    /// All IPPools of Calico; `None` when they are watched no longer.
    Pools(Option<Event<Entry<IpPool>>>),
    /// Which IPPools can't be written or removed at present, and why, by name.
    PoolFailures(BTreeMap<String, String>),
    /// Results of all health checks.
    Health(Results),
    /// The whole of this host's networking, read anew.
    Host(Arc<Host>),
    /// What filters packets on this host, and what our rules have counted.
    Filtering(Filtering),
    /// Whether this process holds the lock that a gateway holds as long as it runs.
    GatewayLock(bool),
    /// What of Submariner's is in this host's packet filters.
    Leftovers(Found),
    /// Time has passed.
    Tick,
}

/// Everything that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    settings: Settings,
    endpoints: Source<Endpoint>,
    nodes: Source<Node>,
    agents: Source<AgentInfo>,
    pools: pools::Pools,
    health: Results,
    /// Without our own routes.
    host: Option<Host>,
    firewall: firewall::Firewall,
    self_test: selftest::SelfTest,
    before: before::Before,
    /// Whether we hold the gateway's lock: none runs here.
    locked: bool,
    leftovers: leftovers::Memory,
    /// The active gateway, kept for a while after it is gone.
    gateway: Option<Endpoint>,
    gateway_lost: Option<Time>,
    /// When another node took the gateway's place from this one, for a while.
    retired: Option<Time>,
    heard: Heard,
    /// The Ethernet addresses of devices that a predecessor left.
    inherited_macs: BTreeMap<Family, Mac>,
}

impl State {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            endpoints: Source::default(),
            nodes: Source::default(),
            agents: Source::default(),
            pools: pools::Pools::default(),
            health: Results::default(),
            host: None,
            firewall: firewall::Firewall::default(),
            self_test: selftest::SelfTest::default(),
            before: before::Before::default(),
            locked: false,
            leftovers: leftovers::Memory::default(),
            gateway: None,
            gateway_lost: None,
            retired: None,
            heard: Heard::default(),
            inherited_macs: BTreeMap::new(),
        }
    }

    /// Whether the list of RouteAgents is still to come, as far as is known. A plan goes on without, and is another one with it.
    #[must_use]
    pub fn awaits_agents(&self) -> bool {
        !self.agents.is_known() && self.agents.failure().is_none()
    }
}

impl Machine for State {
    type Input = Input;
    type Plan = Plan;

    fn apply(&mut self, input: Input, now: Time) {
        match input {
            Input::Endpoints(event) => self.endpoints.apply(event, now),
            Input::Nodes(event) => self.nodes.apply(event, now),
            Input::Agents(event) => self.agents.apply(event, now),
            Input::Heard(heard) => self.heard = heard,
            Input::Pools(Some(event)) => self.pools.there.apply(event, now),
            Input::Pools(None) => self.pools = pools::Pools::default(),
            Input::PoolFailures(failures) => self.pools.failures = failures,
            Input::Health(results) => {
                self.self_test.apply(&results, now);
                self.health = results;
            }
            Input::Host(host) => {
                let host = others(&host);
                self.inherited_macs.extend(view::inherited_macs(&host));
                self.before.observe(&host);
                if let Some(wanted) = self.foreign_sysctls_wanted(&host) {
                    self.before.want(&wanted, now);
                }
                let known = || {
                    let ours = &self.settings.cluster;
                    let others = self.endpoints.values().filter(|e| e.cluster != *ours);
                    let subnets = others.flat_map(|e| &e.subnets).copied();
                    leftovers::Known::new(subnets, self.settings.cluster_cidrs.iter())
                };
                self.leftovers.observe(&host, known, now);
                self.host = Some(host);
            }
            Input::Filtering(seen) => self.firewall.apply(seen, now),
            Input::GatewayLock(held) => self.locked = held,
            Input::Leftovers(found) => self.leftovers.apply(found, now),
            Input::Tick => {}
        }
        self.endpoints.tick(now);
        self.nodes.tick(now);
        self.agents.tick(now);
        self.pools.there.tick(now);
        self.firewall.tick(now);
        self.self_test.tick(now);
        self.before.tick(now);
        self.leftovers.tick(now);
        self.follow_gateway(now);
    }

    fn deadline(&self) -> Option<Time> {
        let sources = [
            self.endpoints.deadline(),
            self.nodes.deadline(),
            self.agents.deadline(),
            self.pools.there.deadline(),
        ];
        sources
            .into_iter()
            .chain([
                self.gateway_lost.map(|lost| lost + GATEWAY_GRACE),
                self.retired.map(|at| at + GATEWAY_GRACE),
                self.firewall.deadline(),
                self.self_test.deadline(),
                self.before.deadline(),
                self.leftovers.deadline(),
            ])
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

/// What of a host is input, which is not what we put there: of thousands of routes a few are others', and those are looked through
/// many times.
fn others(host: &Host) -> Host {
    let routes = host.routes.iter().filter(|r| r.protocol != ROUTE_PROTOCOL);
    Host {
        links: host.links.clone(),
        addresses: host.addresses.clone(),
        routes: routes.cloned().collect(),
        rules: host.rules.clone(),
        neighbours: host.neighbours.clone(),
        fdb: host.fdb.clone(),
        sysctls: host.sysctls.clone(),
        nft: host.nft.clone(),
        filters: host.filters.clone(),
        source_checks: host.source_checks.clone(),
    }
}

/// How the route agent knows what is its own on a host.
#[must_use]
pub fn owner() -> Owner {
    Owner {
        alias: LINK_ALIAS.to_owned(),
        links: [NODE_VXLAN, NODE_VXLAN_6].map(str::to_owned).into(),
        route_protocol: Some(ROUTE_PROTOCOL),
        rule_protocol: Some(ROUTE_PROTOCOL),
        tables: BTreeSet::from([table()]),
        former_chains: nft::FORMER_CHAINS.map(str::to_owned).into(),
    }
}

/// The route agent's nftables table.
#[must_use]
pub fn table() -> TableId {
    TableId {
        family: TableFamily::Inet,
        name: NFT_TABLE.to_owned(),
    }
}
