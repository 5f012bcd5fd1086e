//! What kube-proxy does on every node for the cluster's service `web`.

use crate::topology::{Cluster, POD_PORT, SERVICE_PORT};

/// The mark of packets to masquerade, as kube-proxy has it.
const MASQUERADE: &str = "0x4000";

/// The rules of a node: the service's address and port become those of one of its pods; what comes from outside the cluster's
/// pods is masqueraded, as kube-proxy does when it knows the cluster's CIDR, and so is a pod that reaches itself.
pub(crate) fn ruleset(cluster: &Cluster) -> String {
    let pods: Vec<String> = cluster
        .pods()
        .enumerate()
        .map(|(number, pod)| format!("{number} : {} . {POD_PORT}", pod.address))
        .collect();
    let selves: Vec<String> = cluster
        .pods()
        .map(|pod| format!("{0} . {0}", pod.address))
        .collect();
    let selves = selves.join(", ");
    let (service, count, backends) = (cluster.service, pods.len(), pods.join(", "));
    let cidr = cluster.pod_cidr;
    format!(
        "table ip kube-proxy {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump services
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain services {{
    ip daddr {service} meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} goto web
  }}
  chain web {{
    ip saddr != {cidr} meta mark set meta mark or {MASQUERADE}
    meta l4proto tcp dnat ip to numgen random mod {count} map {{ {backends} }}
    meta l4proto udp dnat ip to numgen random mod {count} map {{ {backends} }}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr . ip daddr {{ {selves} }} masquerade
    meta mark and {MASQUERADE} != {MASQUERADE} return
    meta mark set meta mark xor {MASQUERADE}
    masquerade fully-random
  }}
}}
"
    )
}
