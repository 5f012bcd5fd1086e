//! Health checks of other clusters' gateways, as the Gateway object tells of them.

use std::collections::BTreeSet;

use strait_api::gateway::{Connection, ConnectionStatus};
use strait_host::Family;

use crate::health::{Results, target};
use crate::remote::Remote;

/// What is known of other gateways beside the cable.
pub(super) struct Health<'a> {
    /// Whether they are pinged.
    pub enabled: bool,
    /// In which families this host has an address that they can answer.
    pub answerable: &'a BTreeSet<Family>,
    /// What came of it.
    pub results: &'a Results,
}

impl Health<'_> {
    /// The connection, with what pings say of it. The cable counts until there is a result (upstream
    /// `cableengine/syncer`); what it says of a failure is told behind what pings say.
    pub(super) fn merged(
        &self,
        mut connection: Connection,
        remote: &Remote<'_>,
        family: Family,
    ) -> Connection {
        let Some(target) = target(remote, family).filter(|_| self.enabled) else {
            return connection;
        };
        let report = match &target {
            Ok(target) if self.answerable.contains(&family) => self.results.get(target),
            Ok(_) => None,
            Err(why) => {
                connection.status = ConnectionStatus::Error;
                connection.status_message.clone_from(why);
                None
            }
        };
        let Some(report) = report else {
            return connection;
        };
        connection.latency_rtt = report.rtt.map(|rtt| rtt.text());
        match report.status {
            ConnectionStatus::Connected => {
                connection.status = report.status;
                connection.status_message.clone_from(&report.message);
            }
            ConnectionStatus::Error => {
                // What the cable says is why.
                let why = std::mem::take(&mut connection.status_message);
                connection.status = report.status;
                connection.status_message = match why.as_str() {
                    "" => report.message.clone(),
                    why => format!("{}; {why}", report.message),
                };
            }
            ConnectionStatus::Connecting | ConnectionStatus::None => {}
        }
        connection
    }
}
