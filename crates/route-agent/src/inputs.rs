//! Watches of the API server, as inputs of the state.

use futures::StreamExt;
use kube::Client;
use strait_api::route_agent::AgentInfo;
use strait_api::{Endpoint, Kind, Node};
use strait_core::route_agent::{Input, Settings};
use strait_daemon::engine::{Arrivals, Inputs, channel, forward};
use strait_daemon::objects::{events, metadata_events};

/// How many inputs wait for the main loop before the watches wait.
const QUEUE: usize = 1024;

/// Starts all watches; further inputs go into the sender.
#[must_use]
pub fn start(client: &Client, settings: &Settings) -> (Inputs<Input>, Arrivals<Input>) {
    let (sender, receiver) = channel(QUEUE);
    let namespace = Some(settings.namespace.as_str());
    let endpoints = events(client, Kind::Endpoint, namespace, |o| Endpoint::parse(&o));
    forward(endpoints.map(Input::Endpoints), &sender);
    let nodes = events(client, Kind::Node, None, |o| Node::parse(&o));
    forward(nodes.map(Input::Nodes), &sender);
    // Their status tells of every remote cluster, and changes often.
    let agents = metadata_events(client, Kind::RouteAgent, namespace, |o| {
        AgentInfo::parse(&o)
    });
    forward(agents.map(Input::Agents), &sender);
    (sender, receiver)
}
