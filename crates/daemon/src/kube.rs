//! Clients of the Kubernetes API, and watches that never end.
//!
//! A client is made without the network: a server that is away is met by the first request, and by each watch as
//! [`Change::Failed`], never by a process that does not start.

mod client;
mod watch;

pub use client::{BROKER, BrokerSettings, ClientError, broker_client, cluster_client};
pub use watch::{Change, Item, Watch};
