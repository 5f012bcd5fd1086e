//! In a network namespace of their own, with routes that lead nowhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use strait_core::Severity;

use strait_host::nft::TableId;
use strait_host::{Change, Conflict, Fdb, Host, Mac, Owned, Route, RouteKind, Rule, Wanted};
use strait_kernel::Failure;
use strait_netns::Namespace;

use super::*;

const OURS: u8 = 181;

#[derive(Default)]
struct Routes(BTreeSet<Route>);

enum Told {
    Want(BTreeSet<Route>),
    Nothing,
}

struct Plan(Wanted);

impl Planned for Plan {
    fn take_wanted(&mut self) -> Wanted {
        std::mem::take(&mut self.0)
    }

    fn conditions(&self) -> &[Condition] {
        &[]
    }
}

impl Machine for Routes {
    type Input = Told;
    type Plan = Plan;

    fn apply(&mut self, input: Told, _: Time) {
        if let Told::Want(routes) = input {
            self.0 = routes;
        }
    }

    fn deadline(&self) -> Option<Time> {
        None
    }

    fn plan(&self) -> Plan {
        Plan(Wanted {
            routes: Owned::Set(self.0.clone()),
            ..Wanted::default()
        })
    }

    fn host(_: Arc<Host>) -> Told {
        Told::Nothing
    }

    fn tick() -> Told {
        Told::Nothing
    }
}

fn owner() -> Owner {
    Owner {
        alias: "test".to_owned(),
        links: BTreeSet::new(),
        route_protocol: Some(OURS),
        rule_protocol: None,
        tables: BTreeSet::<TableId>::new(),
        former_chains: BTreeSet::new(),
    }
}

fn route(number: u8) -> Route {
    Route {
        table: 254,
        dst: format!("10.{number}.0.0/16").parse().unwrap(),
        metric: 7,
        protocol: OURS,
        kind: RouteKind::Unreachable,
    }
}

fn figure(metrics: &Metrics, name: &str) -> f64 {
    let text = metrics.text();
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.map(|rest| rest.trim().parse::<f64>().unwrap()).sum()
}

#[test]
fn the_time_to_the_kernel_is_that_since_the_event_whatever_it_waits_for() {
    const WAITS: Duration = Duration::from_millis(300);
    let ns = Namespace::new().unwrap();
    let metrics = Metrics::new("test");
    ns.run_async(|| async {
        let ip = |arguments: &str| {
            let mut command = ns.command("ip");
            let output = command.args(arguments.split(' ')).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        ip("link set lo up");
        let (inputs, arrivals) = channel(16);
        let engine = Engine::new(
            Routes::default(),
            owner(),
            arrivals,
            Readiness::new("starting", &metrics),
            metrics.clone(),
            Heartbeat::new(Heartbeat::DEADLINE),
            Duration::from_secs(60),
        )
        .await
        .unwrap();
        let all: BTreeSet<Route> = (1..=20).map(route).collect();
        inputs.send(Told::Want(all)).await.unwrap();
        tokio::time::sleep(WAITS).await;
        let drain = Drain::new();
        let (passes, mut made) = watch::channel(0_u64);
        let look = |pass: Pass<Plan>| {
            if !pass.outcome.made.is_empty() {
                passes.send_modify(|count| *count += 1);
            }
        };
        let meddle = async {
            made.wait_for(|count| *count == 1).await.unwrap();
            let sum = figure(&metrics, "strait_event_to_kernel_seconds_sum");
            assert!((0.3..5.0).contains(&sum), "{sum}");
            // Faster than the kernel is read: some of these wait for the next reading.
            for number in 1..=20 {
                ip(&format!("route delete unreachable 10.{number}.0.0/16"));
                tokio::task::yield_now().await;
            }
            let there = || ip("route show proto 181").lines().count();
            let deadline = Instant::now() + Duration::from_secs(20);
            while there() < 20 {
                assert!(Instant::now() < deadline);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            drain.end();
        };
        tokio::join!(engine.run(&drain, look), meddle);
        let passes = *made.borrow();
        assert!(passes > 2, "{passes}");
        let samples = figure(&metrics, "strait_event_to_kernel_seconds_count");
        assert_eq!(samples, passes as f64);
    })
    .unwrap();
}

fn weighed(outcome: &Outcome) -> Vec<(&'static str, Severity, usize)> {
    let conditions = with_outcome(&Plan(Wanted::default()), outcome, None);
    let all = by_name(&conditions).into_iter();
    all.map(|(name, holding)| (name, holding.severity, holding.count))
        .collect()
}

#[test]
fn what_is_about_one_remote_subnet_or_tunes_leaves_a_node_ready() {
    use Severity::{Degraded, NotReady};
    let routes = |numbers: std::ops::Range<u8>| numbers.map(|n| Change::SetRoute(route(n)));
    let failure = |change| Failure {
        change,
        error: Error::Skipped,
    };
    let sysctl = |key: &str, value: &str| {
        Change::SetSysctl(format!("net/ipv4/conf/x/{key}"), value.to_owned())
    };
    let conflict = Conflict::Route {
        table: 254,
        dst: "10.1.0.0/16".parse().unwrap(),
        metric: 0,
        protocol: 4,
    };
    let entry = Change::SetFdb(Fdb {
        link: "vx".to_owned(),
        mac: Mac::ZERO,
        dst: "192.0.2.1".parse().unwrap(),
        port: None,
    });
    let mut outcome = Outcome {
        conflicts: vec![conflict],
        contended: routes(1..31)
            .chain([sysctl("send_redirects", "0")])
            .collect(),
        failures: routes(1..4).chain([entry]).map(failure).collect(),
        ..Outcome::default()
    };
    assert_eq!(
        weighed(&outcome),
        [
            ("ApplyFailed", Degraded, 4),
            ("Contended", Degraded, 31),
            ("ForeignObject", Degraded, 1)
        ]
    );
    outcome.conflicts.push(Conflict::Link("vx".to_owned()));
    outcome.contended.push(sysctl("rp_filter", "2"));
    outcome.failures.push(failure(Change::AddRule(Rule {
        family: strait_host::Family::V4,
        priority: 100,
        from: None,
        to: None,
        link: None,
        mark: None,
        table: 100,
        protocol: OURS,
    })));
    assert_eq!(
        weighed(&outcome),
        [
            ("ApplyFailed", NotReady, 5),
            ("Contended", NotReady, 32),
            ("ForeignObject", NotReady, 2)
        ]
    );
    let conditions = with_outcome(&Plan(Wanted::default()), &outcome, None);
    let contended = &by_name(&conditions)["Contended"].message;
    // What makes it not ready is named first, and not all of the rest.
    assert!(contended.contains("30 s: sysctl net/ipv4/conf/x/rp_filter, route 10.1.0.0/16"));
    assert!(contended.ends_with(", and 22 more"), "{contended}");
}
