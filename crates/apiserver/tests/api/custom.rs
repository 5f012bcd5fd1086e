use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
    ValidationDirective,
};
use kube::core::ApiResource;
use kube::{CustomResourceExt, ResourceExt};
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn a_definition_is_established_and_serves_at_once() {
    let server = Server::start().await;
    let client = server.admin().await;
    assert_eq!(
        refusal(cables(&client).list(&ListParams::default()).await).0,
        404
    );
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = api
        .create(&PostParams::default(), &Cable::crd())
        .await
        .unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    assert!(kube::runtime::wait::Condition::matches_object(
        &established,
        Some(&crd)
    ));
    cables(&client)
        .create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();

    let same = api
        .patch(
            &crd.name_any(),
            &PatchParams::apply("x").force(),
            &Patch::Apply(Cable::crd()),
        )
        .await
        .unwrap();
    assert_eq!(same.metadata.generation, crd.metadata.generation);
    api.delete(&crd.name_any(), &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(
        refusal(cables(&client).list(&ListParams::default()).await).0,
        404
    );
    api.create(&PostParams::default(), &Cable::crd())
        .await
        .unwrap();
    assert!(
        cables(&client)
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_definition_that_cannot_be_served_is_refused() {
    let server = Server::start().await;
    let api: Api<CustomResourceDefinition> = Api::all(server.admin().await);
    let mut wrong_name = Cable::crd();
    wrong_name.metadata.name = Some("things.test.strait.io".into());
    let mut no_storage = Cable::crd();
    no_storage.spec.versions[0].storage = false;
    let mut no_schema = Cable::crd();
    no_schema.spec.versions[0].schema = None;
    for crd in [wrong_name, no_storage, no_schema] {
        let (code, reason, message) = refusal(api.create(&PostParams::default(), &crd).await);
        assert_eq!((code, reason.as_str()), (422, "Invalid"), "{message}");
    }
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_validated_by_their_schema() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let resource = ApiResource::erase::<Cable>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let object = |name: &str, spec: Value| -> DynamicObject {
        let text = json!({
            "apiVersion": "test.strait.io/v1", "kind": "Cable", "metadata": {"name": name}, "spec": spec, "extra": 1,
        });
        serde_json::from_value(text).unwrap()
    };
    let made = api
        .create(
            &PostParams::default(),
            &object("a", json!({"cluster": "x", "typo": 1})),
        )
        .await
        .unwrap();
    assert_eq!(
        made.data,
        json!({"spec": {"cluster": "x", "backend": "vxlan"}}),
        "typo and extra go, backend comes"
    );

    for (spec, path) in [
        (json!({}), "spec.cluster"),
        (json!({"cluster": 1}), "spec.cluster"),
        (json!({"cluster": "x", "port": 70_000}), "spec.port"),
        (json!({"cluster": "x", "port": 0}), "spec.port"),
        (
            json!({"cluster": "x", "subnets": ["a", 1]}),
            "spec.subnets[1]",
        ),
        (json!([]), "spec"),
    ] {
        let result = api.create(&PostParams::default(), &object("b", spec)).await;
        let Err(kube::Error::Api(status)) = result else {
            panic!("{path} was taken")
        };
        assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
        let fields = status
            .details
            .clone()
            .unwrap()
            .causes
            .into_iter()
            .map(|c| c.field)
            .collect::<Vec<_>>();
        assert_eq!(fields, [path], "{}", status.message);
    }
    let strict = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({"spec": {"typo": 1}}));
    let (code, _, message) = refusal(api.patch("a", &strict, &patch).await);
    assert!(code == 400 && message.contains("spec.typo"), "{message}");
}

#[tokio::test]
async fn status_is_apart_where_the_definition_says_so_and_a_field_where_not() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    let mut wanted = cable("a");
    wanted.status = Some(CableStatus { up: true });
    let made = api.create(&PostParams::default(), &wanted).await.unwrap();
    assert_eq!(
        (made.status.clone(), made.metadata.generation),
        (None, Some(1))
    );

    let mut both = made.clone();
    both.spec.cluster = "ignored".into();
    both.status = Some(CableStatus { up: true });
    let after = api
        .replace_status("a", &PostParams::default(), &both)
        .await
        .unwrap();
    assert_eq!(
        (after.spec.cluster.as_str(), after.metadata.generation),
        ("a", Some(1))
    );
    assert_eq!(after.status, Some(CableStatus { up: true }));

    let mut both = after.clone();
    both.spec.cluster = "b".into();
    both.status = None;
    let after = api
        .replace("a", &PostParams::default(), &both)
        .await
        .unwrap();
    assert_eq!(
        (after.status, after.metadata.generation),
        (Some(CableStatus { up: true }), Some(2))
    );

    let plain: Api<Plain> = Api::namespaced(client, "default");
    plain
        .create(
            &PostParams::default(),
            &Plain::new("p", PlainSpec { text: "x".into() }),
        )
        .await
        .unwrap();
    let patch = Patch::Merge(json!({"status": {}}));
    assert_eq!(
        refusal(
            plain
                .patch_status("p", &PatchParams::default(), &patch)
                .await
        )
        .0,
        404
    );
}

#[tokio::test]
async fn an_update_must_say_which_version_it_changes() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    api.create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    let (code, _, message) = refusal(api.replace("a", &PostParams::default(), &cable("a")).await);
    assert!(
        code == 422 && message.contains("metadata.resourceVersion"),
        "{message}"
    );
}

#[tokio::test]
async fn every_served_version_shows_the_same_objects() {
    let server = Server::start().await;
    let client = server.admin().await;
    let mut crd = Cable::crd();
    let mut beta = crd.spec.versions[0].clone();
    (beta.name, beta.storage) = ("v1beta1".into(), false);
    crd.spec.versions.push(beta);
    Api::<CustomResourceDefinition>::all(client.clone())
        .create(&PostParams::default(), &crd)
        .await
        .unwrap();
    cables(&client)
        .create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    let resource = ApiResource {
        version: "v1beta1".into(),
        api_version: "test.strait.io/v1beta1".into(),
        ..ApiResource::erase::<Cable>(&())
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let one = api.get("a").await.unwrap();
    assert_eq!(one.types.unwrap().api_version, "test.strait.io/v1beta1");
    let patch = Patch::Merge(json!({"spec": {"cluster": "new"}}));
    api.patch("a", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(cables(&client).get("a").await.unwrap().spec.cluster, "new");
}
