use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, TryStreamExt};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher::{self, Event};
use serde_json::json;

use crate::support::*;

/// The next event of a watch, as kind and name.
async fn next<S: Stream<Item = kube::Result<WatchEvent<Cable>>> + Unpin>(stream: &mut S) -> String {
    match soon(stream.next()).await {
        Some(Ok(WatchEvent::Added(o))) => format!("added {}", o.name_any()),
        Some(Ok(WatchEvent::Modified(o))) => format!("modified {}", o.name_any()),
        Some(Ok(WatchEvent::Deleted(o))) => format!("deleted {}", o.name_any()),
        Some(Ok(WatchEvent::Bookmark(b))) => format!("bookmark {}", b.metadata.annotations.len()),
        Some(Ok(WatchEvent::Error(e))) => format!("error {}", e.code),
        Some(Err(error)) => format!("{error:?}"),
        None => "end".to_owned(),
    }
}

async fn label(api: &Api<Cable>, name: &str, value: Option<&str>) {
    let patch = Patch::Merge(json!({"metadata": {"labels": {"app": value}}}));
    api.patch(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_watch_shows_what_comes_changes_and_goes() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    api.create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    let mut all = pin!(api.watch(&WatchParams::default(), "0").await.unwrap());
    assert_eq!(next(&mut all).await, "added a");
    let version = api.get("a").await.unwrap().resource_version().unwrap();
    let mut later = pin!(api.watch(&WatchParams::default(), &version).await.unwrap());
    api.create(&PostParams::default(), &cable("b"))
        .await
        .unwrap();
    label(&api, "b", Some("x")).await;
    api.delete("a", &DeleteParams::default()).await.unwrap();
    for want in ["added b", "modified b", "deleted a"] {
        assert_eq!(next(&mut all).await, want);
        assert_eq!(next(&mut later).await, want);
    }
}

#[tokio::test]
async fn an_object_that_stops_matching_goes_from_the_watch() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    let mut watch = pin!(
        api.watch(&WatchParams::default().labels("app=x"), "0")
            .await
            .unwrap()
    );
    let mut one = pin!(
        api.watch(&WatchParams::default().fields("metadata.name=b"), "0")
            .await
            .unwrap()
    );
    api.create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    label(&api, "a", Some("x")).await;
    label(&api, "a", Some("y")).await;
    label(&api, "a", Some("x")).await;
    api.delete("a", &DeleteParams::default()).await.unwrap();
    api.create(&PostParams::default(), &cable("b"))
        .await
        .unwrap();
    for want in ["added a", "deleted a", "added a", "deleted a"] {
        assert_eq!(next(&mut watch).await, want);
    }
    assert_eq!(next(&mut one).await, "added b");
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_marked_bookmark() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    api.create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    let params = WatchParams::default().initial_events();
    let mut watch = pin!(api.watch(&params, "0").await.unwrap());
    assert_eq!(next(&mut watch).await, "added a");
    let Some(Ok(WatchEvent::Bookmark(mark))) = soon(watch.next()).await else {
        panic!("no bookmark")
    };
    assert_eq!(
        mark.metadata.annotations["k8s.io/initial-events-end"],
        "true"
    );
    let version = api.get("a").await.unwrap().resource_version().unwrap();
    assert_eq!(mark.metadata.resource_version, version);
    api.create(&PostParams::default(), &cable("b"))
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await, "added b");
}

#[tokio::test]
async fn a_watch_ends_after_its_timeout_with_a_bookmark() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    let begin = Instant::now();
    let mut watch = pin!(
        api.watch(&WatchParams::default().timeout(1), "0")
            .await
            .unwrap()
    );
    assert_eq!(next(&mut watch).await, "bookmark 0");
    assert_eq!(next(&mut watch).await, "end");
    assert!(
        begin.elapsed() >= Duration::from_millis(900) && begin.elapsed() < Duration::from_secs(5)
    );
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_gone() {
    let server = Server::with_history(4).await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    let made = api
        .create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    for value in 0..8 {
        label(&api, "a", Some(&value.to_string())).await;
    }
    let version = made.resource_version().unwrap();
    for version in [version.as_str(), "99999"] {
        let mut watch = pin!(api.watch(&WatchParams::default(), version).await.unwrap());
        assert_eq!(next(&mut watch).await, "error 410");
        assert_eq!(next(&mut watch).await, "end");
    }
}

/// Applied and deleted names, once the initial list is through.
async fn observe(
    events: &mut (impl Stream<Item = watcher::Result<Event<Cable>>> + Unpin),
    until: &str,
) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let text = match soon(events.next()).await.unwrap() {
            Ok(Event::Init) => "init".to_owned(),
            Ok(Event::InitApply(o)) => format!("listed {}", o.name_any()),
            Ok(Event::InitDone) => "done".to_owned(),
            Ok(Event::Apply(o)) => format!("applied {}", o.name_any()),
            Ok(Event::Delete(o)) => format!("deleted {}", o.name_any()),
            Err(error) => format!("error {error}"),
        };
        assert!(seen.len() < 100, "{seen:?}");
        let last = text == until;
        seen.push(text);
        if last {
            return seen;
        }
    }
}

#[tokio::test]
async fn a_watcher_works_with_both_strategies() {
    for config in [
        watcher::Config::default().page_size(1),
        watcher::Config::default().streaming_lists(),
    ] {
        let server = Server::start().await;
        let client = server.admin().await;
        define(&client).await;
        let api = cables(&client);
        for name in ["a", "b"] {
            api.create(&PostParams::default(), &cable(name))
                .await
                .unwrap();
        }
        let mut events = pin!(watcher::watcher(api.clone(), config));
        assert_eq!(
            observe(&mut events, "done").await,
            ["init", "listed a", "listed b", "done"]
        );
        api.create(&PostParams::default(), &cable("c"))
            .await
            .unwrap();
        api.delete("a", &DeleteParams::default()).await.unwrap();
        assert_eq!(
            observe(&mut events, "deleted a").await,
            ["applied c", "deleted a"]
        );
    }
}

#[tokio::test]
async fn a_watcher_lists_again_after_its_place_in_the_history_is_gone() {
    let server = Server::with_history(3).await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    api.create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    // Watches of this one end every second, so that the stream has to begin again from where it was.
    let mut events = pin!(watcher::watcher(
        api.clone(),
        watcher::Config::default().timeout(1).disable_bookmarks()
    ));
    assert_eq!(
        observe(&mut events, "done").await,
        ["init", "listed a", "done"]
    );
    // The watch is opened only when the stream is polled, and nobody polls it while the history runs over.
    for value in 0..10 {
        label(&api, "a", Some(&value.to_string())).await;
    }
    api.create(&PostParams::default(), &cable("b"))
        .await
        .unwrap();
    let seen = observe(&mut events, "done").await;
    assert!(seen[0].starts_with("error"), "{seen:?}");
    assert_eq!(seen[1..], ["init", "listed a", "listed b", "done"]);
}

#[tokio::test]
async fn a_change_is_at_the_watcher_in_a_moment() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    let watching = cables(&server.admin().await);
    let mut watch = pin!(watching.watch(&WatchParams::default(), "0").await.unwrap());
    let mut times = Vec::new();
    for round in 0..50 {
        let begin = Instant::now();
        let wanted = cable(&format!("c{round}"));
        let params = PostParams::default();
        let (seen, made) = tokio::join!(watch.try_next(), api.create(&params, &wanted));
        assert!(matches!(seen.unwrap(), Some(WatchEvent::Added(_))));
        made.unwrap();
        times.push(begin.elapsed());
    }
    times.sort();
    eprintln!(
        "create and see: median {:?}, worst {:?}",
        times[25], times[49]
    );
    // Request, journal, watch and both clients; a delayed ACK or a poll would show as 40 ms or more.
    assert!(times[25] < Duration::from_millis(20), "{times:?}");
}

#[tokio::test]
async fn watches_of_a_resource_end_with_its_definition() {
    let server = Server::start().await;
    let client = server.admin().await;
    define(&client).await;
    let api = cables(&client);
    api.create(&PostParams::default(), &cable("a"))
        .await
        .unwrap();
    let mut watch = pin!(api.watch(&WatchParams::default(), "0").await.unwrap());
    assert_eq!(next(&mut watch).await, "added a");
    let plain: Api<Plain> = Api::namespaced(client.clone(), "default");
    let mut quiet = pin!(plain.watch(&WatchParams::default(), "0").await.unwrap());
    let crds: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        Api::all(client.clone());
    crds.delete("cables.test.strait.io", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await, "deleted a");
    assert_eq!(next(&mut watch).await, "end");
    crds.delete("plains.test.strait.io", &DeleteParams::default())
        .await
        .unwrap();
    assert!(soon(quiet.next()).await.is_none());
}
