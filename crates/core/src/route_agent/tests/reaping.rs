//! What becomes of the cable of a gateway that is none any more.

use strait_api::names::CABLE_VXLAN_6;
use strait_host::diff;

use super::*;

fn with_cable(ip: &str, alias: Option<&str>) -> Host {
    let mut host = host_with_cni(ip, "10.1.2.1");
    let cable = Link {
        alias: alias.map(str::to_owned),
        ..link(LinkKind::Other("vxlan".into()))
    };
    for name in [CABLE_VXLAN, CABLE_VXLAN_6] {
        host.links.insert(name.into(), cable.clone());
    }
    host
}

fn removed(s: &State) -> Vec<String> {
    let changes = diff(s.host.as_ref().unwrap(), &s.plan().wanted, &owner()).changes;
    let removed = |change: &strait_host::Change| {
        matches!(change, strait_host::Change::RemoveLink(_)).then(|| change.subject().to_string())
    };
    let subjects = changes.iter().filter_map(removed);
    subjects
        .map(|subject| subject.replace("link ", ""))
        .collect()
}

fn worker() -> State {
    state(WORKER, with_cable("172.30.1.12", Some("strait")))
}

#[test]
fn it_goes_once_no_gateway_can_start_and_not_before() {
    let both = [CABLE_VXLAN.to_owned(), CABLE_VXLAN_6.to_owned()];
    let mut s = worker();
    assert_eq!(s.plan().dead_cables, both.clone().into());
    assert_eq!(removed(&s), Vec::<String>::new());
    s.apply(Input::GatewayLock(true), at(1));
    assert!(s.plan().locked);
    assert_eq!(removed(&s), both);
    s.apply(Input::GatewayLock(false), at(2));
    assert_eq!((removed(&s), s.plan().locked), (vec![], false));
}

#[test]
fn a_gateways_own_and_what_carries_another_mark_stays() {
    let gateway = state(GATEWAY, with_cable("172.30.1.11", Some("strait")));
    let foreign = state(WORKER, with_cable("172.30.1.12", None));
    let others = state(WORKER, with_cable("172.30.1.12", Some("submariner")));
    for mut s in [gateway, foreign, others] {
        s.apply(Input::GatewayLock(true), at(1));
        assert_eq!(s.plan().dead_cables, BTreeSet::new());
        assert_eq!(removed(&s), Vec::<String>::new());
    }
}

#[test]
fn a_gateway_whose_endpoint_is_gone_keeps_it_for_as_long_as_its_routes() {
    let mut s = state(GATEWAY, with_cable("172.30.1.11", Some("strait")));
    s.apply(Input::GatewayLock(true), at(1));
    s.apply(
        Input::Endpoints(Event::Deleted("east-cable".into())),
        at(10),
    );
    assert_eq!(removed(&s), Vec::<String>::new());
    s.apply(Input::Tick, at(5_010));
    assert_eq!(removed(&s).len(), 2);
}

#[test]
fn nothing_goes_while_it_is_unknown_who_is_a_gateway() {
    for missing in 0..2 {
        let mut s = State::new(settings(WORKER));
        s.apply(Input::GatewayLock(true), at(0));
        let host = with_cable("172.30.1.12", Some("strait"));
        s.apply(Input::Host(Arc::new(host)), at(0));
        let inputs = [
            Input::Endpoints(endpoints()),
            Input::Nodes(nodes()),
            Input::Agents(agents()),
        ];
        for (n, input) in inputs.into_iter().enumerate() {
            if n != missing {
                s.apply(input, at(0));
            }
        }
        assert_eq!(s.plan().dead_cables, BTreeSet::new());
        assert!(
            s.plan().locked,
            "who holds the lock hears that it is counted on"
        );
        assert_eq!(removed(&s), Vec::<String>::new());
    }
}
