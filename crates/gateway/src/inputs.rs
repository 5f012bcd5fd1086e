//! Watches of the cluster's and the broker's API servers, as inputs of the state; and the heartbeat.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::{Instant, SystemTime};

use futures::StreamExt;
use kube::Client;
use strait_api::gateway::GatewayStatus;
use strait_api::names::ANNOTATION_UPDATE_TIMESTAMP;
use strait_api::{Cluster, Endpoint, EndpointSpec, Kind, Node};
use strait_core::gateway::{HEARTBEAT, Input, Seen, Settings, Signs};
use strait_core::{Entry, Event, Time};
use strait_daemon::engine::{Inputs, forward};
use strait_daemon::objects::events;
use tokio::time::{MissedTickBehavior, interval};

/// Starts all watches.
pub(crate) fn start(cluster: &Client, broker: &Client, settings: &Settings, to: &Inputs<Input>) {
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
    tokio::spawn(gateways(cluster.clone(), settings.clone(), to.clone()));
}

/// Gateway objects: each is written every few seconds, and mostly says the same.
async fn gateways(cluster: Client, settings: Settings, to: Inputs<Input>) {
    let namespace = Some(settings.namespace.as_str());
    let mut all = pin!(events(&cluster, Kind::Gateway, namespace, |o| {
        let status = o.section::<GatewayStatus>("status");
        Ok(Seen {
            beat: o.annotations.get(ANNOTATION_UPDATE_TIMESTAMP).cloned(),
            spec: status.map(|status| status.local_endpoint),
        })
    }));
    let begun = Instant::now();
    let mut signs = Signs::new(&settings.hostname);
    let mut silent = BTreeSet::new();
    let mut known = BTreeMap::new();
    while let Some(event) = all.next().await {
        let now = Time(begun.elapsed());
        signs.look(&event, now);
        let mut inputs = Vec::new();
        if signs.silent(now) != silent {
            silent = signs.silent(now);
            inputs.push(Input::Silent(silent.clone()));
        }
        let specs = specs(event);
        if is_news(&mut known, &specs) {
            inputs.push(Input::Gateways(specs));
        }
        for input in inputs {
            if to.send(input).await.is_err() {
                return;
            }
        }
    }
}

/// What they would publish.
fn specs(event: Event<Seen>) -> Event<EndpointSpec> {
    let spec = |seen: Result<Seen, String>| seen.and_then(|seen| seen.spec);
    match event {
        Event::Reset(all) => Event::Reset(all.into_iter().map(|(n, s)| (n, spec(s))).collect()),
        Event::Applied(name, seen) => Event::Applied(name, spec(seen)),
        Event::Deleted(name) => Event::Deleted(name),
        Event::Failed(why) => Event::Failed(why),
        Event::Resumed => Event::Resumed,
        Event::Absent => Event::Absent,
    }
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
fn beat(to: Inputs<Input>) {
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
