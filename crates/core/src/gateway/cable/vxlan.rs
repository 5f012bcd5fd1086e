//! The VXLAN cable: its devices, and where the other gateways are. In clear.

use std::collections::{BTreeMap, BTreeSet};

use strait_api::names::{
    CABLE_VXLAN, CABLE_VXLAN_6, CABLE_VXLAN_VNI, LINK_ALIAS, VXLAN_OVERHEAD_V4, VXLAN_OVERHEAD_V6,
};
use strait_api::vtep::Vxlan;
use strait_host::{
    Address, Family, Fdb, Link, LinkKind, Mac, Neighbour, Owned, Scope, Vxlan as VxlanLink, Wanted,
};

use super::outer;
use crate::discovery::Results as Paths;
use crate::driver::Driver;
use crate::local::Underlay;
use crate::remote::Remote;

/// Name of the cable's device of a family.
const fn device(family: Family) -> &'static str {
    match family {
        Family::V4 => CABLE_VXLAN,
        Family::V6 => CABLE_VXLAN_6,
    }
}

/// What the gateway owns on its host.
pub(in crate::gateway) fn wanted(
    underlays: &BTreeMap<Family, Underlay>,
    remotes: &[Remote<'_>],
    paths: &Paths,
    port: u16,
    mac: Option<Mac>,
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
            mac,
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
            let path = outer(endpoint, *family, paths).filter(|path| path.rewritten().is_none());
            let (Some(path), Some(private)) = (path, remote.private_ip(*family)) else {
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
                dst: path.ip,
            });
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
