use super::*;
use crate::Kind;
use serde_json::json;

fn object(spec: serde_json::Value) -> Object {
    let mut object = Object::new(Kind::Endpoint, "ns", "east-cable");
    object.content.insert("spec".into(), spec);
    object
}

fn good() -> serde_json::Value {
    json!({"cluster_id": "east", "cable_name": "submariner-cable-east-10-0-0-5", "hostname": "gw",
           "subnets": ["10.1.2.3/16", "fd00::/64"], "private_ip": "10.0.0.5", "public_ip": "",
           "nat_enabled": false, "backend": "VXLAN", "backend_config": {"udp-port": "4501"}})
}

#[test]
fn an_endpoint_of_any_release_is_parsed() {
    let old = Endpoint::parse(&object(good())).unwrap();
    assert_eq!(old.subnets[0], "10.1.0.0/16".parse().unwrap());
    assert_eq!((old.udp_port, old.backend.as_str()), (4501, "vxlan"));
    assert_eq!(old.private_ip(false), Some("10.0.0.5".parse().unwrap()));
    let mut new = good();
    new["private_ips"] = json!(["fd00::5", "10.0.0.6"]);
    let new = Endpoint::parse(&object(new)).unwrap();
    assert_eq!(
        new.private_ip(false),
        Some("10.0.0.6".parse().unwrap()),
        "plural goes before singular"
    );
    assert_eq!(new.private_ip(true), Some("fd00::5".parse().unwrap()));
}

#[test]
fn subnets_are_taken_one_by_one_and_what_is_odd_about_them_is_told() {
    let parse = |subnets: serde_json::Value| {
        let mut spec = good();
        spec["subnets"] = subnets;
        let endpoint = Endpoint::parse(&object(spec)).unwrap();
        let nets: Vec<String> = endpoint.subnets.iter().map(ToString::to_string).collect();
        (nets, endpoint.odd_subnets.map_or(Vec::new(), |odd| odd.0))
    };
    let (nets, odd) = parse(json!([
        "10.1.0.0/33",
        "10.2.0.0/16",
        "10.3.4.5/16",
        "",
        "fd00::/48"
    ]));
    assert_eq!(nets, ["10.2.0.0/16", "10.3.0.0/16", "fd00::/48"]);
    let words = [
        "spec.subnets[0]: '10.1.0.0/33' is no prefix",
        "spec.subnets[2]: '10.3.4.5/16' has host bits: 10.3.0.0/16 is used",
        "spec.subnets[3]: '' is no prefix",
    ];
    assert_eq!(odd.len(), words.len(), "{odd:?}");
    for (odd, words) in odd.iter().zip(words) {
        assert!(odd.contains(words), "{odd}");
    }
    let (nets, odd) = parse(json!(vec!["x"; 1000]));
    assert_eq!((nets.len(), odd.len()), (0, NAMED + 1));
    assert_eq!(odd[NAMED], "and 995 more");
}

#[test]
fn a_bad_endpoint_is_refused_with_the_field_and_what_was_expected() {
    for (field, value, said) in [
        (
            "cluster_id",
            json!("East!"),
            "spec.cluster_id: 'East!' is no cluster ID",
        ),
        ("subnets", json!(null), "spec"),
        (
            "private_ip",
            json!("127.0.0.1"),
            "spec.private_ip: 127.0.0.1",
        ),
        ("hostname", json!(""), "spec.hostname"),
        (
            "backend_config",
            json!({"udp-port": "0"}),
            "'0' is no UDP port",
        ),
        (
            "backend_config",
            json!({"interface-name": "../x"}),
            "no name of a network interface",
        ),
        ("cable_name", json!("a b"), "spec.cable_name"),
    ] {
        let mut spec = good();
        spec[field] = value;
        let error = Endpoint::parse(&object(spec)).unwrap_err();
        assert!(error.contains(said), "{field}: {error}");
    }
}

#[test]
fn a_published_ethernet_address_must_be_unicast() {
    let mut o = object(good());
    o.annotations
        .insert(ANNOTATION_VTEP_MAC.into(), "02:64:0a:00:00:05".into());
    assert_eq!(
        Endpoint::parse(&o).unwrap().vtep_mac,
        Some([2, 0x64, 10, 0, 0, 5])
    );
    for bad in [
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "02:64",
        "+2:64:0a:00:00:05",
    ] {
        o.annotations.insert(ANNOTATION_VTEP_MAC.into(), bad.into());
        assert!(Endpoint::parse(&o).is_err(), "{bad}");
    }
}
