//! Ends connections whose NAT binding or address they must not keep, off the main loop.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use strait_core::Time;
use strait_core::route_agent::flows::{Flow, FlowRules, Turns};
use strait_daemon::Metrics;
use strait_kernel::{Error, Kernel};
use tokio::sync::watch;
use tokio::time::sleep_until;

/// Looks for such connections in the network namespace of the calling thread whenever the sender sends, until it is dropped.
///
/// On a thread of its own: the kernel walks its whole table for each turn, and nobody else gets his meanwhile.
///
/// # Errors
/// If there can be no further thread.
pub(crate) fn start(metrics: Metrics) -> io::Result<watch::Sender<Option<FlowRules>>> {
    let (sender, receiver) = watch::channel(None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    std::thread::Builder::new()
        .name("flows".to_owned())
        .spawn(move || runtime.block_on(run(receiver, metrics)))?;
    Ok(sender)
}

async fn run(mut rules: watch::Receiver<Option<FlowRules>>, metrics: Metrics) {
    let begun = Instant::now();
    let now = || Time(begun.elapsed());
    let mut turns = Turns::default();
    let mut sweeper = None;
    loop {
        let turn = async {
            match turns.due() {
                Some(Time(at)) => sleep_until((begun + at).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = rules.changed() => {
                if changed.is_err() {
                    return;
                }
                turns.changed(now());
            }
            () = turn => {
                let began = now();
                let newest = rules.borrow().clone();
                if let Some(newest) = newest.filter(|rules| !rules.families().is_empty()) {
                    if sweeper.is_none() {
                        sweeper = Sweeper::new(&metrics).await;
                    }
                    if let Some(sweeper) = &mut sweeper {
                        sweeper.sweep(&newest).await;
                    }
                }
                turns.had(began, now());
            }
        }
    }
}

struct Sweeper {
    kernel: Kernel,
    metrics: Metrics,
    /// This kernel can't end sockets, which was told.
    no_sockets: bool,
}

impl Sweeper {
    async fn new(metrics: &Metrics) -> Option<Self> {
        match Kernel::connect().await {
            Ok(kernel) => Some(Self {
                kernel,
                metrics: metrics.clone(),
                no_sockets: false,
            }),
            Err(error) => {
                tracing::error!(%error, "connections with a wrong NAT binding can't be ended");
                metrics.error(error.kind());
                None
            }
        }
    }

    async fn sweep(&mut self, rules: &FlowRules) {
        let wrong = |flow: &strait_kernel::Flow| {
            rules.wrong(&Flow {
                tcp: flow.is_tcp(),
                src: flow.original.src,
                dst: flow.original.dst,
                reply_src: flow.reply.src,
                reply_dst: flow.reply.dst,
            })
        };
        let flows = match self.kernel.flows_if(&rules.families(), wrong).await {
            Ok(flows) => flows,
            Err(error) => {
                self.failed("the connection table can't be read", &error);
                Vec::new()
            }
        };
        let (tcp, others): (Vec<_>, Vec<_>) = flows.into_iter().partition(|flow| flow.is_tcp());
        // Datagrams need nothing else to go on.
        let mut ended = self.forget(&others).await;
        // Sockets before their bindings: their last word to the other end still passes the old one.
        let broken = tcp.iter().map(|flow| {
            let t = flow.original;
            (
                SocketAddr::new(t.src, t.sport),
                SocketAddr::new(t.dst, t.dport),
            )
        });
        let sockets = self.end_sockets(rules, &broken.collect()).await;
        ended += self.forget(&tcp).await;
        if ended + sockets > 0 {
            self.metrics.changed("flow", ended);
            self.metrics.changed("socket", sockets);
            tracing::info!(
                bindings = ended,
                sockets,
                "ended connections whose address or NAT binding replies don't find back to"
            );
        }
    }

    /// Lets the kernel forget the bindings of these; returns the number of those of which it did.
    async fn forget(&mut self, flows: &[strait_kernel::Flow]) -> u64 {
        let mut ended = 0;
        for flow in flows {
            match self.kernel.delete_flow(flow).await {
                Ok(()) => ended += 1,
                Err(error) => {
                    self.failed(
                        "a connection with a wrong NAT binding can't be ended",
                        &error,
                    );
                }
            }
        }
        ended
    }

    /// Ends TCP sockets of these connections, and those bound to an address that is gone; returns their number.
    async fn end_sockets(
        &mut self,
        rules: &FlowRules,
        broken: &BTreeSet<(SocketAddr, SocketAddr)>,
    ) -> u64 {
        if self.no_sockets {
            return 0;
        }
        let hangs = |socket: &strait_kernel::TcpSocket| {
            let of_broken = broken.contains(&(socket.local, socket.remote));
            // A SYN that is sent again gets the new binding.
            (of_broken && !socket.connecting)
                || (!socket.free && rules.stranded(socket.local.ip(), socket.remote.ip()))
        };
        let mut ended = 0;
        let sockets = match self.kernel.tcp_sockets_if(hangs).await {
            Ok(sockets) => sockets,
            Err(error) => {
                self.no_such("TCP sockets can't be listed", &error);
                return 0;
            }
        };
        for socket in &sockets {
            match self.kernel.end_tcp_socket(socket).await {
                Ok(()) => ended += 1,
                Err(error) => self.no_such("a TCP socket can't be ended", &error),
            }
            if self.no_sockets {
                break;
            }
        }
        ended
    }

    /// A kernel without `CONFIG_INET_DIAG` or `CONFIG_INET_DIAG_DESTROY` says so each time; it is told once.
    fn no_such(&mut self, what: &str, error: &Error) {
        if error.is_lacking() {
            self.no_sockets = true;
            tracing::warn!(
                %error,
                "this kernel can't end sockets (CONFIG_INET_DIAG_DESTROY): TCP connections of this host hang until they time out when its CNI address changes"
            );
        } else {
            self.failed(what, error);
        }
    }

    fn failed(&self, what: &str, error: &Error) {
        tracing::warn!(%error, "{what}");
        self.metrics.error(error.kind());
    }
}

#[cfg(test)]
mod tests;
