//! The admin server: `/livez`, `/readyz` and `/metrics`, in clear, on the loopback address unless told otherwise.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::{Drain, Heartbeat, Metrics, Readiness};

/// What the admin server shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// For `/livez`.
    pub heartbeat: Heartbeat,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Metrics,
}

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
            let server = axum::serve(listener, self.router());
            if let Err(error) = server
                .with_graceful_shutdown(async move { drain.ended().await })
                .await
            {
                tracing::error!(%error, "the admin server ended");
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
    match admin.heartbeat.stalled() {
        None => "ok\n".into_response(),
        Some(since) => {
            let text = format!("the main loop has not turned for {} s\n", since.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
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
