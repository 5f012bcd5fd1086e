//! Looks again and again at what filters packets on this host, off the main loop.

use std::time::Duration;

use strait_core::route_agent::{Input, table};
use strait_daemon::Metrics;
use strait_daemon::engine::Inputs;
use strait_kernel::Kernel;

/// Looks every `pause`, and sends what has changed.
pub(crate) fn start(pause: Duration, inputs: Inputs<Input>, metrics: Metrics) {
    tokio::spawn(async move {
        let mut kernel = match Kernel::connect().await {
            Ok(kernel) => kernel,
            Err(error) => {
                tracing::error!(%error, "whether a firewall drops our packets can't be seen");
                metrics.error(error.kind());
                return;
            }
        };
        let mut sent = None;
        loop {
            tokio::time::sleep(pause).await;
            match kernel.filtering(&table()).await {
                Ok(seen) if sent.as_ref() != Some(&seen) => {
                    if inputs.send(Input::Filtering(seen.clone())).await.is_err() {
                        return;
                    }
                    sent = Some(seen);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the packet filters of this host can't be read");
                    metrics.error(error.kind());
                }
            }
        }
    });
}
