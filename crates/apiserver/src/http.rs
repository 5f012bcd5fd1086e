//! The way in: TLS, HTTP/1.1, limits, and which operation a request is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::backend::Backend;
use crate::failure::Failure;

mod encoding;
mod operations;
mod watch;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request, and how long a connection may idle: longer than the 90 s for
/// which `kube` keeps idle connections, so that no request meets a connection that is being closed.
const HEAD: Duration = Duration::from_secs(120);
/// How long a client may take to send a body.
const BODY: Duration = Duration::from_secs(30);
/// How long connections may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

type AnyBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// What every request needs.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) backend: Arc<Backend>,
    pub(crate) auth: Authenticator,
    pub(crate) stop: CancellationToken,
}

/// Serves connections until the service's token is cancelled.
pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, service: Arc<Service>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let permit = tokio::select! {
            permit = slots.clone().acquire_owned() => permit,
            () = service.stop.cancelled() => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = service.stop.cancelled() => break,
        };
        match stream {
            Ok((stream, peer)) => {
                while tasks.try_join_next().is_some() {}
                let (tls, service) = (tls.clone(), service.clone());
                tasks.spawn(async move {
                    if let Err(why) = connection(stream, tls, service).await {
                        tracing::debug!(%peer, %why, "a connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        tracing::warn!("connections were still open at the end");
    }
}

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    service: Arc<Service>,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let handshake = tokio::select! {
        result = tokio::time::timeout(HANDSHAKE, tls.accept(stream)) => result,
        () = service.stop.cancelled() => return Ok(()),
    };
    let stream = handshake
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())?;
    let stop = service.stop.clone();
    let handler = hyper::service::service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(answer(&service, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), handler);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(|e| e.to_string())
}

async fn answer(service: &Arc<Service>, request: Request<Incoming>) -> Response<AnyBody> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match operations::dispatch(service, request).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(%method, path, code = failure.code, reason = failure.reason, "refused");
            let mut response = json(failure.code, &failure.status());
            if failure.code == 401 {
                response.headers_mut().insert(
                    header::WWW_AUTHENTICATE,
                    header::HeaderValue::from_static("Bearer"),
                );
            }
            response
        }
    }
}

/// Reads a whole body, within limits.
async fn read(body: Incoming) -> Result<Bytes, Failure> {
    /// Largest body, bytes (as `MaxRequestBodyBytes` of the Kubernetes API server).
    const LIMIT: usize = 3 << 20;
    let limited = http_body_util::Limited::new(body, LIMIT);
    match tokio::time::timeout(BODY, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(
            Failure::too_large(format!("Request entity too large: limit is {LIMIT}")),
        ),
        Ok(Err(error)) => Err(Failure::bad_request(format!(
            "the body cannot be read: {error}"
        ))),
        Err(_) => Err(Failure::bad_request("the body took too long")),
    }
}

fn full(code: u16, content: &'static str, body: Bytes) -> Response<AnyBody> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content),
    );
    response
}

fn json(code: u16, body: &Value) -> Response<AnyBody> {
    full(code, "application/json", Bytes::from(body.to_string()))
}
