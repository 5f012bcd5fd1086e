//! An nftables ruleset as plain data: tables, chains, rules, interval sets and maps.
//!
//! The statements are those that our rulesets use. What the kernel holds beyond them is read as
//! [`Statement::Foreign`], which equals nothing that is wanted, and is therefore replaced.

mod transaction;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::Family;
pub use transaction::{Op, apply, diff_table};

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableFamily {
    /// IPv4 and IPv6 (`NFPROTO_INET`).
    Inet,
    /// IPv4 only.
    Ip,
    /// IPv6 only.
    Ip6,
}

/// What names a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TableId {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
}

impl From<TableId> for String {
    fn from(id: TableId) -> Self {
        let family = match id.family {
            TableFamily::Inet => "inet",
            TableFamily::Ip => "ip",
            TableFamily::Ip6 => "ip6",
        };
        format!("{family} {}", id.name)
    }
}

impl TryFrom<String> for TableId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (family, name) = text.split_once(' ').ok_or("expected FAMILY NAME")?;
        let family = match family {
            "inet" => TableFamily::Inet,
            "ip" => TableFamily::Ip,
            "ip6" => TableFamily::Ip6,
            other => {
                return Err(format!(
                    "unknown table family '{other}'; expected inet, ip or ip6"
                ));
            }
        };
        Ok(Self {
            family,
            name: name.to_owned(),
        })
    }
}

/// A table's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its comment, by which owners know their tables; at most 120 bytes, empty for none. The kernel takes it when the table is made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Where it is hooked in; `None` for a chain that is only jumped to.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// How a base chain is hooked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The chain's type.
    pub kind: ChainKind,
    /// The hook.
    pub hook: Hook,
    /// The lower goes first.
    pub priority: i32,
}

/// A base chain's type. All have the policy `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainKind {
    /// Every packet.
    Filter,
    /// The first packet of a connection.
    Nat,
    /// Every packet; a changed mark routes it again.
    Route,
}

/// A netfilter hook (`enum nf_inet_hooks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// All that arrives.
    Prerouting,
    /// What is for this host.
    Input,
    /// What passes through.
    Forward,
    /// What this host sends.
    Output,
    /// All that leaves.
    Postrouting,
}

/// A rule: matches, then what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Matches and actions in order.
    pub statements: Vec<Statement>,
    /// A comment for whoever lists the ruleset, at most 120 bytes.
    pub comment: String,
}

/// What a match looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Name of the link that it arrived on (`meta iifname`), 16 bytes.
    InputLink,
    /// Name of the link that it leaves by (`meta oifname`), 16 bytes.
    OutputLink,
    /// `NFPROTO_*` (`meta nfproto`), 1 byte.
    Protocol,
    /// Transport protocol (`meta l4proto`), 1 byte.
    Transport,
    /// Packet mark (`meta mark`), 4 bytes, host order.
    Mark,
    /// Source address of the given family (`ip saddr`, `ip6 saddr`).
    Source(Family),
    /// Destination address of the given family.
    Destination(Family),
    /// Transport source port (`th sport`), 2 bytes.
    SourcePort,
    /// Transport destination port (`th dport`), 2 bytes.
    DestinationPort,
    /// TCP flags, 1 byte at offset 13 (`tcp flags`).
    TcpFlags,
    /// Type of an ICMP or ICMPv6 message, 1 byte at offset 0 (`icmp type`, `icmpv6 type`).
    IcmpType,
    /// Connection state bits (`ct state`), 4 bytes, host order.
    CtState,
    /// Whether the source is an address of this host: `RTN_LOCAL` is 2 (`fib saddr type`), 4 bytes, host order.
    SourceType,
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// A link's name.
    Name(String),
    /// A number in the width of the field.
    Number(u32),
    /// An address.
    Ip(IpAddr),
}

/// One part of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statement {
    /// Goes on if the field, after `mask`, equals the value (or doesn't, if `negated`).
    ///
    /// With a mask and a value of zero, `negated` means "any of these bits".
    Match {
        /// What is looked at.
        field: Field,
        /// Bits that count; `None` for all. Only for numeric fields.
        mask: Option<u32>,
        /// Goes on if it differs.
        negated: bool,
        /// The value.
        value: Value,
    },
    /// Goes on if the address is within a prefix; made by [`Statement::within`].
    Within {
        /// [`Field::Source`] or [`Field::Destination`].
        field: Field,
        /// The prefix, of the field's family.
        net: IpNet,
    },
    /// Goes on if the field is in the set (or isn't, if `negated`).
    Lookup {
        /// What is looked at.
        field: Field,
        /// Goes on if it is not in the set.
        negated: bool,
        /// The set's name, in the same table.
        set: String,
    },
    /// Counts packets and bytes. What it has counted is not part of the ruleset.
    Counter,
    /// Ends this chain: let it pass. It does not overrule another chain's drop.
    Accept,
    /// Ends all: drop it.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Into another chain of the table.
    Jump(String),
    /// Binds the connection's source to this address.
    SnatTo(IpAddr),
    /// Binds the connection's source to the one it has (`snat ip to ip saddr`): no later chain can change it.
    SnatToSelf(Family),
    /// Binds the connection's source to what a map gives for a field.
    SnatToMap {
        /// The family of the addresses in the map.
        family: Family,
        /// What is looked up.
        field: Field,
        /// The map's name.
        map: String,
    },
    /// Lowers a TCP SYN's maximum segment size to what the route's MTU allows (`tcp option maxseg size set rt mtu`).
    ClampMss,
    /// Lowers a TCP SYN's maximum segment size to this many bytes (`tcp option maxseg size set N`); the kernel never raises it.
    SetMss(u16),
    /// Sets the packet mark.
    SetMark(u32),
    /// Sets some bits of the packet mark, and leaves the others as they are.
    SetMarkBits {
        /// The bits that are set.
        mask: u32,
        /// What they become.
        value: u32,
    },
    /// Something that we never write.
    Foreign(String),
}

impl Statement {
    /// A match of an address with a prefix, in the form in which it is read back: a prefix of full length is an address.
    #[must_use]
    pub fn within(field: Field, net: IpNet) -> Self {
        if net.prefix_len() < net.max_prefix_len() {
            let net = net.trunc();
            return Self::Within { field, net };
        }
        Self::Match {
            field,
            mask: None,
            negated: false,
            value: Value::Ip(net.addr()),
        }
    }
}

/// A set, or a map where `values` is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Type of its keys.
    pub keys: ElementType,
    /// Keys are ranges (`flags interval`).
    pub interval: bool,
    /// Type of a map's values.
    pub values: Option<ElementType>,
    /// Its elements, with values for a map.
    #[serde(with = "elements")]
    pub elements: BTreeMap<Element, Option<Element>>,
}

/// Type of a set's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ElementType {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `ifname`
    Name,
    /// `inet_service`
    Port,
    /// `mark`
    Mark,
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// An address (in a set without intervals).
    Ip(IpAddr),
    /// A prefix (in an interval set).
    Net(IpNet),
    /// A range that is no prefix, both ends included (in an interval set; we never write one).
    Range(IpAddr, IpAddr),
    /// A link's name.
    Name(String),
    /// A port.
    Port(u16),
    /// A mark.
    Mark(u32),
}

/// JSON has no keys but strings: elements travel as a list of pairs.
mod elements {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Element;

    type Elements = BTreeMap<Element, Option<Element>>;

    pub(super) fn serialize<S: Serializer>(e: &Elements, s: S) -> Result<S::Ok, S::Error> {
        e.iter().collect::<Vec<_>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Elements, D::Error> {
        Ok(Vec::<(Element, Option<Element>)>::deserialize(d)?
            .into_iter()
            .collect())
    }
}

impl Set {
    /// An interval set of prefixes of one family; overlapping and adjacent ones are merged, others left out.
    #[must_use]
    pub fn of_nets<'a>(family: Family, nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(n) => v4.push(n.trunc()),
                IpNet::V6(n) => v6.push(n.trunc()),
            }
        }
        let nets: Vec<IpNet> = match family {
            Family::V4 => Ipv4Net::aggregate(&v4).into_iter().map(IpNet::V4).collect(),
            Family::V6 => Ipv6Net::aggregate(&v6).into_iter().map(IpNet::V6).collect(),
        };
        Self {
            keys: ElementType::of(family),
            interval: true,
            values: None,
            elements: nets.into_iter().map(|n| (Element::Net(n), None)).collect(),
        }
    }

    /// A set of link names.
    #[must_use]
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            keys: ElementType::Name,
            interval: false,
            values: None,
            elements: names
                .into_iter()
                .map(|n| (Element::Name(n.to_owned()), None))
                .collect(),
        }
    }

    /// A set of addresses of one family; others are left out.
    #[must_use]
    pub fn of_ips<'a>(family: Family, ips: impl IntoIterator<Item = &'a IpAddr>) -> Self {
        Self {
            keys: ElementType::of(family),
            interval: false,
            values: None,
            elements: ips
                .into_iter()
                .filter(|ip| Family::of(**ip) == family)
                .map(|ip| (Element::Ip(*ip), None))
                .collect(),
        }
    }

    /// Same type, whatever the elements.
    #[must_use]
    pub fn same_type(&self, other: &Self) -> bool {
        self.keys == other.keys && self.interval == other.interval && self.values == other.values
    }
}

impl ElementType {
    /// The address type of a family.
    #[must_use]
    pub fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4,
            Family::V6 => Self::Ipv6,
        }
    }
}

/// The names of sets that a table's rules look up; for checking that a plan holds together.
#[must_use]
pub fn sets_used(table: &Table) -> BTreeSet<&str> {
    let statements = table
        .chains
        .values()
        .flat_map(|c| &c.rules)
        .flat_map(|r| &r.statements);
    statements
        .filter_map(|s| match s {
            Statement::Lookup { set, .. } => Some(set.as_str()),
            Statement::SnatToMap { map, .. } => Some(map.as_str()),
            Statement::Match { .. }
            | Statement::Within { .. }
            | Statement::Counter
            | Statement::Accept
            | Statement::Drop
            | Statement::Return
            | Statement::Jump(_)
            | Statement::SnatTo(_)
            | Statement::SnatToSelf(_)
            | Statement::ClampMss
            | Statement::SetMss(_)
            | Statement::SetMark(_)
            | Statement::SetMarkBits { .. }
            | Statement::Foreign(_) => None,
        })
        .collect()
}
