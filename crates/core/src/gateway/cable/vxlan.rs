//! The VXLAN cable: its devices, and where the other gateways are. In clear.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::Endpoint;
use strait_api::names::{
    CABLE_VXLAN, CABLE_VXLAN_6, CABLE_VXLAN_VNI, LINK_ALIAS, VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6,
};
use strait_api::vtep::Vxlan;
use strait_host::{
    Address, Family, Fdb, Host, Link, LinkKind, Mac, Neighbour, Owned, Scope, Vxlan as VxlanLink,
    Wanted,
};

use crate::discovery::{Path, PathState, Results as Paths, reached};
use crate::driver::Driver;
use crate::local::Underlay;
use crate::net::ip_of;
use crate::remote::Remote;

use super::standbys;

/// Name of the cable's device of a family.
const fn device(family: Family) -> &'static str {
    match family {
        Family::V4 => CABLE_VXLAN,
        Family::V6 => CABLE_VXLAN_6,
    }
}

/// The Ethernet addresses of a cable that we have not made, and take over in place: gateways that have learned one would go
/// on sending to it for a while. A restarted process knows by the address alone that it was not ours, at its `first` look:
/// later, somebody has altered it.
pub(in crate::gateway) fn learned_macs(
    host: &Host,
    port: u16,
    first: bool,
) -> BTreeMap<Family, Mac> {
    let learned = |family| {
        let link = host.links.get(device(family))?;
        let LinkKind::Vxlan(vxlan) = &link.kind else {
            return None;
        };
        let ours = link.alias.as_deref() == Some(LINK_ALIAS);
        let same = (vxlan.vni, vxlan.port) == (CABLE_VXLAN_VNI, port);
        let mac = link.mac.filter(|_| same && (first || !ours))?;
        let other = mac.is_unicast() && !Vxlan::Gateways.gives(mac.0);
        other.then_some((family, mac))
    };
    Family::ALL.into_iter().filter_map(learned).collect()
}

/// Where the device sends already what is for a peer that has not answered yet: a gateway that ran before had an answer. `None` if
/// there is one, or if that is not one of the peer's addresses.
fn held(host: Option<&Host>, link: &str, endpoint: &Endpoint, path: Path) -> Option<IpAddr> {
    if path.state != PathState::Asking {
        return None;
    }
    let of_peer = |ip: &IpAddr| {
        let ips = [&endpoint.private_ips, &endpoint.public_ips];
        ips.into_iter().flatten().any(|own| own == ip)
    };
    let entries = host?.fdb.iter().filter(|entry| entry.link == link);
    let there: BTreeSet<IpAddr> = entries.map(|entry| entry.dst).filter(of_peer).collect();
    there.first().copied().filter(|_| there.len() == 1)
}

/// The UDP port of a peer's device, if it is another than ours; or why it can't be another. Gateways of Strait send to the port that the other
/// publishes. Submariner's send to their own (upstream `cable/vxlan/vxlan.go`: one port for both).
pub(super) fn port_of(endpoint: &Endpoint, own: u16) -> Result<Option<u16>, String> {
    let theirs = endpoint.udp_port;
    // Submariner writes neither.
    let respects = endpoint.vtep_mac.is_some() || endpoint.term.is_some();
    if theirs == own {
        Ok(None)
    } else if respects {
        Ok(Some(theirs))
    } else {
        Err(format!(
            "the other side's VXLAN cable has UDP port {theirs}, ours {own}: Submariner's gateways send to the port that they have themselves, so both must have one"
        ))
    }
}

/// What the gateway owns on its host.
pub(in crate::gateway) fn wanted(
    host: Option<&Host>,
    underlays: &BTreeMap<Family, Underlay>,
    remotes: &[Remote<'_>],
    paths: &Paths,
    port: u16,
    mac: Mac,
    learned: &BTreeMap<Family, Mac>,
) -> Wanted {
    let mut links = BTreeMap::new();
    let mut addresses = BTreeSet::new();
    let mut neighbours = BTreeSet::new();
    let mut fdb = BTreeSet::new();
    for (family, underlay) in underlays {
        let name = device(*family).to_owned();
        let overhead = match family {
            Family::V4 => VXLAN_OVERHEAD_V4,
            Family::V6 => VXLAN_OVERHEAD_V6,
        };
        let link = Link {
            kind: LinkKind::Vxlan(VxlanLink {
                vni: CABLE_VXLAN_VNI,
                port,
                local: Some(underlay.ip),
                remote: None,
                learning: false,
            }),
            mtu: underlay.mtu.saturating_sub(overhead),
            up: true,
            mac: Some(learned.get(family).copied().unwrap_or(mac)),
            alias: Some(LINK_ALIAS.to_owned()),
            master: None,
        };
        links.insert(name.clone(), link);
        addresses.insert(Address {
            link: name.clone(),
            net: Vxlan::Gateways.inner_net(underlay.ip),
            scope: Scope::Global,
        });
        let mut macs = BTreeSet::new();
        for remote in remotes
            .iter()
            .filter(|r| r.endpoint.backend == Driver::Vxlan.name())
        {
            let endpoint = remote.endpoint;
            // What is rewritten on the way would not arrive at the other side's device, or not be taken by its filter.
            let path = reached(endpoint, *family, paths).filter(|path| path.rewritten().is_none());
            let (Some(path), Some(private), Ok(at)) =
                (path, remote.private_ip(*family), port_of(endpoint, port))
            else {
                continue;
            };
            let mac = remote.vtep_mac().filter(|mac| macs.insert(*mac));
            if let Some(mac) = mac {
                neighbours.insert(Neighbour {
                    link: name.clone(),
                    ip: Vxlan::Gateways.inner(private),
                    mac,
                });
            }
            fdb.insert(Fdb {
                link: name.clone(),
                mac: mac.unwrap_or(Mac::ZERO),
                dst: held(host, &name, endpoint, path).unwrap_or(path.ip),
                port: at,
            });
        }
        // Those who may take a gateway's place have their entries already, as long as they are in nobody's way.
        let mut inners: BTreeSet<IpAddr> = remotes
            .iter()
            .filter_map(|r| ip_of(&r.endpoint.private_ips, *family))
            .chain([underlay.ip])
            .map(|ip| Vxlan::Gateways.inner(ip))
            .collect();
        for (_, standby) in standbys(remotes, Driver::Vxlan) {
            let path = reached(standby, *family, paths).filter(|path| path.rewritten().is_none());
            let private = ip_of(&standby.private_ips, *family);
            let (Some(path), Some(private), Some(first)) =
                (path, private, standby.private_ips.first())
            else {
                continue;
            };
            let (ip, mac) = (
                Vxlan::Gateways.inner(private),
                Mac(Vxlan::Gateways.mac(*first)),
            );
            if inners.insert(ip) && macs.insert(mac) {
                neighbours.insert(Neighbour {
                    link: name.clone(),
                    ip,
                    mac,
                });
                fdb.insert(Fdb {
                    link: name.clone(),
                    mac,
                    dst: path.ip,
                    port: Some(standby.udp_port).filter(|theirs| *theirs != port),
                });
            }
        }
    }
    Wanted {
        links: Owned::Set(links),
        addresses: Owned::Set(addresses),
        neighbours: Owned::Set(neighbours),
        fdb: Owned::Set(fdb),
        ..Wanted::default()
    }
}
