//! Links: made, changed in place, made anew, or in somebody's way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;

use super::{Conflict, Difference};
use crate::{Change, Fdb, Host, Link, LinkKind, Mac, Owned, Owner, Vxlan, Wanted};

/// A link that is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remade {
    /// Its name.
    pub link: String,
    /// What of it can't be changed in place.
    pub why: String,
}

pub(super) fn links(
    host: &Host,
    wanted: &Wanted,
    owner: &Owner,
    d: &mut Difference,
    removals: &mut Vec<Change>,
) -> Vec<Change> {
    let fdb = &wanted.fdb;
    let Owned::Set(wanted) = &wanted.links else {
        return Vec::new();
    };
    let mut changes = Vec::new();
    for (name, want) in wanted {
        if let Some(conflict) = vxlan_in_the_way(host, name, want, wanted, owner) {
            d.conflicts.push(conflict);
            continue;
        }
        match host.links.get(name) {
            None => changes.push(Change::CreateLink(name.clone(), want.clone())),
            Some(have) if have.kind == want.kind => {
                let settled = Link {
                    master: have.master.clone(),
                    mac: want.mac.or(have.mac),
                    ..want.clone()
                };
                if *have != settled {
                    changes.push(Change::ChangeLink(name.clone(), settled));
                }
            }
            Some(have) if owner.owns_link(name, have) || adoptable(have, want) => {
                if let Some(settled) = in_place(name, have, want, fdb) {
                    if *have != settled {
                        changes.push(Change::ChangeLink(name.clone(), settled));
                    }
                    continue;
                }
                changes.push(Change::RemoveLink(name.clone()));
                changes.push(Change::CreateLink(name.clone(), want.clone()));
                d.remade.push(Remade {
                    link: name.clone(),
                    why: fixed(have, want),
                });
            }
            Some(_) => d.conflicts.push(Conflict::Link(name.clone())),
        }
    }
    for (name, link) in &host.links {
        if owner.owns_link(name, link) && !wanted.contains_key(name) {
            removals.push(Change::RemoveLink(name.clone()));
        }
    }
    changes
}

/// Our name, network identifier and port under another mark: left by a predecessor.
pub(super) fn adoptable(have: &Link, want: &Link) -> bool {
    match (&have.kind, &want.kind) {
        (LinkKind::Vxlan(have), LinkKind::Vxlan(want)) => {
            have.vni == want.vni && have.port == want.port
        }
        _ => false,
    }
}

/// What a VXLAN device becomes if it can become what is wanted while it is in use: its routes stay, and nothing is lost.
fn in_place(name: &str, have: &Link, want: &Link, fdb: &Owned<BTreeSet<Fdb>>) -> Option<Link> {
    let (LinkKind::Vxlan(old), LinkKind::Vxlan(new)) = (&have.kind, &want.kind) else {
        return None;
    };
    let v6 = old.local.or(old.remote).is_some_and(|ip| ip.is_ipv6());
    let same = (old.vni, old.port) == (new.vni, new.port);
    if !same || new.local?.is_ipv6() != v6 {
        return None;
    }
    // The kernel removes the entry of the zero address that a default destination is together with it: where that very
    // entry is wanted, it stays as it is, since between removing and adding nothing would be sent.
    let floods = |dst: &IpAddr| {
        let entry = Fdb {
            link: name.to_owned(),
            mac: Mac::ZERO,
            dst: *dst,
            port: None,
        };
        fdb.get().is_none_or(|wanted| wanted.contains(&entry))
    };
    Some(Link {
        kind: LinkKind::Vxlan(Vxlan {
            remote: new.remote.or(old.remote.filter(floods)),
            ..new.clone()
        }),
        master: have.master.clone(),
        mac: want.mac.or(have.mac),
        ..want.clone()
    })
}

/// What of a link can't be changed while it is in use.
fn fixed(have: &Link, want: &Link) -> String {
    let (LinkKind::Vxlan(old), LinkKind::Vxlan(new)) = (&have.kind, &want.kind) else {
        return "its type was another".to_owned();
    };
    let outside = |vxlan: &Vxlan| match vxlan.local.or(vxlan.remote) {
        Some(ip) if ip.is_ipv6() => "IPv6",
        Some(_) | None => "IPv4",
    };
    let numbers = [
        ("UDP port", old.port.into(), new.port.into()),
        ("VNI", old.vni, new.vni),
    ];
    let numbers = numbers.into_iter().filter(|(_, old, new)| old != new);
    let mut all: Vec<String> = numbers
        .map(|(what, old, new)| format!("its {what} {old} becomes {new}"))
        .collect();
    let (before, after) = (outside(old), outside(new));
    if before != after {
        all.push(format!("it has {after} outside instead of {before}"));
    } else if new.local.is_none() {
        all.push("it loses its outer address".to_owned());
    }
    all.join(", ")
}

/// The links whose default destination goes in this pass.
pub(super) fn undirected(host: &Host, changes: &[Change]) -> BTreeSet<String> {
    let remote = |link: &Link| match &link.kind {
        LinkKind::Vxlan(vxlan) => vxlan.remote,
        LinkKind::Veth
        | LinkKind::Bridge
        | LinkKind::Loopback
        | LinkKind::Wireguard
        | LinkKind::Tun
        | LinkKind::Other(_) => None,
    };
    let changed = changes.iter().filter_map(|change| {
        if let Change::ChangeLink(name, link) = change {
            return Some((name, remote(link)));
        }
        None
    });
    changed
        .filter(|(name, new)| {
            let old = host.links.get(*name).and_then(remote);
            old.is_some() && old != *new
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// The kernel refuses a second VXLAN device of the same network identifier, port and family.
fn vxlan_in_the_way(
    host: &Host,
    name: &str,
    want: &Link,
    wanted: &BTreeMap<String, Link>,
    owner: &Owner,
) -> Option<Conflict> {
    let LinkKind::Vxlan(want) = &want.kind else {
        return None;
    };
    let is_v6 = |v: &Vxlan| v.local.or(v.remote).is_some_and(|ip| ip.is_ipv6());
    let (other, _) = host.links.iter().find(|(other, link)| {
        let LinkKind::Vxlan(have) = &link.kind else {
            return false;
        };
        other.as_str() != name
            && have.vni == want.vni
            && have.port == want.port
            && is_v6(have) == is_v6(want)
            && !wanted.contains_key(*other)
            && !owner.owns_link(other, link)
    })?;
    Some(Conflict::Vxlan {
        wanted: name.to_owned(),
        other: other.clone(),
        vni: want.vni,
        port: want.port,
    })
}

/// Links that are removed to be made anew: what hung on them is gone.
pub(super) fn recreated(changes: &[Change]) -> BTreeSet<String> {
    changes
        .iter()
        .filter_map(|c| {
            if let Change::RemoveLink(name) = c {
                Some(name.clone())
            } else {
                None
            }
        })
        .collect()
}
