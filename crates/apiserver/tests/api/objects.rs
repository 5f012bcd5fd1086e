use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Client, Discovery, ResourceExt};
use serde_json::{Value, json};

use crate::support::*;

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

fn map(value: Value) -> ConfigMap {
    serde_json::from_value(value).unwrap()
}

fn named(name: &str) -> ConfigMap {
    map(json!({"metadata": {"name": name, "labels": {"n": name}}, "data": {"a": "1"}}))
}

#[tokio::test]
async fn objects_are_created_read_replaced_and_deleted() {
    let server = Server::start().await;
    let api = maps(&server.admin().await);
    let made = api
        .create(&PostParams::default(), &named("a"))
        .await
        .unwrap();
    assert!(made.uid().unwrap().len() == 36 && made.creation_timestamp().is_some());
    assert_eq!(
        refusal(api.create(&PostParams::default(), &named("a")).await).1,
        "AlreadyExists"
    );

    let mut changed = made.clone();
    changed
        .data
        .as_mut()
        .unwrap()
        .insert("b".into(), "2".into());
    changed.metadata.uid = None;
    let replaced = api
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap();
    assert_eq!(
        (replaced.uid(), replaced.creation_timestamp()),
        (made.uid(), made.creation_timestamp())
    );
    assert_ne!(replaced.resource_version(), made.resource_version());
    let (code, reason, message) = refusal(api.replace("a", &PostParams::default(), &changed).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"), "{message}");

    let same = api
        .replace("a", &PostParams::default(), &replaced)
        .await
        .unwrap();
    assert_eq!(
        same.resource_version(),
        replaced.resource_version(),
        "a write that changes nothing is none"
    );
    assert_eq!(api.get("a").await.unwrap(), replaced);

    assert!(
        api.delete("a", &DeleteParams::default())
            .await
            .unwrap()
            .is_right()
    );
    assert_eq!(refusal(api.get("a").await).0, 404);
    assert_eq!(
        refusal(api.delete("a", &DeleteParams::default()).await).1,
        "NotFound"
    );
    assert!(api.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_name_is_generated_where_only_a_prefix_is_given() {
    let server = Server::start().await;
    let api = maps(&server.admin().await);
    let wanted = map(json!({"metadata": {"generateName": "x-"}}));
    let (a, b) = (
        api.create(&PostParams::default(), &wanted).await.unwrap(),
        api.create(&PostParams::default(), &wanted).await.unwrap(),
    );
    assert!(
        a.name_any().starts_with("x-") && a.name_any().len() == 7 && a.name_any() != b.name_any()
    );
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = Server::start().await;
    let api = maps(&server.admin().await);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    assert_eq!(api.create(&dry, &named("a")).await.unwrap().name_any(), "a");
    assert_eq!(refusal(api.get("a").await).0, 404);

    let made = api
        .create(&PostParams::default(), &named("a"))
        .await
        .unwrap();
    let mut changed = made.clone();
    changed.data = None;
    assert_eq!(api.replace("a", &dry, &changed).await.unwrap().data, None);
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let patched = api
        .patch("a", &params, &Patch::Merge(json!({"data": {"z": "1"}})))
        .await
        .unwrap();
    assert!(patched.data.unwrap().contains_key("z"));
    let _ = api
        .delete("a", &DeleteParams::default().dry_run())
        .await
        .unwrap();
    let _ = api
        .delete_collection(&DeleteParams::default().dry_run(), &ListParams::default())
        .await
        .unwrap();
    assert_eq!(api.get("a").await.unwrap(), made);
}

#[tokio::test]
async fn lists_take_selectors_and_come_in_pages() {
    let server = Server::start().await;
    let api = maps(&server.admin().await);
    for name in ["a", "b", "c", "d", "e"] {
        api.create(&PostParams::default(), &named(name))
            .await
            .unwrap();
    }
    let names = |list: &kube::core::ObjectList<ConfigMap>| {
        list.items.iter().map(|m| m.name_any()).collect::<Vec<_>>()
    };
    let labels = |text: &str| ListParams::default().labels(text);
    assert_eq!(
        names(&api.list(&labels("n in (a, c),n!=c")).await.unwrap()),
        ["a"]
    );
    assert_eq!(
        names(
            &api.list(&ListParams::default().fields("metadata.name=d"))
                .await
                .unwrap()
        ),
        ["d"]
    );
    assert_eq!(
        names(
            &api.list(&ListParams::default().fields("data.a=2"))
                .await
                .unwrap()
        ),
        Vec::<String>::new()
    );
    assert_eq!(refusal(api.list(&labels("n in (")).await).0, 400);

    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(
        (names(&first), first.metadata.remaining_item_count),
        (vec!["a".into(), "b".into()], Some(3))
    );
    api.delete("c", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = api
        .list(&ListParams::default().limit(10).continue_token(&token))
        .await
        .unwrap();
    assert_eq!(names(&rest), ["c", "d", "e"], "all pages show one moment");
    assert_eq!(
        rest.metadata.resource_version,
        first.metadata.resource_version
    );
    assert_eq!(
        names(&api.list(&ListParams::default()).await.unwrap()),
        ["a", "b", "d", "e"]
    );
}

#[tokio::test]
async fn patches_of_three_kinds_change_what_they_say() {
    let server = Server::start().await;
    let client = server.admin().await;
    let api = maps(&client);
    api.create(&PostParams::default(), &named("a"))
        .await
        .unwrap();
    let params = PatchParams::default();
    let merge = Patch::Merge(json!({"data": {"a": null, "b": "2"}}));
    assert_eq!(
        api.patch("a", &params, &merge)
            .await
            .unwrap()
            .data
            .unwrap()
            .into_iter()
            .collect::<Vec<_>>(),
        [("b".into(), "2".into())]
    );
    let strategic = Patch::Strategic(json!({"data": {"c": "3"}}));
    assert_eq!(
        api.patch("a", &params, &strategic)
            .await
            .unwrap()
            .data
            .unwrap()
            .len(),
        2
    );
    let request = http::Request::patch("/api/v1/namespaces/default/configmaps/a")
        .header("content-type", "application/json-patch+json")
        .body(br#"[{"op": "move", "from": "/data/c", "path": "/data/d"}]"#.to_vec())
        .unwrap();
    let moved: ConfigMap = client.request(request).await.unwrap();
    assert_eq!(
        moved.data.unwrap().into_keys().collect::<Vec<_>>(),
        ["b", "d"]
    );
    let stale = Patch::Merge(json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "1"}}));
    assert_eq!(refusal(api.patch("a", &params, &stale).await).0, 409);
    assert_eq!(refusal(api.patch("none", &params, &merge).await).0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::start().await;
    let api = maps(&server.admin().await);
    let held = map(json!({"metadata": {"name": "a", "finalizers": ["strait.io/x"]}}));
    api.create(&PostParams::default(), &held).await.unwrap();
    let going = api
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    let since = going.metadata.deletion_timestamp.clone().unwrap();
    let again = api
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(again.metadata.deletion_timestamp, Some(since));
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["strait.io/x", "strait.io/y"]}}));
    assert_eq!(
        refusal(api.patch("a", &PatchParams::default(), &more).await).0,
        422
    );
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("a", &PatchParams::default(), &none)
        .await
        .unwrap();
    assert_eq!(refusal(api.get("a").await).0, 404);
}

#[tokio::test]
async fn a_deletion_with_preconditions_spares_another_object_of_that_name() {
    let server = Server::start().await;
    let api = maps(&server.admin().await);
    let made = api
        .create(&PostParams::default(), &named("a"))
        .await
        .unwrap();
    let only = |uid: &str| {
        let preconditions = Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        };
        DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        }
    };
    assert_eq!(refusal(api.delete("a", &only("other")).await).0, 409);
    api.delete("a", &only(&made.uid().unwrap())).await.unwrap();
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    let api = maps(&server.admin().await);
    for name in ["a", "b", "c"] {
        api.create(&PostParams::default(), &named(name))
            .await
            .unwrap();
    }
    let some = ListParams::default().labels("n!=b");
    let gone = api
        .delete_collection(&DeleteParams::default(), &some)
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(gone.items.len(), 2);
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
}

#[tokio::test]
async fn namespaces_must_exist_and_take_their_content_along() {
    let server = Server::start().await;
    let client = server.admin().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let inside: Api<ConfigMap> = Api::namespaced(client.clone(), "x");
    let (code, _, message) = refusal(inside.create(&PostParams::default(), &named("a")).await);
    assert_eq!(
        (code, message.as_str()),
        (404, "namespaces \"x\" not found")
    );

    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "x"}})).unwrap();
    let made = namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Active"));
    inside
        .create(&PostParams::default(), &named("a"))
        .await
        .unwrap();
    let held = map(json!({"metadata": {"name": "held", "finalizers": ["strait.io/x"]}}));
    inside.create(&PostParams::default(), &held).await.unwrap();

    namespaces
        .delete("x", &DeleteParams::default())
        .await
        .unwrap();
    let left = inside.list(&ListParams::default()).await.unwrap();
    assert_eq!(
        left.items
            .iter()
            .map(ResourceExt::name_any)
            .collect::<Vec<_>>(),
        ["held"]
    );
    assert_eq!(
        namespaces
            .get("x")
            .await
            .unwrap()
            .status
            .unwrap()
            .phase
            .as_deref(),
        Some("Terminating")
    );
    assert_eq!(
        refusal(inside.create(&PostParams::default(), &named("b")).await).0,
        403
    );
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    inside
        .patch("held", &PatchParams::default(), &none)
        .await
        .unwrap();
    assert_eq!(refusal(namespaces.get("x").await).0, 404);
}

#[tokio::test]
async fn status_of_builtin_kinds_is_a_world_of_its_own() {
    let server = Server::start().await;
    let client = server.admin().await;
    let nodes: Api<Node> = Api::all(client.clone());
    let address = |ip: &str| json!({"addresses": [{"type": "InternalIP", "address": ip}]});
    let node =
        serde_json::from_value(json!({"metadata": {"name": "n"}, "status": address("10.0.0.1")}))
            .unwrap();
    let made = nodes.create(&PostParams::default(), &node).await.unwrap();
    assert!(
        made.status.is_some_and(|s| s.addresses.is_some()),
        "a kubelet registers a node with its status"
    );
    let params = PatchParams::default();
    nodes
        .patch(
            "n",
            &params,
            &Patch::Merge(json!({"status": address("10.0.0.9")})),
        )
        .await
        .unwrap();
    let ip = |n: Node| n.status.unwrap().addresses.unwrap()[0].address.clone();
    assert_eq!(ip(nodes.get("n").await.unwrap()), "10.0.0.1");
    let patch = Patch::Merge(
        json!({"status": address("10.0.0.2"), "metadata": {"labels": {"no": "label"}}}),
    );
    let patched = nodes.patch_status("n", &params, &patch).await.unwrap();
    assert!(patched.labels().is_empty());
    assert_eq!(ip(patched), "10.0.0.2");

    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"phase": "Running"}})).unwrap();
    let made = pods.create(&PostParams::default(), &pod).await.unwrap();
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
}

#[tokio::test]
async fn generation_counts_changes_of_the_specification_only() {
    let server = Server::start().await;
    let api: Api<Deployment> = Api::namespaced(server.admin().await, "default");
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {}},
    });
    let made = api
        .create(
            &PostParams::default(),
            &serde_json::from_value(deployment).unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let params = PatchParams::default();
    let patch = |value: Value| Patch::Merge(value);
    let labelled = api
        .patch(
            "d",
            &params,
            &patch(json!({"metadata": {"labels": {"x": "y"}}})),
        )
        .await
        .unwrap();
    assert_eq!(labelled.metadata.generation, Some(1));
    let ready = api
        .patch_status("d", &params, &patch(json!({"status": {"replicas": 1}})))
        .await
        .unwrap();
    assert_eq!(ready.metadata.generation, Some(1));
    let scaled = api
        .patch("d", &params, &patch(json!({"spec": {"replicas": 2}})))
        .await
        .unwrap();
    assert_eq!(scaled.metadata.generation, Some(2));
    assert_eq!(scaled.status.unwrap().replicas, Some(1));
}

#[tokio::test]
async fn discovery_finds_builtin_and_custom_resources_both_ways() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    assert_eq!(client.apiserver_version().await.unwrap().major, "1");
    for discovery in [
        Discovery::new(client.clone()).run().await.unwrap(),
        Discovery::new(client.clone())
            .run_aggregated()
            .await
            .unwrap(),
    ] {
        let group = discovery.get("test.strait.io").unwrap();
        let (resource, capabilities) = group.recommended_kind("Cable").unwrap();
        assert_eq!(
            (resource.plural.as_str(), resource.version.as_str()),
            ("cables", "v1")
        );
        assert!(
            capabilities
                .subresources
                .iter()
                .any(|(r, _)| r.plural == "status"),
            "{capabilities:?}"
        );
        assert!(
            discovery
                .get("")
                .unwrap()
                .recommended_kind("Node")
                .is_some()
        );
        assert!(discovery.has_group("coordination.k8s.io"));
    }
}

#[tokio::test]
async fn metadata_alone_can_be_asked_for() {
    let server = Server::start().await;
    let api = maps(&server.admin().await);
    api.create(&PostParams::default(), &named("a"))
        .await
        .unwrap();
    let one: PartialObjectMeta<ConfigMap> = api.get_metadata("a").await.unwrap();
    assert_eq!(one.name_any(), "a");
    let list = api.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(list.items[0].labels()["n"], "a");
}
