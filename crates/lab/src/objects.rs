//! The objects of a lab's clusters, and the broker's credentials.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use k8s_openapi::api::core::v1::{Namespace, Node as NodeObject, Pod as PodObject, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use strait_api::names::{BROKER_NAMESPACE, LABEL_CLUSTER_ID, LABEL_GATEWAY, NAMESPACE};
use strait_apiserver::{OwnLabel, Rule, Tokens};
use strait_host::Family;

use crate::netns;
use crate::options::Families;
use crate::topology::{Cluster, Node, POD_PORT, SERVICE_PORT};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where an API server keeps its state.
pub(crate) fn dir(server: &str) -> std::path::PathBuf {
    Path::new(crate::state::INSIDE).join(server)
}

/// A client of the API server on `server`, once it answers.
async fn client(server: &str) -> Result<Client> {
    let path = dir(server).join("admin.kubeconfig");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let last = match connect(&path).await {
            Ok(client) => match client.apiserver_version().await {
                Ok(_) => return Ok(client),
                Err(error) => error.to_string(),
            },
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!("the API server on {server} does not answer: {last}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn connect(path: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Sends a request as the administrator to the API server on `server`. An object is JSON; null is none.
///
/// It is sent on that machine: the way from anywhere else may be cut, or lead through a NAT.
pub(crate) fn request(server: &str, method: &str, path: &str, body: &Value) -> Result<Value> {
    let body = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(body)?
    };
    let content = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content)
        .body(body)
        .with_context(|| format!("no request: {method} {path}"))?;
    netns::find(server)?.run_async(async || {
        let answer = async {
            let client = connect(&dir(server).join("admin.kubeconfig")).await?;
            Ok(client.request(request).await?)
        };
        // One that stands still takes connections, and says nothing.
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer within {PATIENCE:?}"),
        }
    })?
}

/// What a cluster's API server holds before any agent starts.
pub(crate) fn cluster(cluster: &Cluster) -> Result<()> {
    let server = cluster.control();
    netns::find(&server)?
        .run_async(async || cluster_objects(&client(&server).await?, cluster).await)?
}

async fn cluster_objects(client: &Client, cluster: &Cluster) -> Result<()> {
    common(client, NAMESPACE).await?;
    let families = cluster.families;
    for node in &cluster.nodes {
        node_object(client, node, families).await?;
        for pod in &node.pods {
            let object = json!({
                "metadata": {"name": pod.name, "namespace": "default", "labels": {"app": "web"}},
                "spec": {"nodeName": node.name, "containers": [{"name": "web", "image": "web"}]},
                "status": {
                    "podIP": pod.ip(families.first()),
                    "podIPs": families.all().iter().map(|f| json!({"ip": pod.ip(*f)})).collect::<Vec<_>>(),
                    "hostIP": node.ip(families.first()),
                    "phase": "Running",
                },
            });
            create::<PodObject>(&Api::namespaced(client.clone(), "default"), object).await?;
        }
    }
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": SERVICE_PORT, "targetPort": POD_PORT});
    let services: Vec<_> = families
        .all()
        .iter()
        .map(|f| cluster.service_ip(*f))
        .collect();
    let service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": cluster.service_ip(families.first()), "clusterIPs": services, "selector": {"app": "web"}, "ports": [port("TCP"), port("UDP")]},
    });
    create::<Service>(&Api::namespaced(client.clone(), "default"), service).await
}

/// What the broker's API server holds before any gateway connects.
pub(crate) fn broker(server: &str) -> Result<()> {
    netns::find(server)?
        .run_async(async || common(&client(server).await?, BROKER_NAMESPACE).await)?
}

/// Lets a cluster read everything in the broker's namespace and write what carries its label; gives its token.
pub(crate) fn broker_token(cluster: &Cluster) -> Result<String> {
    let dir = dir("broker");
    std::fs::create_dir_all(&dir)?;
    let rule = |verbs: &[&str], own_label| Rule {
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        groups: vec!["*".to_owned()],
        resources: vec!["*".to_owned()],
        namespaces: vec![BROKER_NAMESPACE.to_owned()],
        own_label,
    };
    let own = OwnLabel {
        key: LABEL_CLUSTER_ID.to_owned(),
        value: cluster.name.clone(),
    };
    let rules = vec![
        rule(&["get", "list", "watch"], None),
        rule(
            &["create", "update", "patch", "delete", "deletecollection"],
            Some(own),
        ),
    ];
    let user = format!(
        "system:serviceaccount:{BROKER_NAMESPACE}:cluster-{}",
        cluster.name
    );
    Ok(Tokens::change(&dir, |tokens| tokens.add(&user, rules))?)
}

/// The broker's certificate authority, as `BROKER_K8S_CA` takes it, once the broker has written it.
pub(crate) fn broker_ca() -> Result<String> {
    let path = dir("broker").join("ca.crt");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(text))
}

async fn common(client: &Client, namespace: &str) -> Result<()> {
    let object = json!({"metadata": {"name": namespace}});
    create::<Namespace>(&Api::all(client.clone()), object).await?;
    for crd in strait_api::crds() {
        create::<CustomResourceDefinition>(&Api::all(client.clone()), serde_json::to_value(crd)?)
            .await?;
    }
    Ok(())
}

async fn node_object(client: &Client, node: &Node, families: Families) -> Result<()> {
    let mut labels = json!({"kubernetes.io/hostname": node.name});
    if let (true, Some(labels)) = (node.gateway, labels.as_object_mut()) {
        labels.insert(LABEL_GATEWAY.to_owned(), json!("true"));
    }
    let internal = |family: &Family| json!({"type": "InternalIP", "address": node.ip(*family)});
    let mut addresses: Vec<Value> = families.all().iter().map(internal).collect();
    addresses.push(json!({"type": "Hostname", "address": node.name}));
    let pods: Vec<_> = families.all().iter().map(|f| node.pod_net(*f)).collect();
    let status = json!({
        "addresses": addresses,
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    let object = json!({
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDR": node.pod_net(families.first()), "podCIDRs": pods},
        "status": status,
    });
    let nodes: Api<NodeObject> = Api::all(client.clone());
    create(&nodes, object).await?;
    nodes
        .patch_status(
            &node.name,
            &PatchParams::default(),
            &Patch::Merge(json!({"status": status})),
        )
        .await?;
    Ok(())
}

async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: kube::Resource + DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
{
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let object: K = serde_json::from_value(object)
        .with_context(|| format!("object {name} is not of its kind"))?;
    api.create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("cannot create {name}"))?;
    Ok(())
}
