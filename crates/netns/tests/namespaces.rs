//! What the crate promises, judged with `ip -j`, `/proc` and `hostname`.

#![allow(clippy::expect_used, reason = "helpers of tests fail the test")]
use std::fs;
use std::net::{TcpListener, TcpStream};

use serde_json::Value;
use strait_netns::{HostName, Inside, Namespace};

fn links(ns: &Namespace) -> Value {
    let output = ns
        .command("ip")
        .args(["-j", "addr"])
        .output()
        .expect("ip (package iproute2) runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("ip -j prints JSON")
}

fn own_inode() -> String {
    fs::read_link("/proc/thread-self/ns/net")
        .expect("/proc is mounted")
        .display()
        .to_string()
}

#[test]
fn a_new_namespace_has_only_lo_and_it_is_up() {
    let links = links(&Namespace::new().unwrap());
    assert_eq!(links.as_array().unwrap().len(), 1, "{links}");
    assert_eq!(links[0]["ifname"], "lo");
    assert!(
        links[0]["flags"]
            .as_array()
            .unwrap()
            .contains(&Value::from("UP")),
        "{links}"
    );
    assert_eq!(links[0]["addr_info"][0]["local"], "127.0.0.1");
}

#[test]
fn the_caller_stays_where_it_was() {
    let before = own_inode();
    let ns = Namespace::new().unwrap();
    let inside = ns.run(own_inode).unwrap();
    assert_ne!(inside, before);
    assert_eq!(inside, format!("net:[{}]", ns.inode().unwrap()));
    assert_eq!(own_inode(), before);
}

#[test]
fn sysctls_follow_the_thread() {
    let ns = Namespace::new().unwrap();
    let path = "/proc/sys/net/ipv4/conf/lo/rp_filter";
    let outside = fs::read_to_string(path).unwrap();
    let other = if outside.trim() == "2" { "1" } else { "2" };
    ns.run(|| fs::write(path, other)).unwrap().unwrap();
    assert_eq!(
        ns.run(|| fs::read_to_string(path)).unwrap().unwrap().trim(),
        other
    );
    assert_eq!(fs::read_to_string(path).unwrap(), outside);
}

#[test]
fn sockets_of_two_namespaces_do_not_meet() {
    let (one, two) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let listener = one
        .run(|| TcpListener::bind("127.0.0.1:0"))
        .unwrap()
        .unwrap();
    let address = listener.local_addr().unwrap();
    assert!(one.run(|| TcpStream::connect(address)).unwrap().is_ok());
    assert!(two.run(|| TcpStream::connect(address)).unwrap().is_err());
}

#[test]
fn async_work_runs_inside_with_its_tasks_and_blocking_threads() {
    let ns = Namespace::new().unwrap();
    let expected = format!("net:[{}]", ns.inode().unwrap());
    let work = || async {
        let task = tokio::spawn(async { own_inode() }).await.unwrap();
        let blocking = tokio::task::spawn_blocking(own_inode).await.unwrap();
        (own_inode(), task, blocking)
    };
    assert_eq!(
        ns.run_async(work).unwrap(),
        (expected.clone(), expected.clone(), expected.clone())
    );

    let outer = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let seen = outer.block_on(ns.spawn_async(work)).unwrap();
    assert_eq!(seen.0, expected);
    assert_ne!(
        outer.block_on(async { own_inode() }),
        expected,
        "a pool's thread was left inside"
    );
}

#[test]
fn a_panic_inside_reaches_the_caller() {
    let ns = Namespace::new().unwrap();
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ns.run(|| panic!("inside"))))
            .unwrap_err();
    assert_eq!(panicked.downcast_ref::<&str>(), Some(&"inside"));
    let outer = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let error = outer
        .block_on(ns.spawn_async(|| async { panic!("inside") }))
        .unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[test]
fn a_namespace_is_found_by_process_and_by_path() {
    let ns = Namespace::new().unwrap();
    let mut child = ns.command("sleep").arg("60").spawn().unwrap();
    let by_pid = Namespace::from_pid(child.id()).unwrap();
    let by_path = Namespace::from_path(format!("/proc/{}/ns/net", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((by_pid.inode(), by_path.inode()), (ns.inode(), ns.inode()));
    let error = Namespace::from_path("/run/netns/strait-no-such")
        .unwrap_err()
        .to_string();
    assert!(error.contains("/run/netns/strait-no-such"), "{error}");
}

#[test]
fn a_command_sees_the_host_name_it_was_given() {
    let ns = Namespace::new().unwrap();
    let name = HostName::new("east-1").unwrap();
    let output = ns
        .command("uname")
        .arg("-n")
        .with_host_name(&name)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "east-1");
    assert_ne!(nix::unistd::gethostname().unwrap(), "east-1");
    assert!(HostName::new(&"x".repeat(65)).is_err());
}

#[test]
fn a_command_bound_to_its_parent_has_no_signal_blocked_and_ends_with_it() {
    use nix::sys::signal::{SigSet, Signal};
    let start = || {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.thread_block().unwrap();
        let mut command = std::process::Command::new("sleep");
        let child = command.arg("60").bound_to_parent().spawn().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status
            .lines()
            .find(|line| line.starts_with("SigBlk:"))
            .unwrap();
        assert!(mask.ends_with("\t0000000000000000"), "{mask}");
        child
    };
    let mut child = std::thread::spawn(start).join().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
}

#[test]
fn entering_what_is_no_namespace_is_an_error() {
    let file = Namespace::from_path("/proc/self/status").unwrap();
    let error = file.run(|| ()).unwrap_err().to_string();
    assert!(error.contains("network namespace"), "{error}");
}
