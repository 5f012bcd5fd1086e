use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::*;

async fn maps(server: &Server) -> Api<ConfigMap> {
    Api::namespaced(server.admin().await, "default")
}

fn config(data: Value) -> Patch<Value> {
    Patch::Apply(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}),
    )
}

fn data(map: ConfigMap) -> Value {
    json!(map.data)
}

#[tokio::test]
async fn an_apply_creates_and_then_owns_its_fields() {
    let server = Server::start().await;
    let api = maps(&server).await;
    let mine = PatchParams::apply("me");
    let made = api
        .patch("a", &mine, &config(json!({"x": "1", "y": "2"})))
        .await
        .unwrap();
    let entry = &made.managed_fields()[0];
    assert_eq!(
        (entry.manager.as_deref(), entry.operation.as_deref()),
        (Some("me"), Some("Apply"))
    );
    assert_eq!(
        json!(entry.fields_v1),
        json!({"f:data": {"f:x": {}, "f:y": {}}})
    );

    let again = api
        .patch("a", &mine, &config(json!({"x": "1", "y": "2"})))
        .await
        .unwrap();
    assert_eq!(
        again.resource_version(),
        made.resource_version(),
        "the same apply again is no write"
    );
    let less = api
        .patch("a", &mine, &config(json!({"x": "1"})))
        .await
        .unwrap();
    assert_eq!(data(less), json!({"x": "1"}), "what I no longer apply goes");
}

#[tokio::test]
async fn fields_of_others_are_kept_and_fought_for_only_by_force() {
    let server = Server::start().await;
    let api = maps(&server).await;
    let (mine, theirs) = (PatchParams::apply("me"), PatchParams::apply("they"));
    api.patch("a", &mine, &config(json!({"x": "1"})))
        .await
        .unwrap();
    let both = api
        .patch("a", &theirs, &config(json!({"x": "1", "y": "2"})))
        .await
        .unwrap();
    assert_eq!(
        data(both),
        json!({"x": "1", "y": "2"}),
        "the same value is shared without conflict"
    );

    let (code, reason, message) = refusal(
        api.patch("a", &theirs, &config(json!({"x": "9", "y": "2"})))
            .await,
    );
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(
        message.contains("conflict with \"me\"") && message.contains(".data.x"),
        "{message}"
    );

    let forced = api
        .patch(
            "a",
            &theirs.clone().force(),
            &config(json!({"x": "9", "y": "2"})),
        )
        .await
        .unwrap();
    assert_eq!(data(forced.clone()), json!({"x": "9", "y": "2"}));
    assert!(
        forced
            .managed_fields()
            .iter()
            .all(|e| e.manager.as_deref() != Some("me")),
        "nothing is left to me"
    );

    let shared = api
        .patch("a", &mine, &config(json!({"y": "2"})))
        .await
        .unwrap();
    assert_eq!(data(shared), json!({"x": "9", "y": "2"}));
    let theirs_only = api
        .patch("a", &theirs, &config(json!({"x": "9"})))
        .await
        .unwrap();
    assert_eq!(
        data(theirs_only),
        json!({"x": "9", "y": "2"}),
        "y is still mine"
    );
}

#[tokio::test]
async fn ordinary_writes_own_what_they_change() {
    let server = Server::start().await;
    let api = maps(&server).await;
    let edit = PatchParams {
        field_manager: Some("editor".into()),
        ..PatchParams::default()
    };
    api.patch("a", &PatchParams::apply("me"), &config(json!({"x": "1"})))
        .await
        .unwrap();
    api.patch(
        "a",
        &edit,
        &Patch::Merge(json!({"data": {"x": "2", "z": "3"}})),
    )
    .await
    .unwrap();
    let (_, _, message) = refusal(
        api.patch("a", &PatchParams::apply("me"), &config(json!({"x": "1"})))
            .await,
    );
    assert!(
        message.contains("conflict with \"editor\" using v1: .data.x"),
        "{message}"
    );
    api.patch("a", &edit, &Patch::Merge(json!({"data": {"x": null}})))
        .await
        .unwrap();
    let map = api
        .patch("a", &PatchParams::apply("me"), &config(json!({"x": "1"})))
        .await
        .unwrap();
    assert_eq!(
        data(map),
        json!({"x": "1", "z": "3"}),
        "what was removed belongs to nobody"
    );
}

#[tokio::test]
async fn conditions_of_two_managers_live_side_by_side() {
    let server = Server::start().await;
    let nodes: Api<Node> = Api::all(server.admin().await);
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let condition = |kind: &str, status: &str| {
        Patch::Apply(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"conditions": [{"type": kind, "status": status}]}}),
        )
    };
    let (a, b) = (PatchParams::apply("a"), PatchParams::apply("b"));
    nodes
        .patch_status("n", &a, &condition("Ready", "True"))
        .await
        .unwrap();
    nodes
        .patch_status("n", &b, &condition("NetworkUnavailable", "False"))
        .await
        .unwrap();
    let both = nodes
        .patch_status("n", &a, &condition("Ready", "False"))
        .await
        .unwrap();
    let list = |n: &Node| {
        n.status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten())
            .map(|c| format!("{}={}", c.type_, c.status))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&both), ["Ready=False", "NetworkUnavailable=False"]);
    assert_eq!(
        both.managed_fields()
            .iter()
            .filter(|e| e.subresource.as_deref() == Some("status"))
            .count(),
        2
    );
    let none = Patch::Apply(
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {}}),
    );
    assert_eq!(
        list(&nodes.patch_status("n", &a, &none).await.unwrap()),
        ["NetworkUnavailable=False"]
    );
}

#[tokio::test]
async fn labels_and_finalizers_are_owned_one_by_one() {
    let server = Server::start().await;
    let api = maps(&server).await;
    let meta = |metadata: Value| {
        Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}))
    };
    let (a, b) = (PatchParams::apply("a"), PatchParams::apply("b"));
    api.patch(
        "a",
        &a,
        &meta(json!({"labels": {"x": "1"}, "finalizers": ["s.io/a"]})),
    )
    .await
    .unwrap();
    let both = api
        .patch(
            "a",
            &b,
            &meta(json!({"labels": {"y": "2"}, "finalizers": ["s.io/b"]})),
        )
        .await
        .unwrap();
    assert_eq!(
        (both.labels().len(), both.finalizers()),
        (2, &["s.io/a".to_owned(), "s.io/b".to_owned()][..])
    );
    let one = api.patch("a", &a, &meta(json!({}))).await.unwrap();
    assert_eq!(
        (one.labels().keys().collect::<Vec<_>>(), one.finalizers()),
        (vec![&"y".to_owned()], &["s.io/b".to_owned()][..])
    );
}

#[tokio::test]
async fn an_apply_to_status_leaves_the_specification_alone_and_the_reverse() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    let whole = |cluster: &str, up: bool| {
        Patch::Apply(
            json!({"apiVersion": "test.strait.io/v1", "kind": "Cable", "metadata": {"name": "a"},
            "spec": {"cluster": cluster}, "status": {"up": up}}),
        )
    };
    let params = PatchParams::apply("me");
    assert_eq!(
        refusal(api.patch_status("a", &params, &whole("x", true)).await).0,
        404
    );
    assert_eq!(
        api.patch("a", &params, &whole("x", true))
            .await
            .unwrap()
            .status,
        None
    );
    let after = api
        .patch_status("a", &params, &whole("y", true))
        .await
        .unwrap();
    assert_eq!(
        (after.spec.cluster.as_str(), after.status),
        ("x", Some(CableStatus { up: true }))
    );
    let after = api.patch("a", &params, &whole("z", false)).await.unwrap();
    assert_eq!(
        (after.spec.cluster.as_str(), after.status),
        ("z", Some(CableStatus { up: true }))
    );
}

#[tokio::test]
async fn an_apply_must_say_who_and_what() {
    let server = Server::start().await;
    let client = server.admin().await;
    let api = maps(&server).await;
    let anonymous = http::Request::patch("/api/v1/namespaces/default/configmaps/a")
        .header("content-type", "application/apply-patch+yaml")
        .body(b"apiVersion: v1\nkind: ConfigMap\n".to_vec())
        .unwrap();
    assert_eq!(refusal(client.request::<Value>(anonymous).await).0, 400);
    let no_kind = Patch::Apply(json!({"apiVersion": "v1", "data": {}}));
    assert_eq!(
        refusal(api.patch("a", &PatchParams::apply("me"), &no_kind).await).0,
        400
    );
    let yaml = http::Request::patch("/api/v1/namespaces/default/configmaps/a?fieldManager=me")
        .header("content-type", "application/apply-patch+yaml")
        .body(b"apiVersion: v1\nkind: ConfigMap\ndata:\n  x: 'yes'\n".to_vec())
        .unwrap();
    let made: ConfigMap = client.request(yaml).await.unwrap();
    assert_eq!(data(made), json!({"x": "yes"}));
}
