//! What Submariner's route agent left on a node: what of it goes, when, and what must stay.
//!
//! Names and numbers are upstream's (`routeagent_driver/constants`, `KP/*`, `RA/handlers/mtu`). Chains, sets and tables are
//! known by their names. A route or rule has no name: one is taken for upstream's only if number, shape and protocol
//! are what upstream writes, and no daemon's protocol number stands on it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use strait_api::names::{
    CABLE_VXLAN, CABLE_VXLAN_6, NODE_VXLAN, NODE_VXLAN_6, ROUTE_PROTOCOL, TABLE_GATEWAY,
    TABLE_VXLAN_CABLE,
};
use strait_api::vtep::Vxlan;
use strait_host::leftovers::{Backend, Found, Names, XtTable};
use strait_host::nft::TableId;
use strait_host::{Family, Hop, Host, Route, RouteKind, Rule, TABLE_MAIN, Wanted};

use super::routes::device;
use super::view::FamilyView;
use crate::Condition;
use crate::time::Time;

/// Table and rule priority of what came in by a gateway with OVN-Kubernetes (upstream `RA/handlers/ovn`).
const TABLE_INGRESS: u32 = 149;
/// The node's port of OVN-Kubernetes.
const OVN_PORT: &str = "ovn-k8s-mp0";
/// How the names of upstream's chains begin, and those of its Globalnet, which is another process.
const CHAINS: &str = "SUBMARINER-";
const GLOBALNET: &str = "SUBMARINER-GN-";
/// Its chains.
const POSTROUTING: &str = "SUBMARINER-POSTROUTING";
const INPUT: &str = "SUBMARINER-INPUT";
const FORWARD: &str = "SUBMARINER-FORWARD";
const OWN_CHAINS: [&str; 4] = [POSTROUTING, INPUT, FORWARD, "SUBMARINER-FWD-MSSCLAMP"];
/// Its nftables tables: of 0.20, and since 0.22.
const TABLES: [&str; 3] = ["submariner", "submariner-ipv4", "submariner-ipv6"];
/// Its sets of ipset.
const SETS: [&str; 2] = ["SUBMARINER-LOCALCIDRS", "SUBMARINER-REMOTECIDRS"];
/// Protocol numbers of upstream's rules, and of who makes some by hand: `RTPROT_UNSPEC`, `RTPROT_BOOT`, `RTPROT_STATIC` in
/// linux/rtnetlink.h. Its routes have one of the last two.
const RULES: [u8; 3] = [0, 3, 4];
const ROUTES: [u8; 2] = [3, 4];
/// How long it is said that another agent is at work, after it last was.
const MEMORY: Duration = Duration::from_secs(300);
/// How long what somebody has put there anew is left alone.
const PAUSE: Duration = Duration::from_secs(30);
/// Leftovers that a message names one by one.
const NAMED: usize = 16;

/// Something that Submariner's route agent left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Leftover {
    /// A route.
    Route(Route),
    /// A policy rule.
    Rule(Rule),
    /// A chain of iptables, with the jumps to it.
    Chain(XtTable, String),
    /// A table of nftables.
    Table(TableId),
    /// A set of ipset.
    Set(String),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => {
                write!(f, "route {} in table {}", route.dst, route.table)?;
                let dev = route.hops().iter().find_map(|hop| hop.dev.as_ref());
                dev.map_or(Ok(()), |dev| write!(f, " by {dev}"))
            }
            Self::Rule(rule) => {
                write!(f, "{} rule {}", rule.family, rule.priority)?;
                if let Some(from) = rule.from {
                    write!(f, " from {from}")?;
                }
                if let Some(to) = rule.to {
                    write!(f, " to {to}")?;
                }
                write!(f, " to table {}", rule.table)
            }
            Self::Chain(table, name) => write!(f, "chain {name} of {table} with the jumps to it"),
            Self::Table(id) => write!(f, "nftables table {}", String::from(id.clone())),
            Self::Set(name) => write!(f, "ipset {name}"),
        }
    }
}

/// By which names leftovers in packet filters are known.
#[must_use]
pub fn names() -> Names {
    Names {
        chains: CHAINS.to_owned(),
        tables: TABLES.map(str::to_owned).into(),
        sets: SETS.map(str::to_owned).into(),
    }
}

/// What was found in packet filters and in the host's routing, and what has appeared there while we looked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Memory {
    found: Option<Found>,
    /// What has the shape of a route or rule of upstream's route agent.
    routing: Option<BTreeSet<Leftover>>,
    appeared: BTreeSet<String>,
    last: Option<Time>,
    pause: Option<Time>,
}

impl Memory {
    pub(super) fn apply(&mut self, found: Found, now: Time) {
        if let Some(before) = &self.found {
            let before = objects(before);
            let new = objects(&found).into_iter().filter(|o| !before.contains(o));
            let new = new.map(|object| object.to_string()).collect();
            self.appear(new, now);
        }
        self.found = Some(found);
    }

    /// The host was read. What is new in its routing is looked at more closely.
    pub(super) fn observe(&mut self, host: &Host, known: impl FnOnce() -> Known, now: Time) {
        let seen = written(host);
        if let Some(before) = &self.routing
            && !seen.is_subset(before)
        {
            let known = known();
            let theirs = |object: &&Leftover| match object {
                Leftover::Route(route) => known.route(route),
                Leftover::Rule(rule) => known.rule(rule, host),
                Leftover::Chain(..) | Leftover::Table(_) | Leftover::Set(_) => false,
            };
            let new = seen.difference(before).filter(theirs);
            let new = new.map(ToString::to_string).collect();
            self.appear(new, now);
        }
        self.routing = Some(seen);
    }

    fn appear(&mut self, new: BTreeSet<String>, now: Time) {
        if !new.is_empty() {
            self.appeared.extend(new);
            (self.last, self.pause) = (Some(now), Some(now));
        }
    }

    /// Forgets what was long ago.
    pub(super) fn tick(&mut self, now: Time) {
        if self.pause.is_some_and(|at| at + PAUSE <= now) {
            self.pause = None;
        }
        if self.last.is_some_and(|at| at + MEMORY <= now) {
            self.last = None;
            self.appeared.clear();
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let ends = [
            self.pause.map(|at| at + PAUSE),
            self.last.map(|at| at + MEMORY),
        ];
        ends.into_iter().flatten().min()
    }
}

/// What looks as if upstream's route agent had written it; table 100 is its gateway's.
fn written(host: &Host) -> BTreeSet<Leftover> {
    let routes = host.routes.iter().filter(|r| may_be(r));
    let routes = routes.filter(|r| r.table != TABLE_VXLAN_CABLE);
    let rules = host.rules.iter().filter(|r| plain(r));
    let rules = rules.filter(|r| r.table != TABLE_VXLAN_CABLE);
    let routes = routes.cloned().map(Leftover::Route);
    routes.chain(rules.cloned().map(Leftover::Rule)).collect()
}

/// All that was found, Globalnet's aside.
fn objects(found: &Found) -> Vec<Leftover> {
    let chains = found.chains.iter().flat_map(|(table, names)| {
        let own = names
            .iter()
            .filter(|name| OWN_CHAINS.contains(&name.as_str()));
        own.map(|name| Leftover::Chain(table.clone(), name.clone()))
    });
    let tables = found.tables.keys().cloned().map(Leftover::Table);
    let sets = found.sets.iter().cloned().map(Leftover::Set);
    chains.chain(tables).chain(sets).collect()
}

/// What there is of leftovers, in the order in which it goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// What may go.
    pub going: Vec<Leftover>,
    /// What must stay, with the reason.
    pub kept: Vec<(Leftover, String)>,
    /// Tables of iptables that can't be read, with the reason.
    pub unreadable: Vec<String>,
}

/// What of upstream's stands in the routing of this host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Routing {
    /// What is to go, the routes of a table before the rule that looks it up: the rule is known by them.
    pub going: Vec<Leftover>,
    /// What the pass of this plan takes over in its place, for people.
    pub inherited: BTreeSet<String>,
}

/// Finds it.
pub(super) fn routing(host: &Host, families: &[FamilyView<'_>], wanted: &Wanted) -> Routing {
    let mut all = Routing::default();
    let links =
        Family::ALL.map(|family| super::view::inherited(host, family).map(|_| device(family)));
    let links = links.into_iter().flatten();
    all.inherited
        .extend(links.map(|name| format!("link {name}")));
    let routes: Vec<&Route> = host.routes.iter().filter(|r| may_be(r)).collect();
    let rules = host.rules.iter().filter(|r| plain(r));
    let rules: Vec<&Rule> = rules.collect();
    // On most nodes, and on each that was taken over, there is nothing to look at more closely.
    if routes.is_empty() && rules.is_empty() {
        return all;
    }
    let subnets = families.iter().flat_map(|v| v.subnets.iter().copied());
    let known = Known::new(subnets, families.iter().flat_map(|v| &v.pods));
    let wanted = wanted.routes.get().into_iter().flatten();
    let wanted: BTreeSet<_> = wanted.map(Route::key).collect();
    for route in routes.into_iter().filter(|r| known.route(r)) {
        let leftover = Leftover::Route(route.clone());
        if wanted.contains(&route.key()) {
            all.inherited.insert(leftover.to_string());
        } else {
            all.going.push(leftover);
        }
    }
    let rules = rules.into_iter().filter(|rule| known.rule(rule, host));
    all.going.extend(rules.cloned().map(Leftover::Rule));
    all
}

impl Memory {
    /// What there is, beside what `routing` has.
    pub(super) fn leftovers(&self, routing: Vec<Leftover>) -> Leftovers {
        let mut all = Leftovers {
            going: routing,
            ..Leftovers::default()
        };
        let Some(found) = &self.found else {
            return all;
        };
        for object in objects(found) {
            match stays(&object, found) {
                Some(why) => all.kept.push((object, why)),
                None => all.going.push(object),
            }
        }
        let unread = found.unreadable.iter();
        all.unreadable = unread
            .map(|(table, why)| format!("{table}: {why}"))
            .collect();
        all
    }

    /// What is to be said of leftovers and of who else puts them there. `waits` says why what may go does not go yet.
    pub(super) fn conditions(
        &self,
        all: &Leftovers,
        adopt: bool,
        waits: Option<&str>,
    ) -> Vec<Condition> {
        let mut said = Vec::new();
        if !all.going.is_empty() {
            let then = match (adopt, waits) {
                (false, _) => "`strait route-agent --adopt` removes it".to_owned(),
                (true, None) => "it is being removed".to_owned(),
                (true, Some(why)) => format!("it goes once {why}"),
            };
            said.push(format!(
                "Submariner's route agent left on this node: {}; {then}",
                listed(all.going.iter())
            ));
        }
        said.extend(
            all.kept
                .iter()
                .map(|(object, why)| format!("{object} stays: {why}")),
        );
        said.extend(
            all.unreadable
                .iter()
                .map(|what| format!("whether it left anything can't be seen in {what}")),
        );
        let mut conditions = Vec::new();
        if !said.is_empty() {
            conditions.push(Condition::degraded("SubmarinerLeftovers", said.join("; ")));
        }
        if !self.appeared.is_empty() {
            let message = format!(
                "another agent is at work on this node: this has appeared while ours ran: {}; stop Submariner's route agent here",
                listed(self.appeared.iter())
            );
            conditions.push(Condition::degraded("ForeignAgent", message));
        }
        conditions
    }

    /// Why nothing may go yet: what is in its place must stand first, and whoever has just put it there gets time.
    pub(super) fn waits(
        &self,
        has_gateway: bool,
        families: &[FamilyView<'_>],
        routes: &BTreeSet<Route>,
    ) -> Option<&'static str> {
        let ways: BTreeSet<IpNet> = routes
            .iter()
            .filter(|r| matches!(r.kind, RouteKind::Unicast { .. }))
            .map(|r| r.dst)
            .collect();
        let mut subnets = families.iter().flat_map(|v| &v.subnets);
        if self.found.is_none() {
            Some("the packet filters of this host have been read")
        } else if !has_gateway {
            Some("this cluster has a gateway")
        } else if !subnets.all(|net| ways.contains(net)) {
            Some("there is a way of ours to each remote cluster")
        } else if self.pause.is_some() {
            Some("nobody has put it there anew for 30 s")
        } else {
            None
        }
    }
}

fn listed(mut all: impl ExactSizeIterator<Item = impl ToString>) -> String {
    let first = all.by_ref().take(NAMED);
    let mut words: Vec<String> = first.map(|one| one.to_string()).collect();
    if all.len() > 0 {
        words.push(format!("and {} more", all.len()));
    }
    words.join(", ")
}

/// Why something must not go; `None` if it may.
fn stays(object: &Leftover, found: &Found) -> Option<String> {
    let globalnet = |names: &BTreeSet<String>| {
        let first = names.iter().find(|name| name.starts_with(GLOBALNET))?;
        Some(format!(
            "Globalnet hangs on it ({first}), which is another process; remove that first"
        ))
    };
    match object {
        Leftover::Chain(table, chain) => {
            let built_in = match chain.as_str() {
                FORWARD => "FORWARD",
                INPUT => "INPUT",
                POSTROUTING => return globalnet(found.chains.get(table)?),
                _ => return None,
            };
            // In iptables-nft, rules of ours stand where a chain can drop.
            let drops = found
                .dropping
                .get(table)
                .is_some_and(|chains| chains.contains(built_in));
            (drops && table.backend == Backend::Legacy).then(|| {
                let rule = if built_in == "INPUT" {
                    "-p udp --dport 4800"
                } else {
                    "-o vx-submariner"
                };
                let t = table.command();
                format!(
                    "{built_in} drops there, and it lets through what remote clusters need. To replace it: {t} -I {built_in} {rule} -j ACCEPT; \
                     then {t} -S {built_in} shows the jumps to it, which -D removes, and -F and -X remove it"
                )
            })
        }
        Leftover::Table(id) => globalnet(found.tables.get(id)?),
        Leftover::Route(_) | Leftover::Rule(_) | Leftover::Set(_) => None,
    }
}

/// Whether a rule has a number and the protocol of upstream's, and selects by nothing that upstream does not.
fn plain(rule: &Rule) -> bool {
    let tables = [TABLE_GATEWAY, TABLE_INGRESS, TABLE_VXLAN_CABLE];
    tables.contains(&rule.table)
        && rule.priority == rule.table
        && rule.mark.is_none()
        && rule.link.is_none()
        && RULES.contains(&rule.protocol)
}

/// Whether a route stands where upstream's do, and no daemon's number on it.
fn may_be(route: &Route) -> bool {
    let hops = route.hops();
    let by = |links: [&str; 2], vxlan: Vxlan| {
        hops.iter().all(|hop| {
            let link = hop.dev.as_deref().is_some_and(|dev| links.contains(&dev));
            let via = |ip: IpAddr| vxlan.prefix(ip.is_ipv6()).contains(&ip);
            link && hop.via.is_some_and(via)
        })
    };
    !hops.is_empty()
        && ROUTES.contains(&route.protocol)
        && match route.table {
            TABLE_MAIN => by([NODE_VXLAN, NODE_VXLAN_6], Vxlan::Nodes),
            TABLE_VXLAN_CABLE => by([CABLE_VXLAN, CABLE_VXLAN_6], Vxlan::Gateways),
            TABLE_GATEWAY | TABLE_INGRESS => true,
            _ => false,
        }
}

/// By what upstream's routes and rules are known beside their numbers, which others may use too.
pub(super) struct Known {
    subnets: BTreeSet<IpNet>,
    pods: BTreeSet<IpNet>,
}

impl Known {
    pub(super) fn new<'a>(
        subnets: impl Iterator<Item = IpNet>,
        pods: impl Iterator<Item = &'a IpNet>,
    ) -> Self {
        Self {
            subnets: subnets.collect(),
            pods: pods.copied().collect(),
        }
    }

    /// Of a route that may be. A gateway's name the CNI address as their source; with OVN-Kubernetes, they have its device.
    fn route(&self, route: &Route) -> bool {
        if ![TABLE_GATEWAY, TABLE_INGRESS].contains(&route.table) {
            return true;
        }
        let of_a_pod_network = match &route.kind {
            RouteKind::Unicast { src: Some(ip), .. } => self.pods.iter().any(|n| n.contains(ip)),
            RouteKind::Unicast { src: None, .. }
            | RouteKind::Unreachable
            | RouteKind::Blackhole
            | RouteKind::Prohibit
            | RouteKind::Throw => false,
        };
        let ovn = |hop: &Hop| hop.dev.as_deref() == Some(OVN_PORT);
        of_a_pod_network || self.subnets.contains(&route.dst) || route.hops().iter().any(ovn)
    }

    /// Of a plain rule. One for everything is upstream's if nobody else has anything in the table.
    fn rule(&self, rule: &Rule, host: &Host) -> bool {
        let remote = |net: IpNet| self.subnets.contains(&net);
        match (rule.table, rule.from, rule.to) {
            (TABLE_GATEWAY, None, Some(to)) => remote(to),
            (TABLE_INGRESS, Some(from), _) => remote(from),
            (TABLE_GATEWAY | TABLE_VXLAN_CABLE, None, None) => host
                .routes
                .iter()
                .filter(|r| r.table == rule.table && r.family() == rule.family)
                .all(|r| r.protocol == ROUTE_PROTOCOL || may_be(r) && self.route(r)),
            _ => false,
        }
    }
}
