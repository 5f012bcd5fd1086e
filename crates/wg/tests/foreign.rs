//! Other people's WireGuard at the other end, and other people's tools at our door.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail the test"
)]

mod common;

use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{Host, Running, hosts, received, run, until};
use strait_wg::{Options, PresharedKey};

/// `wireguard-go` on a host. Its name differs from test to test: all have their sockets in one directory.
fn wireguard_go(host: &Host) -> (Running, String) {
    let name = format!("g{}x{}", host.number, std::process::id());
    let running = host.start_command(&format!("wireguard-go -f {name}"));
    // Not by `wg`: it removes a socket at which nobody listens yet.
    let socket = format!("/var/run/wireguard/{name}.sock");
    until("wireguard-go", || UnixStream::connect(&socket).is_ok());
    (running, name)
}

fn text(bytes: &[u8; 32]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Sets a device by `wg setconf`.
fn set(host: &Host, name: &str, config: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf");
    std::fs::write(&path, config).unwrap();
    run(&host.ns, &format!("wg setconf {name} {}", path.display()));
}

#[test]
fn wireguard_go_and_we_understand_each_other() {
    let (_middle, mut all) = hosts(2);
    all[0].start(2, Options::default());
    let (a, b) = (&all[0], &all[1]);
    let (_go, name) = wireguard_go(b);
    let secret = PresharedKey::from_bytes([0x5a; 32]);
    set(
        b,
        &name,
        &format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\n[Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.9.0.1/32, fd09::1/128\n",
            text(b.key.as_bytes()),
            a.public(),
            text(secret.as_bytes()),
        ),
    );
    b.address(&name);
    let (key, mut peer) = b.peer();
    peer.preshared = Some(secret);
    a.configure([(key, peer)]);
    // We begin.
    assert_eq!(a.ping("10.9.0.2", 20), 20);
    assert_eq!(b.ping("fd09::1", 20), 20);
    let said = a.iperf(b, "10.9.0.2", "-n 32M");
    assert!(received(&said) > 16e6, "{said}");
    let said = a.iperf(b, "fd09::2", "-n 32M -R");
    assert!(received(&said) > 16e6, "{said}");
    let dropped = a.device().dropped();
    assert_eq!((dropped.malformed, dropped.forged), (0, 0));
    // It begins: a new key of its peer makes it forget the old session.
    let begun = a.device().status()[&key].last_handshake;
    run(&b.ns, &format!("wg set {name} peer {} remove", a.public()));
    let path = tempfile::tempdir().unwrap();
    let psk = path.path().join("psk");
    std::fs::write(&psk, text(&[0x5a; 32])).unwrap();
    run(
        &b.ns,
        &format!(
            "wg set {name} peer {} preshared-key {} endpoint {} allowed-ips 10.9.0.1/32,fd09::1/128",
            a.public(),
            psk.display(),
            a.endpoint()
        ),
    );
    assert_eq!(b.ping("10.9.0.1", 20), 20);
    assert!(a.device().status()[&key].last_handshake > begun);
}

#[test]
fn wg_shows_and_sets_a_device() {
    let (_middle, mut all) = hosts(2);
    all.iter_mut()
        .for_each(|host| host.start(1, Options::default()));
    let name = format!("door{}", std::process::id());
    all[0].device.as_mut().unwrap().open_door(&name).unwrap();
    let (a, b) = (&all[0], &all[1]);
    b.configure([a.peer()]);
    set(
        a,
        &name,
        &format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\n[Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = 10.9.0.2/32\nPersistentKeepalive = 25\n",
            text(a.key.as_bytes()),
            b.public(),
            b.endpoint()
        ),
    );
    assert_eq!(a.ping("10.9.0.2", 5), 5);
    let shown = run(&a.ns, &format!("wg show {name} dump"));
    let lines: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(
        lines[0][..3],
        [
            text(a.key.as_bytes()),
            a.public().to_string(),
            "51820".to_owned()
        ]
    );
    assert_eq!(lines[1][0], b.public().to_string());
    assert_eq!(
        lines[1][2..4],
        [b.endpoint().to_string(), "10.9.0.2/32".to_owned()]
    );
    let numbers: Vec<u64> = lines[1][4..7]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(
        now - Duration::from_secs(numbers[0]) < Duration::from_secs(60),
        "{numbers:?}"
    );
    assert!(numbers[1] > 500 && numbers[2] > 500, "{numbers:?}");
    assert_eq!(lines[1][7], "25");
    run(&a.ns, &format!("wg set {name} peer {} remove", b.public()));
    assert_eq!(a.ping("10.9.0.2", 1), 0);
    let refused =
        a.ns.command("wg")
            .args(["set", &name, "listen-port", "1"])
            .output()
            .unwrap();
    assert!(!refused.status.success());
    all[0].device = None;
    assert!(!std::path::Path::new(&format!("/var/run/wireguard/{name}.sock")).exists());
}
