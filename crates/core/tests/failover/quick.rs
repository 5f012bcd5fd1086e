//! How fast the next one carries the traffic, in the cases that users notice.

use crate::faults::{Api, Fault, QUICK, Shape};
use crate::world::World;

/// Milliseconds until all agents that are up follow another gateway than the first one, which is lost by these faults.
fn gap(seed: u64, faults: impl Fn(usize) -> Vec<Fault>) -> u64 {
    let shape = Shape {
        gateways: 2,
        workers: 2,
    };
    let mut world = World::new(shape, seed);
    world.settle().unwrap();
    let active: usize = world.carriers()[0].holder[1..].parse().unwrap();
    for fault in faults(active) {
        world.apply(&fault);
    }
    for waited in 0..5000 {
        world.pass(1000).unwrap();
        let moved = (0..4).filter(|node| *node != active).all(|node| {
            world
                .followed(node)
                .is_some_and(|t| t.holder != format!("n{active}"))
        });
        if moved {
            return waited + 1;
        }
    }
    panic!("nobody took over\n{}", world.trace());
}

fn longest(limit: u64, faults: impl Fn(usize) -> Vec<Fault>) {
    let longest = (1..40).map(|seed| gap(seed, &faults)).max().unwrap();
    assert!(longest <= limit, "longest of 39: {longest} ms");
}

#[test]
fn a_gateway_that_is_killed_is_replaced_within_half_a_second() {
    longest(500, |active| vec![Fault::Kill(active)]);
}

#[test]
fn also_while_the_api_server_is_away_or_hangs() {
    longest(500, |active| {
        vec![Fault::ApiOfAll(Api::Refuses), Fault::Kill(active)]
    });
    longest(500, |active| {
        vec![Fault::ApiOfAll(Api::Hangs), Fault::Kill(active)]
    });
}

#[test]
fn and_where_its_node_goes_with_it() {
    longest(500, |active| vec![Fault::PowerOff(active)]);
    longest(500, |active| {
        vec![Fault::ApiOfAll(Api::Hangs), Fault::PowerOff(active)]
    });
}

#[test]
fn one_that_stands_still_is_replaced_too() {
    longest(500, |active| vec![Fault::Stop(active)]);
}

#[test]
fn who_is_asked_to_end_hands_over_at_once() {
    longest(50, |active| vec![Fault::Terminate(active)]);
    longest(50, |active| {
        vec![Fault::ApiOfAll(Api::Hangs), Fault::Terminate(active)]
    });
}

#[test]
fn one_whose_main_loop_stands_still_hands_over_too_and_may_take_over_again() {
    longest(50, |active| vec![Fault::Hang(active)]);
    let shape = Shape {
        gateways: 2,
        workers: 1,
    };
    let mut world = World::new(shape, 7);
    world.settle().unwrap();
    let active: usize = world.carriers()[0].holder[1..].parse().unwrap();
    world.apply(&Fault::Hang(active));
    world.pass(60_000_000).unwrap();
    let other = world.carriers()[0].holder.clone();
    assert_ne!(other, format!("n{active}"));
    world.apply(&Fault::Turn(active));
    world.pass(5_000_000).unwrap();
    world.one_carries().unwrap();
    assert_eq!(world.carriers()[0].holder, other);
    world.apply(&Fault::Kill(other[1..].parse().unwrap()));
    world.pass(5_000_000).unwrap();
    world.one_carries().unwrap();
    assert_eq!(world.carriers()[0].holder, format!("n{active}"));
}

#[test]
fn who_is_cut_off_from_the_api_server_goes_on() {
    let shape = Shape {
        gateways: 2,
        workers: 1,
    };
    let mut world = World::new(shape, 7);
    world.settle().unwrap();
    let before = world.carriers();
    let active: usize = before[0].holder[1..].parse().unwrap();
    world.apply(&Fault::Api(active, Api::Refuses));
    world.pass(120_000_000).unwrap();
    assert_eq!(world.carriers(), before);
    // Its Lease is kept for it.
    let lease = world.lease.as_ref().unwrap();
    assert_eq!(lease.record.holder, format!("n{active}-submariner-gateway"));
}

/// A cluster in which one gateway carries the traffic, and which.
fn settled(seed: u64) -> (World, usize) {
    let shape = Shape {
        gateways: 2,
        workers: 1,
    };
    let mut world = World::new(shape, seed);
    world.settle().unwrap();
    let active = world.carriers()[0].holder[1..].parse().unwrap();
    (world, active)
}

#[test]
fn a_gateway_whose_process_dies_and_is_started_by_its_parent_goes_on_in_its_turn() {
    for seed in 1..40 {
        for api in [Api::Answers, Api::Refuses, Api::Hangs] {
            let (mut world, active) = settled(seed);
            let before = world.carriers();
            world.apply(&Fault::ApiOfAll(api));
            // As often as it may within ten seconds, and again.
            for after in [QUICK, 20, 5, QUICK] {
                world.apply(&Fault::Crash(active, after));
                world.pass(after * 1000 + 1).unwrap();
                assert_eq!(world.carriers(), before, "{}", world.trace());
                world.pass(6_000_000).unwrap();
                assert_eq!(world.carriers(), before, "{}", world.trace());
            }
            world.apply(&Fault::ApiOfAll(Api::Answers));
            world.pass(6_000_000).unwrap();
            assert_eq!(world.carriers(), before, "{}", world.trace());
            world.one_carries().unwrap();
        }
    }
}

#[test]
fn also_in_a_turn_that_began_by_votes_and_that_the_lease_does_not_know_yet() {
    for seed in 1..40 {
        let (mut world, first) = settled(seed);
        world.apply(&Fault::ApiOfAll(Api::Hangs));
        world.apply(&Fault::Kill(first));
        world.pass(2_000_000).unwrap();
        let before = world.carriers();
        assert_ne!(before[0].term.ballot, 0);
        world.apply(&Fault::Crash(1 - first, 20));
        world.pass(6_000_000).unwrap();
        assert_eq!(world.carriers(), before, "{}", world.trace());
        world.apply(&Fault::ApiOfAll(Api::Answers));
        world.pass(8_000_000).unwrap();
        assert_eq!(world.carriers()[0].holder, before[0].holder);
        world.one_carries().unwrap();
    }
}

#[test]
fn one_that_dies_for_the_third_time_in_ten_seconds_or_is_not_back_in_time_is_replaced() {
    for seed in 1..40 {
        let (mut world, active) = settled(seed);
        let before = world.carriers();
        for _ in 0..2 {
            world.apply(&Fault::Crash(active, 20));
            world.pass(3_000_000).unwrap();
            assert_eq!(world.carriers(), before);
        }
        world.apply(&Fault::Crash(active, 20));
        world.pass(1_000_000).unwrap();
        assert_eq!(world.carriers()[0].holder, format!("n{}", 1 - active));
        world.one_carries().unwrap();

        // Also where the other one is slow, and not if there is none that could.
        for (slow, next) in [(1500, 1 - active), (9000, active)] {
            let (mut world, same) = settled(seed);
            assert_eq!(same, active);
            for _ in 0..2 {
                world.apply(&Fault::Crash(active, 20));
                world.pass(3_000_000).unwrap();
            }
            world.apply(&Fault::Stop(1 - active));
            world.apply(&Fault::Crash(active, 20));
            world.pass(slow * 1000).unwrap();
            world.apply(&Fault::Continue(1 - active));
            world.pass(5_000_000).unwrap();
            assert_eq!(world.carriers()[0].holder, format!("n{next}"));
            world.one_carries().unwrap();
        }

        let (mut world, active) = settled(seed);
        world.apply(&Fault::Crash(active, 700));
        world.pass(5_000_000).unwrap();
        assert_eq!(world.carriers()[0].holder, format!("n{}", 1 - active));
        world.one_carries().unwrap();
    }
}

#[test]
fn one_that_dies_while_it_hands_over_does_not_take_that_back() {
    for seed in 1..40 {
        let (mut world, active) = settled(seed);
        world.apply(&Fault::Hang(active));
        world.pass(seed * 200).unwrap();
        world.apply(&Fault::Crash(active, 20));
        world.pass(5_000_000).unwrap();
        assert_eq!(world.carriers()[0].holder, format!("n{}", 1 - active));
        world.one_carries().unwrap();
    }
}
