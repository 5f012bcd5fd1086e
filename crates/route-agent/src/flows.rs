//! Ends connections whose NAT binding they must not keep, off the main loop.

use std::time::Duration;

use strait_core::route_agent::flows::{Flow, FlowRules};
use strait_daemon::Metrics;
use strait_kernel::Kernel;
use tokio::sync::watch;

/// A packet that was under way while the rules changed may still bind; it is looked for once more after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// Sweeps at start, and whenever the sender sends.
pub(crate) fn start(metrics: Metrics) -> watch::Sender<Option<FlowRules>> {
    let (sender, mut receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut kernel = match Kernel::connect().await {
            Ok(kernel) => kernel,
            Err(error) => {
                tracing::error!(%error, "connections with a wrong NAT binding can't be ended");
                metrics.error(error.kind());
                return;
            }
        };
        while receiver.changed().await.is_ok() {
            for pause in [Duration::ZERO, AGAIN] {
                tokio::time::sleep(pause).await;
                let rules = receiver.borrow_and_update().clone();
                if let Some(rules) = rules {
                    sweep(&mut kernel, &rules, &metrics).await;
                }
            }
        }
    });
    sender
}

async fn sweep(kernel: &mut Kernel, rules: &FlowRules, metrics: &Metrics) {
    let wrong = |flow: &strait_kernel::Flow| {
        rules.wrong(&Flow {
            src: flow.original.src,
            dst: flow.original.dst,
            reply_src: flow.reply.src,
            reply_dst: flow.reply.dst,
        })
    };
    let flows = match kernel.flows_if(wrong).await {
        Ok(flows) => flows,
        Err(error) => {
            tracing::warn!(%error, "the connection table can't be read");
            metrics.error(error.kind());
            return;
        }
    };
    let mut ended = 0u64;
    for flow in &flows {
        match kernel.delete_flow(flow).await {
            Ok(()) => ended += 1,
            Err(error) => {
                tracing::warn!(%error, "a connection with a wrong NAT binding can't be ended");
                metrics.error(error.kind());
            }
        }
    }
    if ended > 0 {
        metrics.changed("flow", ended);
        tracing::info!(
            ended,
            "ended connections with a NAT binding from before the rules"
        );
    }
}
