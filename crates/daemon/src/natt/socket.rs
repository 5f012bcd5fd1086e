//! The sockets of NAT discovery: one per family in which we have an address.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use strait_core::discovery::{Datagram, LONGEST, Own};
use strait_host::Family;
use tokio::net::UdpSocket;

use crate::underlay::{self, Purpose};
use crate::{Metrics, datagram};

static PURPOSE: Purpose = Purpose {
    name: "NAT discovery",
    error: "DiscoverySocket",
    longest: LONGEST,
    hops: None,
    pause: Duration::from_secs(5),
};

/// The sockets of both families.
pub(super) struct Sockets(underlay::Sockets);

/// How an answer is sent.
pub(super) type Send<'a> = &'a mut dyn FnMut(Datagram) -> io::Result<()>;

impl Sockets {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self(underlay::Sockets::new(&PURPOSE, metrics))
    }

    /// These ports are wanted.
    pub(super) fn set(&mut self, own: Option<&Own>) {
        for family in Family::ALL {
            let own = own.filter(|own| own.addresses.contains_key(&family));
            self.0.want(family, own.map(|own| own.port));
        }
    }

    /// Opens what is wanted and not open.
    pub(super) fn open(&mut self) {
        self.0.open();
    }

    /// When [`Sockets::open`] has something to do.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.0.retry_at()
    }

    /// Waits until there is something to read.
    pub(super) async fn readable(&self) {
        self.0.readable().await;
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn send(&mut self, datagram: &Datagram) -> io::Result<()> {
        match self.0.socket(Family::of(datagram.to.ip())) {
            Some(socket) => send(socket, datagram),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Gives what has come, with where from and to which of our addresses: answers leave from that. One longer than any that is looked
    /// at is cut off after one byte more.
    pub(super) fn receive(
        &mut self,
        mut take: impl FnMut(&[u8], SocketAddr, Option<IpAddr>, Send<'_>),
    ) {
        self.0.receive(|arrived, socket| {
            let mut answer = |datagram| send(socket, &datagram);
            take(arrived.bytes, arrived.from, arrived.to, &mut answer);
        });
    }
}

fn send(socket: &UdpSocket, datagram: &Datagram) -> io::Result<()> {
    // What is lost is sent again.
    datagram::send(socket, &datagram.bytes, datagram.to, datagram.from)
}
