//! Calico's IPPools: watched and written while they are this node's to keep.

use futures::{Stream, StreamExt};
use kube::Client;
use strait_api::{IpPool, Kind};
use strait_core::route_agent::Input;
use strait_core::{Entry, Event, ObjectChange};
use strait_daemon::Metrics;
use strait_daemon::engine::Inputs;
use strait_daemon::objects::{Annotations, events_where_served};
use strait_daemon::writer::{self, Report};
use tokio::sync::{mpsc, watch};

/// Where a plan's part goes.
pub(crate) struct Pools {
    /// Whether the pools are this node's to keep.
    pub(crate) keeps: watch::Sender<bool>,
    /// What is to be changed.
    pub(crate) changes: watch::Sender<Vec<ObjectChange>>,
}

/// Starts both; nothing is asked of the server until they are this node's to keep.
pub(crate) fn start(client: &Client, inputs: &Inputs<Input>, metrics: Metrics) -> Pools {
    let (keeps, kept) = watch::channel(false);
    tokio::spawn(follow(client.clone(), kept, inputs.clone()));
    let (reports, mut told) = mpsc::unbounded_channel();
    let failures = inputs.clone();
    tokio::spawn(async move {
        while let Some(report) = told.recv().await {
            let Report::Failures(by_key) = report else {
                continue;
            };
            let by_name = by_key.into_iter().map(|(key, why)| (key.name, why));
            let input = Input::PoolFailures(by_name.collect());
            if failures.send(input).await.is_err() {
                return;
            }
        }
    });
    Pools {
        keeps,
        changes: writer::start(
            "cluster",
            client.clone(),
            Annotations::KeepForeign,
            metrics,
            reports,
        ),
    }
}

/// All pools of the cluster, where its server knows of any.
pub(crate) fn events(client: &Client) -> impl Stream<Item = Event<Entry<IpPool>>> + use<> {
    events_where_served(client, Kind::IpPool, |object| {
        Ok(Entry::read(object, IpPool::parse))
    })
}

async fn follow(client: Client, mut kept: watch::Receiver<bool>, inputs: Inputs<Input>) {
    while kept.wait_for(|kept| *kept).await.is_ok() {
        let mut events = std::pin::pin!(events(&client));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                lost = kept.wait_for(|kept| !*kept) => match lost {
                    Ok(_) => None,
                    Err(_) => return,
                },
            };
            let over = event.is_none();
            if inputs.send(Input::Pools(event)).await.is_err() {
                return;
            }
            if over {
                break;
            }
        }
    }
}
