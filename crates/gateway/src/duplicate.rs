//! Two clusters with one id on one broker, with real watches and writers: neither undoes for ever what the other does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use strait_api::{Kind, Object, Term};
use strait_core::gateway::{Input, Settings, Standing, State};
use strait_core::{Driver, Event, Machine, Time};
use strait_daemon::Metrics;
use strait_daemon::engine::{channel, replace};
use strait_daemon::objects::Annotations;
use strait_daemon::writer::{self, Report};
use strait_host::{Address, Host, Link, LinkKind, Scope};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::inputs;
use crate::server::Server;

/// A gateway of cluster `east` on a host with this third octet, without kernel and cable; what it says.
struct Gateway {
    conditions: watch::Receiver<BTreeMap<&'static str, String>>,
    task: JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn host(octet: u8) -> Host {
    let mut host = Host::default();
    for (link, net) in [
        ("eth0", format!("172.30.{octet}.11/24")),
        ("cni0", format!("10.{octet}.1.1/24")),
    ] {
        let kind = LinkKind::Bridge;
        host.links.insert(
            link.into(),
            Link {
                kind,
                mtu: 1500,
                up: true,
                mac: None,
                alias: None,
                master: None,
            },
        );
        host.addresses.insert(Address {
            link: link.into(),
            net: net.parse().unwrap(),
            scope: Scope::Global,
        });
    }
    host
}

fn start(octet: u8, cluster: Client, broker: Client) -> Gateway {
    let settings = Settings {
        node: "gw".into(),
        hostname: format!("gw{octet}"),
        namespace: "default".into(),
        broker_namespace: "default".into(),
        cluster: "east".parse().unwrap(),
        cluster_cidrs: vec![format!("10.{octet}.0.0/16").parse().unwrap()],
        service_cidrs: Vec::new(),
        driver: Driver::Vxlan,
        port: 4500,
        nat_enabled: false,
        public_ip: String::new(),
        air_gapped: true,
        health_check: true,
        version: "test".into(),
        uid: format!("uid-{octet}"),
    };
    let (to, mut from) = channel(1024);
    inputs::start(&cluster, &broker, &settings, &to);
    let metrics = Metrics::new("test");
    let (written, mut reports) = mpsc::unbounded_channel();
    let local = writer::start(
        "cluster",
        cluster,
        Annotations::Exact,
        metrics.clone(),
        written.clone(),
    );
    let remote = writer::start("broker", broker, Annotations::Exact, metrics, written);
    let (say, conditions) = watch::channel(BTreeMap::new());
    let task = tokio::spawn(async move {
        let begun = Instant::now();
        let mut state = State::new(settings);
        let node = strait_api::Node {
            internal_ips: vec![format!("172.30.{octet}.11").parse().unwrap()],
            ..strait_api::Node::default()
        };
        state.apply(Input::Host(Arc::new(host(octet))), Time::default());
        // It is the only one of its cluster.
        let first = Standing::Active(Term {
            lease: 1,
            ballot: 0,
        });
        state.apply(Input::Standing(first), Time::default());
        loop {
            let input = tokio::select! {
                input = from.recv() => match input {
                    // This server has no Node that is ours.
                    Some(Input::Nodes(_)) => Input::Nodes(Event::Reset([("gw".to_owned(), Ok(node.clone()))].into())),
                    Some(input) => input,
                    None => return,
                },
                report = reports.recv() => match report {
                    Some(Report::Stored { wanted, stored }) => Input::Stored { wanted, stored },
                    Some(Report::Failures(_)) | None => continue,
                },
            };
            state.apply(input, Time(begun.elapsed()));
            let plan = state.plan();
            replace(&local, plan.local);
            replace(&remote, plan.broker);
            let said = plan.conditions.into_iter();
            replace(&say, said.map(|c| (c.name, c.message)).collect());
        }
    });
    Gateway { conditions, task }
}

impl Gateway {
    async fn says(&mut self, name: &str) -> String {
        let said = self.conditions.wait_for(|all| all.contains_key(name));
        let said = timeout(Duration::from_secs(20), said).await;
        said.expect("it does not say so").unwrap()[name].clone()
    }
}

fn api(client: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &kind.resource())
}

async fn there(client: &Client) -> Vec<Object> {
    let mut all = Vec::new();
    for kind in [Kind::Cluster, Kind::Endpoint] {
        let list = api(client, kind)
            .list(&ListParams::default())
            .await
            .unwrap();
        all.extend(list.items.iter().map(|o| Object::read(kind, o)));
    }
    all
}

/// Counts changes of a kind for ten seconds.
async fn changes(client: &Client, kind: Kind) -> usize {
    let api = api(client, kind);
    let version = api.list(&ListParams::default()).await.unwrap();
    let version = version.metadata.resource_version.unwrap();
    let events = api.watch(&WatchParams::default(), &version).await.unwrap();
    let mut events = events.boxed();
    let end = Instant::now() + Duration::from_secs(10);
    let mut count = 0;
    while let Ok(Some(event)) = tokio::time::timeout_at(end, events.next()).await {
        if !matches!(event.unwrap(), WatchEvent::Bookmark(_)) {
            count += 1;
        }
    }
    count
}

async fn assert_at_rest(broker: &Client) {
    let (clusters, endpoints) = tokio::join!(
        changes(broker, Kind::Cluster),
        changes(broker, Kind::Endpoint)
    );
    assert_eq!((clusters, endpoints), (0, 0), "writes within 10 s");
}

#[tokio::test]
async fn the_later_of_two_clusters_with_one_id_writes_nothing_and_names_both() {
    let (broker, one, two) = tokio::join!(Server::start(), Server::start(), Server::start());
    let mut first = start(1, one.admin.clone(), broker.admin.clone());
    while there(&broker.admin).await.len() < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    let before = there(&broker.admin).await;
    let mut second = start(2, two.admin.clone(), broker.admin.clone());
    let message = second.says("DuplicateClusterId").await;
    for part in ["gw1 (172.30.1.11)", "gw2 (172.30.2.11)"] {
        assert!(message.contains(part), "{message}");
    }
    assert_at_rest(&broker.admin).await;
    assert_eq!(there(&broker.admin).await, before);
    assert!(
        !first
            .conditions
            .borrow_and_update()
            .contains_key("DuplicateClusterId")
    );
    // A restart changes nothing of that, whoever is quicker; the identity is in the cluster.
    drop((first, second));
    let mut second = start(2, two.admin.clone(), broker.admin.clone());
    second.says("DuplicateClusterId").await;
    let _first = start(1, one.admin.clone(), broker.admin.clone());
    sleep(Duration::from_secs(1)).await;
    let owners = there(&broker.admin).await;
    assert!(
        owners
            .iter()
            .all(|o| o.annotations["strait.io/cluster-uid"] == "uid-1")
    );
}

#[tokio::test]
async fn two_clusters_with_one_id_that_start_at_once_come_to_rest() {
    let (broker, one, two) = tokio::join!(Server::start(), Server::start(), Server::start());
    let _first = start(1, one.admin.clone(), broker.admin.clone());
    let _second = start(2, two.admin.clone(), broker.admin.clone());
    sleep(Duration::from_secs(2)).await;
    assert_at_rest(&broker.admin).await;
    let there = there(&broker.admin).await;
    assert_eq!(there.len(), 2, "{there:#?}");
    assert_eq!(
        there[0].annotations["strait.io/cluster-uid"],
        there[1].annotations["strait.io/cluster-uid"]
    );
}
