use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use strait_core::Condition;
use strait_core::condition::by_name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Admin;
use crate::{Drain, Heartbeat, Metrics, Readiness};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Served {
    admin: Admin,
    address: SocketAddr,
    drain: Drain,
}

async fn served(deadline: Duration) -> Served {
    let metrics = Metrics::new("test");
    let readiness = Readiness::new("the first pass is not done", &metrics);
    let admin = Admin {
        heartbeat: Heartbeat::new(deadline),
        others: vec![("cable", Heartbeat::new(deadline))],
        readiness,
        metrics,
    };
    let drain = Drain::new();
    let mut bound = admin.clone().start(ANY, &drain);
    let address = bound.wait_for(Option::is_some).await.unwrap().unwrap();
    Served {
        admin,
        address,
        drain,
    }
}

/// Status and body of the answer to one request, spoken by hand.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn readyz_tells_why_not_and_then_what_is_degraded() {
    let Served { admin, address, .. } = served(Duration::from_secs(30)).await;
    assert_eq!(
        get(address, "/readyz").await,
        (503, "not ready: the first pass is not done\n".into())
    );
    let missing = Condition::degraded(
        "CniMissing",
        "no device holds an address of 10.1.0.0/16".to_owned(),
    );
    admin
        .readiness
        .conditions(by_name(std::slice::from_ref(&missing)));
    let text = "ok\nCniMissing: no device holds an address of 10.1.0.0/16\n";
    assert_eq!(get(address, "/readyz").await, (200, text.into()));
    let (status, body) = get(address, "/readyz?format=json").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let conditions = json!({ "CniMissing": "no device holds an address of 10.1.0.0/16" });
    assert_eq!(
        (status, body),
        (
            200,
            json!({ "not_ready": null, "degraded": conditions, "counts": { "CniMissing": 1 } })
        )
    );
    let refused = Condition::not_ready("ApplyFailed", "no memory".to_owned());
    admin.readiness.conditions(by_name(&[missing, refused]));
    let text = "not ready: ApplyFailed: no memory\nCniMissing: no device holds an address of 10.1.0.0/16\n";
    assert_eq!(get(address, "/readyz").await, (503, text.into()));
    admin.readiness.conditions(by_name(&[]));
    assert_eq!(get(address, "/readyz").await, (200, "ok\n".into()));
}

#[tokio::test]
async fn livez_fails_when_a_loop_stalls_and_heals_when_it_turns_again() {
    let Served { admin, address, .. } = served(Duration::from_millis(150)).await;
    assert_eq!(get(address, "/livez").await, (200, "ok\n".into()));
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(
        get(address, "/livez").await,
        (
            503,
            "the main loop has not turned for 0 s\nthe cable has not turned for 0 s\n".into()
        )
    );
    admin.heartbeat.beat();
    assert_eq!(
        get(address, "/livez").await,
        (503, "the cable has not turned for 0 s\n".into())
    );
    admin.others[0].1.beat();
    admin.heartbeat.beat();
    assert_eq!(get(address, "/livez").await.0, 200);
}

#[tokio::test]
async fn metrics_hold_what_every_process_counts() {
    let Served { admin, address, .. } = served(Duration::from_secs(30)).await;
    admin.metrics.pass();
    admin.metrics.changed("route", 3);
    admin.metrics.error("Refused");
    admin.metrics.event_to_kernel(Duration::from_millis(2));
    admin.metrics.repaired("route", 2);
    let not_ready = Condition::not_ready("Contended", "x".to_owned());
    let degraded = Condition::degraded("CniMissing", "y".to_owned());
    admin
        .readiness
        .conditions(by_name(&[not_ready.clone(), degraded]));
    admin.readiness.conditions(by_name(&[not_ready]));
    let (status, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        format!("strait_build_info{{process=\"test\",version=\"{version}\"}} 1").as_str(),
        "strait_passes_total 1",
        "strait_changes_total{object=\"route\"} 3",
        "strait_drift_repairs_total{object=\"route\"} 2",
        "strait_errors_total{kind=\"Refused\"} 1",
        "strait_condition{condition=\"Contended\"} 1",
        "strait_condition{condition=\"CniMissing\"} 0",
        "strait_condition_objects{condition=\"Contended\"} 1",
        "strait_condition_objects{condition=\"CniMissing\"} 0",
        "strait_event_to_kernel_seconds_bucket{le=\"0.001\"} 0",
        "strait_event_to_kernel_seconds_bucket{le=\"0.0025\"} 1",
        "# EOF",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no line {line:?} in\n{text}"
        );
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_waited_for() {
    let taken = TcpListener::bind(ANY).await.unwrap();
    let address = taken.local_addr().unwrap();
    let metrics = Metrics::new("test");
    let readiness = Readiness::new("-", &metrics);
    let admin = Admin {
        heartbeat: Heartbeat::default(),
        others: Vec::new(),
        readiness,
        metrics,
    };
    let mut bound = admin.start(address, &Drain::new());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(*bound.borrow(), None);
    drop(taken);
    let wait = bound.wait_for(Option::is_some);
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(get(address, "/livez").await.0, 200);
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_lock_others_out() {
    let Served { address, .. } = served(Duration::from_secs(30)).await;
    let mut silent = Vec::new();
    for _ in 0..super::CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = tokio::time::timeout(super::HEAD * 2, get(address, "/livez")).await;
    assert_eq!(answer.unwrap().0, 200);
}

#[tokio::test]
async fn nonsense_is_refused_and_the_next_request_served() {
    let Served { address, .. } = served(Duration::from_secs(30)).await;
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        &[0xff; 100_000],
        b"GET /readyz?%zz=%\xff HTTP/9.9\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(nonsense).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(get(address, "/readyz?format=%zz").await.0, 503);
    assert_eq!(get(address, "/nothing").await.0, 404);
}

#[tokio::test]
async fn the_server_ends_with_the_process() {
    let Served { address, drain, .. } = served(Duration::from_secs(30)).await;
    drain.end();
    for _ in 0..100 {
        if TcpStream::connect(address).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still listens");
}
