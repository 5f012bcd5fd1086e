//! What the main loop says of a pass.

use strait_core::Severity;

use strait_host::{Change, Conflict, Fdb, Mac, Route, RouteKind, Rule, Wanted};
use strait_kernel::Failure;

use super::*;

const OURS: u8 = 181;

struct Plan(Wanted);

impl Planned for Plan {
    fn take_wanted(&mut self) -> Wanted {
        std::mem::take(&mut self.0)
    }

    fn conditions(&self) -> &[Condition] {
        &[]
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
