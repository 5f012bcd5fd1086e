//! Connections that notice when nobody is there any more.

use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config, Error};
use tower::retry::RetryLayer;
use tower::{BoxError, Service, ServiceBuilder};

use super::proxy::Proxies;

/// How long a connection may be idle before the other end's kernel is asked whether it is still there. A watch on which
/// nothing happens is idle, apart from a bookmark a minute.
const IDLE: Duration = Duration::from_secs(10);

/// How long until it is asked again, if it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// After how long without any acknowledgement, of such a question or of data that were sent, the connection is ended
/// (`TCP_USER_TIMEOUT`, which also stands in the place of `TCP_KEEPCNT`): idle ones by the second question unanswered.
const UNANSWERED: Duration = Duration::from_secs(20);

/// A client as `kube` makes it from the same configuration, but for the sockets' options, on which it has no say. The
/// kernels answer the questions, so that a server that is busy loses no connection by them.
///
/// A proxy is asked for a way through (CONNECT), so that TLS is with the server itself.
pub(super) fn connect(config: Config, proxies: &Proxies) -> Result<Client, Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(IDLE));
    tcp.set_keepalive_interval(Some(ASK_AGAIN));
    tcp.set_tcp_user_timeout(Some(UNANSWERED));
    match proxies.of(&config.cluster_url) {
        None => over(config, tcp),
        Some(proxy) => {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            over(config, tunnel)
        }
    }
}

/// The client over connections of a kind.
fn over<C>(config: Config, tcp: C) -> Result<Client, Error>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Connection + Send + Unpin,
    C::Future: Send,
    C::Error: Into<BoxError>,
{
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: legacy::Client<_, Body> = legacy::Builder::new(TokioExecutor::new()).build(connector);
    let retries = config
        .default_retry
        .then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retries)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
