//! An API server for tests, with our kinds of objects.

use std::net::SocketAddr;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use strait_apiserver::{Config, Rule, Running, Tokens};
use tempfile::TempDir;

pub(crate) struct Server {
    /// Its administrator.
    pub(crate) admin: Client,
    running: Running,
    dir: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn at(listen: SocketAddr) -> Self {
        let dir = TempDir::new().unwrap();
        let running = run(dir.path(), listen).await;
        let text = std::fs::read_to_string(&running.admin_kubeconfig).unwrap();
        let admin = client(&text).await;
        let definitions: Api<CustomResourceDefinition> = Api::all(admin.clone());
        for definition in strait_api::crd::crds() {
            definitions
                .create(&PostParams::default(), &definition)
                .await
                .unwrap();
        }
        Self {
            admin,
            running,
            dir,
        }
    }

    /// One who may do this only.
    pub(crate) async fn user(&self, name: &str, rules: Vec<Rule>) -> Client {
        let token = self.token(name, rules);
        client(&self.running.kubeconfig(name, &token).unwrap()).await
    }

    /// Another token of one who may do this.
    pub(crate) fn token(&self, name: &str, rules: Vec<Rule>) -> String {
        Tokens::change(self.dir.path(), |tokens| tokens.add(name, rules)).unwrap()
    }

    /// No token of theirs is good any more.
    pub(crate) fn revoke(&self, name: &str) {
        Tokens::change(self.dir.path(), |tokens| Ok(tokens.remove(name))).unwrap();
    }

    /// PEM of its certificate authority.
    pub(crate) fn ca(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("ca.crt")).unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.local_addr
    }

    pub(crate) async fn stop(self) {
        self.running.shutdown().await;
    }
}

async fn run(dir: &Path, listen: SocketAddr) -> Running {
    let config = Config {
        listen,
        dir: dir.to_owned(),
        sans: vec![],
    };
    strait_apiserver::start(config).await.unwrap()
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}
