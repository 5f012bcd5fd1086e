//! Bad input: each is told by name, and nothing else suffers.

use strait_api::{Kind, Object};

use super::*;

/// What the API server gives out, as objects: they go the whole way from text.
struct Case {
    what: &'static str,
    endpoints: Vec<(&'static str, EndpointSpec)>,
    nodes: Vec<(&'static str, serde_json::Value)>,
    on: &'static str,
    /// The condition and parts of its message; `None` where it is put up with.
    told: Option<(&'static str, &'static [&'static str])>,
    /// Subnets that are routed beside those of the good cluster.
    routed: &'static [&'static str],
}

fn spec(cluster: &str, private: &str, subnets: &[&str]) -> EndpointSpec {
    EndpointSpec {
        cluster_id: cluster.into(),
        cable_name: format!("submariner-cable-{cluster}"),
        hostname: "x".into(),
        subnets: subnets.iter().map(|s| (*s).to_owned()).collect(),
        private_ip: private.into(),
        backend: "vxlan".into(),
        ..EndpointSpec::default()
    }
}

fn one(spec: EndpointSpec) -> Vec<(&'static str, EndpointSpec)> {
    vec![("bad", spec)]
}

fn endpoint_case(
    what: &'static str,
    spec: EndpointSpec,
    told: &'static [&'static str],
    routed: &'static [&'static str],
) -> Case {
    let (name, parts) = told.split_first().unwrap();
    Case {
        what,
        endpoints: one(spec),
        nodes: Vec::new(),
        on: GATEWAY,
        told: Some((name, parts)),
        routed,
    }
}

fn subnet_case(net: &'static str, why: &'static [&'static str]) -> Case {
    let subnets = ["10.9.0.0/16", net];
    endpoint_case(
        net,
        spec("aaa", "172.30.9.11", &subnets),
        why,
        &["10.9.0.0/16"],
    )
}

/// A second subnet that is bad keeps its cluster's first.
fn subnets() -> Vec<Case> {
    let overlap = |net, why| subnet_case(net, why);
    vec![
        overlap(
            "0.0.0.0/0",
            &["OverlappingSubnets", "0.0.0.0/0", "it is everything"],
        ),
        overlap("::/0", &["OverlappingSubnets", "::/0", "it is everything"]),
        overlap("0.0.0.0/8", &["OverlappingSubnets", "0.0.0.0/8", "no host"]),
        overlap(
            "0.1.2.0/24",
            &["OverlappingSubnets", "0.1.2.0/24", "no host"],
        ),
        overlap("127.0.0.0/8", &["OverlappingSubnets", "loopback"]),
        overlap("::1/128", &["OverlappingSubnets", "loopback"]),
        overlap("169.254.0.0/24", &["OverlappingSubnets", "link-local"]),
        overlap("fe80::/64", &["OverlappingSubnets", "link-local"]),
        overlap("224.1.0.0/16", &["OverlappingSubnets", "multicast"]),
        overlap("ff02::/16", &["OverlappingSubnets", "multicast"]),
        overlap("255.255.255.255/32", &["OverlappingSubnets", "broadcast"]),
        overlap("240.0.0.0/4", &["OverlappingSubnets", "VXLAN"]),
        overlap("241.7.0.0/16", &["OverlappingSubnets", "VXLAN"]),
        overlap("fd00:100:200::/112", &["OverlappingSubnets", "VXLAN"]),
        overlap(
            "::ffff:10.2.0.0/112",
            &["OverlappingSubnets", "written as IPv6"],
        ),
        overlap(
            "10.1.0.0/16",
            &["OverlappingSubnets", "10.1.0.0/16 of this cluster"],
        ),
        overlap(
            "10.1.2.3/32",
            &["OverlappingSubnets", "10.1.0.0/16 of this cluster"],
        ),
        overlap(
            "10.100.0.0/15",
            &["OverlappingSubnets", "10.101.0.0/16 of this cluster"],
        ),
        overlap(
            "172.30.1.8/29",
            &["OverlappingSubnets", "172.30.1.11 of node gateway"],
        ),
        overlap(
            "172.30.1.12/32",
            &["OverlappingSubnets", "172.30.1.12 of node worker"],
        ),
        overlap("172.16.0.0/12", &["OverlappingSubnets", "172.30.1."]),
        overlap(
            "172.30.1.1/32",
            &["OverlappingSubnets", "the router of this host"],
        ),
        overlap(
            "10.2.0.0/33",
            &["InvalidObject", "bad", "spec.subnets[1]", "no prefix"],
        ),
        overlap(
            "10.2/16",
            &["InvalidObject", "spec.subnets[1]", "no prefix"],
        ),
        overlap("", &["InvalidObject", "spec.subnets[1]: ''"]),
        // Host bits are cleared, as Submariner does.
        Case {
            routed: &["10.9.0.0/16", "10.8.0.0/16"],
            ..overlap(
                "10.8.7.6/16",
                &[
                    "InvalidObject",
                    "bad",
                    "'10.8.7.6/16' has host bits",
                    "10.8.0.0/16 is used",
                ],
            )
        },
        // The later cluster loses what an earlier one has.
        endpoint_case(
            "another cluster's",
            spec("zzz", "172.30.9.11", &["10.2.7.0/24", "10.9.0.0/16"]),
            &[
                "OverlappingSubnets",
                "10.2.7.0/24",
                "10.2.0.0/16 of cluster west",
            ],
            &["10.9.0.0/16"],
        ),
    ]
}

fn texts() -> Vec<Case> {
    let nets = &["10.9.0.0/16"];
    let base = || spec("aaa", "172.30.9.11", nets);
    let bad = |what, spec, told| endpoint_case(what, spec, told, &[]);
    let good = |what, spec| Case {
        told: None,
        ..endpoint_case(what, spec, &["-"], nets)
    };
    let id = |id: &str| EndpointSpec {
        cluster_id: id.into(),
        ..base()
    };
    let cable = |name: String| EndpointSpec {
        cable_name: name,
        ..base()
    };
    let host = |name: String| EndpointSpec {
        hostname: name,
        ..base()
    };
    let private = |ip: &str| EndpointSpec {
        private_ip: ip.into(),
        ..base()
    };
    vec![
        good("an ID as long as may be", id(&"a".repeat(63))),
        bad(
            "a longer one",
            id(&"a".repeat(64)),
            &["InvalidObject", "spec.cluster_id"],
        ),
        bad("no ID", id(""), &["InvalidObject", "spec.cluster_id"]),
        bad(
            "capitals",
            id("West"),
            &["InvalidObject", "'West' is no cluster ID"],
        ),
        bad(
            "a path",
            id("../west"),
            &["InvalidObject", "spec.cluster_id"],
        ),
        bad(
            "a line break",
            id("west\n"),
            &["InvalidObject", "spec.cluster_id"],
        ),
        good("a cable name as long as may be", cable("c".repeat(200))),
        bad(
            "a longer one",
            cable("c".repeat(201)),
            &["InvalidObject", "spec.cable_name"],
        ),
        bad(
            "no cable name",
            cable(String::new()),
            &["InvalidObject", "spec.cable_name"],
        ),
        good("a host name as long as may be", host("h".repeat(253))),
        bad(
            "a longer one",
            host("h".repeat(254)),
            &["InvalidObject", "spec.hostname"],
        ),
        bad(
            "a host name of a shell",
            host("$(x)".into()),
            &["InvalidObject", "spec.hostname"],
        ),
        bad(
            "no address",
            private("x"),
            &["InvalidObject", "spec.private_ip: 'x'"],
        ),
        bad(
            "loopback",
            private("127.0.0.1"),
            &["InvalidObject", "spec.private_ip"],
        ),
        bad(
            "no host's",
            private("0.0.0.1"),
            &["InvalidObject", "spec.private_ip"],
        ),
        bad(
            "all hosts'",
            private("255.255.255.255"),
            &["InvalidObject", "spec.private_ip"],
        ),
        bad(
            "in disguise",
            private("::ffff:10.0.0.1"),
            &["InvalidObject", "spec.private_ip"],
        ),
        bad(
            "of a link",
            private("fe80::1"),
            &["InvalidObject", "spec.private_ip"],
        ),
    ]
}

fn addresses() -> Vec<Case> {
    let nets = &["10.9.0.0/16"];
    let of = |cluster, ip| spec(cluster, ip, nets);
    let ours: &[&str] = &["CableAddressConflict", "bad", "172.30.1.12", "node worker"];
    let mut cases = vec![
        endpoint_case("a worker's address", of("aaa", "172.30.1.12"), ours, nets),
        endpoint_case(
            "our gateway's address",
            of("aaa", "172.30.1.11"),
            &[
                "CableAddressConflict",
                "172.30.1.11",
                "241.30.1.11",
                "this cluster",
            ],
            nets,
        ),
        endpoint_case(
            "the address of a cluster before it, in the cable",
            of("zzz", "10.30.2.11"),
            &[
                "CableAddressConflict",
                "10.30.2.11",
                "241.30.2.11",
                "cluster west",
            ],
            nets,
        ),
        // As in a VPC, where nodes and pods share a network.
        Case {
            told: None,
            ..endpoint_case("its own subnet's", of("aaa", "10.9.0.11"), &["-"], nets)
        },
    ];
    let newer = |name, net: &'static [&'static str]| (name, spec("aaa", "172.30.9.11", net));
    cases.push(Case {
        what: "two Endpoints of one cluster",
        endpoints: vec![newer("a1", &["10.7.0.0/16"]), newer("a2", nets)],
        nodes: Vec::new(),
        on: GATEWAY,
        told: Some((
            "SeveralEndpoints",
            &["cluster aaa", "a1, a2", "newest counts, a2"],
        )),
        routed: nets,
    });
    cases
}

fn nodes_cases() -> Vec<Case> {
    let address = |ip: &str| {
        let one = serde_json::json!({"type": "InternalIP", "address": ip});
        serde_json::json!({"addresses": [one]})
    };
    let none = serde_json::json!({"addresses": [{"type": "Hostname", "address": "x"}]});
    let case = |what, status, on, told| Case {
        what,
        endpoints: Vec::new(),
        nodes: vec![("third", status)],
        on,
        told: Some(told),
        routed: &[],
    };
    vec![
        case(
            "no addresses",
            none,
            GATEWAY,
            ("PeerAddressNotFound", &["Node third", "IPv4"]),
        ),
        case(
            "no address at all",
            address("nowhere"),
            GATEWAY,
            (
                "InvalidObject",
                &["Nodes third", "status.addresses[0].address", "'nowhere'"],
            ),
        ),
        case(
            "one that differs in its first octet only",
            address("10.30.1.12"),
            GATEWAY,
            (
                "VtepCollision",
                &["240.30.1.12", "10.30.1.12 and 172.30.1.12"],
            ),
        ),
        case(
            "the same, seen by the other",
            address("10.30.1.11"),
            WORKER,
            (
                "VtepCollision",
                &["240.30.1.11", "10.30.1.11 and 172.30.1.11"],
            ),
        ),
    ]
}

/// The state with a case's objects, once the good ones were there.
fn with(case: &Case) -> State {
    let (ip, cni) = match case.on {
        GATEWAY => ("172.30.1.11", "10.1.1.1"),
        _ => ("172.30.1.12", "10.1.2.1"),
    };
    let mut host = host_with_cni(ip, cni);
    let cable = LinkKind::Other("vxlan".into());
    host.links.insert(CABLE_VXLAN.into(), link(cable));
    let mut s = state(case.on, host);
    for (created, (name, spec)) in case.endpoints.iter().enumerate() {
        let mut object = Object::new(Kind::Endpoint, "ns", name).with("spec", spec);
        object.created = i64::try_from(created).unwrap();
        let event = Event::Applied((*name).to_owned(), Endpoint::parse(&object));
        s.apply(Input::Endpoints(event), at(1));
    }
    for (name, status) in &case.nodes {
        let object = Object::new(Kind::Node, "", name).with("status", status);
        let event = Event::Applied((*name).to_owned(), Node::parse(&object));
        s.apply(Input::Nodes(event), at(1));
    }
    s
}

#[test]
fn each_bad_input_is_told_by_name_and_nothing_else_suffers() {
    let all = [subnets(), texts(), addresses(), nodes_cases()];
    for case in all.into_iter().flatten() {
        let what = case.what;
        let good = with(&Case {
            endpoints: Vec::new(),
            nodes: Vec::new(),
            ..case
        })
        .plan();
        let plan = with(&case).plan();
        let names: Vec<&str> = plan.conditions.iter().map(|c| c.name).collect();
        match case.told {
            None => assert_eq!(names, [""; 0], "{what}"),
            Some((name, parts)) => {
                assert_eq!(names, [name], "{what}: {:?}", plan.conditions);
                let said = &plan.conditions[0];
                assert_eq!(said.severity, crate::Severity::Degraded, "{what}");
                for part in parts {
                    assert!(said.message.contains(part), "{what}: {}", said.message);
                }
            }
        }
        let missing: Vec<&Route> = routes(&good).difference(routes(&plan)).collect();
        assert!(missing.is_empty(), "{what}: {missing:?}");
        let good_nets: BTreeSet<IpNet> = routes(&good).iter().map(|r| r.dst).collect();
        let new: BTreeSet<IpNet> = routes(&plan)
            .iter()
            .filter(|r| r.kind == strait_host::RouteKind::Unreachable)
            .map(|r| r.dst)
            .filter(|dst| !good_nets.contains(dst))
            .collect();
        let wanted: BTreeSet<IpNet> = case.routed.iter().map(|text| net(text)).collect();
        assert_eq!(new, wanted, "{what}");
        assert_eq!(host_source(&plan), host_source(&good), "{what}");
        let (fdb, before) = (plan.wanted.fdb.get(), good.wanted.fdb.get());
        assert!(before.unwrap().is_subset(fdb.unwrap()), "{what}");
        // What the kernel would take turns with.
        let neighbours = plan.wanted.neighbours.get().unwrap();
        let ips: BTreeSet<_> = neighbours.iter().map(|n| (&n.link, n.ip)).collect();
        assert_eq!(ips.len(), neighbours.len(), "{what}: {neighbours:?}");
    }
}

#[test]
fn gateways_that_share_an_address_of_a_family_that_we_do_not_have_are_no_conflict() {
    let shared = |cluster: &str, own: &str, nets: &[&str]| EndpointSpec {
        private_ips: vec![own.into(), "fd00:9::b".into()],
        ..spec(cluster, own, nets)
    };
    let case = |second: EndpointSpec| Case {
        what: "",
        endpoints: vec![
            ("aaa", shared("aaa", "172.30.8.11", &["10.8.0.0/16"])),
            ("bbb", second),
        ],
        nodes: Vec::new(),
        on: GATEWAY,
        told: None,
        routed: &[],
    };
    let told = |second| condition(&with(&case(second)).plan(), "CableAddressConflict").is_some();
    assert!(!told(shared("bbb", "172.30.9.11", &["10.9.0.0/16"])));
    assert!(told(shared("bbb", "10.30.8.11", &["10.9.0.0/16"])));
}
