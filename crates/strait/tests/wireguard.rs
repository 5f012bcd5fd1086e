//! Clusters that are joined by WireGuard: the kernel's where it has one, else that of the gateways' processes.

#![cfg(feature = "lab")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{assert_all_good, joined};
use strait_lab::matrix::ways;
use strait_lab::{Cable, Cni, Families, Family, Flow, Lab, Nat, Options, Role};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

fn options() -> Options {
    Options {
        cable: Cable::Wireguard,
        ..Options::default()
    }
}

/// What passes an interface, written to a file by tcpdump.
struct Capture {
    child: Child,
    path: PathBuf,
    _directory: TempDir,
}

impl Capture {
    fn start(lab: &Lab, place: &str, interface: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("capture");
        let file = File::create(&path).expect("a file");
        let command = [
            "tcpdump",
            "--immediate-mode",
            "-n",
            "-U",
            "-i",
            interface,
            "-w",
            "-",
        ];
        let child = lab
            .command(place, command)
            .stdout(file)
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("tcpdump starts");
        let mut said = BufReader::new(child.stderr.take().expect("errors")).lines();
        let listens = said.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        assert!(listens, "tcpdump does not listen on {interface}");
        // It goes on saying things when it ends.
        std::thread::spawn(move || said.count());
        Self {
            child,
            path,
            _directory: directory,
        }
    }

    fn end(mut self) -> Captured {
        // What was sent just now is seen in a moment.
        sleep(Duration::from_millis(300));
        self.child.kill().expect("it ends");
        self.child.wait().expect("it ends");
        Captured(self)
    }
}

struct Captured(Capture);

impl Captured {
    /// One line for each packet that a filter takes.
    fn packets(&self, filter: &str) -> Vec<String> {
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-r"]).arg(&self.0.path).arg(filter);
        let output = command.output().expect("tcpdump");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::to_owned).collect()
    }

    fn has_none(&self, filter: &str) {
        let packets = self.packets(filter);
        let some = packets.iter().take(5).collect::<Vec<_>>();
        assert!(packets.is_empty(), "{}: {some:#?}", packets.len());
    }

    fn contains(&self, text: &str) -> bool {
        let bytes = std::fs::read(&self.0.path).expect("the capture");
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }
}

/// Who reaches whom, with which source: each way, 3 KB both ways, over TCP and UDP. What passes the WAN meanwhile is seen.
fn everybody(purpose: &str, options: Options) {
    let families = options.families;
    let lab = joined(purpose, options);
    let wan = Capture::start(&lab, "internet", "wan");
    let inside = Capture::start(&lab, "east-1", "submariner");
    assert_all_good(&lab, &ways(lab.topology()));
    for (number, family) in families.all().iter().enumerate() {
        // In two parts, so that this very command does not hold it.
        let to = lab
            .topology()
            .target_in(*family, "west-2-a")
            .expect("a pod");
        let script = format!(
            "for i in 1 2 3; do echo in-the\"\"-clear-{number} > /dev/udp/{}/{}; done",
            to.ip(),
            to.port()
        );
        lab.exec("east-2-a", &["bash", "-c", &script])
            .expect("bash");
    }
    let (wan, inside) = (wan.end(), inside.end());
    for number in 0..families.all().len() {
        let text = format!("in-the-clear-{number}");
        assert!(inside.contains(&text), "it went through the cable");
        assert!(!wan.contains(&text), "it can be read between the clusters");
    }
    assert!(wan.packets("udp port 4500").len() > 100);
    // The broker is out there too, and NAT discovery asks by 4490.
    // Reports of multicast listeners are ICMPv6 behind a hop-by-hop header, which "icmp6" does not see.
    wan.has_none(
        "not (udp port 4500 or udp port 4490 or tcp port 6443 or arp or icmp6 or (ip6[6] == 0 and ip6[40] == 58))",
    );
    let ours = "net 10.101.0.0/16 or net 10.102.0.0/16 or net 10.151.0.0/16 or net 10.152.0.0/16 \
        or net fd10:101::/48 or net fd10:102::/48 or net fd10:151::/112 or net fd10:152::/112";
    assert!(!inside.packets(ours).is_empty());
    wan.has_none(ours);
    wan.has_none("ip[6:2] & 0x3fff != 0 or ip6[6] == 44");
    fits(&lab, families);
}

/// What fits the cable fits the path between the gateways, to the byte, and what does not is told so.
fn fits(lab: &Lab, families: Families) {
    for family in families.all() {
        // Headers inside: IP and ICMP. Outside: IP, UDP and WireGuard's 32 bytes, of the longer family if there are both.
        let (headers, path) = match (family, families) {
            (Family::V4, Families::V4) => (28, 1500 - 20),
            (Family::V4, _) => (28, 1500 - 40),
            (Family::V6, _) => (48, 1500 - 40),
        };
        let longest = path - 8 - 32 - headers;
        let to = lab
            .topology()
            .target_in(*family, "west-1-a")
            .expect("a pod");
        let to = to.ip().to_string();
        // "mtu = 1440)", "mtu=1420"
        let told = (longest + headers).to_string();
        let ping = |size: i32| {
            let size = size.to_string();
            let command = [
                "ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &to,
            ];
            let output = lab.command("east-1-a", command).output().expect("ping");
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr),
            )
        };
        let wan = Capture::start(lab, "internet", "wan");
        let (answered, said) = ping(longest);
        assert!(answered, "{said}");
        let (answered, said) = ping(longest + 1);
        assert!(!answered && said.contains(&told), "{said}");
        let wan = wan.end();
        let outer = if families == Families::V6 { 40 } else { 20 };
        let frame = 14 + outer + 8 + 32 + headers + longest;
        assert!(
            wan.packets(&format!("udp port 4500 and len == {frame}"))
                .len()
                >= 2,
            "a request and an answer of {frame} bytes"
        );
        wan.has_none("ip[6:2] & 0x3fff != 0 or ip6[6] == 44");
    }
}

#[test]
fn everybody_reaches_everybody_over_ipv4_and_nothing_is_in_the_clear() {
    everybody("wg4", options());
}

#[test]
fn everybody_reaches_everybody_over_ipv6_and_nothing_is_in_the_clear() {
    let options = Options {
        families: Families::V6,
        cnis: vec![Cni::Routed, Cni::Calico],
        ..options()
    };
    everybody("wg6", options);
}

#[test]
fn everybody_reaches_everybody_over_both_and_nothing_is_in_the_clear() {
    let options = Options {
        families: Families::Dual,
        cnis: vec![Cni::Calico, Cni::Bridge],
        ..options()
    };
    everybody("wg46", options);
}

/// The longest gap that a gateway whose process dies may leave. It is some tens of milliseconds on a machine that has nothing else to
/// do; without a parent that holds the device, or with peers that find out by themselves, it would be ten seconds and more.
const LONGEST_GAP_MS: f64 = 2000.0;

fn link(lab: &Lab, node: &str) -> u64 {
    let text = lab.exec(node, &["ip", "-j", "link", "show", "submariner"]);
    let links: serde_json::Value = serde_json::from_str(&text.expect("a link")).expect("JSON");
    links[0]["ifindex"].as_u64().expect("a number")
}

#[test]
fn a_gateway_whose_process_dies_goes_on_at_once_whatever_else_is_away() {
    let lab = joined("wgdies", options());
    let before = [link(&lab, "east-1"), link(&lab, "west-1")];
    let flow = lab
        .flow(&Flow::new("east-2-a", "west-2-a"))
        .expect("a flow");
    sleep(Duration::from_millis(1000));
    for node in ["east-1", "west-1", "east-1"] {
        lab.crash(node, Role::Gateway).expect("it dies");
        sleep(Duration::from_millis(1500));
    }
    // Nobody can be asked now.
    for server in ["control-east", "broker"] {
        lab.kill(server, Role::Apiserver).expect("it dies");
    }
    lab.crash("east-1", Role::Gateway).expect("it dies");
    sleep(Duration::from_millis(1500));
    let report = flow.end().expect("a report");
    println!("{report:?}");
    let (udp, tcp) = (&report.udp, &report.tcp);
    assert!(udp.longest_gap_ms < LONGEST_GAP_MS, "{udp:?}");
    assert!(udp.lost < udp.sent / 2, "{udp:?}");
    assert_eq!((tcp.connected, tcp.silent), (4, 0), "{tcp:?}");
    assert!(tcp.broken.is_empty(), "{tcp:?}");
    assert_eq!([link(&lab, "east-1"), link(&lab, "west-1")], before);
    let died = |node: &str| {
        let log = lab.logs().join(format!("{node}-gateway.log"));
        let text = std::fs::read_to_string(log).expect("a log");
        text.matches("the process died").count()
    };
    // Those of the kernel have no parent: the lab starts them again.
    let of_process = lab
        .exec("east-1", &["ip", "-d", "link", "show", "submariner"])
        .is_ok_and(|text| text.contains("tun type tun"));
    let expected = if of_process { [3, 1] } else { [0, 0] };
    assert_eq!([died("east-1"), died("west-1")], expected);
    assert_all_good(&lab, &ways(lab.topology()));
}

#[test]
fn another_passphrase_in_the_mounted_secret_counts_on_both_sides_without_a_restart() {
    let secret = tempfile::tempdir().expect("a directory");
    let write = |text: &str| {
        let new = secret.path().join("new");
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(&new, secret.path().join("psk")).expect("it is there");
    };
    write("passphrase-0");
    let at = secret.path().to_str().expect("text").to_owned();
    let options = Options {
        environment: vec![("CE_IPSEC_PSKSECRET".to_owned(), at)],
        ..options()
    };
    let lab = joined("wgpass", options);
    let log = |node: &str| {
        let log = lab.logs().join(format!("{node}-gateway.log"));
        std::fs::read_to_string(log).expect("a log")
    };
    let followed = |node: &str| log(node).matches("passphrase is another").count();
    for (number, node) in [(1, "east-1"), (2, "west-1")] {
        write(&format!("passphrase-{number}"));
        let begun = Instant::now();
        while ["east-1", "west-1"]
            .iter()
            .any(|node| followed(node) < number)
        {
            assert!(begun.elapsed() < PATIENCE, "nobody looks");
            sleep(Duration::from_millis(50));
        }
        assert_all_good(&lab, &ways(lab.topology()));
        // Its sessions end with it, and the other side makes new ones with what it has followed.
        lab.crash(node, Role::Gateway).expect("it dies");
        lab.wait_until_joined(PATIENCE).expect("it is joined");
        assert_all_good(&lab, &ways(lab.topology()));
    }
    for node in ["east-1", "west-1"] {
        assert!(!log(node).contains("passphrase-"), "a secret is in the log");
    }
}

/// The public key of a cluster's Endpoint on the broker, and whether it tells of another one, next or former.
fn published(lab: &Lab, cluster: &str) -> (String, bool, bool) {
    let path = "/apis/submariner.io/v1/endpoints";
    let all = lab.api("broker", "GET", path, &serde_json::Value::Null);
    let all = all.expect("Endpoints");
    let mut items = all["items"].as_array().expect("a list").iter();
    let own = items.find(|item| item["spec"]["cluster_id"] == cluster);
    let own = own.expect("the cluster's");
    let key = own["spec"]["backend_config"]["publicKey"].as_str();
    let tells = |annotation: &str| own["metadata"]["annotations"][annotation].is_string();
    (
        key.expect("a key").to_owned(),
        tells("strait.io/next-public-key"),
        tells("strait.io/former-public-key"),
    )
}

/// Another key for the gateway of a node; gives its public key.
fn rotate(lab: &Lab, node: &str) -> String {
    let state = format!("/run/strait-lab/{node}/gateway");
    let strait = common::binary().to_str().expect("a path");
    let command = [
        strait,
        "gateway",
        "--rotate-key",
        "--strait-state-dir",
        &state,
    ];
    let said = lab.exec(node, &command).expect("a key is made");
    // One at a time.
    assert!(lab.exec(node, &command).is_err());
    let key = said.split_whitespace().find(|word| word.len() >= 44);
    key.expect("a key").trim_end_matches(';').to_owned()
}

#[test]
fn a_key_is_changed_under_traffic_and_no_datagram_is_lost_also_if_the_process_dies_on_the_way() {
    let lab = joined("wgkey", options());
    let of_process = lab
        .exec("east-1", &["ip", "-d", "link", "show", "submariner"])
        .is_ok_and(|text| text.contains("tun type tun"));
    let (first, ..) = published(&lab, "east");
    // The kernel's runs in emulated guests, which have no time for more.
    let rate = if of_process { 1000 } else { 100 };
    let flow = |from: &str, to: &str| {
        let flow = Flow {
            rate,
            ..Flow::new(from, to)
        };
        lab.flow(&flow).expect("a flow")
    };
    let (flow, back) = (flow("east-2-a", "west-2-a"), flow("west-2-a", "east-2-a"));
    sleep(Duration::from_millis(1000));
    let next = rotate(&lab, "east-1");
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "{what}");
            sleep(Duration::from_millis(50));
        }
    };
    until("nobody is told", &|| {
        published(&lab, "east") == (first.clone(), true, false)
    });
    until("the key stays", &|| {
        published(&lab, "east") == (next.clone(), false, true)
    });
    sleep(Duration::from_millis(2000));
    for (flow, ways) in [(flow, "there"), (back, "back")] {
        let report = flow.end().expect("a report");
        println!("{ways}: {report:?}");
        let (udp, tcp) = (&report.udp, &report.tcp);
        assert!(udp.sent > 10 * u64::from(rate), "{udp:?}");
        // The kernel's device makes a handshake first, and the other side must have seen it: less than a second, however slow the machine.
        let most = if of_process { 0 } else { u64::from(rate) };
        assert!(udp.lost <= most, "{udp:?}");
        assert_eq!((tcp.connected, tcp.silent), (4, 0), "{tcp:?}");
        assert!(tcp.broken.is_empty(), "{tcp:?}");
    }
    assert_all_good(&lab, &ways(lab.topology()));

    // The other side, whose process dies before and after the key counts: it goes on where it was.
    let next = rotate(&lab, "west-1");
    until("nobody is told", &|| published(&lab, "west").1);
    lab.crash("west-1", Role::Gateway).expect("it dies");
    until("the key stays", &|| {
        published(&lab, "west") == (next.clone(), false, true)
    });
    lab.crash("west-1", Role::Gateway).expect("it dies");
    sleep(Duration::from_millis(2000));
    assert_eq!(published(&lab, "west"), (next, false, true));
    assert_all_good(&lab, &ways(lab.topology()));
}

#[test]
fn a_gateway_whose_work_hangs_is_started_again_by_its_parent() {
    let lab = joined("wghangs", options());
    let before = link(&lab, "east-1");
    let log = lab.logs().join("east-1-gateway.log");
    let hung = || {
        let text = std::fs::read_to_string(&log).expect("a log");
        text.matches("the process hangs").count()
    };
    let status = lab.status().expect("the lab answers");
    let of = |p: &&strait_lab::ProcessStatus| p.role == Role::Gateway && p.place == "east-1";
    let parent = status.processes.iter().find(of).expect("a gateway").pid;
    let go_on = || {
        let parent = parent.to_string();
        let command = ["kill", "-CONT", &parent];
        lab.exec("east-1", &command).expect("kill");
    };
    // Both stand still for longer than the parent waits, then the child alone.
    lab.stop("east-1", Some(Role::Gateway))
        .expect("it stands still");
    sleep(Duration::from_secs(13));
    go_on();
    let begun = Instant::now();
    while hung() == 0 {
        assert!(begun.elapsed() < PATIENCE, "nobody notices");
        sleep(Duration::from_millis(50));
    }
    println!("it was noticed after {:?}", begun.elapsed());
    assert!(begun.elapsed() > Duration::from_secs(7));
    lab.heal_all().expect("all goes on");
    lab.wait_until_joined(PATIENCE).expect("all is well");
    assert_all_good(&lab, &ways(lab.topology()));
    assert_eq!((link(&lab, "east-1"), hung()), (before, 1));
}

#[test]
fn a_gateway_that_is_restarted_or_loses_its_parent_joins_again_with_the_same_key() {
    let lab = joined("wgagain", options());
    let key = || {
        let path = "/apis/submariner.io/v1/endpoints";
        let all = lab.api("broker", "GET", path, &serde_json::Value::Null);
        let all = all.expect("Endpoints");
        let items = all["items"].as_array().expect("a list").iter();
        let of_east = items
            .map(|item| &item["spec"])
            .find(|spec| spec["cluster_id"] == "east");
        of_east.expect("east's")["backend_config"]["publicKey"].to_string()
    };
    let first = key();
    assert!(first.len() > 40, "{first}");
    for again in [Lab::restart, |lab: &Lab, node: &str, role| {
        lab.kill(node, role)?;
        lab.heal(node, Some(role)).map(drop)
    }] {
        again(&lab, "east-1", Role::Gateway).expect("it starts again");
        let begun = Instant::now();
        lab.wait_until_joined(PATIENCE).expect("it is joined");
        println!("joined again after {:?}", begun.elapsed());
        assert_all_good(&lab, &ways(lab.topology()));
        assert_eq!(key(), first);
    }
    lab.kill("east-1", Role::Gateway).expect("it dies");
    // A TUN device has no life of its own, and so no packet goes astray in it.
    let show = ["ip", "-d", "link", "show", "submariner"];
    let of_process = lab
        .exec("west-1", &show)
        .is_ok_and(|text| text.contains("tun type tun"));
    let begun = Instant::now();
    while of_process && lab.exec("east-1", &show).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "the link stays");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_link_of_ours_that_is_in_the_way_is_replaced_and_somebody_elses_is_not() {
    let lab = joined("wgway", options());
    let gateway = "east-1";
    let remove = || lab.exec(gateway, &["ip", "link", "del", "submariner"]);
    let kind = || {
        let show = ["ip", "-d", "-j", "link", "show", "submariner"];
        let text = lab.exec(gateway, &show).expect("a link");
        let links: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        links[0]["linkinfo"]["info_kind"].to_string()
    };
    let ours = kind();
    let in_the_way = |alias: &str| {
        lab.kill(gateway, Role::Gateway).expect("it dies");
        let begun = Instant::now();
        while lab
            .exec(gateway, &["ip", "link", "show", "submariner"])
            .is_ok()
        {
            // The kernel's stays.
            drop(remove());
            assert!(begun.elapsed() < PATIENCE, "the link stays");
            sleep(Duration::from_millis(20));
        }
        for command in [
            &["ip", "link", "add", "submariner", "type", "bridge"][..],
            &["ip", "link", "set", "submariner", "alias", alias],
        ] {
            lab.exec(gateway, command).expect("ip");
        }
        lab.heal(gateway, Some(Role::Gateway)).expect("it starts");
    };
    in_the_way("strait");
    lab.wait_until_joined(PATIENCE).expect("it is replaced");
    assert_eq!(kind(), ours);
    assert_all_good(&lab, &ways(lab.topology()));

    in_the_way("somebody's");
    let told = || {
        let processes = lab.status().expect("the lab answers").processes.into_iter();
        let mut of = processes.filter(|one| one.role == Role::Gateway && one.place == gateway);
        let readiness = of.next().and_then(|gateway| gateway.readiness);
        let readiness = readiness.unwrap_or_default();
        let all = readiness.degraded.into_iter();
        let mut all: Vec<String> = all.map(|(name, text)| format!("{name}: {text}")).collect();
        all.extend(readiness.not_ready);
        all.into_iter().find(|text| text.contains("submariner"))
    };
    let begun = Instant::now();
    while told().is_none() {
        assert!(begun.elapsed() < PATIENCE, "nobody is told");
        sleep(Duration::from_millis(50));
    }
    assert_eq!(kind(), "\"bridge\"");
    remove().expect("it goes");
    lab.wait_until_joined(PATIENCE).expect("it is joined");
    assert_eq!(kind(), ours);
    assert_all_good(&lab, &ways(lab.topology()));
}

fn behind(purpose: &str, nat: Nat) {
    let lab = joined(purpose, Options { nat, ..options() });
    assert_all_good(&lab, &ways(lab.topology()));
    // The NAT's entry is of the socket, which outlives the process.
    let flow = lab
        .flow(&Flow::new("west-2-a", "east-2-a"))
        .expect("a flow");
    sleep(Duration::from_millis(500));
    lab.crash("east-1", Role::Gateway).expect("it dies");
    sleep(Duration::from_millis(1500));
    let udp = flow.end().expect("a report").udp;
    assert!(udp.longest_gap_ms < LONGEST_GAP_MS, "{udp:?}");
    assert_all_good(&lab, &ways(lab.topology()));
}

#[test]
fn gateways_with_public_addresses_of_their_own_behind_nats_are_joined() {
    behind("wgcone", Nat::FullCone);
}

#[test]
fn gateways_behind_nats_that_let_in_only_what_answers_are_joined() {
    behind("wgport", Nat::PortRestricted);
}
