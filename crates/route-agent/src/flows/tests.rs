//! On the real connection table, judged by `conntrack`.

use std::process::Command;
use std::time::Duration;

use strait_netns::Namespace;

use super::*;

/// A connection of a pod with another cluster that somebody's masquerade has got hold of.
const WRONG: &str = "-I -t 600 -u SEEN_REPLY -p udp -s 10.1.0.5 -d 10.2.0.7 --sport 40000 --dport 53 --src-nat 10.1.0.1";

fn conntrack(ns: &Namespace, arguments: &str) -> String {
    let mut command: Command = ns.command("conntrack");
    let output = command.args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn count(ns: &Namespace) -> usize {
    conntrack(ns, "-L").lines().count()
}

fn rules() -> FlowRules {
    let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    FlowRules {
        remote: [net("10.2.0.0/16")].into_iter().collect(),
        pods: vec![net("10.1.0.0/16")],
        ..FlowRules::default()
    }
}

/// Waits without giving other tasks of this thread a turn.
fn soon(what: &str, mut good: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !good() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn connections_are_ended_while_the_main_loop_has_no_turn() {
    let ns = Namespace::new().unwrap();
    ns.run_async(|| async {
        let metrics = Metrics::new("test");
        let sender = start(metrics.clone()).unwrap();
        conntrack(&ns, WRONG);
        conntrack(&ns, &WRONG.replace("10.2.0.7", "10.9.0.7"));
        assert_eq!(count(&ns), 2);
        sender.send_replace(Some(rules()));
        // Nothing is awaited from here on.
        soon("the end of one", || count(&ns) == 1);
        // What binds right after the first turn is found by the second.
        conntrack(&ns, WRONG);
        soon("the end of the next", || count(&ns) == 1);
        assert!(conntrack(&ns, "-L").contains("dst=10.9.0.7"));
        let ended = r#"strait_changes_total{object="flow"} 2"#;
        soon("the count", || metrics.text().contains(ended));
    })
    .unwrap();
}

#[test]
fn without_another_cluster_the_table_is_not_read() {
    let ns = Namespace::new().unwrap();
    ns.run_async(|| async {
        let sender = start(Metrics::new("test")).unwrap();
        conntrack(&ns, WRONG);
        let nobody = FlowRules {
            remote: std::iter::empty().collect(),
            ..rules()
        };
        sender.send_replace(Some(nobody));
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(count(&ns), 1);
        sender.send_replace(Some(rules()));
        soon("the end", || count(&ns) == 0);
    })
    .unwrap();
}
