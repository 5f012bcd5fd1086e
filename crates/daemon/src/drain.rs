//! The end of a process: asked for once it is orderly, asked for twice it is at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Ends when the process is asked to (SIGTERM, SIGINT). Clones end together.
#[derive(Debug, Clone, Default)]
pub struct Drain(CancellationToken);

impl Drain {
    /// One that ends only by [`Drain::end`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that the first SIGTERM or SIGINT ends; the second ends the process at once, with status 130.
    ///
    /// # Errors
    /// If the signals' handlers can't be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let drain = Self::new();
        let token = drain.clone();
        tokio::spawn(async move {
            for asked in 0.. {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if asked > 0 {
                    tracing::warn!(signal = name, "asked to end a second time: ending at once");
                    std::process::exit(130);
                }
                tracing::info!(signal = name, "asked to end");
                token.end();
            }
        });
        Ok(drain)
    }

    /// Asks everything that waits on this to end.
    pub fn end(&self) {
        self.0.cancel();
    }

    /// Waits until the process is asked to end.
    pub async fn ended(&self) {
        self.0.cancelled().await;
    }

    /// Whether the process was asked to end.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.is_cancelled()
    }

    /// The same as a token, for code that takes one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}
