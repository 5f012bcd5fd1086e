//! Accept rules in the chains of iptables-nft, where those can drop: an accept in a table of ours would not stop that.
//!
//! Names of interfaces and plain prefixes only, so that iptables can show and restore them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use strait_api::names::NODE_VXLAN_PORT;
use strait_host::firewall::{ACCEPT_MARK, Accepts};
use strait_host::nft::{Element, Field, Rule, Set, Statement, TableFamily, TableId, Value};
use strait_host::{Family, Host};

use super::routes;
use super::view::FamilyView;

/// What the rules follow from, beside the families.
pub(super) struct Ways<'a> {
    /// The device of this node's cable, per family.
    pub cables: BTreeMap<Family, &'a str>,
    /// This node is a gateway.
    pub gateway: bool,
    /// UDP ports of a gateway: that of its cable, that of NAT discovery, and that of the direct watch, which one that stands by has too.
    pub ports: Vec<u16>,
}

/// The rules for each chain that is there and can drop.
pub(super) fn accepts(host: &Host, families: &[FamilyView<'_>], ways: &Ways<'_>) -> Accepts {
    let mut all = Accepts::new();
    for view in families {
        let table = TableId {
            family: match view.family {
                Family::V4 => TableFamily::Ip,
                Family::V6 => TableFamily::Ip6,
            },
            name: "filter".to_owned(),
        };
        let chains = host.filters.get(&table).into_iter().flatten();
        for (name, _) in chains.filter(|(_, chain)| chain.drops) {
            let rules = match name.as_str() {
                "FORWARD" => forwards(view, ways),
                "INPUT" => inputs(ways),
                _ => continue,
            };
            let chains = all.entry(table.clone()).or_default();
            chains.insert(name.clone(), rules);
        }
    }
    all
}

/// What passes through: by the cable; and where another node is the gateway, into the nodes' VXLAN, and by way of the pods'
/// network from remote clusters to pods.
fn forwards(view: &FamilyView<'_>, ways: &Ways<'_>) -> Vec<Rule> {
    let f = view.family;
    let to = |net: IpNet| Statement::within(Field::Destination(f), net);
    let from = |net: IpNet| Statement::within(Field::Source(f), net);
    let cable = ways.cables.get(&f);
    let mut rules = Vec::new();
    for net in merged(f, view.subnets.iter()) {
        if let Some(cable) = cable {
            rules.push(accept(vec![link(Field::OutputLink, cable), to(net)]));
            rules.push(accept(vec![link(Field::InputLink, cable), from(net)]));
        }
        if ways.gateway {
            continue;
        }
        let device = routes::device(f);
        rules.push(accept(vec![link(Field::OutputLink, device), to(net)]));
        for pods in merged(f, view.pods.iter()) {
            rules.push(accept(vec![from(net), to(pods)]));
        }
    }
    rules
}

/// Tunnels, and NAT discovery; strangers' packets in them are dropped by our own table.
fn inputs(ways: &Ways<'_>) -> Vec<Rule> {
    let ports = [NODE_VXLAN_PORT].iter().chain(&ways.ports);
    let rule = |port: u16| {
        accept(vec![
            number(Field::Transport, UDP),
            number(Field::DestinationPort, port.into()),
        ])
    };
    ports.copied().map(rule).collect()
}

/// `IPPROTO_UDP`.
const UDP: u32 = 17;

fn merged<'a>(family: Family, nets: impl Iterator<Item = &'a IpNet>) -> Vec<IpNet> {
    let set = Set::of_nets(family, nets);
    let nets = set.elements.into_keys().filter_map(|element| {
        if let Element::Net(net) = element {
            Some(net)
        } else {
            None
        }
    });
    nets.collect()
}

fn accept(mut statements: Vec<Statement>) -> Rule {
    statements.extend([Statement::Counter, Statement::Accept]);
    Rule {
        statements,
        comment: ACCEPT_MARK.to_owned(),
    }
}

fn link(field: Field, name: &str) -> Statement {
    Statement::Match {
        field,
        mask: None,
        negated: false,
        value: Value::Name(name.to_owned()),
    }
}

fn number(field: Field, value: u32) -> Statement {
    Statement::Match {
        field,
        mask: None,
        negated: false,
        value: Value::Number(value),
    }
}
