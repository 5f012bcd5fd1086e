//! The plan as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::names::{CABLE_VXLAN, CABLE_VXLAN_6, CABLE_WIREGUARD, LINK_ALIAS};
use strait_api::route_agent::RouteAgentStatus;
use strait_host::{Family, Host, Owned, Wanted};

use super::account::Account;
use super::before::{ALL_LINKS, Item, Key, is_foreign};
use super::conditions::{IPV6_FORWARDING, ipv6_forwarding, sorted};
use super::flows::FlowRules;
use super::leftovers::Leftover;
use super::view::{FamilyView, Role};
use super::{State, accepts, leftovers, nft, routes, table};
use crate::driver::Driver;
use crate::gateway::nodes;
use crate::local;
use crate::net::of_family;
use crate::remote::{Ours, Remote, remotes};
use crate::{Condition, ObjectChange, Planned, health};

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
                Role::Worker => "worker",
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

    /// Links of a gateway on a node that is none. A gateway that runs here may be about to become one: only who
    /// holds its lock knows that there is none.
    fn dead_cables(&self, host: &Host) -> BTreeSet<String> {
        let names = [CABLE_VXLAN, CABLE_VXLAN_6, CABLE_WIREGUARD].into_iter();
        let left = |name: &&str| {
            let link = host.links.get(*name);
            // What is under way to the one before arrives, though its gateway is gone.
            self.role() != Role::Gateway
                && self.retired.is_none()
                && link.is_some_and(|l| l.alias.as_deref() == Some(LINK_ALIAS))
        };
        names.filter(left).map(str::to_owned).collect()
    }

    fn hello_nodes(&self) -> Option<BTreeMap<String, (Vec<IpAddr>, bool)>> {
        self.nodes.is_known().then(|| nodes(&self.nodes))
    }

    fn sources_known(&self) -> bool {
        self.endpoints.is_known() && self.nodes.is_known() && self.agents.is_known()
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
        let cable = self.cable(families);
        let driver = self.gateway.as_ref().and_then(|g| g.backend.parse().ok());
        for view in families {
            let mac = self.mac(view.family, families);
            if let Some((name, link)) = mac.and_then(|mac| routes::link(view, mac, driver)) {
                if view.family == Family::V4 {
                    sysctls.insert(format!("net/ipv4/conf/{name}/forwarding"), "1".to_owned());
                    sysctls.insert(
                        format!("net/ipv4/conf/{name}/send_redirects"),
                        "0".to_owned(),
                    );
                }
                links.insert(name, link);
                addresses.extend(routes::address(view));
                let (n, f) = match role {
                    Role::Gateway => routes::entries(view.family, view.distinct_nodes()),
                    Role::Worker | Role::NoGateway => {
                        routes::entries(view.family, view.gateway.clone())
                    }
                };
                neighbours.extend(n);
                fdb.extend(f);
            }
            match role {
                Role::Gateway => {
                    let cable = self.gateway_cable(view.family);
                    wanted_routes.extend(routes::gateway(view, host, &cable));
                    rules.insert(routes::gateway_rule(view.family, &cable));
                    rules.insert(routes::underlay_rule(view.family));
                }
                Role::Worker | Role::NoGateway => wanted_routes.extend(routes::worker(view)),
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
            nodes: self.node_addresses(families),
            mss: self.clamp_mss().and_then(Result::ok),
            cable,
        };
        let mut nft = nft::table(&variables);
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
                &self.accept_ways(&variables),
            )),
            nft: Owned::Set(BTreeMap::from([(table(), nft)])),
            routes: Owned::Set(wanted_routes.into_iter().collect()),
            rules: Owned::Set(rules),
            sysctls,
            loose_reverse_path: loose,
        }
    }

    /// Links whose reverse-path filter must be loose, and the cable's, which must forward.
    fn loose_links<'a>(
        &'a self,
        host: &Host,
        view: &FamilyView<'_>,
    ) -> (BTreeSet<String>, Option<&'a str>) {
        let mut loose = routes::pod_network_links(host, view);
        loose.extend(view.underlay.iter().map(|u| u.link.clone()));
        if self.role() != Role::Gateway {
            return (loose, None);
        }
        // Without an address to stand on there is no such device of ours; one of that name is somebody's.
        if view.underlay.is_some() {
            loose.insert(routes::device(view.family).to_owned());
        }
        let cable = self
            .cable_link(Family::V4)
            .filter(|link| host.links.contains_key(*link));
        loose.extend(cable.map(str::to_owned));
        (loose, cable)
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

    /// Device of this cluster's cable in a family; the Endpoint names that of IPv4.
    fn cable_link(&self, family: Family) -> Option<&str> {
        let name = self.gateway.as_ref()?.interface.as_deref()?;
        match family {
            Family::V4 => Some(name),
            Family::V6 if name == CABLE_VXLAN => Some(CABLE_VXLAN_6),
            Family::V6 => Some(name),
        }
    }

    fn gateway_cable(&self, family: Family) -> routes::Cable<'_> {
        let backend = self.gateway.as_ref().map(|g| g.backend.as_str());
        routes::Cable {
            link: self.cable_link(family),
            vxlan: backend == Some(Driver::Vxlan.name()),
        }
    }

    /// UDP port of this node's cable, and who may speak to it.
    pub(super) fn cable(&self, families: &[FamilyView<'_>]) -> Option<nft::CablePort> {
        let gateway = self
            .gateway
            .as_ref()
            .filter(|_| self.role() == Role::Gateway)?;
        let port = gateway.udp_port;
        match gateway.backend.parse() {
            Ok(Driver::Vxlan) => {}
            // It knows its peers by their keys, wherever they are.
            Ok(Driver::WireGuard) => return Some(nft::CablePort { port, peers: None }),
            Err(_) => return None,
        }
        let remotes = families.iter().flat_map(|v| &v.remotes);
        // Whoever takes another's place is heard before its Endpoint is.
        let endpoints =
            remotes.flat_map(|r| std::iter::once(r.endpoint).chain(&r.endpoint.standbys));
        let peers = endpoints
            .flat_map(|e| e.private_ips.iter().chain(&e.public_ips))
            .copied()
            .collect();
        Some(nft::CablePort {
            port,
            peers: Some(peers),
        })
    }

    /// Where connections from remote clusters can arrive: on the gateway its cable, elsewhere the pods' network, and
    /// the nodes' VXLAN for replies that conntrack no longer knows.
    fn ways(&self, host: &Host, families: &[FamilyView<'_>]) -> BTreeSet<String> {
        let mut ways: BTreeSet<String> = BTreeSet::new();
        for view in families {
            match self.role() {
                Role::Gateway => ways.extend(self.cable_link(view.family).map(str::to_owned)),
                Role::Worker | Role::NoGateway => {
                    ways.extend(routes::pod_network_links(host, view));
                    ways.extend(view.underlay.iter().map(|u| u.link.clone()));
                    ways.insert(routes::device(view.family).to_owned());
                }
            }
        }
        ways
    }

    fn accept_ways(&self, variables: &nft::Variables<'_>) -> accepts::Ways<'_> {
        let cables = Family::ALL
            .into_iter()
            .filter_map(|f| Some((f, self.cable_link(f)?)));
        let is_gateway = self.role() == Role::Gateway;
        let cable = variables.cable.as_ref().map(|cable| cable.port);
        let own = self.gateway.as_ref().filter(|_| is_gateway);
        let discovery = own.and_then(|gateway| gateway.natt_port);
        let own = self.nodes.get(&self.settings.node);
        let hello = own
            .filter(|node| node.may_be_gateway)
            .map(|_| self.settings.hello_port);
        accepts::Ways {
            cables: cables.collect(),
            gateway: is_gateway,
            ports: cable.into_iter().chain(discovery).chain(hello).collect(),
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
