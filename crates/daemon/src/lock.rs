//! The lock that a gateway holds as long as it runs, by which others know that there is none.
//!
//! It is an address of a Unix socket without a file: it belongs to the network namespace, as the cable does, so that the agents need no
//! directory in common, and the kernel frees it with the process, however that ends.

use std::future::pending;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Its name; `ss -xl` shows it as `@strait-gateway`.
const NAME: &str = "strait-gateway";
/// How long a gateway waits for it: who removes a dead one's cable holds it for less.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// The lock of the calling thread's network namespace, held until this is dropped.
#[derive(Debug)]
pub struct GatewayLock {
    _socket: UnixDatagram,
}

impl GatewayLock {
    /// Takes it; `None` while another process holds it.
    ///
    /// # Errors
    /// If there can be no such socket.
    pub fn try_take() -> io::Result<Option<Self>> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        match UnixDatagram::bind_addr(&address) {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, waiting for so long.
    ///
    /// # Errors
    /// As [`GatewayLock::try_take`].
    pub async fn within(limit: Duration) -> io::Result<Option<Self>> {
        let begun = Instant::now();
        loop {
            let lock = Self::try_take()?;
            if lock.is_some() || begun.elapsed() >= limit {
                return Ok(lock);
            }
            sleep(PAUSE).await;
        }
    }
}

/// Takes the lock for the rest of the process's life. One that somebody else holds keeps nobody from starting: it is
/// taken as soon as it is free.
pub async fn hold() {
    let (taken, wait) = oneshot::channel();
    tokio::spawn(async move {
        let _lock = loop {
            match GatewayLock::within(PATIENCE).await {
                Ok(Some(lock)) => break lock,
                Ok(None) => tracing::warn!(
                    "another process of this host holds the gateway's lock: does another gateway run here?"
                ),
                Err(error) => {
                    tracing::warn!(%error, "the gateway's lock can't be taken");
                    sleep(PATIENCE).await;
                }
            }
        };
        let _ = taken.send(());
        pending::<()>().await;
    });
    let _ = timeout(PATIENCE, wait).await;
}

#[cfg(test)]
mod tests {
    use strait_netns::Namespace;

    use super::*;

    #[test]
    fn one_process_of_a_namespace_holds_it_until_it_lets_go() {
        let (here, there) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let take = |namespace: &Namespace| namespace.run(GatewayLock::try_take).unwrap().unwrap();
        let first = take(&here);
        assert!(first.is_some());
        assert!(take(&here).is_none());
        assert!(take(&there).is_some());
        drop(first);
        assert!(take(&here).is_some());
    }

    #[test]
    fn who_holds_it_for_life_takes_it_as_soon_as_it_is_free() {
        Namespace::new()
            .unwrap()
            .run_async(async || {
                let other = GatewayLock::try_take().unwrap().unwrap();
                let freed = tokio::spawn(async move {
                    sleep(Duration::from_millis(100)).await;
                    drop(other);
                });
                hold().await;
                assert!(freed.is_finished());
                assert!(GatewayLock::try_take().unwrap().is_none());
            })
            .unwrap();
    }
}
