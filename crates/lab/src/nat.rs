//! What a cluster's router does to what passes between the nodes' network and the WAN.

use std::fmt::Write;

use strait_host::Family;

use crate::options::Nat;
use crate::services::word;
use crate::topology::{Cluster, Topology};

/// UDP ports that a full-cone NAT passes on: those of NAT discovery and of the cable, Submariner's by default.
const PORTS: &str = "{ 4490, 4500 }";

/// The rules of a router that translates, as an nftables script.
pub(crate) fn ruleset(topology: &Topology, cluster: &Cluster) -> String {
    let families = cluster.families.all().iter();
    let mut script: String = families
        .map(|family| translation(topology, cluster, *family))
        .collect();
    script.push_str(FILTER);
    script
}

/// In comes what answers, and what is translated to a gateway. What nobody asked for ends here without a word: a connection that was tracked
/// because the router itself had refused it would take the port from a gateway that sends to the same place a moment later.
const FILTER: &str = "table inet nat-filter {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname wan0 ct state new meta l4proto { tcp, udp } drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname wan0 ct state new ct status ! dnat drop
  }
}
";

fn translation(topology: &Topology, cluster: &Cluster, family: Family) -> String {
    let (ip, inside) = (word(family), cluster.underlay_net(family));
    let (mut from_outside, mut from_inside) = (String::new(), String::new());
    if topology.nat == Nat::FullCone {
        for gateway in cluster.gateways() {
            let (own, public) = (
                gateway.ip(family),
                topology.public_ip(cluster, gateway, family),
            );
            // Writing to a string does not fail.
            let _ = writeln!(
                from_outside,
                "    iifname wan0 {ip} daddr {public} udp dport {PORTS} dnat {ip} to {own}"
            );
            let _ = writeln!(
                from_inside,
                "    oifname wan0 {ip} saddr {own} snat {ip} to {public}"
            );
        }
    }
    let random = match topology.nat {
        Nat::Symmetric => " random,fully-random",
        Nat::None | Nat::FullCone | Nat::PortRestricted => "",
    };
    format!(
        "table {ip} nat {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
{from_outside}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{from_inside}    oifname wan0 {ip} saddr {inside} masquerade{random}
  }}
}}
"
    )
}
