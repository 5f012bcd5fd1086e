//! One sequence: the agent's state, a kernel, and the model's verdict after each event.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use strait_core::Time;
use strait_core::machine::Machine;
use strait_core::route_agent::{Input, Plan, State, owner};
use strait_host::nft::Hook;
use strait_host::{Change, Family, Host, Route, diff};

use super::inputs::settings;
use super::kernel::{Found, Kernel, Packet, Verdict};
use super::reference::{Fate, Origin, Role, cable_inner, node_inner, pod_ip};
use super::world::{CABLES, Event, Foreign, World, host_of, net, node_ip, remote_ip};

const NODE_LINKS: [&str; 2] = ["vx-submariner", "vx-submariner-6"];

pub(crate) struct Trial {
    pub(super) world: World,
    state: State,
    kernel: Kernel,
}

macro_rules! ensure {
    ($holds:expr, $($message:tt)*) => {
        if !$holds {
            return Err(format!($($message)*));
        }
    };
}

pub(super) use ensure;

pub(super) type Checked = Result<(), String>;

impl Trial {
    /// The agent has just started, on a node where it never was.
    pub(crate) fn new(families: &[Family]) -> Self {
        let world = World::new(families.to_vec());
        let mut kernel = Kernel::default();
        kernel.follow(&world.foreign_host());
        let mut state = State::new(settings(families));
        for input in world.lists() {
            state.apply(input, Time::default());
        }
        Self {
            world,
            state,
            kernel,
        }
    }

    pub(crate) fn happen(&mut self, event: &Event) -> Checked {
        if let Event::Killed(event, share) = event {
            self.begin(event)?;
            self.killed(*share)?;
            return self.happen(&Event::Restart);
        }
        self.begin(event)?;
        self.settle()
    }

    /// It happens, and the agent knows, but has done nothing yet.
    fn begin(&mut self, event: &Event) -> Checked {
        let before = self.world.clone();
        self.world.happen(event);
        let now = self.now();
        self.kernel.follow(&self.world.foreign_host());
        if let Event::Deed(deed) = event {
            self.kernel.suffer(*deed);
        }
        if *event == Event::Restart {
            self.restart()?;
        }
        for input in self.world.told(&before, event) {
            if let Input::Endpoints(told) = &input {
                // An event of a watch says that it works again.
                self.world.api_away = matches!(told, strait_core::Event::Failed(_));
            }
            self.state.apply(input, now);
        }
        Ok(())
    }

    fn now(&self) -> Time {
        Time(std::time::Duration::from_millis(self.world.now))
    }

    /// A new process knows nothing, and touches nothing until it does.
    fn restart(&mut self) -> Checked {
        self.state = State::new(settings(&self.world.families));
        self.observe();
        let plan = self.state.plan();
        let changes = diff(&self.kernel.host, &plan.wanted, &owner()).changes;
        ensure!(
            changes.is_empty(),
            "it knows nothing, and changes {changes:?}"
        );
        Ok(())
    }

    fn observe(&mut self) {
        let host = Input::Host(std::sync::Arc::new(self.kernel.host.clone()));
        let now = self.now();
        self.state.apply(host, now);
    }

    /// One pass; a second one, which may only see to the reverse path of links that the first has made; a third, which finds
    /// nothing to do. Then the verdict.
    pub(crate) fn settle(&mut self) -> Checked {
        let strict: BTreeSet<String> = self.strict();
        let (_, first) = self.pass()?;
        let (_, second) = self.pass()?;
        let made = |path: &String| {
            first.iter().any(
                |c| matches!(c, Change::CreateLink(name, _) if path.contains(&format!("/{name}/"))),
            )
        };
        for change in &second {
            let late = matches!(change, Change::SetSysctl(path, _) if made(path));
            ensure!(late, "the second pass changes {change:?} after {first:?}");
        }
        let (plan, third) = self.pass()?;
        ensure!(third.is_empty(), "the third pass changes {third:?}");
        ensure!(plan == self.state.plan(), "the same state gives two plans");
        self.untouched()?;
        self.said(&plan)?;
        if self.world.foreign.contains(&Foreign::Table) {
            for family in self.world.families.clone() {
                self.sealed(family)?;
                self.entries(family)?;
            }
            return Ok(());
        }
        self.reverse_path(&strict)?;
        for family in self.world.families.clone() {
            self.flows(family)?;
            self.entries(family)?;
            self.tunnels(family)?;
        }
        Ok(())
    }

    fn pass(&mut self) -> Result<(Plan, Vec<Change>), String> {
        let (plan, changes) = self.planned()?;
        for change in &changes {
            self.make(change)?;
        }
        Ok((plan, changes))
    }

    /// What a pass would change.
    pub(super) fn planned(&mut self) -> Result<(Plan, Vec<Change>), String> {
        self.observe();
        let plan = self.state.plan();
        let difference = diff(&self.kernel.host, &plan.wanted, &owner());
        let named = self.world.conflicts(&self.kernel.host);
        ensure!(
            difference.conflicts.is_empty() != named,
            "conflicts {:?}, but the model {named}",
            difference.conflicts
        );
        Ok((plan, difference.changes))
    }

    pub(super) fn make(&mut self, change: &Change) -> Checked {
        let made = self.kernel.make(change);
        made.map_err(|why| format!("the kernel refuses {change:?}: {why}"))
    }

    /// What others have is there and as it was.
    pub(super) fn untouched(&self) -> Checked {
        let own = owner();
        let theirs = |host: &Host| {
            let mut host = host.clone();
            let ours: BTreeSet<String> = host
                .links
                .iter()
                .filter(|(n, l)| own.owns_link(n, l))
                .map(|(n, _)| n.clone())
                .collect();
            host.links.retain(|n, _| !ours.contains(n));
            host.addresses.retain(|a| !ours.contains(&a.link));
            host.neighbours.retain(|n| !ours.contains(&n.link));
            host.fdb.retain(|f| !ours.contains(&f.link));
            host.routes.retain(|r| !own.owns_route(r));
            host.rules.retain(|r| !own.owns_rule(r));
            host.nft.retain(|id, table| !own.owns_table(id, table));
            host.sysctls.clear();
            host
        };
        let (have, should) = (theirs(&self.kernel.host), self.world.foreign_host());
        ensure!(
            have == should,
            "others' objects: {have:#?}\nshould be {should:#?}"
        );
        Ok(())
    }

    fn said(&self, plan: &Plan) -> Checked {
        let said: BTreeSet<&str> = plan.conditions.iter().map(|c| c.name).collect();
        let should = self.world.conditions();
        ensure!(
            said == should,
            "conditions {said:?}, but the model says {should:?}: {:#?}",
            plan.conditions
        );
        Ok(())
    }

    fn strict(&self) -> BTreeSet<String> {
        let links = self.kernel.host.links.keys();
        let value = |name: &String| {
            let path = strait_host::rp_filter_path(name);
            self.kernel.host.sysctl(&path)
        };
        links.filter(|n| value(n) == Some(1)).cloned().collect()
    }

    /// Loose where replies arrive, and as it was everywhere else.
    fn reverse_path(&self, before: &BTreeSet<String>) -> Checked {
        let w = &self.world;
        let mut loose: BTreeSet<String> = BTreeSet::new();
        if w.families.contains(&Family::V4) {
            let (nic, cni) = (w.underlay(Family::V4), w.cni_address(Family::V4));
            loose.extend(nic.map(|(_, nic)| format!("eth{nic}")));
            loose.extend(
                cni.map(|(_, link)| link.to_owned())
                    .filter(|l| l != "veth9"),
            );
            let routed = w.cni.iter().filter(|(_, l)| l.routes && l.up);
            loose.extend(routed.map(|(l, _)| super::world::CNI_LINKS[*l].to_owned()));
            if w.role() == Role::Gateway || w.stands_by() {
                loose.insert(CABLES[0].to_owned());
                if !w.link_is_taken(Family::V4) && nic.is_some() {
                    loose.insert(NODE_LINKS[0].to_owned());
                }
            }
        }
        let now = self.strict();
        let wrong: Vec<&String> = loose.intersection(&now).collect();
        ensure!(wrong.is_empty(), "replies are dropped on {wrong:?}");
        let links = &self.kernel.host.links;
        let lost: Vec<&String> = before
            .difference(&now)
            .filter(|n| links.contains_key(*n) && !loose.contains(*n))
            .collect();
        ensure!(lost.is_empty(), "loosened without need: {lost:?}");
        Ok(())
    }

    /// Without our table, what was led to other clusters before may go on; nothing goes there in clear.
    fn sealed(&self, family: Family) -> Checked {
        let (routed, _) = self.world.routed();
        for (cluster, subnet) in routed.iter().filter(|(_, n)| Family::of_net(n) == family) {
            if self.world.foreign.contains(&Foreign::Route) && *subnet == net("10.21.0.0/16") {
                continue;
            }
            let dst = host_of(subnet, 200);
            let found = self.kernel.look_up(dst);
            let led = |dev: &str| NODE_LINKS.contains(&dev) || CABLES.contains(&dev);
            let good = match &found {
                Found::Out { dev, .. } => led(dev),
                Found::Nowhere => true,
                Found::Local => false,
            };
            ensure!(good, "{dst} of {}: {found:?}", World::name(*cluster));
        }
        Ok(())
    }

    fn flows(&self, family: Family) -> Checked {
        let (routed, _) = self.world.routed();
        for (cluster, subnet) in routed.iter().filter(|(_, n)| Family::of_net(n) == family) {
            if self.world.foreign.contains(&Foreign::Route) && *subnet == net("10.21.0.0/16") {
                continue;
            }
            let dst = host_of(subnet, 200);
            let at = format!("{dst} of {}", World::name(*cluster));
            for origin in [Origin::Pod, Origin::Host, Origin::BoundHost] {
                let Some(should) = self.world.fate(family, origin, *cluster) else {
                    continue;
                };
                let Some(is) = self.send(family, origin, dst) else {
                    continue;
                };
                ensure!(
                    is == should,
                    "{origin:?} to {at}: {is:?}, but the model: {should:?}"
                );
            }
            self.inward(family, subnet)?;
            self.answered(family, subnet)?;
            self.passed_on(family, *cluster, dst)?;
            self.segment_size(family, dst)?;
        }
        if self.world.role() == Role::Gateway {
            self.outside(family, &routed)?;
        }
        Ok(())
    }

    /// Sends a packet; `None` where this host has no address to send it from.
    pub(super) fn send(&self, family: Family, origin: Origin, dst: IpAddr) -> Option<Fate> {
        let bound = node_ip(0, self.world.host_address, family);
        let found = self.kernel.look_up(dst);
        let Found::Out { dev, via, src } = found else {
            return Some(Fate::Refused);
        };
        let src = match origin {
            Origin::Pod => pod_ip(family),
            Origin::Host => src?,
            Origin::BoundHost => bound?,
        };
        let mut packet = Packet::new(src, dst);
        packet.output.clone_from(&dev);
        if origin == Origin::Pod {
            packet.input = "veth-pod".into();
            if self.kernel.filter(Hook::Forward, &mut packet) == Verdict::Drop {
                return Some(Fate::Refused);
            }
        }
        let source = match self.kernel.filter(Hook::Postrouting, &mut packet) {
            Verdict::Snat(ip) => ip,
            Verdict::Drop => return Some(Fate::Refused),
            Verdict::Accept | Verdict::Return => src,
        };
        let to_nodes = NODE_LINKS.contains(&dev.as_str());
        if !to_nodes && !CABLES.contains(&dev.as_str()) {
            return Some(Fate::Clear);
        }
        let via = via?;
        if !to_nodes {
            return Some(Fate::Cable { inner: via, source });
        }
        let outer = self.kernel.outer(&dev, via);
        let one = outer.iter().next().filter(|_| outer.len() == 1)?;
        Some(Fate::ToGateway {
            outer: *one,
            source,
        })
    }

    /// Connections from other clusters begin where they can arrive, and nowhere else.
    fn inward(&self, family: Family, subnet: &IpNet) -> Checked {
        let way = match self.world.role() {
            Role::Gateway => CABLES[usize::from(family == Family::V6)],
            Role::Worker(..) | Role::None => NODE_LINKS[usize::from(family == Family::V6)],
        };
        let cable = CABLES[usize::from(family == Family::V6)];
        let by_cable = self.world.role() == Role::Gateway || self.world.stands_by();
        for (link, open) in [(way, true), (cable, by_cable), ("veth-pod", false)] {
            let mut packet = Packet::new(host_of(subnet, 200), pod_ip(family));
            packet.input = link.to_owned();
            let forward = self.kernel.filter(Hook::Forward, &mut packet);
            ensure!(
                (forward != Verdict::Drop) == open,
                "{packet:?} from {link}: {forward:?}"
            );
            let source = self.kernel.filter(Hook::Postrouting, &mut packet);
            ensure!(
                source == Verdict::Snat(packet.src),
                "{packet:?} keeps no source: {source:?}"
            );
        }
        Ok(())
    }

    /// Somebody's strict reverse-path filter that looks at marks lets in what arrives where it should; and no mark stays.
    fn answered(&self, family: Family, subnet: &IpNet) -> Checked {
        let (w, at) = (&self.world, usize::from(family == Family::V6));
        if !w.foreign.contains(&Foreign::ReversePath) {
            return Ok(());
        }
        let mut arrives: BTreeSet<(IpAddr, String)> = BTreeSet::new();
        let remote = host_of(subnet, 200);
        if w.role() != Role::Gateway {
            let (nic, cni) = (w.underlay(family), w.cni_address(family));
            let mut links: BTreeSet<String> =
                nic.iter().map(|(_, nic)| format!("eth{nic}")).collect();
            let cni = cni.map(|(_, link)| link.to_owned());
            links.extend(cni.filter(|link| link != "veth9"));
            let routed = w.cni.iter().filter(|(_, l)| l.routes && l.up);
            links.extend(routed.map(|(l, _)| super::world::CNI_LINKS[*l].to_owned()));
            if w.stands_by() {
                links.insert(CABLES[at].to_owned());
            }
            arrives.extend(links.into_iter().map(|link| (remote, link)));
        }
        let serves = w.role() == Role::Gateway || w.stands_by();
        if serves && w.underlay(family).is_some() && !w.link_is_taken(family) {
            arrives.insert((pod_ip(family), NODE_LINKS[at].to_owned()));
        }
        for (source, link) in arrives {
            let mut packet = Packet::new(source, pod_ip(family));
            packet.input.clone_from(&link);
            self.kernel.chain_if_there("prerouting-first", &mut packet);
            let back = self.kernel.look_up_from(None, packet.mark, source);
            let found = matches!(&back, Found::Out { dev, .. } if *dev == link);
            ensure!(found, "{packet:?} by {link} is dropped: {back:?}");
            self.kernel.chain_if_there("prerouting-last", &mut packet);
            ensure!(packet.mark == 0, "{packet:?} is routed by its mark");
        }
        Ok(())
    }

    /// What other nodes send to one that stands by goes to the other cluster from there.
    fn passed_on(&self, family: Family, cluster: usize, dst: IpAddr) -> Checked {
        let w = &self.world;
        let private = w
            .remotes
            .get(&cluster)
            .and_then(|r| remote_ip(cluster, r, family));
        let Some(private) = private.filter(|_| w.stands_by() && w.distinct(cluster, family)) else {
            return Ok(());
        };
        let at = usize::from(family == Family::V6);
        let found = self.kernel.look_up_from(Some(NODE_LINKS[at]), 0, dst);
        let Found::Out { dev, via, .. } = &found else {
            return Err(format!(
                "what other nodes send to {dst} ends here: {found:?}"
            ));
        };
        let good = dev == CABLES[at] && *via == Some(cable_inner(private));
        ensure!(good, "what other nodes send to {dst} goes to {found:?}");
        Ok(())
    }

    fn segment_size(&self, family: Family, dst: IpAddr) -> Checked {
        let asked = self.world.annotation.flatten();
        let asked = asked.filter(|_| self.world.nodes.contains_key(&0));
        for hook in [Hook::Forward, Hook::Output] {
            let mut packet = Packet::new(pod_ip(family), dst);
            (packet.transport, packet.syn) = (6, true);
            self.kernel.filter(hook, &mut packet);
            ensure!(
                packet.mss == Some(asked.unwrap_or(0)),
                "{:?} at {hook:?}, but {asked:?} was asked for",
                packet.mss
            );
        }
        Ok(())
    }

    /// On a gateway: a cable's own packets never go into a cable.
    fn outside(&self, family: Family, routed: &[(usize, IpNet)]) -> Checked {
        for (cluster, remote) in &self.world.remotes {
            let Some(outer) = remote_ip(*cluster, remote, family) else {
                continue;
            };
            let own = routed
                .iter()
                .any(|(c, n)| c == cluster && n.contains(&outer));
            // Another cluster's subnet is that cluster's: who claims an address in it is not believed.
            let others = routed
                .iter()
                .any(|(c, n)| c != cluster && n.contains(&outer));
            if let (true, false, Found::Out { dev, .. }) = (own, others, self.kernel.look_up(outer))
            {
                ensure!(
                    !CABLES.contains(&dev.as_str()),
                    "the cable to {outer} goes by itself"
                );
            }
        }
        Ok(())
    }

    /// The device, its address and size; exact entries towards those who publish an Ethernet address.
    fn entries(&self, family: Family) -> Checked {
        let name = NODE_LINKS[usize::from(family == Family::V6)];
        let w = &self.world;
        if w.link_is_taken(family) {
            return Ok(());
        }
        let host = &self.kernel.host;
        let Some((own, nic)) = w.underlay(family) else {
            ensure!(
                !host.links.contains_key(name),
                "{name} without an address to stand on"
            );
            return Ok(());
        };
        let link = host.links.get(name).ok_or(format!("no {name}"))?;
        let below = if nic == 0 { w.mtu } else { 1500 };
        let mtu = below - if family == Family::V4 { 50 } else { 70 };
        ensure!(link.mtu == mtu && link.up, "{link:?}, but MTU {mtu}");
        let inner: Vec<_> = host.addresses_of(name).map(|a| a.net.addr()).collect();
        ensure!(inner == [node_inner(own)], "{name} has {inner:?}");
        if w.role() != Role::Gateway {
            return Ok(());
        }
        let mut seen: BTreeSet<IpAddr> = [node_inner(own)].into();
        let others = w.nodes.iter().filter(|(n, _)| **n != 0);
        let mut outers: Vec<(IpAddr, usize)> = others
            .filter_map(|(n, which)| Some((node_ip(*n, *which, family)?, *n)))
            .collect();
        // Of two nodes that can't be told apart, the one goes first whose address is more like ours, then the lower address.
        let like_own = |ip: &IpAddr| {
            let longest = if ip.is_ipv4() { 32 } else { 128 };
            let shares = |length: &u8| IpNet::new(own, *length).is_ok_and(|net| net.contains(ip));
            (0..=longest).rev().find(shares)
        };
        outers.sort_by_key(|(ip, node)| (Reverse(like_own(ip)), *ip, *node));
        for (outer, node) in outers {
            if !seen.insert(node_inner(outer)) {
                continue;
            }
            let to = self.kernel.outer(name, node_inner(outer));
            // What can't be listed may be as it was, or not.
            let exact = !w.agents_refused && w.agents.get(&node) == Some(&true);
            let good = if exact {
                to == [outer].into()
            } else {
                to.contains(&outer)
            };
            ensure!(
                good,
                "{name}: {} goes to {to:?}, not {outer}",
                node_inner(outer)
            );
        }
        Ok(())
    }

    /// Tunnels are open for who is known, and for nobody else.
    fn tunnels(&self, family: Family) -> Checked {
        let stranger: IpAddr = match family {
            Family::V4 => [203, 0, 113, 9].into(),
            Family::V6 => "2001:db8::9".parse().unwrap(),
        };
        let w = &self.world;
        let open = |port, src| {
            let mut packet = Packet::new(src, stranger);
            packet.port = port;
            packet.input = "eth0".into();
            self.kernel.filter(Hook::Input, &mut packet) != Verdict::Drop
        };
        ensure!(!open(4800, stranger), "anybody may speak the nodes' VXLAN");
        for (node, which) in w.nodes.iter().filter(|(n, _)| **n != 0) {
            if let Some(ip) = node_ip(*node, *which, family) {
                ensure!(open(4800, ip), "{ip} may not speak the nodes' VXLAN");
            }
        }
        if w.role() == Role::Gateway || w.stands_by() {
            ensure!(!open(4500, stranger), "anybody may speak the cable");
            for (cluster, subnet) in w.routed().0 {
                let remote = &w.remotes[&cluster];
                let of = Family::of_net(&subnet) == family;
                if let Some(ip) = remote_ip(cluster, remote, family).filter(|_| of) {
                    ensure!(open(4500, ip), "{ip} may not speak the cable");
                }
            }
        }
        Ok(())
    }
}

impl World {
    /// Whether somebody's object stands where one of ours is wanted.
    fn conflicts(&self, host: &Host) -> bool {
        let v4 = self.families.contains(&Family::V4);
        let link = v4 && self.underlay(Family::V4).is_some() && self.link_is_taken(Family::V4);
        let by_gateway = matches!(
            self.fate(Family::V4, Origin::Pod, 0),
            Some(Fate::ToGateway { .. })
        ) || (matches!(self.role(), Role::Worker(..))
            && self.link_is_taken(Family::V4));
        let to = self
            .routed()
            .0
            .iter()
            .any(|(_, n)| *n == net("10.21.0.0/16"));
        let theirs = |r: &Route| r.dst == net("10.21.0.0/16") && r.protocol == 4;
        let there = host.routes.iter().any(theirs);
        self.foreign.contains(&Foreign::Table)
            || link
            || (v4 && by_gateway && to && there && self.wants_route())
    }

    fn wants_route(&self) -> bool {
        matches!(self.role(), Role::Worker(node, which)
            if node_ip(node, which, Family::V4).is_some() && self.underlay(Family::V4).is_some())
    }
}
