//! A kernel as plain data that behaves as Linux does where the agent depends on it: what goes with a link or an address,
//! what it refuses, how it looks a route up, and what nftables makes of a packet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use strait_core::route_agent::{owner, table};
use strait_host::nft::{Element, Field, Hook, Statement, Value};
use strait_host::{
    Change, Family, Host, Link, LinkKind, Mac, Route, RouteKind, TABLE_MAIN, rp_filter_path,
};

/// The host, and what the kernel would have answered to a change with an error.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kernel {
    pub host: Host,
}

/// What becomes of a packet after a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Local,
    Out {
        dev: String,
        via: Option<IpAddr>,
        src: Option<IpAddr>,
    },
    /// No route, or one that says so.
    Nowhere,
}

/// The first packet of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub input: String,
    pub output: String,
    /// `IPPROTO_*`
    pub transport: u32,
    pub port: u32,
    pub syn: bool,
    pub mark: u32,
    /// What a rule has made of its segment size: `Some(0)` is the path's.
    pub mss: Option<u16>,
}

impl Packet {
    pub(crate) fn new(src: IpAddr, dst: IpAddr) -> Self {
        Self {
            src,
            dst,
            input: String::new(),
            output: String::new(),
            transport: 17,
            port: 53,
            syn: false,
            mark: 0,
            mss: None,
        }
    }
}

/// A verdict of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Snat(IpAddr),
}

impl Kernel {
    /// Others have changed what is theirs: what of ours hung on it goes as the kernel lets it go.
    pub(crate) fn follow(&mut self, theirs: &Host) {
        let own = owner();
        let old = self.host.clone();
        let mut new = theirs.clone();
        // A link of the name of ours takes its place only if ours is gone.
        let ours = old.links.iter().filter(|(n, l)| own.owns_link(n, l));
        let ours: Vec<_> = ours
            .filter(|(n, l)| !theirs.links.contains_key(*n) && !rivalled(theirs, l))
            .map(|(n, l)| (n.clone(), l.clone()))
            .collect();
        new.links.extend(ours);
        let ours = new.links.iter().filter(|(n, l)| own.owns_link(n, l));
        let ours: BTreeSet<String> = ours.map(|(n, _)| n.clone()).collect();
        let stays = |dev: &String| ours.contains(dev);
        let addresses = old.addresses.iter().filter(|a| stays(&a.link)).cloned();
        let addresses: Vec<_> = addresses.collect();
        let neighbours = old.neighbours.iter().filter(|n| stays(&n.link)).cloned();
        new.neighbours = neighbours.collect();
        new.fdb = old.fdb.iter().filter(|f| stays(&f.link)).cloned().collect();
        new.addresses.extend(addresses);
        new.rules
            .extend(old.rules.iter().filter(|r| own.owns_rule(r)).cloned());
        new.nft.extend(
            old.nft
                .iter()
                .filter(|(id, table)| own.owns_table(id, table) && !theirs.nft.contains_key(id))
                .map(|(i, t)| (i.clone(), t.clone())),
        );
        let mut routes: Vec<Route> = old
            .routes
            .iter()
            .filter(|r| own.owns_route(r))
            .cloned()
            .collect();
        routes.retain(|r| {
            let hops = r.hops().iter();
            hops.filter_map(|h| h.dev.as_ref())
                .all(|dev| new.links.get(dev).is_some_and(|l| l.up))
        });
        for route in &mut routes {
            if let RouteKind::Unicast { src, .. } = &mut route.kind {
                let gone = src.is_some_and(|ip| !has(&new, ip));
                if gone && route.dst.addr().is_ipv6() {
                    // fib6_remove_prefsrc: the route stays without.
                    *src = None;
                }
            }
        }
        // fib_sync_down_addr: an IPv4 route goes with its preferred source.
        routes.retain(
            |r| !matches!(&r.kind, RouteKind::Unicast { src: Some(ip), .. } if !has(&new, *ip)),
        );
        // One route for a table, destination and metric.
        routes.retain(|r| theirs.routes.iter().all(|other| other.key() != r.key()));
        new.routes.extend(routes);
        new.sysctls = old.sysctls;
        new.sysctls.retain(|path, _| {
            path.split('/')
                .nth(3)
                .is_none_or(|dev| matches!(dev, "all" | "default") || new.links.contains_key(dev))
        });
        let names: Vec<String> = new.links.keys().cloned().collect();
        self.host = new;
        names.iter().for_each(|name| self.appear(name));
        for (path, value) in [
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/ip_forward", "1"),
        ] {
            self.host.sysctls.entry(path.into()).or_insert(value.into());
        }
        let all = rp_filter_path("all");
        self.host.sysctls.entry(all).or_insert("0".into());
    }

    /// A new link begins with the defaults.
    fn appear(&mut self, name: &str) {
        let mut set = |key: &str, value: &str| {
            let path = format!("net/ipv4/conf/{name}/{key}");
            self.host.sysctls.entry(path).or_insert(value.into());
        };
        set("rp_filter", "1");
        set("forwarding", "0");
        set("send_redirects", "1");
    }

    /// Makes a change, or says why the kernel would refuse.
    pub(crate) fn make(&mut self, change: &Change) -> Result<(), String> {
        let is_up = |dev: &str| self.host.links.get(dev).is_some_and(|l| l.up);
        match change {
            Change::AddAddress(a) if !self.host.links.contains_key(&a.link) => {
                return Err(format!("no link {}", a.link));
            }
            Change::SetNeighbour(n) if !is_up(&n.link) => return Err(format!("{n:?}: no link")),
            Change::SetFdb(f) if !is_up(&f.link) => return Err(format!("{f:?}: no link")),
            Change::SetRoute(route) => self.check(route)?,
            Change::SetSysctl(path, _) if !self.host.sysctls.contains_key(path) => {
                return Err(format!("no sysctl {path}"));
            }
            Change::CreateLink(..)
            | Change::ChangeLink(..)
            | Change::RemoveLink(_)
            | Change::AddAddress(_)
            | Change::RemoveAddress(_)
            | Change::SetNeighbour(_)
            | Change::RemoveNeighbour(_)
            | Change::SetFdb(_)
            | Change::RemoveFdb(_)
            | Change::Nft(_)
            | Change::SetAccepts(..)
            | Change::SetSysctl(..)
            | Change::RemoveRoute(_)
            | Change::AddRule(_)
            | Change::RemoveRule(_) => {}
        }
        self.host.apply(change);
        match change {
            Change::CreateLink(name, _) => self.appear(name),
            Change::RemoveLink(name) => {
                let of = |path: &String| path.split('/').nth(3) == Some(name);
                self.host.sysctls.retain(|path, _| !of(path));
            }
            _ => {}
        }
        Ok(())
    }

    /// `fib_check_nh`: a next hop is on the link, and no address of this host; a preferred source is one.
    fn check(&self, route: &Route) -> Result<(), String> {
        let RouteKind::Unicast { hops, src } = &route.kind else {
            return Ok(());
        };
        for hop in hops {
            let dev = hop.dev.as_deref().unwrap_or_default();
            if !self.host.links.get(dev).is_some_and(|l| l.up) {
                return Err(format!("{route:?}: network is down"));
            }
            let Some(via) = hop.via else { continue };
            let on_link = self.host.addresses_of(dev).any(|a| a.net.contains(&via));
            if has(&self.host, via) || !(on_link || hop.onlink) {
                return Err(format!("{route:?}: next hop has invalid gateway"));
            }
        }
        match src {
            Some(src) if !has(&self.host, *src) => Err(format!("{route:?}: invalid source")),
            _ => Ok(()),
        }
    }

    /// `ip route get`: policy rules in order, the longest prefix, the least metric.
    pub(crate) fn look_up(&self, dst: IpAddr) -> Found {
        self.look_up_from(None, 0, dst)
    }

    /// The same for what came by a link (`iif`), or has a mark.
    pub(crate) fn look_up_from(&self, link: Option<&str>, mark: u32, dst: IpAddr) -> Found {
        if has(&self.host, dst) {
            return Found::Local;
        }
        let family = Family::of(dst);
        let rules = self
            .host
            .rules
            .iter()
            .filter(|r| r.family == family && r.from.is_none())
            .filter(|r| r.mark.is_none_or(|(value, mask)| mark & mask == value))
            .filter(|r| r.link.is_none() || r.link.as_deref() == link);
        let mut tables: Vec<(u32, u32)> = rules
            .filter(|r| r.to.is_none_or(|to| to.contains(&dst)))
            .map(|r| (r.priority, r.table))
            .collect();
        tables.push((32766, TABLE_MAIN));
        tables.sort_unstable();
        for (_, table) in tables {
            match self.best(table, dst) {
                None => {}
                Some(Route {
                    kind: RouteKind::Throw,
                    ..
                }) => {}
                Some(Route {
                    kind: RouteKind::Unicast { hops, src },
                    ..
                }) => {
                    let Some(hop) = hops.first() else {
                        return Found::Nowhere;
                    };
                    let dev = hop.dev.clone().unwrap_or_default();
                    let src = src.or_else(|| self.source(&dev, hop.via));
                    return Found::Out {
                        dev,
                        via: hop.via,
                        src,
                    };
                }
                Some(_) => return Found::Nowhere,
            }
        }
        Found::Nowhere
    }

    fn best(&self, table: u32, dst: IpAddr) -> Option<Route> {
        let usable = |r: &Route| {
            r.hops()
                .iter()
                .filter_map(|h| h.dev.as_ref())
                .all(|dev| self.host.links.get(dev).is_some_and(|l| l.up))
        };
        let mut all: Vec<Route> = self
            .host
            .routes
            .iter()
            .filter(|r| r.table == table && r.dst.contains(&dst) && usable(r))
            .cloned()
            .collect();
        if table == TABLE_MAIN {
            // What the kernel adds with each address.
            for a in &self.host.addresses {
                let up = self.host.links.get(&a.link).is_some_and(|l| l.up);
                if up && a.net.contains(&dst) {
                    let hop = strait_host::Hop {
                        dev: Some(a.link.clone()),
                        via: None,
                        onlink: false,
                    };
                    let metric = if dst.is_ipv6() { 256 } else { 0 };
                    all.push(Route {
                        table,
                        dst: a.net.trunc(),
                        metric,
                        protocol: 2,
                        kind: RouteKind::Unicast {
                            hops: vec![hop],
                            src: Some(a.net.addr()),
                        },
                    });
                }
            }
        }
        all.into_iter()
            .min_by_key(|r| (std::cmp::Reverse(r.dst.prefix_len()), r.metric))
    }

    /// `inet_select_addr`: an address of the link, one that shares the next hop's network first.
    fn source(&self, dev: &str, via: Option<IpAddr>) -> Option<IpAddr> {
        let of_dev: Vec<&IpNet> = self.host.addresses_of(dev).map(|a| &a.net).collect();
        let near = of_dev
            .iter()
            .find(|net| via.is_some_and(|via| net.contains(&via)));
        near.or(of_dev.first()).map(|net| net.addr())
    }

    /// Where a VXLAN sends what goes to a next hop: to one address by an exact entry, else to all of the flooding ones.
    pub(crate) fn outer(&self, dev: &str, via: IpAddr) -> BTreeSet<IpAddr> {
        let neighbour = self
            .host
            .neighbours
            .iter()
            .find(|n| n.link == dev && n.ip == via);
        let to = |mac: Mac| {
            let of = self
                .host
                .fdb
                .iter()
                .filter(move |f| f.link == dev && f.mac == mac);
            of.map(|f| f.dst).collect::<BTreeSet<_>>()
        };
        let exact = neighbour.map(|n| to(n.mac)).unwrap_or_default();
        if exact.is_empty() {
            to(Mac::ZERO)
        } else {
            exact
        }
    }

    /// What our table makes of the first packet of a connection at a hook.
    pub(crate) fn filter(&self, hook: Hook, packet: &mut Packet) -> Verdict {
        let Some(own) = self.host.nft.get(&table()) else {
            return Verdict::Accept;
        };
        let mut chains: Vec<_> = own
            .chains
            .iter()
            .filter_map(|(name, c)| Some((c.base?.priority, name, c.base?.hook)))
            .filter(|(_, _, of)| *of == hook)
            .collect();
        chains.sort_unstable_by_key(|(priority, name, _)| (*priority, (*name).clone()));
        for (_, name, _) in chains {
            match self.chain(name, packet) {
                Verdict::Accept | Verdict::Return => {}
                end @ (Verdict::Drop | Verdict::Snat(_)) => return end,
            }
        }
        Verdict::Accept
    }

    /// The same of one chain; one that is not there lets pass.
    pub(crate) fn chain_if_there(&self, name: &str, packet: &mut Packet) {
        let own = self.host.nft.get(&table());
        if own.is_some_and(|own| own.chains.contains_key(name)) {
            self.chain(name, packet);
        }
    }

    fn chain(&self, name: &str, packet: &mut Packet) -> Verdict {
        let own = &self.host.nft[&table()];
        let Some(chain) = own.chains.get(name) else {
            panic!("no chain {name}");
        };
        'rules: for rule in &chain.rules {
            for statement in &rule.statements {
                match statement {
                    Statement::Match {
                        field,
                        mask,
                        negated,
                        value,
                    } => {
                        if let Value::Name(wanted) = value {
                            assert_eq!((*field, *negated), (Field::InputLink, false));
                            if packet.input != *wanted {
                                continue 'rules;
                            }
                            continue;
                        }
                        let Some(seen) = packet.number(*field) else {
                            continue 'rules;
                        };
                        let Value::Number(wanted) = value else {
                            panic!("{statement:?}")
                        };
                        if ((seen & mask.unwrap_or(u32::MAX)) == *wanted) == *negated {
                            continue 'rules;
                        }
                    }
                    Statement::Lookup {
                        field,
                        negated,
                        set,
                    } => {
                        let Some(found) = packet.is_in(*field, &own.sets[set]) else {
                            continue 'rules;
                        };
                        if found == *negated {
                            continue 'rules;
                        }
                    }
                    Statement::Counter => {}
                    Statement::Accept => return Verdict::Accept,
                    Statement::Drop => return Verdict::Drop,
                    Statement::Return => return Verdict::Return,
                    Statement::SnatTo(ip) => return Verdict::Snat(*ip),
                    Statement::SnatToSelf(_) => return Verdict::Snat(packet.src),
                    Statement::Jump(to) => match self.chain(to, packet) {
                        Verdict::Return => {}
                        end @ (Verdict::Accept | Verdict::Drop | Verdict::Snat(_)) => return end,
                    },
                    Statement::ClampMss => packet.mss = Some(0),
                    Statement::SetMss(mss) => packet.mss = Some(*mss),
                    Statement::SetMarkBits { mask, value } => {
                        packet.mark = packet.mark & !mask | value;
                    }
                    other @ (Statement::Within { .. }
                    | Statement::SnatToMap { .. }
                    | Statement::SetMark(_)
                    | Statement::Foreign(_)) => panic!("not in our table so far: {other:?}"),
                }
            }
        }
        Verdict::Return
    }
}

impl Packet {
    /// A field as a number; `None` where the packet has no such field, which ends a rule.
    fn number(&self, field: Field) -> Option<u32> {
        let v6 = self.dst.is_ipv6();
        match field {
            // NFPROTO_IPV4, NFPROTO_IPV6
            Field::Protocol => Some(if v6 { 10 } else { 2 }),
            Field::Transport => Some(self.transport),
            Field::DestinationPort => Some(self.port),
            Field::TcpFlags => (self.transport == 6).then_some(if self.syn { 2 } else { 0x10 }),
            // The first packet of a connection is NEW.
            Field::CtState => Some(8),
            // None of the packets is ICMP.
            Field::IcmpType => None,
            Field::Mark => Some(self.mark),
            other @ (Field::InputLink
            | Field::OutputLink
            | Field::Source(_)
            | Field::Destination(_)
            | Field::SourcePort
            | Field::SourceType) => panic!("not a number: {other:?}"),
        }
    }

    fn is_in(&self, field: Field, set: &strait_host::nft::Set) -> Option<bool> {
        let contains = |ip: IpAddr| {
            set.elements.keys().any(|e| match e {
                Element::Ip(one) => *one == ip,
                Element::Net(net) => net.contains(&ip),
                Element::Range(from, to) => (*from..=*to).contains(&ip),
                Element::Name(_) | Element::Port(_) | Element::Mark(_) => false,
            })
        };
        match field {
            Field::Source(f) => (Family::of(self.src) == f).then(|| contains(self.src)),
            Field::Destination(f) => (Family::of(self.dst) == f).then(|| contains(self.dst)),
            Field::InputLink => {
                let name = Element::Name(self.input.clone());
                Some(set.elements.contains_key(&name))
            }
            other => panic!("not looked up so far: {other:?}"),
        }
    }
}

/// The kernel takes one VXLAN of a network identifier, port and family: who has made another has removed ours first.
fn rivalled(theirs: &Host, ours: &Link) -> bool {
    let key = |link: &Link| match &link.kind {
        LinkKind::Vxlan(v) => Some((v.vni, v.port, v.local.is_some_and(|ip| ip.is_ipv6()))),
        LinkKind::Veth
        | LinkKind::Bridge
        | LinkKind::Loopback
        | LinkKind::Wireguard
        | LinkKind::Tun
        | LinkKind::Other(_) => None,
    };
    theirs
        .links
        .values()
        .any(|other| key(other).is_some() && key(other) == key(ours))
}

fn has(host: &Host, ip: IpAddr) -> bool {
    host.addresses.iter().any(|a| a.net.addr() == ip)
}
