//! When pings are sent, and what status and figures come of what happens to them.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use strait_api::gateway::ConnectionStatus::{Connected, Connecting, Error};
use strait_host::Family;

use super::*;
use crate::Time;

const SECOND: Settings = every(Duration::from_secs(1), 5);
const MINUTE: Settings = every(Duration::from_secs(60), 5);

const fn every(interval: Duration, max_losses: u32) -> Settings {
    Settings {
        clusters: Pace {
            interval,
            retry: None,
            max_losses,
        },
        gateway: Pace {
            interval: Duration::from_secs(10),
            retry: Some(Duration::from_secs(1)),
            max_losses: 2,
        },
    }
}

fn ms(ms: u64) -> Time {
    Time(Duration::from_millis(ms))
}

fn remote(cluster: &str, address: &str) -> Target {
    let address: IpAddr = address.parse().unwrap();
    Target {
        endpoint: format!("{cluster}-cable"),
        family: Family::of(address),
        cluster: cluster.parse().unwrap(),
        address,
        source: None,
        way: Way::Cluster,
    }
}

fn west() -> Target {
    remote("west", "10.2.1.1")
}

fn checker(settings: Settings, targets: &[Target]) -> Checker {
    let mut checker = Checker::new(settings);
    checker.set_targets(&targets.iter().cloned().collect(), ms(0));
    assert!(checker.take_changed());
    checker
}

fn report(checker: &Checker, target: &Target) -> Report {
    checker.results()[target].clone()
}

/// Lets time pass until `end`: each ping goes to `answer`, which gives the round-trip time of its reply, if any.
fn run(
    checker: &mut Checker,
    end: Time,
    mut answer: impl FnMut(Time, &Ping) -> Option<Duration>,
) -> Vec<(Time, Ping)> {
    let mut sent = Vec::new();
    let mut replies: BTreeSet<(Time, u64, IpAddr)> = BTreeSet::new();
    loop {
        let reply = replies.first().copied();
        let wake = checker.deadline();
        match (reply, wake) {
            (Some((at, token, from)), wake) if at <= end && wake.is_none_or(|w| at <= w) => {
                replies.pop_first();
                assert!(checker.reply(token, from, at));
            }
            (_, Some(now)) if now <= end => {
                let pings = checker.due(now);
                assert!(checker.deadline() > Some(now) || !pings.is_empty());
                for ping in pings {
                    sent.push((now, ping));
                    if let Some(rtt) = answer(now, &ping) {
                        replies.insert((now + rtt, ping.token, ping.to));
                    }
                }
            }
            _ => return sent,
        }
    }
}

fn always(rtt: Duration) -> impl FnMut(Time, &Ping) -> Option<Duration> {
    move |_, _| Some(rtt)
}

fn never(_: Time, _: &Ping) -> Option<Duration> {
    None
}

#[test]
fn a_target_is_connecting_until_its_first_reply_and_pinged_once_an_interval_after_it() {
    let mut c = checker(SECOND, &[west()]);
    let before = report(&c, &west());
    assert_eq!(
        (before.status, before.message.as_str(), before.rtt),
        (Connecting, "", None)
    );
    let sent = run(&mut c, ms(3_500), always(Duration::from_millis(2)));
    let times: Vec<Time> = sent.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [ms(0), ms(1_000), ms(2_000), ms(3_000)]);
    let after = report(&c, &west());
    assert_eq!(
        (after.status, after.sent, after.received),
        (Connected, 4, 4)
    );
    assert!(c.take_changed() && !c.take_changed());
}

#[test]
fn until_the_first_reply_pings_come_sooner_than_the_interval() {
    let mut c = checker(MINUTE, &[west()]);
    let sent = run(&mut c, ms(200_000), never);
    let seconds: Vec<u64> = sent.iter().map(|(Time(at), _)| at.as_secs()).collect();
    assert_eq!(seconds, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    let mut c = checker(MINUTE, &[west()]);
    let sent = run(&mut c, ms(200_000), |at, _| {
        (at >= ms(3_000)).then_some(Duration::from_millis(1))
    });
    let seconds: Vec<u64> = sent.iter().map(|(Time(at), _)| at.as_secs()).collect();
    assert_eq!(seconds, [0, 1, 3, 7, 67, 127, 187]);
}

#[test]
fn more_than_five_losses_in_a_row_are_an_error_and_one_reply_heals_it() {
    let mut c = checker(SECOND, &[west()]);
    let lost = |from: u64, to: u64| {
        move |at: Time, _: &Ping| {
            (at < ms(from) || at >= ms(to)).then_some(Duration::from_millis(3))
        }
    };
    // Five are lost, and the sixth is not.
    run(&mut c, ms(20_000), lost(10_000, 15_000));
    assert!(c.take_changed());
    assert_eq!(report(&c, &west()).status, Connected);
    assert!(!c.take_changed());
    // Six are lost: it is told when the sixth is, neither before nor again.
    run(&mut c, ms(36_999), lost(31_000, u64::MAX));
    assert_eq!(report(&c, &west()).status, Connected);
    run(&mut c, ms(37_000), never);
    assert!(c.take_changed());
    let error = report(&c, &west());
    assert_eq!(error.status, Error);
    assert_eq!(
        error.message,
        "Failed to successfully ping the remote endpoint IP \"10.2.1.1\""
    );
    run(&mut c, ms(60_000), never);
    assert!(!c.take_changed());
    run(&mut c, ms(61_500), always(Duration::from_millis(3)));
    assert!(c.take_changed());
    let healed = report(&c, &west());
    assert_eq!((healed.status, healed.message.as_str()), (Connected, ""));
}

#[test]
fn with_long_intervals_the_last_loss_is_told_after_five_seconds() {
    let mut c = checker(MINUTE, &[west()]);
    run(&mut c, ms(30_000), |at, _| {
        (at <= ms(1_000)).then_some(Duration::from_millis(1))
    });
    c.take_changed();
    // Pings at 61, 121, … 361 s are lost.
    let sent = run(&mut c, ms(364_999), never);
    assert!(sent.iter().all(|(at, _)| at.0.as_secs() % 60 <= 1));
    assert!(!c.take_changed(), "{sent:?}");
    run(&mut c, ms(366_000), never);
    assert_eq!(report(&c, &west()).status, Error);
}

#[test]
fn what_tests_this_node_is_asked_again_soon_when_a_ping_is_lost_and_seldom_while_all_is_well() {
    let own = Target {
        source: Some("240.0.0.2".parse().unwrap()),
        way: Way::Tunnel,
        ..remote("east", "240.0.0.1")
    };
    let mut c = checker(MINUTE, std::slice::from_ref(&own));
    let seconds = |sent: &[(Time, Ping)]| -> Vec<u64> {
        sent.iter().map(|(Time(at), _)| at.as_secs()).collect()
    };
    let sent = run(&mut c, ms(4_500), |at, _| {
        (at >= ms(2_000)).then_some(Duration::from_millis(1))
    });
    assert_eq!(seconds(&sent), [0, 1, 2]);
    assert!(sent.iter().all(|(_, ping)| ping.from == own.source));
    assert_eq!(report(&c, &own).status, Connected);
    let sent = run(&mut c, ms(30_000), always(Duration::from_millis(1)));
    assert_eq!(seconds(&sent), [12, 22]);
    c.take_changed();
    let sent = run(&mut c, ms(34_999), never);
    assert_eq!(seconds(&sent), [32, 33, 34]);
    assert!(!c.take_changed());
    run(&mut c, ms(35_000), never);
    assert!(c.take_changed());
    let error = report(&c, &own);
    assert_eq!((error.status, error.message.as_str()), (Error, ""));
    run(&mut c, ms(36_500), always(Duration::from_millis(1)));
    assert_eq!(report(&c, &own).status, Connected);
    assert_eq!(c.deadline(), Some(ms(46_000)));
}

#[test]
fn when_the_own_gateway_falls_silent_some_other_clusters_are_asked_at_once() {
    let own = Target {
        source: Some("240.0.0.2".parse().unwrap()),
        way: Way::Tunnel,
        ..remote("east", "240.0.0.1")
    };
    let others: Vec<Target> = (1..=5)
        .map(|n| remote(&format!("c{n}"), &format!("10.{n}.1.1")))
        .collect();
    let away = others[0].clone();
    let v6 = remote("west", "fd10::1");
    let mut targets = others.clone();
    targets.extend([own.clone(), v6]);
    let mut c = checker(MINUTE, &targets);
    let quick = Duration::from_millis(1);
    let all = |_, ping: &Ping| (ping.to != away.address).then_some(quick);
    run(&mut c, ms(45_000), all);
    assert_eq!(report(&c, &own).silent, None);
    c.take_changed();
    let silent = |at, ping: &Ping| all(at, ping).filter(|_| ping.to != own.address);
    let sent = run(&mut c, ms(55_000), silent);
    let mut pings = sent.iter().filter(|(_, p)| p.to == own.address);
    let first = pings.next().unwrap().0;
    assert_eq!(report(&c, &own).status, Error);
    assert_eq!(report(&c, &own).silent, Some(first));
    // Those that answer, of its family, and not all of them; what they say is told.
    let expected: Vec<IpAddr> = others[1..4].iter().map(|t| t.address).collect();
    let mut asked: Vec<IpAddr> = sent.iter().map(|(_, ping)| ping.to).collect();
    asked.retain(|ip| *ip != own.address && *ip != away.address);
    assert_eq!(asked, expected);
    let c2 = report(&c, &others[1]);
    assert!(c2.answered > report(&c, &own).silent);
    assert!(c.take_changed());
}

#[test]
fn short_outages_of_the_own_gateway_do_not_add_up_to_one_of_other_clusters() {
    let own = Target {
        source: Some("240.0.0.2".parse().unwrap()),
        way: Way::Tunnel,
        ..remote("east", "240.0.0.1")
    };
    let mut c = checker(MINUTE, &[west(), own.clone()]);
    let quick = Duration::from_millis(1);
    run(&mut c, ms(61_000), always(quick));
    let mut end = 61_000;
    // Each time before a minute is over since west was pinged.
    let asked: usize = (0..7)
        .map(|_| {
            let mut sent = run(&mut c, ms(end + 15_000), never);
            assert_eq!(report(&c, &own).status, Error);
            end += 17_000;
            sent.extend(run(&mut c, ms(end), always(quick)));
            assert_eq!(report(&c, &own).status, Connected);
            sent.retain(|(_, ping)| ping.to == west().address);
            sent.len()
        })
        .sum();
    // When it falls silent, and when it answers again.
    assert_eq!(asked, 14);
    assert_eq!(report(&c, &west()).status, Connected);
    assert_eq!(report(&c, &west()).silent, None);
}

#[test]
fn a_reply_that_is_slower_than_the_interval_counts() {
    let mut c = checker(SECOND, &[west()]);
    run(&mut c, ms(120_000), always(Duration::from_millis(12_500)));
    let slow = report(&c, &west());
    assert_eq!(slow.status, Connected);
    let rtt = slow.rtt.unwrap();
    assert_eq!(
        (rtt.min, rtt.max),
        (Duration::from_millis(12_500), Duration::from_millis(12_500))
    );
}

#[test]
fn duplicates_replies_from_elsewhere_and_made_up_ones_count_nothing() {
    let mut c = checker(SECOND, &[west()]);
    let ping = c.due(ms(0))[0];
    let elsewhere = "10.2.1.2".parse().unwrap();
    assert!(!c.reply(ping.token, elsewhere, ms(1)));
    assert!(!c.reply(ping.token + 1, ping.to, ms(1)), "not sent yet");
    assert!(
        !c.reply(ping.token | 7 << 32, ping.to, ms(1)),
        "no such target"
    );
    assert_eq!(report(&c, &west()).status, Connecting);
    assert!(c.reply(ping.token, ping.to, ms(2)));
    assert!(!c.reply(ping.token, ping.to, ms(3)), "a duplicate");
    let report = report(&c, &west());
    assert_eq!((report.sent, report.received), (1, 1));
    assert_eq!(report.rtt.unwrap().max, Duration::from_millis(2));
}

#[test]
fn a_late_reply_heals_and_one_that_is_far_too_late_is_ignored() {
    let mut c = checker(SECOND, &[west()]);
    let sent = run(&mut c, ms(10_000), never);
    assert_eq!(report(&c, &west()).status, Error);
    assert!(c.reply(sent[3].1.token, west().address, ms(10_100)));
    assert_eq!(report(&c, &west()).status, Connected);
    let sent = run(&mut c, ms(100_000), never);
    assert!(!c.reply(sent[0].1.token, west().address, ms(100_001)));
    assert_eq!(report(&c, &west()).status, Error);
}

#[test]
fn a_ping_that_cannot_be_sent_is_lost_and_the_reason_is_told() {
    let mut c = checker(SECOND, &[west()]);
    for at in 0..=6 {
        for ping in c.due(ms(at * 1000)) {
            c.failed(ping.token, "Network is unreachable");
            assert!(!c.reply(ping.token, ping.to, ms(at * 1000)));
        }
    }
    let error = report(&c, &west());
    assert_eq!(
        (error.status, error.message.as_str()),
        (
            Error,
            "Failed to successfully ping the remote endpoint IP \"10.2.1.1\": Network is unreachable"
        )
    );
    // Once pings leave again, the reason is gone.
    c.due(ms(7000));
    assert!(!report(&c, &west()).message.contains("unreachable"));
}

#[test]
fn sequence_numbers_wrap_in_the_header_and_beyond_it() {
    for first in [0xfffe, u32::MAX - 1] {
        let mut c = Checker::new(SECOND);
        c.first_sequence = first;
        c.set_targets(&BTreeSet::from([west()]), ms(0));
        let sent = run(&mut c, ms(3_500), always(Duration::from_millis(1)));
        let sequences: Vec<u16> = sent.iter().map(|(_, ping)| ping.sequence()).collect();
        assert_eq!(sequences, [0xfffe, 0xffff, 0, 1]);
        let report = report(&c, &west());
        assert_eq!((report.status, report.received), (Connected, 4));
    }
}

#[test]
fn a_target_that_changes_begins_anew_and_the_others_do_not_notice() {
    let north = remote("north", "fd00:3::1");
    let mut c = checker(SECOND, &[west(), north.clone()]);
    let before = run(&mut c, ms(2_500), always(Duration::from_millis(1)));
    c.take_changed();
    let known = report(&c, &north);
    let moved = remote("west", "10.2.1.99");
    c.set_targets(&BTreeSet::from([moved.clone(), north.clone()]), ms(2_600));
    assert!(c.take_changed());
    assert_eq!(report(&c, &moved).status, Connecting);
    assert_eq!(report(&c, &north), known);
    assert!(!c.results().contains_key(&west()));
    for (_, ping) in before {
        assert!(!c.reply(ping.token, "10.2.1.99".parse().unwrap(), ms(2_700)));
    }
    let sent = run(&mut c, ms(2_999), always(Duration::from_millis(1)));
    assert_eq!(
        sent.iter().map(|(at, p)| (*at, p.to)).collect::<Vec<_>>(),
        [(ms(2_600), moved.address)]
    );
    c.take_changed();
    c.set_targets(&BTreeSet::from([moved, north]), ms(2_600));
    assert!(!c.take_changed(), "the same targets");
    c.set_targets(&BTreeSet::new(), ms(2_600));
    assert!(c.take_changed() && c.deadline().is_none() && c.results().is_empty());
}

#[test]
fn many_targets_are_not_pinged_in_one_burst_and_none_is_forgotten() {
    let targets: Vec<Target> = (0..1000u32)
        .map(|n| remote(&format!("c{n}"), &format!("10.{}.{}.1", n / 250, n % 250)))
        .collect();
    let mut c = checker(SECOND, &targets);
    let sent = run(&mut c, ms(999), always(Duration::from_millis(1)));
    assert_eq!(sent.len(), 1000);
    let at_once = |at: Time| sent.iter().filter(|(t, _)| *t == at).count();
    assert!(sent.iter().all(|(at, _)| at_once(*at) <= 32));
    let to: BTreeSet<IpAddr> = sent.iter().map(|(_, ping)| ping.to).collect();
    assert_eq!(to.len(), 1000);
    assert!(c.results().values().all(|r| r.status == Connected));
}

#[test]
fn a_machine_that_slept_does_not_make_up_for_missed_pings() {
    let mut c = checker(SECOND, &[west()]);
    run(&mut c, ms(2_500), always(Duration::from_millis(1)));
    assert_eq!(c.due(ms(3_600_000)).len(), 1);
    assert_eq!(c.deadline(), Some(ms(3_601_000)));
}

#[test]
fn figures_are_of_the_last_thousand_replies() {
    let mut c = checker(SECOND, &[west()]);
    let mut rtts = [2, 4, 4, 4, 5, 5, 7, 9].into_iter();
    run(&mut c, ms(7_500), |_, _| {
        rtts.next().map(Duration::from_millis)
    });
    // The textbook's example: mean 5, standard deviation 2.
    let rtt = report(&c, &west()).rtt.unwrap();
    let text = rtt.text();
    assert_eq!(
        [text.last, text.min, text.average, text.max, text.std_dev],
        ["9ms", "2ms", "5ms", "9ms", "2ms"]
    );
    // A thousand later, none of them counts.
    run(&mut c, ms(1_007_500), always(Duration::from_micros(1_500)));
    let text = report(&c, &west()).rtt.unwrap().text();
    assert_eq!(
        [text.last, text.min, text.average, text.max, text.std_dev],
        ["1.5ms", "1.5ms", "1.5ms", "1.5ms", "0s"]
    );
}

#[test]
fn of_pings_a_minute_apart_the_last_hundred_count() {
    let mut c = checker(MINUTE, &[west()]);
    run(&mut c, ms(30_000), always(Duration::from_millis(9)));
    let after = |count: u64| ms(30_000 + count * 60_000);
    run(&mut c, after(99), always(Duration::from_millis(1)));
    let max = |c: &Checker| report(c, &west()).rtt.unwrap().max;
    assert_eq!(max(&c), Duration::from_millis(9));
    run(&mut c, after(100), always(Duration::from_millis(1)));
    assert_eq!(max(&c), Duration::from_millis(1));
}

/// Something that happens to a checker.
#[derive(Debug, Clone)]
enum Happens {
    Pass(u64),
    Targets(u8),
    Reply { ping: usize, from: usize },
    Fail(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0u64..20_000).prop_map(Happens::Pass),
        1 => any::<u8>().prop_map(Happens::Targets),
        4 => (0usize..50, 0usize..9).prop_map(|(ping, from)| Happens::Reply { ping, from }),
        1 => (0usize..50).prop_map(Happens::Fail),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_counts_add_up_and_time_goes_on(
        events in prop::collection::vec(happens(), 0..200),
        interval in 10u64..100_000,
        max_losses in 0u32..4,
    ) {
        let all: Vec<Target> = (0..8).map(|n| remote(&format!("c{n}"), &format!("10.{n}.0.1"))).collect();
        let mut c = Checker::new(every(Duration::from_millis(interval), max_losses));
        let mut now = ms(0);
        let mut sent: Vec<Ping> = Vec::new();
        for event in events {
            match event {
                Happens::Pass(time) => {
                    now = now + Duration::from_millis(time);
                    sent.extend(c.due(now));
                }
                Happens::Targets(bits) => {
                    let wanted = all.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
                    c.set_targets(&wanted.map(|(_, t)| t.clone()).collect(), now);
                }
                Happens::Reply { ping, from } => {
                    if let Some(ping) = sent.iter().rev().nth(ping) {
                        let from = all.get(from).map_or(ping.to, |t| t.address);
                        let counted = c.reply(ping.token, from, now);
                        prop_assert!(!counted || from == ping.to);
                        prop_assert!(!c.reply(ping.token, from, now), "a duplicate counted");
                    }
                }
                Happens::Fail(ping) => {
                    if let Some(ping) = sent.iter().rev().nth(ping) {
                        c.failed(ping.token, "why");
                        prop_assert!(!c.reply(ping.token, ping.to, now));
                    }
                }
            }
            for report in c.results().values() {
                prop_assert!(report.received <= report.sent);
                prop_assert_eq!(report.rtt.is_some(), report.received > 0);
                prop_assert!(report.status != Connecting || report.received == 0);
                prop_assert!(report.status != Connected || report.received > 0);
                prop_assert!(report.status != Error || report.sent > u64::from(max_losses));
            }
        }
        prop_assert_eq!(c.deadline().is_some(), !c.results().is_empty());
    }
}
