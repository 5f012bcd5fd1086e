//! What somebody does to our objects on the virtual kernel.

use strait_core::route_agent::{owner, table};
use strait_host::nft::Element;
use strait_host::{Address, Change, Fdb, Host, Mac, Route, RouteKind, Scope, rp_filter_path};

use super::kernel::Kernel;
use super::world::{Deed, net};

impl Kernel {
    pub(crate) fn suffer(&mut self, deed: Deed) {
        let own = owner();
        let host: &mut Host = &mut self.host;
        let ours: Vec<String> = host
            .links
            .iter()
            .filter(|(n, l)| own.owns_link(n, l))
            .map(|(n, _)| n.clone())
            .collect();
        match deed {
            Deed::RemoveLinks => {
                for name in &ours {
                    self.make(&Change::RemoveLink(name.clone())).unwrap();
                }
            }
            Deed::TakeLinksDown => {
                for name in &ours {
                    host.links.get_mut(name).unwrap().up = false;
                    let by = |r: &Route| r.hops().iter().any(|h| h.dev.as_ref() == Some(name));
                    host.routes.retain(|r| !by(r));
                    // An IPv6 address goes with its link being up, and a neighbour in any case.
                    host.addresses
                        .retain(|a| a.link != *name || a.net.addr().is_ipv4());
                    host.neighbours.retain(|n| n.link != *name);
                }
            }
            Deed::ChangeMtu | Deed::ChangeMac => {
                for name in &ours {
                    let link = host.links.get_mut(name).unwrap();
                    if deed == Deed::ChangeMtu {
                        link.mtu = 1300;
                    } else {
                        link.mac = Some(Mac([2, 0, 0, 0, 0, 0x77]));
                    }
                }
            }
            Deed::FlushAddresses => {
                host.addresses.retain(|a| !ours.contains(&a.link));
                // An IPv4 next hop needs one; the kernel drops the routes with the last address.
                let by = |r: &Route| {
                    r.hops()
                        .iter()
                        .any(|h| h.dev.as_ref().is_some_and(|d| ours.contains(d)))
                };
                host.routes.retain(|r| !by(r));
            }
            Deed::AddAddress => {
                for name in &ours {
                    let ip = if name.ends_with('6') {
                        "fd00:100:100::9:9/96"
                    } else {
                        "240.9.9.9/8"
                    };
                    host.addresses.insert(Address {
                        link: name.clone(),
                        net: net(ip),
                        scope: Scope::Global,
                    });
                }
            }
            Deed::FlushNeighbours => host.neighbours.retain(|n| !ours.contains(&n.link)),
            Deed::AddForwardingEntry => {
                for name in &ours {
                    let dst = if name.ends_with('6') {
                        "fd00:9::9"
                    } else {
                        "192.0.2.99"
                    };
                    host.fdb.insert(Fdb {
                        link: name.clone(),
                        mac: Mac::ZERO,
                        dst: dst.parse().unwrap(),
                        port: None,
                    });
                }
            }
            Deed::FlushRoutes => host.routes.retain(|r| !own.owns_route(r)),
            Deed::RemoveWays => host
                .routes
                .retain(|r| !(own.owns_route(r) && matches!(r.kind, RouteKind::Unicast { .. }))),
            Deed::AddRoute => {
                host.routes.insert(Route {
                    table: 77,
                    dst: net("10.21.0.0/16"),
                    metric: 5,
                    protocol: 83,
                    kind: RouteKind::Blackhole,
                });
            }
            Deed::RemoveRules => host.rules.retain(|r| !own.owns_rule(r)),
            Deed::FlushRuleset => {
                host.nft.retain(|id, table| !own.owns_table(id, table));
            }
            Deed::FlushChain => {
                if let Some(chain) = host
                    .nft
                    .get_mut(&table())
                    .and_then(|t| t.chains.get_mut("source"))
                {
                    chain.rules.clear();
                }
            }
            Deed::AddElement => {
                for set in host
                    .nft
                    .get_mut(&table())
                    .iter_mut()
                    .flat_map(|t| t.sets.values_mut())
                {
                    if set.interval && set.keys == strait_host::nft::ElementType::Ipv4 {
                        set.elements.insert(Element::Net(net("192.0.2.0/24")), None);
                    }
                }
            }
            Deed::ResetSysctls => {
                let names: Vec<String> = host.links.keys().cloned().collect();
                for name in names {
                    host.sysctls.insert(rp_filter_path(&name), "1".into());
                }
            }
        }
    }
}
