//! The difference between what a host has and what an owner wants of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use crate::firewall;
use crate::nft::{self, TableId};
use crate::unshared::unshared;
use crate::{Address, Change, Host, Mac, Owned, Owner, Route, Rule, Stage, Wanted, rp_filter_path};

/// `RTPROT_BOOT` and `RTPROT_STATIC` in linux/rtnetlink.h: no daemon has put its number on the route.
const UNCLAIMED: [u8; 2] = [3, 4];

mod links;

pub use links::Remade;
use links::{adoptable, links, recreated, undirected};

/// What to do, and what stands in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Changes in the order in which they are safe.
    pub changes: Vec<Change>,
    /// Foreign objects in the place of wanted ones. They are not touched.
    pub conflicts: Vec<Conflict>,
    /// Links of ours that go and are made anew, since they can't become what is wanted while they are in use: what they carry in between is lost.
    pub remade: Vec<Remade>,
}

/// A foreign object where one of ours should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub enum Conflict {
    /// A link of our name that is of another type.
    #[error("a foreign link has the name {0}")]
    Link(String),
    /// Another link has our VXLAN network identifier and port.
    #[error("the foreign link {other} has VNI {vni} and UDP port {port}, which {wanted} needs")]
    Vxlan {
        /// The link that we can't make.
        wanted: String,
        /// The link in the way.
        other: String,
        /// The network identifier.
        vni: u32,
        /// The UDP port.
        port: u16,
    },
    /// An nftables table of our name that does not carry our mark.
    #[error("a foreign nftables table has the name {}", String::from(.0.clone()))]
    Table(TableId),
    /// A foreign route with the same table, destination and metric.
    #[error(
        "a foreign route (protocol {protocol}) to {dst} with metric {metric} stands in table {table}"
    )]
    Route {
        /// Its table.
        table: u32,
        /// Its destination.
        dst: ipnet::IpNet,
        /// Its metric.
        metric: u32,
        /// Who installed it.
        protocol: u8,
    },
}

/// Compares `host` with what `owner` wants.
///
/// Carrying out the changes on `host` gives what is wanted, but for the conflicts; equals give no change;
/// no change names an object that is not the owner's.
#[must_use]
pub fn diff(host: &Host, wanted: &Wanted, owner: &Owner) -> Difference {
    let mut d = Difference::default();
    let mut removals = Vec::new();
    let links = links(host, wanted, owner, &mut d, &mut removals);
    removals.extend(reaped(host, wanted, owner));
    let gone = recreated(&links);
    let routes = routes(host, wanted, owner, &gone, &mut d.conflicts, &mut removals);
    addresses(host, wanted, owner, &gone, &mut d.changes, &mut removals);
    neighbours(host, wanted, owner, &gone, &mut d.changes, &mut removals);
    fdb(host, wanted, owner, &gone, &mut d.changes, &mut removals);
    rules(host, wanted, owner, &mut d.changes, &mut removals);
    nft(host, wanted, owner, &mut d.changes, &mut d.conflicts);
    if let Owned::Set(accepts) = &wanted.accepts {
        d.changes.extend(firewall::diff(&host.filters, accepts));
    }
    sysctls(host, wanted, &mut d.changes);
    d.changes.extend(routes);
    // Stable: within a stage the order above is kept. The links keep their own order: one that is made
    // anew has its removal in front.
    d.changes.sort_by_key(Change::stage);
    // The kernel takes no route by way of an address of this host: that goes before the routes come.
    let hops = next_hops(&d.changes);
    let (in_the_way, rest): (Vec<Change>, Vec<Change>) = removals
        .into_iter()
        .partition(|c| matches!(c, Change::RemoveAddress(a) if hops.contains(&a.net.addr())));
    removals = rest;
    let at = d.changes.partition_point(|c| c.stage() < Stage::Routes);
    d.changes.splice(at..at, in_the_way);
    // What takes the place of a default destination comes before that goes.
    let early = undirected(host, &links);
    let (mut first, rest): (Vec<Change>, Vec<Change>) = d
        .changes
        .into_iter()
        .partition(|c| matches!(c, Change::SetFdb(f) if early.contains(&f.link)));
    d.changes = rest;
    first.extend(links);
    let at = d.changes.partition_point(|c| c.stage() < Stage::Links);
    d.changes.splice(at..at, first);
    removals.sort_by_key(removal_order);
    d.changes.extend(removals);
    drop_lost_on_conflicts(&mut d);
    d
}

/// By way of whom routes are about to lead.
fn next_hops(changes: &[Change]) -> BTreeSet<IpAddr> {
    let routes = changes.iter().filter_map(|change| {
        if let Change::SetRoute(route) = change {
            Some(route.hops())
        } else {
            None
        }
    });
    routes.flatten().filter_map(|hop| hop.via).collect()
}

/// What was wanted on a link that can't be ours makes no sense without it. Without our table nothing is opened, and no traffic led
/// where its source would be wrong.
fn drop_lost_on_conflicts(d: &mut Difference) {
    let is_table = |c: &Conflict| matches!(c, Conflict::Table(_));
    if d.conflicts.iter().any(is_table) {
        d.changes.retain(|change| {
            let opens = matches!(change, Change::SetSysctl(..) | Change::SetAccepts(..));
            !opens && change.stage() != Stage::Routes
        });
    }
    let lost: BTreeSet<String> = d
        .conflicts
        .iter()
        .filter_map(|c| match c {
            Conflict::Link(name) | Conflict::Vxlan { wanted: name, .. } => Some(name.clone()),
            Conflict::Route { .. } | Conflict::Table(_) => None,
        })
        .collect();
    if lost.is_empty() {
        return;
    }
    d.changes.retain(|change| match change {
        Change::AddAddress(a) => !lost.contains(&a.link),
        Change::SetNeighbour(n) => !lost.contains(&n.link),
        Change::SetFdb(f) => !lost.contains(&f.link),
        Change::SetRoute(r) => !r
            .hops()
            .iter()
            .any(|h| h.dev.as_ref().is_some_and(|dev| lost.contains(dev))),
        // `net/FAMILY/conf/LINK/KEY`
        Change::SetSysctl(path, _) => !path.split('/').nth(3).is_some_and(|dev| lost.contains(dev)),
        Change::CreateLink(..)
        | Change::ChangeLink(..)
        | Change::RemoveLink(_)
        | Change::RemoveAddress(_)
        | Change::RemoveNeighbour(_)
        | Change::RemoveFdb(_)
        | Change::Nft(_)
        | Change::SetAccepts(..)
        | Change::RemoveRoute(_)
        | Change::AddRule(_)
        | Change::RemoveRule(_) => true,
    });
}

/// Rules go first and guards last, so that nothing leaks while the rest goes.
fn removal_order(change: &Change) -> u8 {
    match change {
        Change::RemoveRule(_) => 0,
        Change::RemoveRoute(r) if matches!(r.kind, crate::RouteKind::Unicast { .. }) => 1,
        Change::RemoveFdb(_) => 2,
        Change::RemoveNeighbour(_) => 3,
        Change::RemoveAddress(_) => 4,
        Change::RemoveLink(_) => 5,
        Change::RemoveRoute(_)
        | Change::CreateLink(..)
        | Change::ChangeLink(..)
        | Change::AddAddress(_)
        | Change::SetNeighbour(_)
        | Change::SetFdb(_)
        | Change::Nft(_)
        | Change::SetAccepts(..)
        | Change::SetSysctl(..)
        | Change::SetRoute(_)
        | Change::AddRule(_) => 6,
    }
}

/// Links of another owner with our mark, that go.
fn reaped<'a>(
    host: &'a Host,
    wanted: &'a Wanted,
    owner: &'a Owner,
) -> impl Iterator<Item = Change> + 'a {
    let marked = |name: &&String| {
        let alias = host.links.get(*name).and_then(|l| l.alias.as_ref());
        alias == Some(&owner.alias) && !owner.links.contains(*name)
    };
    let names = wanted.reaped.iter().filter(marked);
    names.cloned().map(Change::RemoveLink)
}

/// Links on which the owner may add and remove: its own and the ones that it adopts in this pass.
fn on_owned(host: &Host, wanted: &Wanted, owner: &Owner, link: &str) -> bool {
    host.links.get(link).is_some_and(|have| {
        owner.owns_link(link, have)
            || wanted
                .links
                .get()
                .and_then(|l| l.get(link))
                .is_some_and(|want| adoptable(have, want))
    })
}

fn addresses(
    host: &Host,
    wanted: &Wanted,
    owner: &Owner,
    gone: &BTreeSet<String>,
    changes: &mut Vec<Change>,
    removals: &mut Vec<Change>,
) {
    let Owned::Set(want) = &wanted.addresses else {
        return;
    };
    let missing = |a: &&Address| gone.contains(&a.link) || !host.addresses.contains(a);
    changes.extend(want.iter().filter(missing).cloned().map(Change::AddAddress));
    let extra = host.addresses.iter().filter(|a| {
        !want.contains(a)
            && !a.is_kernels()
            && !gone.contains(&a.link)
            && on_owned(host, wanted, owner, &a.link)
    });
    removals.extend(extra.cloned().map(Change::RemoveAddress));
}

fn neighbours(
    host: &Host,
    wanted: &Wanted,
    owner: &Owner,
    gone: &BTreeSet<String>,
    changes: &mut Vec<Change>,
    removals: &mut Vec<Change>,
) {
    let Owned::Set(want) = &wanted.neighbours else {
        return;
    };
    let missing = want
        .iter()
        .filter(|n| gone.contains(&n.link) || !host.neighbours.contains(n));
    changes.extend(missing.cloned().map(Change::SetNeighbour));
    let kept: BTreeSet<_> = want.iter().map(|n| (&n.link, n.ip)).collect();
    let extra = host.neighbours.iter().filter(|n| {
        !kept.contains(&(&n.link, n.ip))
            && !gone.contains(&n.link)
            && on_owned(host, wanted, owner, &n.link)
    });
    removals.extend(extra.cloned().map(Change::RemoveNeighbour));
}

fn fdb(
    host: &Host,
    wanted: &Wanted,
    owner: &Owner,
    gone: &BTreeSet<String>,
    changes: &mut Vec<Change>,
    removals: &mut Vec<Change>,
) {
    let Owned::Set(want) = &wanted.fdb else {
        return;
    };
    let missing = want
        .iter()
        .filter(|f| gone.contains(&f.link) || !host.fdb.contains(f));
    changes.extend(missing.cloned().map(Change::SetFdb));
    let replaced: BTreeSet<_> = want
        .iter()
        .filter(|f| f.mac != Mac::ZERO)
        .map(|f| (&f.link, f.mac))
        .collect();
    let extra = host.fdb.iter().filter(|f| {
        !want.contains(f)
            && !replaced.contains(&(&f.link, f.mac))
            && !gone.contains(&f.link)
            && on_owned(host, wanted, owner, &f.link)
    });
    removals.extend(extra.cloned().map(Change::RemoveFdb));
}

fn nft(
    host: &Host,
    wanted: &Wanted,
    owner: &Owner,
    changes: &mut Vec<Change>,
    conflicts: &mut Vec<Conflict>,
) {
    let Owned::Set(want) = &wanted.nft else {
        return;
    };
    let ids: BTreeSet<&TableId> = want.keys().chain(&owner.tables).collect();
    let mut ops = Vec::new();
    for id in ids {
        let have = host.nft.get(id);
        if have.is_some_and(|table| !owner.owns_table(id, table)) {
            if want.contains_key(id) {
                conflicts.push(Conflict::Table(id.clone()));
            }
            continue;
        }
        ops.extend(nft::diff_table(id, have, want.get(id)));
    }
    if !ops.is_empty() {
        changes.push(Change::Nft(ops));
    }
}

fn sysctls(host: &Host, wanted: &Wanted, changes: &mut Vec<Change>) {
    for (path, value) in &wanted.sysctls {
        if host
            .sysctls
            .get(path)
            .is_none_or(|have| have.trim() != value)
        {
            changes.push(Change::SetSysctl(path.clone(), value.clone()));
        }
    }
    let all = host.sysctl(&rp_filter_path("all")).unwrap_or(0);
    for dev in &wanted.loose_reverse_path {
        let path = rp_filter_path(dev);
        // A link that this pass makes has no entry yet: the next pass, which its event brings, sees it.
        if host.sysctl(&path).is_some_and(|own| own.max(all) == 1) {
            changes.push(Change::SetSysctl(path, "2".to_owned()));
        }
    }
}

fn routes(
    host: &Host,
    wanted: &Wanted,
    owner: &Owner,
    gone: &BTreeSet<String>,
    conflicts: &mut Vec<Conflict>,
    removals: &mut Vec<Change>,
) -> Vec<Change> {
    let Owned::Set(want) = &wanted.routes else {
        return Vec::new();
    };
    let mut changes = Vec::new();
    let lost = |r: &Route| {
        r.hops()
            .iter()
            .any(|h| h.dev.as_ref().is_some_and(|dev| gone.contains(dev)))
    };
    // There may be thousands, and mostly nothing differs: both are in order, and are gone through side by side.
    let (others, mut missing) = unshared(&host.routes, want);
    let in_place: BTreeMap<_, &Route> = others.iter().map(|r| (r.key(), *r)).collect();
    let replaced: BTreeSet<_> = missing.iter().map(|r| r.key()).collect();
    if !gone.is_empty() {
        missing = want
            .iter()
            .filter(|r| lost(r) || !host.routes.contains(*r))
            .collect();
    }
    for route in missing {
        match in_place.get(&route.key()) {
            Some(other) if !owner.owns_route(other) && !inherited(host, wanted, owner, other) => {
                conflicts.push(Conflict::Route {
                    table: other.table,
                    dst: other.dst,
                    metric: other.metric,
                    protocol: other.protocol,
                })
            }
            _ => changes.push(Change::SetRoute(route.clone())),
        }
    }
    let extra = others
        .into_iter()
        .filter(|r| owner.owns_route(r) && !replaced.contains(&r.key()));
    removals.extend(extra.cloned().map(Change::RemoveRoute));
    changes
}

/// A route that a predecessor left: of nobody's protocol, and by way of links that are the owner's or become so in this pass.
fn inherited(host: &Host, wanted: &Wanted, owner: &Owner, route: &Route) -> bool {
    let owned = |hop: &crate::Hop| {
        let dev = hop.dev.as_ref();
        dev.is_some_and(|dev| on_owned(host, wanted, owner, dev))
    };
    UNCLAIMED.contains(&route.protocol)
        && !route.hops().is_empty()
        && route.hops().iter().all(owned)
}

fn rules(
    host: &Host,
    wanted: &Wanted,
    owner: &Owner,
    changes: &mut Vec<Change>,
    removals: &mut Vec<Change>,
) {
    let Owned::Set(want) = &wanted.rules else {
        return;
    };
    let missing = want.iter().filter(|r: &&Rule| !host.rules.contains(*r));
    changes.extend(missing.cloned().map(Change::AddRule));
    let extra = host
        .rules
        .iter()
        .filter(|r| owner.owns_rule(r) && !want.contains(*r));
    removals.extend(extra.cloned().map(Change::RemoveRule));
}
