//! Time is fed in minutes.

use proptest::prelude::*;
use strait_api::names::LABEL_CLUSTER_ID;
use strait_api::{Kind, Object};

use super::*;
use crate::source::Event;

fn at(minutes: u64) -> Time {
    Time(Duration::from_secs(60 * minutes))
}

fn entry(cluster: &str, beat: Option<u64>) -> Entry<Endpoint> {
    let spec = EndpointSpec {
        cluster_id: cluster.into(),
        cable_name: format!("submariner-cable-{cluster}"),
        hostname: "gw".into(),
        subnets: vec!["10.2.0.0/16".into()],
        private_ip: "172.30.2.11".into(),
        backend: "vxlan".into(),
        ..EndpointSpec::default()
    };
    let mut object = Object::new(Kind::Endpoint, "broker", cluster).with("spec", &spec);
    object
        .labels
        .insert(LABEL_CLUSTER_ID.into(), cluster.into());
    let beat = beat.map(|beat| (ANNOTATION_HEARTBEAT.to_owned(), beat.to_string()));
    object.annotations.extend(beat);
    Entry::read(object, Endpoint::parse)
}

/// A broker, and who looks at it.
#[derive(Default)]
struct World {
    source: Source<Entry<Endpoint>>,
    expiry: Expiry,
    alive: bool,
}

impl World {
    /// West and north and we ourselves have beaten once.
    fn new() -> Self {
        let mut world = Self::default();
        let all = ["east", "west", "north"];
        let all = all.map(|c| (c.to_owned(), Ok(entry(c, Some(0)))));
        world.event(Event::Reset(all.into()), 0);
        world
    }

    fn event(&mut self, event: Event<Entry<Endpoint>>, minute: u64) {
        self.source.apply(event, at(minute));
        self.look(minute);
    }

    fn look(&mut self, minute: u64) {
        let alive = self.alive;
        let dead = |e: &Endpoint| !alive && e.cluster.as_str() == "west";
        self.expiry.look(&self.source, dead, at(minute));
    }

    fn beat(&mut self, cluster: &str, minute: u64) {
        let beat = entry(cluster, Some(minute + 1));
        self.event(Event::Applied(cluster.to_owned(), Ok(beat)), minute);
    }

    /// We and north beat every five minutes, as it should be.
    fn others(&mut self, minutes: std::ops::RangeInclusive<u64>) {
        for minute in minutes {
            if minute % 5 == 0 {
                self.beat("east", minute);
                self.beat("north", minute);
            }
            self.look(minute);
        }
    }

    fn gone(&self) -> bool {
        self.expiry.is_gone("west")
    }
}

#[test]
fn who_is_silent_with_a_dead_tunnel_expires_after_a_quarter_of_an_hour_and_is_back_with_a_sign_of_life()
 {
    let mut world = World::new();
    world.others(1..=19);
    assert!(!world.gone(), "the first news came at 5 min");
    assert_eq!(world.expiry.deadline(), Some(at(20)));
    world.others(20..=20);
    assert!(world.gone());
    let gone: Vec<&str> = world.expiry.gone().map(ClusterId::as_str).collect();
    assert_eq!(gone, ["west"]);
    world.others(21..=200);
    assert!(world.gone() && !world.expiry.is_gone("north"));
    world.beat("west", 201);
    assert!(!world.gone() && world.expiry.gone().count() == 0);
    world.others(202..=215);
    assert!(!world.gone());
    world.others(216..=216);
    assert!(world.gone(), "it was one sign only");
}

#[test]
fn a_cluster_of_submariners_never_expires() {
    let mut world = World::new();
    world.event(Event::Applied("west".into(), Ok(entry("west", None))), 0);
    world.others(1..=10_000);
    assert!(!world.gone() && !world.expiry.is_silent("west"));
}

#[test]
fn a_tunnel_that_works_keeps_its_endpoint_whatever_the_broker_says() {
    let mut world = World::new();
    world.alive = true;
    world.others(1..=1000);
    assert!(!world.gone());
    assert!(world.expiry.is_silent("west"));
    world.alive = false;
    world.others(1001..=1010);
    assert!(!world.gone(), "it is dead since 1001");
    world.others(1011..=1011);
    assert!(world.gone());
}

#[test]
fn a_broker_where_nothing_is_new_or_that_is_away_says_nothing_of_anybody() {
    let mut world = World::new();
    for minute in 1..=1000 {
        world.look(minute);
    }
    assert!(!world.gone(), "nobody was heard");
    // Nobody could write for an hour, then the others can, and the lost cluster has as long as they to do so.
    world.others(1000..=1003);
    for minute in 1004..=1070 {
        world.look(minute);
    }
    world.others(1071..=1089);
    assert!(!world.gone(), "fresh since 1075");
    world.event(Event::Failed("away".into()), 1089);
    world.others(1090..=1104);
    assert!(!world.gone(), "away at 1089");
    world.others(1105..=1105);
    assert!(world.gone());
}

#[test]
fn an_endpoint_that_its_cluster_removes_and_makes_anew_is_a_new_one() {
    let mut world = World::new();
    world.others(1..=20);
    assert!(world.gone());
    world.event(Event::Deleted("west".into()), 21);
    world.event(
        Event::Applied("west".into(), Ok(entry("west", Some(0)))),
        22,
    );
    assert!(!world.gone());
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Beat(&'static str),
    Fail,
    Tunnel(bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::sample::select(&["east", "north"][..]).prop_map(Step::Beat),
        1 => Just(Step::Beat("west")),
        1 => Just(Step::Fail),
        1 => any::<bool>().prop_map(Step::Tunnel),
        5 => (1_u64..8).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever comes in whatever order: said from the history as the module's page says it.
    #[test]
    fn an_endpoint_expires_exactly_when_the_rule_says(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        let mut minute = 0;
        // When there was news since the broker was away last, and since when the tunnel is dead.
        let (mut news, mut dead) = (Vec::new(), Some(0));
        let (mut changed, mut gone, mut beats) = (0, false, 1_000_000);
        for step in steps {
            let mut waits = 0;
            match step {
                Step::Beat(cluster) => {
                    beats += 1;
                    news.push(minute);
                    if cluster == "west" {
                        changed = minute;
                        gone = false;
                    }
                    world.event(Event::Applied(cluster.to_owned(), Ok(entry(cluster, Some(beats)))), minute);
                }
                Step::Fail => {
                    news.clear();
                    world.event(Event::Failed("away".into()), minute);
                    // It is back at once, and nothing is new.
                    let again = world.source.get("north").unwrap().clone();
                    world.event(Event::Applied("north".into(), Ok(again)), minute);
                }
                Step::Tunnel(works) => {
                    dead = (!works).then(|| dead.unwrap_or(minute));
                    world.alive = works;
                    world.look(minute);
                }
                Step::Wait(minutes) => waits = minutes,
            }
            for wait in 0..=waits {
                if wait > 0 {
                    minute += 1;
                    world.look(minute);
                }
                // The last news, and those before that never had a pause of more than ten minutes after them.
                let mut pauses = news.windows(2).rev();
                let begins = pauses.find(|pair| pair[1] > pair[0] + 10).map(|pair| pair[1]);
                let since = begins.or(news.first().copied());
                let fresh = since.filter(|_| news.last().is_some_and(|last| minute <= last + 10));
                let silent = fresh.is_some_and(|since| since.max(changed) + 15 <= minute);
                gone |= silent && dead.is_some_and(|dead| dead + 10 <= minute);
                prop_assert_eq!(world.expiry.is_silent("west"), silent, "at {}", minute);
                prop_assert_eq!(world.gone(), gone, "at {}", minute);
            }
        }
    }
}
