//! The gateways' Lease on a real server: what is written, what others write meanwhile, and a server that says nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use strait_apiserver::Running;
use strait_core::gateway::election::{Answered, Lease, LeaseOperation, Record};
use strait_daemon::{Metrics, lease};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const NAME: &str = "submariner-gateway-lock";
/// How long the server may take.
const LIMIT: Duration = Duration::from_secs(1);

struct World {
    api: Api<LeaseObject>,
    operations: mpsc::UnboundedSender<LeaseOperation>,
    answers: mpsc::UnboundedReceiver<Answered>,
    metrics: Metrics,
    /// While this is set, connections are taken, and nothing is said.
    hangs: Arc<AtomicBool>,
    _running: Running,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let config = strait_apiserver::Config {
            listen: ([127, 0, 0, 1], 0).into(),
            dir: dir.path().to_owned(),
            sans: vec![],
        };
        let running = strait_apiserver::start(config).await.unwrap();
        let text = std::fs::read_to_string(&running.admin_kubeconfig).unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let config = config.unwrap();
        let admin = Client::try_from(config.clone()).unwrap();
        let hangs = Arc::new(AtomicBool::new(false));
        let door = door(running.local_addr, hangs.clone()).await;
        let mut through = config;
        through.cluster_url = format!("https://{door}").parse().unwrap();
        let metrics = Metrics::new("test");
        let client = Client::try_from(through).unwrap();
        let (operations, answers) = lease::start(client, "default", LIMIT, metrics.clone());
        Self {
            api: Api::namespaced(admin, "default"),
            operations,
            answers,
            metrics,
            hangs,
            _running: running,
            _dir: dir,
        }
    }

    async fn ask(&mut self, operation: LeaseOperation) -> Answered {
        self.operations.send(operation).unwrap();
        let answer = tokio::time::timeout(LIMIT * 2, self.answers.recv()).await;
        answer.unwrap().unwrap()
    }

    async fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    async fn write(&mut self, holder: &str, version: Option<&str>, acquire: bool) -> Answered {
        let operation = write(holder, version, acquire);
        self.ask(operation).await
    }

    /// The Lease as the server has it, for whoever looks at it.
    async fn there(&self) -> serde_json::Value {
        serde_json::to_value(self.api.get(NAME).await.unwrap()).unwrap()
    }
}

/// A way to a server that may be blocked; where it begins.
async fn door(to: SocketAddr, hangs: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut here, _) = listener.accept().await.unwrap();
            let hangs = hangs.clone();
            tokio::spawn(async move {
                let mut there = TcpStream::connect(to).await.unwrap();
                let copy = tokio::io::copy_bidirectional(&mut here, &mut there);
                let mut copy = std::pin::pin!(copy);
                loop {
                    let moment = tokio::time::sleep(Duration::from_millis(10));
                    if hangs.load(Ordering::SeqCst) {
                        moment.await;
                        continue;
                    }
                    tokio::select! {
                        _ = &mut copy => return,
                        () = moment => {}
                    }
                }
            });
        }
    });
    address
}

fn write(holder: &str, version: Option<&str>, acquire: bool) -> LeaseOperation {
    LeaseOperation::Write {
        record: Record {
            holder: holder.to_owned(),
            duration: Duration::from_secs(if holder.is_empty() { 1 } else { 15 }),
            transitions: 3,
            renewed: String::new(),
        },
        version: version.map(str::to_owned),
        acquire,
    }
}

fn written(answer: Answered) -> Lease {
    let Answered::Written(lease) = answer else {
        panic!("{answer:?}");
    };
    lease
}

#[tokio::test]
async fn it_is_acquired_renewed_and_released_as_other_holders_do_it() {
    let mut world = World::new().await;
    assert_eq!(world.ask(LeaseOperation::Read).await, Answered::Read(None));
    let first = written(world.write("gw-1", None, true).await);
    let there = world.there().await;
    let spec = &there["spec"];
    assert_eq!(spec["holderIdentity"], "gw-1");
    assert_eq!(spec["leaseDurationSeconds"], 15);
    assert_eq!(spec["leaseTransitions"], 3);
    assert_eq!(spec["acquireTime"], spec["renewTime"]);
    assert_eq!(there["metadata"]["resourceVersion"], first.version);
    assert_eq!(
        (first.record.holder.as_str(), first.record.transitions),
        ("gw-1", 3)
    );

    let second = written(world.write("gw-1", Some(&first.version), false).await);
    let renewed = world.there().await;
    assert_eq!(renewed["spec"]["acquireTime"], spec["acquireTime"]);
    assert!(renewed["spec"]["renewTime"].as_str() > spec["renewTime"].as_str());
    assert_ne!(second.record.renewed, first.record.renewed);
    assert_ne!(second.version, first.version);
    let read = world.ask(LeaseOperation::Read).await;
    assert_eq!(read, Answered::Read(Some(second.clone())));

    let third = written(world.write("", Some(&second.version), false).await);
    let released = world.there().await;
    assert_eq!(third.record.holder, "");
    let spec = &released["spec"];
    assert_eq!(
        (&spec["holderIdentity"], &spec["leaseDurationSeconds"]),
        (&json!(""), &json!(1))
    );
}

#[tokio::test]
async fn who_was_not_the_last_to_see_it_writes_nothing() {
    let mut world = World::new().await;
    let first = written(world.write("gw-1", None, true).await);
    // It is there already.
    assert_eq!(world.write("gw-1", None, true).await, Answered::Conflict);
    // Another one took it.
    let mut theirs = world.api.get(NAME).await.unwrap();
    theirs.spec.as_mut().unwrap().holder_identity = Some("gw-2".into());
    let params = PostParams::default();
    world.api.replace(NAME, &params, &theirs).await.unwrap();
    let late = world.write("gw-1", Some(&first.version), false).await;
    assert_eq!(late, Answered::Conflict);
    assert_eq!(world.there().await["spec"]["holderIdentity"], "gw-2");
    let Answered::Read(Some(seen)) = world.ask(LeaseOperation::Read).await else {
        panic!("it is there");
    };
    assert_eq!(seen.record.holder, "gw-2");
    // Somebody removed it.
    let gone = world.api.delete(NAME, &DeleteParams::default()).await;
    gone.unwrap();
    let late = world.write("gw-1", Some(&seen.version), true).await;
    assert_eq!(late, Answered::Conflict);
    assert_eq!(world.ask(LeaseOperation::Read).await, Answered::Read(None));
    written(world.write("gw-1", None, true).await);
}

#[tokio::test]
async fn what_others_put_on_it_stays_and_what_makes_no_sense_is_read_all_the_same() {
    let mut world = World::new().await;
    let first = written(world.write("gw-1", None, true).await);
    let patch = json!({"metadata": {"labels": {"of": "others"}}, "spec": {"preferredHolder": "x", "strategy": "OldestEmulationVersion"}});
    let params = PatchParams::default();
    let patched = world.api.patch(NAME, &params, &Patch::Merge(&patch)).await;
    patched.unwrap();
    let late = world.write("gw-1", Some(&first.version), false).await;
    assert_eq!(late, Answered::Conflict);
    let Answered::Read(Some(seen)) = world.ask(LeaseOperation::Read).await else {
        panic!("it is there");
    };
    written(world.write("gw-1", Some(&seen.version), false).await);
    let there = world.there().await;
    assert_eq!(there["metadata"]["labels"]["of"], "others");
    assert_eq!(there["spec"]["preferredHolder"], "x");

    let patch = json!({"spec": {"holderIdentity": null, "leaseDurationSeconds": -5, "leaseTransitions": -1, "renewTime": null}});
    let patched = world.api.patch(NAME, &params, &Patch::Merge(&patch)).await;
    patched.unwrap();
    let Answered::Read(Some(seen)) = world.ask(LeaseOperation::Read).await else {
        panic!("it is there");
    };
    assert_eq!(seen.record, Record::default());
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time_and_asked_again_when_it_is_back() {
    let mut world = World::new().await;
    let first = written(world.write("gw-1", None, true).await);
    world.hang(true).await;
    for _ in 0..2 {
        let begun = Instant::now();
        let answer = world.write("gw-1", Some(&first.version), false).await;
        assert_eq!(answer, Answered::Failed);
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
    }
    let text = world.metrics.text();
    assert!(
        text.contains("strait_errors_total{kind=\"Lease\"} 2"),
        "{text}"
    );
    world.hang(false).await;
    // What was given up may be carried out yet.
    for attempt in 0.. {
        let Answered::Read(Some(seen)) = world.ask(LeaseOperation::Read).await else {
            panic!("it is there");
        };
        let answer = world.write("gw-1", Some(&seen.version), false).await;
        if matches!(answer, Answered::Written(_)) {
            break;
        }
        assert!(answer == Answered::Conflict && attempt < 3, "{answer:?}");
    }
    // It ends with who asks.
    drop(world.operations);
    let last = tokio::time::timeout(LIMIT, world.answers.recv()).await;
    assert_eq!(last.unwrap(), None);
}

#[tokio::test]
async fn it_can_be_removed_once() {
    let mut world = World::new().await;
    written(world.write("gw-1", None, true).await);
    let client = world.api.into_client();
    assert!(lease::remove(&client, "default").await.unwrap());
    assert!(!lease::remove(&client, "default").await.unwrap());
}
