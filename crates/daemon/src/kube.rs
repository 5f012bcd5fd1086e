//! Clients of the Kubernetes API, and watches that never end.
//!
//! A client is made without the network: a server that is away is met by the first request, and by each watch as
//! [`Change::Failed`], never by a process that does not start.

mod broker;
mod client;
mod lenient;
mod pauses;
mod proxy;
#[cfg(test)]
pub(crate) mod scripted;
mod transport;
mod watch;

pub use broker::{BROKER, BrokerSettings, broker_client, mounted};
pub use client::{ClientError, cluster_client, site_client};
pub use proxy::{Access, Proxies};
pub use watch::{Change, Item, Watch};

use ::kube::core::ApiResource;
use ::kube::{Client, Error};

/// Whether the server knows a resource of a named group. Every user may ask that, also one who may not list it.
///
/// # Errors
/// What the server says other than that it does not.
pub async fn serves(client: &Client, resource: &ApiResource) -> Result<bool, Error> {
    match client.list_api_group_resources(&resource.api_version).await {
        Ok(list) => Ok(list.resources.iter().any(|r| r.name == resource.plural)),
        Err(Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

/// A request's failure in one line: the server's own words if it answered, else the whole chain of causes.
#[must_use]
pub fn describe(error: &Error) -> String {
    if let Error::Api(status) = error {
        let what = if status.message.is_empty() {
            &status.reason
        } else {
            &status.message
        };
        return format!("{what} ({})", status.code);
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many causes are quoted by what they caused.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Whether a request failed since the server's certificate is not to be trusted.
fn distrusted(error: &Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
            return true;
        }
        let io = cause.downcast_ref::<std::io::Error>();
        // What is wrapped in an error of I/O is not its source.
        next = match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
}
