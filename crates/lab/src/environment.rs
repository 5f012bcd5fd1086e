//! The variables that the agents of a lab are started with, as Submariner's operator sets them.

use std::net::SocketAddr;

use ipnet::IpNet;
use strait_api::names::{BROKER_NAMESPACE, NAMESPACE};
use strait_host::Family;

use crate::objects;
use crate::options::{Nat, Options};
use crate::topology::{Cluster, Node, Topology};

/// What the gateways of a lab share. A lab keeps nobody's secret.
pub(crate) const PASSPHRASE: &str = "bm9ib2R5J3Mgc2VjcmV0";

/// A variable and its value.
pub(crate) type Variable = (String, String);

/// How a cluster reaches the broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) server: SocketAddr,
    /// The cluster's bearer token.
    pub(crate) token: String,
    /// The certificate authority, as `BROKER_K8S_CA` takes it.
    pub(crate) ca: String,
}

/// What every agent of a node gets.
pub(crate) fn of_member(cluster: &Cluster, node: &Node) -> Vec<Variable> {
    let kubeconfig = objects::dir(&cluster.control()).join("admin.kubeconfig");
    variables([
        ("NODE_NAME", node.name.clone()),
        ("KUBECONFIG", kubeconfig.display().to_string()),
        ("SUBMARINER_NAMESPACE", NAMESPACE.to_owned()),
        ("SUBMARINER_CLUSTERID", cluster.name.clone()),
        (
            "SUBMARINER_CLUSTERCIDR",
            listed(cluster, |family| cluster.pod_net(family)),
        ),
        (
            "SUBMARINER_SERVICECIDR",
            listed(cluster, |family| cluster.service_net(family)),
        ),
    ])
}

/// What a route agent gets besides.
pub(crate) fn of_route_agent() -> Vec<Variable> {
    variables([("SUBMARINER_NETWORKPLUGIN", "generic".to_owned())])
}

/// What a gateway gets besides.
pub(crate) fn of_gateway(
    options: &Options,
    topology: &Topology,
    cluster: &Cluster,
    node: &Node,
    broker: Broker,
) -> Vec<Variable> {
    let behind = topology.nat != Nat::None;
    let number = usize::from(cluster.number.saturating_sub(1));
    let state = objects::dir(&node.name).join("gateway");
    let mut all = variables([
        ("POD_NAME", format!("submariner-gateway-{}", node.name)),
        ("SUBMARINER_CABLEDRIVER", options.cable.to_string()),
        ("STRAIT_WIREGUARD", options.wireguard(number).to_string()),
        ("CE_IPSEC_PSK", PASSPHRASE.to_owned()),
        ("STRAIT_STATE_DIR", state.display().to_string()),
        ("SUBMARINER_NATENABLED", behind.to_string()),
        ("BROKER_K8S_APISERVER", broker.server.to_string()),
        ("BROKER_K8S_APISERVERTOKEN", broker.token),
        ("BROKER_K8S_CA", broker.ca),
        ("BROKER_K8S_REMOTENAMESPACE", BROKER_NAMESPACE.to_owned()),
    ]);
    if behind {
        // What a site on the Internet that tells addresses would say.
        let method = |family: &Family| {
            let ip = topology.public_ip(cluster, node, *family);
            match family {
                Family::V4 => format!("ipv4:{ip}"),
                Family::V6 => format!("ipv6:{ip}"),
            }
        };
        let methods: Vec<String> = topology.families.all().iter().map(method).collect();
        all.extend(variables([("SUBMARINER_PUBLICIP", methods.join(","))]));
    }
    all
}

fn variables<const N: usize>(settings: [(&str, String); N]) -> Vec<Variable> {
    let owned = |(name, value): (&str, String)| (name.to_owned(), value);
    settings.into_iter().map(owned).collect()
}

/// What a setting says of each family, as upstream's operator writes it.
fn listed(cluster: &Cluster, of: impl Fn(Family) -> IpNet) -> String {
    let families = cluster.families.all().iter();
    let texts: Vec<String> = families.map(|f| of(*f).to_string()).collect();
    texts.join(",")
}
