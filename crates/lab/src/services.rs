//! What kube-proxy does on every node for the cluster's service `web`.

use strait_host::Family;

use crate::topology::{Cluster, POD_PORT, SERVICE_PORT};

/// The mark of packets to masquerade, as kube-proxy has it.
const MASQUERADE: &str = "0x4000";

/// The rules of a node, a table for each family.
pub(crate) fn ruleset(cluster: &Cluster) -> String {
    let families = cluster.families.all().iter();
    families.map(|family| table(cluster, *family)).collect()
}

/// The family's name in nftables.
pub(crate) fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The service's address and port become those of one of its pods; what comes from outside the cluster's
/// pods is masqueraded, as kube-proxy does when it knows the cluster's CIDR, and so is a pod that reaches itself.
fn table(cluster: &Cluster, family: Family) -> String {
    let ip = word(family);
    let pods: Vec<String> = cluster
        .pods()
        .enumerate()
        .map(|(number, pod)| format!("{number} : {} . {POD_PORT}", pod.ip(family)))
        .collect();
    let selves: Vec<String> = cluster
        .pods()
        .map(|pod| format!("{0} . {0}", pod.ip(family)))
        .collect();
    let selves = selves.join(", ");
    let (service, count, backends) = (cluster.service_ip(family), pods.len(), pods.join(", "));
    let cidr = cluster.pod_net(family);
    format!(
        "table {ip} kube-proxy {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain services {{
    {ip} daddr {service} meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} goto web
  }}
  chain web {{
    {ip} saddr != {cidr} meta mark set meta mark or {MASQUERADE}
    meta l4proto tcp dnat {ip} to numgen random mod {count} map {{ {backends} }}
    meta l4proto udp dnat {ip} to numgen random mod {count} map {{ {backends} }}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {ip} saddr . {ip} daddr {{ {selves} }} masquerade
    meta mark and {MASQUERADE} != {MASQUERADE} return
    meta mark set meta mark xor {MASQUERADE}
    masquerade fully-random
  }}
}}
"
    )
}
