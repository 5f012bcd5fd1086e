//! Packet filters and masquerades of others, of every kind.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use strait_lab::matrix::ways;
use strait_lab::topology::Cluster;
use strait_lab::{Family, Lab, Role};

use super::flows::Flow;
use super::{load, other, run, shell, soon_good, word};

/// How long it may take until what is dropped was named and let through.
const PATIENCE: Duration = Duration::from_secs(40);
/// UDP port of the lab's tunnel CNI, which a node's administrator lets in.
const CNI_PORT: u16 = 4789;

/// Conditions whose messages have commands that open a filter.
const OPENABLE: [&str; 3] = ["ForwardPolicyDrop", "TunnelInputDrop", "PreroutingDrop"];

/// What others install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Drops what it does not know, and masquerades, in legacy iptables.
    IptablesLegacy,
    /// The same by iptables-nft.
    IptablesNft,
    /// The same in nftables itself, with a masquerade right behind the earliest that there can be.
    NftOwn,
    /// kube-proxy that masquerades all services' users, and drops what connection tracking calls invalid.
    NftKubeProxy,
    /// kindnet: all that leaves the pods' network is masqueraded a little before others.
    NftKindnet,
    /// Calico: pools that are masqueraded, and a reverse-path filter of its own on pods' links.
    NftCalico,
    /// A strict reverse-path filter that looks at marks, as firewalld has it for IPv6 and others for both.
    NftReversePath,
    /// The same without a look at marks, as firewalld had it before.
    NftReversePathOnly,
}

impl Flavour {
    /// Whether it drops what it does not know, and is not one that the agent opens itself: an operator has to.
    const fn is_opened_by_hand(self) -> bool {
        match self {
            Self::IptablesLegacy | Self::NftOwn | Self::NftReversePathOnly => true,
            Self::IptablesNft
            | Self::NftKubeProxy
            | Self::NftKindnet
            | Self::NftCalico
            | Self::NftReversePath => false,
        }
    }

    /// Whether it drops what it does not know, until that is let through.
    pub(crate) const fn drops(self) -> bool {
        match self {
            Self::IptablesLegacy
            | Self::IptablesNft
            | Self::NftOwn
            | Self::NftReversePath
            | Self::NftReversePathOnly => true,
            Self::NftKubeProxy | Self::NftKindnet | Self::NftCalico => false,
        }
    }

    /// Installs it on a node, for the lab's families.
    pub(crate) fn install(self, lab: &Lab, place: &str) {
        let (cluster, _) = lab.topology().node(place).expect("a node");
        for family in lab.topology().families.all() {
            match self {
                Self::IptablesLegacy => iptables(lab, place, cluster, *family, "legacy"),
                Self::IptablesNft => iptables(lab, place, cluster, *family, "nft"),
                Self::NftOwn
                | Self::NftKubeProxy
                | Self::NftKindnet
                | Self::NftCalico
                | Self::NftReversePath
                | Self::NftReversePathOnly => {
                    load(lab, place, &self.nftables(cluster, *family));
                }
            }
        }
    }

    /// Removes it.
    pub(crate) fn remove(self, lab: &Lab, place: &str) {
        for family in lab.topology().families.all() {
            let flavour = match self {
                Self::IptablesLegacy => "legacy",
                Self::IptablesNft => "nft",
                Self::NftOwn
                | Self::NftKubeProxy
                | Self::NftKindnet
                | Self::NftCalico
                | Self::NftReversePath
                | Self::NftReversePathOnly => {
                    run(
                        lab,
                        place,
                        &format!("nft delete table {} others", word(*family)),
                    );
                    continue;
                }
            };
            let tool = tool(*family, flavour);
            for rule in [
                "-P FORWARD ACCEPT",
                "-P INPUT ACCEPT",
                "-F",
                "-t nat -F POSTROUTING",
            ] {
                run(lab, place, &format!("{tool} {rule}"));
            }
        }
    }

    /// Table `others` of a family.
    fn nftables(self, cluster: &Cluster, family: Family) -> String {
        let (ip, pods) = (word(family), cluster.pod_net(family));
        let postrouting = |priority: &str, rules: &str| {
            format!("chain source {{ type nat hook postrouting priority {priority}; {rules}; }}\n")
        };
        let forward = |policy: &str, rules: &str| {
            format!(
                "chain through {{ type filter hook forward priority filter; policy {policy}; {rules}; }}\n"
            )
        };
        let chains = match self {
            Self::IptablesLegacy | Self::IptablesNft => String::new(),
            Self::NftOwn => {
                let icmp = icmp(family);
                let input = format!(
                    "chain in {{ type filter hook input priority filter; policy drop; ct state established,related accept; \
                     meta l4proto {{ tcp, {icmp} }} accept; udp dport {CNI_PORT} accept; }}\n"
                );
                let own = format!("{ip} saddr {pods} {ip} daddr {pods} accept");
                [
                    input,
                    forward("drop", &own),
                    postrouting("-198", "masquerade"),
                ]
                .concat()
            }
            Self::NftKubeProxy => {
                let mark = "meta mark set meta mark or 0x4000";
                let unmark = "meta mark and 0x4000 != 0x4000 return; meta mark set meta mark xor 0x4000; masquerade fully-random";
                let marks = format!(
                    "chain pre {{ type nat hook prerouting priority dstnat; {mark}; }}\n\
                     chain out {{ type nat hook output priority -100; {mark}; }}\n"
                );
                [
                    marks,
                    forward("accept", "ct state invalid drop"),
                    postrouting("srcnat", unmark),
                ]
                .concat()
            }
            Self::NftKindnet => {
                let rules = format!("{ip} daddr {pods} return; masquerade");
                [
                    forward("accept", "ct state invalid drop"),
                    postrouting("srcnat - 5", &rules),
                ]
                .concat()
            }
            Self::NftCalico => {
                let rules =
                    format!("{ip} saddr {pods} {ip} daddr != {pods} masquerade fully-random");
                let spoofed = "chain raw { type filter hook prerouting priority raw; iifname \"cali*\" fib saddr . iif oif 0 drop; }\n";
                let workloads = "ct state established,related accept; iifname \"cali*\" ct state invalid drop; \
                                 oifname \"cali*\" ct state invalid drop";
                [
                    spoofed.to_owned(),
                    forward("accept", workloads),
                    postrouting("srcnat", &rules),
                ]
                .concat()
            }
            Self::NftReversePath => reverse_path(family, "saddr . mark . iif"),
            Self::NftReversePathOnly => reverse_path(family, "saddr . iif"),
        };
        format!("table {ip} others {{\n{chains}}}\n")
    }
}

/// Drops what came by another link than the way back leads by; of IPv6, neighbours may always be looked for.
fn reverse_path(family: Family, asked: &str) -> String {
    let neighbours = match family {
        Family::V4 => "",
        Family::V6 => "icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept; ",
    };
    format!(
        "chain early {{ type filter hook prerouting priority filter + 10; {neighbours}fib {asked} oif missing drop; }}\n"
    )
}

fn tool(family: Family, flavour: &str) -> String {
    match family {
        Family::V4 => format!("iptables-{flavour}"),
        Family::V6 => format!("ip6tables-{flavour}"),
    }
}

const fn icmp(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "ipv6-icmp",
    }
}

/// As a cautious administrator sets it up: what is not known is dropped, and what leaves is masqueraded.
fn iptables(lab: &Lab, place: &str, cluster: &Cluster, family: Family, flavour: &str) {
    let (tool, icmp, pods) = (tool(family, flavour), icmp(family), cluster.pod_net(family));
    for rule in [
        "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A INPUT -p tcp -j ACCEPT",
        &format!("-A INPUT -p {icmp} -j ACCEPT"),
        &format!("-A INPUT -p udp --dport {CNI_PORT} -j ACCEPT"),
        &format!("-A FORWARD -s {pods} -d {pods} -j ACCEPT"),
        "-P FORWARD DROP",
        "-P INPUT DROP",
        "-t nat -A POSTROUTING -j MASQUERADE",
    ] {
        run(lab, place, &format!("{tool} {rule}"));
    }
}

/// It is installed on nodes while the agents run, and is removed; meanwhile all ways are soon as they were, with an operator's help
/// where he alone can open it.
pub(crate) fn comes(lab: &Lab, flavour: Flavour, places: [&str; 2]) {
    for place in places {
        start(lab, flavour, place);
        flavour.install(lab, place);
    }
    opened(lab, flavour, &places);
    for place in places {
        flavour.remove(lab, place);
    }
}

/// It is there before the agents are; else the same.
pub(crate) fn is_there_before(lab: &Lab, flavour: Flavour, places: [&str; 2]) {
    for place in places {
        lab.kill(place, Role::RouteAgent).expect("it ends");
        shell(lab, place, "nft delete table inet strait-route-agent");
        flavour.install(lab, place);
    }
    // What begins before we are there is lost or gets a wrong source, and is healed.
    let flows: Vec<Flow> = pods(lab, places[1])
        .map(|(from, to)| Flow::begin(lab, &from, to))
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    for place in places {
        start(lab, flavour, place);
    }
    opened(lab, flavour, &places);
    for flow in flows {
        flow.lost();
    }
    for place in places {
        flavour.remove(lab, place);
    }
}

/// Starts an agent anew. What drops is found by its effect, of which the kernel tells nothing: this one looks for it every second, not
/// once a minute.
fn start(lab: &Lab, flavour: Flavour, place: &str) {
    let often = [("STRAIT_VERIFY_INTERVAL", "1")];
    let environment = if flavour.drops() { &often[..] } else { &[] };
    lab.restart_with(place, Role::RouteAgent, environment)
        .expect("it starts");
}

fn opened(lab: &Lab, flavour: Flavour, places: &[&str]) {
    if flavour.is_opened_by_hand() {
        open(lab, places);
    }
    soon_good(lab, &ways(lab.topology()));
}

/// What an operator does: runs the commands that are named, until pods' packets pass and no more is named.
pub(crate) fn open(lab: &Lab, places: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    let mut commands = 0;
    loop {
        let mut passes = true;
        for place in places {
            for (from, to) in pods(lab, place) {
                passes &= knock(lab, &from, to);
            }
        }
        let mut named = Vec::new();
        for place in places {
            for condition in OPENABLE {
                let Some(message) = message(lab, place, condition) else {
                    continue;
                };
                for command in self::commands(&message) {
                    // What is let through already counts for nothing until a packet has come.
                    run(lab, place, &command);
                    commands += 1;
                }
                named.push(format!("{place}: {message}"));
            }
        }
        if passes && named.is_empty() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "pods' packets pass: {passes}; named: {named:#?}"
        );
    }
    assert!(commands > 0, "nothing was dropped");
}

/// What the route agent of a node says of a condition, if it holds.
pub(crate) fn message(lab: &Lab, node: &str, condition: &str) -> Option<String> {
    let status = lab.status().expect("the lab answers");
    let agent = status
        .processes
        .into_iter()
        .find(|process| process.role == Role::RouteAgent && process.place == node);
    let readiness = agent.expect("an agent").readiness;
    readiness?.degraded.remove(condition)
}

/// A node's pod, and a pod of the other cluster in each family.
fn pods(lab: &Lab, place: &str) -> impl Iterator<Item = (String, IpAddr)> {
    let (_, node) = lab.topology().node(place).expect("a node");
    let (from, to) = (
        node.pods[0].name.clone(),
        &other(lab, node).nodes[1].pods[0],
    );
    let families = lab.topology().families.all().iter();
    families.map(move |family| (from.clone(), to.ip(*family)))
}

/// Ten packets; whether one was answered.
pub(crate) fn knock(lab: &Lab, from: &str, to: IpAddr) -> bool {
    let to = to.to_string();
    let ping = ["ping", "-q", "-c", "10", "-i", "0.02", "-W", "0.3", &to];
    let output = lab.command(from, ping).output().expect("ping starts");
    output.status.success()
}

/// The commands that a message names.
pub(crate) fn commands(message: &str) -> Vec<String> {
    let (_, remedy) = message.split_once("To let it through").expect("a remedy");
    let (_, list) = remedy.split_once(": ").expect("commands");
    list.split("; ").map(str::to_owned).collect()
}
