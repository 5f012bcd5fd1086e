//! The plan as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::route_agent::RouteAgentStatus;
use strait_host::{Change, Family, Host, Owned, Wanted};

use super::account::Account;
use super::before::{ALL_LINKS, Item, Key, is_foreign};
use super::conditions::{IPV6_FORWARDING, ipv6_forwarding, sorted};
use super::flows::FlowRules;
use super::leftovers::Leftover;
use super::view::{FamilyView, Role};
use super::{State, accepts, leftovers, nft, routes, table};
use crate::gateway::nodes;
use crate::local;
use crate::net::of_family;
use crate::remote::{Ours, Remote, remotes};
use crate::{Condition, ObjectChange, Planned, health, path};

/// What a node is that sends all it has for other clusters to the gateway.
const WORKER: &str = "worker";

/// Everything that the route agent wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// What it owns on the host.
    pub wanted: Wanted,
    /// What is not as it should be, the worst first.
    pub conditions: Vec<Condition>,
    /// What its RouteAgent object says, once that can be said.
    pub account: Option<Account>,
    /// What bindings connections should have; `None` while that can't be said.
    pub flows: Option<FlowRules>,
    /// The CNI addresses found, with their links: for the log line when one is found, changes or goes.
    pub cni: BTreeMap<Family, (IpAddr, String)>,
    /// What Submariner's route agent left and may go now, in the order in which it goes.
    pub leftovers: Vec<Leftover>,
    /// What a predecessor left and is taken over as it is: for the log.
    pub inherited: BTreeSet<String>,
    /// Whom to ping.
    pub health: BTreeSet<health::Target>,
    /// Changes of Calico's IPPools.
    pub pools: Vec<ObjectChange>,
    /// Whether those are this node's to keep.
    pub keeps_pools: bool,
    /// What this node is, for logs.
    pub role: &'static str,
    /// Cables that a gateway left here that is none any more. They go while no gateway can start.
    pub dead_cables: BTreeSet<String>,
    /// The cluster's Nodes, for the direct watch; `None` while they are not known.
    pub nodes: Option<BTreeMap<String, (Vec<IpAddr>, bool)>>,
    /// Whether this plan counts on our holding the gateway's lock.
    pub locked: bool,
}

impl Planned for Plan {
    fn take_wanted(&mut self) -> Wanted {
        std::mem::take(&mut self.wanted)
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    fn needs(&self, change: &Change) -> bool {
        // A worker has one peer in the nodes' VXLAN, by which it reaches everything.
        let entry = matches!(change, Change::SetNeighbour(_) | Change::SetFdb(_));
        path::needs(change) || (entry && self.role == WORKER)
    }
}

impl State {
    pub(super) fn planned(&self) -> Plan {
        let mut conditions = self.source_conditions();
        let (Some(host), true) = (&self.host, self.sources_known()) else {
            return Plan {
                conditions: sorted(conditions),
                role: "unknown",
                nodes: self.hello_nodes(),
                locked: self.locked,
                ..Plan::default()
            };
        };
        let (remotes, problems) = remotes(
            self.endpoints.values(),
            &self.settings.cluster,
            &self.ours(host),
        );
        conditions.extend(problems);
        let families: Vec<FamilyView<'_>> = Family::ALL
            .into_iter()
            .filter(|f| self.has_family(*f))
            .map(|f| self.family_view(host, f, &remotes))
            .collect();
        conditions.extend(self.path_conditions(host, &families));
        let mut health = self.health_targets(&remotes, &families);
        health.extend(families.iter().flat_map(|v| self.self_test_targets(v)));
        conditions.extend(health::conditions(&health, &self.health));
        let (pools, problem) = self.pool_changes(&remotes);
        conditions.extend(problem);
        let wanted = self.wanted(host, &families);
        let routing = leftovers::routing(host, &families, &wanted);
        let left = self.leftovers.leftovers(routing.going);
        let ways = wanted.routes.get().filter(|_| !left.going.is_empty());
        let waits = ways.and_then(|routes| {
            let has_gateway = self.role() != Role::NoGateway && self.gateway_lost.is_none();
            self.leftovers.waits(has_gateway, &families, routes)
        });
        let adopt = self.settings.adopt;
        conditions.extend(self.leftovers.conditions(&left, adopt, waits));
        let conditions = sorted(conditions);
        let going = if adopt && waits.is_none() {
            left.going
        } else {
            Vec::new()
        };
        Plan {
            pools,
            keeps_pools: self.role() == Role::Gateway,
            inherited: routing.inherited,
            wanted,
            leftovers: going,
            account: Some(self.account(&families, &remotes, &conditions)),
            health,
            flows: Some(self.flow_rules(host, &families)),
            cni: families
                .iter()
                .filter_map(|v| v.cni.as_ref().map(|c| (v.family, (c.ip, c.link.clone()))))
                .collect(),
            role: match self.role() {
                Role::Gateway => "gateway",
                Role::Worker => WORKER,
                Role::NoGateway => "no gateway",
            },
            conditions,
            dead_cables: self.dead_cables(host),
            nodes: self.hello_nodes(),
            locked: self.locked,
        }
    }

    /// What other clusters may not claim.
    fn ours(&self, host: &Host) -> Ours {
        let s = &self.settings;
        let mut addresses = local::routers(host);
        let gateway = self.gateway.iter().flat_map(|g| &g.private_ips);
        let gateway: BTreeSet<IpAddr> = gateway.copied().collect();
        addresses.extend(gateway.iter().map(|ip| (*ip, "our gateway".to_owned())));
        let families = Family::ALL.into_iter().filter(|f| self.has_family(*f));
        let own = families.filter_map(|f| self.underlay(host, f));
        addresses.extend(own.map(|u| (u.ip, "this node".to_owned())));
        for (name, node) in self.nodes.iter() {
            let ips = node.internal_ips.iter();
            addresses.extend(ips.map(|ip| (*ip, format!("node {name}"))));
        }
        Ours {
            cidrs: [&s.cluster_cidrs[..], &s.service_cidrs[..]].concat(),
            addresses,
            gateway,
        }
    }

    fn hello_nodes(&self) -> Option<BTreeMap<String, (Vec<IpAddr>, bool)>> {
        self.nodes.is_known().then(|| nodes(&self.nodes))
    }

    /// Whether all is known without which nothing can be wanted. What needs RouteAgents alone is the Ethernet addresses of nodes,
    /// and those that stand serve as long.
    fn sources_known(&self) -> bool {
        self.endpoints.is_known() && self.nodes.is_known()
    }

    fn wanted(&self, host: &Host, families: &[FamilyView<'_>]) -> Wanted {
        let role = self.role();
        let mut links = BTreeMap::new();
        let mut addresses = BTreeSet::new();
        let mut neighbours = BTreeSet::new();
        let mut fdb = BTreeSet::new();
        let mut wanted_routes = Vec::new();
        let mut rules = BTreeSet::new();
        let mut sysctls = BTreeMap::new();
        let mut loose = BTreeSet::new();
        let mut tunnels = BTreeSet::new();
        let driver = self.gateway.as_ref().and_then(|g| g.backend.parse().ok());
        for view in families {
            let cable = self.own_cable(host, view.family);
            let mac = self.mac(view.family, families);
            if let Some((name, link)) = mac.and_then(|mac| routes::link(view, mac, driver)) {
                if view.family == Family::V4 {
                    sysctls.insert(format!("net/ipv4/conf/{name}/forwarding"), "1".to_owned());
                    sysctls.insert(
                        format!("net/ipv4/conf/{name}/send_redirects"),
                        "0".to_owned(),
                    );
                }
                tunnels.insert(name.clone());
                links.insert(name, link);
                addresses.extend(routes::address(view));
                // Who has a cable answers all nodes.
                let peers = match &cable {
                    Some(_) => view.distinct_nodes(),
                    None => view.gateway.iter().cloned().collect(),
                };
                let (n, f) = routes::entries(view.family, peers);
                neighbours.extend(n);
                fdb.extend(f);
            }
            if let Some(cable) = &cable {
                tunnels.extend(cable.link.map(str::to_owned));
                wanted_routes.extend(routes::gateway(view, host, cable));
            }
            match (role, &cable) {
                (Role::Gateway, Some(cable)) => {
                    rules.insert(routes::gateway_rule(view.family, cable));
                    rules.insert(routes::underlay_rule(view.family));
                }
                (_, Some(cable)) if self.passes_on(cable) => {
                    rules.insert(routes::passing_rule(view.family, cable));
                }
                (Role::Gateway | Role::Worker | Role::NoGateway, _) => {}
            }
            if role != Role::Gateway {
                wanted_routes.extend(routes::worker(view));
            }
            if view.family == Family::V4 {
                let (links, cable) = self.loose_links(host, view);
                loose.extend(links);
                if let Some(link) = cable {
                    for key in [Key::Forwarding, Key::SendRedirects] {
                        sysctls.insert(key.path(link), key.ours().to_string());
                    }
                }
            }
        }
        let foreign = self.foreign_sysctls(host, families);
        sysctls.extend(self.before.set_back(&foreign));
        if self.has_family(Family::V6) && ipv6_forwarding(host) == Some(true) {
            sysctls.insert(IPV6_FORWARDING.to_owned(), "1".to_owned());
        }
        let variables = nft::Variables {
            families,
            host_source: families
                .iter()
                .filter_map(|v| Some((v.family, self.host_source(v)?)))
                .collect(),
            no_source: families
                .iter()
                .filter(|v| role == Role::Gateway && v.cni.is_none())
                .map(|v| v.family)
                .collect(),
            self_test: families
                .iter()
                .filter_map(|v| Some((v.family, self.self_test_source(v)?)))
                .collect(),
            ways: self.ways(host, families),
            tunnels,
            nodes: self.node_addresses(families),
            mss: self.clamp_mss().and_then(Result::ok),
            cable: self.cable_port(host, families),
        };
        let mut nft = nft::table(&variables);
        let back = self.back(host, families);
        back.put(&mut nft, families);
        wanted_routes.extend(back.routes());
        rules.extend(back.rules());
        nft.sets.extend(self.before.maps(host, &foreign));
        Wanted {
            links: Owned::Set(links),
            reaped: if self.locked {
                self.dead_cables(host)
            } else {
                BTreeSet::new()
            },
            addresses: Owned::Set(addresses),
            neighbours: Owned::Set(neighbours),
            fdb: Owned::Set(fdb),
            accepts: Owned::Set(accepts::accepts(
                host,
                families,
                &self.accept_ways(host, &variables),
            )),
            nft: Owned::Set(BTreeMap::from([(table(), nft)])),
            routes: Owned::Set(wanted_routes.into_iter().collect()),
            rules: Owned::Set(rules),
            sysctls,
            loose_reverse_path: loose,
        }
    }

    /// What is wanted of links that are not ours.
    fn foreign_sysctls(&self, host: &Host, families: &[FamilyView<'_>]) -> BTreeSet<Item> {
        let mut items = BTreeSet::new();
        for view in families.iter().filter(|v| v.family == Family::V4) {
            let (loose, cable) = self.loose_links(host, view);
            items.extend(loose.into_iter().map(|link| (Key::RpFilter, link)));
            for key in [Key::Forwarding, Key::SendRedirects] {
                items.extend(cable.map(|link| (key, link.to_owned())));
            }
        }
        // Once it forwards, it is to do so, though a router's advertisement may come later.
        if self.has_family(Family::V6) && ipv6_forwarding(host) != Some(false) {
            items.insert((Key::Forwarding6, ALL_LINKS.to_owned()));
        }
        items.retain(|item| is_foreign(host, item));
        items
    }

    fn has_family(&self, family: Family) -> bool {
        of_family(&self.settings.cluster_cidrs, family)
            .next()
            .is_some()
    }

    /// The same before there is a plan; `None` while that can't be said.
    pub(super) fn foreign_sysctls_wanted(&self, host: &Host) -> Option<BTreeSet<Item>> {
        if !self.sources_known() {
            return None;
        }
        let mut cidrs = of_family(&self.settings.cluster_cidrs, Family::V4);
        let view = cidrs
            .next()
            .map(|_| self.family_view(host, Family::V4, &[]));
        Some(self.foreign_sysctls(host, view.as_slice()))
    }

    /// The source of what this host sends: the CNI address; a worker without one borrows the gateway's, by way of
    /// its own address in the nodes' VXLAN.
    fn host_source(&self, view: &FamilyView<'_>) -> Option<IpAddr> {
        match (&view.cni, self.role()) {
            (Some(cni), _) => Some(cni.ip),
            (None, Role::Worker) => view.vtep(),
            (None, Role::Gateway | Role::NoGateway) => None,
        }
    }

    /// What this node's annotation asks for.
    pub(super) fn clamp_mss(&self) -> Option<Result<u16, String>> {
        self.nodes.get(&self.settings.node)?.clamp_mss.clone()
    }

    fn node_addresses(&self, families: &[FamilyView<'_>]) -> BTreeSet<IpAddr> {
        let nodes = families
            .iter()
            .flat_map(|v| v.nodes.values())
            .map(|p| p.outer);
        let gateway = self
            .gateway
            .iter()
            .flat_map(|g| g.private_ips.iter().copied());
        nodes.chain(gateway).collect()
    }

    fn flow_rules(&self, host: &Host, families: &[FamilyView<'_>]) -> FlowRules {
        let sources = |family: Family| {
            let view = families.iter().find(|v| v.family == family)?;
            if self.role() == Role::Gateway && view.cni.is_none() {
                // New ones are not let through either.
                return Some(BTreeSet::new());
            }
            let source = self.host_source(view)?;
            let vtep = view.vtep().filter(|_| self.role() == Role::Worker);
            Some([source].into_iter().chain(vtep).collect())
        };
        FlowRules {
            remote: families.iter().flat_map(|v| &v.subnets).copied().collect(),
            pods: self.settings.cluster_cidrs.clone(),
            host_v4: sources(Family::V4),
            host_v6: sources(Family::V6),
            self_test: families
                .iter()
                .filter_map(|view| self.self_test_source(view))
                .collect(),
            local: host
                .addresses
                .iter()
                .map(|a| a.net.addr())
                .filter(|ip| self.settings.cluster_cidrs.iter().any(|c| c.contains(ip)))
                .collect(),
        }
    }

    fn account(
        &self,
        families: &[FamilyView<'_>],
        remotes: &[Remote<'_>],
        conditions: &[Condition],
    ) -> Account {
        let [v4, v6] = Family::ALL.map(|family| {
            let has = families.iter().any(|view| view.family == family);
            self.mac(family, families).filter(|_| has)
        });
        let mut account = Account {
            namespace: self.settings.namespace.clone(),
            node: self.settings.node.clone(),
            vtep_mac: v4.or(v6),
            vtep_mac_6: v6.filter(|mac| v4.is_some_and(|v4| v4 != *mac)),
            status: RouteAgentStatus {
                version: self.settings.version.clone(),
                status_failure: String::new(),
                remote_endpoints: self.remote_endpoints(remotes, families),
                conditions: Vec::new(),
            },
        };
        account.tell(conditions);
        account
    }
}
