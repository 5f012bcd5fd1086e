//! What must work, and what must be said, from the world alone: the rules as users are told them, written without a look at
//! how the agent finds them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use strait_host::Family;

use super::inputs::cni_ips;
use super::world::{
    CLUSTERS, CNI_LINKS, Foreign, POD_CIDRS, SERVICE_CIDRS, SINCE, SUBNETS, Which, World, net,
    node_ip, remote_ip,
};

/// What this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Gateway,
    Worker(usize, Which),
    None,
}

/// Where a packet starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    Pod,
    Host,
    BoundHost,
}

/// What must become of a packet to a remote cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// In the nodes' VXLAN to the gateway with this address on the nodes' network.
    ToGateway { outer: IpAddr, source: IpAddr },
    /// Into the cable, to the gateway with this address inside it.
    Cable { inner: IpAddr, source: IpAddr },
    /// It leaves by no link.
    Refused,
    /// It leaves by a link that is none of ours: never what must become of it.
    Clear,
}

impl World {
    pub(crate) fn role(&self) -> Role {
        match self.gateway.or(self.lost.map(|(gateway, _)| gateway)) {
            Some((0, _)) => Role::Gateway,
            Some((node, which)) => Role::Worker(node, which),
            None => Role::None,
        }
    }

    /// Whether a gateway that does not carry the traffic keeps its cable here: whoever sends to it, early or late, is served.
    pub(crate) fn stands_by(&self) -> bool {
        matches!(self.role(), Role::Worker(..)) && self.cable == Some(true)
    }

    /// This host's address on the nodes' network, and whether it is on eth0: the Node's, if the host has it, else that
    /// of the default route's link.
    pub(crate) fn underlay(&self, family: Family) -> Option<(IpAddr, usize)> {
        let on_host = node_ip(0, self.host_address, family);
        let said = self.nodes.get(&0).and_then(|w| node_ip(0, *w, family));
        match (said, on_host) {
            (Some(said), Some(on_host)) if said == on_host => Some((said, 0)),
            _ => match self.default_route? {
                0 => Some((on_host?, 0)),
                nic => Some((eth1(family), nic)),
            },
        }
    }

    /// The CNI address and its link.
    pub(crate) fn cni_address(&self, family: Family) -> Option<(IpAddr, &'static str)> {
        let usable = self.cni.iter().filter(|(_, cni)| cni.up);
        let mut all = usable.filter_map(|(link, cni)| {
            let ips = cni_ips(cni.number?, u8::try_from(*link).ok()? + 1);
            Some((ips[at(family)], CNI_LINKS[*link]))
        });
        all.next()
    }

    /// Subnets of other clusters that are routed, and by which cluster; and whether any is refused.
    pub(crate) fn routed(&self) -> (Vec<(usize, IpNet)>, bool) {
        let mut routed: Vec<(usize, IpNet)> = Vec::new();
        let mut refused = false;
        let ours: Vec<IpNet> = POD_CIDRS
            .iter()
            .chain(&SERVICE_CIDRS)
            .map(|text| net(text))
            .filter(|n| self.families.contains(&Family::of_net(n)))
            .collect();
        let nodes = self.nodes_own();
        let mut remotes: Vec<_> = self.remotes.iter().collect();
        remotes.sort_by_key(|(cluster, _)| (SINCE[**cluster], CLUSTERS[**cluster]));
        for (cluster, remote) in remotes {
            for number in &remote.subnets {
                let subnet = net(SUBNETS[*number]);
                let bad = special(*number)
                    || ours.iter().any(|own| meet(own, &subnet))
                    || nodes.iter().any(|ip| subnet.contains(ip))
                    || routed
                        .iter()
                        .any(|(other, theirs)| other != cluster && meet(theirs, &subnet));
                refused |= bad;
                if !bad {
                    routed.push((*cluster, subnet));
                }
            }
        }
        routed.retain(|(_, n)| self.families.contains(&Family::of_net(n)));
        (routed, refused)
    }

    /// Addresses that nobody else may take: those of this cluster's nodes, and the routers of this one.
    fn nodes_own(&self) -> BTreeSet<IpAddr> {
        let mut own = BTreeSet::new();
        for family in Family::ALL {
            let objects = self.nodes.iter();
            own.extend(objects.filter_map(|(node, which)| node_ip(*node, *which, family)));
            if let Some((node, which)) = self.gateway.or(self.lost.map(|(g, _)| g)) {
                own.extend(node_ip(node, which, family));
            }
            if self.families.contains(&family) {
                own.extend(self.underlay(family).map(|(ip, _)| ip));
            }
        }
        let routers = [
            ["172.30.1.1", "fd00:30:1::1:1"],
            ["192.168.7.1", "fd00:99::1"],
        ];
        if let Some(nic) = self.default_route {
            own.extend(routers[nic].iter().filter_map(|r| r.parse::<IpAddr>().ok()));
        }
        own
    }

    /// Whether a cluster's gateway can be told from all others inside the cables: its address there is neither our gateway's
    /// nor that of a cluster that was there before it.
    pub(crate) fn distinct(&self, cluster: usize, family: Family) -> bool {
        let inner = |c: usize| {
            let remote = self.remotes.get(&c)?;
            Some(cable_inner(remote_ip(c, remote, family)?))
        };
        let Some(own) = inner(cluster) else {
            return true;
        };
        let gateway = self.gateway.or(self.lost.map(|(g, _)| g));
        let ours = gateway.and_then(|(node, which)| node_ip(node, which, family));
        let age = |c: usize| (SINCE[c], CLUSTERS[c]);
        let mut before = (0..CLUSTERS.len()).filter(|other| age(*other) < age(cluster));
        ours.map(cable_inner) != Some(own) && before.all(|other| inner(other) != Some(own))
    }

    /// What must become of a packet to a remote subnet that is routed.
    pub(crate) fn fate(&self, family: Family, origin: Origin, cluster: usize) -> Option<Fate> {
        let cni = self.cni_address(family).map(|(ip, _)| ip);
        let pod = pod_ip(family);
        match self.role() {
            Role::None => Some(Fate::Refused),
            Role::Worker(node, which) => {
                let (Some(outer), Some((own, _))) =
                    (node_ip(node, which, family), self.underlay(family))
                else {
                    return Some(Fate::Refused);
                };
                if node_inner(outer) == node_inner(own) || self.link_is_taken(family) {
                    return Some(Fate::Refused);
                }
                let source = match origin {
                    Origin::Pod => pod,
                    Origin::Host | Origin::BoundHost => cni.unwrap_or(node_inner(own)),
                };
                Some(Fate::ToGateway { outer, source })
            }
            Role::Gateway => {
                let remote = self.remotes.get(&cluster)?;
                let private = remote_ip(cluster, remote, family);
                let (Some(private), Some(true)) = (private, self.cable) else {
                    return Some(Fate::Refused);
                };
                if !self.distinct(cluster, family) {
                    return Some(Fate::Refused);
                }
                let inner = cable_inner(private);
                Some(match (origin, cni) {
                    (Origin::Pod, _) => Fate::Cable { inner, source: pod },
                    (_, Some(source)) => Fate::Cable { inner, source },
                    (_, None) => Fate::Refused,
                })
            }
        }
    }

    /// Whether somebody's link stands where ours should.
    pub(crate) fn link_is_taken(&self, family: Family) -> bool {
        family == Family::V4
            && (self.foreign.contains(&Foreign::Namesake)
                || self.foreign.contains(&Foreign::SameVni))
    }

    /// Names of all conditions that must be told, and no others.
    pub(crate) fn conditions(&self) -> BTreeSet<&'static str> {
        let mut all = BTreeSet::new();
        let mut say = |name, holds: bool| {
            if holds {
                all.insert(name);
            }
        };
        let role = self.role();
        say("NoLocalGateway", self.gateway.is_none());
        say("OverlappingSubnets", self.routed().1);
        say("InvalidObject", self.bad);
        let has_node = self.nodes.contains_key(&0);
        say(
            "InvalidAnnotation",
            has_node && self.annotation == Some(None),
        );
        let others = self
            .known_agents
            .iter()
            .flatten()
            .filter(|(_, ours)| !**ours);
        let mut others = others.map(|(node, _)| node);
        say(
            "ForeignAgent",
            others.any(|node| self.nodes.contains_key(node)),
        );
        let agents_away = self.agents_refused && self.known_agents.is_some();
        say("ApiUnreachable", self.api_away || agents_away);
        say("InputsUnknown", self.known_agents.is_none());
        let twice = |c: &usize| self.remotes.contains_key(c);
        say("SeveralEndpoints", self.old.iter().any(twice));
        for family in &self.families {
            let f = *family;
            let own = self.underlay(f).map(|(ip, _)| ip);
            say("CniInterfaceNotFound", self.cni_address(f).is_none());
            say("NodeAddressNotFound", own.is_none());
            let others = self.nodes.iter().filter(|(node, _)| **node != 0);
            let mut outers: BTreeSet<IpAddr> = others
                .clone()
                .filter_map(|(n, w)| node_ip(*n, *w, f))
                .collect();
            outers.extend(own);
            let gateway = self.gateway.or(self.lost.map(|(g, _)| g));
            let published = gateway.and_then(|(n, w)| node_ip(n, w, f));
            if matches!(role, Role::Worker(..)) {
                outers.extend(published);
            }
            let inners: BTreeSet<IpAddr> = outers.iter().map(|ip| node_inner(*ip)).collect();
            say("VtepCollision", inners.len() < outers.len());
            // What other nodes go by: the Endpoint of a gateway, the Node of another.
            let said = self.nodes.get(&0).and_then(|w| node_ip(0, *w, f));
            let differ = match role {
                Role::Gateway => published.is_some() && own != published,
                Role::Worker(..) => own != said,
                Role::None => false,
            };
            say("VtepMismatch", own.is_some() && differ);
            let addressless = gateway.is_some() && published.is_none();
            say("GatewayAddressNotFound", addressless);
            let mut without = others.filter(|(n, w)| node_ip(**n, **w, f).is_none());
            let any_without = without.next().is_some();
            say("PeerAddressNotFound", role == Role::Gateway && any_without);
            let claims = self
                .remotes
                .iter()
                .filter_map(|(c, r)| Some((*c, remote_ip(*c, r, f)?)));
            let node_ips = self.nodes_addresses(f);
            for (cluster, ip) in claims {
                let taken = node_ips.contains(&ip) || !self.distinct(cluster, f);
                say("CableAddressConflict", taken);
            }
        }
        all
    }

    fn nodes_addresses(&self, family: Family) -> BTreeSet<IpAddr> {
        let nodes = self.nodes.iter();
        let mut all: BTreeSet<IpAddr> =
            nodes.filter_map(|(n, w)| node_ip(*n, *w, family)).collect();
        if let Some((n, w)) = self.gateway.or(self.lost.map(|(g, _)| g)) {
            all.extend(node_ip(n, w, family));
        }
        all.extend(self.underlay(family).map(|(ip, _)| ip));
        all
    }

    /// Names of the clusters, for messages.
    pub(crate) fn name(cluster: usize) -> &'static str {
        CLUSTERS[cluster]
    }
}

fn at(family: Family) -> usize {
    usize::from(family == Family::V6)
}

pub(crate) fn eth1(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 168, 7, 11).into(),
        Family::V6 => "fd00:99::11".parse().expect("an address"),
    }
}

/// A pod of this node.
pub(crate) fn pod_ip(family: Family) -> IpAddr {
    cni_ips(77, 9)[at(family)]
}

/// Which of the subnets nobody may announce.
fn special(subnet: usize) -> bool {
    [
        "0.0.0.0/0",
        "::/0",
        "127.0.0.0/8",
        "240.0.0.0/4",
        "::ffff:10.30.0.0/112",
    ]
    .contains(&SUBNETS[subnet])
}

fn meet(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

pub(crate) fn node_inner(outer: IpAddr) -> IpAddr {
    inner(outer, 240, 0x100)
}

pub(crate) fn cable_inner(outer: IpAddr) -> IpAddr {
    inner(outer, 241, 0x200)
}

/// Submariner's derivation: the last three octets of an IPv4 address, the last four of an IPv6 one.
fn inner(outer: IpAddr, first: u8, third: u16) -> IpAddr {
    match outer {
        IpAddr::V4(ip) => {
            let o = ip.octets();
            Ipv4Addr::new(first, o[1], o[2], o[3]).into()
        }
        IpAddr::V6(ip) => {
            let s = ip.segments();
            Ipv6Addr::new(0xfd00, 0x100, third, 0, 0, 0, s[6], s[7]).into()
        }
    }
}
