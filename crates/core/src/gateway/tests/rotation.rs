//! A change of a WireGuard key: our own, step by step, and those of others.

use strait_api::names::{ANNOTATION_FORMER_KEY, ANNOTATION_NEXT_KEY, BACKEND_PUBLIC_KEY};
use strait_host::{Key, Peer};

use super::super::rotation::{RETIRING, SETTLING, TELLING};
use super::wireguard::{gateway, peer, status, told};
use super::*;

const FIRST: Key = Key([1; 32]);
const SECOND: Key = Key([4; 32]);
const WEST: Key = Key([2; 32]);
const WEST_2: Key = Key([5; 32]);

fn device(public_key: Key, next: Option<Key>, former: Option<Key>, kernel: bool) -> Input {
    Input::Device(Ok(Device {
        public_key,
        next,
        former,
        kernel,
    }))
}

/// Writes on the broker what the gateway wants there.
fn write(s: &mut State, now: Time) {
    for change in s.plan().broker {
        let ObjectChange::Put(object) = change else {
            continue;
        };
        let name = object.key.name.clone();
        let input = if object.key.kind == Kind::Endpoint {
            let parsed = Endpoint::parse(&object);
            Input::BrokerEndpoints(Event::Applied(name, Ok(Entry { object, parsed })))
        } else {
            let parsed = Cluster::parse(&object);
            Input::BrokerClusters(Event::Applied(name, Ok(Entry { object, parsed })))
        };
        s.apply(input, now);
    }
}

/// Public, next and former key, as the broker has them.
fn published(s: &State) -> [Option<String>; 3] {
    let own = s.broker_endpoints.values().find(|entry| {
        let parsed = entry.parsed.as_ref();
        parsed.is_ok_and(|endpoint| endpoint.cluster == s.settings.cluster)
    });
    let own = own.unwrap();
    let spec = &own.parsed.as_ref().unwrap().spec;
    let annotation = |name| own.object.annotations.get(name).cloned();
    [
        spec.backend_config.get(BACKEND_PUBLIC_KEY).cloned(),
        annotation(ANNOTATION_NEXT_KEY),
        annotation(ANNOTATION_FORMER_KEY),
    ]
}

fn texts(keys: [Option<Key>; 3]) -> [Option<String>; 3] {
    keys.map(|key| key.map(|key| key.to_string()))
}

fn after(wait: Duration, seconds: u64) -> Time {
    at(seconds) + wait
}

#[test]
fn peers_are_told_first_then_the_key_counts_then_the_former_one_is_forgotten() {
    let mut s = gateway();
    write(&mut s, at(1));
    assert_eq!(published(&s), texts([Some(FIRST), None, None]));
    s.apply(device(FIRST, Some(SECOND), None, true), at(2));
    // It does not stand on the broker yet, however long that takes.
    s.apply(Input::Tick, at(1000));
    assert_eq!(s.plan().key_step, None);
    write(&mut s, at(1001));
    assert_eq!(published(&s), texts([Some(FIRST), Some(SECOND), None]));
    assert_eq!(s.plan().key_step, None);
    assert_eq!(s.deadline(), Some(after(TELLING, 1001)));
    s.apply(Input::Tick, after(TELLING, 1000));
    assert_eq!(s.plan().key_step, None);
    s.apply(Input::Tick, after(TELLING, 1001));
    assert_eq!(s.plan().key_step, Some(KeyStep::Switch(SECOND)));
    assert_eq!(s.deadline(), None, "nobody needs to be called again");

    s.apply(device(SECOND, None, Some(FIRST), true), at(1020));
    assert_eq!(s.plan().key_step, None);
    write(&mut s, at(1020));
    assert_eq!(published(&s), texts([Some(SECOND), None, Some(FIRST)]));
    assert_eq!(s.deadline(), Some(after(RETIRING, 1020)));
    s.apply(Input::Tick, after(RETIRING, 1019));
    assert_eq!(s.plan().key_step, None);
    s.apply(Input::Tick, after(RETIRING, 1020));
    assert_eq!(s.plan().key_step, Some(KeyStep::Forget(FIRST)));

    s.apply(device(SECOND, None, None, true), at(1300));
    assert_eq!(s.plan().key_step, None);
    write(&mut s, at(1300));
    assert_eq!(published(&s), texts([Some(SECOND), None, None]));
}

#[test]
fn a_gateway_that_begins_anew_in_the_middle_waits_again_and_goes_on() {
    for (keys, wait, step) in [
        (
            device(FIRST, Some(SECOND), None, true),
            TELLING,
            KeyStep::Switch(SECOND),
        ),
        (
            device(SECOND, None, Some(FIRST), true),
            RETIRING,
            KeyStep::Forget(FIRST),
        ),
    ] {
        let mut before = gateway();
        before.apply(keys.clone(), at(1));
        write(&mut before, at(1));
        // What the broker has is all that it finds, besides its keys.
        let mut s = gateway();
        s.apply(keys, at(50));
        let there = before.broker_endpoints.iter();
        let there = there.map(|(name, entry)| (name.to_owned(), Ok(entry.clone())));
        s.apply(
            Input::BrokerEndpoints(Event::Reset(there.collect())),
            at(50),
        );
        assert_eq!(published(&s), published(&before));
        assert_eq!(s.plan().key_step, None);
        s.apply(Input::Tick, after(wait, 49));
        assert_eq!(s.plan().key_step, None);
        s.apply(Input::Tick, after(wait, 50));
        assert_eq!(s.plan().key_step, Some(step));
    }
}

#[test]
fn while_the_broker_is_away_the_key_stays() {
    let mut s = gateway();
    s.apply(device(FIRST, Some(SECOND), None, true), at(1));
    write(&mut s, at(1));
    s.apply(Input::BrokerEndpoints(Event::Failed("away".into())), at(2));
    s.apply(Input::Tick, after(TELLING, 100));
    assert_eq!(s.plan().key_step, None);
    s.apply(Input::BrokerEndpoints(Event::Resumed), at(200));
    s.apply(Input::Tick, after(TELLING, 199));
    assert_eq!(s.plan().key_step, None, "peers may have been away, too");
    s.apply(Input::Tick, after(TELLING, 200));
    assert_eq!(s.plan().key_step, Some(KeyStep::Switch(SECOND)));
}

#[test]
fn a_standby_changes_its_key_at_once_and_who_does_not_know_what_it_is_waits() {
    let mut s = gateway();
    s.apply(device(FIRST, Some(SECOND), None, true), at(1));
    s.apply(Input::Standing(Standing::Unknown("why".into())), at(2));
    assert_eq!(s.plan().key_step, None);
    s.apply(Input::Standing(Standing::Standby), at(2));
    assert_eq!(s.plan().key_step, Some(KeyStep::Switch(SECOND)));
}

/// Another cluster that tells of these.
fn west(key: Key, next: Option<&str>, former: Option<&str>) -> Entry<Endpoint> {
    let mut entry = peer("west", Some(&key.to_string()), "10.2.0.0/16");
    let annotations = &mut entry.object.annotations;
    for (name, text) in [(ANNOTATION_NEXT_KEY, next), (ANNOTATION_FORMER_KEY, former)] {
        annotations.extend(text.map(|text| (name.to_owned(), text.to_owned())));
    }
    entry.parsed = Endpoint::parse(&entry.object);
    entry
}

fn peers_of(kernel: bool, entries: &[Entry<Endpoint>]) -> (State, BTreeMap<Key, Peer>) {
    let mut s = gateway();
    s.apply(device(FIRST, None, None, kernel), at(0));
    for entry in entries {
        arrive(&mut s, entry);
    }
    settle_local(&mut s);
    let peers = s.plan().tunnels.unwrap().peers;
    (s, peers)
}

/// What a peer that changes its key tells, in order; and by which keys it sends at that time.
fn stages() -> [(Entry<Endpoint>, Vec<Key>); 4] {
    let (first, second) = (WEST.to_string(), WEST_2.to_string());
    [
        (west(WEST, None, None), vec![WEST]),
        (west(WEST, Some(&second), None), vec![WEST]),
        (west(WEST_2, None, Some(&first)), vec![WEST, WEST_2]),
        (west(WEST_2, None, None), vec![WEST_2]),
    ]
}

#[test]
fn whatever_a_peer_has_reached_what_is_known_of_it_before_or_after_takes_what_it_sends() {
    let stages = stages();
    let (_, one) = peers_of(false, &[stages[0].0.clone()]);
    let as_before = one[&WEST].clone();
    for (number, (_, sends_by)) in stages.iter().enumerate() {
        // The Endpoint of the stage before, that of this one, and each after the other, whichever came first.
        for seen in [number.saturating_sub(1), number] {
            for order in [vec![seen], vec![number, seen], vec![seen, number]] {
                let seen = *order.last().unwrap();
                let entries: Vec<_> = order.iter().map(|n| stages[*n].0.clone()).collect();
                let (_, peers) = peers_of(false, &entries);
                // The last key is gone from its device before it is withdrawn, and in use before it is counted on.
                let needed = sends_by.iter().filter(|key| seen < 3 || **key == WEST_2);
                for key in needed {
                    assert_eq!(peers.get(key), Some(&as_before), "{number} {order:?}");
                }
            }
        }
    }
}

#[test]
fn in_the_kernel_the_next_key_has_a_session_and_gets_the_prefixes_when_it_counts() {
    let stages = stages();
    let allowed = |stage: usize| {
        let (_, peers) = peers_of(true, &[stages[stage].0.clone()]);
        let of = |(key, peer): (Key, Peer)| (key, peer.allowed.len());
        peers.into_iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(allowed(0), [(WEST, 1)]);
    assert_eq!(allowed(1), [(WEST, 1), (WEST_2, 0)]);
    assert_eq!(allowed(2), [(WEST_2, 1)]);
    assert_eq!(allowed(3), [(WEST_2, 1)]);
    // Or before, if it is heard.
    let (_, peers) = peers_of(true, &[stages[1].0.clone()]);
    assert_eq!(peers[&WEST_2].succeeds, [WEST].into());
    for (kernel, stage) in [(true, 0), (true, 2), (true, 3), (false, 1), (false, 2)] {
        let (_, peers) = peers_of(kernel, &[stages[stage].0.clone()]);
        assert!(peers.values().all(|peer| peer.succeeds.is_empty()));
    }
}

#[test]
fn a_connection_is_there_while_either_key_has_a_session() {
    for (stage, key) in [(1, WEST), (1, WEST_2), (2, WEST), (2, WEST_2)] {
        let (mut s, _) = peers_of(false, &[stages()[stage].0.clone()]);
        let connecting = status(&s).connections.remove(0).status;
        assert_eq!(connecting, ConnectionStatus::Connecting);
        told(&mut s, key, Tunnel::Connected(None));
        let connected = status(&s).connections.remove(0).status;
        assert_eq!(connected, ConnectionStatus::Connected, "{stage} {key}");
    }
}

#[test]
fn keys_that_are_none_or_somebody_elses_are_named_and_nobody_loses_anything() {
    let north = peer("north", Some(&Key([7; 32]).to_string()), "10.3.0.0/16");
    let theirs = Key([7; 32]).to_string();
    let long = format!("{}{}", WEST_2, "A".repeat(10_000));
    for bad in ["", "no key", &long, &FIRST.to_string(), &theirs] {
        for kernel in [false, true] {
            for entry in [west(WEST, Some(bad), None), west(WEST, None, Some(bad))] {
                let (s, peers) = peers_of(kernel, &[north.clone(), entry]);
                let plan = s.plan();
                let mut named = plan.conditions.iter().filter(|c| c.name == "InvalidKey");
                let message = &named.next().unwrap().message;
                assert!(
                    message.contains("west-cable") && message.len() < 400,
                    "{message}"
                );
                let keys: Vec<Key> = peers.keys().copied().collect();
                assert_eq!(keys, [WEST, Key([7; 32])], "{bad}");
                assert_eq!(peers[&Key([7; 32])].allowed.len(), 1);
                assert!(
                    peers[&Key([7; 32])]
                        .allowed
                        .contains(&"10.3.0.0/16".parse().unwrap())
                );
            }
        }
    }
    // What is to come and what was are one key, or the present one: an older copy.
    let second = WEST_2.to_string();
    let (s, peers) = peers_of(false, &[west(WEST, Some(&WEST.to_string()), Some(&second))]);
    assert_eq!(peers.len(), 2);
    assert!(s.plan().conditions.iter().all(|c| c.name != "InvalidKey"));
}

#[test]
fn who_claims_what_another_cluster_is_going_to_have_takes_nothing_from_it_and_is_named() {
    let standby_of = |mut entry: Entry<Endpoint>, key: Key| {
        let spec = strait_api::EndpointSpec {
            cluster_id: entry.object.labels[strait_api::names::LABEL_CLUSTER_ID].clone(),
            cable_name: format!("{}-2", entry.object.key.name),
            hostname: "other".into(),
            private_ip: "172.30.9.12".into(),
            backend: "wireguard".into(),
            backend_config: BTreeMap::from([(BACKEND_PUBLIC_KEY.into(), key.to_string())]),
            ..strait_api::EndpointSpec::default()
        };
        let text = serde_json::to_string(&[strait_api::Standby::of(&spec)]).unwrap();
        let annotations = &mut entry.object.annotations;
        annotations.insert(strait_api::names::ANNOTATION_STANDBYS.into(), text);
        entry.parsed = Endpoint::parse(&entry.object);
        entry
    };
    let thief = |annotation: Option<&str>| {
        let mut entry = peer("a-thief", Some(&Key([7; 32]).to_string()), "10.3.0.0/16");
        let text = annotation.map(|name| (name.to_owned(), WEST_2.to_string()));
        entry.object.annotations.extend(text);
        entry.parsed = Endpoint::parse(&entry.object);
        entry
    };
    let thieves = [
        standby_of(thief(None), WEST_2),
        thief(Some(ANNOTATION_NEXT_KEY)),
        thief(Some(ANNOTATION_FORMER_KEY)),
    ];
    let next = WEST_2.to_string();
    // What west is going to have: by a change of its key, and when its standby takes over.
    let victims = [
        west(WEST, Some(&next), None),
        west(WEST, None, Some(&next)),
        standby_of(west(WEST, None, None), WEST_2),
    ];
    for victim in &victims {
        for kernel in [false, true] {
            let (_, alone) = peers_of(kernel, std::slice::from_ref(victim));
            for thief in &thieves {
                let (s, peers) = peers_of(kernel, &[victim.clone(), thief.clone()]);
                if let Some(mine) = alone.get(&WEST_2) {
                    let still = &peers[&WEST_2];
                    assert!(mine.allowed.is_subset(&still.allowed), "{still:?}");
                    assert!(mine.accepted.is_subset(&still.accepted), "{still:?}");
                }
                assert_eq!(peers[&WEST], alone[&WEST]);
                let plan = s.plan();
                let named = plan.conditions.iter().find(|c| c.name == "InvalidKey");
                let message = &named.unwrap().message;
                assert!(
                    message.contains("a-thief") && message.contains("west"),
                    "{message}"
                );
            }
            // When it counts nothing of the claim is left.
            let counts = west(WEST_2, None, None);
            let (_, as_it_is) = peers_of(kernel, std::slice::from_ref(&counts));
            for thief in &thieves {
                let (s, peers) = peers_of(kernel, &[counts.clone(), thief.clone()]);
                assert_eq!(peers[&WEST_2], as_it_is[&WEST_2]);
                let plan = s.plan();
                assert!(plan.conditions.iter().any(|c| c.name == "InvalidKey"));
            }
        }
    }
}

#[test]
fn where_the_clock_lies_behind_the_last_handshakes_it_is_named_and_another_key_is_asked_for() {
    let mut s = gateway();
    let behind = |minutes| {
        let tunnels = Tunnels {
            behind: minutes,
            ..Tunnels::default()
        };
        Input::Tunnels(tunnels)
    };
    let named = |s: &State| {
        let plan = s.plan();
        let mut all = plan.conditions.into_iter();
        let one = all.find(|c| c.name == "ClockBehind");
        one.map(|condition| condition.message)
    };
    s.apply(behind(1), at(1));
    s.apply(Input::Tick, at(1000));
    assert_eq!((s.plan().key_step, named(&s)), (None, None), "that passes");

    s.apply(behind(60), at(1000));
    assert!(named(&s).is_some_and(|message| message.contains("60 min")));
    assert_eq!(s.plan().key_step, None);
    assert_eq!(s.deadline(), Some(after(SETTLING, 1000)));
    // It was set right by then.
    s.apply(behind(0), at(1010));
    s.apply(Input::Tick, at(1100));
    assert_eq!((s.plan().key_step, named(&s)), (None, None));

    s.apply(behind(60), at(2000));
    s.apply(behind(59), after(SETTLING, 1999));
    assert_eq!(s.plan().key_step, None);
    s.apply(Input::Tick, after(SETTLING, 2000));
    assert_eq!(s.plan().key_step, Some(KeyStep::Ask));
    // Once: then it takes its way.
    s.apply(device(FIRST, Some(SECOND), None, true), at(2020));
    assert_eq!(s.plan().key_step, None);
    write(&mut s, at(2020));
    s.apply(Input::Tick, after(TELLING, 2020));
    assert_eq!(s.plan().key_step, Some(KeyStep::Switch(SECOND)));
    s.apply(device(SECOND, None, Some(FIRST), true), at(2040));
    s.apply(Input::Tick, at(2041));
    assert_eq!(s.plan().key_step, None);
}
