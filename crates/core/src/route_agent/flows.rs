//! Connections whose NAT binding is not what it should be.
//!
//! A connection keeps the binding that its first packet got, even none; a rule that comes later does not change it.
//! Datagrams and new connections get a better one once the old is forgotten. An established TCP connection can't change
//! its address: it is left alone while its own works, and otherwise its socket is ended instead of hanging.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use strait_api::vtep::Vxlan;
use strait_host::Family;

use crate::net::Prefixes;
use crate::time::Time;

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
    /// The families in which a connection, or a socket, can be wrong at all: the others need not be looked at.
    #[must_use]
    pub fn families(&self) -> BTreeSet<Family> {
        let remote = self.remote.iter().map(Family::of_net);
        remote
            .chain(self.self_test.iter().copied().map(Family::of))
            .collect()
    }

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

/// A packet that was under way while the rules changed may still bind; it is looked for once more after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// When connections are looked through: twice for each change of the rules, the second time after all packets that were under
/// way. No more than half of the time goes into it, however large the table is and however often the rules change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turns {
    left: u8,
    due: Option<Time>,
    rested: Time,
}

impl Turns {
    /// The rules changed.
    pub fn changed(&mut self, now: Time) {
        self.left = 2;
        self.due = Some(now.max(self.rested));
    }

    /// When the next turn is.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// A turn was had, from `began` to `ended`, by the rules of its beginning.
    pub fn had(&mut self, began: Time, ended: Time) {
        self.rested = ended + ended.0.saturating_sub(began.0);
        self.left = self.left.saturating_sub(1);
        self.due = (self.left > 0).then(|| self.rested.max(began + AGAIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Time {
        Time(Duration::from_millis(n))
    }

    #[test]
    fn each_change_has_two_turns_after_it_even_one_that_comes_between_two() {
        let mut turns = Turns::default();
        assert_eq!(turns.due(), None);
        turns.changed(ms(1000));
        assert_eq!(turns.due(), Some(ms(1000)));
        turns.had(ms(1000), ms(1001));
        assert_eq!(turns.due(), Some(ms(1200)));
        // In the pause: the one that is left does not serve for both.
        turns.changed(ms(1100));
        assert_eq!(turns.due(), Some(ms(1100)));
        turns.had(ms(1100), ms(1101));
        assert_eq!(turns.due(), Some(ms(1300)));
        turns.had(ms(1300), ms(1301));
        assert_eq!(turns.due(), None);
        turns.had(ms(1400), ms(1401));
        assert_eq!(turns.due(), None, "nobody asked for that one");
    }

    #[test]
    fn no_more_than_half_of_the_time_goes_into_a_large_table() {
        let mut turns = Turns::default();
        let (mut now, mut busy) = (ms(0), Duration::ZERO);
        while now < ms(60_000) {
            // The rules change all the time.
            turns.changed(now);
            let began = turns.due().unwrap();
            let took = Duration::from_millis(700);
            now = began + took;
            turns.had(began, now);
            busy += took;
        }
        assert!(busy <= now.0 / 2 + Duration::from_millis(700), "{busy:?}");
        assert!(busy >= now.0 / 2 - Duration::from_millis(700), "{busy:?}");
    }

    #[test]
    fn only_families_with_something_to_look_for_are_looked_at() {
        let mut rules = FlowRules::default();
        assert!(rules.families().is_empty());
        rules.remote = ["10.2.0.0/16".parse::<IpNet>().unwrap()]
            .into_iter()
            .collect();
        assert_eq!(rules.families(), [Family::V4].into());
        rules.self_test = ["fd00:1::1".parse().unwrap()].into();
        assert_eq!(rules.families(), Family::ALL.into());
    }
}
