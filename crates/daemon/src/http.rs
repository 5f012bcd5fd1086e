//! The admin server: `/livez`, `/readyz` and `/metrics`, in clear, on the loopback address unless told otherwise.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::settings::Noted;
use crate::{Drain, Heartbeat, Metrics, Readiness, Setting, Settings};

/// What the admin server shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The main loop's, for `/livez`.
    pub heartbeat: Heartbeat,
    /// Those of other loops, by what they are called, for `/livez` too.
    pub others: Vec<(&'static str, Heartbeat)>,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Metrics,
}

/// The setting of the admin server's port, for a process's table: `SUBMARINER_METRICSPORT`, with its own default.
#[must_use]
pub const fn port(default: &'static str) -> Setting {
    let help = "TCP port of the admin server (/livez, /readyz, /metrics)";
    Setting::new("SUBMARINER_METRICSPORT", help, "a port, 1 to 65535").default(default)
}

/// Where the admin server listens, by `STRAIT_LISTEN_ADDRESS` and the setting that [`port`] gives.
///
/// # Errors
/// [`Noted`] if one of the two is wrong.
pub fn address(settings: &mut Settings) -> Result<SocketAddr, Noted> {
    let address = settings.parse("STRAIT_LISTEN_ADDRESS", str::parse::<IpAddr>);
    let port = settings.port("SUBMARINER_METRICSPORT");
    Ok(SocketAddr::new(address?, port?))
}

/// How many connections are served at once; more wait. Probes and a scraper or two need no more.
const CONNECTIONS: usize = 32;

/// How long a request's head may take to arrive, and a connection may idle.
const HEAD: Duration = Duration::from_secs(5);

/// How long a connection may last in all.
const CONNECTION: Duration = Duration::from_secs(60);

/// How long to wait before a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(2);

impl Admin {
    /// Serves at `address` in the background until `drain` ends. A port that is taken is no reason to stop: it is logged
    /// once and tried again. The receiver tells the address once it is bound.
    pub fn start(self, address: SocketAddr, drain: &Drain) -> watch::Receiver<Option<SocketAddr>> {
        let (bound, receiver) = watch::channel(None);
        let drain = drain.clone();
        tokio::spawn(async move {
            let Some(listener) = bind(address, &drain).await else {
                return;
            };
            let _ = bound.send(listener.local_addr().ok());
            tokio::select! {
                () = drain.ended() => {}
                () = serve(listener, self.router()) => {}
            }
        });
        receiver
    }

    fn router(self) -> Router {
        Router::new()
            .route("/livez", get(live))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    converse(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: waiting helps, spinning does not.
                tracing::debug!(%error, "the admin server cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin server failed"),
    }
}

async fn bind(address: SocketAddr, drain: &Drain) -> Option<TcpListener> {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "admin server listens");
                return Some(listener);
            }
            Err(error) if !told => {
                tracing::warn!(%address, %error, "admin server cannot listen, will go on trying");
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = drain.ended() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn live(State(admin): State<Admin>) -> Response {
    let main = [("main loop", &admin.heartbeat)];
    let others = admin.others.iter().map(|(name, heart)| (*name, heart));
    let stalled = |(name, heart): (&str, &Heartbeat)| {
        let seconds = heart.stalled()?.as_secs();
        Some(format!("the {name} has not turned for {seconds} s\n"))
    };
    let text: String = main.into_iter().chain(others).filter_map(stalled).collect();
    if text.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

#[derive(Deserialize)]
struct Format {
    format: Option<String>,
}

async fn ready(State(admin): State<Admin>, Query(Format { format }): Query<Format>) -> Response {
    let state = admin.readiness.state();
    let status = if state.not_ready.is_none() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if format.as_deref() == Some("json") {
        return (status, axum::Json(state)).into_response();
    }
    let mut text = match state.not_ready {
        None => "ok\n".to_owned(),
        Some(reason) => format!("not ready: {reason}\n"),
    };
    for (condition, message) in state.degraded {
        text.push_str(&format!("{condition}: {message}\n"));
    }
    (status, text).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.text()).into_response()
}

#[cfg(test)]
mod tests;
