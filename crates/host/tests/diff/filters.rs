//! Packet filters, and the reverse-path filter.

use std::collections::BTreeMap;

use ipnet::IpNet;
use strait_host::nft::Set;
use strait_host::{Change, Family, Host, Owned, Wanted, diff};

use super::*;

#[test]
fn the_reverse_path_filter_is_loosened_only_where_it_is_strict() {
    let wanted = Wanted {
        loose_reverse_path: ["eth0".to_owned()].into(),
        ..Wanted::default()
    };
    for (all, own, loosened) in [
        (0, 0, false),
        (0, 1, true),
        (0, 2, false),
        (1, 0, true),
        (1, 2, false),
        (2, 1, false),
    ] {
        let mut host = Host::default();
        host.sysctls
            .insert("net/ipv4/conf/all/rp_filter".into(), all.to_string());
        host.sysctls
            .insert("net/ipv4/conf/eth0/rp_filter".into(), own.to_string());
        let changes = diff(&host, &wanted, &owner()).changes;
        assert_eq!(
            changes.len() == 1,
            loosened,
            "all={all} own={own}: {changes:?}"
        );
    }
}

#[test]
fn overlapping_and_adjacent_prefixes_become_one_interval() {
    let nets: Vec<IpNet> = ["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "fd00::/64"]
        .iter()
        .map(|n| n.parse().unwrap())
        .collect();
    let set = Set::of_nets(Family::V4, &nets);
    assert_eq!(set.elements.len(), 1);
    assert!(set.elements.contains_key(&strait_host::nft::Element::Net(
        "10.0.0.0/8".parse().unwrap()
    )));
}

#[test]
fn accept_rules_go_into_chains_that_are_there_and_come_back_to_their_place() {
    let rule = strait_host::nft::Rule {
        statements: vec![strait_host::nft::Statement::Accept],
        comment: "strait".to_owned(),
    };
    let table = strait_host::nft::TableId {
        family: strait_host::nft::TableFamily::Ip,
        name: "filter".to_owned(),
    };
    let want = |rules: &[strait_host::nft::Rule]| {
        let chains = ["FORWARD", "INPUT"].map(|chain| (chain.to_owned(), rules.to_vec()));
        let accepts = BTreeMap::from([(table.clone(), BTreeMap::from(chains))]);
        Wanted {
            accepts: Owned::Set(accepts),
            ..Wanted::default()
        }
    };
    let mut host = Host::default();
    let some = want(std::slice::from_ref(&rule));
    assert_eq!(diff(&host, &some, &owner()).changes, [], "no chain");
    let chains = host.filters.entry(table.clone()).or_default();
    chains.insert("FORWARD".to_owned(), Default::default());
    let set = |rules: Vec<_>| {
        vec![Change::SetAccepts(
            table.clone(),
            "FORWARD".to_owned(),
            rules,
        )]
    };
    let changes = diff(&host, &some, &owner()).changes;
    assert_eq!(changes, set(vec![rule.clone()]));
    host.apply(&changes[0]);
    assert_eq!(diff(&host, &some, &owner()).changes, []);
    let chain = host
        .filters
        .get_mut(&table)
        .unwrap()
        .get_mut("FORWARD")
        .unwrap();
    chain.in_place = false;
    assert_eq!(diff(&host, &some, &owner()).changes, set(vec![rule]));
    assert_eq!(
        diff(&host, &Wanted::default(), &owner()).changes,
        [],
        "kept"
    );
    assert_eq!(diff(&host, &want(&[]), &owner()).changes, set(vec![]));
}
