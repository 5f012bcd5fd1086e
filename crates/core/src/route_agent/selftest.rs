//! The self-test of a node: pings to the active gateway that tell which half of its way is dead.
//!
//! What a worker sends to other clusters leaves by the nodes' VXLAN, and what comes back arrives by the CNI. Three pings
//! take these apart: there and back by the VXLAN; there by the VXLAN and back by the CNI, as traffic goes; there and back by the CNI. The
//! gateway's kernel answers them, whoever's agent runs there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use strait_api::gateway::ConnectionStatus;
use strait_api::names::NODE_VXLAN_PORT;
use strait_api::vtep::Vxlan;
use strait_host::Family;

use super::routes::device;
use super::view::{FamilyView, Role};
use super::{State, routes};
use crate::Condition;
use crate::health::{Report, Results, Target, Way};
use crate::net::ip_of;
use crate::time::Time;

/// How long a verdict must hold before it is told: pings that fail together are not found out in the same moment. None is
/// told at once.
const SETTLE: Duration = Duration::from_secs(2);

/// What is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The nodes' VXLAN.
    Tunnel,
    /// What comes by the CNI.
    Return,
    /// Both, or the gateway's node.
    Gateway,
}

/// Verdicts by family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SelfTest {
    tracks: BTreeMap<Family, Track>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Track {
    told: Option<Verdict>,
    /// Not told yet, and since when it holds.
    next: Option<(Verdict, Time)>,
}

impl SelfTest {
    pub(super) fn apply(&mut self, results: &Results, now: Time) {
        for family in Family::ALL {
            let verdict = Seen::of(results, family).verdict();
            let track = self.tracks.entry(family).or_default();
            match verdict {
                None => *track = Track::default(),
                Some(verdict) if track.told == Some(verdict) => track.next = None,
                Some(verdict) if track.next.is_some_and(|(next, _)| next == verdict) => {}
                Some(verdict) => track.next = Some((verdict, now)),
            }
        }
    }

    pub(super) fn tick(&mut self, now: Time) {
        for track in self.tracks.values_mut() {
            if let Some((verdict, since)) = track.next
                && since + SETTLE <= now
            {
                *track = Track {
                    told: Some(verdict),
                    next: None,
                };
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let pending = self.tracks.values().filter_map(|track| track.next);
        pending.map(|(_, since)| since + SETTLE).min()
    }
}

/// What pings of a family came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen<'a> {
    tunnel: Option<(&'a Target, &'a Report)>,
    round: Option<(&'a Target, &'a Report)>,
    cni: Option<(&'a Target, &'a Report)>,
    /// Another cluster answers: its answer came the whole way.
    cluster: bool,
    /// When the newest ping that another cluster answered was sent.
    answered: Option<Time>,
}

impl<'a> Seen<'a> {
    fn of(results: &'a Results, family: Family) -> Self {
        let of_family = || results.iter().filter(move |(t, _)| t.family == family);
        let clusters = || of_family().filter(|(t, r)| t.way == Way::Cluster && up(r) == Some(true));
        let by = |way| of_family().find(|(target, _)| target.way == way);
        Self {
            tunnel: by(Way::Tunnel),
            round: by(Way::Round),
            cni: by(Way::Cni),
            cluster: clusters().next().is_some(),
            answered: clusters().filter_map(|(_, report)| report.answered).max(),
        }
    }

    fn verdict(&self) -> Option<Verdict> {
        let status = |seen: Option<(&Target, &Report)>| seen.and_then(|(_, report)| up(report));
        let (tunnel, cni) = (status(self.tunnel), status(self.cni));
        let all = [self.tunnel, self.round, self.cni].into_iter().flatten();
        if self.cluster && all.map(|(_, report)| report.received).sum::<u64>() == 0 {
            // It answers no pings at all, and what they would tell is known.
            return None;
        }
        let dead = [self.tunnel, self.round].into_iter().flatten();
        let silent = dead.filter(|(_, report)| up(report) == Some(false));
        let silent = silent.filter_map(|(_, report)| report.silent).max();
        if silent.is_some() && self.answered > silent {
            // Since it fell silent, a ping went the whole way: it lets no more ICMP in.
            return None;
        }
        match (self.round.map(|(_, report)| up(report)), tunnel) {
            // Traffic gets through, whatever the rest says; or it can't be said yet.
            (Some(Some(true) | None), _) | (_, None) => None,
            (Some(Some(false)), Some(true)) => Some(Verdict::Return),
            (Some(Some(false)), Some(false)) if cni == Some(false) => Some(Verdict::Gateway),
            (Some(Some(false)) | None, Some(false)) => Some(Verdict::Tunnel),
            (None, Some(true)) => None,
        }
    }
}

/// Whether it answers; `None` while that is not known.
fn up(report: &Report) -> Option<bool> {
    match report.status {
        ConnectionStatus::Connected => Some(true),
        ConnectionStatus::Error => Some(false),
        ConnectionStatus::Connecting | ConnectionStatus::None => None,
    }
}

impl State {
    /// What this node pings to test itself in a family: nothing, unless it is a worker.
    pub(super) fn self_test_targets(&self, view: &FamilyView<'_>) -> BTreeSet<Target> {
        let mut targets = BTreeSet::new();
        let gateway = self.gateway.as_ref().filter(|_| {
            self.settings.health_check && self.settings.self_test && self.role() == Role::Worker
        });
        let (Some(gateway), Some(peer), Some(own)) = (gateway, &view.gateway, view.vtep()) else {
            return targets;
        };
        let mut add = |way, source, address| {
            targets.insert(Target {
                endpoint: gateway.name.clone(),
                family: view.family,
                cluster: gateway.cluster.clone(),
                address,
                source: Some(source),
                way,
            });
        };
        let inner = Vxlan::Nodes.inner(peer.outer);
        add(Way::Tunnel, own, inner);
        if let Some(cni) = &view.cni {
            add(Way::Round, cni.ip, inner);
            let published = ip_of(&gateway.health_check_ips, view.family);
            let address = published.filter(|ip| view.pods.iter().any(|net| net.contains(ip)));
            if let Some(address) = address.filter(|ip| *ip != cni.ip) {
                add(Way::Cni, cni.ip, address);
            }
        }
        targets
    }

    /// The address whose pings over the nodes' VXLAN must keep it, though the CNI would translate it.
    pub(super) fn self_test_source(&self, view: &FamilyView<'_>) -> Option<IpAddr> {
        let targets = self.self_test_targets(view);
        targets.iter().find(|t| t.way == Way::Round)?.source
    }

    /// Which half of the way is dead.
    pub(super) fn self_test_condition(&self, view: &FamilyView<'_>) -> Option<Condition> {
        let verdict = self.self_test.tracks.get(&view.family)?.told?;
        let seen = Seen::of(&self.health, view.family);
        let (tunnel, report) = seen.tunnel?;
        // What is known of another gateway or address says nothing of this one.
        let targets = self.self_test_targets(view);
        let tried = [seen.tunnel, seen.round, seen.cni].into_iter().flatten();
        if tried
            .into_iter()
            .any(|(target, _)| !targets.contains(target))
        {
            return None;
        }
        let (gateway, peer, underlay) = (
            self.gateway.as_ref()?,
            view.gateway.as_ref()?,
            view.underlay.as_ref()?,
        );
        let (family, dev, host) = (view.family, device(view.family), &gateway.hostname);
        let (outer, own, inner) = (peer.outer, underlay.ip, tunnel.address);
        let why: String = Some(&report.message)
            .filter(|why| !why.is_empty())
            .map(|why| format!(" ({why})"))
            .unwrap_or_default();
        let by_cni = seen.cni.and_then(|(t, r)| Some((t.address, up(r)?)));
        Some(match verdict {
            Verdict::Tunnel => {
                let but = match by_cni {
                    Some((ip, true)) => format!(", but by the CNI it does, at {ip}"),
                    Some((_, false)) | None => String::new(),
                };
                let message = format!(
                    "the {family} way out, over {dev}, is dead: gateway {host} does not answer pings to {inner} there{why}{but}; \
                     see that UDP {NODE_VXLAN_PORT} passes between {own} on {} and {outer}, both ways, that the route agent of {host} runs, and that \
                     {host} lets ICMP in",
                    underlay.link
                );
                Condition::degraded("TunnelToGatewayDead", message)
            }
            Verdict::Return => {
                let cni = view.cni.as_ref()?;
                let hint = match by_cni {
                    Some((ip, true)) => {
                        let links = routes::pod_network_links(self.host.as_ref()?, view);
                        let links: Vec<String> = links.into_iter().collect();
                        format!(
                            "the CNI carries its own packets both ways ({ip} answers), so something drops what comes from elsewhere: see the \
                             reverse-path filter of {} here and of {dev} on {host}, host policies of the CNI, and the source check of the cloud",
                            links.join(", ")
                        )
                    }
                    Some((ip, false)) => format!(
                        "nor does {host} answer by the CNI, at {ip}: see the CNI's routes and tunnel between {outer} and {own}"
                    ),
                    None => format!("see the CNI's routes and tunnel between {outer} and {own}"),
                };
                let message = format!(
                    "the {family} way back, by the CNI, is dead: gateway {host} answers pings to {inner} over {dev}, but not those from this node's \
                     CNI address {} on {}, whose answers come by the CNI; {hint}",
                    cni.ip, cni.link
                );
                Condition::degraded("ReturnPathDead", message)
            }
            Verdict::Gateway => {
                let at = by_cni.map_or_else(String::new, |(ip, _)| format!(", at {ip}"));
                let message = format!(
                    "gateway {host} answers {family} pings neither over {dev}, to {inner}{why}, nor by the CNI{at}: see that the node with {outer} is \
                     up, that this one ({own} on {}) reaches it, and that it lets ICMP in",
                    underlay.link
                );
                Condition::degraded("GatewayUnreachable", message)
            }
        })
    }
}
