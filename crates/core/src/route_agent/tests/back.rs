//! Others' reverse-path filters: what is marked for them, where the marks lead, and what is said where that does not help.

use strait_api::names::{BACK_MASK, CABLE_VXLAN, NODE_VXLAN};
use strait_host::nft::{Chain, Hook, Value};
use strait_host::{BaseChain, Family};

use super::*;
use crate::route_agent::nft::{EARLY_FIRST, EARLY_LAST};

fn asked(mut host: Host) -> Host {
    host.source_checks.insert(Family::V4);
    host
}

/// By link: the set in which its sources are, and the mark that they get.
fn marked(plan: &Plan) -> Vec<(String, String, Option<u32>)> {
    let Some(first) = table_of(plan).chains.get(EARLY_FIRST) else {
        return Vec::new();
    };
    let rules = first.rules.iter().skip(1);
    rules
        .map(|rule| {
            let (mut link, mut sources, mut mark) = (String::new(), String::new(), None);
            for statement in &rule.statements {
                if let Statement::Match {
                    value: Value::Name(name),
                    ..
                } = statement
                {
                    link.clone_from(name);
                } else if let Statement::Lookup { set, .. } = statement {
                    sources.clone_from(set);
                } else if let Statement::SetMarkBits { value, .. } = statement {
                    mark = Some(*value);
                }
            }
            (link, sources, mark)
        })
        .collect()
}

/// Where a mark leads: the links of the table that its rule looks up.
fn leads(plan: &Plan, mark: u32) -> Vec<(String, String)> {
    let rules = plan.wanted.rules.get().unwrap().iter();
    let tables: Vec<u32> = rules
        .filter(|r| r.mark == Some((mark, BACK_MASK)))
        .map(|r| r.table)
        .collect();
    let of_table = routes(plan).iter().filter(|r| tables.contains(&r.table));
    of_table
        .map(|r| (r.dst.to_string(), r.hops()[0].dev.clone().unwrap()))
        .collect()
}

fn all_by(link: &str) -> Vec<(String, String)> {
    ["0.0.0.0/1", "128.0.0.0/1"]
        .map(|half| (half.to_owned(), link.to_owned()))
        .into()
}

fn row(link: &str, set: &str, mark: u32) -> (String, String, Option<u32>) {
    (link.to_owned(), set.to_owned(), Some(mark))
}

#[test]
fn nothing_is_marked_where_nobody_asks_for_the_way_back() {
    let plan = state(WORKER, host_with_cni("172.30.1.12", "10.1.2.1")).plan();
    assert_eq!(marked(&plan), []);
    assert!(plan.wanted.rules.get().unwrap().is_empty());
    assert!(routes(&plan).iter().all(|r| r.table == TABLE_MAIN));
    let chains = table_of(&plan).chains.values();
    assert!(
        chains
            .filter_map(|c| c.base)
            .all(|b| b.hook != Hook::Prerouting)
    );
}

#[test]
fn on_a_worker_what_comes_from_remote_clusters_leads_back_where_it_came_in() {
    let host = asked(host_with_cni("172.30.1.12", "10.1.2.1"));
    let plan = state(WORKER, host).plan();
    assert_eq!(
        marked(&plan),
        [row("eth0", "back4", 0x1031), row("tunl0", "back4", 0x1032)]
    );
    assert_eq!(leads(&plan, 0x1031), all_by("eth0"));
    assert_eq!(leads(&plan, 0x1032), all_by("tunl0"));
    let sources: Vec<String> = table_of(&plan).sets["back4"]
        .elements
        .keys()
        .map(|e| format!("{e:?}"))
        .collect();
    // Both VXLANs' inside too: a gateway answers the self-test from there.
    for net in ["10.2.0.0/16", "10.102.0.0/16", "240.0.0.0/7"] {
        assert!(
            sources.contains(&format!("Net({net})")),
            "{net}: {sources:?}"
        );
    }
}

#[test]
fn on_the_gateway_what_comes_from_pods_of_other_nodes_does() {
    let mut host = asked(host_with_cni("172.30.1.11", "10.1.1.1"));
    host.links
        .insert(CABLE_VXLAN.into(), link(LinkKind::Other("vxlan".into())));
    let plan = state(GATEWAY, host).plan();
    assert_eq!(marked(&plan), [row(NODE_VXLAN, "pods4", 0x1031)]);
    assert_eq!(leads(&plan, 0x1031), all_by(NODE_VXLAN));
    let rules = plan.wanted.rules.get().unwrap().iter();
    let priorities: Vec<u32> = rules.map(|r| r.priority).collect();
    assert_eq!(priorities, [98, 99, 100]);
}

#[test]
fn a_mark_that_was_there_stays_and_ours_is_gone_before_packets_are_routed() {
    let host = asked(host_with_cni("172.30.1.12", "10.1.2.1"));
    let plan = state(WORKER, host).plan();
    let of = |name: &str| -> Chain { table_of(&plan).chains[name].clone() };
    let (first, last) = (of(EARLY_FIRST), of(EARLY_LAST));
    let unused = Statement::Match {
        field: strait_host::nft::Field::Mark,
        mask: Some(BACK_MASK),
        negated: false,
        value: Value::Number(0),
    };
    for rule in &first.rules[1..] {
        let at = rule.statements.iter().position(|s| *s == unused).unwrap();
        assert!(
            matches!(rule.statements[at + 1], Statement::SetMarkBits { mask, .. } if mask == BACK_MASK)
        );
    }
    assert_eq!(
        last.rules.last().unwrap().statements.last(),
        Some(&Statement::SetMarkBits {
            mask: BACK_MASK,
            value: 0
        })
    );
    let priority = |chain: &Chain| chain.base.unwrap().priority;
    assert_eq!((priority(&first), priority(&last)), (-310, i32::MAX));
}

#[test]
fn a_link_that_is_down_or_gone_leads_nowhere() {
    let mut host = asked(host_with_cni("172.30.1.12", "10.1.2.1"));
    host.links.get_mut("tunl0").unwrap().up = false;
    let plan = state(WORKER, host).plan();
    assert_eq!(marked(&plan), [row("eth0", "back4", 0x1031)]);
}

#[test]
fn what_is_dropped_all_the_same_is_named_with_the_command() {
    let mut s = state(WORKER, asked(host_with_cni("172.30.1.12", "10.1.2.1")));
    let comment = "IPv4 from remote clusters before routing";
    assert!(
        table_of(&s.plan()).chains[EARLY_LAST]
            .rules
            .iter()
            .any(|r| r.comment == comment)
    );
    let chain = |family, table: &str, name: &str, nat| BaseChain {
        family,
        table: table.to_owned(),
        name: name.to_owned(),
        hook: Hook::Prerouting,
        priority: 0,
        nat,
        drops: false,
    };
    let seen = |chains: &[BaseChain]| Filtering {
        chains: chains.to_vec(),
        legacy_early: [(Family::V4, "raw".to_owned())].into(),
        counted: [
            ((EARLY_FIRST.to_owned(), comment.to_owned()), 10),
            ((EARLY_LAST.to_owned(), comment.to_owned()), 0),
        ]
        .into(),
        ..Filtering::default()
    };
    let mut said = |chains: &[BaseChain]| {
        s.apply(Input::Filtering(seen(chains)), at(1000));
        condition(&s.plan(), "PreroutingDrop")
            .unwrap()
            .message
            .clone()
    };
    let own = said(&[
        chain("inet", "mine", "early", false),
        chain("ip", "t", "nat", true),
    ]);
    for command in [
        "nft insert rule inet mine early ip saddr 10.2.0.0/16 accept",
        "nft insert rule inet mine early ip saddr 240.0.0.0/8 accept",
        "iptables-legacy -t raw -I PREROUTING -s 10.2.0.0/16 -j ACCEPT",
    ] {
        assert!(own.contains(command), "{own}");
    }
    assert!(!own.contains(" t nat "), "{own}");
    let firewalld = said(&[chain("inet", "firewalld", "filter_PREROUTING", false)]);
    assert!(
        firewalld.contains("IPv6_rpfilter=loose") && firewalld.contains("firewall-cmd --reload"),
        "{firewalld}"
    );
    let xt = said(&[chain("ip", "mangle", "PREROUTING", false)]);
    assert!(
        xt.contains("iptables-nft -t mangle -I PREROUTING -s 10.2.0.0/16 -j ACCEPT"),
        "{xt}"
    );
}

#[test]
fn on_the_gateway_the_command_lets_in_what_comes_by_the_nodes_vxlan() {
    let mut host = asked(host_with_cni("172.30.1.11", "10.1.1.1"));
    host.links
        .insert(CABLE_VXLAN.into(), link(LinkKind::Other("vxlan".into())));
    let mut s = state(GATEWAY, host);
    let comment = "IPv4 from pods of other nodes before routing";
    // nft refuses to name the family where a table has one only.
    for (family, command) in [
        (
            "ip",
            "nft insert rule ip t early iifname vx-submariner accept",
        ),
        (
            "inet",
            "nft insert rule inet t early meta nfproto ipv4 iifname vx-submariner accept",
        ),
    ] {
        let chain = BaseChain {
            family,
            table: "t".to_owned(),
            name: "early".to_owned(),
            hook: Hook::Prerouting,
            priority: 0,
            nat: false,
            drops: false,
        };
        let counted = |chain: &str, n| ((chain.to_owned(), comment.to_owned()), n);
        let seen = Filtering {
            chains: vec![chain],
            counted: [counted(EARLY_FIRST, 10), counted(EARLY_LAST, 0)].into(),
            ..Filtering::default()
        };
        s.apply(Input::Filtering(seen), at(1000));
        let plan = s.plan();
        let message = &condition(&plan, "PreroutingDrop").unwrap().message;
        assert!(message.contains(command), "{message}");
    }
}
