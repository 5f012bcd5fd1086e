//! What the lab promises: it stays in its sandbox, leaves nothing behind, and tells what is wrong.

#![cfg(feature = "lab")]
#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{binary, name};
use strait_lab::{Flow, Lab, Options, Probe, Role, Sides, Trouble};

fn small(purpose: &str) -> Options {
    Options {
        name: name(purpose),
        nodes: 1,
        agents: false,
        ..Options::default()
    }
}

fn strait(arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .output()
        .expect("strait runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{}", out(output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The pid namespace of a process, as seen from outside.
fn pid_namespace(pid: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
    Some(link.display().to_string())
}

/// Waits until no process is left in a pid namespace.
fn ends(namespace: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let entries = fs::read_dir("/proc").expect("/proc is mounted");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        if names
            .filter_map(|pid| pid_namespace(&pid))
            .all(|other| other != namespace)
        {
            return true;
        }
        sleep(Duration::from_millis(20));
    }
    false
}

fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if holds() {
            return true;
        }
        sleep(Duration::from_millis(20));
    }
    false
}

fn directory(lab: &Lab) -> std::path::PathBuf {
    lab.logs().parent().expect("a directory").to_owned()
}

fn first_process(dir: &Path) -> String {
    fs::read_to_string(dir.join("pid")).expect("a process number")
}

#[test]
fn down_leaves_no_process_and_no_file_and_the_machines_own_network_is_not_touched() {
    let links = || {
        let output = Command::new("ip").args(["-j", "addr"]).output();
        let output = out(&output.expect("ip (package iproute2) runs"));
        // Lifetimes of addresses count down.
        let lines = output
            .split(',')
            .filter(|part| !part.contains("_life_time"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = links();
    let options = small("down");
    let lab = Lab::up_detached(&options, binary(), |_| ()).unwrap();
    let dir = directory(&lab);
    let space = pid_namespace(&first_process(&dir)).unwrap();
    drop(lab);
    let found = Lab::find(&options.name, binary()).unwrap();
    assert!(found.status().unwrap().processes.len() > 3);
    let down = strait(&["lab", "down", "--name", &options.name]);
    assert!(down.status.success());
    assert!(ends(&space), "processes are left");
    assert!(!dir.exists(), "{} is left", dir.display());
    assert_eq!(links(), before);
    assert!(!Path::new("/run/netns/east-1").exists());
}

#[test]
fn a_crash_leaves_no_process_and_its_remains_are_cleared_at_the_next_use() {
    let options = small("crash");
    let lab = Lab::up_detached(&options, binary(), |_| ()).unwrap();
    let dir = directory(&lab);
    let first = first_process(&dir);
    let space = pid_namespace(&first).unwrap();
    // In the middle of everything that it can do to itself.
    let lose = Trouble::Lose {
        sides: Sides::Both,
        percent: 50.0,
    };
    lab.trouble("east", lose).unwrap();
    lab.power_off("west-1").unwrap();
    lab.stop("broker", None).unwrap();
    let flow = lab.flow(&Flow::new("east-1", "east-1-a")).unwrap();
    assert!(
        Command::new("kill")
            .args(["-9", &first])
            .status()
            .unwrap()
            .success()
    );
    assert!(ends(&space), "processes are left");
    assert!(flow.wait().is_err());
    // The next use may be another test's.
    let status = strait(&["lab", "status", "--name", &options.name]);
    assert!(error(&status).contains("no lab"), "{status:?}");
    assert!(!dir.exists(), "{} is left", dir.display());
    let again = Lab::up(&options, binary(), |_| ()).unwrap();
    drop(again);
    assert!(!dir.exists());
}

#[test]
fn a_lab_ends_with_the_command_that_ctrl_c_ends_and_with_one_that_is_killed() {
    for (signal, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let mut demo = Command::new(binary())
            .args(["lab", "demo", "--cni-after", "600"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let lab = format!("demo-{}", demo.id());
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
        let connected = |line: &String| line.contains("are connected");
        assert!(lines.any(|line| line.as_ref().is_ok_and(connected)));
        let dir = directory(&wait_for(&lab));
        let space = pid_namespace(&first_process(&dir)).unwrap();
        let pid = demo.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(demo.wait().unwrap().code(), code, "{signal}");
        assert!(ends(&space), "{signal}: processes are left");
        let deadline = Instant::now() + Duration::from_secs(5);
        while dir.exists() && Instant::now() < deadline {
            sleep(Duration::from_millis(20));
        }
        assert!(!dir.exists(), "{signal}: {} is left", dir.display());
    }
}

#[test]
fn one_machine_only_answers_for_a_routers_address() {
    let lab = Lab::up(&small("arp"), binary(), |_| ()).unwrap();
    // tcpdump says when it listens, on its standard error.
    let script = "ip neigh flush dev eth0
        timeout 2 tcpdump -c 2 -lni eth0 'arp[6:2] == 2 and arp src host 172.30.1.1' 2>&1 | {
            read; read
            ping -c 1 -W 1 172.30.1.1 > /dev/null
            cat
        }";
    let seen = lab.exec("east-1", &["bash", "-c", script]).unwrap();
    let answers: Vec<&str> = seen.lines().filter(|line| line.contains("is-at")).collect();
    assert_eq!(answers.len(), 1, "{seen}");
    assert!(answers[0].contains("02:31:00:00:00:01"), "{seen}");
}

/// A lab that is starting answers once it is up.
fn wait_for(name: &str) -> Lab {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Lab::find(name, binary()) {
            Ok(lab) => return lab,
            Err(error) => assert!(Instant::now() < deadline, "{error:#}"),
        }
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_labs_with_the_same_addresses_run_at_once() {
    let one = Lab::up(&small("one"), binary(), |_| ()).unwrap();
    let two = Lab::up(&small("two"), binary(), |_| ()).unwrap();
    for lab in [&one, &two] {
        let seen = lab.probe(&Probe::tcp("east-1", "east-1-a")).unwrap();
        assert!(seen.is_ok(), "{seen:?}");
    }
    drop(one);
    assert!(
        two.probe(&Probe::tcp("west-1", "west-1-a"))
            .unwrap()
            .is_ok()
    );
    let again = Lab::up(&small("two"), binary(), |_| ()).unwrap_err();
    assert!(again.to_string().contains("is already running"), "{again}");
    assert!(two.status().is_ok(), "the second attempt broke the first");
}

#[test]
fn exec_is_like_being_there() {
    let lab = Lab::up(&small("exec"), binary(), |_| ()).unwrap();
    assert_eq!(lab.exec("east-1", &["uname", "-n"]).unwrap(), "east-1\n");
    let routes = lab.exec("east-1-a", &["ip", "-j", "route"]).unwrap();
    let routes: serde_json::Value = serde_json::from_str(&routes).unwrap();
    assert_eq!(routes[0]["gateway"], "10.101.1.1");
    let filter = "/proc/sys/net/ipv4/conf/eth0/rp_filter";
    assert_eq!(lab.exec("east-1", &["cat", filter]).unwrap(), "1\n");
    let output = lab
        .command("east-1", ["sh", "-c", "cat; echo bad >&2; exit 7"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stderr, b"bad\n");
    let killed = lab.command("east-1", ["sh", "-c", "kill -9 $$"]).output();
    assert_eq!(killed.unwrap().status.code(), Some(137));
    for (signal, code) in [("-TERM", Some(143)), ("-KILL", None)] {
        let mut child = lab.command("east-1", ["sleep", "987"]).spawn().unwrap();
        let sleeps = || lab.exec("east-1", &["pgrep", "-fx", "sleep 987"]).is_ok();
        assert!(eventually(sleeps));
        let pid = child.id().to_string();
        let kill = Command::new("kill").args([signal, &pid]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        assert!(eventually(|| !sleeps()), "{signal}: the command lives on");
    }
    let nobody = lab.command("east-9", ["true"]).output().unwrap();
    let message = error(&nobody);
    assert!(message.contains("no 'east-9' in lab"), "{message}");
    assert!(message.contains("east-1, west-1"), "{message}");
}

#[test]
fn agents_may_be_of_another_program() {
    let base = std::env::temp_dir().join(name("program"));
    fs::create_dir_all(&base).expect("a directory");
    let program = base.join("other");
    fs::copy(binary(), &program).expect("a copy");
    let options = Options {
        agents: true,
        program: Some(program.clone()),
        ..small("program")
    };
    let lab = Lab::up(&options, binary(), |_| ()).expect("the lab starts");
    let status = lab.status().expect("the lab answers");
    let pid = |role| {
        let mut all = status.processes.iter();
        all.find(|one| one.role == role).expect("it runs").pid
    };
    let runs = |role| {
        let link = format!("/proc/{}/exe", pid(role));
        let shown = lab.exec("east-1", &["readlink", &link]).expect("a link");
        Path::new(shown.trim()).to_owned()
    };
    assert_eq!(runs(Role::RouteAgent), program);
    assert_eq!(runs(Role::Gateway), program);
    assert_ne!(runs(Role::Apiserver), program);
    drop(lab);
    fs::remove_dir_all(&base).expect("it goes");
}

#[test]
fn mistakes_are_told_with_what_was_expected() {
    for (arguments, expected) in [
        (
            vec!["lab", "up", "--cni", "x"],
            "expected one of bridge, calico, routed, cni-bridge",
        ),
        (vec!["lab", "up", "--clusters", "99"], "expected 1 to 50"),
        (vec!["lab", "up", "--name", "../x"], "expected 1 to 30 of"),
        (
            vec!["lab", "status", "--name", "no-such"],
            "no lab 'no-such'",
        ),
    ] {
        let output = strait(&arguments);
        let message = error(&output);
        assert!(message.contains(expected), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
    }
    let lab = Lab::up(&small("errors"), binary(), |_| ()).unwrap();
    for (arguments, expected) in [
        (vec!["reboot", "east-9"], "no node 'east-9'; there are"),
        (vec!["probe", "east-1", "nowhere"], "no target 'nowhere'"),
        (vec!["probe", "nowhere", "east"], "no 'nowhere' in the lab"),
        (vec!["kill", "east-1", "gateway"], "no gateway on 'east-1'"),
        (
            vec!["cni", "east-1", "address", "x"],
            "expected ADDRESS/LENGTH",
        ),
    ] {
        let mut all = vec!["lab", arguments[0], "--name", lab.name()];
        all.extend(&arguments[1..]);
        let message = error(&strait(&all));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let lab = Lab::up(&small("pipe"), binary(), |_| ()).unwrap();
    let mut child = Command::new(binary())
        .args(["lab", "status", "--output", "json", "--name", lab.name()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(output.status.success());
}

#[test]
fn it_works_without_root() {
    let lab = name("user");
    let command = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        // Root gives its privileges away; whoever else runs the tests has none.
        let own = fs::metadata("/proc/self").expect("/proc is mounted");
        if own.uid() == 0 {
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        }
        command.arg("--").arg(binary()).arg("lab").args(arguments);
        command
            .env_remove("XDG_RUNTIME_DIR")
            .env("STRAIT_LAB", &lab);
        command.output().expect("setpriv (package util-linux) runs")
    };
    let run = |arguments: &[&str]| {
        let output = command(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    run(&["up", "--nodes", "2"]);
    let deadline = Instant::now() + Duration::from_secs(30);
    let seen = loop {
        let output = command(&["probe", "east-2", "web.west", "--timeout", "0.5"]);
        let seen = out(&output).contains("was seen as 10.101.2.1:");
        if seen || Instant::now() > deadline {
            break seen;
        }
        sleep(Duration::from_millis(50));
    };
    run(&["down"]);
    assert!(seen, "the other cluster was not reached");
}

#[test]
fn the_demo_succeeds_and_shows_every_row() {
    let output = strait(&["lab", "demo", "--cni-after", "2"]);
    let text = out(&output);
    assert!(output.status.success(), "{text}\n{output:?}");
    assert!(text.contains("Every row is as it should be."), "{text}");
    assert!(
        !text.contains("FAILED") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert!(
        text.lines()
            .filter(|line| line.ends_with("ok    ok"))
            .count()
            >= 36 + 6 + 9
    );
}
