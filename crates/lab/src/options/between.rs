//! What is between the clusters of a lab.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How gateways reach those of other clusters, as `SUBMARINER_CABLEDRIVER` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cable {
    /// In clear.
    Vxlan,
    /// Encrypted.
    Wireguard,
}

impl Cable {
    const NAMES: [(&'static str, Self); 2] =
        [("vxlan", Self::Vxlan), ("wireguard", Self::Wireguard)];
}

impl fmt::Display for Cable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&Self::NAMES, self))
    }
}

impl FromStr for Cable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name("cable", &Self::NAMES, text)
    }
}

/// Whose WireGuard a cluster's gateways take, as `STRAIT_WIREGUARD` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wireguard {
    /// The kernel's where it has one, else that of their processes.
    Auto,
    /// The kernel's.
    Kernel,
    /// That of their processes.
    Process,
}

impl Wireguard {
    const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("kernel", Self::Kernel),
        ("process", Self::Process),
    ];
}

impl fmt::Display for Wireguard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&Self::NAMES, self))
    }
}

impl FromStr for Wireguard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name("WireGuard", &Self::NAMES, text)
    }
}

/// What a cluster's router does between the nodes' network and the WAN, in the words of RFC 3489 section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// It routes; the nodes' networks know one another.
    None,
    /// Each gateway has a public address of its own, and whoever sends to its cable or discovery port there reaches it.
    FullCone,
    /// All share the router's address and keep their port where they can; in comes only what answers.
    PortRestricted,
    /// All share the router's address, with a random port for each destination; in comes only what answers.
    Symmetric,
}

impl Nat {
    const NAMES: [(&'static str, Self); 4] = [
        ("none", Self::None),
        ("full-cone", Self::FullCone),
        ("port-restricted", Self::PortRestricted),
        ("symmetric", Self::Symmetric),
    ];
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&Self::NAMES, self))
    }
}

impl FromStr for Nat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name("NAT", &Self::NAMES, text)
    }
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], wanted: &T) -> &'static str {
    names
        .iter()
        .find(|(_, value)| value == wanted)
        .map_or("", |(name, _)| name)
}

fn by_name<T: Copy>(what: &str, names: &[(&'static str, T)], text: &str) -> Result<T, String> {
    match names.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            Err(format!(
                "no {what} '{text}': expected one of {}",
                names.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_name_wherever_it_is_written() {
        for (name, cable) in Cable::NAMES {
            assert_eq!(cable.to_string(), name);
            assert_eq!(serde_json::to_value(cable).unwrap(), name);
            assert_eq!(name.parse(), Ok(cable));
        }
        for (name, nat) in Nat::NAMES {
            assert_eq!(nat.to_string(), name);
            assert_eq!(serde_json::to_value(nat).unwrap(), name);
            assert_eq!(name.parse(), Ok(nat));
        }
        for (name, whose) in Wireguard::NAMES {
            assert_eq!(whose.to_string(), name);
            assert_eq!(serde_json::to_value(whose).unwrap(), name);
            assert_eq!(name.parse(), Ok(whose));
        }
        assert_eq!(
            "cone".parse::<Nat>().unwrap_err(),
            "no NAT 'cone': expected one of none, full-cone, port-restricted, symmetric"
        );
    }
}
