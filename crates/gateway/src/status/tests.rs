//! Against the embedded API server.

use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;
use strait_api::gateway::{Connection, ConnectionStatus, GatewayStatus, HaStatus, LatencyRtt};
use strait_api::{EndpointSpec, Kind};

use super::*;
use crate::server::Server;

fn api(server: &Server) -> Api<DynamicObject> {
    Api::namespaced_with(server.admin.clone(), "default", &Kind::Gateway.resource())
}

fn object(status: ConnectionStatus, rtt: &str) -> Object {
    let status = GatewayStatus {
        version: "test".into(),
        ha_status: HaStatus::Active,
        local_endpoint: EndpointSpec {
            cluster_id: "east".into(),
            ..EndpointSpec::default()
        },
        status_failure: String::new(),
        connections: vec![Connection {
            status,
            status_message: String::new(),
            endpoint: EndpointSpec {
                cluster_id: "west".into(),
                ..EndpointSpec::default()
            },
            using_ip: String::new(),
            using_nat: false,
            latency_rtt: Some(LatencyRtt {
                last: rtt.to_owned(),
                ..LatencyRtt::default()
            }),
        }],
    };
    Object::new(Kind::Gateway, "default", "gw").with("status", &status)
}

impl Writer {
    fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            written: None,
            beat: None,
        }
    }

    /// The heartbeat is due.
    fn due(&mut self) {
        self.beat = Instant::now().checked_sub(HEARTBEAT);
    }
}

async fn there(server: &Server) -> (Object, String) {
    let there = api(server).get("gw").await.unwrap();
    let version = there.metadata.resource_version.clone().unwrap();
    (Object::read(Kind::Gateway, &there), version)
}

#[tokio::test]
async fn the_object_is_written_when_it_changes_and_else_its_heartbeat_alone() {
    let server = Server::start().await;
    let mut writer = Writer::new(&server.admin);
    let good = object(ConnectionStatus::Connected, "1ms");
    assert!(writer.write(good.clone(), 100).await.unwrap());
    // Others have their say in the object: globalnet's address, and here a status by which a whole write would be seen.
    let foreign = json!({"metadata": {"annotations": {"submariner.io/globalIp": "242.0.0.1"}},
        "status": {"version": "foreign"}});
    let params = PatchParams::default();
    api(&server)
        .patch("gw", &params, &Patch::Merge(&foreign))
        .await
        .unwrap();
    let (_, version) = there(&server).await;
    // Nothing is due yet, whatever the round-trip times are.
    let slower = object(ConnectionStatus::Connected, "2ms");
    assert!(!writer.write(slower.clone(), 101).await.unwrap());
    assert_eq!(there(&server).await.1, version);
    writer.due();
    assert!(writer.write(slower.clone(), 105).await.unwrap());
    let (now, _) = there(&server).await;
    assert_eq!(now.annotations[ANNOTATION_UPDATE_TIMESTAMP], "105");
    assert_eq!(now.annotations["submariner.io/globalIp"], "242.0.0.1");
    assert_eq!(
        now.content["status"]["version"], "foreign",
        "the rest is not touched"
    );
    // A change is written at once, and round-trip times with it.
    let broken = object(ConnectionStatus::Error, "3ms");
    assert!(writer.write(broken.clone(), 106).await.unwrap());
    let (now, _) = there(&server).await;
    assert_eq!(now.content, broken.content);
    assert_eq!(now.annotations["submariner.io/globalIp"], "242.0.0.1");
    // Round-trip times by themselves, and what somebody else has changed, within half a minute.
    let slowest = object(ConnectionStatus::Error, "4ms");
    let (_, at) = writer.written.as_mut().unwrap();
    *at = at.checked_sub(REFRESH).unwrap();
    assert!(writer.write(slowest.clone(), 107).await.unwrap());
    assert_eq!(there(&server).await.0.content, slowest.content);
}

#[tokio::test]
async fn an_object_that_somebody_removes_is_back_with_the_next_heartbeat() {
    let server = Server::start().await;
    let mut writer = Writer::new(&server.admin);
    let object = object(ConnectionStatus::Connected, "1ms");
    writer.write(object.clone(), 100).await.unwrap();
    api(&server)
        .delete("gw", &Default::default())
        .await
        .unwrap();
    writer.due();
    assert!(writer.write(object.clone(), 105).await.unwrap());
    assert_eq!(there(&server).await.0.content, object.content);
}

#[tokio::test]
async fn who_may_not_patch_writes_the_whole() {
    let server = Server::start().await;
    let rules = vec![strait_apiserver::Rule {
        verbs: ["get", "create", "update"].map(str::to_owned).into(),
        groups: vec!["submariner.io".into()],
        resources: vec!["gateways".into()],
        namespaces: vec!["default".into()],
        own_label: None,
    }];
    let client = server.user("gateway", rules).await;
    let mut writer = Writer::new(&client);
    let object = object(ConnectionStatus::Connected, "1ms");
    writer.write(object.clone(), 100).await.unwrap();
    writer.due();
    assert!(writer.write(object, 105).await.unwrap());
    let (now, _) = there(&server).await;
    assert_eq!(now.annotations[ANNOTATION_UPDATE_TIMESTAMP], "105");
}

#[tokio::test]
async fn the_heartbeat_beats_though_nothing_is_said() {
    let server = Server::start().await;
    let metrics = Metrics::new("test");
    let gauges = Gauges::start(&metrics);
    let status = start(server.admin.clone(), metrics.clone(), gauges);
    status
        .wanted
        .send(Some(object(ConnectionStatus::Connected, "1ms")))
        .unwrap();
    let beat = || async {
        let there = api(&server).get_opt("gw").await.unwrap()?;
        there
            .metadata
            .annotations?
            .get(ANNOTATION_UPDATE_TIMESTAMP)?
            .parse::<i64>()
            .ok()
    };
    let begun = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(12), "{seen:?}");
        seen.extend(beat().await);
        seen.dedup();
        sleep(Duration::from_millis(100)).await;
    }
    assert!((5..8).contains(&(seen[1] - seen[0])), "{seen:?}");
    let writes = "submariner_gateway_sync_iterations 2\n";
    assert!(metrics.text().contains(writes), "{}", metrics.text());
}

#[tokio::test]
async fn the_object_goes_with_its_gateway() {
    let server = Server::start().await;
    let metrics = Metrics::new("test");
    let gauges = Gauges::start(&metrics);
    let status = start(server.admin.clone(), metrics, gauges);
    let object = object(ConnectionStatus::Connected, "1ms");
    status.wanted.send(Some(object.clone())).unwrap();
    let begun = Instant::now();
    while api(&server).get_opt("gw").await.unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(20)).await;
    }
    // What is under way is not written after it.
    let other = self::object(ConnectionStatus::Error, "1ms");
    status.wanted.send(Some(other)).unwrap();
    status.remove().await;
    sleep(Duration::from_millis(500)).await;
    assert!(api(&server).get_opt("gw").await.unwrap().is_none());
}
