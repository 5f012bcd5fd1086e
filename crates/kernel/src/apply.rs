//! Carrying out changes.

use std::collections::BTreeMap;

use strait_host::{Change, Family, Route, Stage};

use crate::error::{Error, Failure};
use crate::socket::Socket;
use crate::{address, link, neighbour, nft, route, rule, sysctl};

/// One pass of changes.
pub(crate) struct Pass<'a> {
    rt: &'a mut Socket,
    nf: &'a mut Socket,
    changes: &'a [Change],
    /// Indexes of links, as far as they were needed; a link made anew gets another.
    indexes: BTreeMap<String, u32>,
    nft_failed: bool,
}

impl<'a> Pass<'a> {
    pub(crate) fn new(rt: &'a mut Socket, nf: &'a mut Socket, changes: &'a [Change]) -> Self {
        Self {
            rt,
            nf,
            changes,
            indexes: BTreeMap::new(),
            nft_failed: false,
        }
    }

    /// Makes one change; what it returns is its failure.
    pub(crate) fn make(&mut self, change: &Change) -> Option<Failure> {
        let answer = if self.nft_failed && change.stage() == Stage::Routes {
            Err(Error::Skipped)
        } else {
            self.carry_out(change)
        };
        let error = answer.err()?;
        self.nft_failed |= matches!(change, Change::Nft(_));
        Some(Failure {
            change: change.clone(),
            error,
        })
    }

    fn carry_out(&mut self, change: &Change) -> Result<(), Error> {
        match change {
            Change::CreateLink(name, link) => {
                self.indexes.remove(name);
                link::create(self.rt, name, link)
            }
            Change::ChangeLink(name, link) => link::change(self.rt, name, link),
            Change::RemoveLink(name) => {
                self.indexes.remove(name);
                link::remove(self.rt, name)
            }
            Change::AddAddress(a) => {
                let index = self.index(&a.link)?;
                address::add(self.rt, index, a)
            }
            Change::RemoveAddress(a) => self.remove_address(a),
            Change::SetNeighbour(n) => {
                let index = self.index(&n.link)?;
                neighbour::set(self.rt, index, n)
            }
            Change::RemoveNeighbour(n) => match self.index(&n.link) {
                Ok(index) => neighbour::remove(self.rt, index, n),
                other => gone(other),
            },
            Change::SetFdb(f) => {
                let index = self.index(&f.link)?;
                neighbour::set_fdb(self.rt, index, f)
            }
            Change::RemoveFdb(f) => match self.index(&f.link) {
                Ok(index) => neighbour::remove_fdb(self.rt, index, f),
                other => gone(other),
            },
            Change::Nft(ops) => nft::commit(self.nf, ops),
            Change::SetAccepts(table, chain, rules) => {
                nft::set_accepts(self.nf, table, chain, rules)
            }
            Change::SetSysctl(path, value) => sysctl::set(path, value),
            Change::SetRoute(route) => {
                let indexes = self.hop_indexes(route)?;
                route::set(self.rt, route, &indexes)
            }
            Change::RemoveRoute(route) => match self.hop_indexes(route) {
                Ok(indexes) => route::remove(self.rt, route, &indexes),
                other => gone(other),
            },
            Change::AddRule(rule) => rule::add(self.rt, rule),
            Change::RemoveRule(rule) => rule::remove(self.rt, rule),
        }
    }

    fn remove_address(&mut self, address: &strait_host::Address) -> Result<(), Error> {
        let replaced = |other: &Change| matches!(other, Change::AddAddress(new) if new.link == address.link && same(new, address));
        if self.changes.iter().any(replaced) {
            return Ok(());
        }
        let index = match self.index(&address.link) {
            Ok(index) => index,
            other => return gone(other),
        };
        if Family::of_net(&address.net) == Family::V4 {
            // Otherwise the kernel takes the other addresses of the prefix with its first one.
            let path = format!("net/ipv4/conf/{}/promote_secondaries", address.link);
            gone(sysctl::set(&path, "1"))?;
        }
        address::remove(self.rt, index, address)
    }

    fn index(&mut self, name: &str) -> Result<u32, Error> {
        if let Some(index) = self.indexes.get(name) {
            return Ok(*index);
        }
        let index = link::index(self.rt, name)?;
        self.indexes.insert(name.to_owned(), index);
        Ok(index)
    }

    fn hop_indexes(&mut self, route: &Route) -> Result<route::Indexes, Error> {
        let hops = route.hops().iter();
        hops.map(|hop| hop.dev.as_ref().map_or(Ok(0), |dev| self.index(dev)))
            .collect()
    }
}

/// What hung on a link that is gone is gone with it.
fn gone<T>(answer: Result<T, Error>) -> Result<(), Error> {
    match answer {
        Ok(_) | Err(Error::NoLink(_) | Error::NoSysctl(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Whether the kernel can't hold both: adding the one has replaced the other.
fn same(new: &strait_host::Address, old: &strait_host::Address) -> bool {
    match Family::of_net(&old.net) {
        Family::V4 => new.net == old.net,
        Family::V6 => new.net.addr() == old.net.addr(),
    }
}
