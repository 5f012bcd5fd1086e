//! Which gateway a node uses while what is published and what gateways say themselves differ.

use strait_api::Term;
use strait_api::names::CABLE_VXLAN_6;

use super::*;
use crate::hello::{Claim, Following};

/// The other node of this cluster says that it carries the traffic.
fn says(lease: u64, ballot: u32, address: &str, now: bool) -> Input {
    let claim = Claim {
        term: Term { lease, ballot },
        addresses: vec![address.parse().unwrap()],
        cable: "submariner-cable-east-2".into(),
        backend: "vxlan".into(),
        interface: CABLE_VXLAN.into(),
    };
    let following = Some(Following {
        hostname: "other".into(),
        claim,
    });
    Input::Heard(Heard { following, now })
}

fn published(term: Option<&str>) -> Input {
    let mut own = endpoint("east", GATEWAY, "172.30.1.11", &["10.1.0.0/16"]);
    own.term = term.map(|t| t.parse().unwrap());
    Input::Endpoints(Event::Applied("east-cable".into(), Ok(own)))
}

/// The gateway that the node sends to, inside the nodes' VXLAN.
fn way(s: &State) -> String {
    let plan = s.plan();
    let to_west = routes(&plan).iter().find_map(|r| {
        if let RouteKind::Unicast { hops, .. } = &r.kind
            && r.dst == net("10.2.0.0/16")
        {
            return hops[0].via;
        }
        None
    });
    to_west.map(|ip| ip.to_string()).unwrap_or_default()
}

fn worker(term: Option<&str>) -> State {
    let mut s = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1"));
    s.apply(published(term), at(0));
    s
}

const PUBLISHED: &str = "240.30.1.11";
const SPEAKING: &str = "240.30.1.13";

#[test]
fn the_newer_turn_counts_whoever_tells_of_it() {
    let mut s = worker(Some("3.0"));
    assert_eq!(way(&s), PUBLISHED);
    for (lease, ballot, expected) in [(2, 9, PUBLISHED), (3, 1, SPEAKING), (4, 0, SPEAKING)] {
        s.apply(says(lease, ballot, "172.30.1.13", true), at(1));
        assert_eq!(way(&s), expected, "{lease}.{ballot}");
    }
    // It is silent, and nobody is newer.
    s.apply(says(4, 0, "172.30.1.13", false), at(2));
    assert_eq!(way(&s), SPEAKING);
    s.apply(published(Some("5.0")), at(3));
    assert_eq!(way(&s), PUBLISHED);
}

#[test]
fn beside_a_gateway_of_submariner_only_what_is_heard_now_counts() {
    let mut s = worker(None);
    s.apply(says(3, 0, "172.30.1.13", true), at(1));
    assert_eq!(way(&s), SPEAKING);
    s.apply(says(3, 0, "172.30.1.13", false), at(2));
    assert_eq!(way(&s), PUBLISHED);
}

#[test]
fn what_cannot_be_an_address_is_not_followed() {
    let mut s = worker(Some("3.0"));
    for address in ["127.0.0.1", "0.0.0.0", "224.0.0.1"] {
        s.apply(says(4, 0, address, true), at(1));
        assert_eq!(way(&s), PUBLISHED, "{address}");
    }
    let Input::Heard(mut other) = says(4, 0, "172.30.1.13", true) else {
        unreachable!()
    };
    let claim = &mut other.following.as_mut().unwrap().claim;
    claim.interface = "../../x".into();
    s.apply(Input::Heard(other), at(1));
    assert_eq!(way(&s), PUBLISHED);
}

#[test]
fn the_node_that_speaks_becomes_the_gateway_and_the_one_before_keeps_its_cable_for_a_while() {
    let mut host = host_with_cni("172.30.1.11", "10.1.1.1");
    for name in [CABLE_VXLAN, CABLE_VXLAN_6] {
        let cable = Link {
            alias: Some("strait".into()),
            ..link(LinkKind::Other("vxlan".into()))
        };
        host.links.insert(name.into(), cable);
    }
    let mut before = state(GATEWAY, host);
    before.apply(Input::GatewayLock(true), at(0));
    before.apply(published(Some("3.0")), at(0));
    assert_eq!(before.plan().role, "gateway");
    before.apply(says(4, 0, "172.30.1.13", true), at(1000));
    let plan = before.plan();
    assert_eq!((plan.role, plan.dead_cables.len()), ("worker", 0));
    assert_eq!(way(&before), SPEAKING);
    assert_eq!(before.deadline(), Some(at(6000)));
    before.apply(Input::Tick, at(6000));
    assert_eq!(before.plan().dead_cables.len(), 2);

    let mut s = state("other", host_with_cni("172.30.1.13", "10.1.3.1"));
    s.apply(published(Some("3.0")), at(0));
    assert_eq!(s.plan().role, "worker");
    s.apply(says(4, 0, "172.30.1.13", true), at(1));
    assert_eq!(s.plan().role, "gateway");
}
