//! Statements to expressions, and back.
//!
//! Reading is checked by writing: what was recognised must lower to the very expressions that were read.

use std::net::IpAddr;

use ipnet::IpNet;
use strait_host::Family;
use strait_host::nft::{Field, Statement, Value};

use crate::error::Error;
use crate::nft::expression::Expression as E;
use crate::wire::{ip_of, octets, text_of};

/// `IFNAMSIZ`: a link's name with its final zero.
pub(super) const NAME: usize = 16;
/// `NFT_RT_TCPMSS`, `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_SADDR`.
const TCP_MSS: u32 = 3;
const ADDRESS_TYPE: u32 = 3;
const SOURCE: u32 = 1;
/// Every field that can be read back.
const FIELDS: [Field; 15] = [
    Field::InputLink,
    Field::OutputLink,
    Field::Protocol,
    Field::Transport,
    Field::Mark,
    Field::Source(Family::V4),
    Field::Source(Family::V6),
    Field::Destination(Family::V4),
    Field::Destination(Family::V6),
    Field::SourcePort,
    Field::DestinationPort,
    Field::TcpFlags,
    Field::IcmpType,
    Field::CtState,
    Field::SourceType,
];

/// The form in which the machine holds a field.
enum Form {
    /// A name of 16 bytes.
    Name,
    /// An address.
    Address(Family),
    /// A number of this many bytes, in host order.
    Host(usize),
    /// A number of 2 bytes, in network order.
    Network16,
}

fn form(field: Field) -> Form {
    match field {
        Field::InputLink | Field::OutputLink => Form::Name,
        Field::Protocol | Field::Transport | Field::TcpFlags | Field::IcmpType => Form::Host(1),
        Field::Mark | Field::CtState | Field::SourceType => Form::Host(4),
        Field::Source(family) | Field::Destination(family) => Form::Address(family),
        Field::SourcePort | Field::DestinationPort => Form::Network16,
    }
}

/// How a field comes into the register.
fn load(field: Field) -> E {
    let network = |offset, len| E::Payload {
        base: libc::NFT_PAYLOAD_NETWORK_HEADER as u32,
        offset,
        len,
    };
    let transport = |offset, len| E::Payload {
        base: libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32,
        offset,
        len,
    };
    match field {
        Field::InputLink => E::Meta(libc::NFT_META_IIFNAME as u32),
        Field::OutputLink => E::Meta(libc::NFT_META_OIFNAME as u32),
        Field::Protocol => E::Meta(libc::NFT_META_NFPROTO as u32),
        Field::Transport => E::Meta(libc::NFT_META_L4PROTO as u32),
        Field::Mark => E::Meta(libc::NFT_META_MARK as u32),
        // Offsets in the headers: RFC 791, section 3.1; RFC 8200, section 3; RFC 9293, section 3.1; RFC 792.
        Field::Source(Family::V4) => network(12, 4),
        Field::Source(Family::V6) => network(8, 16),
        Field::Destination(Family::V4) => network(16, 4),
        Field::Destination(Family::V6) => network(24, 16),
        Field::SourcePort => transport(0, 2),
        Field::DestinationPort => transport(2, 2),
        Field::TcpFlags => transport(13, 1),
        Field::IcmpType => transport(0, 1),
        Field::CtState => E::Connection(libc::NFT_CT_STATE as u32),
        Field::SourceType => E::Fib {
            result: ADDRESS_TYPE,
            flags: SOURCE,
        },
    }
}

/// A link's name as a key: shorter than the array, so that a zero ends it.
pub(super) fn name_bytes(name: &str) -> Result<Vec<u8>, Error> {
    if name.is_empty() || name.len() >= NAME || name.contains('\0') {
        return Err(Error::Unsupported(format!("'{name}' as a link's name")));
    }
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME, 0);
    Ok(bytes)
}

fn number_bytes(field: Field, number: u32) -> Result<Vec<u8>, Error> {
    let bad = || Error::Unsupported(format!("{number} as a value of {field:?}"));
    match form(field) {
        Form::Host(1) => Ok(vec![u8::try_from(number).map_err(|_| bad())?]),
        Form::Host(_) => Ok(number.to_ne_bytes().to_vec()),
        Form::Network16 => {
            let port = u16::try_from(number).map_err(|_| bad())?;
            Ok(port.to_be_bytes().to_vec())
        }
        Form::Name | Form::Address(_) => Err(bad()),
    }
}

fn value_bytes(field: Field, value: &Value) -> Result<Vec<u8>, Error> {
    match (value, form(field)) {
        (Value::Name(name), Form::Name) => name_bytes(name),
        (Value::Ip(ip), Form::Address(family)) if Family::of(*ip) == family => Ok(octets(*ip)),
        (Value::Number(number), _) => number_bytes(field, *number),
        (Value::Name(_) | Value::Ip(_), _) => Err(Error::Unsupported(format!(
            "{value:?} as a value of {field:?}"
        ))),
    }
}

fn number_of(field: Field, bytes: &[u8]) -> Option<u32> {
    match form(field) {
        Form::Host(1) => bytes.first().copied().map(u32::from),
        Form::Host(_) => Some(u32::from_ne_bytes(bytes.try_into().ok()?)),
        Form::Network16 => Some(u32::from(u16::from_be_bytes(bytes.try_into().ok()?))),
        Form::Name | Form::Address(_) => None,
    }
}

fn value_of(field: Field, bytes: &[u8]) -> Option<Value> {
    match form(field) {
        Form::Name => Some(Value::Name(text_of(bytes))),
        Form::Address(_) => ip_of(bytes).map(Value::Ip),
        Form::Host(_) | Form::Network16 => number_of(field, bytes).map(Value::Number),
    }
}

fn nat_family(family: Family) -> u32 {
    match family {
        Family::V4 => libc::NFPROTO_IPV4 as u32,
        Family::V6 => libc::NFPROTO_IPV6 as u32,
    }
}

fn verdict(code: i32) -> E {
    E::Verdict { code, chain: None }
}

/// Puts a statement into the machine's words.
pub(super) fn lower(statement: &Statement) -> Result<Vec<E>, Error> {
    let snat = |family| E::Snat {
        family: nat_family(family),
    };
    Ok(match statement {
        Statement::Match {
            field,
            mask,
            negated,
            value,
        } => {
            let mut all = vec![load(*field)];
            if let Some(mask) = mask {
                all.push(E::Mask(number_bytes(*field, *mask)?));
            }
            all.push(E::Compare {
                negated: *negated,
                value: value_bytes(*field, value)?,
            });
            all
        }
        Statement::Within { field, net } => {
            let mut all = vec![load(*field)];
            if net.prefix_len() < net.max_prefix_len() {
                all.push(E::Mask(octets(net.netmask())));
            }
            all.push(E::Compare {
                negated: false,
                value: value_bytes(*field, &Value::Ip(net.network()))?,
            });
            all
        }
        Statement::Lookup {
            field,
            negated,
            set,
        } => vec![
            load(*field),
            E::Lookup {
                set: set.clone(),
                negated: *negated,
            },
        ],
        Statement::Counter => vec![E::Counter],
        Statement::Accept => vec![verdict(libc::NF_ACCEPT)],
        Statement::Drop => vec![verdict(libc::NF_DROP)],
        Statement::Return => vec![verdict(libc::NFT_RETURN)],
        Statement::Jump(chain) => vec![E::Verdict {
            code: libc::NFT_JUMP,
            chain: Some(chain.clone()),
        }],
        Statement::SnatTo(ip) => vec![E::Constant(octets(*ip)), snat(Family::of(*ip))],
        Statement::SnatToSelf(family) => vec![load(Field::Source(*family)), snat(*family)],
        Statement::SnatToMap { family, field, map } => {
            vec![load(*field), E::Map(map.clone()), snat(*family)]
        }
        Statement::ClampMss => vec![E::Route(TCP_MSS), E::NetworkOrder16, E::WriteMss],
        Statement::SetMss(bytes) => vec![E::Constant(bytes.to_be_bytes().to_vec()), E::WriteMss],
        Statement::SetMark(mark) => vec![E::Constant(mark.to_ne_bytes().to_vec()), E::SetMark],
        Statement::SetMarkBits { mask, value } => {
            let keep = (!mask).to_ne_bytes().to_vec();
            let change = match value & mask {
                0 => E::Mask(keep),
                bits => E::MaskFlip {
                    mask: keep,
                    flip: bits.to_ne_bytes().to_vec(),
                },
            };
            vec![load(Field::Mark), change, E::SetMark]
        }
        Statement::Foreign(text) => {
            return Err(Error::Unsupported(format!("nftables expression {text}")));
        }
    })
}

/// Reads a rule's expressions as statements.
pub(super) fn raise(mut rest: &[E]) -> Vec<Statement> {
    let mut statements = Vec::new();
    while let [first, behind @ ..] = rest {
        let found = recognise(rest).and_then(|statement| {
            let same = lower(&statement).ok()?;
            let behind = rest.strip_prefix(same.as_slice())?;
            Some((statement, behind))
        });
        let (statement, behind) =
            found.unwrap_or_else(|| (Statement::Foreign(format!("{first:?}")), behind));
        statements.push(statement);
        rest = behind;
    }
    statements
}

/// The statement that begins with these expressions, as it seems.
fn recognise(rest: &[E]) -> Option<Statement> {
    let family = |number: u32| Family::ALL.into_iter().find(|f| nat_family(*f) == number);
    match rest {
        [E::Counter, ..] => return Some(Statement::Counter),
        [E::Route(TCP_MSS), ..] => return Some(Statement::ClampMss),
        [E::Verdict { code, chain }, ..] => {
            return match (*code, chain) {
                (libc::NF_ACCEPT, None) => Some(Statement::Accept),
                (libc::NF_DROP, None) => Some(Statement::Drop),
                (libc::NFT_RETURN, None) => Some(Statement::Return),
                (libc::NFT_JUMP, Some(chain)) => Some(Statement::Jump(chain.clone())),
                _ => None,
            };
        }
        [E::Constant(bytes), E::WriteMss, ..] => {
            let bytes = <[u8; 2]>::try_from(bytes.as_slice()).ok()?;
            return Some(Statement::SetMss(u16::from_be_bytes(bytes)));
        }
        [E::Constant(bytes), E::SetMark, ..] => {
            let mark = <[u8; 4]>::try_from(bytes.as_slice()).ok()?;
            return Some(Statement::SetMark(u32::from_ne_bytes(mark)));
        }
        [E::Constant(bytes), E::Snat { .. }, ..] => {
            return ip_of(bytes).map(|ip: IpAddr| Statement::SnatTo(ip));
        }
        _ => {}
    }
    let field = FIELDS
        .into_iter()
        .find(|f| Some(&load(*f)) == rest.first())?;
    match rest.get(1..)? {
        [E::Mask(keep), E::SetMark, ..] if field == Field::Mark => Some(Statement::SetMarkBits {
            mask: !number_of(field, keep)?,
            value: 0,
        }),
        [E::MaskFlip { mask, flip }, E::SetMark, ..] if field == Field::Mark => {
            Some(Statement::SetMarkBits {
                mask: !number_of(field, mask)?,
                value: number_of(field, flip)?,
            })
        }
        [E::Snat { family: number }, ..] => Some(Statement::SnatToSelf(family(*number)?)),
        [E::Map(map), E::Snat { family: number }, ..] => Some(Statement::SnatToMap {
            family: family(*number)?,
            field,
            map: map.clone(),
        }),
        [E::Lookup { set, negated }, ..] => Some(Statement::Lookup {
            field,
            negated: *negated,
            set: set.clone(),
        }),
        [E::Compare { negated, value }, ..] => Some(Statement::Match {
            field,
            mask: None,
            negated: *negated,
            value: value_of(field, value)?,
        }),
        [E::Mask(mask), E::Compare { value, .. }, ..]
            if matches!(form(field), Form::Address(_)) =>
        {
            let net = IpNet::with_netmask(ip_of(value)?, ip_of(mask)?).ok()?;
            Some(Statement::Within { field, net })
        }
        [E::Mask(mask), E::Compare { negated, value }, ..] => Some(Statement::Match {
            field,
            mask: Some(number_of(field, mask)?),
            negated: *negated,
            value: value_of(field, value)?,
        }),
        _ => None,
    }
}
