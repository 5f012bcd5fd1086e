//! Carries out a plan's changes of objects, and tells the state what became of them.

use kube::Client;
use strait_core::ObjectChange;
use strait_core::gateway::Input;
use strait_daemon::Metrics;
use strait_daemon::engine::Inputs;
use strait_daemon::objects::Annotations;
use strait_daemon::writer::{self, Report};
use tokio::sync::{mpsc, watch};

/// Whose API server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// The cluster's own.
    Cluster,
    /// The broker's.
    Broker,
}

/// Where a plan's changes for this server go.
pub(crate) fn start(
    server: Server,
    client: Client,
    metrics: Metrics,
    inputs: Inputs<Input>,
) -> watch::Sender<Vec<ObjectChange>> {
    let (written, mut reports) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(report) = reports.recv().await {
            let input = match report {
                Report::Stored { wanted, stored } => Input::Stored { wanted, stored },
                Report::Failures(failures) => Input::Unwritten {
                    broker: server == Server::Broker,
                    failures,
                },
            };
            if inputs.send(input).await.is_err() {
                return;
            }
        }
    });
    let name = match server {
        Server::Cluster => "cluster",
        Server::Broker => "broker",
    };
    writer::start(name, client, Annotations::Exact, metrics, written)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use strait_api::{EndpointSpec, Kind, Object};
    use strait_apiserver::Rule;
    use strait_daemon::engine::channel;
    use strait_daemon::objects::put;
    use tokio::time::timeout;

    use super::*;
    use crate::server::Server as Api;

    #[tokio::test]
    async fn what_a_broker_does_not_take_is_told_with_its_words_and_when_it_takes_it() {
        let api = Api::start().await;
        let words = |verbs: &[&str]| verbs.iter().map(|v| (*v).to_owned()).collect();
        let rule = |verbs: &[&str]| Rule {
            verbs: words(verbs),
            ..Rule::all()
        };
        let client = api.user("cluster-east", vec![rule(&["get"])]).await;
        let (inputs, mut told) = channel(8);
        let changes = start(Server::Broker, client, Metrics::new("gateway"), inputs);
        let spec = EndpointSpec {
            cluster_id: "east".into(),
            cable_name: "cable".into(),
            ..EndpointSpec::default()
        };
        let object = Object::new(Kind::Endpoint, "default", "east-cable").with("spec", &spec);
        let key = object.key.clone();
        let wanted = ObjectChange::Put(object.clone());
        changes.send(vec![wanted]).unwrap();
        let mut next = async || {
            let input = timeout(Duration::from_secs(20), told.recv()).await;
            input.unwrap().unwrap()
        };
        let Input::Unwritten { broker, failures } = next().await else {
            panic!("another input")
        };
        assert!(broker);
        assert_eq!(failures.keys().collect::<Vec<_>>(), [&key]);
        assert!(failures[&key].contains("forbidden"), "{failures:?}");
        // It is tried again without a new wish, and found to be so.
        let there = put(&api.admin, &object, Annotations::Exact).await;
        assert!(there.unwrap().written);
        let stored = next().await;
        assert!(
            matches!(&stored, Input::Stored { stored, .. } if stored.key == key),
            "{stored:?}"
        );
        let expected = Input::Unwritten {
            broker: true,
            failures: BTreeMap::new(),
        };
        assert_eq!(next().await, expected);
        api.stop().await;
    }
}
