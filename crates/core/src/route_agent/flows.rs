//! Connections whose NAT binding is not what it should be.
//!
//! A connection keeps the binding that its first packet got, even none; a rule that comes later does not change it.
//! Datagrams and new connections get a better one once the old is forgotten. An established TCP connection can't change
//! its address: it is left alone while its own works, and otherwise its socket is ended instead of hanging.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use strait_api::vtep::Vxlan;

use crate::net::Prefixes;

/// What bindings connections with remote clusters should have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FlowRules {
    /// Remote subnets: every connection of the host is looked for in them.
    pub remote: Prefixes,
    /// Pod CIDRs of this cluster.
    pub pods: Vec<IpNet>,
    /// Sources that connections from this host may be seen with, per family; `None` while any is as good.
    pub host_v4: Option<BTreeSet<IpAddr>>,
    /// The same for IPv6.
    pub host_v6: Option<BTreeSet<IpAddr>>,
    /// Addresses in the pod CIDRs that this host has.
    pub local: BTreeSet<IpAddr>,
    /// Addresses that pings over the nodes' VXLAN keep.
    pub self_test: BTreeSet<IpAddr>,
}

/// A tracked connection: its first packet's addresses, and those of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// It is a TCP connection.
    pub tcp: bool,
    /// Source of the first packet.
    pub src: IpAddr,
    /// Destination of the first packet.
    pub dst: IpAddr,
    /// Source of the reply: where the connection really goes.
    pub reply_src: IpAddr,
    /// Destination of the reply: the source that the other side sees.
    pub reply_dst: IpAddr,
}

impl FlowRules {
    /// Whether a connection has a binding that it must not keep.
    #[must_use]
    pub fn wrong(&self, flow: &Flow) -> bool {
        let within = |nets: &[IpNet], ip: IpAddr| nets.iter().any(|n| n.contains(&ip));
        if self.remote.contains(&flow.dst) {
            if within(&self.pods, flow.src) {
                return flow.reply_dst != flow.src;
            }
            let gone = within(&self.pods, flow.reply_dst) && !self.local.contains(&flow.reply_dst);
            if flow.tcp && self.local.contains(&flow.reply_dst) {
                return false;
            }
            let allowed = if flow.src.is_ipv4() {
                &self.host_v4
            } else {
                &self.host_v6
            };
            return allowed
                .as_ref()
                .map_or(gone, |a| !a.contains(&flow.reply_dst));
        }
        if self.self_test.contains(&flow.src)
            && Vxlan::Nodes.prefix(flow.dst.is_ipv6()).contains(&flow.dst)
        {
            return flow.reply_dst != flow.src;
        }
        self.remote.contains(&flow.src)
            && within(&self.pods, flow.reply_src)
            && flow.reply_dst != flow.src
    }
    /// Whether a socket of this host has the address of a pod network that this host no longer has: nothing comes back
    /// to it, and nothing it sends leaves.
    #[must_use]
    pub fn stranded(&self, local: IpAddr, remote: IpAddr) -> bool {
        let within = |nets: &[IpNet], ip: IpAddr| nets.iter().any(|n| n.contains(&ip));
        self.remote.contains(&remote) && within(&self.pods, local) && !self.local.contains(&local)
    }
}
