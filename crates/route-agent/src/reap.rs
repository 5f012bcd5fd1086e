//! Takes the gateway's lock while the cable of a gateway that is gone is removed, so that none starts meanwhile.

use std::time::{Duration, Instant};

use strait_core::route_agent::Input;
use strait_daemon::engine::Inputs;
use strait_daemon::lock::GatewayLock;
use tokio::sync::watch;
use tokio::time::timeout;

/// How often it is tried while a gateway runs.
const TRY: Duration = Duration::from_secs(1);
/// How long it is held at most: a gateway that starts waits for it.
const LONGEST: Duration = Duration::from_secs(1);
/// The pause after it was held so long to no effect.
const PAUSE: Duration = Duration::from_secs(30);

/// What the newest plan says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reaping {
    /// There is a cable to remove.
    pub(crate) wanted: bool,
    /// The plan counts on our holding the lock.
    pub(crate) counted_on: bool,
}

/// Takes the lock when the newest [`Reaping`] wants it, and lets it go only when no plan counts on it any more.
pub(crate) fn start(inputs: Inputs<Input>) -> watch::Sender<Reaping> {
    let (sender, mut receiver) = watch::channel(Reaping::default());
    tokio::spawn(async move {
        let mut held: Option<(GatewayLock, Instant)> = None;
        let mut told = false;
        let mut not_before: Option<Instant> = None;
        loop {
            let reaping = *receiver.borrow_and_update();
            let now = Instant::now();
            let resting = not_before.is_some_and(|at| now < at);
            if held.is_none() && reaping.wanted && !resting {
                match GatewayLock::try_take() {
                    Ok(lock) => held = lock.map(|lock| (lock, now)),
                    Err(error) => {
                        tracing::warn!(%error, "whether a gateway runs here can't be told");
                        not_before = Some(now + PAUSE);
                    }
                }
            }
            let too_long = held.as_ref().is_some_and(|(_, at)| now > *at + LONGEST);
            if too_long && reaping.wanted {
                not_before = Some(now + PAUSE);
            }
            let tell = held.is_some() && reaping.wanted && !too_long;
            if tell != told {
                if inputs.send(Input::GatewayLock(tell)).await.is_err() {
                    return;
                }
                told = tell;
            } else if !told && !reaping.counted_on {
                held = None;
            }
            // A plan that has not heard yet comes soon, and wakes this.
            let wait = if held.is_some() || reaping.wanted {
                TRY
            } else {
                Duration::MAX
            };
            match timeout(wait, receiver.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return,
            }
        }
    });
    sender
}
