//! A client for tests, of a server without TLS.

use std::net::SocketAddr;

use serde_json::json;

use super::cluster_client;

/// A client of the server at this address.
pub(crate) async fn client(server: SocketAddr) -> ::kube::Client {
    let file = tempfile::NamedTempFile::new().unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{server}") } }],
        "users": [{ "name": "u", "user": { "token": "t" } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
    cluster_client(&file.path().to_owned().into())
        .await
        .unwrap()
}
