//! A server in a directory of its own, a client for it, and a kind of resource.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strait_apiserver::{Config, Running};
use tempfile::TempDir;

#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "test.strait.io",
    version = "v1",
    kind = "Cable",
    namespaced,
    status = "CableStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CableSpec {
    pub(crate) cluster: String,
    #[serde(default = "backend")]
    pub(crate) backend: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) port: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) subnets: Vec<String>,
}

fn backend() -> String {
    "vxlan".to_owned()
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CableStatus {
    pub(crate) up: bool,
}

/// Like a [`Cable`], but without a status subresource.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "test.strait.io", version = "v1", kind = "Plain", namespaced)]
pub(crate) struct PlainSpec {
    pub(crate) text: String,
}

pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) dir: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with_history(1000).await
    }

    pub(crate) async fn with_history(history: usize) -> Self {
        Self::on(TempDir::new().unwrap(), history).await
    }

    pub(crate) async fn on(dir: TempDir, history: usize) -> Self {
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            dir: dir.path().to_owned(),
            sans: vec![],
        };
        let running = strait_apiserver::start_with_history(config, history)
            .await
            .unwrap();
        Self { running, dir }
    }

    /// Ends the server and starts another on the same state.
    pub(crate) async fn restart(self) -> Self {
        self.running.shutdown().await;
        Self::on(self.dir, 1000).await
    }

    pub(crate) async fn admin(&self) -> Client {
        client(&std::fs::read_to_string(&self.running.admin_kubeconfig).unwrap()).await
    }

    pub(crate) async fn user(&self, token: &str) -> Client {
        client(&self.running.kubeconfig("someone", token).unwrap()).await
    }

    /// The administrator's token, from the kubeconfig as any tool would take it.
    pub(crate) fn token(&self) -> String {
        let text = std::fs::read_to_string(&self.running.admin_kubeconfig).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"]["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

pub(crate) async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

pub(crate) async fn define(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in [Cable::crd(), Plain::crd()] {
        api.create(&PostParams::default(), &crd).await.unwrap();
    }
}

pub(crate) fn cables(client: &Client) -> Api<Cable> {
    Api::namespaced(client.clone(), "default")
}

pub(crate) fn cable(name: &str) -> Cable {
    Cable::new(
        name,
        CableSpec {
            cluster: name.to_owned(),
            backend: backend(),
            ..CableSpec::default()
        },
    )
}

/// Code and reason of a refusal.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String, String) {
    match result {
        Err(kube::Error::Api(status)) => {
            (status.code, status.reason.clone(), status.message.clone())
        }
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("took more than 10 s")
}
