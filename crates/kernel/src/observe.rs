//! Reading the whole host.

use std::collections::{BTreeMap, BTreeSet};

use strait_host::nft::TableId;
use strait_host::{Family, Host, LinkKind};

use crate::error::Error;
use crate::socket::Socket;
use crate::wire::Message;
use crate::{address, legacy, link, neighbour, nft, route, rule, sysctl};

/// Reads everything once.
pub(crate) fn observe(
    rt: &mut Socket,
    nf: &mut Socket,
    tables: &BTreeSet<TableId>,
) -> Result<Host, Error> {
    // The links come first: all else is named after them. What belongs to a link that appears
    // afterwards is left out; the link's own event brings the next look.
    let links = link::list(rt)?;
    let names: BTreeMap<u32, String> = links.iter().map(|l| (l.index, l.name.clone())).collect();
    let vxlans = links
        .iter()
        .filter(|l| matches!(l.link.kind, LinkKind::Vxlan(_)))
        .map(|l| (l.index, l.name.clone()))
        .collect();
    let chains = nft::all_chains(nf)?;
    Ok(Host {
        addresses: address::list(rt, &names)?,
        routes: route::list(rt, &names)?,
        rules: rule::list(rt)?,
        neighbours: neighbour::list(rt, &names)?,
        fdb: neighbour::list_fdb(rt, &vxlans)?,
        sysctls: sysctl::list(names.values()),
        nft: nft::list(nf, tables)?,
        filters: nft::list_accepts(nf, &chains)?,
        source_checks: source_checks(nf, &chains)?,
        links: links.into_iter().map(|l| (l.name, l.link)).collect(),
    })
}

/// Reverse-path filters of others, of every kind.
fn source_checks(nf: &mut Socket, chains: &[Message]) -> Result<BTreeSet<Family>, Error> {
    let mut all = nft::source_checks(nf, chains)?;
    let legacy = Family::ALL.into_iter();
    all.extend(legacy.filter(|family| legacy::checks_sources(*family)));
    Ok(all)
}
