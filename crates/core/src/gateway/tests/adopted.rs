//! A cable that a predecessor left.

use strait_api::names::CABLE_VXLAN_VNI;
use strait_host::diff::diff;
use strait_host::{Change, Vxlan};

use super::*;

const THEIRS: [u8; 6] = [0xba, 1, 2, 3, 4, 5];

fn with_cable(mac: [u8; 6], alias: Option<&str>, port: u16) -> Host {
    let mut host = host();
    let cable = Link {
        kind: LinkKind::Vxlan(Vxlan {
            vni: CABLE_VXLAN_VNI,
            port,
            local: None,
            remote: None,
            learning: false,
        }),
        mtu: 1450,
        up: true,
        mac: Some(Mac(mac)),
        alias: alias.map(str::to_owned),
        master: None,
    };
    host.links.insert(CABLE_VXLAN.into(), cable);
    host
}

fn starts_with(host: Host) -> State {
    let mut s = State::new(settings());
    let node = Node {
        internal_ips: vec!["172.30.1.11".parse().unwrap()],
        ..Node::default()
    };
    for input in [
        Input::Clusters(empty()),
        Input::Endpoints(empty()),
        Input::Nodes(Event::Reset([("gw".to_owned(), Ok(node))].into())),
        Input::Host(Arc::new(host)),
        active(1),
    ] {
        s.apply(input, at(0));
    }
    s
}

/// The cable's wanted Ethernet address, and the one that is published.
fn macs(s: &State) -> ([u8; 6], Option<String>) {
    let plan = s.plan();
    let mac = plan.wanted.links.get().unwrap()[CABLE_VXLAN].mac.unwrap();
    let mut published = plan.local.iter().filter_map(|change| match change {
        ObjectChange::Put(o) if o.key.kind == Kind::Endpoint => Some(o),
        ObjectChange::Put(_) | ObjectChange::Delete(_) | ObjectChange::Supersede { .. } => None,
    });
    let endpoint = published.next().unwrap();
    (
        mac.0,
        endpoint.annotations.get(ANNOTATION_VTEP_MAC).cloned(),
    )
}

#[test]
fn it_stays_in_place_with_the_ethernet_address_that_others_have_learned_which_is_not_published() {
    let host = with_cable(THEIRS, None, 4500);
    let s = starts_with(host.clone());
    assert_eq!(macs(&s), (THEIRS, None));
    let changes = diff(&host, &s.plan().wanted, &owner()).changes;
    let made_anew = |c: &Change| matches!(c, Change::RemoveLink(_) | Change::CreateLink(..));
    assert!(!changes.iter().any(made_anew), "{changes:?}");
    // Who starts anew sees one with our mark, and knows it by its address.
    let next = starts_with(with_cable(THEIRS, Some(LINK_ALIAS), 4500));
    assert_eq!(macs(&next), (THEIRS, None));
}

#[test]
fn an_address_of_our_own_making_follows_the_nodes_and_one_that_somebody_alters_is_set_back() {
    let derived = [2, 0xe8, 172, 30, 1, 11];
    let published = Some(Mac(derived).to_string());
    for host in [
        host(),
        with_cable([2, 0xe8, 9, 9, 9, 9], Some(LINK_ALIAS), 4500),
        // Another port: it can't be taken over, and is a conflict.
        with_cable(THEIRS, None, 4501),
    ] {
        assert_eq!(macs(&starts_with(host)), (derived, published.clone()));
    }
    let mut s = starts_with(with_cable(derived, Some(LINK_ALIAS), 4500));
    let altered = with_cable(THEIRS, Some(LINK_ALIAS), 4500);
    s.apply(Input::Host(Arc::new(altered)), at(1));
    assert_eq!(macs(&s), (derived, published));
}
