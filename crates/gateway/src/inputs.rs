//! Watches of the cluster's and the broker's API servers, as inputs of the state; and the heartbeat.

use std::collections::BTreeMap;
use std::future::ready;
use std::time::SystemTime;

use futures::StreamExt;
use kube::Client;
use strait_api::gateway::GatewayStatus;
use strait_api::{Cluster, Endpoint, EndpointSpec, Kind, Node};
use strait_core::gateway::{HEARTBEAT, Input, Settings};
use strait_core::{Entry, Event};
use strait_daemon::engine::forward;
use strait_daemon::objects::events;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// Starts all watches.
pub(crate) fn start(
    cluster: &Client,
    broker: &Client,
    settings: &Settings,
    to: &mpsc::Sender<Input>,
) {
    beat(to.clone());
    let local = Some(settings.namespace.as_str());
    let remote = Some(settings.broker_namespace.as_str());
    let clusters = |client, namespace| {
        events(client, Kind::Cluster, namespace, |o| {
            Ok(Entry::read(o, Cluster::parse))
        })
    };
    let endpoints = |client, namespace| {
        events(client, Kind::Endpoint, namespace, |o| {
            Ok(Entry::read(o, Endpoint::parse))
        })
    };
    forward(clusters(cluster, local).map(Input::Clusters), to);
    forward(endpoints(cluster, local).map(Input::Endpoints), to);
    forward(clusters(broker, remote).map(Input::BrokerClusters), to);
    forward(endpoints(broker, remote).map(Input::BrokerEndpoints), to);
    let nodes = events(cluster, Kind::Node, None, |o| Node::parse(&o));
    forward(nodes.map(Input::Nodes), to);
    let gateways = events(cluster, Kind::Gateway, local, |o| {
        let status: GatewayStatus = o.section("status")?;
        Ok(status.local_endpoint)
    });
    // Each is written every few seconds, and mostly says the same.
    let mut known = BTreeMap::new();
    let news =
        gateways.filter_map(move |event| ready(Some(event).filter(|e| is_news(&mut known, e))));
    forward(news.map(Input::Gateways), to);
}

/// Whether an event tells something else of a gateway than the one before.
fn is_news(
    known: &mut BTreeMap<String, Option<EndpointSpec>>,
    event: &Event<EndpointSpec>,
) -> bool {
    match event {
        Event::Applied(name, parsed) => {
            let now = parsed.as_ref().ok().cloned();
            known.insert(name.clone(), now.clone()) != Some(now)
        }
        Event::Deleted(name) => {
            known.remove(name);
            true
        }
        Event::Reset(_) | Event::Failed(_) | Event::Resumed | Event::Absent => {
            known.clear();
            true
        }
    }
}

/// Beats at once, before anything is published, and then as often as it should.
fn beat(to: mpsc::Sender<Input>) {
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap_or_default().as_secs()
    };
    // The queue is empty yet.
    let _ = to.try_send(Input::Beat(now()));
    tokio::spawn(async move {
        let mut beats = interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats.tick().await;
        loop {
            beats.tick().await;
            if to.send(Input::Beat(now())).await.is_err() {
                return;
            }
        }
    });
}
