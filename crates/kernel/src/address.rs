//! Addresses of links.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use nix::errno::Errno;
use strait_host::{Address, Family, Scope};

use crate::error::{Error, tolerate};
use crate::socket::Socket;
use crate::wire::{Message, Request, family_of, ip_of, u32_of};

/// Length of `struct ifaddrmsg`.
const FIXED: usize = 8;
/// `IFA_*` in linux/if_addr.h.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;

/// All addresses, also tentative ones and duplicates: an address that does not work yet is there all the same,
/// and adding it again would be refused.
pub(crate) fn list(
    socket: &mut Socket,
    names: &BTreeMap<u32, String>,
) -> Result<BTreeSet<Address>, Error> {
    let request = Request::new(libc::RTM_GETADDR, 0, &[0; FIXED]);
    let messages = socket.dump(&request, "addresses")?;
    Ok(messages.iter().filter_map(|m| decode(m, names)).collect())
}

/// The index of the link in a message about an address.
pub(crate) fn index_of(message: &Message) -> Option<u32> {
    u32_of(&message.fixed::<FIXED>()?[4..])
}

pub(crate) fn decode(message: &Message, names: &BTreeMap<u32, String>) -> Option<Address> {
    let header = message.fixed::<FIXED>()?;
    let attrs = message.attrs(FIXED);
    // On a link with a peer, IFA_ADDRESS is the other end.
    let ip = attrs.find(LOCAL).or_else(|| attrs.find(ADDRESS));
    Some(Address {
        link: names.get(&index_of(message)?)?.clone(),
        net: IpNet::new(ip.and_then(ip_of)?, header[1]).ok()?,
        scope: match header[3] {
            libc::RT_SCOPE_HOST => Scope::Host,
            libc::RT_SCOPE_LINK => Scope::Link,
            _ => Scope::Global,
        },
    })
}

/// Adds an address, without duplicate address detection: ours are unique by construction, and a tentative address
/// can't be a source.
pub(crate) fn add(socket: &mut Socket, index: u32, address: &Address) -> Result<(), Error> {
    let answer = create(socket, index, address);
    let taken = matches!(
        &answer,
        Err(Error::Kernel {
            errno: Errno::EEXIST,
            ..
        })
    );
    if !taken {
        return answer;
    }
    // The kernel counts as the same what differs in scope, or for IPv6 in prefix length, and changes neither.
    let names = BTreeMap::from([(index, address.link.clone())]);
    let same = |a: &&Address| match Family::of_net(&address.net) {
        Family::V4 => a.net == address.net,
        Family::V6 => a.net.addr() == address.net.addr(),
    };
    let there = list(socket, &names)?;
    if there.contains(address) {
        return Ok(());
    }
    for old in there.iter().filter(same) {
        remove(socket, index, old)?;
    }
    create(socket, index, address)
}

fn create(socket: &mut Socket, index: u32, address: &Address) -> Result<(), Error> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let request = encode(libc::RTM_NEWADDR, flags, index, address);
    let Address { link, net, .. } = address;
    socket.tell(request, &format_args!("add address {net} to {link}"))
}

/// Removes an address; that it is gone already is fine.
pub(crate) fn remove(socket: &mut Socket, index: u32, address: &Address) -> Result<(), Error> {
    let request = encode(libc::RTM_DELADDR, 0, index, address);
    let Address { link, net, .. } = address;
    let answer = socket.tell(request, &format_args!("remove address {net} from {link}"));
    tolerate(answer, &[Errno::EADDRNOTAVAIL, Errno::ENODEV])
}

fn encode(kind: u16, flags: i32, index: u32, address: &Address) -> Request {
    let ip = address.net.addr();
    let scope = match address.scope {
        Scope::Global => libc::RT_SCOPE_UNIVERSE,
        Scope::Link => libc::RT_SCOPE_LINK,
        Scope::Host => libc::RT_SCOPE_HOST,
    };
    let no_dad = match Family::of(ip) {
        Family::V4 => 0,
        Family::V6 => libc::IFA_F_NODAD as u8,
    };
    let mut header = [0; FIXED];
    header[0] = family_of(ip);
    header[1] = address.net.prefix_len();
    header[2] = no_dad;
    header[3] = scope;
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let mut request = Request::new(kind, flags, &header);
    request.ip(LOCAL, ip).ip(ADDRESS, ip);
    request
}
