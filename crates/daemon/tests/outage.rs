//! Servers that go without a word, and come back: a real server behind real TLS, in a network namespace.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use serde_json::json;
use strait_apiserver::{Config, Running};
use strait_daemon::kube::{Change, Watch, cluster_client};
use strait_netns::Namespace;
use tempfile::TempDir;

const PORT: u16 = 6443;

/// What is promised is 30 s; the sum of what it is made of is 20 s, and the kernel's timers are coarse.
const NOTICED: Duration = Duration::from_secs(30);

/// A connection is tried for 5 s, and then there is a pause of up to 5 s.
const BACK: Duration = Duration::from_secs(11);

async fn server(dir: &Path) -> Running {
    let config = || Config {
        listen: SocketAddr::from(([127, 0, 0, 1], PORT)),
        dir: dir.to_owned(),
        sans: vec![],
    };
    // One that was ended lets go of its directory when its last connection has.
    let begin = Instant::now();
    loop {
        match strait_apiserver::start(config()).await {
            Ok(running) => return running,
            Err(error) => assert!(begin.elapsed() < BACK, "it does not start: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

type Changes = BoxStream<'static, Change<String>>;

fn changes(client: &kube::Client) -> Changes {
    Watch::of::<ConfigMap>(client)
        .namespace("default")
        .start(|object| Ok(object.data["data"]["x"].to_string()))
}

async fn within(longest: Duration, changes: &mut Changes) -> Change<String> {
    tokio::time::timeout(longest, changes.next())
        .await
        .expect("it is told in time")
        .expect("a watch never ends")
}

/// Waits out failures, and gives what comes after them.
async fn after_failures(longest: Duration, changes: &mut Changes) -> Change<String> {
    let end = Instant::now() + longest;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let change = within(left, changes).await;
        if !matches!(change, Change::Failed(_)) {
            return change;
        }
    }
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "x": name } })).unwrap()
}

fn nft(ns: &Namespace, script: &str) {
    let status = ns.command("nft").arg(script).status().expect("nft runs");
    assert!(status.success(), "{script}");
}

#[test]
fn a_server_that_vanishes_without_a_word_is_missed_within_30_seconds_and_found_again() {
    let ns = Namespace::new().unwrap();
    ns.run_async(|| async {
        let dir = TempDir::new().unwrap();
        let running = server(dir.path()).await;
        let client = cluster_client(&running.admin_kubeconfig.clone().into())
            .await
            .unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let mut idle = changes(&client);
        let first = within(BACK, &mut idle).await;
        assert_eq!(first, Change::Reset(vec![]));
        maps.create(&PostParams::default(), &config_map("a"))
            .await
            .unwrap();
        assert!(matches!(
            within(BACK, &mut idle).await,
            Change::Applied(item) if item.name == "a"
        ));

        // Nothing passes, and nobody is told: no reset, no end, no unreachable.
        let begin = Instant::now();
        let drop = format!(
            "add table inet cut; add chain inet cut in {{ type filter hook input priority 0; }}; \
             add rule inet cut in tcp sport {PORT} drop; add rule inet cut in tcp dport {PORT} drop"
        );
        nft(&ns, &drop);
        // One connection is idle, and by another that was there already a request is sent.
        let (change, asked) = tokio::join!(
            within(NOTICED, &mut idle),
            tokio::time::timeout(NOTICED, maps.get("a"))
        );
        let noticed = begin.elapsed();
        assert!(
            matches!(&change, Change::Failed(why) if why.contains("timed out")),
            "{change:?}"
        );
        assert!(asked.expect("the request ends in time").is_err());
        // Not so soon that a short interruption would end connections.
        assert!(noticed > Duration::from_secs(10), "{noticed:?}");

        nft(&ns, "delete table inet cut");
        let back = after_failures(BACK, &mut idle).await;
        assert_eq!(back, Change::Resumed);
        maps.create(&PostParams::default(), &config_map("b"))
            .await
            .unwrap();
        assert!(matches!(
            within(BACK, &mut idle).await,
            Change::Applied(item) if item.name == "b"
        ));
    })
    .unwrap();
}

#[test]
fn a_server_that_is_back_is_known_to_be_so_though_nothing_happens() {
    let ns = Namespace::new().unwrap();
    ns.run_async(|| async {
        let dir = TempDir::new().unwrap();
        let running = server(dir.path()).await;
        let client = cluster_client(&running.admin_kubeconfig.clone().into())
            .await
            .unwrap();
        let mut idle = changes(&client);
        assert_eq!(within(BACK, &mut idle).await, Change::Reset(vec![]));
        running.shutdown().await;
        let change = within(BACK, &mut idle).await;
        assert!(
            matches!(&change, Change::Failed(why) if why.contains("refused")),
            "{change:?}"
        );
        let _running = server(dir.path()).await;
        let change = after_failures(BACK, &mut idle).await;
        assert_eq!(change, Change::Resumed);
        // Once: it is no news any more.
        let more = tokio::time::timeout(Duration::from_secs(1), idle.next()).await;
        assert!(more.is_err(), "{more:?}");
    })
    .unwrap();
}
