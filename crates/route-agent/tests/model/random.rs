//! Random sequences of events.

use proptest::prelude::*;
use strait_host::Family;

use super::world::{Deed, Event, Foreign, Remote, SUBNETS, Which};

pub(crate) fn case() -> impl Strategy<Value = (Vec<Family>, Vec<Event>)> {
    let families = prop::sample::select(vec![
        vec![Family::V4, Family::V6],
        vec![Family::V4],
        vec![Family::V6],
    ]);
    (families, prop::collection::vec(event(), 1..40))
}

fn of_node() -> impl Strategy<Value = Which> {
    prop_oneof![
        6 => Just(Which::Usual),
        2 => Just(Which::Another),
        1 => Just(Which::Twin),
        1 => Just(Which::None),
    ]
}

fn of_remote() -> impl Strategy<Value = Which> {
    prop_oneof![
        6 => Just(Which::Usual),
        2 => Just(Which::Another),
        1 => Just(Which::Twin),
        1 => Just(Which::None),
        1 => Just(Which::Ours),
        2 => Just(Which::InOwnSubnet),
    ]
}

fn remote() -> impl Strategy<Value = Remote> {
    let subnets =
        prop::collection::btree_set(prop_oneof![3 => 0..8usize, 1 => 8..SUBNETS.len()], 0..5);
    (of_remote(), subnets).prop_map(|(address, subnets)| Remote { address, subnets })
}

fn deed() -> impl Strategy<Value = Deed> {
    prop::sample::select(Deed::ALL.to_vec())
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => whole(),
        1 => (whole(), any::<u8>()).prop_map(|(event, share)| Event::Killed(Box::new(event), share)),
    ]
}

/// One after which the agent's pass is complete.
fn whole() -> impl Strategy<Value = Event> {
    let foreign = prop::sample::select(vec![
        Foreign::Namesake,
        Foreign::SameVni,
        Foreign::Route,
        Foreign::Table,
        Foreign::Beside,
        Foreign::ReversePath,
    ]);
    let link = 0..4usize;
    prop_oneof![
        2 => (link.clone(), any::<bool>()).prop_map(|(l, there)| Event::CniLink(l, there)),
        2 => (link.clone(), any::<bool>()).prop_map(|(l, up)| Event::CniUp(l, up)),
        4 => (link.clone(), prop::option::of(1..5u8)).prop_map(|(l, n)| Event::CniAddress(l, n)),
        1 => (link, any::<bool>()).prop_map(|(l, there)| Event::CniRoutes(l, there)),
        2 => of_node().prop_map(Event::HostAddress),
        1 => prop::option::of(0..2usize).prop_map(Event::DefaultRoute),
        1 => prop::sample::select(vec![1500, 9000, 1400]).prop_map(Event::Mtu),
        3 => prop::option::weighted(0.8, prop::bool::weighted(0.8)).prop_map(Event::Cable),
        3 => (0..4usize, prop::option::of(of_node())).prop_map(|(n, w)| Event::Node(n, w)),
        2 => (1..4usize, prop::option::of(any::<bool>())).prop_map(|(n, a)| Event::Agent(n, a)),
        // This node is the gateway half of the time.
        6 => (prop_oneof![4 => Just(Some(0)), 3 => (1..4usize).prop_map(Some), 1 => Just(None)], of_node())
            .prop_map(|(n, w)| Event::Gateway(n, w)),
        6 => (0..4usize, prop::option::weighted(0.8, remote())).prop_map(|(c, r)| Event::Remote(c, r)),
        1 => (0..4usize, any::<bool>()).prop_map(|(c, there)| Event::OldEndpoint(c, there)),
        1 => any::<bool>().prop_map(Event::BadEndpoint),
        1 => prop::option::of(prop::option::of(Just(1300u16))).prop_map(Event::Annotation),
        1 => Just(Event::Relist),
        1 => Just(Event::ApiAway),
        2 => any::<bool>().prop_map(Event::AgentsRefused),
        5 => deed().prop_map(Event::Deed),
        3 => (foreign, any::<bool>()).prop_map(|(f, there)| Event::Foreign(f, there)),
        2 => Just(Event::Restart),
        2 => (1..8u8).prop_map(Event::Wait),
    ]
}
