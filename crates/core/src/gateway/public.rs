//! This gateway's address on the Internet: whom to ask for it, and what an answer means.
//!
//! A list of methods, `METHOD:VALUE` with commas in between, is gone through in order; the first that gives an address of a
//! family wins (upstream `endpoint/public_ip.go`):
//!
//! | method | value |
//! |---|---|
//! | `ipv4`, `ipv6` | the address itself |
//! | `dns` | a name |
//! | `lb` | a Service of our namespace: the address or name that its load balancer has |
//! | `api` | what follows `https://`: the answer contains the address |
//!
//! A [`Resolver`] says what to ask next; whoever can ask feeds it.

mod resolver;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

pub use resolver::Resolver;
use serde::Serialize;
use strait_api::endpoint::host_address;
use strait_host::Family;

/// Whom to ask where nothing is configured, for IPv4 (upstream's list).
const BUILT_IN_V4: [&str; 10] = [
    "ip4.seeip.org",
    "ipecho.net/plain",
    "ifconfig.me",
    "ipinfo.io/ip",
    "4.ident.me",
    "checkip.amazonaws.com",
    "4.icanhazip.com",
    "myexternalip.com/raw",
    "4.tnedi.me",
    "api.ipify.org",
];
/// The same for IPv6.
const BUILT_IN_V6: [&str; 2] = ["api64.ipify.org", "6.icanhazip.com"];

/// One way to learn the address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// It is this.
    Fixed(IpAddr),
    /// It is that of this name.
    Dns(String),
    /// It is that of the load balancer of this Service.
    LoadBalancer(String),
    /// It is in what `https://…` answers.
    Api {
        /// Host, perhaps port, and path.
        url: String,
        /// The family that is looked for.
        family: Family,
    },
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(ip) => write!(f, "{ip}"),
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::LoadBalancer(name) => write!(f, "lb:{name}"),
            Self::Api { url, .. } => write!(f, "api:{url}"),
        }
    }
}

/// Whom to ask, and for what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ask {
    /// In this order.
    pub methods: Vec<Method>,
    /// The families that an address is needed of.
    pub families: BTreeSet<Family>,
    /// Whether they are sites that nobody chose: one alone is not believed when it says something new, and the first
    /// of them is not always the same.
    pub built_in: bool,
}

impl Ask {
    /// What a configured list asks for, and a sentence for each entry that can't be used. Air-gapped, only the addresses
    /// themselves count.
    #[must_use]
    pub fn configured(
        list: &str,
        families: &BTreeSet<Family>,
        air_gapped: bool,
    ) -> (Self, Vec<String>) {
        let entries = list.split(',').map(str::trim).filter(|e| !e.is_empty());
        let (mut methods, mut problems) = (Vec::new(), Vec::new());
        for entry in entries {
            match method(entry, families) {
                Ok(method) if air_gapped && !matches!(method, Method::Fixed(_)) => {}
                Ok(method) => methods.push(method),
                Err(why) => problems.push(why),
            }
        }
        let families = families.clone();
        (
            Self {
                methods,
                families,
                built_in: false,
            },
            problems,
        )
    }

    /// What is asked without a list.
    #[must_use]
    pub fn built_in(families: &BTreeSet<Family>) -> Self {
        let of = |family: Family, urls: &'static [&'static str]| {
            let urls = urls.iter().filter(move |_| families.contains(&family));
            urls.map(move |url| Method::Api {
                url: (*url).to_owned(),
                family,
            })
        };
        Self {
            methods: of(Family::V4, &BUILT_IN_V4)
                .chain(of(Family::V6, &BUILT_IN_V6))
                .collect(),
            families: families.clone(),
            built_in: true,
        }
    }
}

/// Whether a list says that the gateway is behind a load balancer (upstream looks at its beginning, too).
pub(super) fn is_load_balancer(list: &str) -> bool {
    list.trim_start().starts_with("lb:")
}

fn method(entry: &str, families: &BTreeSet<Family>) -> Result<Method, String> {
    let shown: String = entry.chars().filter(|c| !c.is_control()).take(80).collect();
    let Some((method, value)) = entry.split_once(':') else {
        return Err(format!(
            "'{shown}' has no method; expected e.g. ipv4:192.0.2.1"
        ));
    };
    let value = value.trim();
    let usable = |c: char| c.is_ascii_alphanumeric() || "-._~/:[]?=&%".contains(c);
    if value.is_empty() || value.len() > 253 || !value.chars().all(usable) {
        return Err(format!("'{shown}' has no value that can be used"));
    }
    let fixed = |family| {
        let ip = address_in(value, family).map(Method::Fixed);
        ip.ok_or_else(|| format!("'{shown}' has no {family} address that a host can have"))
    };
    match method.trim() {
        "ipv4" => fixed(Family::V4),
        "ipv6" => fixed(Family::V6),
        "dns" => Ok(Method::Dns(value.to_owned())),
        "lb" => Ok(Method::LoadBalancer(value.to_owned())),
        "api" => Ok(Method::Api {
            url: value.to_owned(),
            family: families.first().copied().unwrap_or(Family::V4),
        }),
        _ => Err(format!(
            "'{shown}': no such method; expected ipv4, ipv6, dns, lb or api"
        )),
    }
}

/// The first address of a family in a text that a host can have.
fn address_in(text: &str, family: Family) -> Option<IpAddr> {
    let part_of_one = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
    text.split(|c: char| !part_of_one(c))
        .filter_map(|word| word.trim_matches('.').parse::<IpAddr>().ok())
        .find(|ip| Family::of(*ip) == family && host_address(*ip))
}

/// Something to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// The addresses of a name.
    Name(String),
    /// The load balancer of a Service.
    Service(String),
    /// What `https://…` answers.
    Get {
        /// Host, perhaps port, and path.
        url: String,
    },
}

/// What it gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These addresses.
    Addresses(Vec<IpAddr>),
    /// The address of this name.
    Name(String),
    /// A text that contains it.
    Text(String),
}

/// What is known of the public address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Public {
    /// One of each family at most. What was learned once stays until something else is.
    pub addresses: BTreeMap<Family, IpAddr>,
    /// Families for which all have been asked without an answer the last time, and what each said.
    pub failures: BTreeMap<Family, String>,
}
