//! What the lab breaks on purpose, as ping, iperf3 and the kernel's counters see it; and that it mends all of it.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{binary, joined, name};
use serde_json::Value;
use strait_lab::{Cable, Fault, Lab, Options, Probe, Role, Sides, Trouble};

/// The Internet's address.
const INTERNET: &str = "198.51.100.254";

fn small(purpose: &str) -> Lab {
    let options = Options {
        name: name(purpose),
        nodes: 1,
        agents: false,
        ..Options::default()
    };
    Lab::up(&options, binary(), |_| ()).expect("the lab starts")
}

const fn slow(delay_ms: f64, jitter_ms: f64, rate_mbit: Option<f64>) -> Trouble {
    Trouble::Slow {
        sides: Sides::Both,
        delay_ms,
        jitter_ms,
        rate_mbit,
    }
}

/// What ping says: received packets, least and mean round trip in ms.
fn ping(lab: &Lab, from: &str, to: &str, count: u32, interval: &str) -> (u32, f64, f64) {
    let count = count.to_string();
    let command = [
        "ping", "-n", "-q", "-i", interval, "-c", &count, "-W", "1", to,
    ];
    // It ends with 1 when nothing came back.
    let output = lab.command(from, command).output().expect("ping runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let received = text
        .split(", ")
        .find_map(|part| part.strip_suffix(" received"))
        .and_then(|number| number.parse().ok())
        .expect("a summary");
    let times = text.split(" = ").nth(1).unwrap_or("0/0/0/0");
    let mut times = times.split('/').filter_map(|time| time.parse().ok());
    (
        received,
        times.next().unwrap_or(0.0),
        times.next().unwrap_or(0.0),
    )
}

/// What `ip` says of all links of a place, but for what counts and what changes by itself.
fn links(lab: &Lab, place: &str) -> Vec<String> {
    let text = lab.exec(place, &["ip", "-d", "-j", "link"]).expect("ip");
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let shown = |link: &Value| {
        format!(
            "{} {} {} {}",
            link["ifname"], link["master"], link["gso_max_segs"], link["flags"]
        )
    };
    all.iter().map(shown).collect()
}

/// Pings that a machine was sent.
fn asked(lab: &Lab, place: &str) -> u64 {
    let text = lab
        .exec(place, &["cat", "/proc/net/snmp"])
        .expect("counters");
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs
        .find(|(name, _)| *name == "InEchos")
        .expect("a counter");
    value.parse().expect("a number")
}

#[test]
fn a_wan_is_late_and_lossy_as_was_said_and_as_before_when_healed() {
    let lab = small("wan");
    let places = ["internet", "router-east", "router-west"];
    let before = places.map(|place| links(&lab, place));
    lab.trouble("east", slow(20.0, 5.0, None)).unwrap();
    let (received, least, mean) = ping(&lab, "east-1", INTERNET, 200, "0.01");
    assert_eq!(received, 200);
    assert!((30.0..40.0).contains(&least), "{least}");
    assert!((38.0..50.0).contains(&mean), "{mean}");
    // The other cluster's is as it was.
    let (received, least, _) = ping(&lab, "west-1", INTERNET, 50, "0.01");
    assert!(received == 50 && least < 5.0, "{received} {least}");

    let lose = Trouble::Lose {
        sides: Sides::In,
        percent: 20.0,
    };
    lab.trouble("east", lose).unwrap();
    let sent = asked(&lab, "internet");
    let (received, least, _) = ping(&lab, "east-1", INTERNET, 1000, "0.003");
    // Four standard deviations.
    assert!((750..=850).contains(&received), "{received}");
    assert!(least >= 30.0, "{least}");
    // All got out; those that are lost were answers.
    assert_eq!(asked(&lab, "internet") - sent, 1000);

    assert_eq!(lab.heal("east", None).unwrap(), []);
    assert_eq!(places.map(|place| links(&lab, place)), before);
    let (received, least, _) = ping(&lab, "east-1", INTERNET, 50, "0.01");
    assert!(received == 50 && least < 5.0, "{received} {least}");
}

#[test]
fn a_rate_holds_for_packets_and_not_for_bundles_of_them() {
    let lab = small("rate");
    let address = lab.topology().node("west-1").unwrap().1.address.to_string();
    let mut server = lab
        .command("west-1", ["iperf3", "-s", "-1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    lab.trouble("east", slow(0.0, 0.0, Some(10.0))).unwrap();
    let listens = || lab.exec("west-1", &["ss", "-Htln", "sport = 5201"]);
    while listens().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let client = ["iperf3", "-c", &address, "-t", "3", "-C", "reno", "-J"];
    let report: Value = serde_json::from_str(&lab.exec("east-1", &client).unwrap()).unwrap();
    let rate = report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .expect("a rate")
        / 1e6;
    assert!((7.0..10.1).contains(&rate), "{rate} Mbit/s");
    server.wait().unwrap();
}

#[test]
fn a_relay_that_comes_and_goes_loses_nothing() {
    let lab = small("relay");
    let count = "3000";
    let flow = lab
        .command(
            "east-1",
            ["ping", "-n", "-q", "-i", "0.001", "-c", count, INTERNET],
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..10 {
        lab.trouble("east", slow(1.0, 0.0, None)).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        lab.heal("east", None).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let output = flow.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("{count} received")), "{text}");
}

#[test]
fn a_cut_is_one_way_or_both_and_only_where_it_was_said() {
    let lab = small("cut");
    let got_out = |from: &str| {
        let before = asked(&lab, "internet");
        let (received, ..) = ping(&lab, from, INTERNET, 5, "0.01");
        (asked(&lab, "internet") - before, received)
    };
    for what in ["east", "east-1"] {
        assert_eq!(got_out("east-1"), (5, 5));
        for (sides, seen) in [(Sides::In, (5, 0)), (Sides::Out, (0, 0))] {
            lab.cut(what, sides).unwrap();
            assert_eq!(got_out("east-1"), seen, "{what} {sides:?}");
            // The cable is where it was.
            let show = ["ip", "-br", "link", "show", "eth0"];
            let link = lab.exec("east-1", &show).unwrap();
            assert!(link.contains(" UP "), "{link}");
            assert_eq!(got_out("west-1"), (5, 5), "{what} {sides:?}");
            lab.heal(what, None).unwrap();
        }
    }
    // Its relay is no way around it.
    lab.trouble("east", slow(1.0, 0.0, None)).unwrap();
    lab.cut("east", Sides::Both).unwrap();
    assert_eq!(got_out("east-1"), (0, 0));
    let rules = |place: &str| lab.exec(place, &["nft", "list", "ruleset"]).unwrap();
    assert!(rules("internet").contains("drop"));
    assert_eq!(lab.heal_all().unwrap(), []);
    assert_eq!(rules("internet"), "");
    assert_eq!(got_out("east-1"), (5, 5));
    for server in ["control-east", "broker"] {
        let reached = || {
            let probe = if server == "broker" {
                INTERNET
            } else {
                "172.30.1.1"
            };
            ping(&lab, server, probe, 2, "0.01").0 == 2
        };
        assert!(reached(), "{server}");
        lab.cut(server, Sides::Both).unwrap();
        assert!(!reached(), "{server}");
        lab.heal(server, None).unwrap();
        assert!(reached(), "{server}");
    }
}

#[test]
fn nodes_lose_their_power_and_processes_die_or_stand_still_until_they_are_healed() {
    let lab = joined(
        "heal",
        Options {
            nodes: 2,
            ..Options::default()
        },
    );
    // A node's link stays bad when it boots.
    lab.trouble("east-2", slow(5.0, 0.0, None)).unwrap();
    let impaired = lab.power_off("east-2").unwrap();
    assert!(impaired.iter().any(|it| it.fault == Fault::Off));
    let (received, ..) = ping(&lab, "east-1", "172.30.1.12", 2, "0.1");
    assert_eq!(received, 0);
    let off = lab.exec("router-east", &["ip", "link", "show", "east-2"]);
    assert!(off.is_err(), "{off:?}");
    lab.reboot("east-2", Duration::ZERO).unwrap();
    let (_, least, _) = ping(&lab, "east-1", "172.30.1.12", 10, "0.01");
    assert!((10.0..20.0).contains(&least), "{least}");

    lab.kill("west-1", Role::Gateway).unwrap();
    lab.stop("west-2", None).unwrap();
    lab.stop("broker", None).unwrap();
    lab.kill_what("control-east", None).unwrap();
    lab.power_off("east-2").unwrap();
    let status = lab.status().unwrap();
    let agent = status
        .processes
        .iter()
        .find(|it| it.place == "west-2" && it.role == Role::RouteAgent)
        .expect("an agent");
    let state = [
        "sh",
        "-c",
        &format!("grep State /proc/{}/status", agent.pid),
    ];
    let state = lab.exec("west-2", &state).unwrap();
    assert!(state.contains("T (stopped)"), "{state}");
    let told: Vec<String> = status.impaired.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "east-2: both ways 5 ms late",
            "east-2: off",
            "broker apiserver: stopped",
            "control-east apiserver: killed",
            "west-1 gateway: killed",
            "west-2 route-agent: stopped",
            "west-2-a pod: stopped",
        ]
    );
    // One by one, and then the rest.
    lab.heal("west-1", Some(Role::Gateway)).unwrap();
    let left = lab.heal("west-2", None).unwrap();
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(lab.heal_all().unwrap(), []);
    lab.wait_until_ready(Duration::from_secs(60), false)
        .unwrap();
    for (from, to) in [("east-2-a", "west-2-a"), ("west-2-a", "east-2-a")] {
        lab.probe_until(&Probe::tcp(from, to), Duration::from_secs(30), |_| true)
            .unwrap();
    }
}

#[test]
fn verbs_say_what_is_impaired_and_what_there_is() {
    let lab = small("verbs");
    let strait = |arguments: &[&str]| {
        let output = Command::new(binary())
            .arg("lab")
            .args(arguments)
            .env("STRAIT_LAB", lab.name())
            .output()
            .expect("strait runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    for (arguments, expected) in [
        (&["cut", "nowhere"][..], "there are the WAN of east, west"),
        (&["kill", "nowhere"], "no 'nowhere' in the lab; there are"),
        (&["kill", "router-east"], "no process runs on 'router-east'"),
        (&["stop", "west-1", "gateway"], "no gateway on 'west-1'"),
        (&["slow", "east"], "expected a delay, a jitter or a rate"),
        (&["lose", "east", "--percent", "101"], "expected 0 to 100"),
        (&["lose", "east"], "--percent"),
        (&["cut", "east", "--way", "up"], "in, out, both"),
        (&["heal", "nowhere"], "no 'nowhere' in the lab"),
    ] {
        let (good, text) = strait(arguments);
        assert!(!good && text.contains(expected), "{arguments:?}: {text}");
    }
    let (good, text) = strait(&["cut", "east", "--way", "out", "--json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert!(good && told[0]["from_it"]["cut"] == true, "{text}");
    let (good, text) = strait(&["kill", "west-1"]);
    assert!(good && text == "east: from it cut\nwest-1: off\n", "{text}");
    let (_, status) = strait(&["status"]);
    assert!(status.ends_with(&format!("IMPAIRED\n{text}")), "{status}");
    let (good, text) = strait(&["slow", "west-1", "--delay", "1"]);
    assert!(!good && text.contains("west-1 is off"), "{text}");
    let (good, text) = strait(&["heal"]);
    assert!(good && text == "nothing is impaired\n", "{text}");
}

#[test]
fn bash_completes_the_names_of_what_is_there() {
    let lab = small("complete");
    let script = r#"
        strait() { "$STRAIT" "$@"; }
        source <(strait completion bash)
        complete_last() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            $(complete -p strait | sed 's/.*-F \([^ ]*\).*/\1/') strait "${@: -1}" "${@: -2:1}"
            echo "${COMPREPLY[@]}"
        }
        complete_last strait lab cut ea
        complete_last strait lab kill --name "$LAB" west-
        STRAIT_LAB=no-such complete_last strait lab kill ea
        complete_last strait lab hea
    "#;
    let output = Command::new("bash")
        .args(["-c", script])
        .env("STRAIT", binary())
        .env("LAB", lab.name())
        .env("STRAIT_LAB", lab.name())
        .output()
        .expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let expected = ["east-1 east-1-a east", "west-1 west-1-a", "", "heal"];
    assert_eq!(lines, expected, "{output:?}");
}

#[test]
fn an_agent_that_crashes_comes_back_by_itself_and_nothing_is_impaired() {
    let options = Options {
        nodes: 1,
        cable: Cable::Wireguard,
        ..Options::default()
    };
    let lab = joined("crash", options);
    // What runs there, parents and children: by their network, since others' processes may be seen, too.
    let running = |name: &str| -> BTreeSet<String> {
        let script = format!(
            "own=$(readlink /proc/self/ns/net)
            for it in /proc/[0-9]*; do
                [[ $(readlink $it/ns/net) == \"$own\" ]] || continue
                [[ $(tr '\\0' ' ' < $it/cmdline) == *' {name} ' ]] && echo $it
            done 2> /dev/null
            true"
        );
        let text = lab.exec("east-1", &["bash", "-c", &script]).expect("bash");
        text.lines().map(str::to_owned).collect()
    };
    for (role, name) in [
        (Role::RouteAgent, "route-agent"),
        (Role::Gateway, "gateway"),
    ] {
        let before = running(name);
        assert!(!before.is_empty(), "{name}");
        // All of it stands still and goes on, a child that does the work, too.
        let stopped = || {
            let files = before.iter().map(|it| format!("{it}/status"));
            let command: Vec<String> = ["grep".to_owned(), "-h".to_owned(), "State".to_owned()]
                .into_iter()
                .chain(files)
                .collect();
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let text = lab.exec("east-1", &words).expect("states");
            text.matches("T (stopped)").count()
        };
        lab.stop("east-1", Some(role)).expect("it stands still");
        assert_eq!(stopped(), before.len(), "{name}");
        assert_eq!(lab.heal("east-1", Some(role)).expect("it goes on"), []);
        assert_eq!(stopped(), 0, "{name}");
        let impaired = lab.crash("east-1", role).expect("it crashes");
        assert_eq!(impaired, []);
        let begun = Instant::now();
        loop {
            let after = running(name);
            // One has died, and one has come.
            let stayed = after.intersection(&before).count();
            if (after.len(), stayed) == (before.len(), before.len() - 1) {
                break;
            }
            let waited = begun.elapsed();
            assert!(waited.as_secs() < 10, "{before:?} {after:?}");
        }
        lab.wait_until_joined(Duration::from_secs(30))
            .expect("all is well again");
    }
    let error = lab.crash("east-1-a", Role::Gateway).unwrap_err();
    assert!(
        error.to_string().contains("no gateway on 'east-1-a'"),
        "{error}"
    );
}
