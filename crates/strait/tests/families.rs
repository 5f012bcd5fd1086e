//! What users get with IPv4, IPv6 and both, over every CNI of the lab: pairs of all of these with the reverse-path filter, the
//! order of start and the cable, in few labs. Each way is tried with 3 KB both ways, over TCP and over UDP.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;
mod matrix;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use common::joined;
use matrix::{Circumstances, Event, PATIENCE, Start, all_good, host_ways, wait_for};
use strait_lab::matrix::{Way, ways};
use strait_lab::{Cable, Cni, Families, Family, Options, RpFilter};

struct Case {
    name: &'static str,
    circumstances: Circumstances,
    events: &'static [Event],
}

macro_rules! cases {
    ($($name:ident: $east:ident $west:ident $families:ident $filter:ident $start:ident $cable:ident [$($event:ident)*];)*) => {
        const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            circumstances: Circumstances {
                east: Cni::$east,
                west: Cni::$west,
                families: Families::$families,
                rp_filter: RpFilter::$filter,
                start: Start::$start,
                cable: Cable::$cable,
            },
            events: &[$(Event::$event),*],
        }),*];
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*
    };
}

// Events happen to the cluster of the CNI that is named first.
cases! {
    bridge_and_bridge_v4: Bridge Bridge V4 Strict AgentFirst Wireguard [CniAddress NodeLeaves NftKubeProxy NftKindnet];
    bridge_and_calico_v6: Bridge Calico V6 Loose CniFirst Wireguard [Recreated GatewayMoved StrictAgain IptablesLegacy NftCalico NftReversePath NftReversePathOnly];
    bridge_and_routed_dual: Bridge Routed Dual Strict CniFirst Vxlan [Flushed Killed IptablesNft NftOwn];
    calico_and_calico_v4: Calico Calico V4 Loose AgentFirst Vxlan [Flushed Killed IptablesNft NftOwn StrictAgain];
    calico_and_routed_v6: Calico Routed V6 Strict AgentFirst Vxlan [CniAddress NodeLeaves NftKubeProxy NftKindnet GatewayMoved];
    calico_and_bridge_dual: Calico Bridge Dual Loose CniFirst Wireguard [Recreated CniAddress NodeLeaves NftKubeProxy NftKindnet IptablesLegacy NftCalico NftReversePath NftReversePathOnly];
    routed_and_routed_v4: Routed Routed V4 Strict CniFirst Vxlan [Recreated GatewayMoved StrictAgain IptablesLegacy NftCalico NftReversePath NftReversePathOnly];
    routed_and_bridge_v6: Routed Bridge V6 Loose AgentFirst Wireguard [Flushed Killed IptablesNft NftOwn];
    routed_and_calico_dual: Routed Calico Dual Strict AgentFirst Vxlan [CniAddress Recreated GatewayMoved NodeLeaves StrictAgain NftKubeProxy NftKindnet IptablesLegacy NftCalico NftReversePath NftReversePathOnly];
}

#[test]
fn every_pair_of_circumstances_and_events_is_tried() {
    let mut pairs = BTreeSet::new();
    for Case {
        circumstances: of,
        events,
        ..
    } in CASES
    {
        let common = [
            format!("{:?}", of.families),
            format!("{:?}", of.rp_filter),
            format!("{:?}", of.start),
            of.cable.to_string(),
        ];
        // Events happen in the first cluster.
        let events = events.iter().map(ToString::to_string);
        let first: Vec<String> = [of.east.to_string()].into_iter().chain(events).collect();
        for cluster in [first, vec![of.west.to_string()]] {
            let all: Vec<&String> = cluster.iter().chain(&common).collect();
            for one in &all {
                for other in &all {
                    pairs.insert(((*one).clone(), (*other).clone()));
                }
            }
        }
    }
    let events = Event::ALL.map(|event| event.to_string());
    let groups: [Vec<&str>; 6] = [
        vec!["bridge", "calico", "routed"],
        vec!["V4", "V6", "Dual"],
        vec!["Strict", "Loose"],
        vec!["AgentFirst", "CniFirst"],
        vec!["vxlan", "wireguard"],
        events.iter().map(String::as_str).collect(),
    ];
    for (i, one) in groups.iter().enumerate() {
        for other in &groups[i + 1..] {
            for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
                let pair = ((*a).to_owned(), (*b).to_owned());
                assert!(pairs.contains(&pair), "{a} with {b} is not tried");
            }
        }
    }
}

fn run(name: &str) {
    let case = CASES.iter().find(|case| case.name == name).expect("a case");
    let lab = case.circumstances.lab(&name.replace('_', "-")[..14], 2);
    for event in case.events {
        event.happen(&lab, case.circumstances.cable);
    }
}

#[test]
fn a_gateway_with_a_pod_address_lends_it_to_workers_that_never_get_one() {
    let lab = joined(
        "lend",
        Options {
            nodes: 2,
            cnis: vec![Cni::Routed, Cni::Bridge],
            families: Families::Dual,
            ..Options::default()
        },
    );
    let (gateway, worker) = ("east-1", lab.topology().node("east-2").expect("a node").1);
    let addresses: [(Family, IpAddr); 2] = [
        (Family::V4, [10, 101, 1, 1].into()),
        (Family::V6, [0xfd10, 0x101, 0, 1, 0, 0, 0, 1].into()),
    ];
    for (family, source) in addresses {
        all_good(&lab, &host_ways(&lab, family, worker, None));
        let address = source.to_string();
        lab.exec(gateway, &["ip", "address", "add", &address, "dev", "lo"])
            .expect("it is added");
        let ways = host_ways(&lab, family, worker, Some(source));
        wait_for(&lab, &ways[0]);
        all_good(&lab, &ways);
        lab.exec(gateway, &["ip", "address", "del", &address, "dev", "lo"])
            .expect("it is removed");
    }
    // It is gone again, and with it the way; pods never notice.
    let closed = |way: &Way| way.attempt(&lab).is_ok_and(|tried| tried.good());
    let deadline = Instant::now() + PATIENCE;
    for (family, _) in addresses {
        let way = &host_ways(&lab, family, worker, None)[0];
        while !closed(way) {
            assert!(Instant::now() < deadline, "{way:?} is still open");
        }
    }
    all_good(&lab, &ways(lab.topology()));
}
