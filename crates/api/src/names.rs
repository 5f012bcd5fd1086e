//! Names and numbers that other implementations, tools and people see.

/// API group of all custom resources.
pub const GROUP: &str = "submariner.io";
/// The only version of the group.
pub const VERSION: &str = "v1";

/// Label on every object that went through the broker: the cluster it belongs to (a dash, not a dot, after `submariner`).
pub const LABEL_CLUSTER_ID: &str = "submariner-io/clusterID";
/// Label, with the value `true`, of the Calico IPPools that stand for remote subnets (upstream
/// `routeagent_driver/handlers/calico`).
pub const LABEL_IP_POOL: &str = "submariner.io/ippool";
/// Label of nodes that may be gateways.
pub const LABEL_GATEWAY: &str = "submariner.io/gateway";
/// Annotation of a Node: maximum segment size of TCP connections with remote clusters that pass this node, in bytes.
pub const ANNOTATION_CLAMP_MSS: &str = "submariner.io/tcp-clamp-mss";
/// Prefix of labels and annotations of a Node with which users configure a gateway on it (upstream
/// `endpoint/local_endpoint.go`). Submariner's gateway does not start on a Node that has others with this prefix.
pub const NODE_GATEWAY_PREFIX: &str = "gateway.submariner.io/";
/// Annotation of a Gateway: when it was last written, in Unix seconds, decimal.
pub const ANNOTATION_UPDATE_TIMESTAMP: &str = "update-timestamp";
/// Annotation of a RouteAgent (for `vx-submariner`) and of an Endpoint (for the VXLAN cable): the device's Ethernet
/// address. Who publishes it gets exact forwarding entries; who doesn't gets flooding and ARP, as Submariner does.
pub const ANNOTATION_VTEP_MAC: &str = "strait.io/vtep-mac";
/// Annotation of a RouteAgent: the Ethernet address of `vx-submariner-6`, where that is another than the one above.
pub const ANNOTATION_VTEP_MAC_6: &str = "strait.io/vtep-mac-6";
/// Annotation of a RouteAgent: the version of Strait that wrote it. One without it is another agent's, as Submariner's is.
pub const ANNOTATION_AGENT: &str = "strait.io/agent";

/// Annotation of an Endpoint: the term since which its gateway carries the traffic, as [`crate::Term`] is written. Of two
/// Endpoints of a cluster, the one with the newer term counts.
pub const ANNOTATION_TERM: &str = "strait.io/term";
/// Annotation of an Endpoint: the gateways that may take its place, as JSON (see [`crate::Standby`]).
pub const ANNOTATION_STANDBYS: &str = "strait.io/standbys";
/// The Lease by which the gateways of a cluster agree on the one that carries the traffic (upstream `gateway/gateway.go`).
pub const GATEWAY_LEASE: &str = "submariner-gateway-lock";
/// The Secret under which gateways and nodes of a cluster speak to each other directly.
pub const HELLO_SECRET: &str = "strait-gateway-hello";
/// The key of its data that holds the secret.
pub const HELLO_SECRET_KEY: &str = "secret";
/// UDP port of the direct watch between gateways and nodes, unless configured.
pub const HELLO_PORT: u16 = 4801;
/// Label of a gateway's Pod: whether it carries the traffic, `active` or `passive` (upstream `pod/pod.go`).
pub const LABEL_POD_STATUS: &str = "gateway.submariner.io/status";
/// Label of a gateway's Pod: the name of its Node (upstream `pod/pod.go`).
pub const LABEL_POD_NODE: &str = "gateway.submariner.io/node";
/// Annotation of an Endpoint on the broker: changes every five minutes while its cluster is there. Submariner writes none.
pub const ANNOTATION_HEARTBEAT: &str = "strait.io/heartbeat";
/// Annotation of the copy, in a cluster, of another cluster's Endpoint: since when the broker knows that other cluster, in Unix seconds by the
/// broker's clock, decimal. Who makes the copy writes it; what the other cluster says under this name is dropped.
pub const ANNOTATION_SINCE: &str = "strait.io/since";
/// Annotation of a cluster's own Cluster, here and on the broker, and of its Endpoints on the broker: which cluster it is, beside the
/// id that people chose.
pub const ANNOTATION_CLUSTER_UID: &str = "strait.io/cluster-uid";

/// Annotation of an Endpoint with a WireGuard cable: the public key that its gateway is going to have, base64. Peers are to know it
/// before it counts.
pub const ANNOTATION_NEXT_KEY: &str = "strait.io/next-public-key";
/// The same, of the key that it had until a moment ago: sessions of that go on.
pub const ANNOTATION_FORMER_KEY: &str = "strait.io/former-public-key";

/// VXLAN device between the nodes of a cluster, IPv4 underlay.
pub const NODE_VXLAN: &str = "vx-submariner";
/// The same with an IPv6 underlay.
pub const NODE_VXLAN_6: &str = "vx-submariner-6";
/// Its VXLAN network identifier (upstream `KP/constants.go`).
pub const NODE_VXLAN_VNI: u32 = 100;
/// Its UDP port (upstream `port/port.go`, `IntraClusterVxLAN`).
pub const NODE_VXLAN_PORT: u16 = 4800;

/// Device of the VXLAN cable, IPv4 outside.
pub const CABLE_VXLAN: &str = "vxlan-tunnel";
/// The same, IPv6 outside.
pub const CABLE_VXLAN_6: &str = "vxlan-tunnel-6";
/// Its VXLAN network identifier (upstream `cable/vxlan/vxlan.go`).
pub const CABLE_VXLAN_VNI: u32 = 1000;
/// Device of the WireGuard cable, both families inside and outside (upstream `cable/wireguard/driver.go`).
pub const CABLE_WIREGUARD: &str = "submariner";
/// Bytes that WireGuard adds: 20 IPv4 or 40 IPv6, 8 UDP, 32 WireGuard (16 header, 16 tag).
pub const WIREGUARD_OVERHEAD_V4: u32 = 60;
/// The same with IPv6 outside.
pub const WIREGUARD_OVERHEAD_V6: u32 = 80;
/// Seconds between two packets that keep a tunnel's way through a NAT open (upstream `cable/wireguard/driver.go`).
pub const WIREGUARD_KEEPALIVE: u16 = 10;
/// UDP port of cables unless configured (upstream `port/port.go`, `ExternalTunnel`).
pub const CABLE_PORT: u16 = 4500;

/// UDP port of NAT discovery unless configured (upstream `port/port.go`, `NATTDiscovery`).
pub const NATT_PORT: u16 = 4490;

/// Bytes that VXLAN adds in IPv4: 20 IP, 8 UDP, 8 VXLAN, 14 Ethernet (RFC 7348).
pub const VXLAN_OVERHEAD_V4: u32 = 50;
/// Bytes that VXLAN adds in IPv6: 40 IP, 8 UDP, 8 VXLAN, 14 Ethernet (RFC 7348).
pub const VXLAN_OVERHEAD_V6: u32 = 70;

/// Routing table and rule priority of the VXLAN cable on a gateway.
pub const TABLE_VXLAN_CABLE: u32 = 100;
/// Routing table and rule priority of every other cable on a gateway.
pub const TABLE_GATEWAY: u32 = 150;

/// Mark (`SO_MARK`) of what cables and NAT discovery send: it goes by the main table, never through a tunnel. Apart from
/// the bits of kube-proxy (0x4000, 0x8000), Cilium (0x0f00) and Calico (0xffff0000).
pub const UNDERLAY_MARK: u32 = 0x53;
/// Priority of the rule for [`UNDERLAY_MARK`]: before those of cables.
pub const RULE_UNDERLAY: u32 = 99;
/// Bits of a packet's mark in which, between two chains before routing, the link by which it came is written for filters that look for
/// the way back (`fib saddr . mark . iif`). The bits of kube-proxy (0x4000, 0x8000), Cilium (0x0f00), Calico (0xffff0000) and AWS's
/// CNI (0x80) are none of them.
pub const BACK_MASK: u32 = 0x303f;
/// What stands in those bits, with the link's number in the last four. A single one of the two higher bits is no match: the CNI
/// project's `portmap` uses 0x2000 by itself.
pub const BACK_MARK: u32 = 0x1030;
/// The bits of [`BACK_MASK`] without the link's number.
pub const BACK_FIXED: u32 = 0x3030;
/// Links that can be told apart so, from 1.
pub const BACK_LINKS: usize = 15;
/// Routing tables for those: this with the link's number added. Others number theirs up to 255, Calico up to 250.
pub const TABLE_BACK: u32 = 8300;
/// Priority of the rules for [`BACK_MARK`]: before all others of ours.
pub const RULE_BACK: u32 = 98;
/// `ifalias` of every link that is ours, and comment of our nftables table.
pub const LINK_ALIAS: &str = "strait";
/// Protocol number of our routes and rules. Free in linux/rtnetlink.h and in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: u8 = 83;
/// nftables table of the route agent, family `inet`.
pub const NFT_TABLE: &str = "strait-route-agent";

/// Namespace of Submariner's objects in a cluster, unless configured.
pub const NAMESPACE: &str = "submariner-operator";
/// Namespace of the broker's objects, unless configured.
pub const BROKER_NAMESPACE: &str = "submariner-k8s-broker";

/// `backend_config`: UDP port of the cable.
pub const BACKEND_UDP_PORT: &str = "udp-port";
/// `backend_config`: UDP port of NAT discovery; `0` says that there is none.
pub const BACKEND_NATT_PORT: &str = "natt-discovery-port";
/// `backend_config`: public key of a WireGuard cable, base64.
pub const BACKEND_PUBLIC_KEY: &str = "publicKey";
/// `backend_config`: whether the gateway prefers that others connect to it.
pub const BACKEND_PREFERRED_SERVER: &str = "preferred-server";
/// `backend_config`: whether the gateway is behind a load balancer.
pub const BACKEND_LOAD_BALANCER: &str = "using-loadbalancer";
/// `backend_config`: the cable's device on the gateway.
pub const BACKEND_INTERFACE: &str = "interface-name";
