//! A broker whose token is rotated, which gets another certificate authority, is away, and comes back with other contents: over real
//! TLS, with the client and the watches of the gateway. Nothing is started anew.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::api::{Api, DynamicObject, PostParams};
use strait_api::{ClusterSpec, Kind, Object};
use strait_apiserver::Rule;
use strait_core::Event;
use strait_daemon::kube::{BrokerSettings, Proxies, broker_client};
use strait_daemon::objects::{events, list};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::server::Server;

const USER: &str = "cluster-east";

fn settings(server: SocketAddr, files: &Path) -> BrokerSettings {
    BrokerSettings {
        server: format!("https://{server}").parse().unwrap(),
        files: Some(files.to_owned()),
        token: None,
        ca: None,
        insecure: false,
        namespace: "default".into(),
        proxies: Proxies::default(),
    }
}

/// Puts what the server wants now where a Secret would be mounted.
fn mount(server: &Server, files: &Path) {
    let token = server.token(USER, vec![Rule::all()]);
    std::fs::write(files.join("token"), token).unwrap();
    std::fs::write(files.join("ca.crt"), server.ca()).unwrap();
}

/// Makes a Cluster there.
async fn add(server: &Server, name: &str) {
    let spec = ClusterSpec {
        cluster_id: name.into(),
        color_codes: Vec::new(),
        service_cidr: Vec::new(),
        cluster_cidr: Vec::new(),
        global_cidr: Vec::new(),
    };
    let object = Object::new(Kind::Cluster, "default", name).with("spec", &spec);
    let api: Api<DynamicObject> =
        Api::namespaced_with(server.admin.clone(), "default", &Kind::Cluster.resource());
    api.create(&PostParams::default(), &object.write())
        .await
        .unwrap();
}

type Events = BoxStream<'static, Event<String>>;

fn watch(client: &kube::Client) -> Events {
    let name = |object: Object| Ok(object.key.name);
    events(client, Kind::Cluster, Some("default"), name).boxed()
}

/// The next event that is as wanted, within so long.
async fn until(
    events: &mut Events,
    seconds: u64,
    good: impl Fn(&Event<String>) -> bool,
) -> Event<String> {
    let found = async {
        loop {
            let event = events.next().await.unwrap();
            if good(&event) {
                return event;
            }
        }
    };
    let found = timeout(Duration::from_secs(seconds), found).await;
    found.expect("it does not come")
}

fn listed(names: &'static [&str]) -> impl Fn(&Event<String>) -> bool {
    move |event| matches!(event, Event::Reset(all) if all.keys().eq(names))
}

fn failed(part: &'static str) -> impl Fn(&Event<String>) -> bool {
    move |event| matches!(event, Event::Failed(why) if why.contains(part))
}

#[tokio::test]
async fn a_token_that_is_rotated_is_taken_from_the_mounted_secret() {
    let (server, files) = (Server::start().await, TempDir::new().unwrap());
    mount(&server, files.path());
    add(&server, "one").await;
    let client = broker_client(&settings(server.address(), files.path())).unwrap();
    let ask = || list(&client, Kind::Cluster, "default");
    assert_eq!(ask().await.unwrap().len(), 1);
    server.revoke(USER);
    let error = ask().await.unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(s) if s.code == 401),
        "{error}"
    );
    // While it is written, it may be empty, or not be there.
    for half in ["", "\n"] {
        std::fs::write(files.path().join("token"), half).unwrap();
        sleep(Duration::from_millis(1100)).await;
        assert!(ask().await.is_err());
    }
    mount(&server, files.path());
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_broker_that_was_away_and_comes_back_as_another_is_followed() {
    let files = TempDir::new().unwrap();
    // It is not there when the gateway starts, nor is the Secret.
    let first = Server::start().await;
    let at = first.address();
    first.stop().await;
    let client = broker_client(&settings(at, files.path())).unwrap();
    let mut events = watch(&client);
    until(&mut events, 10, |event| matches!(event, Event::Failed(_))).await;

    let server = Server::at(at).await;
    add(&server, "one").await;
    mount(&server, files.path());
    until(&mut events, 15, listed(&["one"])).await;

    // It goes, and one with another authority and other contents takes its place: that is not believed by itself.
    server.stop().await;
    let server = Server::at(at).await;
    add(&server, "two").await;
    until(&mut events, 15, failed("ertificate")).await;
    mount(&server, files.path());
    until(&mut events, 15, listed(&["two"])).await;
    add(&server, "three").await;
    let more = |event: &Event<String>| matches!(event, Event::Applied(name, _) if name == "three");
    until(&mut events, 5, more).await;
}
