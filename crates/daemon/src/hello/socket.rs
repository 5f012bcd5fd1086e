//! The direct watch's sockets, which tell what no router has passed on.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use strait_core::hello::{Datagram, MAX_DATAGRAM};
use strait_host::Family;

use crate::underlay::{self, Purpose};
use crate::{Metrics, datagram};

/// The hop limit of what comes from a neighbour (RFC 5082).
const HOPS: u32 = 255;

static PURPOSE: Purpose = Purpose {
    name: "the direct watch",
    error: "HelloSocket",
    longest: MAX_DATAGRAM,
    hops: Some(HOPS),
    pause: Duration::from_secs(1),
};

/// The sockets of both families.
#[derive(Debug)]
pub struct Sockets {
    port: u16,
    sockets: underlay::Sockets,
    metrics: Metrics,
}

impl Sockets {
    /// None is open yet. `port` is 0 for any.
    #[must_use]
    pub fn new(port: u16, metrics: Metrics) -> Self {
        Self {
            port,
            sockets: underlay::Sockets::new(&PURPOSE, metrics.clone()),
            metrics,
        }
    }

    /// Opens those of the families of these addresses, as far as they can be; others stay.
    pub fn want<'a>(&mut self, addresses: impl IntoIterator<Item = &'a IpAddr>) {
        for ip in addresses {
            self.sockets.want(Family::of(*ip), Some(self.port));
        }
        self.open();
    }

    /// Opens what is wanted and not open.
    pub fn open(&mut self) {
        self.sockets.open();
    }

    /// When [`Sockets::open`] has something to do.
    #[must_use]
    pub fn retry_at(&self) -> Option<Instant> {
        self.sockets.retry_at()
    }

    /// Waits until there is something to read.
    pub async fn readable(&self) {
        self.sockets.readable().await;
    }

    /// Sends a datagram to all of its addresses. What can't be sent is counted: it is said again soon.
    pub fn send(&self, what: &Datagram) {
        for to in &what.to {
            let Some(socket) = self.sockets.socket(Family::of(to.ip())) else {
                continue;
            };
            if let Err(error) = datagram::send(socket, &what.bytes, *to, None) {
                tracing::trace!(%to, %error, "a hello can't be sent");
                self.metrics.error("HelloSend");
            }
        }
    }

    /// Gives what has come, with where from, and whether no router has passed it on.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8], SocketAddr, bool)) {
        self.sockets.receive(|arrived, _| {
            take(arrived.bytes, arrived.from, arrived.hops == Some(HOPS));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Plain;

    use strait_netns::Namespace;
    use tokio::time::timeout;

    use super::*;

    /// What arrives within a moment: the bytes, and whether they came from a neighbour.
    async fn arrived(sockets: &mut Sockets) -> Vec<(Vec<u8>, bool)> {
        let mut all = Vec::new();
        while timeout(Duration::from_millis(300), sockets.readable())
            .await
            .is_ok()
        {
            sockets.receive(|bytes, _, near| all.push((bytes.to_vec(), near)));
        }
        all
    }

    #[test]
    fn what_a_router_may_have_passed_on_is_told_from_what_comes_from_a_neighbour() {
        Namespace::new()
            .unwrap()
            .run_async(async || {
                let metrics = Metrics::new("test");
                let mut sockets = Sockets::new(4801, metrics.clone());
                let both: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
                sockets.want(&both);
                let mut node = Sockets::new(0, metrics);
                node.want(&both);
                for ip in both {
                    let to = SocketAddr::new(ip, 4801);
                    // A stranger whose packets begin with a usual hop limit.
                    let stranger = Plain::bind(SocketAddr::new(ip, 0)).unwrap();
                    stranger.send_to(b"far", to).unwrap();
                    node.send(&Datagram {
                        to: vec![to],
                        bytes: b"near".to_vec(),
                    });
                    let mut seen = arrived(&mut sockets).await;
                    seen.sort();
                    let expected = [(b"far".to_vec(), false), (b"near".to_vec(), true)];
                    assert_eq!(seen, expected, "{ip}");
                }
            })
            .unwrap();
    }
}
