//! What is the case around one node: its links and addresses, the API's objects, and somebody who meddles. Events change it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use strait_host::Family;

/// Names of all nodes; the first is this one.
pub(crate) const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
pub(crate) const CLUSTERS: [&str; 4] = ["c1", "c2", "c3", "c4"];
/// Since when each is there, in Unix seconds.
pub(crate) const SINCE: [i64; 4] = [300, 100, 200, 200];
/// Links that CNIs make: a known tunnel, a known bridge, a bridge of an unknown name, the host's end of a pod's veth; in
/// the order in which an address on them counts.
pub(crate) const CNI_LINKS: [&str; 4] = ["tunl0", "cni0", "a-br", "veth9"];
pub(crate) const POD_CIDRS: [&str; 2] = ["10.1.0.0/16", "fd01::/48"];
pub(crate) const SERVICE_CIDRS: [&str; 2] = ["10.101.0.0/16", "fd01:101::/112"];
pub(crate) const CABLES: [&str; 2] = ["vxlan-tunnel", "vxlan-tunnel-6"];

/// Subnets that other clusters may announce: each its own, and what nobody should.
pub(crate) const SUBNETS: [&str; 20] = [
    "10.21.0.0/16",
    "10.22.0.0/16",
    "10.23.0.0/16",
    "10.24.0.0/16",
    "10.122.3.0/24",
    "fd02:1::/48",
    "fd02:2::/48",
    "fd02:3::/48",
    "10.21.7.0/24",
    "10.20.0.0/14",
    "fd02::/16",
    "10.1.128.0/17",
    "0.0.0.0/0",
    "::/0",
    "127.0.0.0/8",
    "240.0.0.0/4",
    "::ffff:10.30.0.0/112",
    "172.30.1.0/28",
    "172.30.0.0/16",
    "fd00:30:1::/64",
];

/// So many of these are what clusters have.
const ORDINARY: usize = 8;

/// Which of its possible addresses a node or gateway has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Usual,
    Another,
    /// It differs from the usual one of n2 (of clusters: c1) in its beginning only.
    Twin,
    /// No address at all.
    None,
    /// That of n2; for gateways of other clusters only.
    Ours,
    /// An address in the first of its own subnets, as where pods and nodes share a network.
    InOwnSubnet,
}

/// What a cluster announces: subnets by their number in [`SUBNETS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    pub address: Which,
    pub subnets: BTreeSet<usize>,
}

/// Somebody takes away or alters what is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    RemoveLinks,
    TakeLinksDown,
    ChangeMtu,
    ChangeMac,
    FlushAddresses,
    AddAddress,
    FlushNeighbours,
    AddForwardingEntry,
    FlushRoutes,
    RemoveWays,
    AddRoute,
    RemoveRules,
    FlushRuleset,
    FlushChain,
    AddElement,
    ResetSysctls,
}

impl Deed {
    /// Each of them.
    pub(crate) const ALL: [Self; 16] = [
        Self::RemoveLinks,
        Self::TakeLinksDown,
        Self::ChangeMtu,
        Self::ChangeMac,
        Self::FlushAddresses,
        Self::AddAddress,
        Self::FlushNeighbours,
        Self::AddForwardingEntry,
        Self::FlushRoutes,
        Self::RemoveWays,
        Self::AddRoute,
        Self::RemoveRules,
        Self::FlushRuleset,
        Self::FlushChain,
        Self::AddElement,
        Self::ResetSysctls,
    ];
}

/// Something of others that stands in our way, or only beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Foreign {
    /// A bridge with the name of our link.
    Namesake,
    /// A VXLAN with our network identifier and port.
    SameVni,
    /// A route to 10.21.0.0/16 where a worker's stands.
    Route,
    /// A table of the name of ours, in its place.
    Table,
    /// Routes and a rule that are in nobody's way.
    Beside,
    /// A strict reverse-path filter of both families that looks at marks.
    ReversePath,
}

/// One event. What does not apply at the moment changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A link of the CNI comes, or goes with all that is on it.
    CniLink(usize, bool),
    /// It is set up or down.
    CniUp(usize, bool),
    /// It gets an address of each family with this number, or has none.
    CniAddress(usize, Option<u8>),
    /// Routes by way of it to the pods of another node.
    CniRoutes(usize, bool),
    /// The address of this host on the nodes' network.
    HostAddress(Which),
    /// The default route goes by eth0, eth1, or is away.
    DefaultRoute(Option<usize>),
    /// MTU of eth0.
    Mtu(u32),
    /// Devices of the cables: absent, down or up.
    Cable(Option<bool>),
    /// A Node of this cluster: absent, or with addresses.
    Node(usize, Option<Which>),
    /// The RouteAgent of another node: absent, or publishing an Ethernet address, or none.
    Agent(usize, Option<bool>),
    /// The active gateway is this node, or none.
    Gateway(Option<usize>, Which),
    /// Another cluster's Endpoint.
    Remote(usize, Option<Remote>),
    /// A second, older Endpoint of that cluster.
    OldEndpoint(usize, bool),
    /// An Endpoint that can't be parsed.
    BadEndpoint(bool),
    /// `tcp-clamp-mss` of this Node: absent, a number, or nonsense.
    Annotation(Option<Option<u16>>),
    /// All watches begin anew with a complete list.
    Relist,
    /// The API server is away.
    ApiAway,
    /// RouteAgents can't be listed or watched, or can be again.
    AgentsRefused(bool),
    Deed(Deed),
    Foreign(Foreign, bool),
    /// The agent ends and starts again.
    Restart,
    /// The first happens, and the agent is killed when it has made so many 255ths of the changes that follow; it starts again.
    Killed(Box<Event>, u8),
    /// Seconds pass.
    Wait(u8),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CniLink {
    pub up: bool,
    pub number: Option<u8>,
    pub routes: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub families: Vec<Family>,
    pub now: u64,
    pub host_address: Which,
    pub default_route: Option<usize>,
    pub mtu: u32,
    pub cni: BTreeMap<usize, CniLink>,
    pub cable: Option<bool>,
    pub nodes: BTreeMap<usize, Which>,
    pub agents: BTreeMap<usize, bool>,
    pub gateway: Option<(usize, Which)>,
    /// The gateway that is gone, and since when.
    pub lost: Option<((usize, Which), u64)>,
    pub remotes: BTreeMap<usize, Remote>,
    pub old: BTreeSet<usize>,
    pub bad: bool,
    pub annotation: Option<Option<u16>>,
    pub api_away: bool,
    pub agents_refused: bool,
    /// As this process knows them, if it has had a list.
    pub known_agents: Option<BTreeMap<usize, bool>>,
    pub foreign: BTreeSet<Foreign>,
}

impl World {
    /// A worker of three nodes with a tunnel of a CNI, n2 the gateway, and two other clusters.
    pub(crate) fn new(families: Vec<Family>) -> Self {
        let remote = |subnets: &[usize]| Remote {
            address: Which::Usual,
            subnets: subnets.iter().copied().collect(),
        };
        let tunnel = CniLink {
            up: true,
            number: Some(1),
            routes: true,
        };
        Self {
            families,
            now: 0,
            host_address: Which::Usual,
            default_route: Some(0),
            mtu: 1500,
            cni: [(0, tunnel)].into(),
            cable: None,
            nodes: [0, 1, 2].map(|n| (n, Which::Usual)).into(),
            agents: [(1, true), (2, false)].into(),
            gateway: Some((1, Which::Usual)),
            lost: None,
            remotes: [(0, remote(&[0, 5])), (1, remote(&[1, 6]))].into(),
            old: BTreeSet::new(),
            bad: false,
            annotation: None,
            api_away: false,
            agents_refused: false,
            known_agents: Some([(1, true), (2, false)].into()),
            foreign: BTreeSet::new(),
        }
    }

    pub(crate) fn happen(&mut self, event: &Event) {
        // Each takes a while.
        self.now += 700;
        match event {
            Event::CniLink(link, true) => {
                self.cni.entry(*link).or_default();
            }
            Event::CniLink(link, false) => {
                self.cni.remove(link);
            }
            Event::CniUp(link, up) => self.with_cni(*link, |l| l.up = *up),
            Event::CniAddress(link, number) => self.with_cni(*link, |l| l.number = *number),
            Event::CniRoutes(link, routes) => self.with_cni(*link, |l| l.routes = *routes),
            Event::HostAddress(which) => self.host_address = *which,
            Event::DefaultRoute(nic) => self.default_route = *nic,
            Event::Mtu(mtu) => self.mtu = *mtu,
            Event::Cable(cable) => self.cable = *cable,
            Event::Node(node, which) => set(&mut self.nodes, *node, *which),
            Event::Agent(node, agent) => set(&mut self.agents, *node, *agent),
            Event::Gateway(node, which) => {
                let before = self.gateway;
                self.gateway = node.map(|node| (node, *which));
                match (before, self.gateway) {
                    (Some(lost), None) => self.lost = Some((lost, self.now)),
                    (_, Some(_)) => self.lost = None,
                    (None, None) => {}
                }
            }
            Event::Remote(cluster, remote) => {
                set(&mut self.remotes, *cluster, remote.clone());
            }
            Event::OldEndpoint(cluster, true) => {
                self.old.insert(*cluster);
            }
            Event::OldEndpoint(cluster, false) => {
                self.old.remove(cluster);
            }
            Event::BadEndpoint(bad) => self.bad = *bad,
            Event::Annotation(annotation) => self.annotation = *annotation,
            Event::ApiAway => self.api_away = true,
            Event::AgentsRefused(refused) => self.agents_refused = *refused,
            Event::Foreign(what, true) => {
                self.foreign.insert(*what);
            }
            Event::Foreign(what, false) => {
                self.foreign.remove(what);
            }
            // What the old process still knew of a lost gateway is lost too.
            Event::Restart => {
                self.lost = None;
                self.known_agents = None;
            }
            // In two steps, for what is between them.
            Event::Killed(..) => {}
            Event::Wait(seconds) => self.now += u64::from(*seconds) * 1000,
            Event::Relist | Event::Deed(_) => {}
        }
        if !self.agents_refused {
            self.known_agents = Some(self.agents.clone());
        }
        if self.lost.is_some_and(|(_, since)| since + 5000 <= self.now) {
            self.lost = None;
        }
    }

    fn with_cni(&mut self, link: usize, change: impl FnOnce(&mut CniLink)) {
        if let Some(link) = self.cni.get_mut(&link) {
            change(link);
        }
    }
}

fn set<T>(map: &mut BTreeMap<usize, T>, key: usize, value: Option<T>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

/// The address of a node.
pub(crate) fn node_ip(node: usize, which: Which, family: Family) -> Option<IpAddr> {
    let number = u8::try_from(node).unwrap_or_default() + 11;
    let (beginning, last) = match which {
        Which::Usual => (0, number),
        Which::Another => (0, number + 10),
        Which::Twin => (1, 12),
        Which::None => return None,
        Which::Ours | Which::InOwnSubnet => (0, 12),
    };
    Some(match family {
        Family::V4 => Ipv4Addr::new([172, 10][beginning], 30, 1, last).into(),
        Family::V6 => {
            let second = [0x30, 0x31][beginning];
            Ipv6Addr::new(0xfd00, second, 1, 0, 0, 0, 1, last.into()).into()
        }
    })
}

/// The address of another cluster's gateway.
pub(crate) fn remote_ip(cluster: usize, remote: &Remote, family: Family) -> Option<IpAddr> {
    let number = u8::try_from(cluster).unwrap_or_default() + 2;
    let ip = |beginning: usize, third: u8, last: u8| -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new([172, 10][beginning], 30, third, last).into(),
            Family::V6 => {
                let second = [0x30, 0x31][beginning];
                Ipv6Addr::new(
                    0xfd00,
                    second,
                    third.into(),
                    0,
                    0,
                    0,
                    third.into(),
                    last.into(),
                )
                .into()
            }
        }
    };
    Some(match remote.address {
        Which::Usual => ip(0, number, 11),
        Which::Another => ip(0, number, 21),
        Which::Twin => ip(1, 2, 11),
        Which::None => return None,
        Which::Ours => node_ip(1, Which::Usual, family)?,
        Which::InOwnSubnet => {
            let nets = remote
                .subnets
                .iter()
                .filter(|s| **s < ORDINARY)
                .map(|s| net(SUBNETS[*s]));
            let mut own = nets.filter(|n| Family::of_net(n) == family && n.prefix_len() > 8);
            host_of(&own.next()?, 11)
        }
    })
}

/// An address inside a prefix: with this number, as far as it has room for it.
pub(crate) fn host_of(net: &IpNet, number: u8) -> IpAddr {
    match net {
        IpNet::V4(n) => {
            let inside = u32::from(number) & n.hostmask().to_bits();
            Ipv4Addr::from_bits(n.network().to_bits() | inside).into()
        }
        IpNet::V6(n) => {
            let inside = u128::from(number) & n.hostmask().to_bits();
            Ipv6Addr::from_bits(n.network().to_bits() | inside).into()
        }
    }
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}
