//! Expressions: what the kernel's machine runs. One register holds all that a statement of ours needs.

use crate::nft::message::{DATA_VALUE, DATA_VERDICT};
use crate::wire::{Attrs, Request, be32_of, text_of};

/// `NFTA_EXPR_*`.
const NAME: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_VERDICT_*`.
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFTA_COUNTER_PACKETS`.
const COUNTER_PACKETS: u16 = 2;
/// `NFT_REG_VERDICT` and `NFT_REG_1`.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;

/// One expression. Those that load and look at a value use `NFT_REG_1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Bytes of the packet.
    Payload { base: u32, offset: u32, len: u32 },
    /// Something about the packet (`NFT_META_*`).
    Meta(u32),
    /// Something about the connection (`NFT_CT_*`).
    Connection(u32),
    /// A look into the routing tables (`NFT_FIB_RESULT_*`, `NFTA_FIB_F_*`).
    Fib { result: u32, flags: u32 },
    /// Something about the packet's route (`NFT_RT_*`).
    Route(u32),
    /// Masks the value.
    Mask(Vec<u8>),
    /// Masks the value, then flips bits of it.
    MaskFlip { mask: Vec<u8>, flip: Vec<u8> },
    /// Goes on if the value is (not) this.
    Compare { negated: bool, value: Vec<u8> },
    /// Goes on if the value is (not) in a set.
    Lookup { set: String, negated: bool },
    /// Puts what a map gives for the value in its place.
    Map(String),
    /// A constant.
    Constant(Vec<u8>),
    /// A verdict, with the chain of a jump.
    Verdict { code: i32, chain: Option<String> },
    /// Source NAT to the address in the register.
    Snat { family: u32 },
    /// Writes the value to the packet's mark.
    SetMark,
    /// Turns 2 bytes to network order.
    NetworkOrder16,
    /// Writes 2 bytes of the TCP option "maximum segment size".
    WriteMss,
    /// Counts.
    Counter,
    /// Anything else, by its name and attributes.
    Other(String),
}

impl Expression {
    /// Appends it to a list of expressions.
    pub(super) fn encode(&self, list: &mut Request) {
        list.nest(super::message::LIST_ELEMENT, |element| {
            element.text(NAME, self.name());
            element.nest(DATA, |data| self.encode_data(data));
        });
    }

    fn name(&self) -> &str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta(_) | Self::SetMark => "meta",
            Self::Connection(_) => "ct",
            Self::Fib { .. } => "fib",
            Self::Route(_) => "rt",
            Self::Mask(_) | Self::MaskFlip { .. } => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Lookup { .. } | Self::Map(_) => "lookup",
            Self::Constant(_) | Self::Verdict { .. } => "immediate",
            Self::Snat { .. } => "nat",
            Self::NetworkOrder16 => "byteorder",
            Self::WriteMss => "exthdr",
            Self::Counter => "counter",
            Self::Other(name) => name,
        }
    }

    fn encode_data(&self, d: &mut Request) {
        let value = |d: &mut Request, kind: u16, bytes: &[u8]| {
            d.nest(kind, |nest| {
                nest.attr(DATA_VALUE, bytes);
            });
        };
        match self {
            Self::Payload { base, offset, len } => {
                d.be32(1, REGISTER)
                    .be32(2, *base)
                    .be32(3, *offset)
                    .be32(4, *len);
            }
            Self::Meta(key) | Self::Connection(key) | Self::Route(key) => {
                d.be32(1, REGISTER).be32(2, *key);
            }
            Self::Fib { result, flags } => {
                d.be32(1, REGISTER).be32(2, *result).be32(3, *flags);
            }
            Self::Mask(mask) => {
                d.be32(1, REGISTER).be32(2, REGISTER);
                d.be32(3, mask.len() as u32);
                value(d, 4, mask);
                value(d, 5, &vec![0; mask.len()]);
            }
            Self::MaskFlip { mask, flip } => {
                d.be32(1, REGISTER).be32(2, REGISTER);
                d.be32(3, mask.len() as u32);
                value(d, 4, mask);
                value(d, 5, flip);
            }
            Self::Compare { negated, value: v } => {
                d.be32(1, REGISTER).be32(2, u32::from(*negated));
                value(d, 3, v);
            }
            Self::Lookup { set, negated } => {
                d.text(1, set)
                    .be32(2, REGISTER)
                    .be32(5, u32::from(*negated));
            }
            Self::Map(map) => {
                d.text(1, map).be32(2, REGISTER).be32(3, REGISTER);
            }
            Self::Constant(v) => {
                d.be32(1, REGISTER);
                value(d, 2, v);
            }
            Self::Verdict { code, chain } => {
                d.be32(1, VERDICT).nest(2, |data| {
                    data.nest(DATA_VERDICT, |verdict| {
                        verdict.be32(VERDICT_CODE, code.cast_unsigned());
                        if let Some(chain) = chain {
                            verdict.text(VERDICT_CHAIN, chain);
                        }
                    });
                });
            }
            Self::Snat { family } => {
                d.be32(1, libc::NFT_NAT_SNAT as u32)
                    .be32(2, *family)
                    .be32(3, REGISTER);
            }
            Self::SetMark => {
                d.be32(2, libc::NFT_META_MARK as u32).be32(3, REGISTER);
            }
            Self::NetworkOrder16 => {
                d.be32(1, REGISTER).be32(2, REGISTER);
                d.be32(3, HTON).be32(4, 2).be32(5, 2);
            }
            Self::WriteMss => {
                d.u8(2, TCP_OPTION_MSS).be32(3, 2).be32(4, 2);
                d.be32(6, EXTHDR_TCP_OPTION).be32(7, REGISTER);
            }
            Self::Counter | Self::Other(_) => {}
        }
    }

    /// Reads a list of expressions.
    pub(super) fn decode_all(list: Attrs<'_>) -> Vec<Self> {
        list.map(|(_, one)| Self::decode(Attrs(one))).collect()
    }

    fn decode(one: Attrs<'_>) -> Self {
        let name = one.find(NAME).map(text_of).unwrap_or_default();
        let data = one.inside(DATA).unwrap_or(Attrs(&[]));
        decode_data(&name, Data(data)).unwrap_or_else(|| Self::Other(words(&name, data)))
    }
}

/// `NFT_BYTEORDER_HTON`, `NFT_EXTHDR_OP_TCPOPT`, and the kind of the option (RFC 9293, section 3.1).
const HTON: u32 = 1;
const EXTHDR_TCP_OPTION: u32 = 1;
const TCP_OPTION_MSS: u8 = 2;
/// `NF_NAT_RANGE_MAP_IPS`, which the kernel adds itself.
const MAP_IPS: u32 = 1;

/// The attributes of an expression.
#[derive(Clone, Copy)]
struct Data<'a>(Attrs<'a>);

impl Data<'_> {
    fn number(self, kind: u16) -> Option<u32> {
        self.0.find(kind).and_then(be32_of)
    }

    fn is(self, kind: u16, value: u32) -> Option<()> {
        (self.number(kind) == Some(value)).then_some(())
    }

    fn value(self, kind: u16) -> Option<Vec<u8>> {
        Some(self.0.inside(kind)?.find(DATA_VALUE)?.to_vec())
    }

    fn only(mut self, kinds: &[u16]) -> Option<()> {
        self.0.all(|(kind, _)| kinds.contains(&kind)).then_some(())
    }
}

fn decode_data(name: &str, d: Data<'_>) -> Option<Expression> {
    Some(match name {
        "payload" => {
            d.is(1, REGISTER)?;
            Expression::Payload {
                base: d.number(2)?,
                offset: d.number(3)?,
                len: d.number(4)?,
            }
        }
        "meta" if d.number(3).is_some() => {
            d.is(3, REGISTER)?;
            d.is(2, libc::NFT_META_MARK as u32)?;
            Expression::SetMark
        }
        "meta" => {
            d.is(1, REGISTER)?;
            Expression::Meta(d.number(2)?)
        }
        "ct" => {
            d.is(1, REGISTER)?;
            d.only(&[1, 2])?;
            Expression::Connection(d.number(2)?)
        }
        "fib" => {
            d.is(1, REGISTER)?;
            Expression::Fib {
                result: d.number(2)?,
                flags: d.number(3)?,
            }
        }
        "rt" => {
            d.is(1, REGISTER)?;
            Expression::Route(d.number(2)?)
        }
        "bitwise" => mask(d)?,
        "cmp" => {
            d.is(1, REGISTER)?;
            Expression::Compare {
                negated: match d.number(2)?.cast_signed() {
                    libc::NFT_CMP_EQ => false,
                    libc::NFT_CMP_NEQ => true,
                    _ => return None,
                },
                value: d.value(3)?,
            }
        }
        "lookup" => lookup(d)?,
        "immediate" => immediate(d)?,
        "nat" => {
            d.is(1, libc::NFT_NAT_SNAT as u32)?;
            d.is(3, REGISTER)?;
            d.only(&[1, 2, 3, 4, 7])?;
            let plain = d.number(4).unwrap_or(REGISTER) == REGISTER
                && d.number(7).unwrap_or(MAP_IPS) == MAP_IPS;
            plain.then_some(())?;
            Expression::Snat {
                family: d.number(2)?,
            }
        }
        "byteorder" => {
            d.is(1, REGISTER)?;
            d.is(2, REGISTER)?;
            d.is(3, HTON)?;
            d.is(4, 2)?;
            d.is(5, 2)?;
            Expression::NetworkOrder16
        }
        "exthdr" => {
            d.is(7, REGISTER)?;
            d.is(6, EXTHDR_TCP_OPTION)?;
            d.is(3, 2)?;
            d.is(4, 2)?;
            (d.0.find(2) == Some(&[TCP_OPTION_MSS])).then_some(())?;
            Expression::WriteMss
        }
        "counter" => Expression::Counter,
        _ => return None,
    })
}

fn mask(d: Data<'_>) -> Option<Expression> {
    d.is(1, REGISTER)?;
    d.is(2, REGISTER)?;
    // Shifts, and later operations of two registers, are other things.
    (d.number(6).unwrap_or(0) == 0).then_some(())?;
    let (mask, flip) = (d.value(4)?, d.value(5)?);
    let len = d.number(3)? as usize;
    (len == mask.len() && len == flip.len()).then_some(())?;
    Some(if flip.iter().all(|b| *b == 0) {
        Expression::Mask(mask)
    } else {
        Expression::MaskFlip { mask, flip }
    })
}

fn lookup(d: Data<'_>) -> Option<Expression> {
    d.is(2, REGISTER)?;
    let set = text_of(d.0.find(1)?);
    let flags = d.number(5).unwrap_or_default();
    match d.number(3) {
        Some(REGISTER) if flags == 0 => Some(Expression::Map(set)),
        Some(_) => None,
        None if flags > 1 => None,
        None => Some(Expression::Lookup {
            set,
            negated: flags == 1,
        }),
    }
}

fn immediate(d: Data<'_>) -> Option<Expression> {
    if d.number(1)? == REGISTER {
        return d.value(2).map(Expression::Constant);
    }
    d.is(1, VERDICT)?;
    let verdict = d.0.inside(2)?.inside(DATA_VERDICT)?;
    Some(Expression::Verdict {
        code: verdict.find(VERDICT_CODE).and_then(be32_of)?.cast_signed(),
        chain: verdict.find(VERDICT_CHAIN).map(text_of),
    })
}

/// Packets that the counters among a rule's expressions have counted; `None` if there is none.
pub(super) fn counted(list: Attrs<'_>) -> Option<u64> {
    let counters = list.filter_map(|(_, one)| {
        let one = Attrs(one);
        (one.find(NAME).map(text_of)? == "counter").then_some(())?;
        let packets = one.inside(DATA)?.find(COUNTER_PACKETS)?;
        Some(u64::from_be_bytes(packets.try_into().ok()?))
    });
    counters.reduce(u64::saturating_add)
}

/// For whoever reads what was found in the place of a rule of ours.
fn words(name: &str, data: Attrs<'_>) -> String {
    use std::fmt::Write as _;
    let mut text = name.to_owned();
    for (kind, payload) in data {
        let _ = write!(text, " {kind}=");
        for byte in payload {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}
