//! Policy rules.

use std::collections::BTreeSet;

use ipnet::IpNet;
use nix::errno::Errno;
use strait_host::{Family, Rule};

use crate::error::{Error, tolerate};
use crate::socket::Socket;
use crate::wire::{Attrs, Message, Request, ip_of, octets, text_of, u32_of};

/// Length of `struct fib_rule_hdr`.
const FIXED: usize = 12;
/// `FRA_*` in linux/fib_rules.h.
const DST: u16 = 1;
const SRC: u16 = 2;
const LINK: u16 = 3;
const PRIORITY: u16 = 6;
const MARK: u16 = 10;
const SUPPRESS_GROUP: u16 = 13;
const SUPPRESS_LENGTH: u16 = 14;
const TABLE: u16 = 15;
const MASK: u16 = 16;
const PADDING: u16 = 18;
const PROTOCOL: u16 = 21;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;
/// What only says where a rule comes from or what it can't suppress.
const KNOWN: [u16; 10] = [
    DST,
    SRC,
    LINK,
    PRIORITY,
    MARK,
    SUPPRESS_GROUP,
    SUPPRESS_LENGTH,
    TABLE,
    MASK,
    PROTOCOL,
];

/// All rules that look up a table and select by nothing but source, destination, incoming link and mark.
pub(crate) fn list(socket: &mut Socket) -> Result<BTreeSet<Rule>, Error> {
    let mut rules = BTreeSet::new();
    for family in Family::ALL {
        let mut header = [0; FIXED];
        header[0] = number(family);
        let request = Request::new(libc::RTM_GETRULE, 0, &header);
        match socket.dump(&request, "rules") {
            Ok(messages) => rules.extend(messages.iter().filter_map(|m| decode(family, m))),
            // No rules of a family that the kernel was built without.
            Err(Error::Kernel {
                errno: Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP,
                ..
            }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(rules)
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

pub(crate) fn decode(family: Family, message: &Message) -> Option<Rule> {
    let [af, to_len, from_len, tos, table, _, _, action, flags @ ..] = message.fixed::<FIXED>()?;
    // The flag for a link that is gone apart, flags change what a rule means (`not`, `goto`).
    let plain = af == number(family) && action == TO_TABLE && tos == 0;
    if !plain || u32::from_ne_bytes(flags) & !0x8 != 0 {
        return None;
    }
    let attrs = message.attrs(FIXED);
    if { attrs }.any(|(kind, value)| selects_more(kind, value)) {
        return None;
    }
    let net = |kind, len| {
        let ip = attrs.find(kind).and_then(ip_of)?;
        IpNet::new(ip, len).ok()
    };
    Some(Rule {
        family,
        priority: number_of(attrs, PRIORITY).unwrap_or_default(),
        from: net(SRC, from_len),
        to: net(DST, to_len),
        link: attrs.find(LINK).map(text_of),
        mark: mark(attrs),
        table: number_of(attrs, TABLE).unwrap_or(u32::from(table)),
        protocol: attrs
            .find(PROTOCOL)
            .and_then(|p| p.first().copied())
            .unwrap_or_default(),
    })
}

fn selects_more(kind: u16, value: &[u8]) -> bool {
    match kind {
        // Always there; all ones suppress nothing.
        SUPPRESS_GROUP | SUPPRESS_LENGTH => u32_of(value) != Some(u32::MAX),
        PADDING => false,
        other => !KNOWN.contains(&other),
    }
}

fn mark(attrs: Attrs<'_>) -> Option<(u32, u32)> {
    match (number_of(attrs, MARK), number_of(attrs, MASK)) {
        (None, None) => None,
        (mark, mask) => Some((mark.unwrap_or_default(), mask.unwrap_or(u32::MAX))),
    }
}

fn number_of(attrs: Attrs<'_>, kind: u16) -> Option<u32> {
    attrs.find(kind).and_then(u32_of)
}

/// Adds a rule; that it is there already is fine.
pub(crate) fn add(socket: &mut Socket, rule: &Rule) -> Result<(), Error> {
    let operation = format_args!("add rule {}", Words(rule));
    let create = libc::NLM_F_CREATE;
    let request = encode(libc::RTM_NEWRULE, create | libc::NLM_F_EXCL, rule)?;
    match socket.tell(request, &operation) {
        // The kernel does not look at the protocol here: it may be somebody else's, who will take it away.
        Err(Error::Kernel {
            errno: Errno::EEXIST,
            ..
        }) if !list(socket)?.contains(rule) => {
            socket.tell(encode(libc::RTM_NEWRULE, create, rule)?, &operation)
        }
        answer => tolerate(answer, &[Errno::EEXIST]),
    }
}

/// Removes a rule, and no other one; that it is gone already is fine.
pub(crate) fn remove(socket: &mut Socket, rule: &Rule) -> Result<(), Error> {
    // What a request does not name matches all, and the first match goes: that may be a narrower rule of the same
    // priority and table, and of the same protocol unless that is 0. It is put back behind.
    let mut before = list(socket)?;
    for _ in 0..=before.len() {
        if !before.contains(rule) {
            break;
        }
        let request = encode(libc::RTM_DELRULE, 0, rule)?;
        let answer = socket.tell(request, &format_args!("remove rule {}", Words(rule)));
        tolerate(answer, &[Errno::ENOENT])?;
        let after = list(socket)?;
        let any = rule.protocol == 0;
        let same = |r: &&Rule| (any || r.protocol == rule.protocol) && r.priority == rule.priority;
        for lost in before
            .difference(&after)
            .filter(|r| *r != rule)
            .filter(same)
        {
            add(socket, lost)?;
        }
        before = after;
    }
    Ok(())
}

fn encode(kind: u16, flags: i32, rule: &Rule) -> Result<Request, Error> {
    let len = |net: Option<IpNet>| net.map_or(0, |n| n.prefix_len());
    let other = |net: &IpNet| Family::of_net(net) != rule.family;
    if rule.from.iter().chain(&rule.to).any(other) {
        return Err(Error::Unsupported(format!(
            "rule {} with a prefix of the other family",
            Words(rule)
        )));
    }
    let mut header = [0; FIXED];
    header[0] = number(rule.family);
    header[1] = len(rule.to);
    header[2] = len(rule.from);
    header[4] = u8::try_from(rule.table).unwrap_or_default();
    header[7] = TO_TABLE;
    let mut request = Request::new(kind, flags, &header);
    request
        .u32(PRIORITY, rule.priority)
        .u32(TABLE, rule.table)
        .u8(PROTOCOL, rule.protocol);
    if let Some(net) = rule.to {
        request.attr(DST, &octets(net.addr()));
    }
    if let Some(net) = rule.from {
        request.attr(SRC, &octets(net.addr()));
    }
    if let Some(link) = &rule.link {
        request.text(LINK, link);
    }
    if let Some((mark, mask)) = rule.mark {
        request.u32(MARK, mark).u32(MASK, mask);
    }
    Ok(request)
}

/// A rule in the words of `ip rule`.
struct Words<'a>(&'a Rule);

impl std::fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rule = self.0;
        write!(f, "{} pref {}", rule.family, rule.priority)?;
        if let Some(from) = rule.from {
            write!(f, " from {from}")?;
        }
        if let Some(to) = rule.to {
            write!(f, " to {to}")?;
        }
        if let Some(link) = &rule.link {
            write!(f, " iif {link}")?;
        }
        if let Some((mark, mask)) = rule.mark {
            write!(f, " fwmark {mark:#x}/{mask:#x}")?;
        }
        write!(f, " lookup {}", rule.table)
    }
}
