//! The world as the agent is told of it: objects of the API, and what others have on the host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use strait_api::names::{ANNOTATION_SINCE, BACKEND_INTERFACE, CABLE_VXLAN};
use strait_api::route_agent::AgentInfo;
use strait_api::vtep::Vxlan as Vteps;
use strait_api::{Endpoint, EndpointSpec, Kind, Node, Object};
use strait_core::Event as Told;
use strait_core::route_agent::{Input, Settings, table};
use strait_host::nft::{Chain, Statement, Table, TableFamily, TableId};
use strait_host::{
    Address, Family, Hop, Host, Link, LinkKind, Route, RouteKind, Rule, Scope, TABLE_MAIN, Vxlan,
};

use super::world::{
    CABLES, CLUSTERS, CNI_LINKS, Event, Foreign, NODES, POD_CIDRS, SERVICE_CIDRS, SINCE, SUBNETS,
    World, net, node_ip, remote_ip,
};

pub(crate) fn settings(families: &[Family]) -> Settings {
    let of = |texts: [&str; 2]| {
        let nets = texts.map(net).into_iter();
        nets.filter(|n| families.contains(&Family::of_net(n)))
            .collect()
    };
    Settings {
        node: NODES[0].into(),
        hostname: NODES[0].into(),
        namespace: "ns".into(),
        cluster: "east".parse().unwrap(),
        cluster_cidrs: of(POD_CIDRS),
        service_cidrs: of(SERVICE_CIDRS),
        hello_port: 4801,
        health_check: false,
        self_test: false,
        adopt: false,
        version: "test".into(),
    }
}

type Objects<T> = BTreeMap<String, Result<T, String>>;

impl World {
    /// What the watches tell of an event; the host is read in any case.
    pub(crate) fn told(&self, before: &World, event: &Event) -> Vec<Input> {
        match event {
            Event::Relist | Event::Restart => self.lists(),
            Event::AgentsRefused(_) => vec![Input::Agents(self.agents_list())],
            Event::ApiAway => vec![Input::Endpoints(Told::Failed("away".into()))],
            Event::Gateway(..)
            | Event::Remote(..)
            | Event::OldEndpoint(..)
            | Event::BadEndpoint(_) => changes(&before.endpoints(), self.endpoints())
                .into_iter()
                .map(Input::Endpoints)
                .collect(),
            // An agent publishes what follows from its Node's address.
            Event::Node(..) | Event::Annotation(_) | Event::Agent(..) => {
                let nodes = changes(&before.nodes(), self.nodes()).into_iter();
                let agents = changes(&before.agents(), self.agents()).into_iter();
                let agents = agents.filter(|_| !self.agents_refused);
                let nodes = nodes.map(Input::Nodes);
                nodes.chain(agents.map(Input::Agents)).collect()
            }
            Event::CniLink(..)
            | Event::CniUp(..)
            | Event::CniAddress(..)
            | Event::CniRoutes(..)
            | Event::HostAddress(_)
            | Event::DefaultRoute(_)
            | Event::Mtu(_)
            | Event::Cable(_)
            | Event::Deed(_)
            | Event::Foreign(..)
            | Event::Killed(..) => Vec::new(),
            Event::Wait(_) => vec![Input::Tick],
        }
    }

    pub(crate) fn lists(&self) -> Vec<Input> {
        vec![
            Input::Endpoints(Told::Reset(self.endpoints())),
            Input::Nodes(Told::Reset(self.nodes())),
            Input::Agents(self.agents_list()),
        ]
    }

    fn agents_list(&self) -> Told<AgentInfo> {
        if self.agents_refused {
            return Told::Failed("403: forbidden".into());
        }
        Told::Reset(self.agents())
    }

    fn families_of<'a>(
        &'a self,
        ip: impl Fn(Family) -> Option<IpAddr> + 'a,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        Family::ALL.into_iter().filter_map(ip)
    }

    fn endpoints(&self) -> Objects<Endpoint> {
        let mut all = BTreeMap::new();
        let mut add = |name: String, created: i64, spec: EndpointSpec| {
            let mut object = Object::new(Kind::Endpoint, "ns", &name).with("spec", &spec);
            object.created = created;
            let cluster = CLUSTERS.iter().position(|id| *id == spec.cluster_id);
            object.annotations.extend(cluster.map(|cluster| {
                let since = SINCE[cluster].to_string();
                (ANNOTATION_SINCE.to_owned(), since)
            }));
            all.insert(name, Endpoint::parse(&object));
        };
        if let Some((node, which)) = self.gateway {
            let ips: Vec<String> = self
                .families_of(|f| node_ip(node, which, f))
                .map(|ip| ip.to_string())
                .collect();
            let own = POD_CIDRS.map(str::to_owned).to_vec();
            add("east".into(), 5, spec("east", NODES[node], own, ips));
        }
        for (cluster, remote) in &self.remotes {
            let name = CLUSTERS[*cluster];
            let ips: Vec<String> = self
                .families_of(|f| remote_ip(*cluster, remote, f))
                .map(|ip| ip.to_string())
                .collect();
            let subnets = remote.subnets.iter().map(|s| SUBNETS[*s].to_owned());
            add(name.into(), 5, spec(name, "x", subnets.collect(), ips));
            if self.old.contains(cluster) {
                let stale = vec!["10.99.0.0/16".to_owned()];
                let spec = spec(name, "y", stale, vec!["172.30.99.1".into()]);
                add(format!("{name}-old"), 4, spec);
            }
        }
        if self.bad {
            all.insert(
                "bad".into(),
                Err("spec.private_ip: 'x' is no IP address".into()),
            );
        }
        all
    }

    fn nodes(&self) -> Objects<Node> {
        let node = |(number, which): (&usize, &_)| {
            let clamp_mss = self
                .annotation
                .filter(|_| *number == 0)
                .map(|asked| asked.ok_or_else(|| "'x' is no segment size".to_owned()));
            let node = Node {
                internal_ips: self.families_of(|f| node_ip(*number, *which, f)).collect(),
                clamp_mss,
                ..Node::default()
            };
            (NODES[*number].to_owned(), Ok(node))
        };
        self.nodes.iter().map(node).collect()
    }

    fn agents(&self) -> Objects<AgentInfo> {
        let agent = |(number, publishes): (&usize, &bool)| {
            let which = self.nodes.get(number);
            let ip = which.and_then(|w| self.families_of(|f| node_ip(*number, *w, f)).next());
            let vtep_mac = ip.filter(|_| *publishes).map(|ip| Vteps::Nodes.mac(ip));
            (
                NODES[*number].to_owned(),
                Ok(AgentInfo {
                    ours: *publishes,
                    vtep_mac,
                    vtep_mac_6: None,
                }),
            )
        };
        let own = AgentInfo {
            ours: true,
            vtep_mac: None,
            vtep_mac_6: None,
        };
        let own = (NODES[0].to_owned(), Ok(own));
        self.agents.iter().map(agent).chain([own]).collect()
    }

    /// What others have on the host. Routes to what is on a link are left to the kernel.
    pub(crate) fn foreign_host(&self) -> Host {
        let mut host = Host::default();
        let nic = |mtu| link(LinkKind::Veth, true, mtu);
        host.links.insert("eth0".into(), nic(self.mtu));
        host.links.insert("eth1".into(), nic(1500));
        let ips = self.families_of(|f| node_ip(0, self.host_address, f));
        for ip in ips {
            host.addresses.insert(address("eth0", ip, [24, 64]));
        }
        for ip in ["192.168.7.11", "fd00:99::11"] {
            host.addresses
                .insert(address("eth1", ip.parse().unwrap(), [24, 64]));
        }
        let routers = [
            ["172.30.1.1", "fd00:30:1::1:1"],
            ["192.168.7.1", "fd00:99::1"],
        ];
        if let Some(nic) = self.default_route {
            for (via, all) in routers[nic].iter().zip(["0.0.0.0/0", "::/0"]) {
                host.routes
                    .insert(route(all, via, ["eth0", "eth1"][nic], 3, 0));
            }
        }
        for (number, cni) in &self.cni {
            let name = CNI_LINKS[*number];
            let kind = match name {
                "tunl0" => LinkKind::Other("tun".into()),
                "veth9" => LinkKind::Veth,
                _ => LinkKind::Bridge,
            };
            host.links.insert(name.into(), link(kind, cni.up, 1450));
            let last = u8::try_from(*number).unwrap() + 1;
            for ip in cni.number.iter().flat_map(|n| cni_ips(*n, last)) {
                host.addresses.insert(address(name, ip, [32, 128]));
            }
            if cni.routes && cni.up {
                let (v4, v6) = (
                    format!("10.1.{}.0/24", 90 + number),
                    format!("fd01:0:0:{}::/64", 90 + number),
                );
                host.routes.insert(route(&v4, "172.30.1.19", name, 4, 0));
                host.routes
                    .insert(route(&v6, "fd00:30:1::1:19", name, 4, 0));
            }
        }
        if let Some(up) = self.cable {
            for name in CABLES {
                let mut link = link(vxlan(1000, 4500), up, 1450);
                link.alias = Some("strait".into());
                host.links.insert(name.into(), link);
            }
            host.addresses
                .insert(address(CABLES[0], "241.30.1.11".parse().unwrap(), [8, 96]));
            let v6 = "fd00:100:200::1:11".parse().unwrap();
            host.addresses.insert(address(CABLES[1], v6, [8, 96]));
        }
        self.meddlers(&mut host);
        host
    }

    fn meddlers(&self, host: &mut Host) {
        for what in &self.foreign {
            match what {
                Foreign::Namesake => {
                    let bridge = link(LinkKind::Bridge, true, 1500);
                    host.links.insert("vx-submariner".into(), bridge);
                }
                Foreign::SameVni => {
                    let rival = link(vxlan(100, 4800), true, 1450);
                    host.links.insert("rival".into(), rival);
                }
                Foreign::Route => {
                    host.routes
                        .insert(route("10.21.0.0/16", "192.168.7.1", "eth1", 4, 0));
                }
                Foreign::ReversePath => host.source_checks = Family::ALL.into(),
                Foreign::Beside => {
                    host.routes
                        .insert(route("203.0.113.0/24", "192.168.7.1", "eth1", 4, 0));
                    let other = route("203.0.113.0/24", "192.168.7.1", "eth1", 4, 7);
                    host.routes.insert(Route { table: 77, ..other });
                    host.rules.insert(Rule {
                        family: Family::V4,
                        priority: 77,
                        from: Some(net("203.0.113.0/24")),
                        to: None,
                        link: None,
                        mark: None,
                        table: 77,
                        protocol: 4,
                    });
                    host.nft.insert(foreign_table(), table_of_theirs());
                }
                Foreign::Table => {
                    host.nft.insert(table(), table_of_theirs());
                }
            }
        }
    }
}

fn table_of_theirs() -> Table {
    let rule = strait_host::nft::Rule {
        statements: vec![Statement::Counter],
        comment: "theirs".into(),
    };
    let chain = Chain {
        base: None,
        rules: vec![rule],
    };
    Table {
        chains: [("theirs".to_owned(), chain)].into(),
        ..Table::default()
    }
}

pub(crate) fn foreign_table() -> TableId {
    TableId {
        family: TableFamily::Inet,
        name: "theirs".into(),
    }
}

/// The addresses of a CNI's link.
pub(crate) fn cni_ips(number: u8, last: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([10, 1, number, last]),
        IpAddr::from([0xfd01, 0, 0, number.into(), 0, 0, 0, last.into()]),
    ]
}

/// What tells an object from that of before, in an order in which a watch may tell it: what is new first.
fn changes<T: Clone + PartialEq>(before: &Objects<T>, after: Objects<T>) -> Vec<Told<T>> {
    let gone: Vec<String> = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .cloned()
        .collect();
    let new = after
        .into_iter()
        .filter(|(name, object)| before.get(name) != Some(object));
    new.map(|(name, object)| Told::Applied(name, object))
        .chain(gone.into_iter().map(Told::Deleted))
        .collect()
}

fn spec(cluster: &str, hostname: &str, subnets: Vec<String>, ips: Vec<String>) -> EndpointSpec {
    EndpointSpec {
        cluster_id: cluster.into(),
        cable_name: format!("submariner-cable-{cluster}"),
        hostname: hostname.into(),
        subnets,
        private_ips: ips,
        backend: "vxlan".into(),
        backend_config: [(BACKEND_INTERFACE.to_owned(), CABLE_VXLAN.to_owned())].into(),
        ..EndpointSpec::default()
    }
}

fn link(kind: LinkKind, up: bool, mtu: u32) -> Link {
    Link {
        kind,
        mtu,
        up,
        mac: None,
        alias: None,
        master: None,
    }
}

fn vxlan(vni: u32, port: u16) -> LinkKind {
    LinkKind::Vxlan(Vxlan {
        vni,
        port,
        local: Some([192, 168, 7, 11].into()),
        remote: None,
        learning: false,
    })
}

fn address(link: &str, ip: IpAddr, lengths: [u8; 2]) -> Address {
    let length = if ip.is_ipv4() { lengths[0] } else { lengths[1] };
    Address {
        link: link.into(),
        net: ipnet::IpNet::new(ip, length).unwrap(),
        scope: Scope::Global,
    }
}

fn route(dst: &str, via: &str, dev: &str, protocol: u8, metric: u32) -> Route {
    let hops = vec![Hop {
        dev: Some(dev.into()),
        via: Some(via.parse().unwrap()),
        onlink: true,
    }];
    let dst = net(dst);
    // IPv6 has no metric 0.
    let metric = if metric == 0 && Family::of_net(&dst) == Family::V6 {
        1024
    } else {
        metric
    };
    Route {
        table: TABLE_MAIN,
        dst,
        metric,
        protocol,
        kind: RouteKind::Unicast { hops, src: None },
    }
}
