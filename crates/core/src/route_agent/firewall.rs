//! Others' packet filters, judged by their effect: what our rules count first in a hook must also arrive at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use strait_api::names::NODE_VXLAN_PORT;
use strait_api::vtep::Vxlan;
use strait_host::nft::Hook;
use strait_host::{BaseChain, Family, Filtering};

use super::back::{Arrival, Of};
use super::nft::{
    EARLY_FIRST, EARLY_LAST, FORWARD_FIRST, FORWARD_LAST, INPUT_FIRST, INPUT_LAST, NAT_PRIORITY,
};
use super::table;
use crate::Condition;
use crate::time::Time;

/// Packets that are lost, and none that arrives, before it is said: one or two may be somebody's policy or chance.
const ENOUGH: u64 = 5;
/// How long it is said after the last packet that was lost.
const MEMORY: Duration = Duration::from_secs(300);
/// Prefixes that a command is given for; a message has a limited length.
const NAMED: usize = 3;

/// What of our packets gets through others' filters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Firewall {
    /// By the chain that counts first, and comment.
    tracks: BTreeMap<(&'static str, String), Track>,
    chains: Vec<BaseChain>,
    legacy: BTreeSet<Family>,
    legacy_early: BTreeSet<(Family, String)>,
}

/// What our rules look at, for the commands that let it through.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Remote subnets.
    pub subnets: Vec<IpNet>,
    /// UDP port of this node's cable.
    pub cable: Option<u16>,
    /// What is counted before it is routed.
    pub arrivals: BTreeSet<Arrival>,
}

/// One kind of packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Track {
    first: u64,
    last: u64,
    /// Lost since one arrived.
    lost: u64,
    /// When enough were lost, and none has arrived since.
    dropping: Option<Time>,
}

impl Firewall {
    pub(super) fn apply(&mut self, seen: Filtering, now: Time) {
        let mut tracks = BTreeMap::new();
        for (first, last) in [
            (EARLY_FIRST, EARLY_LAST),
            (FORWARD_FIRST, FORWARD_LAST),
            (INPUT_FIRST, INPUT_LAST),
        ] {
            let counted = |chain: &str, comment: &str| {
                seen.counted.get(&(chain.to_owned(), comment.to_owned()))
            };
            for (chain, comment) in seen.counted.keys().filter(|(chain, _)| chain == first) {
                let Some(arrived) = counted(last, comment) else {
                    continue;
                };
                let Some(begun) = counted(chain, comment) else {
                    continue;
                };
                let key = (first, comment.clone());
                let mut track = self.tracks.get(&key).copied().unwrap_or_default();
                track.count(*begun, *arrived, now);
                tracks.insert(key, track);
            }
        }
        self.tracks = tracks;
        self.chains = seen.chains;
        self.legacy = seen.legacy;
        self.legacy_early = seen.legacy_early;
    }

    /// Forgets what was long ago.
    pub(super) fn tick(&mut self, now: Time) {
        for track in self.tracks.values_mut() {
            if track.dropping.is_some_and(|at| at + MEMORY <= now) {
                track.dropping = None;
                track.lost = 0;
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let dropping = self.tracks.values().filter_map(|t| t.dropping);
        dropping.min().map(|at| at + MEMORY)
    }

    /// What is dropped, and the command that would let it through.
    pub(super) fn conditions(&self, seen: &Seen) -> Vec<Condition> {
        let mut all = Vec::new();
        for (chain, name, hook) in [
            (EARLY_FIRST, "PreroutingDrop", Hook::Prerouting),
            (FORWARD_FIRST, "ForwardPolicyDrop", Hook::Forward),
            (INPUT_FIRST, "TunnelInputDrop", Hook::Input),
        ] {
            let dropped: Vec<&str> = self
                .tracks
                .iter()
                .filter(|((first, _), track)| *first == chain && track.dropping.is_some())
                .map(|((_, comment), _)| comment.as_str())
                .collect();
            if dropped.is_empty() {
                continue;
            }
            let (lets, way): (Vec<Let>, &str) = match hook {
                Hook::Prerouting => (early(&dropped, seen), "arrives"),
                Hook::Forward => (forwards(&dropped, &seen.subnets), "passes"),
                Hook::Input | Hook::Output | Hook::Postrouting => {
                    (inputs(&dropped, seen.cable), "enters")
                }
            };
            let message = format!(
                "a packet filter of this host drops all that {way} of: {}. {}",
                dropped.join(", "),
                self.remedy(hook, &lets)
            );
            all.push(Condition::degraded(name, message));
        }
        all
    }

    /// NAT chains of others that bind a connection's source before ours, or may: of two with one priority the kernel decides.
    pub(super) fn nat_condition(&self, families: &BTreeSet<Family>) -> Option<Condition> {
        let ours = table();
        let concerns = |chain: &&BaseChain| {
            let family = |f: &Family| chain.family == "inet" || chain.family == nft_family(*f);
            chain.nat
                && chain.hook == Hook::Postrouting
                && chain.priority <= NAT_PRIORITY
                && !(chain.family == "inet" && chain.table == ours.name)
                && families.iter().any(family)
        };
        let mut chains: Vec<String> = self
            .chains
            .iter()
            .filter(concerns)
            .map(|c| format!("chain {} of table {} {}", c.name, c.family, c.table))
            .collect();
        chains.sort();
        (!chains.is_empty()).then(|| {
            let message = format!(
                "somebody else's NAT stands where ours does, at priority {NAT_PRIORITY}, and may decide first: pods may lose their addresses towards remote clusters. Give it a greater priority, or remove it: {}",
                chains.join(", ")
            );
            Condition::degraded("ForeignNatChain", message)
        })
    }

    /// Which filters there are, and what to tell them.
    fn remedy(&self, hook: Hook, lets: &[Let]) -> String {
        let families: BTreeSet<Family> = lets.iter().map(Let::family).collect();
        let ours = table();
        let hooked: Vec<&BaseChain> = self
            .chains
            .iter()
            .filter(|c| c.hook == hook && !c.nat && c.table != ours.name)
            .filter(|c| c.family == "inet" || families.iter().any(|f| c.family == nft_family(*f)))
            .collect();
        let dropping: Vec<&BaseChain> = hooked.iter().copied().filter(|c| c.drops).collect();
        let mut commands = Vec::new();
        // A chain whose policy drops is the one; else it may be any of them.
        for chain in if dropping.is_empty() {
            &hooked
        } else {
            &dropping
        } {
            commands.extend(match (chain.family, chain.table.as_str()) {
                ("inet", "firewalld") if hook == Hook::Prerouting => firewalld_reverse_path(),
                ("inet", "firewalld") => firewalld(lets),
                (_, table @ ("filter" | "raw" | "mangle"))
                    if chain.name.chars().all(|c| c.is_ascii_uppercase()) =>
                {
                    let has = |f| nft_family(f) == chain.family;
                    iptables(lets, table, &chain.name, "nft", has)
                }
                _ => nftables(lets, chain),
            });
        }
        if dropping.is_empty() {
            for (table, chain) in match hook {
                Hook::Prerouting => [("raw", "PREROUTING"), ("mangle", "PREROUTING")].as_slice(),
                Hook::Forward => &[("filter", "FORWARD")],
                Hook::Input | Hook::Output | Hook::Postrouting => &[("filter", "INPUT")],
            } {
                let has = |f| match hook {
                    Hook::Prerouting => self.legacy_early.contains(&(f, (*table).to_owned())),
                    Hook::Forward | Hook::Input | Hook::Output | Hook::Postrouting => {
                        self.legacy.contains(&f)
                    }
                };
                commands.extend(iptables(lets, table, chain, "legacy", has));
            }
        }
        let mut seen = BTreeSet::new();
        commands.retain(|command| seen.insert(command.clone()));
        if commands.is_empty() {
            return "None is known to nftables or iptables: look for others, such as BPF programs"
                .to_owned();
        }
        let several = if commands.iter().any(|c| c.starts_with("nft ")) && commands.len() > 1 {
            "as far as it is that one that drops"
        } else {
            "and see that its configuration keeps it"
        };
        format!("To let it through, {several}: {}", commands.join("; "))
    }
}

impl Track {
    fn count(&mut self, first: u64, last: u64, now: Time) {
        // A rule that was written anew counts from 0.
        if first < self.first || last < self.last {
            (self.first, self.last) = (0, 0);
        }
        let lost = first - self.first;
        if last > self.last {
            (self.lost, self.dropping) = (0, None);
        } else if lost > 0 {
            self.lost = self.lost.saturating_add(lost);
            if self.lost >= ENOUGH {
                self.dropping = Some(now);
            }
        }
        (self.first, self.last) = (first, last);
    }
}

/// What must be let through.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Let {
    /// From (or to) a prefix.
    Net { from: bool, net: IpNet },
    /// To a UDP port of this host.
    Port(Family, u16),
    /// What comes by a link.
    Link(Family, String),
}

impl Let {
    fn family(&self) -> Family {
        match self {
            Self::Net { net, .. } => Family::of_net(net),
            Self::Port(family, _) | Self::Link(family, _) => *family,
        }
    }

    fn iptables(&self) -> String {
        match self {
            Self::Net { from: true, net } => format!("-s {net}"),
            Self::Net { from: false, net } => format!("-d {net}"),
            Self::Port(_, port) => format!("-p udp --dport {port}"),
            Self::Link(_, link) => format!("-i {link}"),
        }
    }

    /// In a table of a family, `table`; nft takes what that says already for a mistake.
    fn nft(&self, table: &str) -> String {
        let family = nft_family(self.family());
        match self {
            Self::Net { from: true, net } => format!("{family} saddr {net}"),
            Self::Net { from: false, net } => format!("{family} daddr {net}"),
            Self::Port(_, port) => format!("udp dport {port}"),
            Self::Link(_, link) if table != "inet" => format!("iifname {link}"),
            Self::Link(family, link) => {
                let nfproto = match family {
                    Family::V4 => "ipv4",
                    Family::V6 => "ipv6",
                };
                format!("meta nfproto {nfproto} iifname {link}")
            }
        }
    }
}

/// Comments of the rules that count what is forwarded.
pub(super) fn forward_comment(family: Family, from: bool) -> String {
    let side = if from { "from" } else { "to" };
    format!("{family} {side} remote clusters")
}

/// Comments of the rules that count what arrives in tunnels.
pub(super) fn tunnel_comment(family: Family, port: u16) -> String {
    format!("{family} tunnels on UDP {port}")
}

/// Sources are let in as they are, since a reverse-path filter asks for them.
fn early(dropped: &[&str], seen: &Seen) -> Vec<Let> {
    let mut all = Vec::new();
    for arrival in &seen.arrivals {
        if !dropped.contains(&arrival.comment().as_str()) {
            continue;
        }
        let family = arrival.family;
        match arrival.of {
            Of::Remote => {
                let inside = Vxlan::Nodes.prefix(family == Family::V6);
                let nets = named(&seen.subnets, family).chain([inside]);
                all.extend(nets.map(|net| Let::Net { from: true, net }));
            }
            Of::Pods => all.push(Let::Link(family, arrival.link.clone())),
        }
    }
    all
}

fn named(subnets: &[IpNet], family: Family) -> impl Iterator<Item = IpNet> + '_ {
    let of_family = subnets.iter().copied();
    of_family
        .filter(move |net| Family::of_net(net) == family)
        .take(NAMED)
}

fn forwards(dropped: &[&str], subnets: &[IpNet]) -> Vec<Let> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let hit = [false, true].map(|from| forward_comment(family, from));
        if hit
            .iter()
            .any(|comment| dropped.contains(&comment.as_str()))
        {
            // Who drops the one way most likely drops the other too, once something gets there.
            for from in [false, true] {
                all.extend(named(subnets, family).map(|net| Let::Net { from, net }));
            }
        }
    }
    all
}

fn inputs(dropped: &[&str], cable: Option<u16>) -> Vec<Let> {
    let ports: BTreeSet<u16> = [NODE_VXLAN_PORT].into_iter().chain(cable).collect();
    let hit = |family: Family| {
        let of_port = |port: &u16| dropped.contains(&tunnel_comment(family, *port).as_str());
        ports.iter().any(of_port)
    };
    let families = Family::ALL.into_iter().filter(|family| hit(*family));
    families
        .flat_map(|family| ports.iter().map(move |port| Let::Port(family, *port)))
        .collect()
}

fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn iptables(
    lets: &[Let],
    table: &str,
    chain: &str,
    flavour: &str,
    has: impl Fn(Family) -> bool,
) -> Vec<String> {
    let of_table = match table {
        "filter" => String::new(),
        other => format!("-t {other} "),
    };
    lets.iter()
        .filter(|one| has(one.family()))
        .map(|one| {
            let tool = match one.family() {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            };
            format!(
                "{tool}-{flavour} {of_table}-I {chain} {} -j ACCEPT",
                one.iptables()
            )
        })
        .collect()
}

fn nftables(lets: &[Let], chain: &BaseChain) -> Vec<String> {
    let BaseChain {
        family,
        table,
        name,
        ..
    } = chain;
    lets.iter()
        .filter(|one| *family == "inet" || nft_family(one.family()) == *family)
        .map(|one| {
            format!(
                "nft insert rule {family} {table} {name} {} accept",
                one.nft(family)
            )
        })
        .collect()
}

fn firewalld(lets: &[Let]) -> Vec<String> {
    let mut commands: Vec<String> = lets
        .iter()
        .map(|one| match one {
            Let::Net { net, .. } => {
                format!("firewall-cmd --permanent --zone=trusted --add-source={net}")
            }
            Let::Port(_, port) => format!("firewall-cmd --permanent --add-port={port}/udp"),
            Let::Link(_, link) => {
                format!("firewall-cmd --permanent --zone=trusted --add-interface={link}")
            }
        })
        .collect();
    commands.push("firewall-cmd --reload".to_owned());
    commands
}

/// Its reverse-path filter is all that firewalld drops so early (firewalld.conf(5)).
fn firewalld_reverse_path() -> Vec<String> {
    [
        "sed -i 's/^IPv6_rpfilter=.*/IPv6_rpfilter=loose/' /etc/firewalld/firewalld.conf",
        "firewall-cmd --reload",
    ]
    .map(str::to_owned)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    fn seen(first: u64, last: u64, chains: &[(&'static str, &str, &str, bool)]) -> Filtering {
        let comment = forward_comment(Family::V4, false);
        let count = |chain: &str, n| ((chain.to_owned(), comment.clone()), n);
        let chain = |c: &(&'static str, &str, &str, bool)| BaseChain {
            family: c.0,
            table: c.1.to_owned(),
            name: c.2.to_owned(),
            hook: Hook::Forward,
            priority: 0,
            nat: false,
            drops: c.3,
        };
        Filtering {
            chains: chains.iter().map(chain).collect(),
            legacy: BTreeSet::from([Family::V4]),
            legacy_early: BTreeSet::new(),
            counted: [count(FORWARD_FIRST, first), count(FORWARD_LAST, last)].into(),
        }
    }

    fn said(firewall: &Firewall) -> Option<String> {
        let seen = Seen {
            subnets: vec!["10.2.0.0/16".parse().unwrap()],
            ..Seen::default()
        };
        let mut all = firewall.conditions(&seen);
        assert!(all.len() < 2, "{all:?}");
        all.pop().map(|c| c.message)
    }

    #[test]
    fn it_is_said_while_all_is_dropped_and_no_longer() {
        let mut f = Firewall::default();
        let mut told = |first, last, now| {
            f.apply(seen(first, last, &[]), at(now));
            f.tick(at(now));
            said(&f).is_some()
        };
        assert!(!told(3, 3, 1), "all passes");
        assert!(!told(7, 3, 2), "four may be chance");
        assert!(told(9, 3, 3), "six are not");
        assert!(told(9, 3, 4), "nothing new");
        assert!(!told(10, 4, 5), "one has passed");
        assert!(!told(14, 4, 6));
        assert!(told(20, 4, 7));
        assert!(told(5, 0, 8), "rules written anew count from 0");
        assert!(!told(5, 0, 308), "long ago");
        assert!(!told(1000, 1, 309), "some are a policy's");
    }

    #[test]
    fn the_command_is_that_of_the_filter_that_is_there() {
        let message = |chains: &[(&'static str, &str, &str, bool)]| {
            let mut f = Firewall::default();
            f.apply(seen(10, 0, chains), at(1));
            said(&f).unwrap()
        };
        let legacy = "iptables-legacy -I FORWARD -d 10.2.0.0/16 -j ACCEPT";
        assert!(message(&[]).contains(legacy));
        assert!(message(&[("inet", "strait-route-agent", "forward-last", false)]).contains(legacy));
        let nft = message(&[("ip", "filter", "FORWARD", true), ("ip", "x", "y", false)]);
        assert!(
            nft.contains(": iptables-nft -I FORWARD -d 10.2.0.0/16 -j ACCEPT"),
            "{nft}"
        );
        assert!(!nft.contains("legacy") && !nft.contains(" x "), "{nft}");
        let own = message(&[("inet", "mine", "fwd", true)]);
        assert!(
            own.contains("nft insert rule inet mine fwd ip daddr 10.2.0.0/16 accept"),
            "{own}"
        );
        let firewalld = message(&[("inet", "firewalld", "filter_FORWARD", false)]);
        assert!(
            firewalld.contains("firewall-cmd --permanent --zone=trusted --add-source=10.2.0.0/16")
        );
    }

    #[test]
    fn nat_of_others_is_named_where_it_may_decide_before_ours() {
        let both = BTreeSet::from(Family::ALL);
        let chain = |family: &'static str, table: &str, priority, nat| BaseChain {
            family,
            table: table.to_owned(),
            name: "post".to_owned(),
            hook: Hook::Postrouting,
            priority,
            nat,
            drops: false,
        };
        let named = |chain: BaseChain, families: &BTreeSet<Family>| {
            let mut f = Firewall::default();
            let chains = vec![chain];
            f.apply(
                Filtering {
                    chains,
                    ..Filtering::default()
                },
                at(1),
            );
            f.nat_condition(families).map(|c| c.message)
        };
        let early = chain("ip", "theirs", NAT_PRIORITY, true);
        let said = named(early.clone(), &both).unwrap();
        assert!(said.contains("chain post of table ip theirs"), "{said}");
        assert_eq!(named(early.clone(), &[Family::V6].into()), None);
        for fine in [
            chain("ip", "theirs", NAT_PRIORITY + 1, true),
            chain("ip", "theirs", NAT_PRIORITY, false),
            chain("inet", "strait-route-agent", NAT_PRIORITY, true),
            BaseChain {
                hook: Hook::Prerouting,
                ..early
            },
        ] {
            assert_eq!(named(fine.clone(), &both), None, "{fine:?}");
        }
    }
}
