use std::os::unix::fs::PermissionsExt as _;

use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use strait_apiserver::{Config, Error, Rule, Tokens};

use crate::support::*;

#[tokio::test]
async fn objects_definitions_tokens_and_the_authority_survive_a_restart() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let token = Tokens::change(server.dir.path(), |t| t.add("east", vec![Rule::all()])).unwrap();
    let api = cables(&client);
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &cable(name))
            .await
            .unwrap();
    }
    api.delete("a", &DeleteParams::default()).await.unwrap();
    let before = api.get("b").await.unwrap();
    let (authority, admin) = (
        std::fs::read(server.dir.path().join("ca.crt")).unwrap(),
        server.token(),
    );

    let server = server.restart().await;
    assert_eq!(
        std::fs::read(server.dir.path().join("ca.crt")).unwrap(),
        authority
    );
    assert_eq!(server.token(), admin);
    let api = cables(&server.user(&token).await);
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items,
        std::slice::from_ref(&before)
    );
    let after = api
        .create(&PostParams::default(), &cable("c"))
        .await
        .unwrap();
    let number = |c: &Cable| c.resource_version().unwrap().parse::<u64>().unwrap();
    assert!(
        number(&after) > number(&before) + 1,
        "the deletion took a version too"
    );
}

#[tokio::test]
async fn two_servers_do_not_share_a_directory() {
    let server = Server::start().await;
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        dir: server.dir.path().to_owned(),
        sans: vec![],
    };
    assert!(matches!(
        strait_apiserver::start(config).await,
        Err(Error::InUse(_))
    ));
}

#[tokio::test]
async fn secrets_in_the_directory_are_for_the_owner_only() {
    let server = Server::start().await;
    define(&server.admin().await).await;
    Tokens::change(server.dir.path(), |t| t.add("east", vec![])).unwrap();
    for name in [
        "ca.key",
        "server.key",
        "admin.kubeconfig",
        "admin.token",
        "tokens.json",
        "journal.jsonl",
    ] {
        let mode = std::fs::metadata(server.dir.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_shutdown_ends_watches_at_once() {
    use std::pin::pin;

    use futures::StreamExt as _;
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let mut watch = pin!(
        cables(&client)
            .watch(&kube::api::WatchParams::default(), "0")
            .await
            .unwrap()
    );
    let begin = std::time::Instant::now();
    server.running.shutdown().await;
    assert!(
        begin.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    assert!(soon(watch.next()).await.is_none_or(|e| e.is_err()));
}

#[tokio::test]
async fn what_a_client_was_told_is_in_the_journal_at_once() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    cables(&client)
        .create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    // What a killed process leaves behind: the files as they are now, without a shutdown.
    let left = tempfile::TempDir::new().unwrap();
    for name in ["ca.crt", "ca.key", "admin.token", "journal.jsonl"] {
        std::fs::copy(server.dir.path().join(name), left.path().join(name)).unwrap();
    }
    let after = Server::on(left, 1000).await;
    assert_eq!(after.token(), server.token());
    cables(&after.admin().await).get("a").await.unwrap();
}
