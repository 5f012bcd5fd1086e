//! Endpoint: the active gateway of a cluster, as its peers need to know it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::{
    ANNOTATION_FORMER_KEY, ANNOTATION_NEXT_KEY, ANNOTATION_SINCE, ANNOTATION_TERM,
    ANNOTATION_VTEP_MAC, BACKEND_INTERFACE, BACKEND_LOAD_BALANCER, BACKEND_NATT_PORT,
    BACKEND_UDP_PORT, CABLE_PORT,
};
use crate::{ClusterId, Kind, Object, Term, standby};

/// `spec` of an Endpoint, also embedded in Gateway and RouteAgent.
///
/// The plural address fields came with Submariner 0.21; the singular ones mirror the IPv4 entry. Both are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The cluster.
    pub cluster_id: String,
    /// `submariner-cable-<cluster>-<private address with dashes>`; opaque to peers.
    pub cable_name: String,
    /// ICMP target of health checks.
    #[serde(
        rename = "healthCheckIP",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub health_check_ip: String,
    /// The same, one per family.
    #[serde(
        rename = "healthCheckIPs",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub health_check_ips: Vec<String>,
    /// Host name of the gateway node.
    pub hostname: String,
    /// Subnets that are reached through it: service CIDRs, then pod CIDRs.
    pub subnets: Vec<String>,
    /// Address on the node's own network.
    pub private_ip: String,
    /// The same, one per family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_ips: Vec<String>,
    /// Address on the Internet, or empty.
    pub public_ip: String,
    /// The same, one per family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public_ips: Vec<String>,
    /// Whether there may be a NAT in front of it.
    pub nat_enabled: bool,
    /// Cable driver: `libreswan`, `wireguard` or `vxlan`.
    pub backend: String,
    /// What the driver and its peers need to know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backend_config: BTreeMap<String, String>,
}

/// An Endpoint, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The object's name.
    pub name: String,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Cable name: `[A-Za-z0-9.-]`, at most 200 characters.
    pub cable_name: String,
    /// Host name of the gateway node.
    pub hostname: String,
    /// Subnets that are reached through it, host bits zero; those that can be read.
    pub subnets: Vec<IpNet>,
    /// What is to be said of its other subnets, and of those with host bits.
    pub odd_subnets: Option<Box<OddSubnets>>,
    /// Addresses on its own network, at most one per family.
    pub private_ips: Vec<IpAddr>,
    /// Addresses on the Internet, at most one per family.
    pub public_ips: Vec<IpAddr>,
    /// Targets of health checks, at most one per family.
    pub health_check_ips: Vec<IpAddr>,
    /// Cable driver, lower case.
    pub backend: String,
    /// UDP port of the cable.
    pub udp_port: u16,
    /// UDP port of NAT discovery; `None` where there is none, or none that can be read.
    pub natt_port: Option<u16>,
    /// Whether it is behind a load balancer.
    pub load_balancer: bool,
    /// The cable's device on the gateway.
    pub interface: Option<String>,
    /// Ethernet address of the VXLAN cable's device, where the gateway is one of ours.
    pub vtep_mac: Option<[u8; 6]>,
    /// Since when its gateway carries the traffic, where it is one of ours.
    pub term: Option<Term>,
    /// Gateways that may take its place, each as an Endpoint without subnets.
    pub standbys: Vec<Endpoint>,
    /// Why those that it tells of can't be used.
    pub bad_standbys: Option<String>,
    /// Keys of its WireGuard cable beside the one that counts, while that is changed.
    pub other_keys: Option<Box<OtherKeys>>,
    /// When this copy was made, in Unix seconds; orders two Endpoints of one cluster.
    pub created: i64,
    /// Since when its cluster is there, in Unix seconds: as the annotation of the copy says, else when the copy was made. Of two clusters that claim
    /// the same, the one that is there for longer has it.
    pub since: i64,
    /// The spec as it was read; objects that tell of it share it.
    pub spec: Arc<EndpointSpec>,
}

/// A sentence for each subnet that can't be read, or had host bits; of many, the first ones. None is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddSubnets(pub Vec<String>);

/// Public keys that an Endpoint tells of, as text of at most 64 characters: who knows keys looks at them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherKeys {
    /// The one that its gateway is going to have.
    pub next: Option<String>,
    /// The one that it had until a moment ago.
    pub former: Option<String>,
}

impl OtherKeys {
    fn of(object: &Object) -> Option<Self> {
        let text = |annotation| {
            let text: &String = object.annotations.get(annotation)?;
            // What is longer is no key then either, and can be shown.
            Some(crate::object::shown(text, 64))
        };
        let (next, former) = (text(ANNOTATION_NEXT_KEY), text(ANNOTATION_FORMER_KEY));
        (next.is_some() || former.is_some()).then_some(Self { next, former })
    }
}

impl Endpoint {
    /// The name that an Endpoint object has.
    #[must_use]
    pub fn object_name(cluster: &str, cable_name: &str) -> String {
        crate::valid_name(&format!("{cluster}-{cable_name}"))
    }

    /// The cable name of a gateway: from its IPv4 address where it has one, else from the IPv6 one.
    #[must_use]
    pub fn cable_name(cluster: &ClusterId, private_ip: IpAddr) -> String {
        let address = private_ip.to_string().replace(['.', ':'], "-");
        format!("submariner-cable-{cluster}-{address}")
    }

    /// The private address of a family.
    #[must_use]
    pub fn private_ip(&self, v6: bool) -> Option<IpAddr> {
        self.private_ips
            .iter()
            .copied()
            .find(|ip| ip.is_ipv6() == v6)
    }

    /// Of two Endpoints of one cluster, the greater counts: that of the newer turn, else the one that was made later.
    #[must_use]
    pub fn order(&self) -> impl Ord + use<'_> {
        let turn = self.term.map(|term| (term, self.hostname.as_str()));
        (turn, self.created, self.name.as_str())
    }

    /// What another gateway of this cluster would publish that says this of itself, as far as its own cluster needs it.
    ///
    /// # Errors
    /// A sentence that names what can't be used.
    pub fn sibling(
        &self,
        hostname: &str,
        cable_name: &str,
        backend: &str,
        interface: &str,
        addresses: &[IpAddr],
    ) -> Result<Self, String> {
        let interface = (BACKEND_INTERFACE.to_owned(), interface.to_owned());
        let spec = EndpointSpec {
            cluster_id: self.spec.cluster_id.clone(),
            cable_name: cable_name.to_owned(),
            hostname: hostname.to_owned(),
            subnets: self.spec.subnets.clone(),
            private_ips: addresses.iter().map(ToString::to_string).collect(),
            nat_enabled: self.spec.nat_enabled,
            backend: backend.to_owned(),
            // The ports are as a rule the same.
            backend_config: [BACKEND_UDP_PORT, BACKEND_NATT_PORT]
                .into_iter()
                .filter_map(|key| {
                    Some((key.to_owned(), self.spec.backend_config.get(key)?.clone()))
                })
                .chain([interface])
                .collect(),
            ..EndpointSpec::default()
        };
        let name = Self::object_name(self.cluster.as_str(), cable_name);
        let object = Object::new(Kind::Endpoint, "", &name).with("spec", &spec);
        Self::parse(&object)
    }

    /// Parses an object, which is hostile until then.
    ///
    /// # Errors
    /// A sentence that names the field, what it holds and what was expected. A subnet that can't be read does not take the others
    /// with it: it is left out, as Submariner's cables leave it out, and [named](Self::odd_subnets).
    pub fn parse(object: &Object) -> Result<Self, String> {
        let spec: EndpointSpec = object.section("spec")?;
        let cluster: ClusterId = spec
            .cluster_id
            .parse()
            .map_err(|e| format!("spec.cluster_id: {e}"))?;
        check_text("spec.cable_name", &spec.cable_name, 200)?;
        check_text("spec.hostname", &spec.hostname, 253)?;
        let (subnets, odd_subnets) = subnets(&spec.subnets);
        let udp_port = match spec.backend_config.get(BACKEND_UDP_PORT) {
            None => CABLE_PORT,
            Some(text) => text.parse().ok().filter(|p| *p > 0).ok_or_else(|| {
                format!("spec.backend_config[{BACKEND_UDP_PORT}]: '{}' is no UDP port; expected 1 to 65535", cut(text))
            })?,
        };
        let interface = spec
            .backend_config
            .get(BACKEND_INTERFACE)
            .filter(|s| !s.is_empty())
            .cloned();
        if let Some(name) = &interface {
            check_link_name(&format!("spec.backend_config[{BACKEND_INTERFACE}]"), name)?;
        }
        let config = |key| spec.backend_config.get(key);
        let (standbys, bad_standbys) = match standby::standbys(object, cluster.as_str()) {
            Ok(standbys) => (standbys, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        Ok(Self {
            name: object.key.name.clone(),
            private_ips: addresses("private_ip", &spec.private_ips, &spec.private_ip)?,
            public_ips: addresses("public_ip", &spec.public_ips, &spec.public_ip)?,
            health_check_ips: addresses(
                "healthCheckIP",
                &spec.health_check_ips,
                &spec.health_check_ip,
            )?,
            vtep_mac: vtep_mac(object, ANNOTATION_VTEP_MAC)?,
            term: term(object)?,
            standbys,
            bad_standbys,
            other_keys: OtherKeys::of(object).map(Box::new),
            cluster,
            cable_name: spec.cable_name.clone(),
            hostname: spec.hostname.clone(),
            subnets,
            odd_subnets: (!odd_subnets.is_empty()).then(|| Box::new(OddSubnets(odd_subnets))),
            backend: spec.backend.to_lowercase(),
            udp_port,
            natt_port: config(BACKEND_NATT_PORT)
                .and_then(|text| text.parse().ok())
                .filter(|port| *port > 0),
            load_balancer: config(BACKEND_LOAD_BALANCER).is_some_and(|text| text == "true"),
            interface,
            created: object.created,
            since: since(object).unwrap_or(object.created),
            spec: Arc::new(spec),
        })
    }
}

/// The greatest number of a Lease's transitions that an API server takes.
const MOST_TRANSITIONS: u64 = i32::MAX as u64;

fn term(object: &Object) -> Result<Option<Term>, String> {
    let Some(text) = object.annotations.get(ANNOTATION_TERM) else {
        return Ok(None);
    };
    let term: Result<Term, String> = text.parse();
    let term = term.and_then(|term| match term.lease {
        0..=MOST_TRANSITIONS => Ok(term),
        _ => Err(format!("is more than {MOST_TRANSITIONS}")),
    });
    term.map(Some)
        .map_err(|why| format!("annotation {ANNOTATION_TERM}: '{}' {why}", cut(text)))
}

/// One that can't be read counts as none: nobody but who makes the copy has a say in it.
fn since(object: &Object) -> Option<i64> {
    let text = object.annotations.get(ANNOTATION_SINCE)?;
    text.parse().ok().filter(|since| *since > 0)
}

/// The Ethernet address that this annotation of an object publishes.
pub(crate) fn vtep_mac(object: &Object, annotation: &str) -> Result<Option<[u8; 6]>, String> {
    let Some(text) = object.annotations.get(annotation) else {
        return Ok(None);
    };
    let bad = || {
        format!(
            "annotation {annotation}: '{}' is no unicast Ethernet address; expected e.g. 02:64:0a:00:00:05",
            cut(text)
        )
    };
    let mut mac = [0u8; 6];
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() != 6 {
        return Err(bad());
    }
    for (octet, part) in mac.iter_mut().zip(&parts) {
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
    }
    if mac == [0; 6] || mac[0] & 1 == 1 {
        Err(bad())
    } else {
        Ok(Some(mac))
    }
}

/// Plural first, the singular for IPv4 where the plural has none of that family; at most one of each family.
fn addresses(field: &str, plural: &[String], singular: &str) -> Result<Vec<IpAddr>, String> {
    let mut found: Vec<IpAddr> = Vec::new();
    for (i, text) in plural.iter().enumerate() {
        let ip = parse_ip(&format!("spec.{field}s[{i}]"), text)?;
        if !found.iter().any(|have| have.is_ipv4() == ip.is_ipv4()) {
            found.push(ip);
        }
    }
    if !singular.is_empty() {
        let ip = parse_ip(&format!("spec.{field}"), singular)?;
        if !found.iter().any(|have| have.is_ipv4() == ip.is_ipv4()) {
            found.push(ip);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a host can have this address on a network.
#[must_use]
pub fn host_address(ip: IpAddr) -> bool {
    let special = match ip {
        // 0.0.0.0/8 and the broadcast address stand for no host (RFC 1122).
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_broadcast(),
        // An IPv4 address in disguise would count as IPv6; a link-local one means nothing without its link.
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_some() || v6.is_unicast_link_local(),
    };
    !(special || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback())
}

/// An address that a host can have.
pub(crate) fn parse_ip(field: &str, text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text
        .parse()
        .map_err(|_| format!("{field}: '{}' is no IP address", cut(text)))?;
    if !host_address(ip) {
        return Err(format!(
            "{field}: {ip} can't be a host's address on a network"
        ));
    }
    Ok(ip)
}

/// How many subnets are named that are not as they should be: a message has a limited length.
const NAMED: usize = 5;

/// Those of an Endpoint that can be read, and what is to be said of others.
fn subnets(texts: &[String]) -> (Vec<IpNet>, Vec<String>) {
    let (mut nets, mut odd) = (Vec::with_capacity(texts.len()), Vec::new());
    let mut more = 0usize;
    for (i, text) in texts.iter().enumerate() {
        let field = format!("spec.subnets[{i}]");
        let said = match (parse_net(&field, text), text.parse::<IpNet>()) {
            (Ok(net), Ok(written)) => {
                nets.push(net);
                let told = format!("{field}: '{written}' has host bits: {net} is used");
                (net != written).then_some(told)
            }
            (Err(why), _) => Some(format!("{why}; the others are used")),
            (Ok(_), Err(_)) => None,
        };
        match said {
            Some(said) if odd.len() < NAMED => odd.push(said),
            Some(_) => more += 1,
            None => {}
        }
    }
    if more > 0 {
        odd.push(format!("and {more} more"));
    }
    (nets, odd)
}

/// A prefix; host bits are cleared.
pub(crate) fn parse_net(field: &str, text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| {
        format!(
            "{field}: '{}' is no prefix; expected e.g. 10.1.0.0/16 or fd00:1::/48",
            cut(text)
        )
    })?;
    Ok(net.trunc())
}

fn check_text(field: &str, text: &str, most: usize) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_' || c == ':';
    if text.is_empty() || text.len() > most || !text.chars().all(good) {
        return Err(format!(
            "{field}: '{}' is not usable; expected 1 to {most} letters, digits, '-', '.', '_' and ':'",
            cut(text)
        ));
    }
    Ok(())
}

/// A name that the kernel takes for a link: 1 to 15 bytes, no `/`, no white space, not `.` or `..`.
fn check_link_name(field: &str, name: &str) -> Result<(), String> {
    let good = (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
        && name != "."
        && name != ".."
        && !matches!(name, "all" | "default" | "lo");
    if good {
        Ok(())
    } else {
        Err(format!(
            "{field}: '{}' is no name of a network interface",
            cut(name)
        ))
    }
}

/// At most 80 characters of a text that somebody else wrote, for a message.
fn cut(text: &str) -> String {
    crate::object::shown(text, 80)
}
