//! The difference: applied it gives what is wanted, equals give none, foreign objects are never in it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod conflicts;
mod filters;
mod predecessors;
mod random;

use std::net::IpAddr;

use ipnet::IpNet;
use strait_host::nft::{TableFamily, TableId};
use strait_host::{Address, Link, LinkKind, Mac, Owned, Owner, Scope, Vxlan, Wanted};

const OURS: u8 = 83;
const THEIRS: u8 = 4;

fn owner() -> Owner {
    Owner {
        alias: "strait".into(),
        links: ["vx0".to_owned(), "vx1".to_owned()].into(),
        route_protocol: Some(OURS),
        rule_protocol: Some(OURS),
        tables: [table_id("strait")].into(),
        former_chains: ["source".to_owned(), "extra".to_owned()].into(),
    }
}

fn table_id(name: &str) -> TableId {
    TableId {
        family: TableFamily::Inet,
        name: name.into(),
    }
}

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn net(n: u8) -> IpNet {
    format!("10.{n}.0.0/16").parse().unwrap()
}

fn plain_link(alias: Option<&str>, vni: u32) -> Link {
    Link {
        kind: LinkKind::Vxlan(Vxlan {
            vni,
            port: 4800,
            local: Some(ip(1)),
            remote: None,
            learning: false,
        }),
        mtu: 1450,
        up: true,
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        alias: alias.map(str::to_owned),
        master: None,
    }
}

fn wanting(link: Link) -> Wanted {
    let address = Address {
        link: "vx0".into(),
        net: "240.0.0.1/8".parse().unwrap(),
        scope: Scope::Global,
    };
    Wanted {
        links: Owned::Set([("vx0".to_owned(), link)].into()),
        addresses: Owned::Set([address].into()),
        ..Wanted::default()
    }
}

fn other_link() -> Link {
    Link {
        kind: LinkKind::Bridge,
        mtu: 1500,
        up: true,
        mac: None,
        alias: None,
        master: None,
    }
}
