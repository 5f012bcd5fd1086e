//! The plan as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use strait_api::gateway::{GatewayStatus, HaStatus};
use strait_api::names::{
    ANNOTATION_CLUSTER_UID, ANNOTATION_FORMER_KEY, ANNOTATION_NEXT_KEY, ANNOTATION_VTEP_MAC,
};
use strait_api::vtep::Vxlan;
use strait_api::{ClusterSpec, Endpoint, EndpointSpec, Kind, Object, valid_name};
use strait_host::{Family, Mac, Wanted, WireGuard};

use super::cable::{self, Known, vxlan, wireguard};
use super::copies::Copies;
use super::health::Health;
use super::objects::{changes, is_foreign_copy, ordered, texts};
use super::rotation::KeyStep;
use super::turns::{Standing, in_turn, superseded};
use super::{Device, State, public};
use crate::driver::Driver;
use crate::local::{Underlay, cni_address, every_link, routers, seen, underlay};
use crate::net::of_family;
use crate::remote::{Ours, Remote, remotes};
use crate::{Condition, ObjectChange, Planned, condition, discovery, health};

/// Everything that the gateway wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// What it owns on the host.
    pub wanted: Wanted,
    /// Changes of objects in the cluster.
    pub local: Vec<ObjectChange>,
    /// Changes of objects on the broker.
    pub broker: Vec<ObjectChange>,
    /// What a WireGuard cable's device is to have; `None` while that is not known, or for another cable.
    pub tunnels: Option<WireGuard>,
    /// What is to become of the keys of a WireGuard cable's device now.
    pub key_step: Option<KeyStep>,
    /// Whom to ask which way there is to it, and who asks; `None` while that is not known: what was said before holds.
    pub discovery: Option<discovery::Wanted>,
    /// Whom to ask for the public address.
    pub public: public::Ask,
    /// What the election needs to know; `None` while that is not known.
    pub election: Option<super::turns::Known>,
    /// Whether this gateway carries the traffic; `None` while that is not known.
    pub active: Option<bool>,
    /// Whom to ping.
    pub health: BTreeSet<health::Target>,
    /// Its Gateway object, without the time.
    pub gateway: Option<Object>,
    /// What is not as it should be, the worst first.
    pub conditions: Vec<Condition>,
}

impl Planned for Plan {
    fn take_wanted(&mut self) -> Wanted {
        std::mem::take(&mut self.wanted)
    }

    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

impl State {
    pub(super) fn planned(&self) -> Plan {
        let mut conditions = self.source_conditions();
        let copies = self.copies();
        conditions.extend(copies.conditions());
        conditions.extend(self.unwritten_conditions());
        conditions.extend(self.gone_condition());
        let own = self.own(&mut conditions);
        conditions.extend(own.as_ref().and_then(|own| self.duplicate_condition(own)));
        let ask = self.ask(&mut conditions);
        conditions.extend(self.standing_condition());
        let (local, broker) = self.objects(own.as_ref(), &copies);
        let active = match self.standing {
            Standing::Unknown(_) => None,
            Standing::Standby => Some(false),
            Standing::Active(_) => Some(true),
        };
        let mut plan = Plan {
            local,
            broker,
            public: ask,
            election: self.for_election(own.as_ref()),
            active,
            ..Plan::default()
        };
        if let (Some(own), true) = (&own, self.endpoints.is_known()) {
            let accepted = copies.endpoints.iter().map(|e| e.key.name.as_str());
            let endpoints = self.known_endpoints(&accepted.collect());
            let (mut remotes, problems) = remotes(
                endpoints.into_iter(),
                &self.settings.cluster,
                &self.ours(own),
            );
            conditions.extend(problems);
            for remote in &mut remotes {
                let outside = copies.outside.get(&remote.endpoint.name);
                remote.refused.extend(outside.cloned());
            }
            plan.discovery = Some(self.discovery(own, &remotes));
            let known = self.cable(own, &remotes, &mut plan);
            conditions.append(&mut plan.conditions);
            // What others send goes by way of the gateway that carries the traffic.
            if self.settings.health_check && active == Some(true) {
                plan.health = health::targets(&remotes, &self.settings.cluster_cidrs);
                plan.health.retain(|t| own.answerable.contains(&t.family));
            }
            conditions.extend(health::conditions(&plan.health, &self.health));
            let status = GatewayStatus {
                version: self.settings.version.clone(),
                ha_status: if active == Some(true) {
                    HaStatus::Active
                } else {
                    HaStatus::Passive
                },
                local_endpoint: own.spec.clone(),
                status_failure: condition::text(&conditions),
                // Of a passive one Submariner tells none.
                connections: if active == Some(true) {
                    cable::connections(
                        &own.underlays,
                        &remotes,
                        &copies.refused,
                        &known,
                        &self.paths,
                        &Health {
                            enabled: self.settings.health_check,
                            answerable: &own.answerable,
                            results: &self.health,
                        },
                    )
                } else {
                    Vec::new()
                },
            };
            let name = valid_name(&self.settings.hostname);
            plan.gateway = active.map(|_| {
                Object::new(Kind::Gateway, &self.settings.namespace, &name).with("status", &status)
            });
        }
        conditions.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
        conditions.dedup();
        plan.conditions = conditions;
        plan
    }

    /// Plans the cable; returns what is known of its tunnels.
    fn cable<'a>(&'a self, own: &Own, remotes: &[Remote<'a>], plan: &mut Plan) -> Known<'a> {
        let port = self.port();
        let (Some(host), Some(device)) = (&self.host, own.device) else {
            let host = self.host.as_deref();
            plan.wanted = vxlan::wanted(
                host,
                &own.underlays,
                remotes,
                &self.paths,
                port,
                own.mac,
                &self.learned_macs,
            );
            return Known::Vxlan { port };
        };
        if let Some(why) = &self.tunnels.failure {
            let message = format!("the WireGuard device is not as it should be: {why}");
            plan.conditions
                .push(Condition::degraded("CableFailed", message));
        }
        plan.conditions.extend(self.clock_condition());
        let keys = wireguard::keys(device, remotes);
        let (beside, unusable) = wireguard::beside(device, &keys, remotes);
        if !unusable.is_empty() {
            let message = unusable.join("; ");
            plan.conditions
                .push(Condition::degraded("InvalidKey", message));
        }
        plan.key_step = self.key_step();
        plan.wanted = wireguard::wanted(host, &own.underlays, device, self.tunnels.held);
        plan.tunnels = plan.active.map(|_| {
            let keys = (device, &keys, &beside);
            wireguard::tunnels(&own.underlays, remotes, &self.paths, keys, port)
        });
        Known::WireGuard {
            keys,
            beside,
            tunnels: &self.tunnels.peers,
        }
    }

    /// What other clusters may not claim.
    fn ours(&self, own: &Own) -> Ours {
        let mut addresses = self.host.as_deref().map(routers).unwrap_or_default();
        let gateway: BTreeSet<IpAddr> = own.underlays.values().map(|u| u.ip).collect();
        addresses.extend(gateway.iter().map(|ip| (*ip, "this gateway".to_owned())));
        for (name, node) in self.nodes.iter() {
            let ips = node.internal_ips.iter();
            addresses.extend(ips.map(|ip| (*ip, format!("node {name}"))));
        }
        Ours {
            cidrs: self.local_cidrs(),
            addresses,
            gateway,
        }
    }

    pub(super) fn local_cidrs(&self) -> Vec<IpNet> {
        [
            &self.settings.service_cidrs[..],
            &self.settings.cluster_cidrs[..],
        ]
        .concat()
    }

    /// What this gateway publishes; `None` while the host's address is not known.
    fn own(&self, conditions: &mut Vec<Condition>) -> Option<Own> {
        let host = self.host.as_ref().filter(|_| self.nodes.is_known())?;
        let s = &self.settings;
        // Without its key a peer could do nothing with what is published.
        let device = match s.driver {
            Driver::Vxlan => None,
            Driver::WireGuard => Some(self.wireguard_device(conditions)?),
        };
        let node = self.nodes.get(&s.node);
        let families: Vec<Family> = Family::ALL
            .into_iter()
            .filter(|f| of_family(&s.cluster_cidrs, *f).next().is_some())
            .collect();
        let mut underlays = BTreeMap::new();
        let mut health_check_ips = Vec::new();
        let mut answerable = BTreeSet::new();
        for family in families {
            let internal = node.and_then(|n| n.internal_ip(family == Family::V6));
            let Some(underlay) = underlay(host, family, internal, &every_link()) else {
                let message = format!(
                    "no {family} address of this host: neither the InternalIP of Node {} nor a default route's; interfaces seen: {}",
                    s.node,
                    seen(host, family, &every_link())
                );
                conditions.push(Condition::not_ready("NodeAddressNotFound", message));
                continue;
            };
            underlays.insert(family, underlay);
            if let Some(cni) = cni_address(
                host,
                family,
                &s.cluster_cidrs,
                &every_link(),
                &BTreeSet::new(),
            ) {
                health_check_ips.push(cni.ip);
                answerable.insert(family);
            } else {
                let message = format!(
                    "Error discovering the CNI interface: no {family} address in {} on an interface that is up; interfaces seen: {}; \
                     no health check address is published, and none is pinged, until one appears",
                    texts(&s.cluster_cidrs).join(", "),
                    seen(host, family, &every_link())
                );
                conditions.push(Condition::degraded("CniInterfaceNotFound", message));
            }
        }
        let first = underlays.values().next()?.ip;
        if !s.health_check {
            health_check_ips.clear();
        }
        let mac = Mac(Vxlan::Gateways.mac(first));
        let spec = self.spec(&underlays, first, &health_check_ips, device);
        Some(Own {
            underlays,
            answerable,
            device,
            mac,
            spec,
        })
    }

    fn wireguard_device(&self, conditions: &mut Vec<Condition>) -> Option<Device> {
        let why = match &self.device {
            Some(Ok(device)) => return Some(*device),
            Some(Err(why)) => why.as_str(),
            None => "it is not set up yet",
        };
        let message = format!("no WireGuard device, so nothing is published: {why}");
        conditions.push(Condition::not_ready("CableFailed", message));
        None
    }

    fn spec(
        &self,
        underlays: &BTreeMap<Family, Underlay>,
        first: IpAddr,
        health: &[IpAddr],
        device: Option<Device>,
    ) -> EndpointSpec {
        let s = &self.settings;
        let text = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
        let v4 = |ips: &[IpAddr]| {
            ips.iter()
                .find(|ip| ip.is_ipv4())
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        let private: Vec<IpAddr> = underlays.values().map(|u| u.ip).collect();
        let cable_name = Endpoint::cable_name(&s.cluster, first);
        let public = self.public_ips(&cable_name, underlays);
        let usable = |net: &&IpNet| underlays.contains_key(&Family::of_net(net));
        EndpointSpec {
            cluster_id: s.cluster.to_string(),
            cable_name,
            health_check_ip: v4(health),
            health_check_ips: text(health),
            hostname: s.hostname.clone(),
            subnets: texts(self.local_cidrs().iter().filter(usable)),
            private_ip: v4(&private),
            private_ips: text(&private),
            public_ip: v4(&public),
            public_ips: text(&public),
            nat_enabled: s.nat_enabled,
            backend: s.driver.name().to_owned(),
            backend_config: self.backend_config(device),
        }
    }

    fn objects(
        &self,
        own: Option<&Own>,
        copies: &Copies,
    ) -> (Vec<ObjectChange>, Vec<ObjectChange>) {
        let s = &self.settings;
        // Who carries no traffic writes nothing, and removes nothing.
        let (Some(own), Some(turn)) = (own, self.own_turn()) else {
            return (Vec::new(), Vec::new());
        };
        let cluster = self.own_cluster();
        let endpoint = in_turn(self.own_endpoint(own), &turn, self.told_standbys(own));
        let name = endpoint.key.name.clone();
        let broker = self.on_broker(&cluster, &endpoint, &turn);
        // Copies of other clusters stay as they are while the broker has not been heard.
        let clusters_heard = self.broker_clusters.is_known();
        let mut local = changes(
            &self.clusters,
            &with(cluster, &copies.clusters),
            &self.stored,
            |e| clusters_heard && is_foreign_copy(e, &s.cluster),
        );
        local.extend(changes(
            &self.endpoints,
            &with(endpoint, &copies.endpoints),
            &self.stored,
            |e| copies.endpoints_known && is_foreign_copy(e, &s.cluster),
        ));
        local.extend(superseded(&self.endpoints, &name, &turn, |e| {
            e.parsed.as_ref().is_ok_and(|p| p.cluster == s.cluster)
        }));
        local.extend(self.left_gateways().map(ObjectChange::Delete));
        (ordered(local), broker)
    }

    fn own_cluster(&self) -> Object {
        let s = &self.settings;
        let spec = ClusterSpec {
            cluster_id: s.cluster.to_string(),
            color_codes: vec!["blue".to_owned()],
            service_cidr: texts(&s.service_cidrs),
            cluster_cidr: texts(&s.cluster_cidrs),
            global_cidr: Vec::new(),
        };
        let name = valid_name(s.cluster.as_str());
        let mut object = Object::new(Kind::Cluster, &s.namespace, &name).with("spec", &spec);
        object
            .annotations
            .insert(ANNOTATION_CLUSTER_UID.to_owned(), self.uid.clone());
        object
    }

    fn own_endpoint(&self, own: &Own) -> Object {
        let s = &self.settings;
        let name = Endpoint::object_name(s.cluster.as_str(), &own.spec.cable_name);
        let mut object = Object::new(Kind::Endpoint, &s.namespace, &name).with("spec", &own.spec);
        // One that does not follow from the addresses is believed by nobody: it is found by ARP, as it was before.
        if own.device.is_none() && self.learned_macs.is_empty() {
            object
                .annotations
                .insert(ANNOTATION_VTEP_MAC.to_owned(), own.mac.to_string());
        }
        let announced = [
            (
                ANNOTATION_NEXT_KEY,
                own.device.and_then(|device| device.next),
            ),
            (
                ANNOTATION_FORMER_KEY,
                own.device.and_then(|device| device.former),
            ),
        ];
        let announced = announced.into_iter();
        object
            .annotations
            .extend(announced.filter_map(|(name, key)| Some((name.to_owned(), key?.to_string()))));
        object
    }

    fn source_conditions(&self) -> Vec<Condition> {
        let sources = [
            (
                "Clusters",
                self.clusters.is_known(),
                self.clusters.is_held(),
                self.clusters.failure(),
            ),
            (
                "Endpoints",
                self.endpoints.is_known(),
                self.endpoints.is_held(),
                self.endpoints.failure(),
            ),
            (
                "Nodes",
                self.nodes.is_known(),
                self.nodes.is_held(),
                self.nodes.failure(),
            ),
            (
                "the broker's Clusters",
                self.broker_clusters.is_known(),
                self.broker_clusters.is_held(),
                self.broker_clusters.failure(),
            ),
            (
                "the broker's Endpoints",
                self.broker_endpoints.is_known(),
                self.broker_endpoints.is_held(),
                self.broker_endpoints.failure(),
            ),
        ];
        let mut conditions = Vec::new();
        for (what, known, held, failure) in sources {
            let broker = what.starts_with("the broker");
            let why = failure.map(|f| format!(" ({f})")).unwrap_or_default();
            if !known && !broker {
                let message = format!("the list of {what} has not come yet{why}");
                conditions.push(Condition::not_ready("InputsUnknown", message));
            } else if !known || failure.is_some() {
                let name = if broker {
                    "BrokerUnreachable"
                } else {
                    "ApiUnreachable"
                };
                let message = format!("watching {what}: {}", failure.unwrap_or("not heard yet"));
                conditions.push(Condition::degraded(name, message));
            }
            if held {
                let message = format!(
                    "all of {what} vanished at once; they are kept for 30 s in case that is a fault"
                );
                conditions.push(Condition::degraded("SourceHeld", message));
            }
        }
        if self.host.is_none() {
            conditions.push(Condition::not_ready(
                "InputsUnknown",
                "the kernel's state was not read yet".to_owned(),
            ));
        }
        let bad = self
            .endpoints
            .values()
            .filter_map(|e| Some((&e.object.key, e.parsed.as_ref().err()?)));
        conditions.extend(
            bad.map(|(key, why)| Condition::degraded("InvalidObject", format!("{key}: {why}"))),
        );
        conditions
    }
}

/// Makes these the conditions that a Gateway object tells.
pub fn tell(object: &mut Object, conditions: &[Condition]) {
    if let Some(Value::Object(status)) = object.content.get_mut("status") {
        let text = condition::text(conditions);
        status.insert("statusFailure".to_owned(), Value::String(text));
    }
}

/// What this gateway publishes of itself.
pub(super) struct Own {
    pub underlays: BTreeMap<Family, Underlay>,
    /// In which families this host has a CNI address: other clusters answer no other.
    answerable: BTreeSet<Family>,
    /// That of a WireGuard cable.
    device: Option<Device>,
    mac: Mac,
    pub spec: EndpointSpec,
}

fn with(own: Object, others: &[Object]) -> Vec<Object> {
    // Another cluster that claims our object's name does not get it.
    let mut all: Vec<Object> = others
        .iter()
        .filter(|o| o.key != own.key)
        .cloned()
        .collect();
    all.push(own);
    all
}
