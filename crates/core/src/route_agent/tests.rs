//! What the route agent wants, in the situations that matter. Random sequences of events are in the tests of the
//! process's own crate, which has a kernel to try them on.

mod back;
mod bad;
mod before;
mod follow;
mod health;
mod input;
mod leftovers;
mod overlap;
mod pools;
mod reaping;
mod selftest;
mod source;
mod way;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use strait_api::names::{BACKEND_INTERFACE, CABLE_VXLAN};
use strait_api::route_agent::AgentInfo;
use strait_api::{Endpoint, EndpointSpec, Node};
use strait_host::nft::Statement;
use strait_host::{
    Address, Hop, Host, Link, LinkKind, Route, RouteKind, Scope, TABLE_MAIN, rp_filter_path,
};

use super::*;

const WORKER: &str = "worker";
const GATEWAY: &str = "gateway";

fn settings(node: &str) -> Settings {
    Settings {
        node: node.into(),
        hostname: node.into(),
        namespace: "ns".into(),
        cluster: "east".parse().unwrap(),
        cluster_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.101.0.0/16".parse().unwrap()],
        hello_port: 4801,
        health_check: true,
        self_test: false,
        adopt: false,
        version: "test".into(),
    }
}

fn endpoint(cluster: &str, hostname: &str, private: &str, subnets: &[&str]) -> Endpoint {
    let spec = EndpointSpec {
        cluster_id: cluster.into(),
        cable_name: format!("submariner-cable-{cluster}"),
        hostname: hostname.into(),
        subnets: subnets.iter().map(|s| (*s).to_owned()).collect(),
        private_ip: private.into(),
        backend: "vxlan".into(),
        backend_config: BTreeMap::from([(BACKEND_INTERFACE.into(), CABLE_VXLAN.into())]),
        ..EndpointSpec::default()
    };
    let name = format!("{cluster}-cable");
    let object =
        strait_api::Object::new(strait_api::Kind::Endpoint, "ns", &name).with("spec", &spec);
    Endpoint::parse(&object).unwrap()
}

fn endpoints() -> Event<Endpoint> {
    let list = [
        endpoint(
            "east",
            GATEWAY,
            "172.30.1.11",
            &["10.101.0.0/16", "10.1.0.0/16"],
        ),
        endpoint(
            "west",
            "west-1",
            "172.30.2.11",
            &["10.102.0.0/16", "10.2.0.0/16"],
        ),
    ];
    Event::Reset(list.into_iter().map(|e| (e.name.clone(), Ok(e))).collect())
}

fn nodes() -> Event<Node> {
    let node = |ip: &str| {
        Ok(Node {
            internal_ips: vec![ip.parse().unwrap()],
            ..Node::default()
        })
    };
    Event::Reset(
        [
            (GATEWAY.to_owned(), node("172.30.1.11")),
            (WORKER.to_owned(), node("172.30.1.12")),
        ]
        .into(),
    )
}

fn agents() -> Event<AgentInfo> {
    let agent = |last| {
        Ok(AgentInfo {
            ours: true,
            vtep_mac: Some([2, 0x64, 172, 30, 1, last]),
            vtep_mac_6: None,
        })
    };
    Event::Reset(
        [
            (GATEWAY.to_owned(), agent(11)),
            (WORKER.to_owned(), agent(12)),
        ]
        .into(),
    )
}

fn link(kind: LinkKind) -> Link {
    Link {
        kind,
        mtu: 1500,
        up: true,
        mac: None,
        alias: None,
        master: None,
    }
}

fn address(link: &str, net: &str) -> Address {
    Address {
        link: link.into(),
        net: net.parse().unwrap(),
        scope: Scope::Global,
    }
}

/// A host with its address on the nodes' network and a strict reverse-path filter; no CNI.
fn bare_host(ip: &str) -> Host {
    let mut host = Host::default();
    host.links.insert("eth0".into(), link(LinkKind::Veth));
    host.addresses.insert(address("eth0", &format!("{ip}/24")));
    host.routes.insert(route("0.0.0.0/0", "172.30.1.1", "eth0"));
    host.sysctls.insert(rp_filter_path("all"), "0".into());
    host.sysctls.insert(rp_filter_path("eth0"), "1".into());
    host
}

fn route(dst: &str, via: &str, dev: &str) -> Route {
    let hops = vec![Hop {
        dev: Some(dev.into()),
        via: Some(via.parse().unwrap()),
        onlink: false,
    }];
    Route {
        table: TABLE_MAIN,
        dst: dst.parse().unwrap(),
        metric: 0,
        protocol: 3,
        kind: RouteKind::Unicast { hops, src: None },
    }
}

/// The same with a tunnel of a CNI, as Calico has it.
fn host_with_cni(ip: &str, cni: &str) -> Host {
    let mut host = bare_host(ip);
    host.links
        .insert("tunl0".into(), link(LinkKind::Other("ipip".into())));
    host.addresses
        .insert(address("tunl0", &format!("{cni}/32")));
    host.routes
        .insert(route("10.1.9.0/24", "172.30.1.19", "tunl0"));
    host.sysctls.insert(rp_filter_path("tunl0"), "1".into());
    host
}

fn state(node: &str, host: Host) -> State {
    let mut s = State::new(settings(node));
    for input in [
        Input::Endpoints(endpoints()),
        Input::Nodes(nodes()),
        Input::Agents(agents()),
        Input::Host(Arc::new(host)),
    ] {
        s.apply(input, at(0));
    }
    s
}

fn at(ms: u64) -> Time {
    Time(Duration::from_millis(ms))
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn routes(plan: &Plan) -> &BTreeSet<Route> {
    plan.wanted.routes.get().unwrap()
}

fn table_of(plan: &Plan) -> &strait_host::nft::Table {
    &plan.wanted.nft.get().unwrap()[&table()]
}

fn host_source(plan: &Plan) -> Option<std::net::IpAddr> {
    let rules = &table_of(plan).chains["source"].rules;
    let mut sources = rules.iter().flat_map(|r| &r.statements).filter_map(|s| {
        if let Statement::SnatTo(ip) = s {
            Some(*ip)
        } else {
            None
        }
    });
    sources.next_back()
}

fn condition<'a>(plan: &'a Plan, name: &str) -> Option<&'a crate::Condition> {
    plan.conditions.iter().find(|c| c.name == name)
}
