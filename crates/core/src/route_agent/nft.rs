//! The nftables table: rules few and fixed, what varies in sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use strait_api::names::{LINK_ALIAS, NODE_VXLAN_PORT};
use strait_api::vtep::Vxlan;
use strait_host::Family;
use strait_host::nft::{Base, Chain, ChainKind, Field, Hook, Rule, Set, Statement, Table, Value};

use super::firewall::{forward_comment, tunnel_comment};
use super::view::FamilyView;

/// The lowest priority that the kernel takes for NAT (net/netfilter/nf_tables_api.c: above `NF_IP_PRI_CONNTRACK`,
/// −200). The first NAT chain that binds a connection wins.
pub(super) const NAT_PRIORITY: i32 = -199;
/// `NF_IP_PRI_MANGLE`: after connection tracking, before the filters of others.
const EARLY_PRIORITY: i32 = -150;

/// `NF_IP_PRI_CONNTRACK_DEFRAG` is −400, `NF_IP_PRI_RAW` −300: before all filters but those.
const FIRST_PRIORITY: i32 = -300;
/// `NF_IP_PRI_LAST`: what others drop in a hook does not arrive here.
pub(super) const LAST_PRIORITY: i32 = i32::MAX;
/// Chains that count what arrives, what passes through and what enters before and after others' filters.
pub(super) const EARLY_FIRST: &str = "prerouting-first";
pub(super) const EARLY_LAST: &str = "prerouting-last";
pub(super) const FORWARD_FIRST: &str = "forward-first";
pub(super) const FORWARD_LAST: &str = "forward-last";
pub(super) const INPUT_FIRST: &str = "tunnels";
pub(super) const INPUT_LAST: &str = "input-last";
/// Chain that gives sources.
const SOURCE: &str = "source";
/// Before tables had a comment, they had these.
pub(super) const FORMER_CHAINS: [&str; 5] =
    [SOURCE, FORWARD_FIRST, FORWARD_LAST, INPUT_FIRST, INPUT_LAST];

/// `NFPROTO_IPV4`, `NFPROTO_IPV6` (linux/netfilter.h).
const fn protocol(family: Family) -> u32 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
/// `IPPROTO_TCP`, `IPPROTO_UDP` (linux/in.h).
const TCP: u32 = 6;
const UDP: u32 = 17;
/// `IPPROTO_ICMP` and `IPPROTO_ICMPV6` with `ICMP_REDIRECT` (RFC 792) and `NDISC_REDIRECT` (RFC 4861, 4.5).
const ICMP: u32 = 1;
const ICMP_REDIRECT: u32 = 5;
const ICMPV6: u32 = 58;
const ND_REDIRECT: u32 = 137;
/// Set of the links of tunnels.
const TUNNEL_LINKS: &str = "tunnel-links";
/// `NF_CT_STATE_BIT(IP_CT_NEW)` as nftables has it: `ct state new`.
const CT_NEW: u32 = 8;
/// The same for `ct state established,related`: bits 2 and 4.
const CT_SETTLED: u32 = 6;
/// Chain that clamps segment sizes.
const MSS: &str = "mss";
/// SYN and RST of the TCP flags (RFC 9293).
const SYN: u32 = 2;
const SYN_RST: u32 = 6;

/// Where a gateway's cable is spoken.
#[derive(Debug)]
pub(super) struct CablePort {
    /// UDP port.
    pub port: u16,
    /// The addresses of those who may; `None` where the cable knows its peers by itself.
    pub peers: Option<BTreeSet<IpAddr>>,
}

/// What of the table varies.
pub(super) struct Variables<'a> {
    pub families: &'a [FamilyView<'a>],
    /// The source of what this host sends, per family: CNI address, or address in the nodes' VXLAN.
    pub host_source: BTreeMap<Family, IpAddr>,
    /// Families in which this host has no source to lend: what is not from a pod goes nowhere.
    pub no_source: BTreeSet<Family>,
    /// Addresses whose pings over the nodes' VXLAN keep them, per family.
    pub self_test: BTreeMap<Family, IpAddr>,
    /// Links by which connections from remote subnets may begin.
    pub ways: BTreeSet<String>,
    /// Links of tunnels: ours, and the cable's.
    pub tunnels: BTreeSet<String>,
    /// Addresses of the nodes of this cluster.
    pub nodes: BTreeSet<IpAddr>,
    /// Maximum segment size that is asked for, in bytes; else what fits the path.
    pub mss: Option<u16>,
    /// On a gateway: its cable.
    pub cable: Option<CablePort>,
}

/// The whole table.
pub(super) fn table(v: &Variables<'_>) -> Table {
    let mut table = Table {
        comment: LINK_ALIAS.to_owned(),
        ..Table::default()
    };
    for view in v.families {
        let family = view.family;
        table
            .sets
            .insert(name("remote", family), Set::of_nets(family, &view.subnets));
        table
            .sets
            .insert(name("pods", family), Set::of_nets(family, &view.pods));
        table
            .sets
            .insert(name("nodes", family), Set::of_ips(family, &v.nodes));
        if let Some(peers) = v.cable.as_ref().and_then(|c| c.peers.as_ref()) {
            table
                .sets
                .insert(name("peers", family), Set::of_ips(family, peers));
        }
    }
    table.sets.insert(
        "ways".to_owned(),
        Set::of_names(v.ways.iter().map(String::as_str)),
    );
    table.sets.insert(
        TUNNEL_LINKS.to_owned(),
        Set::of_names(v.tunnels.iter().map(String::as_str)),
    );
    let chain = |kind, hook, priority, rules| Chain {
        base: Some(Base {
            kind,
            hook,
            priority,
        }),
        rules,
    };
    let chains = [
        (
            SOURCE,
            chain(
                ChainKind::Nat,
                Hook::Postrouting,
                NAT_PRIORITY,
                source_rules(v),
            ),
        ),
        (
            INPUT_FIRST,
            chain(
                ChainKind::Filter,
                Hook::Input,
                EARLY_PRIORITY,
                // Tunnels first, and done with: they carry everything.
                [tunnel_rules(v), accepted(counted_tunnels(v)), way_rules(v)].concat(),
            ),
        ),
        (
            INPUT_LAST,
            chain(
                ChainKind::Filter,
                Hook::Input,
                LAST_PRIORITY,
                counted_tunnels(v),
            ),
        ),
        (
            FORWARD_FIRST,
            chain(
                ChainKind::Filter,
                Hook::Forward,
                FIRST_PRIORITY,
                [
                    vec![clamped(), settled()],
                    way_rules(v),
                    counted_forwards(v),
                ]
                .concat(),
            ),
        ),
        (
            FORWARD_LAST,
            chain(
                ChainKind::Filter,
                Hook::Forward,
                LAST_PRIORITY,
                [vec![settled()], counted_forwards(v)].concat(),
            ),
        ),
        (
            "output",
            chain(
                ChainKind::Filter,
                Hook::Output,
                EARLY_PRIORITY,
                [vec![clamped()], redirect_rules(v)].concat(),
            ),
        ),
        (
            MSS,
            Chain {
                base: None,
                rules: mss_rules(v),
            },
        ),
    ];
    table.chains = chains
        .into_iter()
        .map(|(name, chain)| (name.to_owned(), chain))
        .collect();
    table
}

/// SYNs, which are few, go where they are clamped.
fn clamped() -> Rule {
    rule(
        "connections begin with a segment size that fits",
        [
            number(Field::Transport, TCP),
            syn(),
            Statement::Jump(MSS.to_owned()),
        ],
    )
}

/// Packets of settled connections, which are most, end here: this chain is asked of every packet that passes through.
fn settled() -> Rule {
    rule(
        "settled connections need no further look",
        [
            Statement::Match {
                field: Field::CtState,
                mask: Some(CT_SETTLED),
                negated: true,
                value: Value::Number(0),
            },
            Statement::Accept,
        ],
    )
}

fn syn() -> Statement {
    Statement::Match {
        field: Field::TcpFlags,
        mask: Some(SYN_RST),
        negated: false,
        value: Value::Number(SYN),
    }
}

/// Name of the set of a family, e.g. `remote4`.
pub(super) fn name(set: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{set}4"),
        Family::V6 => format!("{set}6"),
    }
}

/// Who is seen with which source.
fn source_rules(v: &Variables<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for view in v.families {
        let f = view.family;
        let (remote, pods) = (name("remote", f), name("pods", f));
        rules.push(rule(
            "pods keep their address towards remote clusters",
            [
                family(f),
                from(f, &pods),
                to(f, &remote),
                Statement::Counter,
                Statement::SnatToSelf(f),
            ],
        ));
        rules.push(rule(
            "remote clusters keep theirs towards pods",
            [
                family(f),
                from(f, &remote),
                to(f, &pods),
                Statement::Counter,
                Statement::SnatToSelf(f),
            ],
        ));
        if let Some(ip) = v.self_test.get(&f) {
            let inside = Vxlan::Nodes.prefix(f == Family::V6);
            rules.push(rule(
                "the self-test keeps the CNI address, so that its answer comes by the CNI",
                [
                    family(f),
                    Statement::within(Field::Source(f), (*ip).into()),
                    Statement::within(Field::Destination(f), inside),
                    Statement::Counter,
                    Statement::SnatToSelf(f),
                ],
            ));
        }
        if let Some(ip) = v.host_source.get(&f) {
            rules.push(rule(
                "this host and what passes through it, with an address that replies find back to",
                [
                    family(f),
                    to(f, &remote),
                    Statement::Counter,
                    Statement::SnatTo(*ip),
                ],
            ));
        } else if v.no_source.contains(&f) {
            rules.push(rule(
                "no address that replies would find back to: better not reached than half",
                [
                    family(f),
                    to(f, &remote),
                    Statement::Counter,
                    Statement::Drop,
                ],
            ));
        }
    }
    rules
}

/// Loose reverse-path filtering lets remote sources in anywhere; here they are let in where they belong.
fn way_rules(v: &Variables<'_>) -> Vec<Rule> {
    let rules = v.families.iter().map(|view| {
        let f = view.family;
        let elsewhere = Statement::Lookup {
            field: Field::InputLink,
            negated: true,
            set: "ways".to_owned(),
        };
        let new = Statement::Match {
            field: Field::CtState,
            mask: Some(CT_NEW),
            negated: true,
            value: Value::Number(0),
        };
        rule(
            "connections from remote clusters begin only where they can arrive",
            [
                // The cheapest first: this is asked of every packet.
                new,
                family(f),
                elsewhere,
                from(f, &name("remote", f)),
                Statement::Counter,
                Statement::Drop,
            ],
        )
    });
    rules.collect()
}

/// Tunnels are spoken with those who are known only.
fn tunnel_rules(v: &Variables<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for view in v.families {
        let f = view.family;
        let mut only = |comment, port: u16, set: &str| {
            let stranger = Statement::Lookup {
                field: Field::Source(f),
                negated: true,
                set: name(set, f),
            };
            let statements = [
                family(f),
                number(Field::Transport, UDP),
                number(Field::DestinationPort, port.into()),
                stranger,
                Statement::Counter,
                Statement::Drop,
            ];
            rules.push(rule(comment, statements));
        };
        only("the nodes' VXLAN is for nodes", NODE_VXLAN_PORT, "nodes");
        let cable = v.cable.as_ref().filter(|c| c.peers.is_some());
        if let Some(cable) = cable {
            only(
                "the cable is for gateways of other clusters",
                cable.port,
                "peers",
            );
        }
    }
    rules
}

/// What arrives in tunnels; strangers were dropped before.
fn counted_tunnels(v: &Variables<'_>) -> Vec<Rule> {
    let ports = || {
        [NODE_VXLAN_PORT]
            .into_iter()
            .chain(v.cable.iter().map(|c| c.port))
    };
    let each = v
        .families
        .iter()
        .flat_map(|view| ports().map(|port| (view.family, port)));
    let count = |(f, port): (Family, u16)| {
        let statements = [
            family(f),
            number(Field::Transport, UDP),
            number(Field::DestinationPort, port.into()),
            Statement::Counter,
        ];
        rule(&tunnel_comment(f, port), statements)
    };
    each.map(count).collect()
}

/// The same rules, each of which ends its chain.
fn accepted(mut rules: Vec<Rule>) -> Vec<Rule> {
    for rule in &mut rules {
        rule.statements.push(Statement::Accept);
    }
    rules
}

/// What passes through between clusters.
fn counted_forwards(v: &Variables<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for view in v.families {
        let f = view.family;
        let remote = name("remote", f);
        for (is_from, side) in [(false, to(f, &remote)), (true, from(f, &remote))] {
            let statements = [family(f), side, Statement::Counter];
            rules.push(rule(&forward_comment(f, is_from), statements));
        }
    }
    rules
}

/// Who sent a packet the wrong way round is not told to send elsewhere: what this host forwards from a tunnel back into it, it forwards
/// while a gateway moves. The sysctl `send_redirects` alone does not see to that: the kernel asks whether that of `all` or of the link is on.
fn redirect_rules(v: &Variables<'_>) -> Vec<Rule> {
    let rules = v.families.iter().map(|view| {
        let (transport, kind) = match view.family {
            Family::V4 => (ICMP, ICMP_REDIRECT),
            Family::V6 => (ICMPV6, ND_REDIRECT),
        };
        let tunnel = Statement::Lookup {
            field: Field::OutputLink,
            negated: false,
            set: TUNNEL_LINKS.to_owned(),
        };
        rule(
            "nobody is redirected inside a tunnel",
            [
                family(view.family),
                number(Field::Transport, transport),
                number(Field::IcmpType, kind),
                tunnel,
                Statement::Counter,
                Statement::Drop,
            ],
        )
    });
    rules.collect()
}

/// TCP connections fit into the tunnels.
fn mss_rules(v: &Variables<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    let clamp = v.mss.map_or(Statement::ClampMss, Statement::SetMss);
    for view in v.families {
        let f = view.family;
        let remote = name("remote", f);
        for (comment, side) in [
            ("fit the path to remote clusters", to(f, &remote)),
            ("and the path back", from(f, &remote)),
        ] {
            let statements = [
                number(Field::Transport, TCP),
                syn(),
                family(f),
                side,
                clamp.clone(),
            ];
            rules.push(rule(comment, statements));
        }
    }
    rules
}

pub(super) fn rule<const N: usize>(comment: &str, statements: [Statement; N]) -> Rule {
    Rule {
        statements: statements.into(),
        comment: comment.to_owned(),
    }
}

fn number(field: Field, value: u32) -> Statement {
    Statement::Match {
        field,
        mask: None,
        negated: false,
        value: Value::Number(value),
    }
}

pub(super) fn family(f: Family) -> Statement {
    number(Field::Protocol, protocol(f))
}

pub(super) fn from(f: Family, set: &str) -> Statement {
    Statement::Lookup {
        field: Field::Source(f),
        negated: false,
        set: set.to_owned(),
    }
}

fn to(f: Family, set: &str) -> Statement {
    Statement::Lookup {
        field: Field::Destination(f),
        negated: false,
        set: set.to_owned(),
    }
}
