use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use serde_json::json;
use strait_apiserver::{OwnLabel, Rule, Tokens};

use crate::support::*;

const ID: &str = "submariner-io/clusterID";

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn rule(verbs: &[&str], own: Option<&str>) -> Rule {
    Rule {
        verbs: strings(verbs),
        groups: strings(&["test.strait.io"]),
        resources: strings(&["cables"]),
        namespaces: strings(&["default"]),
        own_label: own.map(|value| OwnLabel {
            key: ID.to_owned(),
            value: value.to_owned(),
        }),
    }
}

fn owned(name: &str, cluster: &str) -> Cable {
    let mut cable = cable(name);
    cable.metadata.labels = Some([(ID.to_owned(), cluster.to_owned())].into());
    cable
}

#[tokio::test]
async fn who_shows_no_valid_token_sees_nothing() {
    let server = Server::start().await;
    let stranger = server.user("wrong").await;
    let api: Api<ConfigMap> = Api::namespaced(stranger.clone(), "default");
    let (code, reason, _) = refusal(api.list(&ListParams::default()).await);
    assert_eq!((code, reason.as_str()), (401, "Unauthorized"));
    assert_eq!(refusal(stranger.list_api_groups().await).0, 401);
    assert!(stranger.apiserver_version().await.is_ok());
}

#[tokio::test]
async fn a_token_added_while_the_server_runs_grants_its_rules_until_it_is_removed() {
    let server = Server::start().await;
    let admin = server.admin().await;
    define(&admin).await;
    let token = Tokens::change(server.dir.path(), |t| {
        t.add("east", vec![rule(&["get", "list"], None)])
    })
    .unwrap();
    let api = cables(&server.user(&token).await);
    assert!(
        api.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let (code, reason, message) = refusal(api.create(&PostParams::default(), &cable("a")).await);
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert!(
        message.contains("User \"east\" cannot create resource \"cables\""),
        "{message}"
    );
    let refused = api.watch(&WatchParams::default(), "0").await.map(|_| ());
    assert_eq!(refusal(refused).0, 403);
    let everywhere: Api<Cable> = Api::all(server.user(&token).await);
    assert_eq!(
        refusal(everywhere.list(&ListParams::default()).await).0,
        403
    );
    let maps: Api<ConfigMap> = Api::namespaced(server.user(&token).await, "default");
    assert_eq!(refusal(maps.list(&ListParams::default()).await).0, 403);
    Tokens::change(server.dir.path(), |t| Ok(t.remove("east"))).unwrap();
    assert_eq!(refusal(api.list(&ListParams::default()).await).0, 401);
}

#[tokio::test]
async fn a_cluster_writes_only_its_own_objects() {
    let server = Server::start().await;
    let admin = server.admin().await;
    define(&admin).await;
    let token = Tokens::change(server.dir.path(), |t| {
        t.add("east", vec![rule(&["*"], Some("east"))])
    })
    .unwrap();
    let api = cables(&server.user(&token).await);
    let post = PostParams::default();
    cables(&admin)
        .create(&post, &owned("w", "west"))
        .await
        .unwrap();
    api.create(&post, &owned("e", "east")).await.unwrap();
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items.len(),
        2,
        "all may be read"
    );

    let patch = PatchParams::default();
    let apply = PatchParams::apply("east").force();
    let theft = Patch::Merge(json!({"metadata": {"labels": {ID: "east"}}}));
    let gift = Patch::Merge(json!({"metadata": {"labels": {ID: "west"}}}));
    let west = json!({"apiVersion": "test.strait.io/v1", "kind": "Cable",
        "metadata": {"labels": {ID: "west"}}, "spec": {"cluster": "x"}});
    let mut stolen = cables(&admin).get("w").await.unwrap();
    stolen.metadata.labels = owned("w", "east").metadata.labels;
    for refused in [
        api.create(&post, &owned("x", "west")).await,
        api.create(&post, &cable("x")).await,
        api.patch("w", &patch, &theft).await,
        api.patch("e", &patch, &gift).await,
        api.replace("w", &post, &stolen).await,
        api.patch("w", &apply, &Patch::Apply(west.clone())).await,
        api.patch("x", &apply, &Patch::Apply(west)).await,
        api.delete("w", &DeleteParams::default())
            .await
            .map(|e| e.left().unwrap()),
    ] {
        assert_eq!(refusal(refused).0, 403);
    }
    assert_eq!(
        refusal(
            api.delete_collection(&DeleteParams::default(), &ListParams::default())
                .await
        )
        .0,
        403
    );
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );

    api.patch("e", &patch, &Patch::Merge(json!({"spec": {"port": 1}})))
        .await
        .unwrap();
    let own = ListParams::default().labels(&format!("{ID}=east"));
    api.delete_collection(&DeleteParams::default(), &own)
        .await
        .unwrap();
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
}

#[tokio::test]
async fn an_apply_that_creates_needs_the_right_to_create() {
    let server = Server::start().await;
    define(&server.admin().await).await;
    let token = Tokens::change(server.dir.path(), |t| {
        t.add("p", vec![rule(&["patch"], None)])
    })
    .unwrap();
    let api = cables(&server.user(&token).await);
    let config =
        json!({"apiVersion": "test.strait.io/v1", "kind": "Cable", "spec": {"cluster": "x"}});
    assert_eq!(
        refusal(
            api.patch("a", &PatchParams::apply("p"), &Patch::Apply(config))
                .await
        )
        .0,
        403
    );
}

#[tokio::test]
async fn a_watch_shows_nothing_more_once_its_token_is_gone() {
    let server = Server::start().await;
    let admin = server.admin().await;
    define(&admin).await;
    let token = Tokens::change(server.dir.path(), |t| {
        t.add("w", vec![rule(&["watch"], None)])
    })
    .unwrap();
    let api = cables(&server.user(&token).await);
    let mut watch = pin!(api.watch(&WatchParams::default(), "0").await.unwrap());
    cables(&admin)
        .create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    assert!(matches!(
        soon(watch.next()).await,
        Some(Ok(WatchEvent::Added(_)))
    ));
    Tokens::change(server.dir.path(), |t| Ok(t.remove("w"))).unwrap();
    cables(&admin)
        .create(&PostParams::default(), &cable("b"))
        .await
        .unwrap();
    assert!(soon(watch.next()).await.is_none());
}
