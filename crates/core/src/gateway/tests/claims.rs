//! Which cluster gets what several claim, and what a cluster may claim at all.

use ipnet::IpNet;
use strait_api::names::ANNOTATION_SINCE;

use super::*;
use crate::remote::Ours;

/// An Endpoint on the broker that was made then.
fn made(cluster: &str, subnets: &[&str], created: i64) -> Entry<Endpoint> {
    let mut entry = remote(cluster, cluster, "vxlan", "10.9.0.0/16");
    let mut spec: EndpointSpec = entry.object.section("spec").unwrap();
    spec.subnets = subnets.iter().map(|net| (*net).to_owned()).collect();
    // Each its own, so that they do not quarrel about that.
    let address = format!("172.30.{}.11", cluster.len() + 1);
    spec.private_ip.clone_from(&address);
    entry.object = entry.object.with("spec", &spec);
    entry.object.annotations.clear();
    entry.object.created = created;
    read(entry.object)
}

fn read(object: Object) -> Entry<Endpoint> {
    Entry::read(object, Endpoint::parse)
}

/// Its Cluster on the broker.
fn lists(s: &mut State, id: &str, created: i64, pods: &[&str], global: &[&str]) {
    let texts = |nets: &[&str]| nets.iter().map(|net| (*net).to_owned()).collect();
    let spec = strait_api::ClusterSpec {
        cluster_id: id.into(),
        color_codes: Vec::new(),
        service_cidr: Vec::new(),
        cluster_cidr: texts(pods),
        global_cidr: texts(global),
    };
    let mut object = Object::new(Kind::Cluster, "broker", id).with("spec", &spec);
    object.labels.insert(LABEL_CLUSTER_ID.into(), id.into());
    object.created = created;
    let entry = Entry::read(object, Cluster::parse);
    s.apply(
        Input::BrokerClusters(Event::Applied(id.into(), Ok(entry))),
        at(1),
    );
}

/// Which subnets of which clusters are reached, and what is said under a name.
fn reached(s: &mut State, name: &str) -> (BTreeMap<String, Vec<IpNet>>, String) {
    settle_local(s);
    let plan = s.plan();
    assert_eq!(plan.local, vec![], "settled");
    let own = Ours::default();
    let endpoints = s.endpoints.values().filter_map(|e| e.parsed.as_ref().ok());
    let (all, _) = crate::remote::remotes(endpoints, &s.settings.cluster, &own);
    let all = all
        .into_iter()
        .map(|r| (r.endpoint.cluster.to_string(), r.subnets));
    let said = plan.conditions.into_iter().filter(|c| c.name == name);
    let said: Vec<String> = said.map(|c| c.message).collect();
    (all.collect(), said.join("; "))
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_newcomer_takes_no_traffic_from_who_was_there_first_whatever_it_calls_itself() {
    let mut s = state();
    lists(&mut s, "west", 100, &["10.2.0.0/16"], &[]);
    arrive(&mut s, &made("west", &["10.2.0.0/16"], 101));
    // It lists what it claims, and says that it has always been there.
    lists(&mut s, "aaaaa", 200, &["10.2.0.0/16", "10.3.0.0/16"], &[]);
    let mut newcomer = made("aaaaa", &["10.2.0.0/16", "10.3.0.0/16"], 90).object;
    newcomer.created = 201;
    newcomer
        .annotations
        .insert(ANNOTATION_SINCE.into(), "1".into());
    arrive(&mut s, &read(newcomer));
    let (all, said) = reached(&mut s, "OverlappingSubnets");
    assert_eq!(all["west"], nets(&["10.2.0.0/16"]));
    assert_eq!(all["aaaaa"], nets(&["10.3.0.0/16"]));
    let why = "10.2.0.0/16 of Endpoint aaaaa-cable: it overlaps 10.2.0.0/16 of cluster west, which was there first";
    assert!(said.contains(why), "{said}");
}

#[test]
fn a_cluster_is_as_old_as_before_when_another_of_its_gateways_takes_over() {
    let mut s = state();
    lists(&mut s, "west", 100, &["10.2.0.0/16"], &[]);
    lists(&mut s, "aaaaa", 200, &["10.2.0.0/16"], &[]);
    arrive(&mut s, &made("aaaaa", &["10.2.0.0/16"], 200));
    let mut other = made("west", &["10.2.0.0/16"], 500).object;
    other.key.name = "west-other-cable".into();
    let other = read(other);
    for endpoint in [made("west", &["10.2.0.0/16"], 100), other.clone()] {
        arrive(&mut s, &endpoint);
        assert_eq!(reached(&mut s, "").0["aaaaa"], vec![]);
    }
    let gone = Input::BrokerEndpoints(Event::Deleted("west-cable".into()));
    s.apply(gone, at(2));
    let (all, _) = reached(&mut s, "");
    assert_eq!(all["aaaaa"], vec![]);
    assert_eq!(all["west"], nets(&["10.2.0.0/16"]));
    // What stands in the cluster says the same to its nodes, and to a gateway that does not hear the broker.
    let copy = &s.endpoints.get("west-other-cable").unwrap().object;
    assert_eq!(copy.annotations[ANNOTATION_SINCE], "100");
}

#[test]
fn nothing_is_copied_before_it_is_known_how_old_clusters_are() {
    let mut s = state();
    s.broker_clusters = Source::default();
    arrive(&mut s, &made("west", &["10.2.0.0/16"], 500));
    settle_local(&mut s);
    assert!(s.endpoints.get("west-cable").is_none());
    s.apply(Input::BrokerClusters(empty()), at(1));
    lists(&mut s, "west", 100, &["10.2.0.0/16"], &[]);
    settle_local(&mut s);
    let copy = &s.endpoints.get("west-cable").unwrap().object;
    assert_eq!(copy.annotations[ANNOTATION_SINCE], "100");
}

#[test]
fn of_clusters_of_one_age_the_first_in_the_order_of_identifiers_has_it() {
    let mut s = state();
    for id in ["west", "aaaaa"] {
        arrive(&mut s, &made(id, &["10.2.0.0/16"], 100));
    }
    let (all, _) = reached(&mut s, "");
    assert_eq!((all["west"].len(), all["aaaaa"].len()), (0, 1));
}

#[test]
fn what_a_cluster_does_not_list_is_not_reached_by_way_of_it() {
    let mut s = state();
    // What its CNI takes for pods, in one piece what lies in two, and what stands for it where it overlaps with others.
    let good = ["10.2.0.0/16", "10.4.0.0/15", "172.20.1.0/24"];
    // Somebody else's, more than it has, and a family of which older releases say nothing.
    let claims = [&good[..], &["10.8.1.0/24", "10.2.0.0/15", "fd00:2::/48"]].concat();
    arrive(&mut s, &made("west", &claims, 100));
    let (all, said) = reached(&mut s, "SubnetOutsideCluster");
    assert_eq!(
        (all["west"].len(), said.as_str()),
        (6, ""),
        "its Cluster is late"
    );
    let pods = ["10.2.0.0/16", "10.4.0.0/16", "10.5.0.0/16"];
    lists(&mut s, "west", 100, &pods, &["172.20.1.0/24"]);
    let (all, said) = reached(&mut s, "SubnetOutsideCluster");
    let mut expected = nets(&good);
    expected.extend(nets(&["fd00:2::/48"]));
    assert_eq!(all["west"], expected);
    let why = "west-cable on the broker: 10.8.1.0/24, 10.2.0.0/15 is not routed, since its Cluster lists 10.2.0.0/16, 10.4.0.0/15, 172.20.1.0/24 only";
    assert_eq!(said, why);
    // While its Cluster follows its Endpoint, the rest goes on; and all is there in the end.
    let all_pods = ["10.2.0.0/15", "10.4.0.0/15", "10.8.0.0/16"];
    lists(&mut s, "west", 100, &all_pods, &["172.20.1.0/24"]);
    let (all, said) = reached(&mut s, "SubnetOutsideCluster");
    assert_eq!((all["west"].len(), said.as_str()), (6, ""));
}

fn connections(s: &State) -> Vec<(String, ConnectionStatus, String)> {
    let status: GatewayStatus = s.plan().gateway.unwrap().section("status").unwrap();
    let all = status.connections.into_iter();
    all.map(|c| (c.endpoint.cluster_id, c.status, c.status_message))
        .collect()
}

#[test]
fn what_is_not_used_of_a_peer_is_told_in_its_connection_whatever_becomes_of_the_rest() {
    let mut s = state();
    lists(&mut s, "west", 100, &["10.2.0.0/16"], &[]);
    arrive(&mut s, &made("west", &["10.2.0.0/16"], 100));
    lists(&mut s, "aaaaa", 200, &["10.2.0.0/16", "10.3.0.0/16"], &[]);
    let claims = ["10.2.7.0/24", "10.3.0.0/16", "10.9.0.0/16"];
    arrive(&mut s, &made("aaaaa", &claims, 200));
    settle_local(&mut s);
    let why = "10.2.7.0/24 is not routed: it overlaps 10.2.0.0/16 of cluster west, which was there first; \
        10.9.0.0/16 is not routed, since its Cluster lists 10.2.0.0/15 only";
    let connected =
        |id: &str, why: &str| (id.to_owned(), ConnectionStatus::Connected, why.to_owned());
    let expected = [connected("aaaaa", why), connected("west", "")];
    assert_eq!(connections(&s), expected);
    // Nobody fills the object by writing many.
    let many: Vec<String> = (0..100).map(|n| format!("10.2.{n}.0/24")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    arrive(
        &mut s,
        &made("aaaaa", &[&many[..], &["10.3.0.0/16"]].concat(), 200),
    );
    settle_local(&mut s);
    let (_, status, why) = connections(&s).remove(0);
    assert_eq!(status, ConnectionStatus::Connected);
    assert!(why.len() < 2000 && why.ends_with("; and 92 more"), "{why}");
}

#[test]
fn a_subnet_that_can_t_be_read_does_not_make_another_one_pass() {
    let mut s = state();
    lists(&mut s, "west", 100, &["10.2.0.0/16"], &[]);
    let claims = ["10.2.0.0/99", "10.2.7.6/24", "10.8.0.0/16", "10.2.0.0/16"];
    arrive(&mut s, &made("west", &claims, 100));
    let (all, said) = reached(&mut s, "SubnetOutsideCluster");
    assert_eq!(all["west"], nets(&["10.2.0.0/16", "10.2.7.0/24"]));
    assert!(said.contains("10.8.0.0/16"), "{said}");
    assert!(reached(&mut s, "InvalidObject").1.contains("10.2.0.0/99"));
}

#[test]
fn an_endpoint_that_is_refused_has_a_connection_that_says_why() {
    let mut s = state();
    arrive(&mut s, &made("west", &["10.2.0.0/16"], 100));
    arrive(&mut s, &remote("forged", "liar", "vxlan", "10.3.0.0/16"));
    let many = ["10.1.3.0/24"].repeat(999);
    arrive(&mut s, &made("clash", &many, 100));
    let mut broken = remote("broken", "broken", "vxlan", "10.5.0.0/16").object;
    broken.content["spec"]["subnets"] = "no list".into();
    broken.content["spec"]["hostname"] = "a\nb".repeat(500).into();
    arrive(&mut s, &read(broken));
    // Nothing that it should have.
    let mut empty = Object::new(Kind::Endpoint, "broker", "nothing");
    empty.labels.insert(LABEL_CLUSTER_ID.into(), "x".repeat(99));
    arrive(&mut s, &read(empty));
    let mut rival = made("east", &["10.1.0.0/16"], 100).object;
    let uid = (ANNOTATION_CLUSTER_UID.to_owned(), "uid-other".to_owned());
    rival.annotations.extend([uid]);
    arrive(&mut s, &read(rival));
    settle_local(&mut s);
    let plan = s.plan();
    let status: GatewayStatus = plan.gateway.unwrap().section("status").unwrap();
    let told: Vec<_> = status
        .connections
        .iter()
        .map(|c| {
            let text = c.status_message.as_str();
            (c.endpoint.cluster_id.clone(), c.status, text)
        })
        .collect();
    assert_eq!(
        told[0],
        ("west".to_owned(), ConnectionStatus::Connected, "")
    );
    let expected = [
        (
            "east".to_owned(),
            "DuplicateClusterId: another cluster has the id of this one",
        ),
        ("broken".to_owned(), "invalid type: string"),
        (
            "clash".to_owned(),
            "OverlappingSubnets: its subnet 10.1.3.0/24 overlaps 10.1.0.0/16 of this cluster",
        ),
        (
            "liar".to_owned(),
            "it carries the label of cluster 'liar', but says that it is of cluster 'forged'",
        ),
        ("x".repeat(63), "spec: missing"),
    ];
    assert_eq!(told.len(), 1 + expected.len(), "{told:?}");
    for ((id, status, text), (expected_id, part)) in told[1..].iter().zip(&expected) {
        assert_eq!((id, status), (expected_id, &ConnectionStatus::Error));
        assert!(text.contains(part), "{text}");
    }
    for connection in &status.connections {
        let spec = &connection.endpoint;
        assert!(spec.hostname.len() <= 253 && !spec.hostname.contains('\n'));
        assert!(!spec.cable_name.is_empty(), "the schema asks for one");
        assert!(spec.subnets.len() <= 8, "there may be thousands");
    }
    for n in 0..100 {
        let id = format!("more{n}");
        arrive(&mut s, &remote(&id, "liar", "vxlan", "10.3.0.0/16"));
    }
    assert_eq!(connections(&s).len(), 33);
}
