//! Makes a host plan true: reads a [`Host`] from the kernel and carries out [`Change`]s, over netlink.
//!
//! [`Kernel`] belongs to the network namespace of the thread that made it, and must be used on threads of
//! that namespace: its sockets keep theirs, but `/proc/sys/net` is the calling thread's.
//! No helper programs are run. Requests block for as long as the kernel works on them; between them other tasks
//! of the runtime get their turn.

mod address;
mod apply;
mod conntrack;
mod error;
#[cfg(test)]
mod hostile;
mod ipset;
mod leftovers;
mod legacy;
mod link;
mod neighbour;
mod nft;
mod observe;
mod reconciler;
mod route;
mod rule;
mod socket;
mod sysctl;
mod tcp;
mod watch;
mod wire;
pub mod wireguard;

use std::collections::BTreeSet;

pub use conntrack::{Flow, Tuple};
pub use error::{Error, Failure};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
pub use reconciler::{Outcome, Reconciler};
use strait_host::leftovers::{Backend, Found, Names, XtTable};
use strait_host::nft::TableId;
use strait_host::{Change, Family, Filtering, Host};
pub use tcp::TcpSocket;
pub use watch::{Event, Watch};

use crate::apply::Pass;
use crate::socket::Socket;

/// Changes between two turns of other tasks.
const TURN: usize = 64;

/// The networking of one namespace.
#[derive(Debug)]
pub struct Kernel {
    rt: Socket,
    nf: Socket,
    /// Opened when it is needed first.
    diag: Option<Socket>,
}

impl Kernel {
    /// Opens sockets in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Open`] if the kernel has no netlink or the process no descriptors left.
    #[expect(
        clippy::unused_async,
        reason = "callers need not change if it ever waits"
    )]
    pub async fn connect() -> Result<Self, Error> {
        Ok(Self {
            rt: Socket::open(NETLINK_ROUTE)?,
            nf: Socket::open(NETLINK_NETFILTER)?,
            diag: None,
        })
    }

    /// Reads the whole host; of nftables, the tables asked for.
    ///
    /// # Errors
    /// [`Error::Unsteady`] if something changed during each of several attempts, else what the kernel says.
    pub async fn observe(&mut self, tables: &BTreeSet<TableId>) -> Result<Host, Error> {
        tokio::task::yield_now().await;
        observe::observe(&mut self.rt, &mut self.nf, tables)
    }

    /// Carries out changes in the given order, and goes on after failures.
    ///
    /// If an nftables transaction fails, the unicast routes after it are not added ([`Error::Skipped`]): a flow
    /// that starts before its NAT rule keeps a wrong binding. What is to be removed and is gone already is no failure.
    pub async fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let mut failures = Vec::new();
        let mut pass = Pass::new(&mut self.rt, &mut self.nf, changes);
        for (at, change) in changes.iter().enumerate() {
            if at % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            failures.extend(pass.make(change));
        }
        failures
    }

    /// The tracked connections of both families.
    ///
    /// # Errors
    /// What the kernel says; it may have no connection tracking.
    pub async fn flows(&mut self) -> Result<Vec<Flow>, Error> {
        self.flows_if(&Family::ALL.into(), |_| true).await
    }

    /// The tracked connections of these families that `keep` wants; the others are not held in memory.
    ///
    /// It blocks for as long as the kernel walks its table, which may be long: not for a thread that others wait for.
    ///
    /// # Errors
    /// As [`Kernel::flows`].
    pub async fn flows_if(
        &mut self,
        families: &BTreeSet<Family>,
        keep: impl FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, Error> {
        tokio::task::yield_now().await;
        conntrack::list(&mut self.nf, families, keep)
    }

    /// Makes the kernel forget a connection: its next packet begins a new one, under the rules of that moment.
    /// That it is gone already is no failure.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn delete_flow(&mut self, flow: &Flow) -> Result<(), Error> {
        tokio::task::yield_now().await;
        conntrack::delete(&mut self.nf, flow)
    }

    /// What filters packets here, whoever made it, and what the rules of a table have counted; of rules with the same
    /// comment, the sum.
    ///
    /// # Errors
    /// [`Error::Unsteady`] if the rules changed during each of several attempts, else what the kernel says.
    pub async fn filtering(&mut self, table: &TableId) -> Result<Filtering, Error> {
        tokio::task::yield_now().await;
        Ok(Filtering {
            chains: nft::base_chains(&mut self.nf)?,
            legacy: Family::ALL
                .into_iter()
                .filter(|family| legacy::tables(*family).contains("filter"))
                .collect(),
            legacy_early: Family::ALL
                .into_iter()
                .flat_map(|family| legacy::early_tables(family).map(move |name| (family, name)))
                .collect(),
            counted: nft::counters(&mut self.nf, table)?,
        })
    }

    /// What is in packet filters under these names, whoever made it.
    ///
    /// # Errors
    /// What the kernel says. Tables of legacy iptables that can't be read are part of the answer.
    pub async fn leftovers(&mut self, names: &Names) -> Result<Found, Error> {
        tokio::task::yield_now().await;
        leftovers::find(&mut self.nf, names)
    }

    /// Removes chains of iptables with the rules in them, and every rule of the same table that jumps there. That
    /// they are gone already is no failure.
    ///
    /// # Errors
    /// What the kernel says. Nothing of the table has changed then.
    pub async fn remove_chains(
        &mut self,
        table: &XtTable,
        chains: &BTreeSet<String>,
    ) -> Result<(), Error> {
        tokio::task::yield_now().await;
        match table.backend {
            Backend::Nft => nft::remove_chains(&mut self.nf, table, chains),
            Backend::Legacy => legacy::remove(table, chains),
        }
    }

    /// Removes an nftables table, whoever made it. That it is gone already is no failure.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove_table(&mut self, table: &TableId) -> Result<(), Error> {
        tokio::task::yield_now().await;
        nft::remove_table(&mut self.nf, table)
    }

    /// Removes a set of ipset. That it is gone already is no failure.
    ///
    /// # Errors
    /// What the kernel says; a set that a rule refers to can't be removed.
    pub async fn remove_set(&mut self, name: &str) -> Result<(), Error> {
        tokio::task::yield_now().await;
        ipset::destroy(&mut self.nf, name)
    }

    /// The TCP sockets of both families that have, or seek, another end, and that `keep` wants.
    ///
    /// # Errors
    /// What the kernel says; it may have been built without `CONFIG_INET_DIAG` (`ENOENT`).
    pub async fn tcp_sockets_if(
        &mut self,
        keep: impl FnMut(&TcpSocket) -> bool,
    ) -> Result<Vec<TcpSocket>, Error> {
        tokio::task::yield_now().await;
        tcp::list(self.diag()?, keep)
    }

    /// Ends a socket: its owner gets `ECONNABORTED` at once, the other end a reset. That it is gone already is no failure.
    ///
    /// # Errors
    /// What the kernel says; `EOPNOTSUPP` if it was built without `CONFIG_INET_DIAG_DESTROY`.
    pub async fn end_tcp_socket(&mut self, socket: &TcpSocket) -> Result<(), Error> {
        tokio::task::yield_now().await;
        tcp::end(self.diag()?, socket)
    }

    fn diag(&mut self) -> Result<&mut Socket, Error> {
        match &mut self.diag {
            Some(open) => Ok(open),
            none => Ok(none.insert(Socket::open(NETLINK_SOCK_DIAG)?)),
        }
    }

    /// Listens for changes, whoever makes them, on sockets of its own.
    ///
    /// # Errors
    /// [`Error::Open`] if there are no descriptors left, or no runtime runs.
    pub fn watch(&self) -> Result<Watch, Error> {
        Watch::open()
    }
}
