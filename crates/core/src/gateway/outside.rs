//! How this gateway is seen from outside: its ports, its public address, and by which addresses it asks others for a way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::Endpoint;
use strait_api::names::{
    BACKEND_INTERFACE, BACKEND_LOAD_BALANCER, BACKEND_NATT_PORT, BACKEND_PREFERRED_SERVER,
    BACKEND_PUBLIC_KEY, BACKEND_UDP_PORT, NATT_PORT, NODE_GATEWAY_PREFIX,
};
use strait_api::node::GatewayHints;
use strait_host::Family;

use super::identity::keys_of;
use super::plan::Own;
use super::public::{Ask, is_load_balancer};
use super::{Device, State, Tunnel};
use crate::local::Underlay;
use crate::net::of_family;
use crate::remote::Remote;
use crate::{Condition, discovery};

impl State {
    /// What this Node says of its gateway.
    fn hints(&self) -> Option<&GatewayHints> {
        Some(&self.nodes.get(&self.settings.node)?.gateway)
    }

    /// UDP port of the cable.
    pub(super) fn port(&self) -> u16 {
        self.hints()
            .and_then(|hints| hints.udp_port)
            .unwrap_or(self.settings.port)
    }

    /// UDP port of NAT discovery; 0 for none.
    fn natt_port(&self) -> u16 {
        self.hints()
            .and_then(|hints| hints.natt_port)
            .unwrap_or(NATT_PORT)
    }

    /// Where the public address comes from: what the Node says goes before the setting.
    fn public_list(&self) -> Option<&str> {
        let list = self.hints().and_then(|hints| hints.public_ip.as_deref());
        let list = list.unwrap_or(&self.settings.public_ip);
        Some(list).filter(|list| !list.trim().is_empty())
    }

    /// Whom to ask for the public address. Nobody who was not configured is asked where no NAT may be in front of us.
    pub(super) fn ask(&self, conditions: &mut Vec<Condition>) -> Ask {
        let s = &self.settings;
        if !self.nodes.is_known() {
            return Ask::default();
        }
        for problem in self.hints().into_iter().flat_map(|hints| &hints.problems) {
            let message = format!("Node {}: {problem}", s.node);
            conditions.push(Condition::degraded("InvalidAnnotation", message));
        }
        let families: BTreeSet<Family> = Family::ALL
            .into_iter()
            .filter(|f| of_family(&s.cluster_cidrs, *f).next().is_some())
            .collect();
        let ask = match self.public_list() {
            Some(list) => {
                let (ask, problems) = Ask::configured(list, &families, s.air_gapped);
                if !problems.is_empty() {
                    let message = format!(
                        "SUBMARINER_PUBLICIP, or {NODE_GATEWAY_PREFIX}public-ip of Node {}: {}",
                        s.node,
                        problems.join("; ")
                    );
                    conditions.push(Condition::degraded("InvalidPublicAddress", message));
                }
                ask
            }
            None if s.nat_enabled && !s.air_gapped => Ask::built_in(&families),
            None => Ask::default(),
        };
        // One of IPv6 is the private one as a rule: nobody needs it to be told.
        let needed = families.first().filter(|_| s.nat_enabled);
        let unknown = needed.filter(|family| !self.public.addresses.contains_key(family));
        if let Some(family) = unknown {
            let why = if ask.methods.is_empty() {
                Some("nobody is asked for it".to_owned())
            } else {
                self.public.failures.get(family).cloned()
            };
            if let Some(why) = why {
                let message = format!(
                    "no public {family} address of this gateway is known: {why}; clusters that do not reach its private address can't connect"
                );
                conditions.push(Condition::degraded("PublicAddressUnknown", message));
            }
        }
        ask
    }

    /// The public addresses to publish: those that were learned. Until then those that are published already, so that a
    /// restart or a site that does not answer takes nothing away.
    pub(super) fn public_ips(
        &self,
        cable_name: &str,
        underlays: &BTreeMap<Family, Underlay>,
    ) -> Vec<IpAddr> {
        let s = &self.settings;
        if self.ask(&mut Vec::new()).methods.is_empty() {
            return Vec::new();
        }
        let name = Endpoint::object_name(s.cluster.as_str(), cable_name);
        let published = self.endpoints.get(&name);
        let published = published
            .and_then(|entry| entry.parsed.as_ref().ok())
            .filter(|endpoint| endpoint.cluster == s.cluster);
        let of = |family: &Family| {
            let learned = self.public.addresses.get(family).copied();
            learned.or_else(|| {
                let ips = published.into_iter().flat_map(|e| &e.public_ips);
                ips.copied().find(|ip| Family::of(*ip) == *family)
            })
        };
        underlays.keys().filter_map(of).collect()
    }

    /// What the cable's driver and its peers need to know.
    pub(super) fn backend_config(&self, device: Option<Device>) -> BTreeMap<String, String> {
        let mut config = BTreeMap::from([
            (BACKEND_UDP_PORT.to_owned(), self.port().to_string()),
            (BACKEND_NATT_PORT.to_owned(), self.natt_port().to_string()),
            (
                BACKEND_INTERFACE.to_owned(),
                self.settings.driver.device().to_owned(),
            ),
        ]);
        if let Some(device) = device {
            let key = device.public_key.to_string();
            config.insert(BACKEND_PUBLIC_KEY.to_owned(), key);
        }
        if let Some(preferred) = self.hints().and_then(|hints| hints.preferred_server) {
            config.insert(BACKEND_PREFERRED_SERVER.to_owned(), preferred.to_string());
        }
        if is_load_balancer(&self.settings.public_ip) {
            config.insert(BACKEND_LOAD_BALANCER.to_owned(), "true".to_owned());
        }
        config
    }

    /// Whether there is a session with a gateway elsewhere, under any of its keys; `None` if nothing tells. One that has not begun yet counts as
    /// none: it is asked for a way only once in a while, as is one of which a session is over.
    fn is_up(&self, endpoint: &Endpoint) -> Option<bool> {
        let known: Vec<&Tunnel> = keys_of(endpoint)
            .filter_map(|key| self.tunnels.peers.get(&key))
            .collect();
        let up = |tunnel: &&Tunnel| matches!(tunnel, Tunnel::Connected(_));
        (!known.is_empty()).then(|| known.iter().any(up))
    }

    /// Whom to ask for the way to it.
    pub(super) fn discovery(&self, own: &Own, remotes: &[Remote<'_>]) -> discovery::Wanted {
        let addresses: BTreeMap<Family, IpAddr> =
            own.underlays.iter().map(|(f, u)| (*f, u.ip)).collect();
        let families = addresses.keys().copied().collect::<Vec<_>>();
        discovery::Wanted {
            targets: discovery::targets(remotes, &families, &self.health, |e| self.is_up(e)),
            own: Some(discovery::Own {
                cluster: self.settings.cluster.clone(),
                cable_name: own.spec.cable_name.clone(),
                port: self.natt_port(),
                addresses,
            })
            .filter(|own| own.port > 0),
        }
    }
}
